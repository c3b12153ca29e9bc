"""Batches of image pairs, and the interface of training data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from napari_stnreg.core.grid import Grid
from napari_stnreg.models.input_spec import Normalization
from napari_stnreg.transforms import Transform, select_transforms

Split = Literal["train", "validation"]


@dataclass
class Batch:
    """A batch of pairs on one grid.

    Parameters
    ----------
    fixed, moving
        ``(B, C, *shape)`` float32, normalized.
    fixed_mask, moving_mask
        Masks ``(B, 1, *shape)`` from 0 to 1; ``None`` for everywhere.
    fixed_labels, moving_labels
        Label maps ``(B, 1, *shape)`` of integers, or ``None``.
    truth
        ``B`` true transforms, fixed world to moving world of the grid; ``None`` if unknown.
    fixed_points, moving_points
        Corresponding points ``(B, N, D)`` in the world of the grid; NaN where a pair has fewer. ``None`` without.
    fixed_surface, moving_surface
        Points of surfaces ``(B, N, D)``, which correspond only as a whole; NaN where a pair has fewer.
    fixed_triangles, moving_triangles
        Triangles of these surfaces ``(B, K, 3)``, integers; -1 where a pair has fewer.
    grid
        The grid, if it differs from that of the data.
    """

    fixed: Tensor
    moving: Tensor
    fixed_mask: Tensor | None = None
    moving_mask: Tensor | None = None
    fixed_labels: Tensor | None = None
    moving_labels: Tensor | None = None
    truth: Transform | None = None
    fixed_points: Tensor | None = None
    moving_points: Tensor | None = None
    fixed_surface: Tensor | None = None
    moving_surface: Tensor | None = None
    fixed_triangles: Tensor | None = None
    moving_triangles: Tensor | None = None
    grid: Grid | None = None

    @property
    def size(self) -> int:
        """Number of pairs."""
        return self.fixed.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device."""
        moved: dict[str, Any] = {
            one.name: value.to(device)
            for one in fields(self)
            if isinstance(value := getattr(self, one.name), Tensor | Transform)
        }
        return replace(self, **moved)

    def part(self, rank: int, size: int) -> Batch:
        """Return every ``size``-th pair from ``rank`` on, the shard of one process; the first pair if there is none."""
        chosen = list(range(rank, self.size, size)) or [0]
        picked: dict[str, Any] = {
            one.name: value[chosen] for one in fields(self) if isinstance(value := getattr(self, one.name), Tensor)
        }
        if self.truth is not None:
            picked["truth"] = select_transforms(self.truth, chosen)
        return replace(self, **picked)


MAX_TRIANGLES = 20_000
"""Triangles of a surface in training; larger meshes are simplified."""


class TrainingData(Protocol):
    """Interface of training data; any object with these members is accepted.

    Attributes
    ----------
    grid
        Grid of every batch: axis-aligned, centered on the world's origin.
    channels
        Channels of each image.
    normalization
        Intensity normalization, applied to new images too.
    labels
        Label values; empty without labels.
    """

    grid: Grid
    channels: int
    normalization: Normalization
    labels: tuple[int, ...]

    def count(self, split: Split) -> int:
        """Return the number of pairs in an epoch of a split."""
        ...

    def batches(self, split: Split, *, epoch: int, batch_size: int, seed: int) -> Iterator[Batch]:
        """Iterate over the batches of an epoch, bit-identical for equal arguments; validation ignores the epoch."""
        ...

    def summary(self) -> dict[str, Any]:
        """Describe the data, JSON-ready; a training resumes only with data of the same summary."""
        ...


def steps_of(data: TrainingData, split: Split, batch_size: int) -> int:
    """Return the number of batches in an epoch of a split."""
    return math.ceil(data.count(split) / batch_size)
