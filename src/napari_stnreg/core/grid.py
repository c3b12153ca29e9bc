"""Position of an image in the world: :class:`Grid`.

Coordinates follow napari: axes are ordered (z, y, x) or (y, x), a voxel's center is at its integer index, and a
homogeneous matrix takes voxel indices to the world. This module does not depend on torch, Qt, or another program's
axis order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.units import conversion_factor

FloatArray = npt.NDArray[np.float64]

CoordinateSystem = Literal["world", "scanner"]
"""Meaning of world coordinates for other programs: a non-anatomical system, or the scanner space of a NIfTI file."""


class HasGrid(Protocol):
    """An object with a place in the world: an image, or a file whose voxels are not loaded yet."""

    @property
    def grid(self) -> Grid:
        """Voxel centers in the world."""

    @property
    def coordinate_system(self) -> CoordinateSystem:
        """Meaning of the world coordinates for other programs."""


ROUNDED_AXES = 2e-3
"""Cosine between two axes up to which a lattice counts as orthogonal for fits and distances: direction cosines rounded
to 3 digits, and 0.1 degrees of shear."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular lattice of voxel centers in the world.

    Parameters
    ----------
    shape
        Number of voxels along each axis, ``(y, x)`` or ``(z, y, x)``.
    matrix
        Homogeneous ``(D + 1, D + 1)`` matrix from voxel indices to world coordinates.
    unit
        Unit of the world coordinates, the same along every axis.

    Raises
    ------
    InputError
        If the matrix does not match the shape, is singular or not finite.
    """

    shape: tuple[int, ...]
    matrix: FloatArray
    unit: str = "pixel"

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        matrix = np.array(self.matrix, dtype=np.float64)
        if matrix.shape != (len(shape) + 1, len(shape) + 1):
            raise InputError(f"A {len(shape)}D grid needs a {len(shape) + 1}x{len(shape) + 1} matrix.")
        if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:-1, :-1])) < 1e-300:
            raise InputError("The image's scale or affine is singular or not finite.")
        matrix.flags.writeable = False
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "matrix", matrix)

    @classmethod
    def from_spacing(
        cls,
        shape: Sequence[int],
        spacing: float | Sequence[float] = 1.0,
        origin: float | Sequence[float] = 0.0,
        direction: npt.ArrayLike | None = None,
        unit: str = "pixel",
    ) -> Grid:
        """Build a grid from voxel sizes, the world position of voxel zero, and a ``(D, D)`` direction matrix."""
        ndim = len(shape)
        matrix = np.eye(ndim + 1)
        axes = np.eye(ndim) if direction is None else np.asarray(direction, dtype=np.float64)
        matrix[:-1, :-1] = axes * np.broadcast_to(np.asarray(spacing, dtype=np.float64), (ndim,))
        matrix[:-1, -1] = origin
        return cls(tuple(shape), matrix, unit)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid):
            return NotImplemented
        return self.unit == other.unit and self.same_lattice(other)

    def __hash__(self) -> int:
        return hash((self.shape, self.matrix.tobytes(), self.unit))

    def same_lattice(self, other: Grid) -> bool:
        """Return whether both have the same voxel centers; units are ignored."""
        return self.shape == other.shape and np.allclose(self.matrix, other.matrix, rtol=1e-9, atol=1e-9)

    @property
    def ndim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return len(self.shape)

    @property
    def linear(self) -> FloatArray:
        """The ``(D, D)`` part of the matrix: column ``i`` is one step along voxel axis ``i``."""
        return self.matrix[:-1, :-1]

    @property
    def origin(self) -> FloatArray:
        """World position of the center of voxel zero, ``(D,)``."""
        return self.matrix[:-1, -1]

    @property
    def spacing(self) -> FloatArray:
        """Distance between neighboring voxel centers along each axis, ``(D,)``, in world units."""
        return np.asarray(np.linalg.norm(self.linear, axis=0))

    @property
    def center(self) -> FloatArray:
        """World position of the center of the grid, ``(D,)``."""
        return self.to_world((np.asarray(self.shape) - 1) / 2)

    @property
    def extent(self) -> FloatArray:
        """Length of each side between the outer faces, in world units, ``(D,)``."""
        return np.asarray(self.shape) * self.spacing

    @property
    def size(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape))

    @property
    def diagonal(self) -> float:
        """Length of the longest diagonal, in world units."""
        corners = self.corners()
        return float(max(np.linalg.norm(a - b) for a, b in itertools.combinations(corners, 2)))

    def to_world(self, index: npt.ArrayLike) -> FloatArray:
        """Return world coordinates ``(..., D)`` of voxel indices ``(..., D)``."""
        return np.asarray(index, dtype=np.float64) @ self.linear.T + self.origin

    def to_index(self, world: npt.ArrayLike) -> FloatArray:
        """Return fractional voxel indices ``(..., D)`` of world coordinates ``(..., D)``."""
        return (np.asarray(world, dtype=np.float64) - self.origin) @ np.linalg.inv(self.linear).T

    def points(self) -> FloatArray:
        """Return world coordinates of every voxel center, ``(*shape, D)``."""
        index = np.stack(np.meshgrid(*(np.arange(n) for n in self.shape), indexing="ij"), axis=-1)
        return self.to_world(index)

    def corners(self) -> FloatArray:
        """Return world coordinates of the ``2**D`` outer corners, half a voxel outside the outer centers."""
        ends = [(-0.5, n - 0.5) for n in self.shape]
        return self.to_world(np.array(list(itertools.product(*ends))))

    def is_orthogonal(self, tolerance: float = 1e-6) -> bool:
        """Return whether the voxel axes are perpendicular in the world (no shear).

        Parameters
        ----------
        tolerance
            Largest cosine of the angle between two axes. :data:`ROUNDED_AXES` accepts axes that only rounding has
            made oblique.
        """
        axes = self.linear / self.spacing
        return bool(np.allclose(axes.T @ axes, np.eye(self.ndim), atol=tolerance))

    def translated(self, offset: npt.ArrayLike) -> Grid:
        """Return the lattice shifted in the world by ``offset``, ``(D,)``."""
        matrix = self.matrix.copy()
        matrix[:-1, -1] += np.asarray(offset, dtype=np.float64)
        return Grid(self.shape, matrix, self.unit)

    def with_unit(self, unit: str) -> Grid:
        """Return the same lattice with world coordinates in another unit of length.

        Raises
        ------
        InputError
            If the units cannot be converted into each other.
        """
        if unit == self.unit:
            return self
        matrix = self.matrix.copy()
        matrix[:-1] *= conversion_factor(self.unit, unit)
        return Grid(self.shape, matrix, unit)

    def resized(self, shape: Sequence[int]) -> Grid:
        """Return a grid of another shape over the same extent; the outer faces keep their positions."""
        factor = np.asarray(self.shape) / np.asarray(shape)
        step = np.eye(self.ndim + 1)
        step[:-1, :-1] = np.diag(factor)
        step[:-1, -1] = (factor - 1) / 2
        return Grid(tuple(shape), self.matrix @ step, self.unit)

    def cropped(self, start: Sequence[int], stop: Sequence[int]) -> Grid:
        """Return the part from voxel ``start`` up to ``stop``; bounds outside the grid pad it."""
        shift = np.eye(self.ndim + 1)
        shift[:-1, -1] = start
        return Grid(tuple(int(b - a) for a, b in zip(start, stop, strict=True)), self.matrix @ shift, self.unit)

    def slabs(self, max_points: int) -> Iterator[tuple[slice, Grid]]:
        """Split the lattice along its first axis into parts of at most ``max_points`` voxels, or of a single row.

        Yields
        ------
        slice, Grid
            Voxels along the first axis, and their lattice.
        """
        rows = max(max_points // max(int(np.prod(self.shape[1:])), 1), 1)
        for start in range(0, self.shape[0], rows):
            stop = min(start + rows, self.shape[0])
            yield slice(start, stop), self.cropped((start, *[0] * (self.ndim - 1)), (stop, *self.shape[1:]))

    def orthogonal(self) -> Grid:
        """Return a grid with perpendicular axes over the same place.

        It is the grid itself if its axes are perpendicular. Axes that are nearly so (:data:`ROUNDED_AXES`) are replaced
        by the nearest perpendicular ones about the center; shape and spacing stay. Any other grid gets an axis-aligned
        cover at its finest spacing.
        """
        if self.is_orthogonal():
            return self
        if self.is_orthogonal(ROUNDED_AXES):
            left, _, right = np.linalg.svd(self.linear / self.spacing)
            matrix = self.matrix.copy()
            matrix[:-1, :-1] = (left @ right) * self.spacing
            matrix[:-1, -1] = self.center - matrix[:-1, :-1] @ ((np.asarray(self.shape) - 1) / 2)
            return Grid(self.shape, matrix, self.unit)
        return Grid.covering(self.corners(), np.full(self.ndim, self.spacing.min()), unit=self.unit)

    @classmethod
    def covering(cls, world: npt.ArrayLike, spacing: npt.ArrayLike, unit: str = "pixel") -> Grid:
        """Build the smallest axis-aligned grid of a given spacing whose voxels cover all world points ``(N, D)``."""
        world = np.asarray(world, dtype=np.float64)
        spacing = np.asarray(spacing, dtype=np.float64)
        low, high = world.min(axis=0), world.max(axis=0)
        shape = np.maximum(np.ceil((high - low) / spacing - 1e-6), 1).astype(int)
        slack = shape * spacing - (high - low)
        return cls.from_spacing(tuple(shape), spacing.tolist(), (low - slack / 2 + spacing / 2).tolist(), unit=unit)

    def extended_to(self, world: npt.ArrayLike) -> Grid:
        """Return the lattice extended by whole voxels so that it also covers the world points ``(N, D)``."""
        index = self.to_index(world).reshape(-1, self.ndim)
        start = np.minimum(np.floor(index.min(axis=0) + 0.5 + 1e-6), 0).astype(int)
        stop = np.maximum(np.ceil(index.max(axis=0) + 0.5 - 1e-6), self.shape).astype(int)
        return self.cropped(start, stop)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description; :meth:`from_dict` restores the grid exactly."""
        return {"shape": list(self.shape), "matrix": self.matrix.tolist(), "unit": self.unit}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Grid:
        """Restore a grid from :meth:`to_dict`."""
        return cls(tuple(state["shape"]), np.asarray(state["matrix"]), str(state["unit"]))
