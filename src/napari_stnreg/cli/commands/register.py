"""``stnreg register``: fit a transform and write the result."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from napari_stnreg.cli.exit_code import ExitCode
from napari_stnreg.cli.options import Annotations, AsOptions, AsSettings, Config, Frame, Output, Placement, merge_config
from napari_stnreg.cli.progress import PROGRESS, Interrupt, ProgressDisplay, logger
from napari_stnreg.core.atomic_io import write_json
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.progress import run_to_completion
from napari_stnreg.registration.settings import RegistrationSettings

if TYPE_CHECKING:
    from napari_stnreg.cli.outputs import ResultFolder
    from napari_stnreg.core.image import Image
    from napari_stnreg.registration.result import Progress, Result


def register(
    fixed: Path,
    moving: Path,
    /,
    *,
    output: Output,
    overwrite: bool = False,
    accept: bool = False,
    config: Config = None,
    settings: Annotated[RegistrationSettings, AsSettings] = RegistrationSettings(),  # noqa: B008
    annotations: Annotated[Annotations, AsOptions] = Annotations(),  # noqa: B008
    start_transform: Path | None = None,
    frame: Frame = None,
    all_frames: Annotated[bool, Parameter(group="Reading")] = False,
    fixed_frame: Frame = None,
    placement: Annotated[Placement, AsOptions] = Placement(),  # noqa: B008
) -> int:
    """Register one image to another.

    Find the transform that takes MOVING to FIXED. The output folder then holds the warped image in the format of
    MOVING on the grid of FIXED, transform.safetensors and report.json. Ctrl+C ends the fit and keeps the best result
    so far; a second Ctrl+C aborts. If the result is judged as failed, everything is written and the exit code is 3.

    Parameters
    ----------
    fixed
        The image that stays where it is.
    moving
        The image that is warped.
    output
        Folder for the results.
    overwrite
        Write into the output folder even if it holds files.
    accept
        Exit with 0 even if the result is judged as failed.
    config
        JSON file of settings, or a report.json whose settings are used again. Flags win.
    start_transform
        Start at this transform, ours or another program's.
    frame
        Frame of a moving time series, counted from 0.
    all_frames
        Register every frame of the moving series.
    fixed_frame
        Frame of a fixed time series.

    Examples
    --------
    stnreg register fixed.nii.gz moving.nii.gz -o registered --family rigid
    """
    from napari_stnreg.cli.outputs import ResultFolder

    settings = merge_config(settings, config)
    if frame is not None and all_frames:
        raise InputError("Give --frame or --all-frames, not both.")
    files = {"fixed": fixed, "moving": moving, **vars(annotations), "start_transform": start_transform}
    files = {name: path for name, path in files.items() if path is not None}
    folder = ResultFolder(output, list(files.values()), overwrite=overwrite)
    fixed_image, frames = _read_images(fixed, moving, annotations, placement, frame, all_frames, fixed_frame)
    landmarks = annotations.read_landmarks(fixed_image, frames[0])
    from napari_stnreg.io.transform_io import load_transform
    from napari_stnreg.registration.api import register_steps

    start = None
    if start_transform is not None:
        start = load_transform(start_transform, fixed=fixed_image, moving=frames[0])
        start = start.with_unit(fixed_image.grid.unit)
    with Interrupt() as interrupt, folder:
        # A name that clashes with an input must be reported before the fit, not after it.
        for name in ("warped" + _output_suffix(moving), "transform.safetensors", "report.json"):
            folder.file(name)
        results: list[Result] = []
        for number, moving_image in enumerate(frames):
            if interrupt.requested:
                break
            steps = register_steps(
                fixed_image,
                moving_image,
                settings,
                fixed_landmarks=landmarks[0],
                moving_landmarks=landmarks[1],
                start_transform=start,
            )
            part = f"frame {number} of 0 to {len(frames) - 1}, " if len(frames) > 1 else ""
            with ProgressDisplay(1, part + "start") as display:
                results.append(run_to_completion(steps, partial(_show, display, part), lambda: interrupt.requested))
                if results[-1].stop_reason != "stopped":
                    display.complete()
        notes = []
        if len(results) < len(frames):
            notes = [f"Stopped: only the first {len(results)} of {len(frames)} frames were registered."]
        choices = {
            "frame": frame, "all_frames": all_frames, "fixed_frame": fixed_frame, **vars(placement),
        }  # fmt: skip
        inputs = {name: str(path) for name, path in files.items()}
        inputs |= {name: value for name, value in choices.items() if value not in (None, False)}
        written = _write(
            folder, _output_suffix(moving), all_frames, inputs, settings, fixed_image, frames, results, notes
        )
    _print(results, notes, written)
    if interrupt.requested:
        return ExitCode.INTERRUPTED
    failed = any(result.verdict == "failed" for result in results)
    return ExitCode.FAILED_VERDICT if failed and not accept else ExitCode.SUCCESS


def _read_images(
    fixed: Path,
    moving: Path,
    annotations: Annotations,
    placement: Placement,
    frame: int | None,
    all_frames: bool,
    fixed_frame: int | None,
) -> tuple[Image, list[Image]]:
    """Read the fixed image and the moving frames, with their placement and masks."""
    from napari_stnreg.io.frames import read_one, read_some
    from napari_stnreg.io.image import read_content

    content = read_content(moving)
    if content.frames > 1 and frame is None and not all_frames:
        raise InputError(
            f"'{moving.name}' holds {content.frames} time frames. Choose one with --frame 0 to "
            f"--frame {content.frames - 1}, or give --all-frames."
        )
    if moving.resolve() == fixed.resolve() and (content.frames == 1 or fixed_frame is None):
        raise InputError("FIXED and MOVING are the same file. Choose two different images.")
    fixed_image = read_one(fixed, fixed_frame, "--fixed-frame")
    return placement.place(fixed_image, "fixed", annotations.fixed_mask, fixed_frame), [
        placement.place(image, "moving", annotations.moving_mask, frame or number)
        for number, image in enumerate(read_some(moving, content, frame))
    ]


def _output_suffix(moving: Path) -> str:
    """Return the suffix of the warped image: the moving image's if that format can be written."""
    from napari_stnreg.io.image import result_suffix

    return result_suffix(moving)


def _show(display: ProgressDisplay, part: str, progress: Progress) -> None:
    text = part + (progress.message or progress.stage)
    loss = f"loss {progress.loss:.4g}" if progress.stage not in ("prepare", "result") else ""
    display.update(progress.step, progress.total, text, loss)


def _write(
    folder: ResultFolder,
    suffix: str,
    all_frames: bool,
    inputs: dict[str, Any],
    settings: RegistrationSettings,
    fixed: Image,
    frames: Sequence[Image],
    results: Sequence[Result],
    notes: list[str],
) -> list[Path]:
    """Write the results. The transforms come first, since they cannot be made again from the rest."""
    from napari_stnreg.io.series import placed_as, write_or_tiff
    from napari_stnreg.io.transform_io import save

    series = all_frames and len(frames) > 1
    folder.clear("warped", ("transform.safetensors", "transform_*.safetensors", "report.json"))
    folder.clear("uncertainty", ())
    transforms = []
    for number, result in enumerate(results):
        name = f"transform_{number:04d}.safetensors" if series else "transform.safetensors"
        transforms.append(save(result, folder.file(name)))
    images = [placed_as(image, fixed.metadata) for image in _on_one_grid(frames, results, settings)]
    folder.file("warped.tif")
    warped, note = write_or_tiff(folder.file("warped" + suffix), images)
    notes += [] if note is None else [note]
    extra: list[Path] = []
    if not series and results[0].uncertainty is not None:
        deviation = placed_as(results[0].uncertainty, fixed.metadata)
        extra = [write_or_tiff(folder.file("uncertainty" + suffix), [deviation])[0]]
    report: dict[str, Any] = {"frames": [one.report() for one in results]} if series else results[0].report()
    report["inputs"] = inputs
    report["outputs"] = {"warped": warped.name, "transforms": [path.name for path in transforms]}
    report["grid"] = images[0].grid.to_dict()
    report["warnings"] = list(dict.fromkeys([*report.get("warnings", []), *notes]))
    if extra:
        report["outputs"]["uncertainty"] = extra[0].name
    write_json(folder.file("report.json"), report)
    return [warped, *transforms, *extra, folder.file("report.json")]


def _on_one_grid(frames: Sequence[Image], results: Sequence[Result], settings: RegistrationSettings) -> list[Image]:
    """Return the warped images on a grid that holds them all; frames of another extent are warped once more."""
    from napari_stnreg.resampling.warp import warp

    grid = results[0].grid
    for result in results[1:]:
        grid = grid.extended_to(result.grid.corners())
    pairs = zip(frames, results, strict=False)
    return [
        result.warped if result.grid == grid else warp(moving, result.transform, grid, fill=settings.fill)
        for moving, result in pairs
    ]


def _print(results: Sequence[Result], notes: Sequence[str], written: Sequence[Path]) -> None:
    for number, result in enumerate(results):
        before, after = result.scores.get("before", {}), result.scores.get("after", {})
        scores = [
            f"{title} {before[key]:.4g} -> {after[key]:.4g}"
            for key, title in (("ncc", "NCC"), ("local_ncc", "local NCC"), ("landmark_median", "landmarks"))
            if key in before and key in after
        ]
        frame = f"frame {number}: " if len(results) > 1 else ""
        folded = f"folded {100 * result.folding_fraction:.2g} %"
        inverse = f"inverse to {result.inverse['max_voxels']:.1g} voxels"
        print(frame + ", ".join([*scores, folded, inverse, f"{result.seconds:.1f} s", result.stop_reason]))
        print(f"{frame}verdict: {result.judgment}")
    for path in written:
        print(path)
    for sentence in dict.fromkeys([*(one for result in results for one in result.warnings), *notes]):
        logger.log(PROGRESS, "%s", sentence)
