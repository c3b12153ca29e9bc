"""Validation of corresponding landmarks on the fixed and the moving image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray


def check_landmarks(
    fixed: npt.ArrayLike | None, moving: npt.ArrayLike | None, ndim: int | None = None, *, allow_empty: bool = False
) -> tuple[FloatArray, FloatArray]:
    """Return landmarks that are paired by order as float64 arrays ``(N, D)``.

    Parameters
    ----------
    fixed, moving
        Points of both images.
    ndim
        Number of coordinates; ``None`` for 2 or 3, the same on both sides.
    allow_empty
        Whether ``N`` may be 0.

    Raises
    ------
    InputError
        If one side is missing, the counts or the numbers of coordinates differ, or values are not finite.
    """
    if fixed is None or moving is None:
        raise InputError("Landmarks are given for one image only. Give them for both images, paired by order.")
    a, b = np.asarray(fixed, dtype=np.float64), np.asarray(moving, dtype=np.float64)
    expected = (2, 3) if ndim is None else (ndim,)
    for points in (a, b):
        if points.ndim != 2 or (points.size and points.shape[1] not in expected):
            columns = " or ".join(f"(N, {n})" for n in expected)
            raise InputError(f"Landmarks are an array of shape {columns}, not {points.shape}.")
        if not np.isfinite(points).all():
            raise InputError("Landmarks contain NaN or infinite values. Remove them.")
    if len(a) != len(b):
        raise InputError(
            f"There are {len(a)} fixed and {len(b)} moving landmarks. Landmarks are paired by order: add or remove "
            "points until the counts match."
        )
    if not len(a) and not allow_empty:
        raise InputError("There are no landmarks.")
    if a.shape != b.shape:
        raise InputError(f"The fixed landmarks are {a.shape[1]}D and the moving ones {b.shape[1]}D.")
    return a, b
