"""Displacement fields, and stationary velocity fields whose flow is a diffeomorphism."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.ops.interpolation import sample, self_composed
from napari_stnreg.transforms.base import Transform, affine_points, lattice_points


def apply_matrix(matrix: FloatArray, field: Tensor) -> Tensor:
    """Apply a ``(D, D)`` matrix to the vectors of a field ``(B, D, *shape)``."""
    values = torch.tensor(matrix, dtype=field.dtype, device=field.device)
    if np.array_equal(matrix, np.diag(np.diag(matrix))):
        return field * values.diagonal().reshape(-1, *[1] * len(matrix))
    return torch.einsum("ij,bj...->bi...", values, field)


def parallel(to_index: FloatArray, shape: Sequence[int]) -> bool:
    """Whether a lattice runs along another's axes, so that they can be taken one after the other."""
    linear = to_index[:-1, :-1]
    return bool(np.abs((linear - np.diag(np.diag(linear))) @ np.asarray(shape)).max(initial=0.0) < 1e-6)


def field_on_lattice(field: Tensor, to_index: FloatArray, shape: Sequence[int]) -> Tensor:
    """Read a field on another lattice, linear between its voxels and constant beyond its border.

    Parameters
    ----------
    field
        ``(B, D, *size)``.
    to_index
        Homogeneous matrix from the other lattice's voxel indices to the field's.
    shape
        Shape of the other lattice.

    Returns
    -------
    Tensor
        ``(B, D, *shape)``. Where the two lattices are parallel no point is made: one axis is read after the other, and
        whole-voxel shifts only choose voxels.
    """
    if not parallel(to_index, shape):
        matrix = torch.tensor(to_index, dtype=torch.promote_types(field.dtype, torch.float32), device=field.device)
        points = lattice_points(matrix[None], shape).expand(field.shape[0], *shape, len(shape))
        return sample(field, points, padding="border")
    for axis, count in enumerate(shape):
        where = to_index[axis, -1] + to_index[axis, axis] * np.arange(count)
        field = _read_axis(field, axis + 2, where)
    return field


def _read_axis(field: Tensor, axis: int, where: FloatArray) -> Tensor:
    size = field.shape[axis]
    near = np.rint(where)
    where = np.clip(np.where(np.abs(where - near) < 1e-6, near, where), 0, size - 1)
    low = np.floor(where).astype(np.int64)
    weight = where - low
    if not weight.any():
        if np.array_equal(low, np.arange(low[0], low[0] + len(low))):
            return field.narrow(axis, int(low[0]), len(low))
        return field.index_select(axis, torch.from_numpy(low).to(field.device))
    high = torch.from_numpy(np.minimum(low + 1, size - 1)).to(field.device)
    along = [1] * field.ndim
    along[axis] = -1
    share = torch.tensor(weight, dtype=field.dtype, device=field.device).reshape(along)
    before = field.index_select(axis, torch.from_numpy(low).to(field.device))
    return torch.lerp(before, field.index_select(axis, high), share)


class DisplacementTransform(Transform):
    """``T(x) = x + u(x)`` with ``u`` given on a grid, linear between its voxels and constant beyond its border.

    Parameters
    ----------
    field
        ``(B, D, *grid.shape)``, world units, (z, y, x) order.
    grid
        Where the field's voxels lie in the fixed world; its unit is the transform's.

    Notes
    -----
    The inverse is found point by point (:mod:`napari_stnreg.transforms.inverse`).
    """

    family = "displacement"

    def __init__(self, field: Tensor, grid: Grid) -> None:
        field = field if field.ndim == grid.ndim + 2 else field[None]
        if tuple(field.shape[1:]) != (grid.ndim, *grid.shape):
            raise InputError(f"A field of shape {tuple(field.shape)} does not fit a grid of shape {grid.shape}.")
        self.field, self.grid = field, grid
        self.ndim, self.unit, self.length = grid.ndim, grid.unit, float(grid.spacing.min())

    @override
    def __call__(self, points: Tensor) -> Tensor:
        matrix = torch.tensor(np.linalg.inv(self.grid.matrix), dtype=points.dtype, device=points.device)
        index = affine_points(points, matrix[None])
        moved = sample(self.field, index, padding="border")
        return points + moved.movedim(1, -1).to(points.dtype)

    @override
    def on_grid(self, grid: Grid, dtype: torch.dtype | None = None) -> Tensor:
        """Map every voxel center of a grid; on the field's own grid, or a part of it, nothing is interpolated."""
        grid = self.check_grid(grid)
        matrix = torch.tensor(grid.matrix, dtype=dtype or self.field.dtype, device=self.field.device)
        moved = self.field_at(grid)
        return lattice_points(matrix[None], grid.shape) + moved.movedim(1, -1).to(matrix.dtype)

    def field_at(self, grid: Grid) -> Tensor:
        """The displacement on another grid in the same unit, ``(B, D, *grid.shape)``."""
        return field_on_lattice(self.field, np.linalg.inv(self.grid.matrix) @ grid.matrix, grid.shape)

    @override
    def inverse(self) -> Transform:
        from napari_stnreg.transforms.inverse import InverseTransform

        return InverseTransform(self)

    @override
    def translated_frame(self, by: FloatArray) -> DisplacementTransform:
        return DisplacementTransform(self.field, self.grid.translated(by))

    @override
    def tensors(self) -> dict[str, Tensor]:
        return {"field": self.field}

    @override
    def settings(self) -> dict[str, Any]:
        return {"grid": self.grid.to_dict()}

    @override
    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> Self:
        return cls(tensors["field"], Grid.from_dict(settings["grid"]))


def exponential(velocity: Tensor, steps: int | None = None) -> Tensor:
    """Flow along a stationary velocity for unit time, by scaling and squaring.

    Parameters
    ----------
    velocity
        ``(B, D, *shape)`` in voxels of its own grid.
    steps
        Number of squarings; ``None`` takes as many as bring the first step below half a voxel.

    Returns
    -------
    Tensor
        Displacement ``(B, D, *shape)`` in voxels.

    References
    ----------
    Arsigny et al., A log-Euclidean framework for statistics on diffeomorphisms, MICCAI 2006.
    """
    if steps is None:
        largest = float(velocity.detach().abs().amax()) if velocity.numel() else 0.0
        steps = max(math.ceil(math.log2(max(largest, 1e-6) / 0.5)), 0) + 1
    return self_composed(velocity / 2**steps, steps)


class VelocityTransform(Transform):
    """The flow of a stationary velocity field: smooth, one to one, and inverted by running it backwards.

    Parameters
    ----------
    velocity
        ``(B, D, *grid.shape)``, world units for unit time, (z, y, x) order.
    grid
        Where its voxels lie in the fixed world.
    """

    family = "diffeomorphic"

    def __init__(self, velocity: Tensor, grid: Grid) -> None:
        self.velocity = DisplacementTransform(velocity, grid).field  # the same shapes are allowed
        self.grid, self.ndim, self.unit, self.length = grid, grid.ndim, grid.unit, float(grid.spacing.min())

    @cached_property
    def as_displacement(self) -> DisplacementTransform:
        """The same map as a displacement field on the velocity's grid."""
        voxels = exponential(apply_matrix(np.asarray(np.linalg.inv(self.grid.linear)), self.velocity))
        return DisplacementTransform(apply_matrix(self.grid.linear, voxels), self.grid)

    @override
    def __call__(self, points: Tensor) -> Tensor:
        return self.as_displacement(points)

    @override
    def on_grid(self, grid: Grid, dtype: torch.dtype | None = None) -> Tensor:
        """Map every voxel center of a grid (see :meth:`DisplacementTransform.on_grid`)."""
        return self.as_displacement.on_grid(grid, dtype)

    @override
    def inverse(self) -> VelocityTransform:
        return VelocityTransform(-self.velocity, self.grid).with_coordinate_systems(*reversed(self.coordinate_systems))

    @override
    def translated_frame(self, by: FloatArray) -> VelocityTransform:
        return VelocityTransform(self.velocity, self.grid.translated(by))

    @override
    def tensors(self) -> dict[str, Tensor]:
        return {"velocity": self.velocity}

    @override
    def settings(self) -> dict[str, Any]:
        return {"grid": self.grid.to_dict()}

    @override
    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> Self:
        return cls(tensors["velocity"], Grid.from_dict(settings["grid"]))
