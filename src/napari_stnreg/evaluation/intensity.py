"""Image similarity of two images on one grid."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_stnreg.evaluation.validation import FloatArray, check_same_shape, masked_values


def mse(fixed: npt.ArrayLike, moved: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> float:
    """Return the mean squared difference."""
    a, b = masked_values(fixed, moved, mask)
    return float(np.mean((a - b) ** 2)) if a.size else float("nan")


def psnr(
    fixed: npt.ArrayLike, moved: npt.ArrayLike, mask: npt.ArrayLike | None = None, data_range: float | None = None
) -> float:
    """Return the peak signal-to-noise ratio in decibels; the peak is ``data_range``, by default that of the image."""
    a, b = masked_values(fixed, moved, mask)
    if not a.size:
        return float("nan")
    peak = float(np.ptp(a)) if data_range is None else data_range
    error = float(np.mean((a - b) ** 2))
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(np.float64(peak**2) / error)) if error else float("inf")


def ncc(fixed: npt.ArrayLike, moved: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> float:
    """Return the Pearson correlation, between -1 and 1; NaN if either image is constant."""
    a, b = masked_values(fixed, moved, mask)
    if not a.size:
        return float("nan")
    products = []
    for values in (a, b):
        centered = values - values.mean()
        length = float(np.linalg.norm(centered))
        if length <= 1e-12 * float(np.linalg.norm(values)):  # constant except for rounding, in any unit
            return float("nan")
        products.append(centered / length)
    return float(products[0] @ products[1])


def local_ncc(fixed: npt.ArrayLike, moved: npt.ArrayLike, mask: npt.ArrayLike | None = None, radius: int = 3) -> float:
    """Return the mean squared correlation in a window around each voxel; windows without contrast are ignored.

    Voxels outside the mask or outside the image contribute to no window.
    """
    a, b = check_same_shape(fixed, moved)
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
    normalized: bool = False,
) -> float:
    """Return the mutual information in nats of a joint histogram, or ``(H(a) + H(b)) / H(a, b)`` if ``normalized``."""
    of_a, of_b, of_both = _entropies(fixed, moved, mask, bins)
    return _normalized_information(of_a, of_b, of_both) if normalized else of_a + of_b - of_both


def _entropies(
    fixed: npt.ArrayLike, moved: npt.ArrayLike, mask: npt.ArrayLike | None, bins: int = 32
) -> tuple[float, float, float]:
    """Return the entropies of both images and the joint entropy in nats; NaN without voxels."""
    a, b = masked_values(fixed, moved, mask)
    if not a.size:
        return float("nan"), float("nan"), float("nan")
    joint = np.histogram2d(a, b, bins=bins)[0] / a.size
    of_a, of_b, of_both = (float(-(p[p > 0] * np.log(p[p > 0])).sum()) for p in (joint.sum(1), joint.sum(0), joint))
    return of_a, of_b, of_both


def _normalized_information(of_a: float, of_b: float, of_both: float) -> float:
    return (of_a + of_b) / of_both if of_both > 0 else float("nan")


def ssim(
    fixed: npt.ArrayLike,
    moved: npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
    data_range: float | None = None,
    window: int = 7,
) -> float:
    """Return the structural similarity (Wang et al. 2004) with a uniform window, averaged over complete windows.

    With a mask the average is over the voxels inside it; the windows still use all voxels. ``data_range`` is that of
    the fixed image by default.
    """
    a, b = (v.astype(np.float64) for v in check_same_shape(fixed, moved))
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
    """Return all image scores of one pair on the same grid by name.

    Parameters
    ----------
    fixed, moved
        Scalar images of one shape.
    mask
        Where both are defined.
    """
    a, b = check_same_shape(fixed, moved)
    known = np.isfinite(a) & np.isfinite(b)
    if mask is not None:
        known &= np.asarray(mask, dtype=bool)
    a, b = np.where(known, a, 0), np.where(known, b, 0)
    counts = None if known.all() else known
    scores = {f.__name__: f(a, b, counts) for f in (mse, psnr, ncc, local_ncc)}
    of_a, of_b, of_both = _entropies(a, b, counts)  # one histogram for both
    scores |= {"mutual_information": of_a + of_b - of_both, "ssim": ssim(a, b, counts)}
    return scores | {"normalized_mutual_information": _normalized_information(of_a, of_b, of_both)}
