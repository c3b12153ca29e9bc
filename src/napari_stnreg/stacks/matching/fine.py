"""The fine pass: how the vectors of two neighboring sections should differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.registration.pyramid import Level
from napari_stnreg.registration.translation_search import best_translations
from napari_stnreg.stacks.matching.pair_frame import LEAST_PIXELS, FeatureSampler, PairFrame, common_box, compare
from napari_stnreg.stacks.matching.spline_fit import Basis, SplineFit, fit_spline
from napari_stnreg.stacks.preprocessing.features import PreparedSection
from napari_stnreg.stacks.section_transform import Lattice, SectionTransform, bounding_box
from napari_stnreg.stacks.settings import StackSettings

ITERATIONS = (4, 4, 3, 3)
"""Gauss-Newton steps from the coarsest level used to the finest."""
LAST_DROP = 0.05
"""Share of the worst pixels that is left out at the end."""
SHARED = 0.4
"""Correlation at one level below which the next finer one is left out: its detail is another in every section."""
LEAST_OVERLAP = 0.02
"""Pieces that share less than this part of the canvas say nothing about each other."""


@dataclass(frozen=True)
class FineMatch:
    """By how much the vectors of section ``b`` should differ from those of section ``a``.

    Parameters
    ----------
    shift
        ``(Pa, Pb, 2, gy, gx)`` canvas pixels: vectors of a piece of ``b`` minus those of a piece of ``a``.
    weight
        ``(Pa, Pb, 3, gy, gx)`` how firmly: yy, yx, xx, about 1 in the middle of tissue with detail, 0 off it.
    score
        ``(Pa, Pb)`` correlation of the features where both are tissue.
    overlap
        ``(Pa, Pb)`` common tissue as a share of the common canvas.
    """

    shift: FloatArray
    weight: FloatArray
    score: FloatArray
    overlap: FloatArray

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """What there is to keep of it, by name."""
        return {"shift": self.shift, "weight": self.weight, "score": self.score, "overlap": self.overlap}

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[np.generic]]) -> FineMatch:
        """The match that :meth:`to_arrays` was taken of."""
        return cls(*(np.asarray(arrays[name], dtype=np.float64) for name in ("shift", "weight", "score", "overlap")))


def initial_transforms(
    affines: list[FloatArray], sections: Sequence[PreparedSection | SectionTransform], settings: StackSettings
) -> list[SectionTransform]:
    """Maps without deformation, over one lattice that covers all sections.

    Parameters
    ----------
    affines
        ``(3, 3)`` canvas to section, one a section.
    sections
        Anything with ``shape``, ``parts`` and ``factor``, one a section.
    """
    single = Lattice((0.0, 0.0), (1.0, 1.0), (4, 4))
    plain = [SectionTransform.from_affine(a, single, s.shape) for a, s in zip(affines, sections, strict=True)]
    low, high = bounding_box(plain)
    spacing = max(max(s.shape) / settings.cells(s.shape) for s in sections)
    lattice = Lattice.covering(low, high, spacing)
    return [
        SectionTransform.from_affine(a, lattice, s.shape, s.fragment_labels, s.factor)
        for a, s in zip(affines, sections, strict=True)
    ]


def fine_match(
    a: PreparedSection,
    b: PreparedSection,
    map_a: SectionTransform,
    map_b: SectionTransform,
    settings: StackSettings,
    again: int = 0,
    *,
    outline: bool = False,
) -> FineMatch:
    """Match two sections where their maps put them.

    Parameters
    ----------
    a, b
        Neighbors, or near neighbors.
    map_a, map_b
        Where they lie so far; on the same lattice.
    settings
        Stiffness and the share of the pixels that is dropped.
    again
        Round: 0 for the first, in which pieces of a cracked section are looked for farther away and coarser levels
        are used.
    outline
        For sections far apart: begin with the coarsest level in every round, and believe only levels at which the two
        still resemble each other. If there is none, all weights are zero.
    """
    lattice = map_a.lattice
    counts = (map_a.n_fragments, map_b.n_fragments)
    shift, weight = np.zeros((*counts, 2, *lattice.shape)), np.zeros((*counts, 3, *lattice.shape))
    score, overlap = np.zeros(counts), np.zeros(counts)
    low, high = common_box((map_a, map_b))
    for p in range(counts[0]):
        for q in range(counts[1]):
            found = _match_pieces(a, b, map_a, map_b, (p, q), settings, again, outline, (low, high))
            if found is None:
                continue
            shift[p, q] = found.vectors - map_a.vectors[p]
            weight[p, q] = found.weight
            score[p, q], overlap[p, q] = found.score, found.overlap
    return FineMatch(shift, weight, score, overlap)


def _match_pieces(
    a: PreparedSection,
    b: PreparedSection,
    map_a: SectionTransform,
    map_b: SectionTransform,
    which: tuple[int, int],
    settings: StackSettings,
    again: int,
    outline: bool,
    box: tuple[FloatArray, FloatArray],
) -> SplineFit | None:
    lattice, (p, q) = map_a.lattice, which
    part_a, part_b = (p if map_a.n_fragments > 1 else None), (q if map_b.n_fragments > 1 else None)
    deepest = min(len(a.levels), len(b.levels)) - 1
    near_already = again > 0 and not outline
    first = min(deepest, 1 if near_already else 3)
    vectors = map_b.vectors[q].copy()
    found: SplineFit | None = None
    for level in range(first, -1, -1):
        step = a.factor * 2.0**level
        canvas = PairFrame.over(*box, step)
        if min(canvas.shape) < 8:
            continue
        side_a = FeatureSampler(a, level, map_a.affines[p], part_a)
        side_b = FeatureSampler(b, level, map_b.affines[q], part_b)
        own = Basis(lattice, canvas).field(torch.as_tensor(map_a.vectors[p], dtype=torch.float32))
        seen = canvas.points() + own
        if found is None and again == 0 and (part_a is not None or part_b is not None):
            vectors = vectors + _jump(side_a, side_b, seen, canvas, vectors, lattice)[:, None, None]
        start, end = (
            (settings.trim_fraction, LAST_DROP)
            if settings.trim_fraction > LAST_DROP
            else (settings.trim_fraction, settings.trim_fraction)
        )
        span = (first - level) / (first + 1), (first - level + 1) / (first + 1)
        drops = tuple(start + (end - start) * s for s in span)
        fit = fit_spline(
            (side_a, seen),
            side_b,
            vectors,
            canvas,
            lattice,
            neighbor=map_a.vectors[p],
            iterations=3 if near_already else ITERATIONS[first - level],
            drops=(drops[0], drops[1]),
            smoothness=settings.smoothness * STIFFNESS,
        )
        if fit.overlap < LEAST_OVERLAP:
            return None
        if outline and fit.score < SHARED:
            break
        found, vectors = fit, fit.vectors
        if fit.score < SHARED:
            break
    return found


STIFFNESS = 0.1
"""Stiffness of the difference of two neighbors at ``smoothness=1``, in units of the mean curvature of the images."""


def _jump(
    a: FeatureSampler, b: FeatureSampler, seen: torch.Tensor, canvas: PairFrame, vectors: FloatArray, lattice: Lattice
) -> FloatArray:
    """By how many pixels ``(2,)`` a piece of a torn section moved as a whole, if that is better than no move."""
    first, held_a = a.read(seen)
    base = canvas.points() + Basis(lattice, canvas).field(torch.as_tensor(vectors, dtype=torch.float32))
    second, held_b = b.read(base)
    if float(held_a.sum()) < LEAST_PIXELS or float(held_b.sum()) < LEAST_PIXELS:
        return np.zeros(2)
    grid = Grid(canvas.shape, np.eye(3))
    level = Level(first[None, :1], held_a[None, None], grid, second[None, :1], held_b[None, None], grid)
    _, matrix = best_translations(level, [np.eye(2)])[0]
    moved = matrix[:2, 2] * canvas.step
    if not np.any(moved) or np.abs(moved).max() > 0.15 * canvas.step * min(canvas.shape):
        return np.zeros(2)
    before = compare((first, held_a), (second, held_b), canvas.step, 0.0)
    there = b.read(base + torch.as_tensor(moved, dtype=torch.float32))
    after = compare((first, held_a), there, canvas.step, 0.0)
    return moved if after.score > before.score and after.overlap > 0.7 * before.overlap else np.zeros(2)
