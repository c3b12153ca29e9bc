"""What a running training tells about itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.grid import Grid
from napari_stnreg.transforms import Transform

State = Literal["running", "paused", "validated"]


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of the curves.

    Parameters
    ----------
    epoch
        Epochs done, from 0 (before training; it has no training loss).
    loss, terms
        Mean training loss, and its parts before they are weighted.
    validation_loss, scores
        Mean over the validation pairs; figures by name: similarity, dice, error (in world units), reconstruction.
    learning_rate, seconds
        At its end, and how long it took.
    """

    epoch: int
    loss: float | None
    terms: dict[str, float]
    validation_loss: float | None
    scores: dict[str, float]
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class Example:
    """The fixed validation pair as the network registers it now.

    Parameters
    ----------
    epoch
        Epochs done.
    fixed, moving, warped
        ``(*grid.shape)`` float32, the first channel. For an auto-encoder, ``warped`` is the moving image as drawn.
    grid
        The working lattice.
    transform
        On the CPU; ``None`` for an auto-encoder.
    """

    epoch: int
    fixed: npt.NDArray[np.float32]
    moving: npt.NDArray[np.float32]
    warped: npt.NDArray[np.float32]
    grid: Grid
    transform: Transform | None


@dataclass(frozen=True)
class TrainingProgress:
    """One step of a running training.

    Parameters
    ----------
    state
        ``"running"`` after a step, ``"validated"`` after an epoch and its validation, ``"paused"`` while it waits.
    epoch, epochs
        Epochs done and planned.
    step, steps
        Batches done and planned over the whole training; ``step / steps`` fills a progress bar.
    loss, terms
        Mean training loss of the epoch so far, and its parts.
    validation_loss, scores
        Of the last validation.
    best
        Epoch of the best weights so far.
    seconds, seconds_left
        Spent (over all resumptions), and an estimate of what is left; ``None`` until it can be made.
    curve
        All epochs so far.
    example
        The fixed validation pair as it was registered after the last epoch.
    message
        A few words for a person.
    """

    state: State
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
    example: Example | None = None
    message: str = field(default="")

    @property
    def fraction(self) -> float:
        """Share of the planned steps that is done, 0 to 1."""
        return min(self.step / max(self.steps, 1), 1.0)
