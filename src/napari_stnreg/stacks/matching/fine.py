"""Fine matching: the deformation between two neighboring sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.registration.pyramid import Level
from napari_stnreg.registration.translation_search import best_translations
from napari_stnreg.stacks.matching.pair_frame import MIN_COMMON_PIXELS, FeatureSampler, PairFrame, common_box, compare
from napari_stnreg.stacks.matching.spline_fit import Basis, SplineFit, fit_spline
from napari_stnreg.stacks.preprocessing.features import PreparedSection
from napari_stnreg.stacks.section_transform import Lattice, SectionTransform, bounding_box
from napari_stnreg.stacks.settings import StackSettings


@dataclass(frozen=True)
class FineParameters:
    """Tuning constants of the fine matching. All were set by hand; no tuning is recorded.

    Parameters
    ----------
    iterations
        Gauss-Newton steps, from the coarsest level used to the finest.
    later_iterations
        Gauss-Newton steps of each level from the second iteration of the fine stage on.
    coarsest_level
        Pyramid level at which the first iteration starts.
    later_coarsest_level
        Pyramid level at which later iterations start.
    last_trim_fraction
        Fraction of the worst pixels that is trimmed at the last step.
    min_score
        Correlation at one level below which finer levels are not used, because sections share even less fine detail.
    min_overlap
        Fragments with less common tissue, relative to the frame, are not matched.
    stiffness
        Stiffness of the difference of two neighbors at ``smoothness=1``, relative to the mean curvature of the images.
    max_jump_fraction
        Largest shift of a fragment that is searched, relative to the shorter side of the frame.
    min_jump_overlap
        A shift of a fragment must keep this fraction of the overlap.
    """

    iterations: tuple[int, ...] = (4, 4, 3, 3)
    later_iterations: int = 3
    coarsest_level: int = 3
    later_coarsest_level: int = 1
    last_trim_fraction: float = 0.05
    min_score: float = 0.4
    min_overlap: float = 0.02
    stiffness: float = 0.1
    max_jump_fraction: float = 0.15
    min_jump_overlap: float = 0.7


PARAMETERS = FineParameters()


@dataclass(frozen=True)
class FineMatch:
    """Target difference between the vectors of section ``b`` and those of section ``a``.

    Parameters
    ----------
    shift
        ``(Pa, Pb, 2, gy, gx)`` canvas pixels: vectors of a fragment of ``b`` minus those of a fragment of ``a``.
    weight
        ``(Pa, Pb, 3, gy, gx)`` precision yy, yx, xx: about 1 inside tissue with detail, 0 outside.
    score
        ``(Pa, Pb)`` correlation of the features over the common tissue, at the finest level that was used.
    overlap
        ``(Pa, Pb)`` common tissue as a fraction of the common frame.
    level_scores
        ``(levels,)`` correlation of the best fragments at each level, the finest first; NaN where a level was not used.
        Only scores of the same level can be compared between pairs.
    """

    shift: FloatArray
    weight: FloatArray
    score: FloatArray
    overlap: FloatArray
    level_scores: FloatArray = field(default_factory=lambda: np.zeros(0))

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the fields as named arrays."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[np.generic]]) -> FineMatch:
        """Restore a match from :meth:`to_arrays`."""
        return cls(**{name: np.asarray(values, dtype=np.float64) for name, values in arrays.items()})


def initial_transforms(
    affines: list[FloatArray], sections: Sequence[PreparedSection | SectionTransform], settings: StackSettings
) -> list[SectionTransform]:
    """Create transforms without deformation on one lattice that covers all sections.

    Parameters
    ----------
    affines
        ``(3, 3)`` canvas to section, one per section.
    sections
        Objects with ``shape``, ``fragment_labels`` and ``factor``, one per section.
    """
    single = Lattice((0.0, 0.0), (1.0, 1.0), (4, 4))
    plain = [SectionTransform.from_affine(a, single, s.shape) for a, s in zip(affines, sections, strict=True)]
    low, high = bounding_box(plain)
    spacing = max(max(s.shape) / settings.cells(s.shape) for s in sections)
    # control points at the same places of the tissue, however far single sections stick out
    middles = [(np.asarray(s.shape, dtype=np.float64) - 1) / 2 for s in plain]
    centers = [np.linalg.solve(s.affines[0], [*m, 1.0])[:2] for s, m in zip(plain, middles, strict=True)]
    lattice = Lattice.covering(low, high, spacing, np.median(centers, axis=0))
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
    iteration: int = 0,
    *,
    outline: bool = False,
) -> FineMatch:
    """Match two sections at the positions given by their transforms.

    Parameters
    ----------
    a, b
        The two sections.
    map_a, map_b
        Their current transforms, on the same lattice.
    settings
        Smoothness and the fraction of the pixels that is trimmed.
    iteration
        Iteration of the fine stage. The first one, 0, searches fragments of a cracked section farther away and starts
        at a coarser level.
    outline
        For sections far apart: start at the coarsest level in every iteration, and use only levels at which the two
        sections still correlate. If there is none, all weights are zero.
    """
    lattice = map_a.lattice
    counts = (map_a.n_fragments, map_b.n_fragments)
    shift, weight = np.zeros((*counts, 2, *lattice.shape)), np.zeros((*counts, 3, *lattice.shape))
    score, overlap = np.zeros(counts), np.zeros(counts)
    level_scores = np.full(min(len(a.levels), len(b.levels)), np.nan)
    low, high = common_box((map_a, map_b))
    for p in range(counts[0]):
        for q in range(counts[1]):
            found, levels = _match_fragments(a, b, map_a, map_b, (p, q), settings, iteration, outline, (low, high))
            if found is None:
                continue
            shift[p, q] = found.vectors - map_a.vectors[p]
            weight[p, q] = found.weight
            score[p, q], overlap[p, q] = found.score, found.overlap
            level_scores = np.fmax(level_scores, levels)
    return FineMatch(shift, weight, score, overlap, level_scores)


def _match_fragments(
    a: PreparedSection,
    b: PreparedSection,
    map_a: SectionTransform,
    map_b: SectionTransform,
    which: tuple[int, int],
    settings: StackSettings,
    iteration: int,
    outline: bool,
    box: tuple[FloatArray, FloatArray],
) -> tuple[SplineFit | None, FloatArray]:
    """Return the fit of the finest level that was used, and the correlation at each level."""
    lattice, (p, q) = map_a.lattice, which
    fragment_a, fragment_b = (p if map_a.n_fragments > 1 else None), (q if map_b.n_fragments > 1 else None)
    deepest = min(len(a.levels), len(b.levels)) - 1
    later = iteration > 0 and not outline
    first = min(deepest, PARAMETERS.later_coarsest_level if later else PARAMETERS.coarsest_level)
    vectors = map_b.vectors[q].copy()
    found: SplineFit | None = None
    scores = np.full(deepest + 1, np.nan)
    for level in range(first, -1, -1):
        step = a.factor * 2.0**level
        frame = PairFrame.over(*box, step)
        if min(frame.shape) < 8:
            continue
        side_a = FeatureSampler(a, level, map_a.affines[p], fragment_a)
        side_b = FeatureSampler(b, level, map_b.affines[q], fragment_b)
        own = Basis(lattice, frame).field(torch.as_tensor(map_a.vectors[p], dtype=torch.float32))
        seen = frame.points() + own
        if found is None and iteration == 0 and (fragment_a is not None or fragment_b is not None):
            vectors = vectors + _fragment_shift(side_a, side_b, seen, frame, vectors, lattice)[:, None, None]
        start = settings.trim_fraction
        end = min(start, PARAMETERS.last_trim_fraction)
        span = (first - level) / (first + 1), (first - level + 1) / (first + 1)
        fit = fit_spline(
            (side_a, seen),
            side_b,
            vectors,
            frame,
            lattice,
            neighbor=map_a.vectors[p],
            iterations=PARAMETERS.later_iterations if later else PARAMETERS.iterations[first - level],
            trim_fractions=(start + (end - start) * span[0], start + (end - start) * span[1]),
            smoothness=settings.smoothness * PARAMETERS.stiffness,
        )
        if fit.overlap < PARAMETERS.min_overlap:
            return None, scores
        if outline and fit.score < PARAMETERS.min_score:
            break
        found, vectors, scores[level] = fit, fit.vectors, fit.score
        if fit.score < PARAMETERS.min_score:
            break
    return found, scores


def _fragment_shift(
    a: FeatureSampler, b: FeatureSampler, seen: torch.Tensor, frame: PairFrame, vectors: FloatArray, lattice: Lattice
) -> FloatArray:
    """Search the shift ``(2,)`` of a whole fragment in pixels; zero if no shift improves the correlation."""
    first, mask_a = a.sample_features(seen)
    base = frame.points() + Basis(lattice, frame).field(torch.as_tensor(vectors, dtype=torch.float32))
    second, mask_b = b.sample_features(base)
    if float(mask_a.sum()) < MIN_COMMON_PIXELS or float(mask_b.sum()) < MIN_COMMON_PIXELS:
        return np.zeros(2)
    grid = Grid(frame.shape, np.eye(3))
    level = Level(first[None, :1], mask_a[None, None], grid, second[None, :1], mask_b[None, None], grid)
    _, matrix = best_translations(level, [np.eye(2)])[0]
    moved = matrix[:2, 2] * frame.step
    if not np.any(moved) or np.abs(moved).max() > PARAMETERS.max_jump_fraction * frame.step * min(frame.shape):
        return np.zeros(2)
    before = compare((first, mask_a), (second, mask_b), frame.step, 0.0)
    there = b.sample_features(base + torch.as_tensor(moved, dtype=torch.float32))
    after = compare((first, mask_a), there, frame.step, 0.0)
    improved = after.score > before.score and after.overlap > PARAMETERS.min_jump_overlap * before.overlap
    return moved if improved else np.zeros(2)
