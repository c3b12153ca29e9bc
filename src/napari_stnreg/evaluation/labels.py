"""Overlap and surface distance of label images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_stnreg.evaluation.validation import FloatArray, Spacing, check_same_shape


def common_labels(first: npt.ArrayLike, second: npt.ArrayLike, minimum: int = 1) -> list[int]:
    """Return the labels other than 0 with at least ``minimum`` voxels in both images, sorted."""
    counts = []
    for labels in (first, second):
        values, sizes = np.unique(np.asarray(labels), return_counts=True)
        counts.append({int(v) for v, n in zip(values, sizes, strict=True) if v != 0 and n >= minimum})
    return sorted(counts[0] & counts[1])


def _per_label(first: npt.ArrayLike, second: npt.ArrayLike, labels: Sequence[int] | None) -> dict[int, tuple[int, ...]]:
    """Count the voxels of each label in the first image, the second image and both."""
    a, b = check_same_shape(first, second)
    if labels is None:
        labels = [int(v) for v in np.union1d(a, b) if v != 0]
    sizes_a, sizes_b, shared = (dict(zip(*np.unique(v, return_counts=True), strict=True)) for v in (a, b, a[a == b]))
    return {v: (int(sizes_a.get(v, 0)), int(sizes_b.get(v, 0)), int(shared.get(v, 0))) for v in labels}


def dice(first: npt.ArrayLike, second: npt.ArrayLike, labels: Sequence[int] | None = None) -> dict[int, float]:
    """Return the Dice overlap ``2 |A and B| / (|A| + |B|)`` of each label.

    Parameters
    ----------
    first, second
        Label images or masks of one shape.
    labels
        Labels to score; by default all but 0 that occur in either image. A label missing in one image has overlap 0,
        a label missing in both NaN.
    """
    counts = _per_label(first, second, labels)
    return {v: 2 * both / (a + b) if a + b else float("nan") for v, (a, b, both) in counts.items()}


def jaccard(first: npt.ArrayLike, second: npt.ArrayLike, labels: Sequence[int] | None = None) -> dict[int, float]:
    """Return the intersection over union of each label; parameters as for :func:`dice`."""
    counts = _per_label(first, second, labels)
    return {v: both / (a + b - both) if a + b else float("nan") for v, (a, b, both) in counts.items()}


def surface_distances(
    first: npt.ArrayLike, second: npt.ArrayLike, spacing: Spacing = 1.0
) -> tuple[FloatArray, FloatArray]:
    """Return the distance of each boundary voxel of one mask to the boundary of the other, in both directions.

    The boundary consists of the voxels of the mask that share a face with the background. Both arrays are empty if one
    mask is empty.
    """
    a, b = (np.asarray(m, dtype=bool) for m in check_same_shape(first, second))
    if not a.any() or not b.any():
        return np.empty(0), np.empty(0)
    step = np.broadcast_to(np.asarray(spacing, dtype=np.float64), a.ndim)
    # the distance does not depend on voxels outside the bounding box of both masks
    box = ndimage.find_objects((a | b).astype(np.int8))[0]
    edges = []
    for mask in (a[box], b[box]):
        mask = np.pad(mask, 1)
        edges.append(mask & ~ndimage.binary_erosion(mask))
    far_from_a, far_from_b = (ndimage.distance_transform_edt(~edge, sampling=step) for edge in edges)
    return far_from_b[edges[0]], far_from_a[edges[1]]


def hausdorff95(first: npt.ArrayLike, second: npt.ArrayLike, spacing: Spacing = 1.0, percentile: float = 95.0) -> float:
    """Return the larger of the two directed percentiles of the boundary distance; 100 is the Hausdorff distance.

    NaN if a mask is empty.
    """
    from_first, from_second = surface_distances(first, second, spacing)
    if not from_first.size:
        return float("nan")
    return float(max(np.percentile(from_first, percentile), np.percentile(from_second, percentile)))


def mean_surface_distance(first: npt.ArrayLike, second: npt.ArrayLike, spacing: Spacing = 1.0) -> float:
    """Return the mean distance between two boundaries, over the voxels of both; NaN if a mask is empty."""
    from_first, from_second = surface_distances(first, second, spacing)
    return float(np.concatenate([from_first, from_second]).mean()) if from_first.size else float("nan")
