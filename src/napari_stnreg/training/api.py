"""Train a network, in one call or as a generator that can be paused, stopped and resumed."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from napari_stnreg.core.image import Image
from napari_stnreg.core.progress import run_to_completion
from napari_stnreg.models.model import Model
from napari_stnreg.training.checkpoint import checkpoint_path
from napari_stnreg.training.data.batch import TrainingData
from napari_stnreg.training.data.datasets import open_training_data
from napari_stnreg.training.progress import TrainingProgress
from napari_stnreg.training.settings import TrainingSettings
from napari_stnreg.training.trainer import Trainer, TrainingSteps
from napari_stnreg.training.warm_start import WarmStart


def train(
    data: TrainingData | Sequence[Image],
    settings: TrainingSettings | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    warm_start: WarmStart | None = None,
    progress: Callable[[TrainingProgress], None] | None = None,
    **options: Any,
) -> Model:
    """Train a network that registers images in one pass.

    Parameters
    ----------
    data
        Pairs of images, such as :func:`napari_stnreg.open_training_data` opens; or a list of images, which are paired
        at random.
    settings
        See :class:`~napari_stnreg.training.settings.TrainingSettings`; or pass its fields as keyword arguments.
    output
        File for the model. A checkpoint is saved beside it after every epoch.
    resume
        Continue from that checkpoint, if there is one.
    warm_start
        A trained model, its file, or the name of a bundled model to continue from: its network and weights. The model
        itself is not changed.
    progress
        Called after every step.

    Returns
    -------
    Model
        The model with the weights of the best validation.

    Raises
    ------
    InputError
        If the data or settings cannot be used.
    """
    return run_to_completion(
        train_steps(data, settings, output=output, resume=resume, warm_start=warm_start, **options), progress
    )


def train_steps(
    data: TrainingData | Sequence[Image],
    settings: TrainingSettings | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    warm_start: WarmStart | None = None,
    **options: Any,
) -> TrainingSteps:
    """Generator form of :func:`train`, for progress reporting, pausing and cancellation.

    Yields :class:`TrainingProgress` and returns the :class:`Model`. Send ``"pause"``, ``"resume"``, or ``"stop"``,
    which keeps the best so far. Closing the generator discards everything but the last checkpoint.
    """
    settings = TrainingSettings.merge(settings, options)
    pairs: TrainingData = open_training_data(data) if isinstance(data, Sequence) else data
    target = None if output is None else Path(output)
    trainer: Trainer | None = None
    try:
        checkpoint = None if target is None else checkpoint_path(target)
        trainer = Trainer(pairs, settings, checkpoint, resume=resume, warm_start=warm_start)
        model = yield from trainer.run()
        if target is not None:
            model.save(target)
            model.name = target.stem
        return model
    finally:
        device = None if trainer is None else trainer.device
        if trainer is not None:
            trainer.release()
        del trainer
        if device is not None and device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
