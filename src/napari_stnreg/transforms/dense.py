"""Dense transforms and their families: displacement fields, diffeomorphisms, flows of stationary velocity fields."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.ops.folding import remove_folds
from napari_stnreg.ops.interpolation import resize, sample, self_composed
from napari_stnreg.ops.lattice import affine_points, apply_matrix, field_on_lattice, lattice_points
from napari_stnreg.transforms.base import InversionMethod, Transform
from napari_stnreg.transforms.family import TransformFamily
from napari_stnreg.transforms.inverse import InverseTransform


class _GridTransform(Transform):
    """A transform that is given by one vector at each voxel of a grid."""

    vectors_name: ClassVar[str]
    """Name of the attribute, and of the tensor in files, that holds the vectors."""
    grid: Grid

    def __init__(self, vectors: Tensor, grid: Grid) -> None:
        vectors = vectors if vectors.ndim == grid.ndim + 2 else vectors[None]
        if tuple(vectors.shape[1:]) != (grid.ndim, *grid.shape):
            raise InputError(f"A field of shape {tuple(vectors.shape)} does not fit a grid of shape {grid.shape}.")
        setattr(self, self.vectors_name, vectors)
        self.grid, self.ndim, self.unit, self.length_scale = grid, grid.ndim, grid.unit, float(grid.spacing.min())

    @override
    def native_grid(self) -> Grid:
        return self.grid

    @override
    def parameter_field(self) -> tuple[Tensor, Grid]:
        return getattr(self, self.vectors_name), self.grid

    @override
    def _change_coordinates(self, matrix: FloatArray, unit: str) -> Self:
        grid = Grid(self.grid.shape, matrix @ self.grid.matrix, unit)
        return type(self)(apply_matrix(matrix[:-1, :-1], getattr(self, self.vectors_name)), grid)

    @override
    def tensors(self) -> dict[str, Tensor]:
        return {self.vectors_name: getattr(self, self.vectors_name)}

    @override
    def settings(self) -> dict[str, Any]:
        return {"grid": self.grid.to_dict()}

    @override
    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> Self:
        return cls(tensors[cls.vectors_name], Grid.from_dict(settings["grid"]))


class DisplacementTransform(_GridTransform):
    """``T(x) = x + u(x)`` with ``u`` given on a grid, linear between its voxels and constant beyond its border.

    Parameters
    ----------
    field
        ``(B, D, *grid.shape)``, world units, (z, y, x) order.
    grid
        Voxels of the field in the fixed world; its unit is that of the transform.
    """

    family = "displacement"
    vectors_name = "field"
    field: Tensor

    def __init__(self, field: Tensor, grid: Grid) -> None:
        super().__init__(field, grid)

    @override
    def __call__(self, points: Tensor) -> Tensor:
        matrix = torch.tensor(np.linalg.inv(self.grid.matrix), dtype=points.dtype, device=points.device)
        index = affine_points(points, matrix[None])
        moved = sample(self.field, index, padding="border")
        return points + moved.movedim(1, -1).to(points.dtype)

    @override
    def on_grid(self, grid: Grid, dtype: torch.dtype | None = None) -> Tensor:
        # On the grid of the field, or a part of it, nothing is interpolated.
        grid = self.check_grid(grid)
        matrix = torch.tensor(grid.matrix, dtype=dtype or self.field.dtype, device=self.field.device)
        moved = self.field_at(grid)
        return lattice_points(matrix[None], grid.shape) + moved.movedim(1, -1).to(matrix.dtype)

    def field_at(self, grid: Grid) -> Tensor:
        """Return the displacement on another grid in the same unit, ``(B, D, *grid.shape)``."""
        return field_on_lattice(self.field, np.linalg.inv(self.grid.matrix) @ grid.matrix, grid.shape)

    @override
    def inverse(self) -> Transform:
        return InverseTransform(self)

    @override
    def displacement_field(self) -> DisplacementTransform:
        return self


class DiffeomorphicTransform(DisplacementTransform):
    """A displacement field without folds: a composition of many small steps, inverted point by point.

    :class:`DiffeomorphicFamily` and the registration build it so that the Jacobian determinant is positive at every
    voxel of its grid, with one-sided derivatives too. :func:`~napari_stnreg.invert` reports the round-trip error of the
    inverse.

    Parameters
    ----------
    field, grid
        As for :class:`DisplacementTransform`.
    """

    family = "diffeomorphic"

    @override
    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> Any:
        # Until version 1 of the file format "diffeomorphic" was the name of the stationary velocity.
        if "velocity" in tensors:
            return VelocityTransform.from_state(tensors, settings)
        return super().from_state(tensors, settings)


_squarings: ContextVar[int | None] = ContextVar("squarings", default=None)
COMPILED_SQUARINGS = 7
"""Squarings inside a compiled function, where their number cannot depend on the data."""


@contextmanager
def fixed_squarings(count: int) -> Iterator[None]:
    """Let :func:`exponential` use a fixed number of squarings inside the block, as exported programs need it."""
    token = _squarings.set(count)
    try:
        yield
    finally:
        _squarings.reset(token)


def exponential(velocity: Tensor, steps: int | None = None) -> Tensor:
    """Integrate a stationary velocity field over unit time by scaling and squaring.

    Parameters
    ----------
    velocity
        ``(B, D, *shape)`` in voxels of its own grid.
    steps
        Number of squarings; ``None`` chooses it so that the first step is below half a voxel.

    Returns
    -------
    Tensor
        Displacement ``(B, D, *shape)`` in voxels.

    References
    ----------
    Arsigny et al., A log-Euclidean framework for statistics on diffeomorphisms, MICCAI 2006.
    """
    if steps is None:
        steps = COMPILED_SQUARINGS if torch.compiler.is_compiling() else _squarings.get()
    if steps is None:
        largest = float(velocity.detach().abs().amax()) if velocity.numel() else 0.0
        steps = max(math.ceil(math.log2(max(largest, 1e-6) / 0.5)), 0) + 1
    return self_composed(velocity / 2**steps, steps)


class VelocityTransform(_GridTransform):
    """The flow of a stationary velocity field, inverted by integrating the negative field.

    The velocity is the logarithm of the flow: it can be averaged, scaled and regularized. The continuous flow of a
    smooth velocity is a diffeomorphism; the flow on a grid can fold where the velocity changes by more than a voxel
    from voxel to voxel.

    Parameters
    ----------
    velocity
        ``(B, D, *grid.shape)``, world units for unit time, (z, y, x) order.
    grid
        Voxels of the velocity in the fixed world; its unit is that of the transform.
    """

    family = "velocity"
    vectors_name = "velocity"
    velocity: Tensor

    def __init__(self, velocity: Tensor, grid: Grid) -> None:
        super().__init__(velocity, grid)

    @cached_property
    def _flow(self) -> DisplacementTransform:
        voxels = exponential(apply_matrix(np.asarray(np.linalg.inv(self.grid.linear)), self.velocity))
        return DisplacementTransform(apply_matrix(self.grid.linear, voxels), self.grid)

    @override
    def __call__(self, points: Tensor) -> Tensor:
        return self._flow(points)

    @override
    def on_grid(self, grid: Grid, dtype: torch.dtype | None = None) -> Tensor:
        return self._flow.on_grid(grid, dtype)

    @override
    def displacement_field(self) -> DisplacementTransform:
        return self._flow

    @property
    @override
    def inversion_method(self) -> InversionMethod:
        return "velocity"

    @override
    def solved_inverse(self) -> Transform:
        # The flow run backward undoes a smooth velocity, but its sampled field only as well as that is smooth: a
        # velocity that changes much from voxel to voxel can miss by a voxel.
        return InverseTransform(self)

    @override
    def inverse(self) -> VelocityTransform:
        return VelocityTransform(-self.velocity, self.grid).reversed_like(self)


class DenseFamily(TransformFamily):
    """One vector for every voxel, ``(D, *shape)``, in voxels along the domain's own axes."""

    fit_method = "dense"

    @override
    def parameter_shape(self, domain: Grid) -> tuple[int, ...]:
        return (domain.ndim, *domain.shape)

    @override
    def resample(self, theta: Tensor, old: Grid, new: Grid) -> Tensor:
        return resample_field(theta, old, new)


class DisplacementFamily(DenseFamily):
    """``T(x) = x + u(x)``; parameters are the displacements ``u``."""

    name = "displacement"

    @override
    def __call__(self, theta: Tensor, domain: Grid) -> DisplacementTransform:
        return DisplacementTransform(apply_matrix(domain.linear, theta), domain)


class DiffeomorphicFamily(DenseFamily):
    """Displacement fields without folds; parameters are displacements, smoothed where they fold."""

    name = "diffeomorphic"

    @override
    def __call__(self, theta: Tensor, domain: Grid) -> DiffeomorphicTransform:
        return DiffeomorphicTransform(apply_matrix(domain.linear, remove_folds(theta)), domain)


class VelocityFamily(DenseFamily):
    """Flows of stationary velocity fields; parameters are the velocities."""

    name = "velocity"

    @override
    def __call__(self, theta: Tensor, domain: Grid) -> VelocityTransform:
        return VelocityTransform(apply_matrix(domain.linear, theta), domain)


def resample_field(theta: Tensor, old: Grid, new: Grid) -> Tensor:
    """Convert a field in voxels of one grid to a field in voxels of another, ``(B, D, *new.shape)``."""
    new = new.with_unit(old.unit)
    if new.same_lattice(old):
        return theta.clone()
    if new.same_lattice(old.resized(new.shape)):
        field = resize(theta, new.shape)
    else:
        field = DisplacementTransform(theta, old).field_at(new)
    change: FloatArray = np.linalg.inv(new.linear) @ old.linear
    return apply_matrix(change, field)
