"""How good a registration is: overlap, surface distance, landmark error, image agreement, folding.

Plain numpy and scipy on arrays that already lie on the same grid. Lengths are in the unit of ``spacing``, the voxel
size along each axis; masks are boolean and true where a voxel counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_stnreg.errors import InputError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Spacing = float | Sequence[float]


# -- labels -----------------------------------------------------------------------------------------------------------


def common_labels(first: npt.ArrayLike, second: npt.ArrayLike, minimum: int = 1) -> list[int]:
    """Labels other than 0 that fill at least ``minimum`` voxels in both images, in order."""
    counts = []
    for labels in (first, second):
        values, sizes = np.unique(np.asarray(labels), return_counts=True)
        counts.append({int(v) for v, n in zip(values, sizes, strict=True) if v != 0 and n >= minimum})
    return sorted(counts[0] & counts[1])


def _per_label(first: npt.ArrayLike, second: npt.ArrayLike, labels: Sequence[int] | None) -> dict[int, tuple[int, ...]]:
    """Voxels in the first, the second and both, for each label."""
    a, b = _same_shape(first, second)
    if labels is None:
        labels = [int(v) for v in np.union1d(a, b) if v != 0]
    sizes_a, sizes_b, shared = (dict(zip(*np.unique(v, return_counts=True), strict=True)) for v in (a, b, a[a == b]))
    return {v: (int(sizes_a.get(v, 0)), int(sizes_b.get(v, 0)), int(shared.get(v, 0))) for v in labels}


def dice(first: npt.ArrayLike, second: npt.ArrayLike, labels: Sequence[int] | None = None) -> dict[int, float]:
    """Dice overlap ``2 |A and B| / (|A| + |B|)`` of each label.

    Parameters
    ----------
    first, second
        Label images or masks of one shape.
    labels
        Which labels; by default all but 0 that occur in either. One that is missing on one side has overlap 0, one
        that is missing on both is NaN.
    """
    counts = _per_label(first, second, labels)
    return {v: 2 * both / (a + b) if a + b else float("nan") for v, (a, b, both) in counts.items()}


def jaccard(first: npt.ArrayLike, second: npt.ArrayLike, labels: Sequence[int] | None = None) -> dict[int, float]:
    """Intersection over union of each label; parameters as for :func:`dice`."""
    counts = _per_label(first, second, labels)
    return {v: both / (a + b - both) if a + b else float("nan") for v, (a, b, both) in counts.items()}


def surface_distances(
    first: npt.ArrayLike, second: npt.ArrayLike, spacing: Spacing = 1.0
) -> tuple[FloatArray, FloatArray]:
    """Distance of each boundary voxel of one mask from the other's boundary, in either direction.

    The boundary is made of the mask's own voxels that touch the outside by a face. Both are empty if a mask is.
    """
    a, b = (np.asarray(m, dtype=bool) for m in _same_shape(first, second))
    if not a.any() or not b.any():
        return np.empty(0), np.empty(0)
    step = np.broadcast_to(np.asarray(spacing, dtype=np.float64), a.ndim)
    # Nothing outside the two objects matters to the distance between them.
    box = ndimage.find_objects((a | b).astype(np.int8))[0]
    edges = []
    for mask in (a[box], b[box]):
        mask = np.pad(mask, 1)
        edges.append(mask & ~ndimage.binary_erosion(mask))
    far_from_a, far_from_b = (ndimage.distance_transform_edt(~edge, sampling=step) for edge in edges)
    return far_from_b[edges[0]], far_from_a[edges[1]]


def hausdorff95(first: npt.ArrayLike, second: npt.ArrayLike, spacing: Spacing = 1.0, percentile: float = 95.0) -> float:
    """The larger of the two directed distances between boundaries, each at a percentile; 100 is Hausdorff's own.

    NaN if a mask is empty.
    """
    there, back = surface_distances(first, second, spacing)
    if not there.size:
        return float("nan")
    return float(max(np.percentile(there, percentile), np.percentile(back, percentile)))


def mean_surface_distance(first: npt.ArrayLike, second: npt.ArrayLike, spacing: Spacing = 1.0) -> float:
    """Mean distance between the boundaries of two masks, over the boundary voxels of both; NaN if a mask is empty."""
    there, back = surface_distances(first, second, spacing)
    return float(np.concatenate([there, back]).mean()) if there.size else float("nan")


# -- landmarks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LandmarkError:
    """Target registration error of landmark pairs in world units, and relative to the image's diagonal if known."""

    each: FloatArray
    diagonal: float | None = None

    @property
    def mean(self) -> float:
        """Mean distance."""
        return float(self.each.mean())

    @property
    def median(self) -> float:
        """Median distance."""
        return float(np.median(self.each))

    @property
    def max(self) -> float:
        """Largest distance."""
        return float(self.each.max())

    @property
    def relative(self) -> FloatArray:
        """Each distance over the diagonal (NaN without one); its median is the rTRE of the histology challenges."""
        return self.each / (self.diagonal if self.diagonal else np.nan)

    def to_dict(self) -> dict[str, float]:
        """The summary as numbers."""
        summary = {"mean": self.mean, "median": self.median, "max": self.max}
        if self.diagonal:
            summary |= {f"relative_{k}": v / self.diagonal for k, v in summary.items()}
        return summary


def landmark_error(mapped: npt.ArrayLike, target: npt.ArrayLike, diagonal: float | None = None) -> LandmarkError:
    """Distance of mapped landmarks from their partners, both ``(N, D)`` in world units, paired by row.

    Landmarks of the fixed side are mapped to the moving side by the transform, those of the moving side by its inverse.
    """
    a, b = np.asarray(mapped, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if a.ndim != 2 or a.shape != b.shape or not len(a):
        raise InputError(f"Landmarks are paired by order; {a.shape} and {b.shape} cannot be.")
    return LandmarkError(np.linalg.norm(a - b, axis=1), diagonal)


# -- deformation ------------------------------------------------------------------------------------------------------


def jacobian_determinant(displacement: npt.ArrayLike, spacing: Spacing = 1.0) -> FloatArray:
    """Local change of volume of ``x -> x + u(x)``, ``(*shape)``; at 0 and below the map folds.

    Parameters
    ----------
    displacement
        ``(D, *shape)`` along the grid's own axes, in units of ``spacing`` (voxels if that is 1).
    spacing
        Voxel size along each axis.

    Notes
    -----
    Central differences, one-sided at the border.
    """
    u = np.asarray(displacement, dtype=np.float64)
    ndim = u.ndim - 1
    if len(u) != ndim:
        raise InputError(f"A displacement field in {ndim}D has {ndim} components first, not {len(u)}.")
    steps = np.broadcast_to(np.asarray(spacing, dtype=np.float64), ndim)
    matrix = np.zeros((*u.shape[1:], ndim, ndim))
    for axis, step in enumerate(steps):
        if u.shape[axis + 1] > 1:
            matrix[..., axis] = np.moveaxis(np.gradient(u, step, axis=axis + 1), 0, -1)
    return np.asarray(np.linalg.det(matrix + np.eye(ndim)))


def folded_share(determinant: npt.ArrayLike, border: int = 4) -> float:
    """Share of voxels whose Jacobian determinant is 0 or less, without a rim of ``border`` voxels.

    An axis too short to lose the rim keeps all of its voxels.
    """
    values = np.asarray(determinant)
    inside = tuple(slice(border, n - border) if n > 2 * border else slice(None) for n in values.shape)
    return float(np.mean(values[inside] <= 0))


# -- intensities ------------------------------------------------------------------------------------------------------


def mse(fixed: npt.ArrayLike, moved: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> float:
    """Mean squared difference."""
    a, b = _counted(fixed, moved, mask)
    return float(np.mean((a - b) ** 2)) if a.size else float("nan")


def psnr(
    fixed: npt.ArrayLike, moved: npt.ArrayLike, mask: npt.ArrayLike | None = None, data_range: float | None = None
) -> float:
    """Peak signal to noise ratio in decibels; the peak is ``data_range``, by default the fixed image's range."""
    a, b = _counted(fixed, moved, mask)
    if not a.size:
        return float("nan")
    peak = float(np.ptp(a)) if data_range is None else data_range
    error = float(np.mean((a - b) ** 2))
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(np.float64(peak**2) / error)) if error else float("inf")


def ncc(fixed: npt.ArrayLike, moved: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> float:
    """Pearson correlation, between -1 and 1; NaN if either image is constant."""
    a, b = _counted(fixed, moved, mask)
    if not a.size:
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 1e-12 * a.size else float("nan")


def local_ncc(fixed: npt.ArrayLike, moved: npt.ArrayLike, mask: npt.ArrayLike | None = None, radius: int = 3) -> float:
    """Mean of the squared correlation in a window around each voxel; windows without contrast do not count.

    Masked voxels count in no window, nor does what lies outside the image.
    """
    a, b = _same_shape(fixed, moved)
    known = np.ones(a.shape) if mask is None else np.asarray(mask, dtype=np.float64)
    a, b = (np.where(known > 0, v, 0.0).astype(np.float64) for v in (a, b))
    a, b = (np.where(known > 0, v - v[known > 0].mean(), 0.0) if known.any() else v for v in (a, b))

    def mean(values: FloatArray) -> FloatArray:
        window: FloatArray = ndimage.uniform_filter(values, 2 * radius + 1, mode="constant")
        return window

    count = np.maximum(mean(known), 1e-12)
    mean_a, mean_b = mean(a) / count, mean(b) / count
    cross = mean(a * b) / count - mean_a * mean_b
    var_a, var_b = mean(a * a) / count - mean_a**2, mean(b * b) / count - mean_b**2
    flat = 1e-9 * max(float(var_a.max()), 1e-300), 1e-9 * max(float(var_b.max()), 1e-300)
    defined = (known > 0) & (var_a > flat[0]) & (var_b > flat[1])
    return float(np.mean(cross[defined] ** 2 / (var_a * var_b)[defined])) if defined.any() else float("nan")


def mutual_information(
    fixed: npt.ArrayLike,
    moved: npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
    bins: int = 32,
    normalised: bool = False,
) -> float:
    """Mutual information in nats from a joint histogram, or ``(H(a) + H(b)) / H(a, b)`` if ``normalised``."""
    a, b = _counted(fixed, moved, mask)
    if not a.size:
        return float("nan")
    joint = np.histogram2d(a, b, bins=bins)[0] / a.size
    of_a, of_b, of_both = (float(-(p[p > 0] * np.log(p[p > 0])).sum()) for p in (joint.sum(1), joint.sum(0), joint))
    if normalised:
        return (of_a + of_b) / of_both if of_both > 0 else float("nan")
    return of_a + of_b - of_both


def ssim(
    fixed: npt.ArrayLike,
    moved: npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
    data_range: float | None = None,
    window: int = 7,
) -> float:
    """Structural similarity (Wang et al. 2004) with a uniform window, averaged where the window lies in the image.

    With a mask the average is over the masked voxels; the windows still see all. ``data_range`` is by default that of
    the fixed image.
    """
    a, b = (v.astype(np.float64) for v in _same_shape(fixed, moved))
    peak = float(np.ptp(a)) if data_range is None else data_range
    small = (0.01 * peak) ** 2 or 1e-12, (0.03 * peak) ** 2 or 1e-12
    window = (min(window, *a.shape) - 1) // 2 * 2 + 1  # odd, and no wider than the image
    size = window**a.ndim
    unbiased = size / (size - 1) if size > 1 else 1.0
    mean_a, mean_b = (ndimage.uniform_filter(v, window) for v in (a, b))
    var_a = unbiased * (ndimage.uniform_filter(a * a, window) - mean_a**2)
    var_b = unbiased * (ndimage.uniform_filter(b * b, window) - mean_b**2)
    cross = unbiased * (ndimage.uniform_filter(a * b, window) - mean_a * mean_b)
    luminance = (2 * mean_a * mean_b + small[0]) / (mean_a**2 + mean_b**2 + small[0])
    values = luminance * (2 * cross + small[1]) / (var_a + var_b + small[1])
    inside = (slice(window // 2, -(window // 2) or None),) * a.ndim
    values = values[inside] if mask is None else values[inside][np.asarray(mask, dtype=bool)[inside]]
    return float(values.mean()) if values.size else float("nan")


def compare(fixed: npt.ArrayLike, moved: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Mapping[str, float]:
    """All image scores of one pair on the same grid, by name, for a report.

    Parameters
    ----------
    fixed, moved
        Scalar images of one shape.
    mask
        Where both are defined.
    """
    a, b = _same_shape(fixed, moved)
    known = np.isfinite(a) & np.isfinite(b)
    if mask is not None:
        known &= np.asarray(mask, dtype=bool)
    a, b = np.where(known, a, 0), np.where(known, b, 0)
    counts = None if known.all() else known
    scores = {f.__name__: f(a, b, counts) for f in (mse, psnr, ncc, local_ncc, mutual_information, ssim)}
    return scores | {"normalised_mutual_information": mutual_information(a, b, counts, normalised=True)}


def _same_shape(first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    a, b = np.asarray(first), np.asarray(second)
    if a.shape != b.shape:
        raise InputError(f"Images of shape {a.shape} and {b.shape} cannot be compared; put them on one grid first.")
    return a, b


def _counted(first: npt.ArrayLike, second: npt.ArrayLike, mask: npt.ArrayLike | None) -> tuple[FloatArray, FloatArray]:
    """The values that count, flat and in double precision."""
    a, b = _same_shape(first, second)
    if mask is None:
        return a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    counts = np.asarray(mask, dtype=bool)
    return a[counts].astype(np.float64), b[counts].astype(np.float64)
