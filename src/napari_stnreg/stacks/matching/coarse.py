"""The coarse pass: how a whole section lies to its neighbor, whatever shift and turn lie between."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.registration.pyramid import Level
from napari_stnreg.registration.translation_search import best_translations
from napari_stnreg.stacks.matching.pair_frame import LEAST_PIXELS, FeatureSampler, PairFrame, compare
from napari_stnreg.stacks.preprocessing.features import PreparedSection
from napari_stnreg.stacks.settings import StackSettings

SEARCH_SIDE = 72
"""Pixels along the longer side, about, at which shifts and turns are searched."""
LEAST_OVERLAP = 0.25
"""Two sections must share this part of the smaller one: with less, something always fits by chance."""
GOOD, FAIR = 0.5, 0.35
"""With a correlation above the first nothing farther away is looked for; above the second it has to be far better."""
FAR_BETTER = 1.4
"""By what factor."""
SURE = 0.45
"""A pair below this is checked by way of the sections around it."""
CONFIDENT = 0.3
"""A pair below this is not believed."""
MARGIN = 0.15
"""By what share the best of all turns must be better than the next different one to be believed fully."""
FEW = tuple(math.radians(d) for d in (0, -3, 3, -6, 6))
ALL = tuple(math.radians(5 * k) for k in range(72))


@dataclass(frozen=True)
class CoarseMatch:
    """How section ``b`` lies to section ``a``.

    Parameters
    ----------
    matrix
        ``(3, 3)`` homogeneous: full-resolution pixels of ``a`` to those of ``b``.
    confidence
        Correlation of the features over the common tissue, times how far the best place stands out from the next.
    overlap
        Common tissue over the smaller section's tissue.
    mirrored
        Whether one of them lies upside down.
    """

    matrix: FloatArray
    confidence: float
    overlap: float
    mirrored: bool

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """What there is to keep of it, by name."""
        return {"matrix": self.matrix, "figures": np.array([self.confidence, self.overlap, float(self.mirrored)])}

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[np.generic]]) -> CoarseMatch:
        """The match that :meth:`to_arrays` was taken of."""
        confidence, overlap, mirrored = (float(f) for f in np.asarray(arrays["figures"]))
        return cls(np.asarray(arrays["matrix"], dtype=np.float64), confidence, overlap, bool(mirrored))


def coarse_match(a: PreparedSection, b: PreparedSection, settings: StackSettings) -> CoarseMatch:
    """Estimate the affine transform from section ``a`` to section ``b``.

    Translations are searched by cross-correlation of whole images, first at small rotations. If no candidate is
    convincing, the search covers all rotations (``settings.search_rotations``) and mirror images
    (``settings.mirror``). The best few candidates are refined by Gauss-Newton from coarse to fine.
    """
    begin = _search_level(a)
    translation = settings.motion == "translation"
    some = [np.eye(2)] if translation else [_rotation(angle) for angle in FEW]
    tried = _refined(a, b, begin, some, settings.motion, 2)
    best = max(tried, key=lambda one: one[0], default=(-1.0, np.eye(3), 0.0))
    margin = 1.0
    if best[0] < GOOD and (settings.mirror or (settings.search_rotations and not translation)):
        some = [_rotation(angle) for angle in ALL] if settings.search_rotations and not translation else some
        if settings.mirror:
            some = some + [linear @ np.diag([1.0, -1.0]) for linear in some]
        near = best
        tried += _refined(a, b, begin, some, settings.motion, 4)
        best = max(tried, key=lambda one: one[0], default=best)
        if near[0] > FAIR and best[0] < FAR_BETTER * near[0]:
            best = near  # a small turn is what sections have; tissue that is symmetric fits turned round as well
        else:
            # of so many turns one always fits a little: the best one has to stand out
            others = [one[0] for one in tried if not _same_place(one[1], best[1], a.shape)]
            second = max(others, default=0.0)
            margin = float(np.clip((best[0] - second) / (MARGIN * max(best[0], 1e-6)), 0.0, 1.0))
    if best[0] < 0:
        return CoarseMatch(np.eye(3), 0.0, 0.0, False)
    score, matrix, overlap = best
    if begin > 0 and score > CONFIDENT:
        # the finer level makes the place more precise, but is no measure of confidence: less of it is shared
        finer, _, share = refine(a, b, matrix, settings.motion, range(begin - 1, begin - 2, -1))
        matrix, overlap = (finer, share) if share > LEAST_OVERLAP else (matrix, overlap)
    return CoarseMatch(matrix, max(score, 0.0) * margin, overlap, bool(np.linalg.det(matrix[:2, :2]) < 0))


def _search_level(section: PreparedSection) -> int:
    sides = [max(level.shape[1:]) for level in section.levels]
    return int(np.argmin(np.abs(np.log(np.array(sides) / SEARCH_SIDE))))


def _rotation(angle: float) -> FloatArray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s], [s, c]])


def _searched(
    a: PreparedSection, b: PreparedSection, level: int, linears: list[FloatArray], keep: int
) -> list[FloatArray]:
    """The most promising affine maps from ``a`` to ``b``, full-resolution pixels."""
    level = min(level, len(b.levels) - 1)
    step = a.factor * 2.0**level

    def tensor(values: npt.NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(values)[None, None]

    def grid(shape: tuple[int, ...]) -> Grid:
        place = np.diag([step, step, 1.0])
        place[:2, 2] = (step - 1) / 2  # the middle of the first block of pixels
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
    middle = np.array([*(np.array(a.shape) - 1) / 2, 1.0])
    for _, matrix in tried:
        near = [np.abs((matrix - other) @ middle).max() < 3 * step and _same_turn(matrix, other) for other in chosen]
        if not any(near):
            chosen.append(matrix)
        if len(chosen) == keep:
            break
    return chosen


def _refined(
    a: PreparedSection, b: PreparedSection, level: int, linears: list[FloatArray], motion: str, keep: int
) -> list[tuple[float, FloatArray, float]]:
    """The most promising of many turns, refined: score, map, overlap; those that hardly overlap are left out."""
    found = []
    for start in _searched(a, b, level, linears, keep):
        matrix, score, overlap = refine(a, b, start, motion, range(level, level - 1, -1))
        if overlap > LEAST_OVERLAP:
            found.append((score, matrix, overlap))
    return found


def _same_place(one: FloatArray, other: FloatArray, shape: tuple[int, int]) -> bool:
    middle = np.array([*(np.array(shape) - 1) / 2, 1.0])
    return bool(np.abs((one - other) @ middle).max() < 0.05 * max(shape)) and _same_turn(one, other)


def _same_turn(a: FloatArray, b: FloatArray) -> bool:
    relative = a[:2, :2] @ b[:2, :2].T
    return bool(np.linalg.det(relative) > 0 and relative[0, 0] > math.cos(math.radians(7)))


def refine(
    a: PreparedSection, b: PreparedSection, start: FloatArray, motion: str, levels: range, iterations: int = 8
) -> tuple[FloatArray, float, float]:
    """Improve an affine map from ``a`` to ``b``; gives the map, the correlation of features and the overlap."""
    matrix, score, overlap = start, -1.0, 0.0
    for level in levels:
        level = min(level, len(a.levels) - 1, len(b.levels) - 1)
        step = a.factor * 2.0**level
        high = np.array(a.levels[level].shape[1:]) * step - 0.5
        canvas = PairFrame.over(np.full(2, -0.5), high, step)
        points = canvas.points()
        first = FeatureSampler(a, level, np.eye(3)).read(points)
        middle = (np.array(a.shape) - 1) / 2
        modes = _modes(points - torch.as_tensor(middle, dtype=torch.float32), motion)
        smaller = min(float(a.weights[level].sum()), float(b.weights[level].sum())) / math.prod(canvas.shape)
        best = (-1.0, matrix, 0.0)
        for k in range(iterations + 1):
            found = compare(
                first, FeatureSampler(b, level, matrix).read(points), canvas.step, 0.3 * (1 - k / iterations)
            )
            share = found.overlap / max(smaller, 1e-6)
            if found.score > best[0] and share > 0.5 * LEAST_OVERLAP:
                best = (found.score, matrix, share)
            if k == iterations or float(found.weight.sum()) < LEAST_PIXELS:
                break
            # slopes along each mode: (K, C, h, w)
            ways = torch.einsum("dchw,khwd->kchw", found.slopes, modes)
            flat = (ways * found.weight.sqrt()).flatten(1).double()
            rest = (found.difference * found.weight.sqrt()).flatten().double()
            normal = flat @ flat.T
            normal += 1e-4 * torch.diag(normal.diagonal().clamp_min(1e-12))
            change = -torch.linalg.solve(normal, flat @ rest).numpy()
            size = _size(change, motion, middle)
            limit = 3 * step
            update = _update(change * min(1.0, limit / max(size, 1e-12)), motion, middle)
            matrix = matrix @ update
            if size < 0.02 * step:
                break
        score, matrix, overlap = best
    return matrix, score, overlap


def _modes(away: Tensor, motion: str) -> Tensor:
    """Displacements ``(K, h, w, 2)`` by unit changes of each parameter; ``away`` is counted from the middle."""
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


def _size(change: FloatArray, motion: str, middle: FloatArray) -> float:
    """By how many pixels a change moves a corner, about."""
    turned = change[2:] if motion != "translation" else np.zeros(1)
    return float(np.abs(change[:2]).max() + np.abs(turned).max() * np.abs(middle).max())


def _update(change: FloatArray, motion: str, middle: FloatArray) -> FloatArray:
    linear = np.eye(2)
    if motion == "rigid":
        linear = _rotation(float(change[2]))
    elif motion == "affine":
        linear = linear + change[2:].reshape(2, 2)
    out = np.eye(3)
    out[:2, :2] = linear
    out[:2, 2] = middle + change[:2] - linear @ middle
    return out
