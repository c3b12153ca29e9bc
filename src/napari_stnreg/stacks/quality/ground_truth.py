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
from napari_stnreg.stacks.quality.sections import PairQuality, chunk_correlation, straightened

if TYPE_CHECKING:
    from napari_stnreg.stacks.aligned_stack import AlignedStack
    from napari_stnreg.transforms.base import Transform

Map = Callable[[FloatArray], FloatArray]

CHUNK = 64
"""Side of the chunks that are correlated, pixels."""
NEAR = 48.0
"""Pixels from a crack or fold within which the error counts as being at it."""
SLOW = 3.0
"""Sections: width of the Gaussian that leaves the drift of an error."""
STRETCH = 32
"""Sections over which the slope of a neurite is measured; a longer stack is measured in stretches."""
BUNDLE = 60.0
"""Pixels: width of the Gaussian over which the slopes of neighboring neurites are averaged."""
LOST = ("missing", "nearly empty", "excluded")
"""Faults of sections whose own place is not scored."""


class TrueSlide(Protocol):
    """Where the tissue of one section lies in its picture; positions ``(..., 2)``, pixels (y, x)."""

    def to_tissue(self, points: npt.ArrayLike) -> FloatArray:
        """Picture to tissue."""

    def to_section(self, points: npt.ArrayLike) -> FloatArray:
        """Tissue to picture."""

    def hides(self, points: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether tissue is hidden by a fold."""

    def from_tear(self, points: npt.ArrayLike) -> FloatArray:
        """Distance ``(...)`` of tissue from a crack or fold, infinite where there is none."""


class StackTruth(Protocol):
    """A stack of which everything is known, such as :class:`~napari_stnreg.datasets.SerialSections`."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sections and pixels ``(z, y, x)``."""

    @property
    def faults(self) -> Mapping[int, str]:
        """What is wrong with sections, by their numbers; several joined by ``+``."""

    @property
    def heights(self) -> FloatArray:
        """Of the middle of each section ``(z,)``, in nominal sections."""

    def __getitem__(self, z: int, /) -> npt.NDArray[Any]:
        """The picture of a section ``(y, x)``, zero where there is nothing."""

    def deformation(self, z: int) -> TrueSlide:
        """Where a section's tissue lies."""

    def paths(self, first: int, last: int) -> FloatArray:
        """Center lines ``(N, Z, 2)`` of neurites in a range of sections, tissue pixels; none is ``(0, Z, 2)``."""


@dataclass(frozen=True)
class TruthScores:
    """How far an alignment is from the truth. Lengths are pixels; NaN where there is nothing to measure.

    Parameters
    ----------
    adjacent
        Mean of ``|error(z) - error(z - 1)|``: how badly neighbors fit.
    mean, last
        Mean error over the stack, and that of its last section.
    drift
        Mean length of the error's slow part along the stack (a Gaussian of three sections).
    over_missing
        As ``adjacent``, across lost sections.
    at_crack, at_fold
        As ``adjacent``, within :data:`NEAR` pixels of the tear.
    slope
        Slope of oblique neurites, as bundles, after the alignment over their true slope: 1 is right, less is
        straightened.
    neurites
        How many were measured.
    folded
        Share of the canvas where a map folds.
    correlation, true_correlation
        Chunk correlation of neighbors as aligned, and as the true maps would have them, both read from the raw
        sections in the same way.
    straightened
        A sentence where the first exceeds the second by too much; else empty.
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
    straightened: str

    def row(self) -> dict[str, Any]:
        """The scores by name, those that do not exist left out."""
        return {k: v for k, v in asdict(self).items() if not (isinstance(v, float) and np.isnan(v)) and v != ""}


def score_truth(truth: StackTruth, transforms: Sequence[Map], *, margin: float = 0.2, step: int = 8) -> TruthScores:
    """Score an alignment of a stack whose truth is known.

    Parameters
    ----------
    truth
        The stack.
    maps
        For each section canvas to raw section, ``(..., 2)`` pixels (y, x); those of
        :func:`maps_of`, or any functions.
    margin
        Share of the picture along each side that is left out.
    step
        Pixels between the points at which errors are taken.

    Raises
    ------
    InputError
        If there is not one map for every section.
    """
    if len(transforms) != truth.shape[0]:
        raise InputError(f"There are {len(transforms)} maps for a stack of {truth.shape[0]} sections.")
    known = errors(truth, transforms, margin=margin, step=step)
    kept, size = known.sections, np.linalg.norm(known.rest, axis=-1)
    jumps = {
        (a, b): np.linalg.norm(known.rest[j] - known.rest[i], axis=-1)
        for (i, a), (j, b) in pairwise(enumerate(kept))
    }  # fmt: skip
    gaps = [jump for (a, b), jump in jumps.items() if b - a > 1]
    at = {}
    for name in ("crack", "fold"):
        found = [
            jump[truth.deformation(z).from_tear(known.points) < NEAR]
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
    filled = np.where(np.isnan(known.rest), np.nanmean(known.rest, axis=1, keepdims=True), known.rest)
    slow = gaussian_filter1d(filled, SLOW, axis=0, mode="nearest")
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
        straightened=straightened(after, expected),
    )


@dataclass(frozen=True)
class Errors:
    """The error of an alignment at canvas points.

    Parameters
    ----------
    points
        ``(n, 2)`` canvas pixels.
    sections
        The numbers of those that are scored.
    rest
        ``(sections, n, 2)`` pixels; NaN where a section shows nothing of a point.
    turn
        ``(2, 2)``: the rigid motion that was taken off takes directions of the canvas ``d`` to ``d @ turn``.
    """

    points: FloatArray
    sections: list[int]
    rest: FloatArray
    turn: FloatArray


def errors(truth: StackTruth, transforms: Sequence[Map], *, margin: float = 0.2, step: int = 8) -> Errors:
    """The error of every section that is not lost, at points of the inside; one rigid motion of the stack is free."""
    shape = truth.shape[1:]
    axes = [np.arange(margin * n, (1 - margin) * n, step) for n in shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    kept = [z for z in range(len(transforms)) if not any(name in truth.faults.get(z, "") for name in LOST)]
    found = np.empty((len(kept), len(points), 2))
    for k, z in enumerate(kept):
        raw, deformation = transforms[z](points), truth.deformation(z)
        tissue = deformation.to_tissue(raw)
        seen = _inside(raw, shape) & ~deformation.hides(points)
        found[k] = np.where(seen[:, None], tissue, np.nan)
    seen = np.isfinite(found[..., 0])
    if not seen.any():
        raise InputError("No section shows anything of the canvas; these maps belong to another stack.")
    p, t = np.broadcast_to(points, found.shape)[seen], found[seen]
    turn = fit_rigid(t, p)[:2, :2]  # its transpose rotates p onto t
    rest = found - t.mean(axis=0) - (points - p.mean(axis=0)) @ turn
    return Errors(points, kept, rest, turn)


def recovered_slope(
    truth: StackTruth, transforms: Sequence[Map], known: Errors, *, margin: float = 0.2
) -> tuple[float, int]:
    """Slope of oblique neurites after the alignment over their true slope, and how many neurites were measured.

    The center of each neurite is followed to where the alignment lays it; a line through its places against the
    sections' heights gives its slope, and so the true places give the true one. Both are averaged over the neurites
    around, :data:`BUNDLE` pixels wide: what a single one does beside the others no smooth map can straighten, and it
    would only hide what happened to the bundle. The ratio is that of a least-squares fit through the origin.
    """
    low, high = margin * np.array(truth.shape[1:]), (1 - margin) * np.array(truth.shape[1:])
    kept = np.array(known.sections)
    product = square = 0.0
    neurites = 0
    for first in range(0, truth.shape[0], STRETCH):
        last = min(first + STRETCH, truth.shape[0]) - 1
        chosen = kept[(kept >= first) & (kept <= last)]
        if len(chosen) < 4:
            continue
        paths = truth.paths(first, last)[:, chosen - first]
        if not len(paths):
            continue
        paths = paths[((paths >= low) & (paths <= high)).all(axis=(1, 2))]
        places = np.full_like(paths, np.nan)
        for k, z in enumerate(chosen):
            found = _followed(truth.deformation(z), transforms[z], known.points, paths[:, k], truth.shape[1:])
            places[:, k] = found @ known.turn
        heights = truth.heights[chosen]
        slopes, middles = [], []
        for true, found in zip(paths, places, strict=True):
            seen = np.isfinite(found[:, 0])
            if seen.sum() < max(4, 0.6 * len(chosen)):
                continue
            away = heights[seen] - heights[seen].mean()
            slopes.append([away @ path[seen] / (away @ away) for path in (true, found)])
            middles.append(true.mean(axis=0))
        if not slopes:
            continue
        apart = np.linalg.norm(np.subtract.outer(middles, middles).diagonal(axis1=1, axis2=3), axis=-1)
        near = np.exp(-0.5 * (apart / BUNDLE) ** 2)
        there, here = np.moveaxis(np.tensordot(near / near.sum(axis=1, keepdims=True), slopes, axes=1), 1, 0)
        product += float((there * here).sum())
        square += float((there * there).sum())
        neurites += len(slopes)
    return (product / square if square > 0 else float("nan")), neurites


def _followed(
    deformation: TrueSlide, section_map: Map, points: FloatArray, goal: FloatArray, shape: tuple[int, ...]
) -> FloatArray:
    """Canvas positions ``(N, 2)`` at which the alignment shows tissue ``goal (N, 2)``; NaN where it does not."""
    # The affine part of canvas-to-tissue in one go, the rest by taking the error off again and again.
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
    """Chunk correlation of sections that follow each other, where maps put them; empty pixels left out of the means."""
    low = [round(margin * n) for n in truth.shape[1:]]
    axes = [np.arange(a, n - a, dtype=np.float64) for a, n in zip(low, truth.shape[1:], strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    chunks = max(max(points.shape[:2]) // CHUNK, 1)
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
    """Mean of everything that is known in some arrays; NaN if that is nothing."""
    values = np.concatenate([np.ravel(np.asarray(part, dtype=np.float64)) for part in parts]) if parts else np.zeros(0)
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")


def maps_of(aligned: AlignedStack) -> list[Map]:
    """The maps of an alignment on disk, canvas to raw section, as :func:`score_truth` asks for them."""
    transform = lru_cache(maxsize=2)(aligned.transform)  # a section is asked for many points in a row
    return [partial(_mapped, transform, z) for z in range(aligned.n_sections)]


def _mapped(transform: Callable[[int], Transform], z: int, points: FloatArray) -> FloatArray:
    import torch

    points = np.asarray(points, dtype=np.float64)
    with torch.no_grad():
        found = transform(z)(torch.from_numpy(points.reshape(1, -1, 2)))
    return np.asarray(found[0].numpy().reshape(points.shape), dtype=np.float64)
