"""What every spatial transform is: a map from points of the fixed world to points of the moving world.

``warped(x) = moving(T(x))``, as in ITK. Points on the fixed side therefore go to the moving side through ``T``, and
points of the moving side go to the fixed side through ``T.inverse()``.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import CoordinateSystem, FloatArray, Grid
from napari_stnreg.ops.jacobian import folding_fraction, jacobian_determinant_array

SLAB_POINTS = 2**18
"""Grids are evaluated in slabs of about this many points: no large point list, and one that stays in the cache."""


class Transform(ABC):
    """A map of the world, pull-back: fixed world to moving world.

    Points are in (z, y, x) order and in the unit named by :attr:`unit`. Parameters may carry a batch axis ``B``, one
    transform for each pair; a single transform has ``B = 1``.
    """

    family: ClassVar[str]
    ndim: int
    unit: str = "pixel"
    length: float = 1.0
    """A distance over which the map changes little, in world units: what tolerances are counted in."""
    coordinate_systems: tuple[CoordinateSystem, CoordinateSystem] = ("world", "world")
    """What the fixed and the moving world are for other programs; only writing and reading their files asks."""

    @abstractmethod
    def __call__(self, points: Tensor) -> Tensor:
        """Map points of the fixed world.

        Parameters
        ----------
        points
            ``(B, ..., D)``, or ``(1, ..., D)`` for the same points in each pair; float32 or float64.

        Returns
        -------
        Tensor
            ``(B, ..., D)`` in the moving world, of the points' dtype; differentiable in the parameters.
        """

    @abstractmethod
    def inverse(self) -> Transform:
        """The map back, from the moving world to the fixed one."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The parameters by name, for saving and for moving between devices."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything else that :meth:`from_state` needs, JSON-ready."""

    @classmethod
    @abstractmethod
    def from_state(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> Self:
        """Rebuild what :meth:`tensors` and :meth:`settings` describe."""

    @abstractmethod
    def translated_frame(self, by: FloatArray) -> Transform:
        """The same map in a world whose origin lies elsewhere: ``x -> T(x - by) + by``, ``by`` of shape ``(D,)``."""

    def to(self, device: torch.device | str) -> Self:
        """A copy with its parameters on another device, detached from any graph."""
        moved = {name: tensor.detach().to(device) for name, tensor in self.tensors().items()}
        return type(self).from_state(moved, self.settings()).with_coordinate_systems(*self.coordinate_systems)

    def with_coordinate_systems(self, fixed: CoordinateSystem, moving: CoordinateSystem) -> Self:
        """The same transform, knowing what its two worlds are (see :attr:`coordinate_systems`)."""
        if self.coordinate_systems == (fixed, moving):
            return self
        told = copy.copy(self)
        told.coordinate_systems = (fixed, moving)
        return told

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        for tensor in self.tensors().values():
            return tensor.dtype
        return torch.float32

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        for tensor in self.tensors().values():
            return tensor.device
        return torch.device("cpu")

    def map_points(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map a list of points ``(N, D)`` of the fixed world to the moving world, in double precision."""
        array = np.asarray(points, dtype=np.float64).reshape(-1, self.ndim)
        with torch.no_grad():
            mapped = self(torch.from_numpy(array.copy())[None].to(self.device))
        return np.asarray(mapped[0].cpu().numpy(), dtype=np.float64)

    def on_grid(self, grid: Grid, dtype: torch.dtype | None = None) -> Tensor:
        """Map every voxel center of a grid of the fixed world.

        The same as calling the transform on the grid's points, but a family that knows a faster way over a lattice
        takes it (a field on its own grid is not resampled, a B-spline is separable, an affine needs no points).

        Parameters
        ----------
        grid
            Where; converted to the transform's unit.
        dtype
            Precision of the points; ``None`` for that of the parameters.

        Returns
        -------
        Tensor
            ``(B, *grid.shape, D)`` in the moving world, on the transform's device; differentiable in the parameters.
        """
        grid = self.check_grid(grid)
        matrix = torch.as_tensor(grid.matrix.copy(), dtype=dtype or self.dtype, device=self.device)
        return self(lattice_points(matrix[None], grid.shape))

    def check_grid(self, grid: Grid) -> Grid:
        """The grid in the transform's unit.

        Raises
        ------
        InputError
            If it has another number of axes, or a unit that cannot be converted.
        """
        if grid.ndim != self.ndim:
            raise InputError(f"A {self.ndim}D transform cannot be used on a {grid.ndim}D grid.")
        return grid.with_unit(self.unit)

    def slab_points(self, grid: Grid) -> Iterator[tuple[slice, Tensor]]:
        """Map a whole grid piece by piece along its first axis, in double precision and outside any graph.

        Yields
        ------
        slice, Tensor
            Which voxels along the first axis, and where they land in the moving world, ``(n, *shape[1:], D)``.

        Raises
        ------
        InputError
            If the transform holds several pairs.
        """
        grid = self.check_grid(grid)
        rows = max(SLAB_POINTS // max(int(np.prod(grid.shape[1:])), 1), 1)
        # Apple's GPUs know no double precision.
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        for start in range(0, grid.shape[0], rows):
            stop = min(start + rows, grid.shape[0])
            part = grid.cropped((start, *[0] * (grid.ndim - 1)), (stop, *grid.shape[1:]))
            with torch.no_grad():
                mapped = self.on_grid(part, dtype)
            if mapped.shape[0] != 1:
                raise InputError(f"This transform holds {mapped.shape[0]} pairs; take one of them first.")
            yield slice(start, stop), mapped[0]

    def slabs(self, grid: Grid) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
        """Map a whole grid piece by piece along its first axis.

        Yields
        ------
        slice, array
            Which voxels along the first axis, and where they land in the moving world, ``(n, *shape[1:], D)``.
        """
        for part, mapped in self.slab_points(grid):
            yield part, np.asarray(mapped.cpu().numpy(), dtype=np.float64)

    def displacement(self, grid: Grid) -> npt.NDArray[np.float32]:
        """``T(x) - x`` on a grid of the fixed world, ``(D, *grid.shape)``, in world units and axis order."""
        out = np.empty((self.ndim, *grid.shape), dtype=np.float32)
        in_unit = self.check_grid(grid)
        for part, mapped in self.slabs(grid):
            start = (part.start, *[0] * (grid.ndim - 1))
            here = in_unit.cropped(start, (part.stop, *grid.shape[1:])).points()
            out[:, part] = np.moveaxis(mapped - here, -1, 0)
        return out

    def jacobian_determinant(self, grid: Grid) -> npt.NDArray[np.float32]:
        """Determinant of ``dT/dx`` at every voxel of a grid, by central differences; 1 keeps volume, <= 0 folds."""
        grid = self.check_grid(grid)
        # In voxels along the grid's own axes: the determinant is the same, and the axes may be oblique.
        to_index = np.linalg.inv(grid.linear).astype(np.float32)
        return jacobian_determinant_array(np.tensordot(to_index, self.displacement(grid), axes=1))

    def folding_fraction(self, grid: Grid, mask: npt.ArrayLike | None = None) -> float:
        """Return the fraction of a grid's voxels that fold, as :func:`~napari_stnreg.ops.jacobian.folding_fraction`."""
        return folding_fraction(self.jacobian_determinant(grid), mask)


def lattice_points(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """World coordinates of a whole lattice, ``(B, *shape, D)``.

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
    for axis in reversed(range(ndim)):  # the longest rows are made first, the rest is added to them
        index = torch.arange(shape[axis], dtype=matrix.dtype, device=matrix.device)
        along = [-1 if other == axis else 1 for other in range(ndim)]
        points = points + index.reshape(1, *along, 1) * matrix[:, :-1, axis].reshape(-1, *ones, ndim)
    return points


def affine_points(points: Tensor, matrix: Tensor) -> Tensor:
    """Points ``(B or 1, ..., D)`` under homogeneous matrices ``(B or 1, D + 1, D + 1)`` of the same dtype.

    Column by column: torch's matrix product takes twice as long with matrices this small.
    """
    ndim = points.shape[-1]
    columns = matrix[:, :-1].reshape(-1, *[1] * (points.ndim - 2), ndim, ndim + 1)
    moved = columns[..., -1]
    for axis in range(ndim):
        moved = torch.addcmul(moved, points[..., axis, None], columns[..., axis])
    return moved
