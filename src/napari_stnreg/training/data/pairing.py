"""Pairing of images, and the split of subjects into training and validation."""

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
"""Indices of the fixed and the moving image in their sets."""


class Pairing(ABC):
    """The pairs of an epoch."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of pairs."""

    @abstractmethod
    def pair(self, seed: int, epoch: int, index: int) -> Pair:
        """Return one pair; a pure function of the arguments."""


class FixedPairs(Pairing):
    """The same pairs in every epoch.

    Raises
    ------
    InputError
        If there are none.
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        if not pairs:
            raise InputError("There are no pairs to train on.")
        self.pairs = [(int(a), int(b)) for a, b in pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def pair(self, seed: int, epoch: int, index: int) -> Pair:
        """See :meth:`Pairing.pair`."""
        return self.pairs[index]


class RandomPairs(Pairing):
    """Random pairs of different images, other ones in every epoch.

    Parameters
    ----------
    indices
        Indices of the images.
    count
        Pairs in an epoch; by default the number of images.
    groups
        If given, both images of a pair are of one group (frames of a patient, sections of a specimen).

    Raises
    ------
    InputError
        If there are fewer than two images.
    """

    def __init__(self, indices: Sequence[int], count: int | None = None, groups: Sequence[str] | None = None) -> None:
        self.count = len(indices) if count is None else int(count)
        if groups is None:
            self.pools = [list(indices)]
        else:
            self.pools = [[i for i in indices if groups[i] == g] for g in dict.fromkeys(groups[i] for i in indices)]
        sizes = self.pools
        self.pools = [pool for pool in sizes if len(pool) > 1]
        if not self.pools or self.count < 1:
            raise InputError(
                f"Random pairs need at least two images{' of one group' if groups else ''} besides those kept for "
                f"validation, not {max(map(len, sizes), default=0)}."
            )

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
    """Pair a template, as the fixed image, with every other image."""
    return FixedPairs([(template, i) for i in indices if i != template])


def neighbors(indices: Sequence[int], max_distance: int = 1) -> FixedPairs:
    """Pair each section with those up to ``max_distance`` sections away, in both directions.

    Raises
    ------
    InputError
        If ``max_distance`` is below 1 or no two sections are close enough.
    """
    if max_distance < 1:
        raise InputError(f"max_distance must be at least 1 section, not {max_distance}.")
    chosen = set(indices)
    return FixedPairs(
        [(i, i + d) for i in indices for d in range(-max_distance, max_distance + 1) if d and i + d in chosen]
    )


def match_by_name(fixed: ImageSet, moving: ImageSet) -> list[Pair]:
    """Pair the images of two sets by name; without common names, by order.

    Raises
    ------
    InputError
        If there are no common names and the numbers differ.
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
    """Read the rows of a CSV file with the columns ``fixed`` and ``moving``.

    Raises
    ------
    InputError
        If the file is missing, is not a CSV file, or a column is missing.
    """
    if not path.is_file():
        raise InputError(f"'{path}' does not exist.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [{k: (v or "").strip() for k, v in row.items() if k} for row in csv.DictReader(file)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"'{path.name}' is not a CSV file.") from error
    if not rows or not {"fixed", "moving"} <= set(rows[0]):
        raise InputError(f"'{path.name}' needs a header with the columns 'fixed' and 'moving', and rows below it.")
    return rows


def read_pairs(path: str | Path, fixed: ImageSet, moving: ImageSet) -> list[tuple[Pair, str]]:
    """Read pairs from a CSV file with the columns ``fixed``, ``moving`` (names or numbers) and optionally ``split``.

    Returns
    -------
    list
        Each pair and its entry in the column ``split``, empty by default.

    Raises
    ------
    InputError
        If the file or a column is missing, or a name is unknown.
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


PointFiles = dict[str, Path]
"""Files of the points and surfaces of a pair, by the name of their column."""
POINT_COLUMNS = ("fixed_points", "moving_points", "fixed_surface", "moving_surface")


def read_point_files(path: Path, fixed: ImageSet, moving: ImageSet) -> dict[Pair, PointFiles]:
    """Read the columns of a list of pairs that name files of points, relative to the list.

    Raises
    ------
    InputError
        If a file does not exist, or a pair has points of one image alone.
    """
    found: dict[Pair, PointFiles] = {}
    for number, row in enumerate(read_list(path), start=2):
        files = {name: path.parent / row[name] for name in POINT_COLUMNS if row.get(name)}
        for file in files.values():
            if not file.is_file():
                raise InputError(f"Line {number} of '{path.name}' names '{file.name}', which does not exist.")
        for kind in ("points", "surface"):
            if (f"fixed_{kind}" in files) != (f"moving_{kind}" in files):
                raise InputError(f"Line {number} of '{path.name}' needs both fixed_{kind} and moving_{kind}.")
        if files:
            found[fixed.index(row["fixed"]), moving.index(row["moving"])] = files
    return found


def split_groups(groups: Sequence[str], fraction: float = 0.15, seed: int = 0) -> tuple[list[int], list[int]]:
    """Split images into training and validation by group.

    Parameters
    ----------
    groups
        The subject of each image.
    fraction
        Fraction of the groups for validation, at least one group unless it is 0.
    seed
        Seed of the choice.

    Raises
    ------
    InputError
        If the fraction is not between 0 and 1, or there is only one group.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"The validation fraction must be between 0 and 1, not {fraction}.")
    names = sorted(set(groups))
    if fraction == 0:
        return list(range(len(groups))), []
    if len(groups) < 2:
        raise InputError("A training needs at least two images.")
    if len(names) < 2:
        raise InputError("All images are of one subject. Set the validation fraction to 0, or give subjects.")
    count = min(max(round(fraction * len(names)), 1), len(names) - 1)
    held = {names[i] for i in seeded_rng(seed, 79).permutation(len(names))[:count]}
    return (
        [i for i, g in enumerate(groups) if g not in held],
        [i for i, g in enumerate(groups) if g in held],
    )
