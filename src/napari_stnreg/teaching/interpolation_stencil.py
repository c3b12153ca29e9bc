"""The interpolation stencil of one output pixel: position, neighbors and weights. Equal to the sampler.

References
----------
Jaderberg et al., Spatial transformer networks, NeurIPS 2015, equations 3 to 5: the kernel, the integer kernel and the
bilinear kernel. Keys, Cubic convolution interpolation for digital image processing, IEEE Transactions on Acoustics,
Speech and Signal Processing 29, 1981.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.grid import FloatArray
from napari_stnreg.ops.interpolation import Kernel, Padding

_KEYS = -0.75


@dataclass(frozen=True)
class Neighbor:
    """One pixel of a stencil.

    Parameters
    ----------
    index
        Index of the pixel, (y, x); may be outside the image.
    weight
        Interpolation weight; for the bilinear kernel the area of the opposite rectangle.
    value
        Its value, ``(C,)``; zero outside the image if the padding is zeros.
    inside
        Whether it is inside the image.
    """

    index: tuple[int, int]
    weight: float
    value: FloatArray
    inside: bool


@dataclass(frozen=True)
class InterpolationStencil:
    """All pixels and weights that make one output pixel.

    Parameters
    ----------
    position
        Sampling position, (y, x) in pixels of the input.
    cell
        The upper left of the four pixels around the position, (y, x).
    fraction
        Fractional offset from ``cell``, (y, x), 0 to 1.
    neighbors
        The pixels: one, four or sixteen.
    value
        The sum of weights times values, ``(C,)``.
    """

    position: tuple[float, float]
    cell: tuple[int, int]
    fraction: tuple[float, float]
    neighbors: tuple[Neighbor, ...]
    value: FloatArray


def interpolation_stencil(
    image: npt.ArrayLike, position: Sequence[float], kernel: Kernel = "linear", padding: Padding = "zeros"
) -> InterpolationStencil:
    """Return the stencil of the sampler at one position.

    Parameters
    ----------
    image
        ``(y, x)`` or ``(y, x, C)``.
    position
        (y, x) in pixels of the input; a pixel's center is at its integer index.
    kernel, padding
        As in :func:`napari_stnreg.ops.interpolation.sample`, which returns the same value.
    """
    array = np.asarray(image, dtype=np.float64)
    array = array[..., None] if array.ndim == 2 else array
    shape = array.shape[:2]
    where = np.asarray(position, dtype=np.float64)
    read = where
    if kernel != "cubic" and padding != "zeros":  # the position itself is padded; cubic pads each neighbor
        read = np.array([_pad_coordinate(p, n, padding) for p, n in zip(where, shape, strict=True)])
    cell = np.floor(read + 0.5 if kernel == "nearest" else read).astype(int)
    taps = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}[kernel]
    weights = [_weights(float(p - c), kernel) for p, c in zip(read, cell, strict=True)]
    neighbors, total = [], np.zeros(array.shape[2])
    for i, tap_y in enumerate(taps):
        for j, tap_x in enumerate(taps):
            index = np.array([cell[0] + tap_y, cell[1] + tap_x])
            if padding != "zeros":
                index = np.array(
                    [round(_pad_coordinate(float(p), n, padding)) for p, n in zip(index, shape, strict=True)]
                )
            inside = bool((index >= 0).all() and (index < shape).all())
            weight = float(weights[0][i] * weights[1][j])
            value = array[index[0], index[1]] if inside else np.zeros(array.shape[2])
            neighbors.append(Neighbor((int(index[0]), int(index[1])), weight, value, inside))
            total = total + weight * value
    corner = np.floor(where).astype(int)
    fraction = where - corner
    return InterpolationStencil(
        (float(where[0]), float(where[1])),
        (int(corner[0]), int(corner[1])),
        (float(fraction[0]), float(fraction[1])),
        tuple(neighbors),
        total,
    )


def _weights(fraction: float, kernel: Kernel) -> FloatArray:
    if kernel == "nearest":
        return np.ones(1)
    if kernel == "linear":
        return np.array([1 - fraction, fraction])
    distance = np.abs(np.array([1 + fraction, fraction, 1 - fraction, 2 - fraction]))
    near = ((_KEYS + 2) * distance - (_KEYS + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * _KEYS - 4 * _KEYS
    return np.asarray(np.where(distance <= 1, near, far))


def _pad_coordinate(p: float, n: int, padding: Padding) -> float:
    """Map a coordinate into an axis of ``n`` pixels by the padding rule."""
    if padding == "reflection":  # mirrored at the outer faces, -1/2 and n - 1/2
        p = (p + 0.5) % (2 * n)
        p = (p if p < n else 2 * n - p) - 0.5
    return float(min(max(p, 0.0), n - 1.0))
