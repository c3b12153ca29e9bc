"""Solve for a stack of any length in overlapping windows, so that memory does not grow with the number of sections.

The influence of a match decays with distance, because of the position prior. A window is therefore solved together with
some sections beyond its ends: those of windows that were solved before stay fixed, the solution of the others is
discarded.
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
from napari_stnreg.stacks.solver.elastic import fixed_sections, recorded_displacement, solve_elastic
from napari_stnreg.stacks.solver.landmark_constraints import Landmarks

MAX_WINDOW = 400
"""Largest number of sections in a window; far more than a match reaches."""
OVERLAP = 60
"""Sections beyond each end of a window that are solved with it; more with a long-range stride."""


def solve_stack(
    transforms: list[SectionTransform],
    matches: Mapping[Pair, FineMatch],
    settings: StackSettings,
    fixed: Mapping[int, SectionTransform] | None = None,
    landmarks: Landmarks | None = None,
) -> list[SectionTransform]:
    """Solve for the vectors of all sections, one window at a time.

    The parameters are those of :func:`~napari_stnreg.stacks.solver.elastic.solve_elastic`. ``matches`` are read
    one window at a time, so they may be on disk.
    """
    if len(transforms) <= MAX_WINDOW:
        return solve_elastic(transforms, dict(matches), settings, fixed, landmarks)
    keep, marks = fixed_sections(transforms, settings, fixed), dict(landmarks or {})
    free, around = settings.model_copy(update={"reference": None}), max(OVERLAP, 2 * settings.long_range_stride)
    reference_offset = None if keep else np.zeros_like(transforms[0].vectors[0])
    found, done = [keep.get(z, one) for z, one in enumerate(transforms)], set(keep)
    for window in _in_order(len(transforms), done):
        low, high = max(window[0] - around, 0), min(window[-1] + 1 + around, len(transforms))
        near_fixed = {z - low: found[z] for z in range(low, high) if z in done}
        near = {(a - low, b - low): matches[a, b] for a, b in matches if low <= a and b < high}
        constraints = {(a - low, b - low): sides for (a, b), sides in marks.items() if low <= a and b < high}
        solved = solve_elastic(transforms[low:high], near, free, near_fixed, constraints, reference_offset)
        if reference_offset is None:  # a fixed section takes its window along, which takes the others along
            reference_offset = _mean_offset(solved)
        for z in window:
            found[z] = solved[z - low]
        done |= set(window)
    return found


def _in_order(count: int, keep: set[int]) -> list[range]:
    """Order the windows that are not fixed as a whole: from the one with most fixed sections outward."""
    edges = np.linspace(0, count, -(-count // MAX_WINDOW) + 1).round().astype(int).tolist()
    windows = [range(first, last) for first, last in pairwise(edges)]
    open_ones = [k for k, one in enumerate(windows) if not keep.issuperset(one)]
    if not open_ones:
        return []
    begin = max(open_ones, key=lambda k: len(keep.intersection(windows[k])))
    return [windows[k] for k in sorted(open_ones, key=lambda k: abs(k - begin))]


def _mean_offset(transforms: list[SectionTransform]) -> FloatArray:
    """Mean displacement ``(2, gy, gx)`` of sections relative to their recorded position."""
    return np.asarray(np.mean([(recorded_displacement(one) + one.vectors).mean(axis=0) for one in transforms], axis=0))
