"""Train a network, in one call or as a generator that can be paused, stopped and resumed."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from typing_extensions import Unpack

from napari_stnreg.core.progress import run_to_completion
from napari_stnreg.io.conversion import ImageLike, as_image
from napari_stnreg.models.model import Model
from napari_stnreg.training.checkpoint import checkpoint_path
from napari_stnreg.training.data.batch import TrainingData
from napari_stnreg.training.data.datasets import open_training_data
from napari_stnreg.training.progress import TrainingProgress
from napari_stnreg.training.settings import ScheduleName, TrainingSettings
from napari_stnreg.training.trainer import Trainer, TrainingSteps
from napari_stnreg.training.warm_start import WarmStart

TrainingSource = TrainingData | str | os.PathLike[str] | Sequence[ImageLike]
"""What a network can be trained on."""


class TrainingOptions(TypedDict, total=False):
    """Fields of :class:`~napari_stnreg.TrainingSettings` as keyword arguments."""

    network: str
    family: str | None
    network_options: dict[str, Any]
    similarity: str | None
    similarity_weight: float
    window: int | None
    diffusion: float | None
    bending: float
    folding: float
    label_weight: float
    truth_weight: float
    strategy: Literal["joint", "sequential"]
    epochs: int
    batch_size: int
    gradient_accumulation: int
    learning_rate: float
    schedule: ScheduleName
    warmup: float
    weight_decay: float
    gradient_clip: float
    patience: int | None
    size_mode: Literal["auto", "spacing", "extent"]
    mixed_precision: Literal["auto", "on", "off"]
    snapshots: int
    device: str
    seed: int


def train(
    data: TrainingSource,
    settings: TrainingSettings | None = None,
    *,
    spacing: float | Sequence[float] | None = None,
    unit: str | None = None,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    warm_start: WarmStart | None = None,
    progress: Callable[[TrainingProgress], None] | None = None,
    **options: Unpack[TrainingOptions],
) -> Model:
    """Train a network that registers images in one pass.

    Parameters
    ----------
    data
        Pairs of images, such as :func:`napari_stnreg.open_training_data` opens; or images, which are paired at random:
        a list of anything that :func:`~napari_stnreg.as_image` takes, an array ``(N, y, x)`` or ``(N, z, y, x)``, a
        folder, or an ``.npz`` file. A CSV list with the columns fixed and moving pairs its files.
    spacing, unit
        Voxel size and unit of images given as a list, an array or an ``.npz`` file; files keep their own.
    settings
        Settings of the training; single fields may be given by name in ``options``.
    output
        File for the model. A checkpoint is saved beside it after every epoch.
    resume
        Continue from that checkpoint, if there is one.
    warm_start
        A trained model, its file, or the name of a bundled model to continue from: its network and weights. The model
        itself is not changed.
    progress
        Called after every step.
    **options
        Fields of :class:`~napari_stnreg.TrainingSettings`.

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
        train_steps(
            data, settings, spacing=spacing, unit=unit, output=output, resume=resume, warm_start=warm_start, **options
        ),
        progress,
    )


def train_steps(
    data: TrainingSource,
    settings: TrainingSettings | None = None,
    *,
    spacing: float | Sequence[float] | None = None,
    unit: str | None = None,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    warm_start: WarmStart | None = None,
    **options: Unpack[TrainingOptions],
) -> TrainingSteps:
    """Generator form of :func:`train`, for progress reporting, pausing and cancellation.

    Yields :class:`TrainingProgress` and returns the :class:`Model`. Send ``"pause"``, ``"resume"``, or ``"stop"``,
    which keeps the best so far. Closing the generator discards everything but the last checkpoint.
    """
    settings = TrainingSettings.merge(settings, dict(options))
    pairs = _open(data, spacing, unit)
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


def _open(data: TrainingSource, spacing: float | Sequence[float] | None, unit: str | None) -> TrainingData:
    if isinstance(data, str | os.PathLike):
        sizes = [spacing] if isinstance(spacing, int | float) else spacing
        return open_training_data(Path(data), spacing=sizes, unit=unit or "pixel")
    if isinstance(data, Sequence) or hasattr(data, "__array__"):
        images: Sequence[ImageLike] = data  # type: ignore[assignment]  # an array is a sequence of images
        return open_training_data([as_image(one, spacing=spacing, unit=unit) for one in images])
    return data
