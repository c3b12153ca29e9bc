"""The data contract of training: what a batch of pairs holds, and what gives them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from napari_stnreg.core.grid import Grid
from napari_stnreg.models.input_spec import Normalization
from napari_stnreg.transforms import Transform

Split = Literal["train", "validation"]


@dataclass
class Batch:
    """Some pairs on one lattice.

    Parameters
    ----------
    fixed, moving
        ``(B, C, *shape)`` float32, normalized.
    fixed_mask, moving_mask
        ``(B, 1, *shape)`` from 0 to 1, where the images count; ``None`` for everywhere.
    fixed_labels, moving_labels
        ``(B, 1, *shape)`` whole numbers; ``None`` where there are none.
    truth
        The transforms that are right, ``B`` of them, fixed world to moving world of the lattice; ``None`` if unknown.
    grid
        The lattice, if it is not the data's own.
    """

    fixed: Tensor
    moving: Tensor
    fixed_mask: Tensor | None = None
    moving_mask: Tensor | None = None
    fixed_labels: Tensor | None = None
    moving_labels: Tensor | None = None
    truth: Transform | None = None
    grid: Grid | None = None

    @property
    def size(self) -> int:
        """Number of pairs."""
        return self.fixed.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """The same on another device."""
        moved: dict[str, Any] = {
            one.name: value.to(device)
            for one in fields(self)
            if isinstance(value := getattr(self, one.name), Tensor | Transform)
        }
        return replace(self, **moved)


class TrainingData(Protocol):
    """What a training reads. Anything with these members will do.

    Attributes
    ----------
    grid
        The working lattice: upright, centered on the world's origin.
    channels
        Of each image.
    normalization
        What has been done to the intensities and must be done to a new image.
    labels
        The label values that batches may hold; empty without labels.
    """

    grid: Grid
    channels: int
    normalization: Normalization
    labels: tuple[int, ...]

    def count(self, split: Split) -> int:
        """Pairs in an epoch of a split; 0 if it has none."""
        ...

    def batches(self, split: Split, *, epoch: int, batch_size: int, seed: int) -> Iterator[Batch]:
        """An epoch's batches: the same for the same arguments, to the last bit; validation does not ask the epoch."""
        ...

    def summary(self) -> dict[str, Any]:
        """What it is, JSON-ready; a training is only resumed with data of the same summary."""
        ...


def steps_of(data: TrainingData, split: Split, batch_size: int) -> int:
    """Batches in an epoch of a split."""
    return math.ceil(data.count(split) / batch_size)
