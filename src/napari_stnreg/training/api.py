"""Train a network, in one call or as a generator that can be paused, stopped and resumed."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

import torch
from torch import nn
from typing_extensions import Unpack

from napari_stnreg.core.errors import InputError, RegistrationWarning
from napari_stnreg.core.progress import run_to_completion
from napari_stnreg.io.conversion import ImageLike, as_image
from napari_stnreg.losses import Similarity
from napari_stnreg.losses.custom import LossFunction
from napari_stnreg.models.model import Model
from napari_stnreg.training.callbacks import CurveFile, TensorBoardLog, curve_path
from napari_stnreg.training.checkpoint import checkpoint_path
from napari_stnreg.training.data.batch import TrainingData
from napari_stnreg.training.data.datasets import open_training_data
from napari_stnreg.training.data.torch_data import (
    DatasetPairs,
    LoaderPairs,
    WithValidation,
    is_dataset,
    is_loader,
    is_samples,
)
from napari_stnreg.training.parts import OptimizerFactory, SchedulerFactory, take_parts
from napari_stnreg.training.progress import TrainingProgress
from napari_stnreg.training.settings import ScheduleName, TrainingSettings
from napari_stnreg.training.trainer import Trainer, TrainingSteps
from napari_stnreg.training.warm_start import WarmStart

TrainingSource = (
    TrainingData | str | os.PathLike[str] | Sequence[ImageLike] | torch.utils.data.Dataset[Any]
    | torch.utils.data.DataLoader[Any]
)  # fmt: skip
"""What a network can be trained on."""


VALIDATION_FRACTION = 0.15
"""Fraction of the subjects kept for validation, unless there are validation data."""


class TrainingOptions(TypedDict, total=False):
    """Fields of :class:`~napari_stnreg.TrainingSettings` as keyword arguments."""

    network: str | nn.Module | type[nn.Module]
    family: str | None
    network_options: dict[str, Any]
    similarity: str | Similarity | LossFunction | None
    similarity_weight: float
    window: int | None
    diffusion: float | None
    bending: float
    folding: float
    label_weight: float
    truth_weight: float
    point_weight: float
    surface_weight: float
    inverse_consistency: float
    gradient_inverse_consistency: float
    kl: float
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
    validation: TrainingSource | None = None,
    optimizer: OptimizerFactory | None = None,
    scheduler: SchedulerFactory | None = None,
    callbacks: Sequence[Any] = (),
    tensorboard: str | os.PathLike[str] | None = None,
    progress: Callable[[TrainingProgress], None] | None = None,
    **options: Unpack[TrainingOptions],
) -> Model:
    """Train a network that registers images in one pass.

    Parameters
    ----------
    data
        Pairs of images, such as :func:`napari_stnreg.open_training_data` opens; or images, which are paired at random:
        a list of anything that :func:`~napari_stnreg.as_image` takes, an array ``(N, y, x)`` or ``(N, z, y, x)``, a
        folder, or an ``.npz`` file. A CSV list with the columns fixed and moving pairs its files. Or a list of pairs,
        ``[(fixed, moving), ...]``, a dataset, or a data loader of torch, of MONAI or TorchIO too, whose samples are
        dictionaries with ``fixed`` and ``moving`` (or ``image``), tuples or images; see
        :func:`~napari_stnreg.training.data.torch_data.read_sample`.
    spacing, unit
        Voxel size and unit of images given as a list, an array, tensors or an ``.npz`` file; files keep their own.
    settings
        Settings of the training; single fields may be given by name in ``options``.
    output
        File for the model. A checkpoint and the curves (``.curve.csv``) are saved beside it after every epoch.
    resume
        Continue from that checkpoint, if there is one. A finished training continues if ``epochs`` is larger now.
    warm_start
        A trained model, its file, or the name of a bundled model to continue from: its network and weights. The model
        itself is not changed.
    validation
        Validation data instead of a part of ``data``.
    optimizer
        Function from the weights to an optimizer of torch, such as ``torch.optim.RAdam``. Its learning rates follow the
        schedule of the settings unless there is a scheduler. By default AdamW.
    scheduler
        Function from the optimizer to a learning-rate scheduler of torch; its ``step`` is called after every epoch.
    callbacks
        Objects with some of the methods of :class:`~napari_stnreg.TrainingCallback`.
    tensorboard
        Folder for the curves in TensorBoard's format; needs the extra ``tensorboard``.
    progress
        Called after every step.
    **options
        Fields of :class:`~napari_stnreg.TrainingSettings`. ``network`` may also be a :class:`torch.nn.Module` that maps
        two images to the parameters of a transform (see :class:`~napari_stnreg.networks.CustomNetwork`); a copy of it
        is trained. ``similarity`` may be a function ``loss(warped, fixed)``, such as a loss of torch or MONAI.

    Returns
    -------
    Model
        The model with the weights of the best validation.

    Raises
    ------
    InputError
        If the data or settings cannot be used.
    """
    model = run_to_completion(
        train_steps(
            data,
            settings,
            spacing=spacing,
            unit=unit,
            output=output,
            resume=resume,
            warm_start=warm_start,
            validation=validation,
            optimizer=optimizer,
            scheduler=scheduler,
            callbacks=callbacks,
            tensorboard=tensorboard,
            **options,
        ),
        progress,
    )
    for text in model.summary["warnings"]:
        warnings.warn(text, RegistrationWarning, stacklevel=2)
    return model


def train_steps(
    data: TrainingSource,
    settings: TrainingSettings | None = None,
    *,
    spacing: float | Sequence[float] | None = None,
    unit: str | None = None,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    warm_start: WarmStart | None = None,
    validation: TrainingSource | None = None,
    optimizer: OptimizerFactory | None = None,
    scheduler: SchedulerFactory | None = None,
    callbacks: Sequence[Any] = (),
    tensorboard: str | os.PathLike[str] | None = None,
    **options: Unpack[TrainingOptions],
) -> TrainingSteps:
    """Generator form of :func:`train`, for progress reporting, pausing and cancellation.

    Yields :class:`TrainingProgress` and returns the :class:`Model`. Send ``"pause"``, ``"resume"``, or ``"stop"``,
    which keeps the best so far. Closing the generator discards everything but the last checkpoint.
    """
    parts, named = take_parts(dict(options), optimizer=optimizer, scheduler=scheduler, callbacks=callbacks)
    settings = TrainingSettings.merge(settings, named)
    pairs = _open(data, spacing, unit, settings.seed)
    if validation is not None:
        pairs = WithValidation(pairs, _open(validation, spacing, unit, settings.seed, whole=True))
    target = None if output is None else Path(output)
    logs: list[Any] = [] if target is None else [CurveFile(curve_path(target))]
    if tensorboard is not None:
        logs.append(TensorBoardLog(tensorboard))
    parts = replace(parts, callbacks=parts.callbacks.with_members(*logs))
    trainer: Trainer | None = None
    try:
        checkpoint = None if target is None else checkpoint_path(target)
        trainer = Trainer(pairs, settings, checkpoint, resume=resume, warm_start=warm_start, parts=parts)
        model = yield from trainer.run()
        if target is not None and trainer.processes.is_first:
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


def _open(
    data: TrainingSource,
    spacing: float | Sequence[float] | None,
    unit: str | None,
    seed: int,
    *,
    whole: bool = False,
) -> TrainingData:
    """Open training data; ``whole`` keeps nothing back for validation."""
    fraction = 0.0 if whole else VALIDATION_FRACTION
    if isinstance(data, str | os.PathLike):
        sizes = [spacing] if isinstance(spacing, int | float) else spacing
        return open_training_data(Path(data), spacing=sizes, unit=unit or "pixel", validation_fraction=fraction)
    if is_loader(data):
        return LoaderPairs(data, spacing=spacing, unit=unit)
    if is_dataset(data) or is_samples(data):
        return DatasetPairs(data, spacing=spacing, unit=unit, seed=seed, validation_fraction=fraction)
    if isinstance(data, Sequence) or hasattr(data, "__array__"):
        images: Sequence[ImageLike] = data  # type: ignore[assignment]  # an array is a sequence of images
        return open_training_data(
            [as_image(one, spacing=spacing, unit=unit) for one in images], validation_fraction=fraction
        )
    if not hasattr(data, "batches"):
        raise InputError(
            f"An object of type {type(data).__name__} cannot be trained on. Pass images, files, a dataset or a data "
            "loader."
        )
    return cast(TrainingData, data)
