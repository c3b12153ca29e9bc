"""Progress of a training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.grid import Grid
from napari_stnreg.transforms import Transform

TrainingStatus = Literal["running", "paused", "validated"]


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of the training curves.

    Parameters
    ----------
    epoch
        Completed epochs, from 0 (before training, without a training loss).
    loss, terms
        Mean training loss and its unweighted terms.
    validation_loss, scores
        Mean validation loss, and mean scores by name: similarity, dice, error (in world units), reconstruction.
    learning_rate, seconds
        Learning rate at the end, and duration.
    """

    epoch: int
    loss: float | None
    terms: dict[str, float]
    validation_loss: float | None
    scores: dict[str, float]
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class ValidationExample:
    """A fixed validation pair, registered by the current network.

    Parameters
    ----------
    epoch
        Completed epochs.
    fixed, moving, warped
        ``(*grid.shape)`` float32, the first channel. For an auto-encoder, ``warped`` is the reconstruction.
    grid
        Their grid.
    transform
        The predicted transform on the CPU; ``None`` for an auto-encoder.
    """

    epoch: int
    fixed: npt.NDArray[np.float32]
    moving: npt.NDArray[np.float32]
    warped: npt.NDArray[np.float32]
    grid: Grid
    transform: Transform | None


@dataclass(frozen=True)
class TrainingProgress:
    """Progress of a running training.

    Parameters
    ----------
    state
        ``"running"`` after a step, ``"validated"`` after the validation of an epoch, ``"paused"`` while paused.
    epoch, epochs
        Completed and planned epochs.
    step, steps
        Completed and planned batches of the whole training.
    loss, terms
        Mean training loss of the epoch so far, and its terms.
    validation_loss, scores
        Loss and scores of the last validation.
    best
        Epoch of the best weights so far.
    seconds, seconds_left
        Elapsed time (over all resumptions) and estimated remaining time, ``None`` until known.
    curve
        All epochs so far.
    example
        A fixed validation pair, registered after the last epoch.
    message
        Short description for the user.
    warnings
        What makes the training doubtful, such as few images.
    """

    state: TrainingStatus
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float | None
    terms: dict[str, float]
    validation_loss: float | None
    scores: dict[str, float]
    best: int
    seconds: float
    seconds_left: float | None
    curve: tuple[EpochRecord, ...]
    example: ValidationExample | None = None
    message: str = field(default="")
    warnings: tuple[str, ...] = ()

    @property
    def fraction(self) -> float:
        """Completed fraction of the planned steps, 0 to 1."""
        return min(self.step / max(self.steps, 1), 1.0)
