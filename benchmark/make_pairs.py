"""Write the committed pair lists: ``python -m benchmark.make_pairs --data DIR``.

Every list is split by subject (patient, case, stain or depth) into ``tuning``, on which defaults and peer settings may
be chosen, and ``test``, which is reported. The lists are committed so that a figure can be made again even if numpy's
generator or the data's order changes; run this only to make new ones.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmark.data import FILES, PAIRS, STAINS, load_arrays

SEED = 20261
LEAST_VOXELS = 30
FIELDS = ("split", "fixed", "moving", "fixed_subject", "moving_subject")
Row = tuple[str, int | str, int | str, str, str]


def cardiac(folder: Path) -> Iterator[Row]:
    """End-diastole to end-systole: 10 patients to tune on, 20 to test on, two slices of each, patients first."""
    arrays = load_arrays(folder / FILES["cardiac"])
    random = np.random.default_rng(SEED)
    usable = (arrays["ed_mask"].sum((1, 2)) >= LEAST_VOXELS) & (arrays["es_mask"].sum((1, 2)) >= LEAST_VOXELS)
    patients = random.permutation(np.unique(arrays["patient"]))
    slices = {p: random.permutation(np.flatnonzero(usable & (arrays["patient"] == p)))[:2] for p in patients}
    for split, chosen in (("tuning", patients[:10]), ("test", patients[10:])):
        for turn, patient in itertools.product(range(2), chosen):
            if turn < len(slices[patient]):
                index = int(slices[patient][turn])
                yield split, index, index, patient, patient


def subjects(names: Sequence[str], tuning: int, first: int = 0) -> Iterator[Row]:
    """Pairs of neighbors in a shuffled ring of subjects, one ring for each split.

    The first ``first`` subjects are kept among the tuning ones, because the same people are handed out elsewhere too.
    """
    random = np.random.default_rng(SEED)
    order = np.concatenate([random.permutation(first), first + random.permutation(len(names) - first)])
    for split, ring in (("tuning", random.permutation(order[:tuning])), ("test", order[tuning:])):
        for fixed, moving in zip(ring, np.roll(ring, -1), strict=True):
            yield split, int(fixed), int(moving), names[fixed], names[moving]


def histology(tuned_on: Sequence[str] = ("CD31-3", "Cc10-5", "Ki67-7")) -> Iterator[Row]:
    """All ten pairs of stains; those with a stain that is not among the tuned-on three are the test."""
    random = np.random.default_rng(SEED)
    pairs = [tuple(random.permutation(pair)) for pair in itertools.combinations(STAINS, 2)]
    for fixed, moving in random.permutation(pairs):
        split = "tuning" if {fixed, moving} <= set(tuned_on) else "test"
        yield split, fixed, moving, fixed, moving


def fibsem() -> Iterator[Row]:
    """Planes of the volume (``fixed``) and seeds of the warp (``moving``); the splits are 30 planes apart."""
    random = np.random.default_rng(SEED)
    for split, low, high, count in (("tuning", 0, 100, 6), ("test", 130, 250, 12)):
        for plane in random.permutation(np.arange(low, high, 10))[:count]:
            yield split, int(plane), int(random.integers(1000)), f"z{plane}", f"z{plane}"


def write(name: str, rows: Iterator[Row]) -> None:
    """Write one list."""
    with (PAIRS / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        writer.writerows(rows)


def main() -> None:
    """Write every list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    folder = parser.parse_args().data
    cases = [str(c) for c in load_arrays(folder / FILES["hippocampus"])["case"]]
    brains = [str(s) for s in load_arrays(folder / FILES["brain"])["subject"]]
    write("cardiac", cardiac(folder))
    write("hippocampus", subjects(cases, tuning=80))
    write("brain", subjects(brains, tuning=12, first=6))
    write("histology", histology())
    write("fibsem", fibsem())


if __name__ == "__main__":
    main()
