"""Smooth functions on every pixel of a large picture, by way of nodes a few pixels apart; and pictures as blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy.ndimage import spline_filter

from napari_stnreg.core.image import FloatArray

Plane = npt.NDArray[np.float32]
Value = TypeVar("Value", bound=np.generic)
NODE = 8
"""Pixels between nodes: what changes over fifty pixels is met to a thousandth."""
MARGIN = 6
"""Nodes beyond the picture, where the spline settles."""


def on_pixels(
    function: Callable[[FloatArray], FloatArray], shape: tuple[int, int], multiple: int = NODE
) -> list[Plane]:
    """A smooth function of positions at all pixels, float32, one plane ``(h, w)`` for each of its values.

    Parameters
    ----------
    function
        Positions ``(..., 2)``, (y, x), to values ``(..., C)``.
    shape
        Pixels (h, w).
    multiple
        The planes are made larger until their sides are multiples of it; itself a multiple of :data:`NODE`.
    """
    counts = [-(-n // multiple) * multiple // NODE for n in shape]
    axes = [NODE * np.arange(-MARGIN, n + MARGIN + 1, dtype=np.float64) for n in counts]
    values = function(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1))
    t = np.arange(NODE) / NODE
    # the four cubic B-splines that reach a pixel between two nodes
    weights = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=-1
    ) / 6  # fmt: skip
    planes = []
    for c in range(values.shape[-1]):
        coefficients = spline_filter(values[..., c], order=3, mode="mirror")
        # sums of four nodes: along the columns first, as there are fewer of them than pixels
        low = [coefficients[MARGIN - 1 + i : MARGIN - 1 + i + counts[0]] for i in range(4)]
        rows = sum(weights[None, :, i, None] * low[i][:, None] for i in range(4))
        rows = np.asarray(rows, dtype=np.float32).reshape(counts[0] * NODE, -1)
        four = np.lib.stride_tricks.sliding_window_view(rows, 4, axis=1)[:, MARGIN - 1 : MARGIN - 1 + counts[1]]
        planes.append((four @ weights.T.astype(np.float32)).reshape(len(rows), -1))
    return planes


def blocks_of(plane: npt.NDArray[Value], side: int) -> npt.NDArray[Value]:
    """A plane whose sides are multiples of ``side`` as blocks ``(B, side * side)``."""
    h, w = plane.shape
    cut = plane.reshape(h // side, side, w // side, side).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(cut).reshape(-1, side * side)


def pixels_of(blocks: npt.NDArray[Value], shape: tuple[int, int], side: int) -> npt.NDArray[Value]:
    """The inverse of :func:`blocks_of`."""
    cut = blocks.reshape(shape[0] // side, shape[1] // side, side, side).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(cut).reshape(shape)
