"""Coarse matching: one affine transform between two sections, for any shift and rotation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.linalg import rotation_2d
from napari_stnreg.registration.pyramid import Level
from napari_stnreg.registration.translation_search import best_translations
from napari_stnreg.stacks.matching.pair_frame import MIN_COMMON_PIXELS, FeatureSampler, PairFrame, compare
from napari_stnreg.stacks.preprocessing.features import PreparedSection
from napari_stnreg.stacks.settings import StackSettings


@dataclass(frozen=True)
class CoarseParameters:
    """Tuning constants of the coarse matching. All were set by hand; no tuning is recorded.

    Parameters
    ----------
    search_side
        Approximate number of pixels along the longer side at which translations and rotations are searched.
    min_overlap
        Smallest common tissue of two sections, relative to the smaller one. Below it, chance matches occur.
    good_score
        Correlation above which only small rotations are searched.
    fair_score
        Correlation above which a candidate at a small rotation is replaced only by a far better one.
    far_better_factor
        Ratio of the correlations that counts as far better.
    sure_confidence
        Matches below this confidence are checked by matching the sections around them.
    min_confidence
        Matches below this confidence are ignored.
    min_margin
        Fraction by which the best candidate must exceed the next different one, and chance, for full confidence.
    better_affine_factor
        Ratio of the correlations by which an affine candidate at another place, or a magnification, has to fit better.
    better_contrast_factor
        Ratio of the correlations by which inverted contrast has to fit better. FIB-SEM slices 80 nm apart fit 1.3 to
        4.1 times better with the right contrast than by chance with the wrong one.
    near_rotations_deg
        Small rotations that are searched first.
    rotation_step_deg
        Step of the search over all rotations.
    magnifications
        Changes of size that are tried where nothing convincing is found.
    """

    search_side: int = 72
    min_overlap: float = 0.25
    good_score: float = 0.5
    fair_score: float = 0.35
    far_better_factor: float = 1.4
    sure_confidence: float = 0.45
    min_confidence: float = 0.3
    min_margin: float = 0.15
    better_affine_factor: float = 1.15
    better_contrast_factor: float = 1.25
    near_rotations_deg: tuple[int, ...] = (0, -3, 3, -6, 6)
    rotation_step_deg: int = 5
    magnifications: tuple[float, ...] = (0.8, 0.87, 1.15, 1.25)


PARAMETERS = CoarseParameters()
Candidate = tuple[float, FloatArray, float]
"""Correlation, matrix and overlap of a candidate of the search."""
NO_CANDIDATE: Candidate = (-1.0, np.eye(3), 0.0)


@dataclass(frozen=True)
class CoarseMatch:
    """Affine match of section ``b`` to section ``a``.

    Parameters
    ----------
    matrix
        ``(3, 3)`` homogeneous: full-resolution pixels of ``a`` to those of ``b``.
    confidence
        Correlation of the features over the common tissue, times the margin of the best candidate over the next one.
    overlap
        Common tissue over the smaller section's tissue.
    mirrored
        Whether the transform contains a reflection.
    inverted
        Whether the sections match with the contrast of one of them inverted.
    magnification
        Size of ``b`` relative to ``a``, if an affine map fits clearly better than the rigid match; 1 otherwise.
    needs_mirror
        Whether the sections match only if one of them is mirrored, which the settings do not allow.
    """

    matrix: FloatArray
    confidence: float
    overlap: float
    mirrored: bool
    inverted: bool = False
    magnification: float = 1.0
    needs_mirror: bool = False

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the fields as named arrays."""
        figures = [
            self.confidence, self.overlap, float(self.mirrored), float(self.inverted), self.magnification,
            float(self.needs_mirror),
        ]  # fmt: skip
        return {"matrix": self.matrix, "figures": np.array(figures)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[np.generic]]) -> CoarseMatch:
        """Restore a match from :meth:`to_arrays`."""
        confidence, overlap, mirrored, inverted, magnification, needs = map(float, np.asarray(arrays["figures"]))
        matrix = np.asarray(arrays["matrix"], dtype=np.float64)
        return cls(matrix, confidence, overlap, bool(mirrored), bool(inverted), magnification, bool(needs))


def coarse_match(a: PreparedSection, b: PreparedSection, settings: StackSettings) -> CoarseMatch:
    """Estimate the affine transform from section ``a`` to section ``b``.

    Translations are searched by cross-correlation of whole images, first at small rotations. If no candidate is
    convincing, the second section is tried with inverted contrast. If that is not sure, the search covers all rotations
    (``settings.search_rotations``) and mirror images (``settings.mirror``); inverted contrast that fits clearly better
    without a rotation, but is not sure, is taken if that finds nothing sure. The best few candidates are refined by
    Gauss-Newton from coarse to fine. The contrast that is not used shows how well sections
    match by chance; a match that is hardly better loses its confidence.
    """
    candidates = _search_near(a, b, settings)
    near = candidates[0]
    if near[0] >= PARAMETERS.good_score:
        return _finish(a, b, near, settings)
    opposite = b.inverted()
    other = _search_near(a, opposite, settings)
    better = PARAMETERS.better_contrast_factor * near[0]
    if other[0][0] > max(PARAMETERS.sure_confidence, better):
        return replace(_finish(a, opposite, other[0], settings), inverted=True)
    best, margin = _search_far(a, b, candidates, settings)
    if best[0] * margin >= PARAMETERS.sure_confidence:
        return _finish(a, b, best, settings, margin)
    if other[0][0] > max(PARAMETERS.min_confidence, better):
        return replace(_finish(a, opposite, other[0], settings), inverted=True)
    if not settings.mirror:
        reflected = _search_far(a, b, candidates, settings.model_copy(update={"mirror": True}))[0]
        fits = np.linalg.det(reflected[1][:2, :2]) < 0 and reflected[0] >= PARAMETERS.sure_confidence
        if fits and reflected[0] > PARAMETERS.far_better_factor * best[0]:
            return CoarseMatch(np.eye(3), 0.0, 0.0, False, needs_mirror=True)
    turned, evidence = _search_far(a, opposite, other, settings)
    if turned[0] * evidence > max(PARAMETERS.sure_confidence, PARAMETERS.far_better_factor * best[0]):
        return replace(_finish(a, opposite, turned, settings, evidence), inverted=True)
    return _finish(a, b, best, settings, margin * _margin(best[0], other[0][0]))


def _margin(score: float, other: float) -> float:
    """Factor of the confidence of a match by its lead over another one that does not show the same."""
    return float(np.clip((score - other) / (PARAMETERS.min_margin * max(score, 1e-6)), 0.0, 1.0))


def _search_near(a: PreparedSection, b: PreparedSection, settings: StackSettings) -> list[Candidate]:
    """Search at small rotations; return the candidates, the best one first."""
    level = _search_level(a)
    linears = [np.eye(2)] if settings.motion == "translation" else list(map(_rotation, PARAMETERS.near_rotations_deg))
    tried = _refine_candidates(a, b, level, linears, settings.motion, 2)
    best = max(tried, key=lambda one: one[0], default=NO_CANDIDATE)
    if settings.motion == "affine" and best[0] < PARAMETERS.sure_confidence:
        best = _magnified(a, b, best, level)
    return [best, *tried]


def _search_far(
    a: PreparedSection, b: PreparedSection, candidates: list[Candidate], settings: StackSettings
) -> tuple[Candidate, float]:
    """Search over all rotations and mirror images, as far as the settings allow it.

    ``candidates`` are those of :func:`_search_near`. Returns the best candidate and the factor of its confidence.
    """
    near = candidates[0]
    rotations = settings.search_rotations and settings.motion != "translation"
    if not (rotations or settings.mirror):
        return near, 1.0
    linears = list(map(_rotation, range(0, 360, PARAMETERS.rotation_step_deg) if rotations else (0,)))
    if not rotations and settings.motion != "translation":
        linears = list(map(_rotation, PARAMETERS.near_rotations_deg))
    if settings.mirror:
        linears += [linear @ np.diag([1.0, -1.0]) for linear in linears]
    tried = candidates[1:] + _refine_candidates(a, b, _search_level(a), linears, settings.motion, 4)
    best = max(tried, key=lambda one: one[0], default=near)
    if near[0] > PARAMETERS.fair_score and best[0] < PARAMETERS.far_better_factor * near[0]:
        return near, 1.0  # large rotations are rare, and symmetric tissue also fits when it is rotated
    # among many rotations one fits by chance, so the best one must stand out
    others = [one[0] for one in tried if not _is_same_pose(one[1], best[1], a.shape)]
    margin = _margin(best[0], max(others, default=0.0))
    if best[0] * margin < PARAMETERS.sure_confidence and not _is_same_rotation(best[1], np.eye(3)):
        return near, 1.0  # a far rotation needs evidence above chance
    return best, margin


def _finish(
    a: PreparedSection, b: PreparedSection, candidate: Candidate, settings: StackSettings, margin: float = 1.0
) -> CoarseMatch:
    """Refine the pose of a candidate at the next finer level, and measure the magnification."""
    score, matrix, overlap = candidate
    if score < 0:
        return CoarseMatch(np.eye(3), 0.0, 0.0, False)
    level = _search_level(a)
    magnification = _magnification(a, b, score, matrix, level) if settings.motion != "affine" else 1.0
    if level > 0 and score > PARAMETERS.min_confidence:
        # the finer level refines the pose, but its correlation is lower because less fine detail is shared
        finer, _, overlap_fraction = refine(a, b, matrix, settings.motion, range(level - 1, level - 2, -1))
        matrix, overlap = (finer, overlap_fraction) if overlap_fraction > PARAMETERS.min_overlap else (matrix, overlap)
    mirrored = bool(np.linalg.det(matrix[:2, :2]) < 0)
    return CoarseMatch(matrix, max(score, 0.0) * margin, overlap, mirrored, magnification=magnification)


def _magnification(a: PreparedSection, b: PreparedSection, score: float, matrix: FloatArray, level: int) -> float:
    """Return how much larger ``b`` is than ``a`` by an affine map, if it fits clearly better than the rigid one."""
    found, better, overlap = refine(a, b, matrix, "affine", range(level, level - 1, -1))
    needed = max(PARAMETERS.sure_confidence, PARAMETERS.better_affine_factor * score)
    if better < needed or overlap < PARAMETERS.min_overlap:
        if score >= PARAMETERS.sure_confidence:
            return 1.0
        better, found, _ = _magnified(a, b, (score, matrix, 0.0), level)
    return float(np.sqrt(abs(np.linalg.det(found[:2, :2])))) if better >= needed else 1.0


def _magnified(a: PreparedSection, b: PreparedSection, best: Candidate, level: int) -> Candidate:
    """Return the best candidate of another size if it is sure and clearly better than ``best``, or else ``best``."""
    linears = [factor * np.eye(2) for factor in PARAMETERS.magnifications]
    found = max(_refine_candidates(a, b, level, linears, "affine", 3), key=lambda one: one[0], default=best)
    needed = max(PARAMETERS.sure_confidence, PARAMETERS.better_affine_factor * best[0])
    return found if found[0] >= needed else best


def _search_level(section: PreparedSection) -> int:
    sides = [max(level.shape[1:]) for level in section.levels]
    return int(np.argmin(np.abs(np.log(np.array(sides) / PARAMETERS.search_side))))


def _rotation(degrees: float) -> FloatArray:
    return rotation_2d(math.radians(degrees))


def _search_candidates(
    a: PreparedSection, b: PreparedSection, level: int, linears: list[FloatArray], keep: int
) -> list[FloatArray]:
    """Return the best ``keep`` distinct affine maps from ``a`` to ``b``, in full-resolution pixels."""
    level = min(level, len(b.levels) - 1)
    step = a.factor * 2.0**level

    def tensor(values: npt.NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(values)[None, None]

    def grid(shape: tuple[int, ...]) -> Grid:
        place = np.diag([step, step, 1.0])
        place[:2, 2] = (step - 1) / 2  # center of the first block of pixels
        return Grid(shape, place)

    images = [np.ascontiguousarray(s.levels[level][0]) for s in (a, b)]
    weights = [s.weights[level] for s in (a, b)]
    both = Level(
        tensor(images[0]), tensor(weights[0]), grid(images[0].shape),
        tensor(images[1]), tensor(weights[1]), grid(images[1].shape),
    )  # fmt: skip
    tried = best_translations(both, linears)
    tried.sort(key=lambda pair: -pair[0])
    chosen: list[FloatArray] = []
    center = np.array([*(np.array(a.shape) - 1) / 2, 1.0])
    for _, matrix in tried:
        near = [
            np.abs((matrix - other) @ center).max() < 3 * step and _is_same_rotation(matrix, other) for other in chosen
        ]
        if not any(near):
            chosen.append(matrix)
        if len(chosen) == keep:
            break
    return chosen


def _refine_candidates(
    a: PreparedSection, b: PreparedSection, level: int, linears: list[FloatArray], motion: str, keep: int
) -> list[Candidate]:
    """Refine the best candidates; return score, matrix and overlap of those with enough overlap, the best one first.

    Six parameters fit chance far better than three, so that affine candidates are compared as rigid ones first, and
    another one has to be clearly better.
    """
    levels = range(level, level - 1, -1)
    refined = []
    for start in _search_candidates(a, b, level, linears, keep):
        matrix, score, overlap = refine(a, b, start, "rigid" if motion == "affine" else motion, levels)
        if overlap > PARAMETERS.min_overlap:
            refined.append((score, matrix, overlap))
    refined.sort(key=lambda one: -one[0])
    if motion == "affine":
        found: list[Candidate] = []
        for _, start, _ in refined:
            matrix, score, overlap = refine(a, b, start, motion, levels)
            if overlap > PARAMETERS.min_overlap:
                found.append((score / (PARAMETERS.better_affine_factor if found else 1.0), matrix, overlap))
        refined = found
    return refined


def _is_same_pose(one: FloatArray, other: FloatArray, shape: tuple[int, int]) -> bool:
    center = np.array([*(np.array(shape) - 1) / 2, 1.0])
    return bool(np.abs((one - other) @ center).max() < 0.05 * max(shape)) and _is_same_rotation(one, other)


def _is_same_rotation(a: FloatArray, b: FloatArray) -> bool:
    relative = a[:2, :2] @ b[:2, :2].T
    return bool(np.linalg.det(relative) > 0 and relative[0, 0] > math.cos(math.radians(7)))


def refine(
    a: PreparedSection, b: PreparedSection, start: FloatArray, motion: str, levels: range, iterations: int = 8
) -> tuple[FloatArray, float, float]:
    """Refine an affine map from ``a`` to ``b`` by Gauss-Newton; return the map, the correlation and the overlap."""
    matrix, score, overlap = start, -1.0, 0.0
    for level in levels:
        level = min(level, len(a.levels) - 1, len(b.levels) - 1)
        step = a.factor * 2.0**level
        high = np.array(a.levels[level].shape[1:]) * step - 0.5
        frame = PairFrame.over(np.full(2, -0.5), high, step)
        points = frame.points()
        first = FeatureSampler(a, level, np.eye(3)).sample_features(points)
        center = (np.array(a.shape) - 1) / 2
        modes = _motion_modes(points - torch.as_tensor(center, dtype=torch.float32), motion)
        smaller = min(float(a.weights[level].sum()), float(b.weights[level].sum())) / math.prod(frame.shape)
        best = (-1.0, matrix, 0.0)
        for k in range(iterations + 1):
            comparison = compare(
                first, FeatureSampler(b, level, matrix).sample_features(points), frame.step, 0.3 * (1 - k / iterations)
            )
            overlap_fraction = comparison.overlap / max(smaller, 1e-6)
            if comparison.score > best[0] and overlap_fraction > 0.5 * PARAMETERS.min_overlap:
                best = (comparison.score, matrix, overlap_fraction)
            if k == iterations or float(comparison.weight.sum()) < MIN_COMMON_PIXELS:
                break
            # gradients along each mode: (K, C, h, w)
            jacobian = torch.einsum("dchw,khwd->kchw", comparison.gradients, modes)
            flat = (jacobian * comparison.weight.sqrt()).flatten(1).double()
            residual = (comparison.difference * comparison.weight.sqrt()).flatten().double()
            normal = flat @ flat.T
            normal += 1e-4 * torch.diag(normal.diagonal().clamp_min(1e-12))
            change = -torch.linalg.solve(normal, flat @ residual).numpy()
            size = _corner_motion(change, motion, center)
            limit = 3 * step
            update = _update_matrix(change * min(1.0, limit / max(size, 1e-12)), motion, center)
            matrix = matrix @ update
            if size < 0.02 * step:
                break
        score, matrix, overlap = best
    return matrix, score, overlap


def _motion_modes(away: Tensor, motion: str) -> Tensor:
    """Return displacements ``(K, h, w, 2)`` of unit changes of the parameters; ``away`` is relative to the center."""
    y, x = away[..., 0], away[..., 1]
    one, zero = torch.ones_like(y), torch.zeros_like(y)
    shifts = [(one, zero), (zero, one)]
    if motion == "translation":
        pairs = shifts
    elif motion == "rigid":
        pairs = [*shifts, (-x, y)]
    else:
        pairs = [*shifts, (y, zero), (x, zero), (zero, y), (zero, x)]
    return torch.stack([torch.stack(pair, dim=-1) for pair in pairs])


def _corner_motion(change: FloatArray, motion: str, center: FloatArray) -> float:
    """Return the approximate motion of a corner in pixels."""
    linear_change = change[2:] if motion != "translation" else np.zeros(1)
    return float(np.abs(change[:2]).max() + np.abs(linear_change).max() * np.abs(center).max())


def _update_matrix(change: FloatArray, motion: str, center: FloatArray) -> FloatArray:
    linear = np.eye(2)
    if motion == "rigid":
        linear = rotation_2d(float(change[2]))
    elif motion == "affine":
        linear = linear + change[2:].reshape(2, 2)
    out = np.eye(3)
    out[:2, :2] = linear
    out[:2, 2] = center + change[:2] - linear @ center
    return out
