"""``stnreg train``: train a network and write its model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from napari_stnreg.cli.exit_code import ExitCode
from napari_stnreg.cli.options import AsSettings, Config, Output, merge_config
from napari_stnreg.cli.progress import PROGRESS, Interrupt, ProgressDisplay, logger
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.output_guard import check_output
from napari_stnreg.core.progress import run_to_completion
from napari_stnreg.training.settings import TrainingSettings

if TYPE_CHECKING:
    from napari_stnreg.models.model import Model
    from napari_stnreg.training.data.batch import TrainingData
    from napari_stnreg.training.progress import TrainingProgress

_Data = Parameter(group="Data")


def train(
    data: Path,
    /,
    *,
    output: Output,
    resume: bool = False,
    overwrite: bool = False,
    moving: Annotated[Path | None, _Data] = None,
    pairing: Annotated[Literal["random", "group", "template", "neighbors", "matched"], _Data] = "random",
    template: Annotated[str | None, _Data] = None,
    pairs: Annotated[int | None, _Data] = None,
    validation_fraction: Annotated[float, _Data] = 0.15,
    labels: Annotated[str | None, _Data] = None,
    pattern: Annotated[str, _Data] = "*",
    labels_pattern: Annotated[str | None, _Data] = None,
    classes: Annotated[str | None, _Data] = None,
    image: Annotated[str, _Data] = "image",
    moving_image: Annotated[str | None, _Data] = None,
    group: Annotated[str | None, _Data] = None,
    spacing: Annotated[str | None, _Data] = None,
    unit: Annotated[str, _Data] = "pixel",
    sections: Annotated[bool, _Data] = False,
    size: Annotated[int | Literal["auto"] | None, _Data] = None,
    augment: Annotated[Literal["none", "light", "strong"], _Data] = "none",
    known_transforms: Annotated[bool, _Data] = False,
    tensorboard: Path | None = None,
    processes: int | Literal["auto"] = 1,
    config: Config = None,
    settings: Annotated[TrainingSettings, AsSettings] = TrainingSettings(),  # noqa: B008
) -> int:
    """Train a network that registers in one pass.

    DATA is a folder of images, an .npz file of arrays, a stack, or a CSV file with the columns fixed and moving. The
    model with the best validation loss is written. A checkpoint and the curves (.curve.csv) are kept beside it after
    every epoch; --resume continues from it, and extends a finished training to more --epochs. Ctrl+C ends the training
    and keeps the best model so far; a second Ctrl+C aborts. Afterward: stnreg register FIXED MOVING -o DIR
    --model MODEL [--refine N].

    Parameters
    ----------
    data
        Images to train on.
    output
        The .safetensors file to write.
    resume
        Continue from the checkpoint of the output, if there is one.
    overwrite
        Replace the output if it exists.
    moving
        The moving images, if they are a separate set.
    pairing
        How images are paired.
    template
        Name or number of the image to which all others are registered.
    pairs
        Random pairs in an epoch.
    validation_fraction
        Fraction of the subjects that is kept for validation.
    labels
        Folder of label maps, or the name of an array of the .npz file.
    pattern
        Pattern of the images of a folder, such as '*_T1.nii.gz'.
    labels_pattern
        Pattern of the label maps, such as '*_seg.nii.gz', in the folder of the labels or that of the images. Image and
        label map belong together if the * of both patterns stands for the same text.
    classes
        Class of an image: an array of the .npz file, or a regular expression for file names. Random pairs are of one
        class.
    image
        Array of an .npz file.
    moving_image
        Array of an .npz file that is paired one to one with the images.
    group
        Subject of an image: a regular expression, or an array of the .npz file.
    spacing
        Voxel size of the images of an .npz file (z,y,x), or the array that holds it.
    unit
        Unit of the spacing.
    sections
        Use the sections of a volume as 2D images.
    size
        Downsample images that are longer than this, in pixels; auto: 256 in 2D, 96 in 3D.
    augment
        Augment pairs at random.
    known_transforms
        Register each image to itself, moved by up to 20 degrees, 15 % and a tenth of its size, so that
        --truth-weight has a known transform to compare with.
    tensorboard
        Folder for the curves in TensorBoard's format.
    processes
        Processes that train together, one for each GPU; auto: as many as there are GPUs.
    config
        JSON file of settings. Flags win.

    Examples
    --------
    stnreg train scans -o model.safetensors --network voxelmorph --epochs 20
    """
    settings = merge_config(settings, config)
    settings = type(settings).merge(settings, {"network_options": parse_values(settings.network_options)})
    if output.suffix.lower() != ".safetensors":
        raise InputError(f"'{output.name}' has an unsupported extension. Models are saved as .safetensors.")
    if not output.parent.is_dir():
        raise InputError(f"The folder '{output.parent}' does not exist.")
    # A model may lie in the folder of its images; it never has the name of one.
    files = [path for path in (data, moving) if path is not None and path.is_file()]
    is_first = os.environ.get("RANK", "0") == "0"
    check_output(output, files, overwrite=overwrite or resume or not is_first)
    if "RANK" not in os.environ and processes != 1:
        return launch(processes)

    from napari_stnreg.training.api import train_steps
    from napari_stnreg.training.data.datasets import open_training_data

    open_data = partial(
        open_training_data,
        data,
        moving,
        pairing=pairing,
        template=template,
        pairs=pairs,
        validation_fraction=validation_fraction,
        labels=labels,
        pattern=pattern,
        labels_pattern=labels_pattern,
        group=group,
        classes=classes,
        image=image,
        moving_image=moving_image,
        spacing=parse_spacing(spacing),
        unit=unit,
        sections=sections,
        seed=settings.seed,
    )
    training_data = augmented(open_data, size, augment, known_transforms)
    steps = train_steps(training_data, settings, output=output, resume=resume, tensorboard=tensorboard)
    with Interrupt() as interrupt, ProgressDisplay(1) as display:
        announced: list[str] = []
        show = partial(_show, display, announced) if is_first else None
        model = run_to_completion(steps, show, lambda: interrupt.requested)
    if is_first:
        _print(model, training_data, announced)
        print(output)
    return ExitCode.INTERRUPTED if interrupt.requested else ExitCode.SUCCESS


def launch(processes: int | str) -> int:
    """Run this command in several processes by ``torchrun``, and return its exit code.

    Raises
    ------
    InputError
        If the number is not positive, or larger than that of the GPUs.
    """
    import torch

    from napari_stnreg.cli.app import invocation

    gpus = torch.cuda.device_count()
    count = max(gpus, 1) if processes == "auto" else int(processes)
    if count < 1 or (gpus and count > gpus):
        raise InputError(f"--processes {processes} must be between 1 and the number of GPUs ({gpus}).")
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}",
             "-m", "napari_stnreg.cli", *invocation]  # fmt: skip
    return subprocess.run(words, check=False).returncode


def augmented(open_data: Callable[..., Any], size: int | str | None, augment: str, known_transforms: bool) -> Any:
    """Open the data and set its working size and augmentation."""
    from napari_stnreg.training.augmentation.spatial import SpatialAugmentation
    from napari_stnreg.training.data.paired_images import Augmentation, augmentation_preset
    from napari_stnreg.training.working_grid import working_grid

    if isinstance(size, int) and size < 1:
        raise InputError(f"--size {size} must be at least 1.")
    data = open_data()
    if size is not None:
        data.grid = working_grid(data.grid, None if size == "auto" else int(size))
    augmentation = augmentation_preset(augment, data.grid) or Augmentation()
    if known_transforms:
        longest = float(data.grid.extent.max())
        known = SpatialAugmentation(rotation=20, scale=0.15, shift=0.1 * longest)
        return open_data(augmentation=replace(augmentation, independent=known), same_image=True, grid=data.grid)
    data.augmentation = augmentation
    return data


def parse_spacing(text: str | None) -> str | tuple[float, ...] | None:
    """Convert ``2,0.5,0.5`` to voxel sizes; any other text is the name of an array."""
    if text is None:
        return None
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        return text


def parse_values(options: dict[str, Any]) -> dict[str, Any]:
    """Convert texts such as ``64`` and ``[16,32]`` in nested options to JSON values; other texts stay."""

    def parse(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: parse(part) for name, part in value.items()}
        try:
            return json.loads(value) if isinstance(value, str) else value
        except ValueError:
            return value

    return {name: parse(value) for name, value in options.items()}


def _show(display: ProgressDisplay, announced: list[str], progress: TrainingProgress) -> None:
    """Show a bar on a terminal, else one line for each epoch; and each warning once."""
    for text in progress.warnings[len(announced) :]:
        announced.append(text)
        print(f"Warning: {text}", file=sys.stderr)
    if display.is_terminal:
        display.update(progress.step, progress.steps, progress.message, _figures(progress))
    elif progress.state == "validated" and logger.isEnabledFor(PROGRESS):
        print(f"epoch {progress.epoch} of {progress.epochs}: {_figures(progress)}", file=sys.stderr, flush=True)


def _figures(progress: TrainingProgress) -> str:
    parts: list[tuple[str, Any]] = [("loss", progress.loss), ("validation", progress.validation_loss)]
    parts += list(progress.scores.items())
    return ", ".join(f"{name} {value:.4g}" for name, value in parts if value is not None)


def _print(model: Model, data: TrainingData, announced: list[str]) -> None:
    for text in model.summary["warnings"][len(announced) :]:
        print(f"Warning: {text}", file=sys.stderr)
    best, epochs = model.summary["best"], model.summary["epochs"]
    figures = ", ".join(f"{name} {value:.4g}" for name, value in best["scores"].items())
    print(
        f"{data.count('train')} pairs, {epochs} {'epoch' if epochs == 1 else 'epochs'}, "
        f"{model.summary['seconds']:.0f} s, "
        f"{model.summary['stop_reason']}. Best after epoch {best['epoch']}" + (f": {figures}" if figures else "")
    )
