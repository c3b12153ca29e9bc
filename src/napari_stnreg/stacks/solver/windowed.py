"""Solving for a stack of any length: stretch after stretch, so that memory does not grow with the number of sections.

What a section's neighbors say of it does not reach far, since the pulls to rest let it die away. A stretch is
therefore solved together with some sections beyond its ends: those of stretches that were solved before stay as they
were found, of the others nothing is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from napari_stnreg.core.grid import FloatArray
from napari_stnreg.stacks.matching.fine import FineMatch
from napari_stnreg.stacks.matching.pair_selection import Pair
from napari_stnreg.stacks.section_transform import SectionTransform
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.solver.elastic import kept, recorded, solve_elastic
from napari_stnreg.stacks.solver.landmark_constraints import Landmarks

LONGEST = 400
"""Sections that are solved for at once, at most."""
AROUND = 40
"""Sections beyond each end of a stretch that are looked at, too; more where anchors reach farther."""


def solve_stack(
    transforms: list[SectionTransform],
    matches: Mapping[Pair, FineMatch],
    settings: StackSettings,
    fixed: Mapping[int, SectionTransform] | None = None,
    landmarks: Landmarks | None = None,
) -> list[SectionTransform]:
    """Vectors for every section; parameters as of :func:`~napari_stnreg.stacks.solver.elastic.solve_elastic`.

    ``matches`` are read a stretch at a time, so they may lie on disk.
    """
    if len(transforms) <= LONGEST:
        return solve_elastic(transforms, dict(matches), settings, fixed, landmarks)
    keep, marks = kept(transforms, settings, fixed), dict(landmarks or {})
    free, around = settings.model_copy(update={"reference": None}), max(AROUND, 2 * settings.long_range_stride)
    rest = None if keep else np.zeros_like(transforms[0].vectors[0])
    found, done = [keep.get(z, one) for z, one in enumerate(transforms)], set(keep)
    for stretch in _in_order(len(transforms), done):
        low, high = max(stretch[0] - around, 0), min(stretch[-1] + 1 + around, len(transforms))
        near_fixed = {z - low: found[z] for z in range(low, high) if z in done}
        near = {(a - low, b - low): matches[a, b] for a, b in matches if low <= a and b < high}
        ties = {(a - low, b - low): sides for (a, b), sides in marks.items() if low <= a and b < high}
        solved = solve_elastic(transforms[low:high], near, free, near_fixed, ties, rest)
        if rest is None:  # one that is held takes its stretch along, and this one all others
            rest = _rest(solved)
        for z in stretch:
            found[z] = solved[z - low]
        done |= set(stretch)
    return found


def _in_order(count: int, keep: set[int]) -> list[range]:
    """Stretches of a stack that are not kept as a whole: first the one in which most is kept, then outwards from it."""
    edges = np.linspace(0, count, -(-count // LONGEST) + 1).round().astype(int).tolist()
    stretches = [range(first, last) for first, last in pairwise(edges)]
    open_ones = [k for k, one in enumerate(stretches) if not keep.issuperset(one)]
    if not open_ones:
        return []
    begin = max(open_ones, key=lambda k: len(keep.intersection(stretches[k])))
    return [stretches[k] for k in sorted(open_ones, key=lambda k: abs(k - begin))]


def _rest(transforms: list[SectionTransform]) -> FloatArray:
    """How far ``(2, gy, gx)`` sections lie in the mean from where they were recorded."""
    return np.asarray(np.mean([(recorded(one) + one.vectors).mean(axis=0) for one in transforms], axis=0))
