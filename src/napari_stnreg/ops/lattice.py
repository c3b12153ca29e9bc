"""Points and vectors on regular lattices: world coordinates, affine maps, and fields read on another lattice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from napari_stnreg.core.grid import FloatArray
from napari_stnreg.ops.interpolation import sample


def lattice_points(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the world coordinates of a whole lattice, ``(B, *shape, D)``.

    Parameters
    ----------
    matrix
        Homogeneous ``(B, D + 1, D + 1)``, voxel indices to the world; the result is differentiable in it.
    shape
        Number of voxels along each axis.
    """
    ndim = len(shape)
    ones = [1] * ndim
    points = matrix[:, :-1, -1].reshape(-1, *ones, ndim)
    for axis in reversed(range(ndim)):  # the last axis first: later additions broadcast over long rows
        index = torch.arange(shape[axis], dtype=matrix.dtype, device=matrix.device)
        along = [-1 if other == axis else 1 for other in range(ndim)]
        points = points + index.reshape(1, *along, 1) * matrix[:, :-1, axis].reshape(-1, *ones, ndim)
    return points


def affine_points(points: Tensor, matrix: Tensor) -> Tensor:
    """Map points ``(B or 1, ..., D)`` by homogeneous matrices ``(B or 1, D + 1, D + 1)`` of the same dtype.

    Column by column: torch's matrix product takes twice as long with matrices this small.
    """
    ndim = points.shape[-1]
    columns = matrix[:, :-1].reshape(-1, *[1] * (points.ndim - 2), ndim, ndim + 1)
    mapped = columns[..., -1]
    for axis in range(ndim):
        mapped = torch.addcmul(mapped, points[..., axis, None], columns[..., axis])
    return mapped


def apply_matrix(matrix: FloatArray, field: Tensor) -> Tensor:
    """Multiply the vectors of a field ``(B, D, *shape)`` by a ``(D, D)`` matrix."""
    values = torch.tensor(matrix, dtype=field.dtype).to(field.device, non_blocking=True)
    if np.array_equal(matrix, np.diag(np.diag(matrix))):
        return field * values.diagonal().reshape(-1, *[1] * len(matrix))
    return torch.einsum("ij,bj...->bi...", values, field)


def is_axis_parallel(to_index: FloatArray, shape: Sequence[int]) -> bool:
    """Return whether a lattice runs along the axes of another, given the matrix between their voxel indices."""
    linear = to_index[:-1, :-1]
    return bool(np.abs((linear - np.diag(np.diag(linear))) @ np.asarray(shape)).max(initial=0.0) < 1e-6)


def field_on_lattice(field: Tensor, to_index: FloatArray, shape: Sequence[int]) -> Tensor:
    """Read a field on another lattice, linear between its voxels and constant beyond its border.

    Parameters
    ----------
    field
        ``(B, D, *size)``.
    to_index
        Homogeneous matrix from voxel indices of the other lattice to those of the field.
    shape
        Shape of the other lattice.

    Returns
    -------
    Tensor
        ``(B, D, *shape)``. Parallel lattices are read axis by axis without a list of points, and shifts by whole
        voxels only select voxels.
    """
    if not is_axis_parallel(to_index, shape):
        matrix = torch.tensor(to_index, dtype=torch.promote_types(field.dtype, torch.float32), device=field.device)
        points = lattice_points(matrix[None], shape).expand(field.shape[0], *shape, len(shape))
        return sample(field, points, padding="border")
    for axis, count in enumerate(shape):
        position = to_index[axis, -1] + to_index[axis, axis] * np.arange(count)
        field = _interpolate_axis(field, axis + 2, position)
    return field


def _interpolate_axis(field: Tensor, axis: int, position: FloatArray) -> Tensor:
    size = field.shape[axis]
    nearest = np.rint(position)
    position = np.clip(np.where(np.abs(position - nearest) < 1e-6, nearest, position), 0, size - 1)
    low = np.floor(position).astype(np.int64)
    fraction = position - low
    if not fraction.any():
        if np.array_equal(low, np.arange(low[0], low[0] + len(low))):
            return field.narrow(axis, int(low[0]), len(low))
        return field.index_select(axis, torch.from_numpy(low).to(field.device))
    high = torch.from_numpy(np.minimum(low + 1, size - 1)).to(field.device)
    along = [1] * field.ndim
    along[axis] = -1
    weight = torch.tensor(fraction, dtype=field.dtype, device=field.device).reshape(along)
    before = field.index_select(axis, torch.from_numpy(low).to(field.device))
    return torch.lerp(before, field.index_select(axis, high), weight)
