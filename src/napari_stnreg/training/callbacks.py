"""Callbacks of a training, and the curves it writes: a CSV file always, TensorBoard on request."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from napari_stnreg.core.atomic_io import write_text
from napari_stnreg.core.errors import InputError
from napari_stnreg.models.model import Model
from napari_stnreg.training.progress import EpochRecord, TrainingProgress
from napari_stnreg.training.settings import TrainingSettings

STOP = "stop"
METHODS = ("on_start", "on_step", "on_epoch", "on_end")


class TrainingCallback:
    """Base class of callbacks; any object with some of these methods can be used.

    ``on_step`` and ``on_epoch`` end the training if they return ``"stop"``; the best weights so far are kept.
    """

    def on_start(self, network: nn.Module, settings: TrainingSettings) -> None:
        """Run before the first step.

        Parameters
        ----------
        network
            The network that is trained, on its device.
        settings
            Complete settings.
        """

    def on_step(self, progress: TrainingProgress) -> str | None:
        """Run after every batch."""
        return None

    def on_epoch(self, progress: TrainingProgress, network: nn.Module) -> str | None:
        """Run after the validation of an epoch, and once before training (epoch 0)."""
        return None

    def on_end(self, model: Model) -> None:
        """Run with the model at the end, before it is saved."""


@dataclass(frozen=True)
class Callbacks:
    """Several callbacks, called in order.

    Raises
    ------
    InputError
        If one has none of the methods.
    """

    members: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        for one in self.members:
            if not any(callable(getattr(one, name, None)) for name in METHODS):
                raise InputError(
                    f"{type(one).__name__} is not a callback. It needs one of the methods {', '.join(METHODS)}."
                )

    def call(self, method: str, *arguments: Any) -> bool:
        """Call a method of those that have it, and return whether one requested a stop."""
        answers = [getattr(one, method)(*arguments) for one in self.members if callable(getattr(one, method, None))]
        return any(isinstance(answer, str) and answer == STOP for answer in answers)

    def report(self, progress: TrainingProgress, network: nn.Module) -> bool:
        """Pass progress on, and return whether a stop was requested."""
        if progress.state == "running":
            return self.call("on_step", progress)
        return progress.state == "validated" and self.call("on_epoch", progress, network)

    def with_members(self, *members: Any) -> Callbacks:
        """Return the callbacks followed by others."""
        return Callbacks((*self.members, *members))


def curve_path(output: Path) -> Path:
    """Return the path of the training curves of a model file, beside the model."""
    return output.with_name(output.name.removesuffix(".safetensors") + ".curve.csv")


@dataclass(frozen=True)
class CurveFile(TrainingCallback):
    """Write the curves to a CSV file after every epoch, one row for each.

    Parameters
    ----------
    path
        The file.
    """

    path: Path

    def on_epoch(self, progress: TrainingProgress, network: nn.Module) -> None:
        """See :meth:`TrainingCallback.on_epoch`."""
        write_text(self.path, curve_csv(progress.curve))


def curve_csv(curve: Sequence[EpochRecord]) -> str:
    """Return training curves as CSV: epoch, losses, unweighted terms, validation scores, learning rate, seconds."""
    rows = [
        {
            "epoch": one.epoch, "loss": one.loss, "validation_loss": one.validation_loss,
            **{f"term_{name}": value for name, value in one.terms.items()},
            **{f"score_{name}": value for name, value in one.scores.items()},
            "learning_rate": one.learning_rate, "seconds": round(one.seconds, 3),
        }
        for one in curve
    ]  # fmt: skip
    measured = {name for row in rows for name in row if name.startswith(("term_", "score_"))}
    names = ["epoch", "loss", "validation_loss", *sorted(measured, reverse=True), "learning_rate", "seconds"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class TensorBoardLog(TrainingCallback):
    """Write losses, scores and the registered validation pair for TensorBoard (extra ``tensorboard``).

    Parameters
    ----------
    folder
        Folder of the run.

    Raises
    ------
    InputError
        If TensorBoard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError(
                "TensorBoard is not installed. Install it with: pip install 'napari-stnreg[tensorboard]'."
            ) from error
        self._writer: Any = SummaryWriter(str(folder))
        self._written = -1

    def on_epoch(self, progress: TrainingProgress, network: nn.Module) -> None:
        """See :meth:`TrainingCallback.on_epoch`."""
        for one in progress.curve:
            if one.epoch <= self._written:
                continue
            values = {"loss/training": one.loss, "loss/validation": one.validation_loss, "rate": one.learning_rate}
            values |= {f"term/{name}": value for name, value in one.terms.items()}
            values |= {f"score/{name}": value for name, value in one.scores.items()}
            for name, value in values.items():
                if value is not None:
                    self._writer.add_scalar(name, value, one.epoch)
            self._written = one.epoch
        if progress.example is not None:
            for name in ("fixed", "moving", "warped"):
                picture = getattr(progress.example, name)
                picture = picture[len(picture) // 2] if picture.ndim == 3 else picture
                self._writer.add_image(f"validation/{name}", picture.clip(0, 1), progress.epoch, dataformats="HW")
        self._writer.flush()

    def on_end(self, model: Model) -> None:
        """See :meth:`TrainingCallback.on_end`."""
        self._writer.close()
