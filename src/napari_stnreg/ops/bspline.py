"""The uniform cubic B-spline: its values, the four weights inside a cell, and basis matrices along an axis.

References
----------
Unser, Splines: a perfect fit for signal and image processing, IEEE Signal Processing Magazine 16, 1999.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_stnreg.core.grid import FloatArray


def cubic_bspline(x: Tensor) -> Tensor:
    """Evaluate the centered cubic B-spline; it is 0 beyond a distance of 2 and sums to 1 over the integers."""
    x = x.abs()
    inner = 2 / 3 - x.square() * (1 - x / 2)
    outer = (2 - x).clamp_min(0).pow(3) / 6
    return torch.where(x < 1, inner, outer)


def cubic_bspline_weights(fraction: Tensor) -> Tensor:
    """Evaluate the four B-splines that are not zero in a cell, ``(..., 4)``, at a fraction 0 to 1 of the cell.

    The same values as :func:`cubic_bspline` at ``fraction + 1, fraction, fraction - 1, fraction - 2``, several times
    faster.
    """
    return torch.stack(_weights_in_cell(fraction), dim=-1)


def _weights_in_cell(fraction: Any) -> list[Any]:
    """Return the four weights of a tensor or an array."""
    rest = 1 - fraction
    square, other = fraction * fraction, rest * rest
    return [
        other * rest / 6, 2 / 3 - square * (2 - fraction) / 2, 2 / 3 - other * (2 - rest) / 2, square * fraction / 6
    ]  # fmt: skip


def cubic_bspline_support(position: FloatArray, size: int) -> tuple[np.ndarray, FloatArray]:
    """Find the control points along one axis that determine a spline at given positions.

    Parameters
    ----------
    position
        ``(n,)`` in indices of the control points; clamped to where the splines are complete, from the second control
        point to the last but one.
    size
        Number of control points.

    Returns
    -------
    array, array
        Index of the first of the four control points, ``(n,)``, and their weights, ``(n, 4)``.
    """
    position = np.clip(np.asarray(position, dtype=np.float64), 1.0, size - 2.0)
    cell = np.minimum(np.floor(position), size - 3).astype(int)
    return cell - 1, np.stack(_weights_in_cell(position - cell), axis=-1)


def cubic_bspline_matrix(position: FloatArray, size: int) -> FloatArray:
    """Return the weights ``(n, size)`` of all control points along one axis; see :func:`cubic_bspline_support`."""
    first, weights = cubic_bspline_support(position, size)
    matrix = np.zeros((len(first), size))
    for tap in range(4):
        matrix[np.arange(len(first)), first + tap] = weights[:, tap]
    return matrix
