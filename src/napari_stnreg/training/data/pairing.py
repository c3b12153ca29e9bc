"""Which images are paired with which, and which subjects are held back."""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from napari_stnreg.core.errors import InputError
from napari_stnreg.training.data.image_sets import ImageSet
from napari_stnreg.training.data.pair_sampler import seeded_rng

Pair = tuple[int, int]
"""Places of the fixed and the moving image in their sets."""


class Pairing(ABC):
    """The pairs of an epoch."""

    @abstractmethod
    def __len__(self) -> int:
        """How many."""

    @abstractmethod
    def pair(self, seed: int, epoch: int, index: int) -> Pair:
        """One of them; the same for the same arguments."""


class FixedPairs(Pairing):
    """A list that is the same in every epoch.

    Raises
    ------
    InputError
        If it is empty.
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        if not pairs:
            raise InputError("There is no pair of images to train on.")
        self.pairs = [(int(a), int(b)) for a, b in pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def pair(self, seed: int, epoch: int, index: int) -> Pair:
        """See :meth:`Pairing.pair`."""
        return self.pairs[index]


class RandomPairs(Pairing):
    """Pairs of different images, drawn anew in every epoch.

    Parameters
    ----------
    indices
        Places of the images.
    count
        Pairs in an epoch; as many as there are images unless told otherwise.
    groups
        If given, pairs are drawn within a group only (frames of one patient, sections of one specimen).

    Raises
    ------
    InputError
        If there are not two images to pair.
    """

    def __init__(self, indices: Sequence[int], count: int | None = None, groups: Sequence[str] | None = None) -> None:
        self.count = len(indices) if count is None else int(count)
        if groups is None:
            self.pools = [list(indices)]
        else:
            self.pools = [[i for i in indices if groups[i] == g] for g in dict.fromkeys(groups[i] for i in indices)]
        self.pools = [pool for pool in self.pools if len(pool) > 1]
        if not self.pools or self.count < 1:
            raise InputError("Random pairs need at least two images" + (" of one group." if groups else "."))

    def __len__(self) -> int:
        return self.count

    def pair(self, seed: int, epoch: int, index: int) -> Pair:
        """See :meth:`Pairing.pair`."""
        random = seeded_rng(seed, epoch, index, 78)
        sizes = np.array([len(pool) for pool in self.pools], dtype=float)
        pool = self.pools[int(random.choice(len(self.pools), p=sizes / sizes.sum()))]
        first, second = random.choice(len(pool), size=2, replace=False)
        return pool[int(first)], pool[int(second)]


def template_pairs(indices: Sequence[int], template: int) -> FixedPairs:
    """Every image as the moving one to a template."""
    return FixedPairs([(template, i) for i in indices if i != template])


def neighbors(indices: Sequence[int], max_distance: int = 1) -> FixedPairs:
    """Each section with those up to ``max_distance`` places away, in both directions.

    Raises
    ------
    InputError
        If ``max_distance`` is below 1 or no two sections are that near.
    """
    if max_distance < 1:
        raise InputError(f"Neighbors lie at least 1 section away, not {max_distance}.")
    chosen = set(indices)
    return FixedPairs(
        [(i, i + d) for i in indices for d in range(-max_distance, max_distance + 1) if d and i + d in chosen]
    )


def match_by_name(fixed: ImageSet, moving: ImageSet) -> list[Pair]:
    """Images of two sets that have one name, as two folders of files do; with no name in common, by their order.

    Raises
    ------
    InputError
        If they match neither by name nor in number.
    """
    places = {name: i for i, name in enumerate(moving.names)}
    both = [(i, places[name]) for i, name in enumerate(fixed.names) if name in places]
    if both:
        return both
    if len(fixed) != len(moving):
        raise InputError(
            f"The {len(fixed)} fixed and {len(moving)} moving images have no name in common and differ in number."
        )
    return [(i, i) for i in range(len(fixed))]


def read_list(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with at least the columns ``fixed`` and ``moving``.

    Raises
    ------
    InputError
        If the file is missing, no CSV file, or lacks a column.
    """
    if not path.is_file():
        raise InputError(f"There is no list of pairs '{path}'.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [{k: (v or "").strip() for k, v in row.items() if k} for row in csv.DictReader(file)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"'{path.name}' is not a CSV file.") from error
    if not rows or not {"fixed", "moving"} <= set(rows[0]):
        raise InputError(f"'{path.name}' needs a header with the columns 'fixed' and 'moving', and rows below it.")
    return rows


def read_pairs(path: str | Path, fixed: ImageSet, moving: ImageSet) -> list[tuple[Pair, str]]:
    """Pairs from a CSV file with columns ``fixed`` and ``moving`` (names or numbers) and perhaps ``split``.

    Returns
    -------
    list
        Each pair and what its row says in the column ``split`` (nothing if there is none).

    Raises
    ------
    InputError
        If the file is missing or lacks a column, or a name is not known.
    """
    path = Path(path)
    pairs = []
    for number, row in enumerate(read_list(path), start=2):
        try:
            pair = fixed.index(row["fixed"]), moving.index(row["moving"])
        except InputError as error:
            raise InputError(f"Line {number} of '{path.name}': {error}") from error
        pairs.append((pair, row.get("split", "")))
    return pairs


def split(groups: Sequence[str], share: float = 0.15, seed: int = 0) -> tuple[list[int], list[int]]:
    """Places of images for training and for validation; a group is wholly in one of them.

    Parameters
    ----------
    groups
        The subject of each image.
    share
        Of the groups that are held back, at least one unless it is 0.
    seed
        Which ones.

    Raises
    ------
    InputError
        If the share is not between 0 and 1, or there are not enough groups to hold one back.
    """
    if not 0 <= share < 1:
        raise InputError(f"The share held back for validation lies between 0 and 1, not {share}.")
    names = sorted(set(groups))
    if share == 0:
        return list(range(len(groups))), []
    if len(names) < 2:
        raise InputError("All images are of one subject, so none can be held back; set the validation share to 0.")
    count = min(max(round(share * len(names)), 1), len(names) - 1)
    held = {names[i] for i in seeded_rng(seed, 79).permutation(len(names))[:count]}
    return (
        [i for i, g in enumerate(groups) if g not in held],
        [i for i, g in enumerate(groups) if g in held],
    )
