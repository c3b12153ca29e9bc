"""Warp an image: read the original once, at the points where a transform sends the voxels of a grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.io.conversion import ImageLike, as_image
from napari_stnreg.ops.interpolation import sample
from napari_stnreg.transforms import AffineTransform, ChainTransform, Transform

Interpolation = Literal["linear", "nearest", "cubic"]
Array = npt.NDArray[Any]

# Reads an image at voxel indices (n, ..., D) that lie inside it: gives (n, ..., channels).
_Reader = Callable[[Tensor], Array]

_ROUNDING = 1e-6
"""Voxels by which a point may miss the outer face and still be on it: the error of a few matrix products."""


class HasTransform(Protocol):
    """An object that carries a transform, such as the result of a registration."""

    transform: Transform


def warp(
    image: ImageLike,
    transform: Transform | HasTransform | None,
    grid: Grid | ImageLike,
    interpolation: Interpolation = "linear",
    fill: float | Sequence[float] | None = 0,
    *,
    spacing: float | Sequence[float] | None = None,
    unit: str | None = None,
    moving_spacing: float | Sequence[float] | None = None,
    moving_unit: str | None = None,
    device: torch.device | str = "cpu",
) -> Image:
    """Resample an image onto a grid through a transform, ``warped(x) = image(transform(x))``.

    The image is sampled once, slab by slab. It extends to the outer faces of its outermost voxels; points beyond are
    outside.

    Parameters
    ----------
    image
        The moving image, of any dtype, with or without channels; see :func:`~napari_stnreg.as_image`.
    transform
        Fixed world to moving world, or the result of a registration; ``None`` for the identity.
    grid
        The voxels of the result in the fixed world: a :class:`~napari_stnreg.Grid`, or the fixed image. Grid, transform
        and image may be in different units of length.
    interpolation
        ``"linear"``, ``"cubic"`` (cubic B-spline) or ``"nearest"``, which copies values exactly and is meant for
        labels.
    fill
        Value outside the image, one number or one for each channel; ``None`` takes the median of the image's border
        (white for a brightfield slide).
    spacing, unit
        Voxel size and unit of both images, where ``grid`` is given as an image.
    moving_spacing, moving_unit
        Voxel size and unit of ``image``, where they differ.
    device
        Device that computes the points and the linear interpolation.

    Returns
    -------
    Image
        On ``grid``, with the image's dtype, channels, name and metadata. Whole numbers are rounded and clipped. Its
        mask is true where the image, and its mask if it has one, was read; it is ``None`` if that is everywhere.

    Raises
    ------
    InputError
        If dimensions, units or channels do not fit together, or the fill value does not fit the dtype.
    """
    if not isinstance(grid, Grid):
        grid = as_image(grid, spacing=spacing, unit=unit).grid
    image = as_image(
        image,
        spacing=spacing if moving_spacing is None else moving_spacing,
        unit=unit if moving_unit is None else moving_unit,
    )
    if transform is not None and not isinstance(transform, Transform):
        transform = transform.transform
    if interpolation not in get_args(Interpolation):
        raise InputError(f"There is no interpolation '{interpolation}'; choose linear, nearest or cubic.")
    ndim = image.ndim
    if grid.ndim != ndim or (transform is not None and transform.ndim != ndim):
        other = grid.ndim if grid.ndim != ndim else transform.ndim if transform is not None else ndim
        raise InputError(f"'{image.name}' is {ndim}D and cannot be warped by a transform or onto a grid in {other}D.")
    data = np.asarray(image.data)
    if np.iscomplexobj(data) and interpolation != "nearest":
        raise InputError(f"'{image.name}' holds complex numbers; warp its real and imaginary parts, or use nearest.")

    flat = data.reshape(*image.grid.shape, -1)
    outside = _fill_values(flat, fill, ndim, image.name)
    out = np.empty((*grid.shape, flat.shape[-1]), dtype=data.dtype)
    mask = np.empty(grid.shape, dtype=np.bool_)
    read = _READERS[interpolation](flat, torch.device(device))
    last = np.asarray(image.grid.shape) - 1
    for part, index in _voxel_indices(image.grid, transform, grid, device):
        ends = torch.tensor(last, dtype=index.dtype, device=index.device)
        clamped = torch.minimum(index.clamp_min(0), ends)
        inside = ((index - clamped).abs_().amax(dim=-1) <= 0.5 + _ROUNDING).cpu().numpy()
        out[part] = _as_dtype(read(clamped), data.dtype)
        if not inside.all():
            out[part][~inside] = outside
        if image.mask is not None:
            inside &= _nearest(np.asarray(image.mask)[..., None], clamped.device)(clamped)[..., 0]
        mask[part] = inside
    return image.replace(
        data=out if image.has_channel_axis else out[..., 0],
        grid=grid,
        mask=None if image.mask is None and mask.all() else mask,
    )


def border_value(image: Image) -> npt.NDArray[np.float64]:
    """Median of the outermost voxels, ``(channels,)``: a guess at what lies around what the image shows."""
    return _border_median(np.asarray(image.data).reshape(*image.grid.shape, -1), image.ndim)


def _voxel_indices(
    moving: Grid, transform: Transform | None, grid: Grid, device: torch.device | str
) -> Iterator[tuple[slice, Tensor]]:
    """Where the grid's voxels land in the moving image, as fractional voxel indices, slab by slab."""
    unit = grid.unit if transform is None else transform.unit
    to_index = AffineTransform(np.linalg.inv(moving.with_unit(unit).matrix), unit)
    # Chained, so that affine transforms become one matrix and no point is mapped twice.
    parts = [to_index] if transform is None else [transform, to_index]
    return ChainTransform(parts).to(device).slab_points(grid)


def _linear(flat: Array, device: torch.device) -> _Reader:
    # Single precision holds whole numbers up to 2**24 exactly; wider types are read in double.
    wide = flat.dtype.itemsize > 4 or (flat.dtype.kind in "iu" and flat.dtype.itemsize == 4)
    kind = np.float64 if wide and device.type != "mps" else np.float32
    array = np.ascontiguousarray(np.moveaxis(flat, -1, 0), dtype=kind)
    # torch shares memory with arrays that could be written to (nothing does), and warns of any other.
    values = torch.from_numpy(array if array.flags.writeable else array.copy())[None].to(device)

    def read(index: Tensor) -> Array:
        result = sample(values, index[None], padding="border")
        return np.asarray(result[0].movedim(0, -1).cpu().numpy())

    return read


def _nearest(flat: Array, device: torch.device) -> _Reader:
    shape = flat.shape[:-1]
    rows = flat.reshape(-1, flat.shape[-1])

    def read(index: Tensor) -> Array:
        where = torch.zeros(index.shape[:-1], dtype=torch.int64, device=index.device)
        for axis, size in enumerate(shape):
            # Halfway between two voxels it is the upper one, on every axis alike (rounding to even would alternate).
            here = (index[..., axis] + 0.5).floor_().to(torch.int64).clamp_(0, size - 1)
            where = where.mul_(size).add_(here)
        return np.asarray(rows[where.cpu().numpy()])

    return read


def _cubic(flat: Array, device: torch.device) -> _Reader:
    kind = np.float32 if flat.dtype.itemsize <= 2 or flat.dtype == np.float32 else np.float64
    # Prefiltered once. Points are clamped into the image, so that mirroring, which is exact for the filter, is never
    # seen in the result.
    splines = [
        ndimage.spline_filter(flat[..., c].astype(kind), order=3, output=kind, mode="mirror")
        for c in range(flat.shape[-1])
    ]

    def read(index: Tensor) -> Array:
        where = np.moveaxis(index.cpu().numpy(), -1, 0)
        return np.stack(
            [ndimage.map_coordinates(s, where, order=3, mode="mirror", prefilter=False) for s in splines], axis=-1
        )

    return read


_READERS: dict[str, Callable[[Array, torch.device], _Reader]] = {
    "linear": _linear,
    "nearest": _nearest,
    "cubic": _cubic,
}


def _as_dtype(values: Array, dtype: np.dtype[Any]) -> Array:
    if values.dtype == dtype:
        return values
    if dtype == np.bool_:
        return np.asarray(values >= 0.5)
    if dtype.kind not in "iu":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    if dtype.itemsize < 8:
        return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
    # The largest 64-bit whole number is no double: what would round up to one beyond it is set by hand.
    low, high = float(limits.min), float(limits.max)
    rounded = np.rint(values)
    result = np.where((rounded > low) & (rounded < high), rounded, 0).astype(dtype)
    result[rounded >= high] = limits.max
    result[rounded <= low] = limits.min
    return result


def _border_median(flat: Array, ndim: int) -> npt.NDArray[np.float64]:
    faces = [flat.take(end, axis=axis).reshape(-1, flat.shape[-1]) for axis in range(ndim) for end in (0, -1)]
    values = np.concatenate(faces)
    if values.dtype.kind in "fc":
        values = values[np.isfinite(values).all(axis=-1)]
    if not len(values):
        return np.zeros(flat.shape[-1])
    # A value that occurs, so that the border of a label image stays a label.
    return np.asarray(np.sort(values.real, axis=0)[len(values) // 2], dtype=np.float64)


def _fill_values(flat: Array, fill: float | Sequence[float] | None, ndim: int, name: str) -> Array:
    channels, dtype = flat.shape[-1], flat.dtype
    if fill is None:
        return _border_median(flat, ndim).astype(dtype)
    values = np.asarray(fill, dtype=np.float64).reshape(-1)
    if len(values) not in (1, channels):
        raise InputError(f"{len(values)} fill values were given for the {channels} channels of '{name}'.")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if not ((values >= limits.min) & (values <= limits.max)).all():
            raise InputError(f"'{name}' is of type {dtype}, which cannot hold the fill value {fill}; choose another.")
    return np.broadcast_to(values, (channels,)).astype(dtype)
