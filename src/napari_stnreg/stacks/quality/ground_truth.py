"""Score an alignment against a known ground truth.

The stack is generated (:class:`~napari_stnreg.datasets.SerialSections`), or cut from a continuous volume and warped by
known fields. The alignment provides one transform per section, canvas to section. The deformation of the section maps
on to the tissue, so the error at a canvas point x is ``to_tissue(transform(x)) - x``. One rigid motion of the whole
stack is fitted and removed first, because the global pose of a stack is arbitrary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d, map_coordinates

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray
from napari_stnreg.core.linalg import fit_rigid
from napari_stnreg.stacks.quality.sections import PairQuality, chunk_correlation, over_straightening_warning

if TYPE_CHECKING:
    from napari_stnreg.stacks.aligned_stack import AlignedStack
    from napari_stnreg.transforms.base import Transform

Map = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True)
class ScoreParameters:
    """Parameters of the scores. All were set by hand; no tuning is recorded.

    Parameters
    ----------
    chunk_px
        Side of the chunks that are correlated.
    tear_distance_px
        Distance from a crack or fold within which an error counts as being at it.
    drift_sigma
        Standard deviation, in sections, of the Gaussian that separates the drift of an error.
    slope_window
        Sections over which the slope of a neurite is fitted.
    bundle_sigma_px
        Standard deviation of the Gaussian that averages the slopes of adjacent neurites.
    unscored_faults
        Faults of sections that are not scored.
    """

    chunk_px: int = 64
    tear_distance_px: float = 48.0
    drift_sigma: float = 3.0
    slope_window: int = 32
    bundle_sigma_px: float = 60.0
    unscored_faults: tuple[str, ...] = ("missing", "nearly empty", "excluded")


PARAMETERS = ScoreParameters()


class TrueDeformation(Protocol):
    """True deformation of a section; positions ``(..., 2)`` in pixels, order (y, x)."""

    def to_tissue(self, points: npt.ArrayLike) -> FloatArray:
        """Map positions of the section to the tissue."""

    def to_section(self, points: npt.ArrayLike) -> FloatArray:
        """Map positions of the tissue to the section."""

    def hides(self, points: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Return whether a fold hides the tissue."""

    def from_tear(self, points: npt.ArrayLike) -> FloatArray:
        """Return the distance ``(...)`` from a crack or fold, infinite without one."""


class StackTruth(Protocol):
    """A stack with known ground truth, such as :class:`~napari_stnreg.datasets.SerialSections`."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sections and pixels ``(z, y, x)``."""

    @property
    def faults(self) -> Mapping[int, str]:
        """Faults by section number; several are joined by ``+``."""

    @property
    def heights(self) -> FloatArray:
        """Height of the center of each section ``(z,)``, in nominal section thicknesses."""

    def __getitem__(self, z: int, /) -> npt.NDArray[Any]:
        """Return the image of a section ``(y, x)``, zero where it is empty."""

    def deformation(self, z: int) -> TrueDeformation:
        """Return the true deformation of a section."""

    def paths(self, first: int, last: int) -> FloatArray:
        """Return center lines ``(N, Z, 2)`` of neurites in a range of sections, tissue pixels; N may be 0."""


@dataclass(frozen=True)
class TruthScores:
    """Scores of an alignment against the ground truth. Lengths are in pixels; NaN if not measurable.

    Parameters
    ----------
    adjacent
        Mean of ``|error(z) - error(z - 1)|``: misalignment of neighbors.
    mean, last
        Mean error of the stack, and of its last section.
    drift
        Mean length of the error smoothed along the stack (Gaussian of three sections).
    over_missing
        As ``adjacent``, across unscored sections.
    at_crack, at_fold
        As ``adjacent``, within :attr:`ScoreParameters.tear_distance_px` of the tear.
    slope
        Slope of bundles of oblique neurites after alignment, relative to the true slope: 1 is ideal, less means
        over-straightened.
    neurites
        Number of measured neurites.
    folded
        Fraction of the canvas where a transform folds.
    correlation, true_correlation
        Chunk correlation of neighbors under the alignment and under the true transforms, with the same interpolation
        of the raw sections.
    over_straightened
        Warning if the first exceeds the second by too much, else an empty string.
    """

    adjacent: float
    mean: float
    last: float
    drift: float
    over_missing: float
    at_crack: float
    at_fold: float
    slope: float
    neurites: int
    folded: float
    correlation: float
    true_correlation: float
    over_straightened: str

    def row(self) -> dict[str, Any]:
        """Return the scores by name, without NaN and empty ones."""
        return {k: v for k, v in asdict(self).items() if not (isinstance(v, float) and np.isnan(v)) and v != ""}


def score_truth(truth: StackTruth, transforms: Sequence[Map], *, margin: float = 0.2, step: int = 8) -> TruthScores:
    """Score an alignment of a stack with known ground truth.

    Parameters
    ----------
    truth
        The stack.
    transforms
        One function per section, canvas to raw section, on ``(..., 2)`` pixels (y, x), such as those of
        :func:`maps_of`.
    margin
        Fraction of the image that is excluded along each side.
    step
        Distance of the points at which errors are measured, pixels.

    Raises
    ------
    InputError
        If the number of transforms differs from the number of sections.
    """
    if len(transforms) != truth.shape[0]:
        raise InputError(
            f"Got {len(transforms)} transforms for a stack of {truth.shape[0]} sections. Pass one per section."
        )
    known = measure_errors(truth, transforms, margin=margin, step=step)
    kept, size = known.sections, np.linalg.norm(known.values, axis=-1)
    jumps = {
        (a, b): np.linalg.norm(known.values[j] - known.values[i], axis=-1)
        for (i, a), (j, b) in pairwise(enumerate(kept))
    }  # fmt: skip
    gaps = [jump for (a, b), jump in jumps.items() if b - a > 1]
    at = {}
    for name in ("crack", "fold"):
        found = [
            jump[truth.deformation(z).from_tear(known.points) < PARAMETERS.tear_distance_px]
            for z in kept if name in truth.faults.get(z, "")
            for pair, jump in jumps.items() if z in pair
        ]  # fmt: skip
        at[name] = _mean([one for one in found if one.size])
    slope, neurites = recovered_slope(truth, transforms, known, margin=margin)
    from napari_stnreg.ops.jacobian import folding_fraction

    steps = 0.5 * np.eye(2)
    folds = []
    for z in kept:
        jacobian = np.stack([transforms[z](known.points + s) - transforms[z](known.points - s) for s in steps], axis=-1)
        folds.append(folding_fraction(np.linalg.det(jacobian), border=0))
    after = correlations(truth, transforms, kept, margin=margin)
    true = correlations(truth, [truth.deformation(z).to_section for z in range(len(transforms))], kept, margin=margin)
    expected = _mean([q.correlation for q in true.values()])
    filled = np.where(np.isnan(known.values), np.nanmean(known.values, axis=1, keepdims=True), known.values)
    slow = gaussian_filter1d(filled, PARAMETERS.drift_sigma, axis=0, mode="nearest")
    return TruthScores(
        adjacent=_mean([_mean([j]) for j in jumps.values()]),
        mean=_mean([size]),
        last=_mean([size[-1]]),
        drift=float(np.linalg.norm(slow, axis=-1).mean()),
        over_missing=_mean(gaps),
        at_crack=at["crack"],
        at_fold=at["fold"],
        slope=slope,
        neurites=neurites,
        folded=_mean(folds),
        correlation=_mean([q.correlation for q in after.values()]),
        true_correlation=expected,
        over_straightened=over_straightening_warning(after, expected),
    )


@dataclass(frozen=True)
class AlignmentErrors:
    """Errors of an alignment at canvas points.

    Parameters
    ----------
    points
        ``(n, 2)`` canvas pixels.
    sections
        Numbers of the scored sections.
    values
        ``(sections, n, 2)`` errors in pixels; NaN at points that a section does not contain.
    rotation
        ``(2, 2)`` rotation of the removed rigid motion: it maps canvas directions ``d`` to ``d @ rotation``.
    """

    points: FloatArray
    sections: list[int]
    values: FloatArray
    rotation: FloatArray


def measure_errors(
    truth: StackTruth, transforms: Sequence[Map], *, margin: float = 0.2, step: int = 8
) -> AlignmentErrors:
    """Measure the errors of all scored sections at points of the canvas, after removing one rigid motion."""
    shape = truth.shape[1:]
    axes = [np.arange(margin * n, (1 - margin) * n, step) for n in shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    kept = [
        z
        for z in range(len(transforms))
        if not any(name in truth.faults.get(z, "") for name in PARAMETERS.unscored_faults)
    ]
    found = np.empty((len(kept), len(points), 2))
    for k, z in enumerate(kept):
        raw, deformation = transforms[z](points), truth.deformation(z)
        tissue = deformation.to_tissue(raw)
        seen = _inside(raw, shape) & ~deformation.hides(points)
        found[k] = np.where(seen[:, None], tissue, np.nan)
    seen = np.isfinite(found[..., 0])
    if not seen.any():
        raise InputError("No section overlaps the canvas. The transforms belong to another stack.")
    p, t = np.broadcast_to(points, found.shape)[seen], found[seen]
    rotation = fit_rigid(t, p)[:2, :2]  # its transpose rotates p onto t
    values = found - t.mean(axis=0) - (points - p.mean(axis=0)) @ rotation
    return AlignmentErrors(points, kept, values, rotation)


def recovered_slope(
    truth: StackTruth, transforms: Sequence[Map], known: AlignmentErrors, *, margin: float = 0.2
) -> tuple[float, int]:
    """Return the slope of oblique neurites after alignment relative to the truth, and the number of neurites.

    The center line of each neurite is mapped to the canvas. A line fit against the heights of the sections gives its
    slope; the true positions give the true slope. Both are averaged over adjacent neurites with a Gaussian of
    :attr:`ScoreParameters.bundle_sigma_px`: a smooth transform cannot straighten a single neurite, which would only
    add noise. The ratio is that of a least-squares fit through the origin.
    """
    low, high = margin * np.array(truth.shape[1:]), (1 - margin) * np.array(truth.shape[1:])
    kept = np.array(known.sections)
    product = square = 0.0
    neurites = 0
    for first in range(0, truth.shape[0], PARAMETERS.slope_window):
        last = min(first + PARAMETERS.slope_window, truth.shape[0]) - 1
        chosen = kept[(kept >= first) & (kept <= last)]
        if len(chosen) < 4:
            continue
        paths = truth.paths(first, last)[:, chosen - first]
        if not len(paths):
            continue
        paths = paths[((paths >= low) & (paths <= high)).all(axis=(1, 2))]
        positions = np.full_like(paths, np.nan)
        for k, z in enumerate(chosen):
            found = _invert_to_canvas(truth.deformation(z), transforms[z], known.points, paths[:, k], truth.shape[1:])
            positions[:, k] = found @ known.rotation
        heights = truth.heights[chosen]
        slopes, middles = [], []
        for true, found in zip(paths, positions, strict=True):
            seen = np.isfinite(found[:, 0])
            if seen.sum() < max(4, 0.6 * len(chosen)):
                continue
            away = heights[seen] - heights[seen].mean()
            slopes.append([away @ path[seen] / (away @ away) for path in (true, found)])
            middles.append(true.mean(axis=0))
        if not slopes:
            continue
        apart = np.linalg.norm(np.subtract.outer(middles, middles).diagonal(axis1=1, axis2=3), axis=-1)
        near = np.exp(-0.5 * (apart / PARAMETERS.bundle_sigma_px) ** 2)
        there, here = np.moveaxis(np.tensordot(near / near.sum(axis=1, keepdims=True), slopes, axes=1), 1, 0)
        product += float((there * here).sum())
        square += float((there * there).sum())
        neurites += len(slopes)
    return (product / square if square > 0 else float("nan")), neurites


def _invert_to_canvas(
    deformation: TrueDeformation, section_map: Map, points: FloatArray, goal: FloatArray, shape: tuple[int, ...]
) -> FloatArray:
    """Return the canvas positions ``(N, 2)`` of tissue positions ``goal (N, 2)``; NaN where they are not visible."""
    # Invert the affine part directly and the rest by fixed-point iteration.
    there = deformation.to_tissue(section_map(points))
    p = np.column_stack([points, np.ones(len(points))])
    affine = np.linalg.lstsq(p, there, rcond=None)[0]
    back = np.linalg.pinv(affine[:2])
    found = (goal - affine[2]) @ back
    for _ in range(40):
        off = deformation.to_tissue(section_map(found)) - goal
        found = found - off @ back
        if np.abs(off).max(initial=0) < 1e-4:
            break
    raw = section_map(found)
    off = np.linalg.norm(deformation.to_tissue(raw) - goal, axis=1)
    good = (off < 0.1) & _inside(raw, shape) & ~deformation.hides(goal)
    return np.where(good[:, None], found, np.nan)


def correlations(
    truth: StackTruth, transforms: Sequence[Map], sections: Sequence[int], *, margin: float = 0.2
) -> dict[tuple[int, int], PairQuality]:
    """Return the chunk correlation of consecutive sections under the transforms, over non-empty pixels."""
    low = [round(margin * n) for n in truth.shape[1:]]
    axes = [np.arange(a, n - a, dtype=np.float64) for a, n in zip(low, truth.shape[1:], strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    chunks = max(max(points.shape[:2]) // PARAMETERS.chunk_px, 1)
    found: dict[tuple[int, int], PairQuality] = {}
    before: FloatArray | None = None
    for k, z in enumerate(sections):
        where = np.moveaxis(transforms[z](points), -1, 0)
        seen = map_coordinates(np.asarray(truth[z], dtype=np.float32), where, order=1, cval=0.0)
        if before is not None and z - sections[k - 1] == 1:
            found[sections[k - 1], z] = chunk_correlation(before, seen, (before > 0) & (seen > 0), chunks)
        before = seen
    return found


def _inside(raw: FloatArray, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    return np.asarray(((raw >= -0.5) & (raw <= np.asarray(shape) - 0.5)).all(axis=-1))


def _mean(parts: Sequence[npt.ArrayLike]) -> float:
    """Return the mean of all finite values in some arrays; NaN if there are none."""
    values = np.concatenate([np.ravel(np.asarray(part, dtype=np.float64)) for part in parts]) if parts else np.zeros(0)
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")


def maps_of(aligned: AlignedStack) -> list[Map]:
    """Return the transforms of an alignment on disk as functions, canvas to raw section, for :func:`score_truth`."""
    transform = lru_cache(maxsize=2)(aligned.transform)  # consecutive calls use the same section
    return [partial(_apply_transform, transform, z) for z in range(aligned.n_sections)]


def _apply_transform(transform: Callable[[int], Transform], z: int, points: FloatArray) -> FloatArray:
    import torch

    points = np.asarray(points, dtype=np.float64)
    with torch.no_grad():
        found = transform(z)(torch.from_numpy(points.reshape(1, -1, 2)))
    return np.asarray(found[0].numpy().reshape(points.shape), dtype=np.float64)
