"""Recognize label volumes that their format does not mark as labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MAX_LABELS = 1024
"""Most different values of a label volume; parcellations have up to about 500."""
MAX_TISSUES = 16
"""Up to this many values, neighboring labels may differ by one everywhere, as in a tissue segmentation."""
MIN_EQUAL_FRACTION = 0.7
"""Least fraction of equal neighbors among pairs that are not both background; gray images have less."""
_MAX_VOXELS = 4_000_000


def looks_like_labels(data: npt.NDArray[np.generic]) -> bool:
    """Return whether an integer image holds regions of few values, such as a parcellation, instead of gray values.

    Parameters
    ----------
    data
        2D or 3D. Large volumes are judged by a middle part along the first axis.
    """
    if not (np.issubdtype(data.dtype, np.integer) or data.dtype == np.bool_) or data.ndim not in (2, 3):
        return False
    if data.size > _MAX_VOXELS:
        rows = max(_MAX_VOXELS * len(data) // data.size, 2)
        first = (len(data) - rows) // 2
        data = data[first : first + rows]
    values, counts = np.unique(data, return_counts=True)
    if not 2 <= len(values) <= MAX_LABELS:
        return False
    background = values[counts.argmax()]
    equal = total = steps = 0
    for axis in range(data.ndim):
        a, b = np.moveaxis(data, axis, 0)[:-1], np.moveaxis(data, axis, 0)[1:]
        counted = (a != background) | (b != background)
        same = a == b
        total += int(counted.sum())
        equal += int((same & counted).sum())
        high, low = np.maximum(a, b), np.minimum(a, b)
        steps += int((counted & ~same & (high != low + 1)).sum())
    if total == 0 or equal < MIN_EQUAL_FRACTION * total:
        return False
    # in a smooth gray image most neighbors that differ do so by one
    return len(values) <= MAX_TISSUES or steps > 0.5 * (total - equal)
