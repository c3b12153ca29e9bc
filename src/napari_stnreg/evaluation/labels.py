"""Overlap and surface distance of labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_stnreg.evaluation.arrays import FloatArray, Spacing, same_shape


def common_labels(first: npt.ArrayLike, second: npt.ArrayLike, minimum: int = 1) -> list[int]:
    """Labels other than 0 that fill at least ``minimum`` voxels in both images, in order."""
    counts = []
    for labels in (first, second):
        values, sizes = np.unique(np.asarray(labels), return_counts=True)
        counts.append({int(v) for v, n in zip(values, sizes, strict=True) if v != 0 and n >= minimum})
    return sorted(counts[0] & counts[1])


def _per_label(first: npt.ArrayLike, second: npt.ArrayLike, labels: Sequence[int] | None) -> dict[int, tuple[int, ...]]:
    """Voxels in the first, the second and both, for each label."""
    a, b = same_shape(first, second)
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
    a, b = (np.asarray(m, dtype=bool) for m in same_shape(first, second))
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
