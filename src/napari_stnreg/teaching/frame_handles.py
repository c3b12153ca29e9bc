"""Handles of the sampling frame: their positions, and theta after one is dragged."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.grid import FloatArray
from napari_stnreg.core.linalg import rotation_2d
from napari_stnreg.teaching.theta import Theta

CORNERS = ("corner 0", "corner 1", "corner 2", "corner 3")
EDGES = ("left", "right", "top", "bottom")
NAMES = (*CORNERS, *EDGES, "turn", "center")
"""All handles, in the order of :func:`handle_positions`."""

_SIGNS = {
    "corner 0": (-1, -1), "corner 1": (1, -1), "corner 2": (1, 1), "corner 3": (-1, 1),
    "left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1), "center": (0, 0),
}  # fmt: skip
_ARM = 1.25


def handle_positions(theta: Theta, shape: tuple[int, ...]) -> FloatArray:
    """Return the handles on the input, ``(10, 2)`` in pixels, (y, x), in the order of :data:`NAMES`."""
    half = np.array([shape[1], shape[0]]) / 2
    output = [np.array(_SIGNS[name]) * half for name in (*CORNERS, *EDGES)]
    output += [np.array([0.0, -_ARM * half[1]]), np.zeros(2)]
    middle = (np.array(shape) - 1) / 2
    return np.asarray(theta(np.array(output))[:, ::-1] + middle)


def drag(theta: Theta, shape: tuple[int, ...], handle: str, to: npt.ArrayLike, *, keep_shape: bool = False) -> Theta:
    """Return theta after a handle was dragged.

    A corner scales about the opposite corner; an edge scales and shears about the opposite edge; ``"turn"`` rotates;
    the center shifts. The dragged handle ends at the pointer (``"turn"``: in its direction).

    Parameters
    ----------
    theta
        Theta before.
    shape
        Size of the image, (y, x).
    handle
        One of :data:`NAMES`.
    to
        Pointer position in pixels of the input, (y, x).
    keep_shape
        Scale both axes equally (corners only); the handle then ends as near to the pointer as possible.
    """
    half = np.array([shape[1], shape[0]]) / 2
    hand = (np.asarray(to, dtype=np.float64) - (np.array(shape) - 1) / 2)[::-1]
    linear, shift = theta.matrix[:, :2].copy(), theta.matrix[:, 2].copy()
    if handle == "center":
        return Theta(np.column_stack([linear, hand]))
    if handle == "turn":
        before, after = -linear[:, 1], hand - shift
        if np.hypot(*after) < 1e-6 or np.hypot(*before) < 1e-12:
            return theta
        angle = np.arctan2(after[1], after[0]) - np.arctan2(before[1], before[0])
        return Theta(np.column_stack([rotation_2d(angle) @ linear, shift]))
    sign = np.array(_SIGNS[handle])
    fixed = theta(-sign * half)
    if handle in EDGES:
        axis = int(np.flatnonzero(sign)[0])
        linear[:, axis] = (hand - fixed) / (2 * half[axis] * sign[axis])
    else:
        if abs(np.linalg.det(linear)) < 1e-9:
            return theta
        factor = np.linalg.solve(linear, hand - fixed) / (2 * half * sign)
        if keep_shape:
            factor = np.full(2, factor.mean())
        linear = linear * np.where(np.abs(factor) < 0.01, 0.01, factor)
    return Theta(np.column_stack([linear, fixed + linear @ (sign * half)]))
