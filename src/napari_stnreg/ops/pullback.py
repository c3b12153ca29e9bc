"""Resample an image once at the points where a transform maps the voxels of a grid; every dtype and channel count."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from napari_stnreg.core.errors import InputError, RegistrationWarning
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.labels import choose_interpolation
from napari_stnreg.core.progress import check_stop
from napari_stnreg.ops.interpolation import nearest_index, sample
from napari_stnreg.ops.lattice import lattice_points

Interpolation = Literal["linear", "nearest", "cubic"]
Array = npt.NDArray[Any]

# Samples an image at voxel indices (n, ..., D) inside it and returns (n, ..., channels).
_Sampler = Callable[[Tensor], Array]

_FACE_TOLERANCE = 1e-6
"""Voxels by which a point on the outer face may lie outside, from rounding in a few matrix products."""
_SLAB_POINTS = 2**18


class VoxelMap(Protocol):
    """The part of a :class:`~napari_stnreg.transforms.Transform` that warping needs."""

    ndim: int

    def voxel_indices(
        self, grid: Grid, moving: Grid, device: torch.device | str = "cpu"
    ) -> Iterator[tuple[slice, Tensor]]:
        """Map the voxels of a grid to fractional voxel indices of the moving grid, slab by slab."""


def resample(
    image: Image,
    transform: VoxelMap | None,
    grid: Grid,
    interpolation: Interpolation | None = None,
    fill: float | Sequence[float] | None = 0,
    device: torch.device | str = "cpu",
) -> Image:
    """Resample an image onto a grid, ``resampled(x) = image(transform(x))``; see :func:`napari_stnreg.warp`."""
    if interpolation is None:
        interpolation, note = choose_interpolation(image)
        if note and not image.is_labels:
            warnings.warn(note, RegistrationWarning, stacklevel=3)
    if interpolation not in get_args(Interpolation):
        raise InputError(f"There is no interpolation '{interpolation}'. Choose linear, nearest or cubic.")
    ndim = image.ndim
    if grid.ndim != ndim or (transform is not None and transform.ndim != ndim):
        other = grid.ndim if grid.ndim != ndim else transform.ndim if transform is not None else ndim
        raise InputError(f"'{image.name}' is {ndim}D and cannot be warped by a transform or onto a grid in {other}D.")
    data = np.asarray(image.data)
    if np.iscomplexobj(data) and interpolation != "nearest":
        raise InputError(f"'{image.name}' contains complex numbers. Warp its real and imaginary parts, or use nearest.")

    flat = data.reshape(*image.grid.shape, -1)
    outside = _fill_values(image, fill)
    out = np.empty((*grid.shape, flat.shape[-1]), dtype=data.dtype)
    mask = np.empty(grid.shape, dtype=np.bool_)
    read = _SAMPLERS[interpolation](flat, torch.device(device))
    last = np.asarray(image.grid.shape) - 1
    indices = (
        _identity_indices(grid, image.grid, device)
        if transform is None
        else transform.voxel_indices(grid, image.grid, device)
    )
    for part, index in indices:
        check_stop()
        ends = torch.tensor(last, dtype=index.dtype, device=index.device)
        clamped = torch.minimum(index.clamp_min(0), ends)
        inside = ((index - clamped).abs_().amax(dim=-1) <= 0.5 + _FACE_TOLERANCE).cpu().numpy()
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
        is_labels=image.is_labels if interpolation == "nearest" else False if image.is_labels else None,
    )


def _identity_indices(grid: Grid, moving: Grid, device: torch.device | str) -> Iterator[tuple[slice, Tensor]]:
    device = torch.device(device)
    dtype = torch.float32 if device.type == "mps" else torch.float64
    to_index = np.linalg.inv(moving.with_unit(grid.unit).matrix)
    for rows, part in grid.slabs(_SLAB_POINTS):
        yield (
            rows,
            lattice_points(torch.tensor(to_index @ part.matrix, dtype=dtype, device=device)[None], part.shape)[0],
        )


def _linear(flat: Array, device: torch.device) -> _Sampler:
    # Single precision holds whole numbers up to 2**24 exactly; wider types are read in double.
    wide = flat.dtype.itemsize > 4 or (flat.dtype.kind in "iu" and flat.dtype.itemsize == 4)
    kind = np.float64 if wide and device.type != "mps" else np.float32
    array = np.ascontiguousarray(np.moveaxis(flat, -1, 0), dtype=kind)
    # torch shares memory with writable arrays (nothing writes to them) and warns about read-only ones.
    values = torch.from_numpy(array if array.flags.writeable else array.copy())[None].to(device)

    def read(index: Tensor) -> Array:
        result = sample(values, index[None], padding="border")
        return np.asarray(result[0].movedim(0, -1).cpu().numpy())

    return read


def _nearest(flat: Array, device: torch.device) -> _Sampler:
    shape = flat.shape[:-1]
    rows = flat.reshape(-1, flat.shape[-1])

    def read(index: Tensor) -> Array:
        where = torch.zeros(index.shape[:-1], dtype=torch.int64, device=index.device)
        for axis, size in enumerate(shape):
            here = nearest_index(index[..., axis]).clamp_(0, size - 1)
            where = where.mul_(size).add_(here)
        return np.asarray(rows[where.cpu().numpy()])

    return read


def _cubic(flat: Array, device: torch.device) -> _Sampler:
    kind = np.float32 if flat.dtype.itemsize <= 2 or flat.dtype == np.float32 else np.float64
    # Prefiltered once. Points are clamped to the image, so the mirrored boundary, which makes the filter exact, never
    # shows in the result.
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


_SAMPLERS: dict[str, Callable[[Array, torch.device], _Sampler]] = {
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
    # The largest 64-bit integer is not representable in double precision; values that round beyond it are clipped.
    low, high = float(limits.min), float(limits.max)
    rounded = np.rint(values)
    result = np.where((rounded > low) & (rounded < high), rounded, 0).astype(dtype)
    result[rounded >= high] = limits.max
    result[rounded <= low] = limits.min
    return result


def border_value(image: Image) -> Array:
    """Return the median of the outermost voxels, ``(channels,)``, as an estimate of the background."""
    flat = np.asarray(image.data).reshape(*image.grid.shape, -1)
    faces = [flat.take(end, axis=axis).reshape(-1, flat.shape[-1]) for axis in range(image.ndim) for end in (0, -1)]
    values = np.concatenate(faces)
    if values.dtype.kind in "fc":
        values = values[np.isfinite(values).all(axis=-1)]
    if not len(values):
        return np.zeros(flat.shape[-1])
    # A value that occurs in the image, so that the border of a label image stays a label.
    return np.asarray(np.sort(values.real, axis=0)[len(values) // 2], dtype=np.float64)


def _fill_values(image: Image, fill: float | Sequence[float] | None) -> Array:
    channels, dtype = image.channels, np.asarray(image.data).dtype
    if fill is None:
        return border_value(image).astype(dtype)
    values = np.asarray(fill, dtype=np.float64).reshape(-1)
    if len(values) not in (1, channels):
        raise InputError(f"{len(values)} fill values were given for the {channels} channels of '{image.name}'.")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if not ((values >= limits.min) & (values <= limits.max)).all():
            raise InputError(
                f"'{image.name}' is of type {dtype}, which cannot hold the fill value {fill}. "
                "Choose another fill value."
            )
    return np.broadcast_to(values, (channels,)).astype(dtype)
