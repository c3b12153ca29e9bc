"""Render sections: the original is read once, through the whole map, band by band."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.stacks.output.canvas import OutputCanvas
from napari_stnreg.stacks.sources.base import StackSource

if TYPE_CHECKING:
    from napari_stnreg.resampling.warp import Interpolation
    from napari_stnreg.transforms.base import Transform

Array = npt.NDArray[Any]

_MARGIN = {"nearest": 2, "linear": 2, "cubic": 24}
"""Pixels read beyond what a band needs; a cubic spline's filter has died away after two dozen."""

_LOOK = 16.0
"""A map is looked at no more densely than every so many input pixels to find what a band reads."""


def relative_scale(shape: tuple[int, ...], input_shape: tuple[int, int], name: str = "the stack") -> float:
    """How many input pixels one pixel of another stack in the same space measures.

    Stacks that were shrunk by a whole factor lost a rest of pixels at their ends, so a whole factor (or its inverse)
    is taken where it fits; the other stack's pixel ``i`` lies at ``(i + 0.5) * scale - 0.5``.

    Raises
    ------
    InputError
        If the two have not the same extent.
    """
    height, width = (int(n) for n in shape[-2:])
    for whole in (round(input_shape[0] / height) or 1, round(input_shape[1] / width) or 1):
        if (input_shape[0] // whole, input_shape[1] // whole) == (height, width):
            return float(whole)
    for whole in (round(height / input_shape[0]) or 1, round(width / input_shape[1]) or 1):
        if (height // whole, width // whole) == tuple(input_shape):
            return 1.0 / whole
    down, across = input_shape[0] / height, input_shape[1] / width
    if abs(down / across - 1) > 0.01:
        raise InputError(
            f"The sections of '{name}' are {height}x{width} pixels and those that were aligned "
            f"{input_shape[0]}x{input_shape[1]}; they do not show the same place."
        )
    return float(np.sqrt(down * across))


def scale_canvas(canvas: OutputCanvas, scale: float) -> Grid:
    """The canvas with pixels ``scale`` input pixels wide, as a grid in input pixels."""
    shape = tuple(max(int(np.ceil(n / scale - 1e-9)), 1) for n in canvas.shape)
    return Grid.from_spacing(shape, scale, [o - 0.5 + scale / 2 for o in canvas.origin])


def render_bands(
    source: StackSource,
    z: int,
    transform: Transform,
    grid: Grid,
    rows: int,
    *,
    scale: float = 1.0,
    step: float = 16.0,
    interpolation: Interpolation = "linear",
    fill: float = 0.0,
) -> Iterator[tuple[slice, Array]]:
    """Render a section band by band.

    Parameters
    ----------
    source, z
        The stack and the section to read.
    transform
        Canvas to raw section, in input pixels.
    grid
        Pixels to render, in input pixels.
    rows
        Rows of a band.
    scale
        Input pixels in a pixel of the source (see :func:`relative_scale`).
    step
        How densely the transform is looked at to find what a band reads; its nodes' distance.
    interpolation, fill
        As in :func:`napari_stnreg.warp`.

    Yields
    ------
    slice, ndarray
        Rows of the grid, and their pixels in the source's type.
    """
    from napari_stnreg.resampling.warp import warp

    for top in range(0, grid.shape[0], rows):
        bottom = min(top + rows, grid.shape[0])
        band = grid.cropped((top, 0), (bottom, grid.shape[1]))
        window = _window(source, transform, band, scale, step, _MARGIN[interpolation])
        if window is None:
            yield slice(top, bottom), np.full(band.shape, fill).astype(source.dtype)
            continue
        data = source.read(z, window)
        start = [(s.start + 0.5) * scale - 0.5 for s in window]
        image = Image(data, Grid.from_spacing(data.shape, scale, start), name=source.name)
        yield slice(top, bottom), np.asarray(warp(image, transform, band, interpolation, fill).data)


def _window(
    source: StackSource, transform: Transform, band: Grid, scale: float, step: float, margin: int
) -> tuple[slice, slice] | None:
    """The part of a section that a band reads; ``None`` if it lies wholly outside."""
    spacing, step = float(band.spacing[0]), max(step, _LOOK)
    count = [max(int(np.ceil(n * spacing / step)), 1) + 1 for n in band.shape]
    corners = band.corners()
    coarse = Grid.from_spacing(
        count,
        [(n * spacing) / (c - 1) for n, c in zip(band.shape, count, strict=True)],
        corners.min(axis=0).tolist(),
    )
    mapped = transform.map_points(coarse.points().reshape(-1, 2))
    index = (mapped + 0.5) / scale - 0.5
    # Between two points that were looked at the map may bulge out by part of their distance.
    reach = margin + np.ceil(0.25 * step / scale)
    low = np.floor(index.min(axis=0) - reach).astype(int)
    high = np.ceil(index.max(axis=0) + reach).astype(int) + 1
    low, high = np.maximum(low, 0), np.minimum(high, source.shape[1:])
    if (low >= high).any():
        return None
    return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))


def halve(data: Array, *, labels: bool = False) -> Array:
    """An image at half the resolution: means of 2x2 blocks, or one pixel of each for labels."""
    if labels:
        return np.ascontiguousarray(data[::2, ::2])
    height, width = data.shape
    padded = np.pad(data, ((0, height % 2), (0, width % 2)), mode="edge")
    kind = np.float64 if data.dtype.itemsize > 4 else np.float32
    blocks: Array = np.zeros(((height + 1) // 2, (width + 1) // 2), dtype=kind)
    for i, k in ((0, 0), (0, 1), (1, 0), (1, 1)):
        blocks += padded[i::2, k::2]
    blocks /= 4
    if data.dtype == np.bool_:
        return np.asarray(blocks >= 0.5)
    return np.asarray(np.rint(blocks) if data.dtype.kind in "ui" else blocks).astype(data.dtype)
