"""A training as a Python script and as a command line."""

from __future__ import annotations

import shlex

from napari_stnreg.core.grid import Grid
from napari_stnreg.widgets.common.layer_io import LayerSource
from napari_stnreg.widgets.models.session import file_of
from napari_stnreg.widgets.train.checkpoint_form import file_name
from napari_stnreg.widgets.train.data_snapshot import source_grid
from napari_stnreg.widgets.train.job import TrainJob


def python_script(job: TrainJob) -> str:
    """Return a script that repeats a training exactly; layers come from the viewer, files are read."""
    images = job.images
    lines = [
        f"# {job.name}",
        "import napari_stnreg as sr",
        "from napari_stnreg.training.data.datasets import open_training_data",
        "from napari_stnreg.training.data.paired_images import augmentation_preset",
        "from napari_stnreg.training.working_grid import working_grid",
    ]
    if not isinstance(images.fixed, str):
        lines[1:1] = ["import numpy as np", ""]
        lines += [
            "from napari_stnreg.core.grid import Grid",
            "from napari_stnreg.core.image import Image",
            "from napari_stnreg.training.data.image_sets import ImageSet",
            "",
            "# 'viewer' is napari's viewer with the layers of the training, as in its console.",
        ]
    lines.append("")
    arguments = [_given("fixed", images.fixed, lines)]
    if images.moving is not None:
        arguments.append(_given("moving", images.moving, lines))
    arguments += [f"{name}={value!r}" for name, value in images.keywords.items()]
    lines.append(f"data = open_training_data({', '.join(arguments)})")
    lines.append(f"data.grid = working_grid(data.grid{'' if images.size is None else f', {images.size}'})")
    if images.augmentation != "none":
        lines.append(f"data.augmentation = augmentation_preset({images.augmentation!r}, data.grid)")
    words = ["data", *(f"{name}={value!r}" for name, value in job.values.items()), f"output={_output(job)!r}"]
    if job.start is not None:
        words.append(f"warm_start={file_of(job.start, lines)!r}")
    lines += ["", f"model = sr.train({', '.join(words)})", 'print(model.summary["best"])']
    return "\n".join(lines) + "\n"


def command_line(job: TrainJob) -> str:
    """Return a command that repeats a training; layers must be saved into folders first."""
    images = job.images
    comments: list[str] = []
    words = ["stnreg", "train", _folder("fixed", images.fixed, comments), "-o", _output(job)]
    if images.moving is not None:
        words += ["--moving", _folder("moving", images.moving, comments)]
    if not isinstance(images.fixed, str) and len(images.fixed) == 1 and "t" not in images.fixed[0].layout:
        words.append("--sections")
    for name, value in images.keywords.items():
        if name != "seed":  # the settings have it too
            words += ["--" + name.replace("_", "-"), str(value)]
    words += ["--size", "auto" if images.size is None else str(images.size), "--augment", images.augmentation]
    if job.start is not None:
        words += ["--warm-start", file_of(job.start, comments)]
    for name, value in job.values.items():
        words += ["--" + name.replace("_", "-"), str(value)]
    return "\n".join([*comments, shlex.join(words)]) + "\n"


def _output(job: TrainJob) -> str:
    return job.output or file_name(job.name)


def _given(variable: str, what: tuple[LayerSource, ...] | str, lines: list[str]) -> str:
    """Return the argument for images, and add the lines that make them."""
    if isinstance(what, str):
        return repr(what)
    if len(what) > 1:
        entries = [_image(source, str(source.frame), repr(source.name)) for source in what]
        lines.append(f"{variable} = [")
        lines += [f"    {entry}," for entry in entries]
        lines.append("]")
    else:
        source = what[0]
        count = source.frames if "t" in source.layout else source.grid.shape[0]
        name = source.name.replace("\\", "\\\\").replace('"', '\\"').replace("{", "{{").replace("}", "}}")
        one = _image(source, "i", f'f"{name} [{{i}}]"')
        lines.append(f"{variable} = [{one} for i in range({count})]")
    lines.append(f"{variable} = ImageSet.from_images({variable}, groups=[image.name for image in {variable}])")
    return variable


def _image(source: LayerSource, number: str, name: str) -> str:
    """Return one image of a layer: a frame, a section, or all of it."""
    data = f"viewer.layers[{source.name!r}].data"
    if source.level or not hasattr(source.data, "shape"):
        data += f"[{source.level}]"
    sections = number == "i" and "t" not in source.layout
    letter = "t" if "t" in source.layout else "z" if sections else ""
    grid = source_grid(source, sections=sections)
    if sections:
        grid = Grid.from_spacing(grid.shape, grid.spacing.tolist(), unit=grid.unit)
    if letter:
        data += "[" + ":, " * source.layout.index(letter) + number + "]"
    data = f"np.asarray({data})"
    rest = source.layout.replace(letter, "") if letter else source.layout
    if "c" in rest and not rest.endswith("c"):
        data = f"np.moveaxis({data}, {rest.index('c')}, -1)"
    text = f"Grid({grid.shape}, np.array({grid.matrix.tolist()}), {grid.unit!r})"
    return f"Image({data}, {text}, name={name}{', rgb=True' if source.rgb else ''})"


def _folder(side: str, what: tuple[LayerSource, ...] | str, comments: list[str]) -> str:
    if isinstance(what, str):
        return what
    if len(what) == 1:
        source = what[0]
        if source.path is not None and source.level == 0 and "c" not in source.layout:
            return source.path
        path = f"{source.name}.tif"
        comments.append(f"# Save the layer '{source.name}' as {path} first.")
        return path
    names = ", ".join(f"'{source.name}'" for source in what)
    comments.append(f"# Save the layers {names} into a folder '{side}' first.")
    return side
