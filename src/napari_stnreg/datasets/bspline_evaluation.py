"""Smooth functions on every pixel of a large image, interpolated from nodes a few pixels apart; blocks of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy.ndimage import spline_filter

from napari_stnreg.core.grid import FloatArray
from napari_stnreg.datasets.primitives import round_binary

Plane = npt.NDArray[np.float32]
Value = TypeVar("Value", bound=np.generic)
NODE = 8
"""Pixels between nodes: what changes over fifty pixels is met to a thousandth."""
MARGIN = 6
"""Nodes beyond the picture, where the spline settles."""


def evaluate_on_pixels(
    function: Callable[[FloatArray], FloatArray], shape: tuple[int, int], multiple: int = NODE
) -> list[Plane]:
    """Evaluate a smooth function at all pixels; returns float32 planes ``(h, w)``, one per value.

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
    # Thresholds and nearest-neighbor decisions follow. Rounded nodes, and plain sums instead of matrix products, make
    # the planes bit-identical on processors whose sines and matrix products differ in the last bits.
    values = round_binary(function(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)))
    t = np.arange(NODE) / NODE
    # the four cubic B-splines that reach a pixel between two nodes
    weights = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=-1
    ) / 6  # fmt: skip
    single = weights.astype(np.float32)
    planes = []
    for c in range(values.shape[-1]):
        coefficients = spline_filter(values[..., c], order=3, mode="mirror")
        # sums of four nodes: along the rows first, so that the larger step works on whole rows
        low = [coefficients[:, MARGIN - 1 + i : MARGIN - 1 + i + counts[1]] for i in range(4)]
        columns = sum(weights[:, i] * low[i][:, :, None] for i in range(4))
        columns = np.asarray(columns, dtype=np.float32).reshape(len(coefficients), -1)
        four = [columns[MARGIN - 1 + i : MARGIN - 1 + i + counts[0]] for i in range(4)]
        plane = np.empty((counts[0], NODE, counts[1] * NODE), dtype=np.float32)
        for row in range(NODE):
            part = single[row, 0] * four[0]
            for i in range(1, 4):
                part += single[row, i] * four[i]
            plane[:, row] = part
        planes.append(plane.reshape(counts[0] * NODE, -1))
    return planes


def to_blocks(plane: npt.NDArray[Value], side: int) -> npt.NDArray[Value]:
    """Split a plane whose sides are multiples of ``side`` into blocks ``(B, side * side)``."""
    h, w = plane.shape
    cut = plane.reshape(h // side, side, w // side, side).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(cut).reshape(-1, side * side)


def from_blocks(blocks: npt.NDArray[Value], shape: tuple[int, int], side: int) -> npt.NDArray[Value]:
    """Invert :func:`to_blocks`."""
    cut = blocks.reshape(shape[0] // side, shape[1] // side, side, side).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(cut).reshape(shape)
