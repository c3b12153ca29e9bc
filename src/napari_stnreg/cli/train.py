"""``stnreg train``: train a network and write its model."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from napari_stnreg.cli.options import numbers
from napari_stnreg.cli.outputs import check_new
from napari_stnreg.cli.running import Interrupt, progress_bar, show
from napari_stnreg.cli.train_options import training_settings
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.progress import run_to_completion
from napari_stnreg.models.model import Model
from napari_stnreg.training.api import train_steps
from napari_stnreg.training.augmentation.spatial import SpatialAugmentation
from napari_stnreg.training.data.batch import TrainingData
from napari_stnreg.training.data.datasets import open_training_data
from napari_stnreg.training.data.paired_images import Augmentation, augmentation_preset
from napari_stnreg.training.progress import TrainingProgress
from napari_stnreg.training.working_grid import working_grid


def run(options: argparse.Namespace) -> None:
    """Do what was asked; see ``stnreg train --help``.

    Raises
    ------
    InputError
        If something given cannot be used.
    """
    settings = training_settings(options)
    if options.output.suffix.lower() != ".safetensors":
        raise InputError(f"Models are kept in files that end in .safetensors; '{options.output.name}' does not.")
    if not options.output.parent.is_dir():
        raise InputError(f"There is no folder '{options.output.parent}' to write the model into.")
    check_new(options.output, overwrite=options.overwrite or options.resume)
    data = _data(options, settings.seed)
    steps = train_steps(data, settings, output=options.output, resume=options.resume)
    with Interrupt() as interrupt, progress_bar(1) as bar:
        model = run_to_completion(steps, partial(_show, bar), lambda: interrupt.asked)
    _tell(model, data)
    print(options.output)


def _data(options: argparse.Namespace, seed: int) -> TrainingData:
    given = partial(
        open_training_data,
        options.data,
        options.moving,
        pairing=options.pairing,
        template=options.template,
        pairs=options.pairs,
        validation_fraction=options.validation_fraction,
        labels=options.labels,
        group=options.group,
        image=options.image,
        moving_image=options.moving_image,
        spacing=_spacing(options.spacing),
        unit=options.unit,
        sections=options.sections,
        seed=seed,
    )
    data = given()
    if options.size is not None:
        data.grid = working_grid(data.grid, options.size or None)
    augmentation = augmentation_preset(options.augment, data.grid) or Augmentation()
    if options.known_transforms:
        longest = float((np.asarray(data.grid.shape) * data.grid.spacing).max())
        independent = SpatialAugmentation(rotation=20, scale=0.15, shift=0.1 * longest)
        return given(augmentation=replace(augmentation, independent=independent), same_image=True, grid=data.grid)
    data.augmentation = augmentation
    return data


def _spacing(text: str | None) -> str | tuple[float, ...] | None:
    """Sizes, or the name of the array that holds them."""
    try:
        return None if text is None else numbers(text)
    except ValueError:
        return text


def _show(bar: Any, progress: TrainingProgress) -> None:
    """On the bar if there is a terminal to show it on, else as a line an epoch."""
    show(bar, progress.step, progress.steps, progress.message, _figures(progress))
    if bar.disable and progress.state == "validated":
        print(f"epoch {progress.epoch} of {progress.epochs}: {_figures(progress)}", file=sys.stderr, flush=True)


def _figures(progress: TrainingProgress) -> str:
    parts: list[tuple[str, Any]] = [("loss", progress.loss), ("validation", progress.validation_loss)]
    parts += list(progress.scores.items())
    return ", ".join(f"{name} {value:.4g}" for name, value in parts if value is not None)


def _tell(model: Model, data: TrainingData) -> None:
    best = model.summary["best"]
    figures = ", ".join(f"{name} {value:.4g}" for name, value in best["scores"].items())
    print(
        f"{data.count('train')} pairs, {model.summary['epochs']} epochs, {model.summary['seconds']:.0f} s, "
        f"{model.summary['stop_reason']}; best after epoch {best['epoch']}" + (f": {figures}" if figures else "")
    )
