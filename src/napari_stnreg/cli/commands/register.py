"""``stnreg register``: fit a transform and write the result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    from napari_stnreg.registration.result import Progress
    from napari_stnreg.series.result import SeriesProgress
    from napari_stnreg.series.sources import Series


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
    resume: Annotated[bool, Parameter(group="Reading")] = False,
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
    resume
        Continue an unfinished run with --all-frames in the output folder.
    fixed_frame
        Frame of a fixed time series.

    Examples
    --------
    stnreg register fixed.nii.gz moving.nii.gz -o registered --family rigid
    """
    from napari_stnreg.cli.outputs import ResultFolder
    from napari_stnreg.series.output import PairsFolder

    settings = merge_config(settings, config)
    if frame is not None and all_frames:
        raise InputError("Give --frame or --all-frames, not both.")
    if resume and not all_frames:
        raise InputError("--resume continues a run with --all-frames.")
    files = {"fixed": fixed, "moving": moving, **vars(annotations), "start_transform": start_transform}
    files = {name: path for name, path in files.items() if path is not None}
    resume = resume and PairsFolder(output).identity() is not None
    folder = ResultFolder(output, list(files.values()), overwrite=overwrite or resume)
    fixed_image, frames = _open_images(fixed, moving, annotations, placement, frame, all_frames, fixed_frame)
    first = frames[0]
    fixed_points, moving_points = annotations.read_landmarks(fixed_image, first)
    from napari_stnreg.io.transform_io import load_transform
    from napari_stnreg.registration.api import register_steps
    from napari_stnreg.series.api import register_series_steps

    start = None
    if start_transform is not None:
        start = load_transform(start_transform, fixed=fixed_image, moving=first).with_unit(fixed_image.grid.unit)
    choices = {"frame": frame, "all_frames": all_frames, "fixed_frame": fixed_frame, **vars(placement)}
    inputs: dict[str, Any] = {name: str(path) for name, path in files.items()}
    inputs |= {name: value for name, value in choices.items() if value not in (None, False)}
    output_files = _Outputs(folder, _output_suffix(moving), inputs, fixed_image)
    with Interrupt() as interrupt, folder, ProgressDisplay(1, "start") as display:
        # A name that clashes with an input must be reported before the fit, not after it.
        for name in ("warped" + output_files.suffix, "transform.safetensors", "report.json"):
            folder.file(name)

        def show(progress: Progress) -> None:
            loss = f"loss {progress.loss:.4g}" if progress.stage not in ("prepare", "result") else ""
            display.update(progress.step, progress.total, progress.message or progress.stage, loss)

        def show_frame(progress: SeriesProgress) -> None:
            display.update(progress.done, progress.total, progress.message)

        if len(frames) > 1:
            series = run_to_completion(
                register_series_steps(
                    frames, settings, reference=fixed_image, as_pairs=True, output=PairsFolder(output, inputs),
                    resume=resume, overwrite=True, fixed_landmarks=fixed_points, moving_landmarks=moving_points,
                    start_transform=start,
                ),
                show_frame,
                lambda: interrupt.requested,
            )  # fmt: skip
            reports = [fit.report or _unregistered(fit.reason) for fit in series.fits]
            lines = [*_lines(reports), f"series: verdict: {series.judgment}"]
            names = [f"transform_{fit.frame:04d}.safetensors" for fit in series.fits]
            notes = [*series.warnings, *(text for one in reports for text in one["warnings"])]
            written = output_files.write(series.report() | {"frames": reports}, names, series.frames(), notes)
            complete, stopped = series.complete, series.stop_reason == "stopped"
            failed = series.verdict == "failed" or any(one["verdict"] == "failed" for one in reports)
        else:
            result = run_to_completion(
                register_steps(
                    fixed_image, first, settings, fixed_landmarks=fixed_points, moving_landmarks=moving_points,
                    start_transform=start,
                ),
                show,
                lambda: interrupt.requested,
            )  # fmt: skip
            lines, notes = _lines([result.report()]), list(result.warnings)
            folder.clear("transform_", ("transform_*.safetensors", "frames.jsonl", "motion.csv", "motion.svg"))
            result.save(folder.file("transform.safetensors"))
            written = output_files.write(
                result.report(), ["transform.safetensors"], [result.warped], notes, result.uncertainty
            )
            complete, stopped, failed = result.stop_reason != "stopped", False, result.verdict == "failed"
        if complete:
            display.complete()
    for line in [*lines, *map(str, written)]:
        print(line)
    for sentence in dict.fromkeys(notes):
        logger.log(PROGRESS, "%s", sentence)
    if stopped:
        logger.log(PROGRESS, "Continue with the same command and --resume.")
    if interrupt.requested:
        return ExitCode.INTERRUPTED
    return ExitCode.FAILED_VERDICT if failed and not accept else ExitCode.SUCCESS


def _open_images(
    fixed: Path,
    moving: Path,
    annotations: Annotations,
    placement: Placement,
    frame: int | None,
    all_frames: bool,
    fixed_frame: int | None,
) -> tuple[Image, Series]:
    """Read the fixed image and open the moving frames, with their placement and masks."""
    from napari_stnreg.io.frames import read_one
    from napari_stnreg.io.image import read_content, read_image
    from napari_stnreg.series.sources import Series

    content = read_content(moving)
    if content.frames > 1 and frame is None and not all_frames:
        raise InputError(
            f"'{moving.name}' holds {content.frames} time frames. Choose one with --frame 0 to "
            f"--frame {content.frames - 1}, or give --all-frames."
        )
    if moving.resolve() == fixed.resolve() and (content.frames == 1 or fixed_frame is None):
        raise InputError("FIXED and MOVING are the same file. Choose two different images.")
    fixed_image = placement.place(
        read_one(fixed, fixed_frame, "--fixed-frame"), "fixed", annotations.fixed_mask, fixed_frame
    )

    def load(number: int) -> Image:
        chosen = number if frame is None else frame
        return placement.place(read_image(moving, chosen), "moving", annotations.moving_mask, chosen)

    if frame is None and content.frames > 1:
        return fixed_image, Series(load, content.frames, moving.name, content.interval, moving)
    only = load(0)
    return fixed_image, Series(lambda _: only, 1, only.name)


def _output_suffix(moving: Path) -> str:
    """Return the suffix of the warped image: the moving image's if that format can be written."""
    from napari_stnreg.io.image import result_suffix

    return result_suffix(moving)


class _Outputs:
    """What is written beside the transforms, which come first since they cannot be made again from the rest."""

    def __init__(self, folder: ResultFolder, suffix: str, inputs: dict[str, Any], fixed: Image) -> None:
        self._folder, self.suffix, self._inputs, self._metadata = folder, suffix, inputs, fixed.metadata

    def write(
        self,
        report: dict[str, Any],
        transforms: Sequence[str],
        warped: Iterable[Image],
        notes: list[str],
        uncertainty: Image | None = None,
    ) -> list[Path]:
        """Write the warped images and the report; a note is added if their format cannot hold them."""
        from napari_stnreg.io.series import placed_as, write_or_tiff

        folder = self._folder
        folder.clear("warped", ("report.json", *({"transform.safetensors"} - set(transforms))))
        folder.clear("uncertainty", ())
        images = [placed_as(image, self._metadata) for image in warped]
        folder.file("warped.tif")
        path, note = write_or_tiff(folder.file("warped" + self.suffix), images)
        notes += [] if note is None else [note]
        report["inputs"] = self._inputs
        report["outputs"] = {"warped": path.name, "transforms": list(transforms)}
        report["grid"] = images[0].grid.to_dict()
        extra: list[Path] = []
        if uncertainty is not None:
            deviation = placed_as(uncertainty, self._metadata)
            extra = [write_or_tiff(folder.file("uncertainty" + self.suffix), [deviation])[0]]
            report["outputs"]["uncertainty"] = extra[0].name
        report["warnings"] = list(dict.fromkeys(notes))
        write_json(folder.file("report.json"), report)
        return [path, *map(folder.file, transforms), *extra, folder.file("report.json")]


def _unregistered(reason: str) -> dict[str, Any]:
    return {"verdict": "failed", "confidence": 0.0, "reasons": [reason], "warnings": []}


def _lines(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is printed of the results."""
    from napari_stnreg.evaluation.verdict import Verdict

    lines = []
    for number, report in enumerate(reports):
        frame = f"frame {number}: " if len(reports) > 1 else ""
        if "scores" in report:
            before, after = report["scores"].get("before", {}), report["scores"].get("after", {})
            words = [
                f"{title} {before[key]:.4g} -> {after[key]:.4g}"
                for key, title in (("ncc", "NCC"), ("local_ncc", "local NCC"), ("landmark_median", "landmarks"))
                if key in before and key in after
            ]
            words.append(f"folded {100 * report['folding_fraction']:.2g} %")
            words.append(f"inverse to {report['inverse']['max_voxels']:.1g} voxels")
            lines.append(frame + ", ".join([*words, f"{report['seconds']:.1f} s", report["stop_reason"]]))
        judgment = Verdict(report["verdict"], report["confidence"], tuple(report["reasons"]))
        lines.append(f"{frame}verdict: {judgment}")
    return lines
