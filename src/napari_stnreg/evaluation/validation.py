"""Checks of the arrays that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError

FloatArray = npt.NDArray[np.float64]
Spacing = float | Sequence[float]


def check_same_shape(first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return both as arrays.

    Raises
    ------
    InputError
        If their shapes differ.
    """
    a, b = np.asarray(first), np.asarray(second)
    if a.shape != b.shape:
        raise InputError(
            f"Images of shape {a.shape} and {b.shape} cannot be compared. Resample them onto one grid first."
        )
    return a, b


def masked_values(
    first: npt.ArrayLike, second: npt.ArrayLike, mask: npt.ArrayLike | None
) -> tuple[FloatArray, FloatArray]:
    """Return the values inside the mask, ``(N,)`` float64 each."""
    a, b = check_same_shape(first, second)
    if mask is None:
        return a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    inside = np.asarray(mask, dtype=bool)
    return a[inside].astype(np.float64), b[inside].astype(np.float64)
