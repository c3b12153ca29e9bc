"""What every score asks of its arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError

FloatArray = npt.NDArray[np.float64]
Spacing = float | Sequence[float]


def same_shape(first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Two arrays that can be compared voxel by voxel."""
    a, b = np.asarray(first), np.asarray(second)
    if a.shape != b.shape:
        raise InputError(f"Images of shape {a.shape} and {b.shape} cannot be compared; put them on one grid first.")
    return a, b


def counted(first: npt.ArrayLike, second: npt.ArrayLike, mask: npt.ArrayLike | None) -> tuple[FloatArray, FloatArray]:
    """The values that count, flat and in double precision."""
    a, b = same_shape(first, second)
    if mask is None:
        return a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    counts = np.asarray(mask, dtype=bool)
    return a[counts].astype(np.float64), b[counts].astype(np.float64)
