"""Sources of training pairs; each pair is drawn from its own seed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.models.input_spec import Normalization
from napari_stnreg.training.data.batch import Batch
from napari_stnreg.transforms import collate_transforms

Split = Literal["train", "validation"]


class PairSource(ABC):
    """Base class: draw pairs one by one and collate them; implements :class:`~.batch.TrainingData`.

    Each pair is drawn from its own seed (seed, epoch, index), never from a running generator, so that a resumed
    training sees the same pairs.

    Parameters
    ----------
    grid
        Grid of every batch; its center becomes the world's origin.
    """

    channels = 1
    normalization: Normalization = "percentiles"
    labels: tuple[int, ...] = ()
    shard: tuple[int, int] | None = None
    """Rank of this process and number of processes; each draws its shard of the training batches."""

    def __init__(self, grid: Grid) -> None:
        self.grid = Grid.from_spacing(grid.shape, grid.spacing.tolist(), unit=grid.unit)
        self.grid = self.grid.translated(-self.grid.center)

    @abstractmethod
    def count(self, split: str) -> int:
        """Return the number of pairs in an epoch of ``"train"`` or ``"validation"``."""

    @abstractmethod
    def draw_pair(self, split: str, epoch: int, index: int, seed: int) -> Batch:
        """Return one pair as a batch of one; a pure function of the arguments."""

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """Describe the data, JSON-ready."""

    def batches(self, split: str, *, epoch: int, batch_size: int, seed: int) -> Iterator[Batch]:
        """Iterate over the batches of an epoch, a pure function of the arguments; validation ignores the epoch."""
        held = split == "validation"
        epoch = 0 if held else epoch
        count = self.count(split)
        order = np.arange(count) if held else seeded_rng(seed, epoch, 77).permutation(count)
        for start in range(0, count, batch_size):
            chosen = order[start : start + batch_size]
            if not held and self.shard is not None:
                rank, size = self.shard
                chosen = chosen[rank::size] if rank < len(chosen) else chosen[:1]
            yield collate([self.draw_pair(split, epoch, int(i), seed) for i in chosen])


def collate(parts: Sequence[Batch]) -> Batch:
    """Concatenate batches on one grid."""
    first = parts[0]
    if len(parts) == 1:
        return first
    known = [part.truth for part in parts if part.truth is not None]
    return Batch(
        torch.cat([part.fixed for part in parts]),
        torch.cat([part.moving for part in parts]),
        fixed_mask=_cat([part.fixed_mask for part in parts]),
        moving_mask=_cat([part.moving_mask for part in parts]),
        fixed_labels=_cat([part.fixed_labels for part in parts]),
        moving_labels=_cat([part.moving_labels for part in parts]),
        truth=collate_transforms(known) if len(known) == len(parts) else None,
        fixed_points=_cat_points([part.fixed_points for part in parts]),
        moving_points=_cat_points([part.moving_points for part in parts]),
        fixed_surface=_cat_points([part.fixed_surface for part in parts]),
        moving_surface=_cat_points([part.moving_surface for part in parts]),
        fixed_triangles=_cat_points([part.fixed_triangles for part in parts], -1),
        moving_triangles=_cat_points([part.moving_triangles for part in parts], -1),
    )


def _cat_points(lists: Sequence[Tensor | None], missing: float = torch.nan) -> Tensor | None:
    """Concatenate lists of points, the shorter ones filled up; ``None`` if no pair has points."""
    found = [points for points in lists if points is not None]
    if not found:
        return None
    most, ndim = max(points.shape[1] for points in found), found[0].shape[2]
    nothing = found[0].new_full((1, most, ndim), missing)
    padded = [nothing if one is None else torch.cat([one, nothing[:, one.shape[1] :]], dim=1) for one in lists]
    return torch.cat(padded)


def _cat(tensors: Sequence[Tensor | None]) -> Tensor | None:
    held = [x for x in tensors if x is not None]
    return torch.cat(held) if len(held) == len(tensors) else None


def seeded_rng(*key: int) -> np.random.Generator:
    """Return a random generator for integers such as seed, epoch and index."""
    return np.random.default_rng([int(number) & 0xFFFFFFFF for number in key])


class MixedSource(PairSource):
    """Several sources, such as acquired and generated images; validation pairs come from the first.

    Raises
    ------
    InputError
        If their grids differ, or no source is given.
    """

    def __init__(self, *sources: PairSource) -> None:
        if not sources:
            raise InputError("MixedSource needs at least one source.")
        if len({source.grid for source in sources}) > 1:
            raise InputError("Mixed sources need the same grid.")
        super().__init__(sources[0].grid)
        self.sources = sources

    def count(self, split: str) -> int:
        """See :meth:`PairSource.count`."""
        return sum(source.count(split) for source in self._sources_of(split))

    def _sources_of(self, split: str) -> Sequence[PairSource]:
        return self.sources[:1] if split == "validation" else self.sources

    def draw_pair(self, split: str, epoch: int, index: int, seed: int) -> Batch:
        """See :meth:`PairSource.draw_pair`."""
        for number, source in enumerate(self._sources_of(split)):
            if index < source.count(split):
                return source.draw_pair(split, epoch, index, seed + 1000 * number)
            index -= source.count(split)
        raise IndexError(index)

    def summary(self) -> dict[str, Any]:
        """See :meth:`PairSource.summary`."""
        return {"kind": "mixed", "sources": [source.summary() for source in self.sources]}
