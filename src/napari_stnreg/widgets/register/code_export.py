"""The run just made, as a Python script and as a command line."""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np

from napari_stnreg.core.grid import Grid
from napari_stnreg.core.units import conversion_factor
from napari_stnreg.registration.settings import RegistrationSettings
from napari_stnreg.series.settings import SeriesSettings
from napari_stnreg.widgets.common.layer_io import LayerSource, MaskSource
from napari_stnreg.widgets.models.session import file_of
from napari_stnreg.widgets.register.run import RegistrationJob
from napari_stnreg.widgets.register.series_run import FIXED_IMAGE, chosen_settings


def python_script(job: RegistrationJob) -> str:
    """Return a script that repeats a run exactly.

    Images that were opened from a file are read from it and placed like the layer. Everything else comes from the
    viewer's layers, so the script then belongs into napari's console (or after a ``viewer`` that has these layers).
    """
    lines = [
        f"# {job.name}",
        "import numpy as np",
        "",
        "import napari_stnreg as sr",
        "from napari_stnreg.core.grid import Grid",
        "from napari_stnreg.core.image import Image",
    ]
    masks = [mask for mask in (job.fixed.mask, job.moving.mask) if mask is not None]
    if masks:
        lines.append("from napari_stnreg.widgets.common.layer_io import mask_source")
    if job.start is not None:
        lines.append("from napari_stnreg.io.napari_layers import transform_from_metadata")
    if not all(_has_file(source) for source in (job.fixed, job.moving)) or masks or job.start is not None:
        lines += ["", "# 'viewer' is napari's viewer with the layers of the run, as in its console."]
    lines += ["", *_image_lines("fixed", job.fixed, str(job.fixed.frame))]
    series = job.every_frame
    lines += _image_lines("moving", job.moving, "frame" if series else str(job.moving.frame), function=series)
    words: list[str] = []
    for side, points in (("fixed", job.fixed_landmarks), ("moving", job.moving_landmarks)):
        if points is not None:
            if series and side == "moving":  # a series takes both in the unit of its reference
                points = points * conversion_factor(job.moving.grid.unit, job.fixed.grid.unit)
            lines.append(f"{side}_landmarks = np.array({np.asarray(points).tolist()})")
            words.append(f"{side}_landmarks={side}_landmarks")
    if job.start is not None:
        layer = job.name.layer("warped")
        lines.append(f"start = transform_from_metadata(viewer.layers[{layer!r}].metadata['stnreg']['start'])")
        words.append("start_transform=start")
    if series:
        lines += ["", *_series_lines(job, words)]
    else:
        words += [f"{name}={value!r}" for name, value in _chosen(job.settings, job.model is not None).items()]
        if job.model is not None:
            words.insert(0, f"model={file_of(job.model, lines)!r}")
        arguments = ", ".join(["fixed", "moving", *words])
        lines += ["", f"result = sr.register({arguments})", "print(result.scores, result.folding_fraction)"]
        lines.append("warped = result.warped")
    return "\n".join(lines) + "\n"


def _series_lines(job: RegistrationJob, points: list[str]) -> list[str]:
    """Return the call that repeats a run over a time series; ``points`` are its words for landmarks and start."""
    reference = "fixed" if job.reference == FIXED_IMAGE else repr(job.reference)
    words = [f"reference={reference}", *points]
    if job.temporal_smoothing:
        words.append(f"temporal_smoothing={job.temporal_smoothing!r}")
    lines: list[str] = []
    given = chosen_settings(job).model_dump(exclude_unset=True)
    if job.model is not None:
        given["model"] = file_of(job.model, lines)
    return [
        *lines,
        f"settings = sr.RegistrationSettings({', '.join(f'{name}={value!r}' for name, value in given.items())})",
        f"frames = [moving(frame) for frame in range({job.moving.frames})]",
        f"result = sr.register_series(frames, settings, {', '.join(words)})",
        "print(result.verdict, result.motion, result.failed)",
        "warped = result.warp()",
    ]


def command_line(job: RegistrationJob) -> str:
    """Return a command that repeats a run; comments name what must be saved first."""
    comments: list[str] = []
    fixed, moving = [_file(source, comments) for source in (job.fixed, job.moving)]
    annotated = job.fixed_landmarks is not None or job.start is not None or job.fixed.mask or job.moving.mask
    if job.every_frame and not annotated:
        words = ["stnreg", "register-series", moving, "-o", "result", "--reference"]
        if job.reference != FIXED_IMAGE:
            comments = [comment for comment in comments if moving in comment]
            words.append(job.reference)
        elif fixed == moving:
            words.append(str(job.fixed.frame))
        else:
            words.append(fixed)
            if job.fixed.frames > 1:
                comments.append(f"# Save frame {job.fixed.frame} of '{job.fixed.name}' as a file of its own first.")
        if job.temporal_smoothing:
            words += ["--temporal-smoothing", str(job.temporal_smoothing)]
        words += _options(job, chosen_settings(job).model_dump(exclude_unset=True), comments)
        return "\n".join([*comments, shlex.join(words)]) + "\n"
    words = ["stnreg", "register", fixed, moving, "-o", "result"]
    settings = job.settings
    if job.every_frame:
        # As pairs, frames take landmarks, masks, and a start; their defaults are others than those of a series.
        settings = RegistrationSettings.parse(**SeriesSettings.of(chosen_settings(job)).model_dump())
        if job.reference != FIXED_IMAGE or job.temporal_smoothing:
            comments.append("# This command registers every frame to the fixed image and does not smooth the motion.")
    words += _options(job, _chosen(settings, job.model is not None), comments)
    for side, source in (("fixed", job.fixed), ("moving", job.moving)):
        if source.mask is not None:
            path = f"{source.mask.name}.nii.gz"
            comments.append(f"# Save the mask '{source.mask.name}' as {path} first (Shapes: convert to labels).")
            words += [f"--{side}-mask", path]
    if job.fixed_landmarks is not None and job.moving_landmarks is not None:
        comments += ["# Put this into landmarks.csv first: one pair a line, fixed then moving, in world coordinates."]
        both = np.hstack([job.fixed_landmarks, job.moving_landmarks])
        comments += ["#   " + ",".join(f"{value:.6g}" for value in row) for row in both]
        words += ["--landmarks", "landmarks.csv"]
    if job.start is not None:
        comments.append("# The run began at an earlier result: save that transform as start.safetensors first.")
        words += ["--start-transform", "start.safetensors"]
    if job.fixed.frames > 1:
        words += ["--fixed-frame", str(job.fixed.frame)]
    if job.every_frame:
        words.append("--all-frames")
    elif job.moving.frames > 1:
        words += ["--frame", str(job.moving.frame)]
    return "\n".join([*comments, shlex.join(words)]) + "\n"


def _options(job: RegistrationJob, values: dict[str, Any], comments: list[str]) -> list[str]:
    words = [] if job.model is None else ["--model", file_of(job.model, comments)]
    for name, value in values.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            words.append(option)
        elif value is not False:
            words += [option, str(value)]
    return words


def _chosen(settings: RegistrationSettings, with_model: bool) -> dict[str, Any]:
    """Return the settings that differ from their defaults, and always the main ones."""
    values = settings.model_dump(exclude_defaults=True)
    full = settings.model_dump()
    names = ["family", "similarity", "preset", "device", "seed"]
    if with_model:
        # What a model brings itself is not repeated.
        names = ["similarity", "preset", "device", "seed"] if settings.refine else ["device", "seed"]
    return {name: full[name] for name in names} | values


def _has_file(source: LayerSource) -> bool:
    return source.path is not None and source.frames == 1 and source.level == 0 and "c" not in source.layout


def _file(source: LayerSource, comments: list[str]) -> str:
    if source.path is not None and source.level == 0 and "c" not in source.layout:
        return source.path
    path = f"{source.name}.nii.gz"
    comment = f"# Save the layer '{source.name}' as {path} first."
    if comment not in comments:
        comments.append(comment)
    return path


def _grid_text(grid: Grid) -> str:
    return f"Grid({grid.shape}, np.array({grid.matrix.tolist()}), {grid.unit!r})"


def _image_lines(variable: str, source: LayerSource, frame: str, *, function: bool = False) -> list[str]:
    grid = _grid_text(source.grid)
    if _has_file(source) and not function:
        lines = [f"{variable} = sr.read({source.path!r}).replace(grid={grid})"]
    else:
        data = f"viewer.layers[{source.name!r}].data"
        if source.level or not hasattr(source.data, "shape"):
            data += f"[{source.level}]"
        if "t" in source.layout:
            data += "[" + ":, " * source.layout.index("t") + frame + "]"
        data = f"np.asarray({data})"
        rest = source.layout.replace("t", "")
        if "c" in rest and not rest.endswith("c"):
            data = f"np.moveaxis({data}, {rest.index('c')}, -1)"
        image = f"Image({data}, {grid}, name={source.name!r}{', rgb=True' if source.rgb else ''})"
        if function:
            image = image.replace(grid, "grid")
            if source.mask is not None:
                image += f".replace(mask={_mask_text(source.mask, 'grid', frame)})"
            return [f"grid = {grid}", "", "", "def moving(frame):", f"    return {image}", "", ""]
        lines = [f"{variable} = {image}"]
    if source.mask is not None:
        lines.append(f"{variable} = {variable}.replace(mask={_mask_text(source.mask, f'{variable}.grid', frame)})")
    return lines


def _mask_text(mask: MaskSource, grid: str, frame: str) -> str:
    return f"mask_source(viewer.layers[{mask.name!r}]).on({grid}, {frame})"
