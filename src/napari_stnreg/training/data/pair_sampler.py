"""Sources of training pairs whose every pair has a seed of its own."""

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
    """Pairs one by one, put together to batches; an implementation of :class:`~.data.TrainingData`.

    Each pair is drawn from a seed that names it (seed, epoch, place), never from a running generator, so that a resumed
    training sees exactly what it would have seen.

    Parameters
    ----------
    grid
        Of every batch; its middle becomes the world's origin.
    """

    channels = 1
    normalization: Normalization = "percentiles"
    labels: tuple[int, ...] = ()

    def __init__(self, grid: Grid) -> None:
        self.grid = Grid.from_spacing(grid.shape, grid.spacing.tolist(), unit=grid.unit)
        self.grid = self.grid.translated(-self.grid.center)

    @abstractmethod
    def count(self, split: str) -> int:
        """Pairs in an epoch of ``"train"`` or ``"validation"``."""

    @abstractmethod
    def example(self, split: str, epoch: int, place: int, seed: int) -> Batch:
        """One pair, a batch of one; the same for the same arguments."""

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """What the data are, JSON-ready."""

    def batches(self, split: str, *, epoch: int, batch_size: int, seed: int) -> Iterator[Batch]:
        """The batches of an epoch, a pure function of the arguments; validation is the same in every epoch."""
        held = split == "validation"
        epoch = 0 if held else epoch
        count = self.count(split)
        order = np.arange(count) if held else seeded_rng(seed, epoch, 77).permutation(count)
        for start in range(0, count, batch_size):
            yield collate([self.example(split, epoch, int(i), seed) for i in order[start : start + batch_size]])


def collate(parts: Sequence[Batch]) -> Batch:
    """Several batches on one grid as one."""
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
    )


def _cat(tensors: Sequence[Tensor | None]) -> Tensor | None:
    held = [x for x in tensors if x is not None]
    return torch.cat(held) if len(held) == len(tensors) else None


def seeded_rng(*place: int) -> np.random.Generator:
    """A random generator for one place in a training, named by whole numbers such as seed, epoch and pair."""
    return np.random.default_rng([int(number) & 0xFFFFFFFF for number in place])


class MixedSource(PairSource):
    """Several sources together, such as real heads and generated ones; held back are pairs of the first.

    Raises
    ------
    InputError
        If they are not on one grid, or none is given.
    """

    def __init__(self, *sources: PairSource) -> None:
        if not sources:
            raise InputError("There is nothing to mix.")
        if len({source.grid for source in sources}) > 1:
            raise InputError("Sources that are mixed must have one grid.")
        super().__init__(sources[0].grid)
        self.sources = sources

    def count(self, split: str) -> int:
        """See :meth:`PairSource.count`."""
        return sum(source.count(split) for source in self._taken(split))

    def _taken(self, split: str) -> Sequence[PairSource]:
        return self.sources[:1] if split == "validation" else self.sources

    def example(self, split: str, epoch: int, place: int, seed: int) -> Batch:
        """See :meth:`PairSource.example`."""
        for number, source in enumerate(self._taken(split)):
            if place < source.count(split):
                return source.example(split, epoch, place, seed + 1000 * number)
            place -= source.count(split)
        raise IndexError(place)

    def summary(self) -> dict[str, Any]:
        """See :meth:`PairSource.summary`."""
        return {"kind": "mixed", "sources": [source.summary() for source in self.sources]}
