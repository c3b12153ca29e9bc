"""Render aligned sections in bands of rows, with a single interpolation of the original."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.image import Image
from napari_stnreg.stacks.output.canvas import OutputCanvas
from napari_stnreg.stacks.sources.base import StackSource

if TYPE_CHECKING:
    from napari_stnreg.resampling.warp import Interpolation
    from napari_stnreg.transforms.base import Transform

Array = npt.NDArray[Any]

_MARGIN = {"nearest": 2, "linear": 2, "cubic": 24}
"""Extra pixels read around a band; the cubic spline prefilter decays within 24 pixels."""

_MIN_SAMPLE_STEP_PX = 16.0
"""Smallest spacing, in input pixels, of the points that determine which pixels a band reads."""


@dataclass(frozen=True)
class PixelMap:
    """Positions of the pixels of a stack in pixels of the aligned input: ``input = index * scale + shift``."""

    scale: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)

    def to_input(self, index: npt.ArrayLike) -> FloatArray:
        """Map pixel indices ``(..., 2)`` to input pixels."""
        return np.asarray(index, dtype=np.float64) * self.scale + self.shift

    def from_input(self, points: npt.ArrayLike) -> FloatArray:
        """Map input pixels ``(..., 2)`` to pixel indices."""
        return (np.asarray(points, dtype=np.float64) - self.shift) / self.scale


def map_pixels(source: StackSource, input_shape: tuple[int, int], known: Mapping[str, Any]) -> PixelMap:
    """Find where the pixels of another stack of the same sections are in pixels of the aligned input.

    Pixel sizes are used if both stacks have the same extent by them, and the ratio of the shapes otherwise.

    Parameters
    ----------
    source
        The other stack.
    input_shape
        Size ``(y, x)`` of the sections that were aligned.
    known
        Their ``spacing``, ``unit`` and ``inset``, as :meth:`StackSource.identity` describes them.

    Raises
    ------
    InputError
        If the two stacks differ in extent.
    """
    inset = np.asarray(known.get("inset") or (0.5, 0.5), dtype=np.float64)
    shape, scale = np.asarray(source.shape[1:]), None
    if known.get("spacing") and source.unit == known.get("unit"):
        own, theirs = np.asarray(source.spacing[1:]), np.asarray(known["spacing"], dtype=np.float64)[1:]
        missing = np.abs(shape * own - np.asarray(input_shape) * theirs)
        scale = own / theirs if (missing < 1.01 * np.maximum(own, theirs)).all() else None
    if scale is None:
        scale = np.full(2, relative_scale(source.shape, input_shape, source.name))
    shift = np.asarray(source.inset) * scale - inset
    return PixelMap((float(scale[0]), float(scale[1])), (float(shift[0]), float(shift[1])))


def relative_scale(shape: tuple[int, ...], input_shape: tuple[int, int], name: str = "the stack") -> float:
    """Return the size of a pixel of another stack of the same sections, in input pixels, from their shapes.

    Downsampling by an integer factor drops or completes the pixels at the end, so an integer factor (or its inverse)
    is used if it fits.

    Raises
    ------
    InputError
        If the two stacks differ in extent.
    """
    height, width = (int(n) for n in shape[-2:])
    for whole in (round(input_shape[0] / height) or 1, round(input_shape[1] / width) or 1):
        if _is_reduced(tuple(input_shape), whole, (height, width)):
            return float(whole)
    for whole in (round(height / input_shape[0]) or 1, round(width / input_shape[1]) or 1):
        if _is_reduced((height, width), whole, tuple(input_shape)):
            return 1.0 / whole
    down, across = input_shape[0] / height, input_shape[1] / width
    if abs(down / across - 1) > 0.01:
        raise InputError(
            f"The sections of '{name}' are {height}x{width} pixels, the aligned sections "
            f"{input_shape[0]}x{input_shape[1]}. Both must cover the same extent."
        )
    return float(np.sqrt(down * across))


def _is_reduced(shape: tuple[int, ...], factor: int, reduced: tuple[int, ...]) -> bool:
    return reduced in (tuple(n // factor for n in shape), tuple(-(-n // factor) for n in shape))


def scale_canvas(canvas: OutputCanvas, scale: tuple[float, float]) -> Grid:
    """Return the canvas with pixels of size ``scale`` (y, x) as a grid in input pixels."""
    shape = tuple(max(int(np.ceil(n / s - 1e-9)), 1) for n, s in zip(canvas.shape, scale, strict=True))
    return Grid.from_spacing(shape, scale, [o - 0.5 + s / 2 for o, s in zip(canvas.origin, scale, strict=True)])


def render_bands(
    source: StackSource,
    z: int,
    transform: Transform,
    grid: Grid,
    rows: int,
    *,
    pixels: PixelMap = PixelMap(),
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
    pixels
        Where the pixels of the source are.
    step
        Node spacing of the transform, used to determine which pixels a band reads.
    interpolation, fill
        As in :func:`napari_stnreg.warp`.

    Yields
    ------
    slice, ndarray
        Rows of the grid, and their pixels in the source's type.
    """
    from napari_stnreg.resampling.warp import warp

    read = source.windows(z)
    for top in range(0, grid.shape[0], rows):
        bottom = min(top + rows, grid.shape[0])
        band = grid.cropped((top, 0), (bottom, grid.shape[1]))
        window = _window(source, transform, band, pixels, step, _MARGIN[interpolation])
        if window is None:
            yield slice(top, bottom), np.full(band.shape, fill).astype(source.dtype)
            continue
        data = read(window)
        start = pixels.to_input([s.start for s in window]).tolist()
        image = Image(data, Grid.from_spacing(data.shape, pixels.scale, start), name=source.name)
        yield slice(top, bottom), np.asarray(warp(image, transform, band, interpolation, fill).data)


def _window(
    source: StackSource, transform: Transform, band: Grid, pixels: PixelMap, step: float, margin: int
) -> tuple[slice, slice] | None:
    """Return the window of a section that a band reads, or ``None`` if it is outside."""
    step, size = max(step, _MIN_SAMPLE_STEP_PX), np.asarray(band.shape) * band.spacing
    count = [max(int(np.ceil(n / step)), 1) + 1 for n in size]
    corners = band.corners()
    coarse = Grid.from_spacing(
        count,
        [n / (c - 1) for n, c in zip(size, count, strict=True)],
        corners.min(axis=0).tolist(),
    )
    mapped = transform.map_points(coarse.points().reshape(-1, 2))
    index = pixels.from_input(mapped)
    # Between two sampled points the transform may exceed their range by a fraction of their distance.
    reach = margin + np.ceil(0.25 * step / min(pixels.scale))
    low = np.floor(index.min(axis=0) - reach).astype(int)
    high = np.ceil(index.max(axis=0) + reach).astype(int) + 1
    low, high = np.maximum(low, 0), np.minimum(high, source.shape[1:])
    if (low >= high).any():
        return None
    return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))


def halve(data: Array, *, labels: bool = False) -> Array:
    """Downsample an image by 2: means of 2x2 blocks, or one pixel of each block for labels."""
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
