"""``stnreg register``: fit a transform and write what was found."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from napari_stnreg.cli.outputs import Folder, write_json
from napari_stnreg.cli.running import Interrupt, progress_bar, show
from napari_stnreg.cli.setting_options import written_settings
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.image import Image
from napari_stnreg.core.progress import run_to_completion
from napari_stnreg.io.conversion import override_geometry
from napari_stnreg.io.image import read_content, suffix_of
from napari_stnreg.io.inputs import read_one, read_some
from napari_stnreg.io.points import read_landmarks
from napari_stnreg.io.series import placed_as, write_or_tiff
from napari_stnreg.io.transforms import load_transform, save
from napari_stnreg.registration.api import register_steps
from napari_stnreg.registration.result import Progress, Result
from napari_stnreg.registration.settings import RegistrationSettings
from napari_stnreg.resampling.masks import read_mask
from napari_stnreg.resampling.warp import warp
from napari_stnreg.transforms import with_unit

_FILES = ("fixed", "moving", "fixed_mask", "moving_mask", "landmarks", "fixed_landmarks", "moving_landmarks",
          "start_transform")  # fmt: skip
_CHOICES = ("frame", "all_frames", "fixed_frame", "fixed_spacing", "fixed_unit", "moving_spacing", "moving_unit")


def run(options: argparse.Namespace) -> None:
    """Do what was asked; see ``stnreg register --help``.

    Raises
    ------
    InputError
        If something given cannot be used.
    """
    settings = written_settings(RegistrationSettings, options)
    inputs = [path for name in _FILES if (path := getattr(options, name)) is not None]
    folder = Folder(options.output, inputs, overwrite=options.overwrite)
    fixed, frames = _images(options)
    landmarks = read_landmarks(options.landmarks, options.fixed_landmarks, options.moving_landmarks, fixed.ndim)
    start = None
    if options.start_transform is not None:
        start = with_unit(load_transform(options.start_transform, fixed=fixed, moving=frames[0]), fixed.grid.unit)
    with Interrupt() as interrupt, folder:
        _plan(folder, options)
        results: list[Result] = []
        for number, moving in enumerate(frames):
            if interrupt.asked:
                break
            steps = register_steps(
                fixed,
                moving,
                settings,
                fixed_landmarks=landmarks[0],
                moving_landmarks=landmarks[1],
                start_transform=start,
            )
            part = f"frame {number} of 0 to {len(frames) - 1}, " if len(frames) > 1 else ""
            with progress_bar(1, part + "start") as bar:
                results.append(run_to_completion(steps, partial(_show, bar, part), lambda: interrupt.asked))
                if results[-1].stop_reason != "stopped":
                    bar.update(bar.total - bar.n)
        notes = []
        if len(results) < len(frames):
            notes = [f"Stopped: only the first {len(results)} of {len(frames)} frames were registered."]
        written = _write(folder, options, settings, fixed, frames, results, notes)
    _tell(results, notes, written)


def _images(options: argparse.Namespace) -> tuple[Image, list[Image]]:
    """The fixed image and the frames to be registered to it, where they lie and with their masks."""
    content = read_content(options.moving)
    if content.frames > 1 and options.frame is None and not options.all_frames:
        raise InputError(
            f"'{options.moving.name}' holds {content.frames} frames in time: choose one with --frame 0 to "
            f"--frame {content.frames - 1}, or take --all-frames."
        )
    if options.moving.resolve() == options.fixed.resolve() and (content.frames == 1 or options.fixed_frame is None):
        raise InputError("FIXED and MOVING are the same file; name two different images.")
    fixed = read_one(options.fixed, options.fixed_frame, "--fixed-frame")
    fixed = override_geometry(fixed, options.fixed_spacing, options.fixed_unit)
    if options.fixed_mask is not None:
        fixed = fixed.replace(mask=read_mask(options.fixed_mask, fixed, options.fixed_frame or 0))
    frames = []
    for number, image in enumerate(read_some(options.moving, content, options.frame)):
        image = override_geometry(image, options.moving_spacing, options.moving_unit)
        if options.moving_mask is not None:
            image = image.replace(mask=read_mask(options.moving_mask, image, options.frame or number))
        frames.append(image)
    return fixed, frames


def _plan(folder: Folder, options: argparse.Namespace) -> None:
    """Ask for every name beforehand: a clash with an input must show before the fit, not after."""
    for name in ("warped" + suffix_of(options.moving), "transform.safetensors", "report.json"):
        folder.file(name)


def _show(bar: Any, part: str, progress: Progress) -> None:
    show(bar, progress.step, progress.total, part + (progress.message or progress.stage), f"loss {progress.loss:.4g}")


def _write(
    folder: Folder,
    options: argparse.Namespace,
    settings: RegistrationSettings,
    fixed: Image,
    frames: Sequence[Image],
    results: Sequence[Result],
    notes: list[str],
) -> list[Path]:
    """Write the results, what cannot be made again first; an image that its format cannot hold becomes a TIFF."""
    ending = suffix_of(options.moving)
    series = options.all_frames and len(frames) > 1
    folder.clear("warped", ("transform.safetensors", "transform_*.safetensors", "report.json"))
    transforms = []
    for number, result in enumerate(results):
        name = f"transform_{number:04d}.safetensors" if series else "transform.safetensors"
        transforms.append(save(result, folder.file(name)))
    images = [placed_as(image, fixed.metadata) for image in _on_one_grid(frames, results, settings)]
    folder.file("warped.tif")
    warped, note = write_or_tiff(folder.file("warped" + ending), images)
    notes += [] if note is None else [note]
    report: dict[str, Any] = {"frames": [one.report() for one in results]} if series else results[0].report()
    report["inputs"] = {
        **{name: str(path) for name in _FILES if (path := getattr(options, name)) is not None},
        **{name: value for name in _CHOICES if (value := getattr(options, name)) not in (None, False)},
    }
    report["outputs"] = {"warped": warped.name, "transforms": [path.name for path in transforms]}
    report["grid"] = images[0].grid.to_dict()
    report["warnings"] = list(dict.fromkeys([*report.get("warnings", []), *notes]))
    write_json(folder.file("report.json"), report)
    return [warped, *transforms, folder.file("report.json")]


def _on_one_grid(frames: Sequence[Image], results: Sequence[Result], settings: RegistrationSettings) -> list[Image]:
    """The warped images; frames whose extents differ are warped once more, onto a grid that holds them all."""
    grid = results[0].grid
    for result in results[1:]:
        grid = grid.extended_to(result.grid.corners())
    pairs = zip(frames, results, strict=False)
    return [
        result.warped if result.grid == grid else warp(moving, result.transform, grid, fill=settings.fill)
        for moving, result in pairs
    ]


def _tell(results: Sequence[Result], notes: Sequence[str], written: Sequence[Path]) -> None:
    for number, result in enumerate(results):
        before, after = result.scores.get("before", {}), result.scores.get("after", {})
        scores = [
            f"{title} {before[key]:.4g} -> {after[key]:.4g}"
            for key, title in (("ncc", "NCC"), ("local_ncc", "local NCC"), ("landmark_median", "landmarks"))
            if key in before and key in after
        ]
        frame = f"frame {number}: " if len(results) > 1 else ""
        folded = f"folded {100 * result.folding_fraction:.2g} %"
        print(frame + ", ".join([*scores, folded, f"{result.seconds:.1f} s", result.stop_reason]))
    for path in written:
        print(path)
    for sentence in dict.fromkeys([*(one for result in results for one in result.warnings), *notes]):
        print(f"stnreg register: {sentence}", file=sys.stderr)
