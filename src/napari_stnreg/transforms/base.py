"""The interface of every spatial transform: a map from points of the fixed world to points of the moving world.

``warped(x) = moving(T(x))``, as in ITK (pull-back). Points of the fixed side go to the moving side through ``T``, and
points of the moving side go to the fixed side through ``T.inverse()``.
"""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_stnreg.core import container
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import CoordinateSystem, FloatArray, Grid, HasGrid
from napari_stnreg.core.image import Image, Matrix, itk_matrix_of
from napari_stnreg.core.linalg import affine_matrix
from napari_stnreg.core.progress import check_stop
from napari_stnreg.core.units import conversion_factor
from napari_stnreg.ops.jacobian import folding_fraction, jacobian_determinant_array
from napari_stnreg.ops.lattice import lattice_points
from napari_stnreg.ops.pullback import Interpolation, resample
from napari_stnreg.transforms.registry import TRANSFORMS, transform_class

if TYPE_CHECKING:
    from napari_stnreg.transforms.dense import DisplacementTransform

SLAB_POINTS = 2**18
"""Grids are mapped in slabs of about this many points, which bounds memory and stays in the processor's cache."""
FILE_FORMAT = "napari-stnreg transform"
FILE_VERSION = 1

InversionMethod = Literal["exact", "velocity", "iterative"]


class Transform(ABC):
    """A map of the world, from the fixed image to the moving image.

    Points are in (z, y, x) order and in the unit named by :attr:`unit`. Parameters may have a batch axis ``B`` with one
    transform for each pair; a single transform has ``B = 1``.

    A subclass that sets :attr:`family` is registered under that name and can be saved and loaded. It implements
    :meth:`__call__`, :meth:`inverse`, :meth:`tensors`, :meth:`settings`, :meth:`from_state` and
    :meth:`_change_coordinates`, and may override what it can do faster or better.
    """

    family: ClassVar[str]
    ndim: int
    unit: str = "pixel"
    length_scale: float = 1.0
    """Distance in world units over which the map changes little; tolerances are relative to it."""
    coordinate_systems: tuple[CoordinateSystem, CoordinateSystem] = ("world", "world")
    """Meaning of the fixed and the moving world for other programs; only file readers and writers use it."""
    itk_matrices: tuple[Matrix | None, Matrix | None] = (None, None)
    """From the scanner coordinates of the fixed and the moving side to those that ITK takes from the files."""
    domain: Grid | None = None
    """Grid of the fixed image for which the transform was fitted, where it is known."""
    matrix: Tensor | None = None
    """Homogeneous ``(B, D + 1, D + 1)`` of a transform that is stored as a matrix, else ``None``."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "family" in cls.__dict__:
            TRANSFORMS[cls.family] = cls

    # -- what a family implements -------------------------------------------------------------------------------------

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
            ``(B, ..., D)`` in the moving world, with the dtype of the points; differentiable in the parameters.
        """

    @abstractmethod
    def inverse(self) -> Transform:
        """Return the map back, from the moving world to the fixed one."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return the parameters by name, for saving and for moving between devices."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return everything else that :meth:`from_state` needs, JSON-ready."""

    @classmethod
    @abstractmethod
    def from_state(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> Self:
        """Restore a transform from :meth:`tensors` and :meth:`settings`."""

    @abstractmethod
    def _change_coordinates(self, matrix: FloatArray, unit: str) -> Transform:
        """Implement :meth:`change_coordinates`."""

    # -- what a family may know better --------------------------------------------------------------------------------

    @property
    def parts(self) -> Sequence[Transform]:
        """Transforms that are applied one after the other; a transform that is not a chain is its only part."""
        return (self,)

    def as_matrix(self) -> FloatArray | None:
        """Return the homogeneous ``(D + 1, D + 1)`` matrix of a single linear transform; ``None`` if it bends."""
        return None

    @property
    def is_linear(self) -> bool:
        """Whether the transform is an affine map."""
        return self.as_matrix() is not None

    def linear_part(self) -> Tensor:
        """Return the product of the affine parts, ``(B or 1, D + 1, D + 1)``, double precision."""
        return torch.eye(self.ndim + 1, dtype=torch.float64, device=self.device)[None]

    def native_grid(self) -> Grid | None:
        """Return a grid of the fixed world that resolves the transform's parameters, or ``None`` without such."""
        return None

    def displacement_field(self) -> DisplacementTransform | None:
        """Return the same map as a :class:`DisplacementTransform`, if it is one on a grid of its own; else ``None``."""
        return None

    def parameter_field(self) -> tuple[Tensor, Grid] | None:
        """Return the vector field ``(B, D, *shape)``, world units, that is the parameter, and its grid, if any."""
        return None

    @property
    def inversion_method(self) -> InversionMethod:
        """How :meth:`inverse` works: ``"exact"``, ``"velocity"`` (flow run backward) or ``"iterative"``."""
        return "iterative"

    def solved_inverse(self) -> Transform:
        """Return an inverse that undoes the sampled transform to the tolerance of the solver."""
        return self.inverse()

    @property
    def warning(self) -> str | None:
        """Warning of an iterative inverse inside the transform about the calls so far, if any point had no solution."""
        return None

    def on_grid(self, grid: Grid, dtype: torch.dtype | None = None) -> Tensor:
        """Map every voxel center of a grid of the fixed world.

        The same as calling the transform on the points of the grid; families with a faster way over a lattice use it
        (a field on its own grid is not resampled, a B-spline is separable, an affine map needs no points).

        Parameters
        ----------
        grid
            Converted to the unit of the transform.
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

    def _translated_frame(self, offset: FloatArray) -> Transform:
        """Implement :meth:`translated_frame`."""
        return self._change_coordinates(affine_matrix(np.eye(self.ndim), offset), self.unit)

    # -- what follows from it -----------------------------------------------------------------------------------------

    def __matmul__(self, first: Transform) -> Transform:
        """Compose: ``(a @ b)(x) = a(b(x))``, in the unit of ``b``."""
        composed: Any = transform_class("chain")
        joined: Transform = composed([first, self.with_unit(first.unit)])
        return joined if len(joined.parts) > 1 else joined.parts[0].like(joined)

    def __repr__(self) -> str:
        count = sum(tensor.numel() for tensor in self.tensors().values())
        return f"<{type(self).__name__}: {self.ndim}D, {count} parameters, unit {self.unit}, fixed to moving>"

    def like(self, other: Transform) -> Self:
        """Return the transform with the coordinate systems and the domain of another one."""
        systems = self.coordinate_systems, self.itk_matrices
        if systems == (other.coordinate_systems, other.itk_matrices) and self.domain is other.domain:
            return self
        changed = copy.copy(self)
        changed.coordinate_systems, changed.domain = other.coordinate_systems, other.domain
        changed.itk_matrices = other.itk_matrices
        return changed

    def between(self, fixed: HasGrid, moving: HasGrid) -> Self:
        """Return the transform with the coordinate systems of two images."""
        changed = copy.copy(self)
        changed.coordinate_systems = (fixed.coordinate_system, moving.coordinate_system)
        first, second = (itk_matrix_of(getattr(image, "metadata", {})) for image in (fixed, moving))
        changed.itk_matrices = (first, second)
        return changed

    def reversed_like(self, other: Transform) -> Self:
        """Return the transform with the coordinate systems of another one, its two sides exchanged."""
        fixed, moving = other.coordinate_systems
        first, second = other.itk_matrices
        return self.with_coordinate_systems(moving, fixed).with_itk_matrices(second, first)

    def with_itk_matrices(self, fixed: Matrix | None, moving: Matrix | None) -> Self:
        """Return the transform with other :attr:`itk_matrices`."""
        if self.itk_matrices == (fixed, moving):
            return self
        changed = copy.copy(self)
        changed.itk_matrices = (fixed, moving)
        return changed

    def with_coordinate_systems(self, fixed: CoordinateSystem, moving: CoordinateSystem) -> Self:
        """Return the transform with other :attr:`coordinate_systems`."""
        if self.coordinate_systems == (fixed, moving):
            return self
        changed = copy.copy(self)
        changed.coordinate_systems = (fixed, moving)
        return changed

    def with_domain(self, domain: Grid | None) -> Self:
        """Return the transform with another :attr:`domain`."""
        changed = copy.copy(self)
        changed.domain = domain
        return changed

    def change_coordinates(self, matrix: npt.ArrayLike, unit: str) -> Transform:
        """Return the same map in other coordinates, ``x -> G(T(G^-1(x)))``.

        Parameters
        ----------
        matrix
            Homogeneous ``(D + 1, D + 1)``: ``G``, a similarity (axes may be permuted and mirrored, all lengths
            scaled equally).
        unit
            Unit of the new coordinates.
        """
        change = np.asarray(matrix, dtype=np.float64)
        changed = self._change_coordinates(change, unit).like(self)
        if self.domain is None:
            return changed
        domain = self.domain.with_unit(self.unit)
        return changed.with_domain(Grid(domain.shape, change @ domain.matrix, unit))

    def translated_frame(self, offset: FloatArray) -> Transform:
        """Return the same map in a world with a shifted origin: ``x -> T(x - offset) + offset``, offset ``(D,)``."""
        moved = self._translated_frame(offset).like(self)
        return moved if self.domain is None else moved.with_domain(self.domain.with_unit(self.unit).translated(offset))

    def with_unit(self, unit: str) -> Transform:
        """Return the same physical map with both worlds measured in another unit.

        Raises
        ------
        InputError
            If the units cannot be converted into each other.
        """
        if unit == self.unit:
            return self
        factor = conversion_factor(self.unit, unit)
        return self.change_coordinates(np.diag([factor] * self.ndim + [1.0]), unit)

    def to(self, device: torch.device | str) -> Self:
        """Return the transform with its parameters on a device, detached from any graph.

        A transform that is on the device already is returned itself, so that cached results such as the integrated
        velocity are kept.
        """
        tensors = self.tensors()
        if all(not tensor.requires_grad and tensor.to(device) is tensor for tensor in tensors.values()):
            return self
        moved = {name: tensor.detach().to(device) for name, tensor in tensors.items()}
        return type(self).from_state(moved, self.settings()).like(self)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        for tensor in self.tensors().values():
            return tensor.dtype
        return torch.float32

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        for tensor in self.tensors().values():
            return tensor.device
        return torch.device("cpu")

    def check_grid(self, grid: Grid) -> Grid:
        """Return a grid in the unit of the transform.

        Raises
        ------
        InputError
            If it has another number of axes, or a unit that cannot be converted.
        """
        if grid.ndim != self.ndim:
            raise InputError(f"A {self.ndim}D transform cannot be used on a {grid.ndim}D grid.")
        return grid.with_unit(self.unit)

    # -- numpy interface ----------------------------------------------------------------------------------------------

    def warp(
        self,
        image: Image | npt.NDArray[Any],
        reference: Grid | Image | None = None,
        interpolation: Interpolation | None = None,
        fill: float | Sequence[float] | None = 0,
    ) -> Image:
        """Resample the moving image onto the fixed grid, ``warped(x) = image(T(x))``.

        Parameters
        ----------
        image
            The moving image. An array has voxels of size 1 in the unit of the transform, and channels last if it has
            one axis more than the transform.
        reference
            Grid of the result, or an image on it; ``None`` for the fixed grid for which the transform was fitted.
        interpolation, fill
            See :func:`napari_stnreg.warp`.

        Raises
        ------
        InputError
            If no grid is known, or the dimensions, units or channels do not match.
        """
        if not isinstance(image, Image):
            array = np.asarray(image)
            image = Image.from_array(array, channels=array.ndim > self.ndim, unit=self.unit)
        grid = reference.grid if isinstance(reference, Image) else reference or self.domain
        if grid is None:
            raise InputError("The fixed grid of this transform is not known. Give the fixed image as reference.")
        return resample(image, self, grid, interpolation, fill)

    def save(self, path: str | os.PathLike[str], info: Mapping[str, Any] | None = None) -> Path:
        """Write the transform to a ``.safetensors`` file, which holds every family exactly.

        :func:`napari_stnreg.save` writes the formats of other programs too.

        Parameters
        ----------
        path
            File name; the extension is added if there is none.
        info
            JSON-ready metadata that is stored in the file, such as settings and scores of a run.

        Returns
        -------
        Path
            The file that was written.

        Raises
        ------
        InputError
            If the extension is another one, ``info`` is not JSON-ready, or the file cannot be written.
        """
        target = Path(path)
        if target.suffix not in ("", ".safetensors"):
            raise InputError(f"'{target.name}' is not a .safetensors file. Use napari_stnreg.save for other formats.")
        header = {
            "format": FILE_FORMAT,
            "version": FILE_VERSION,
            "family": self.family,
            "ndim": self.ndim,
            "unit": self.unit,
            "coordinate_systems": list(self.coordinate_systems),
            "itk_matrices": list(self.itk_matrices),
            "domain": None if self.domain is None else self.domain.to_dict(),
            "settings": self.settings(),
            "info": dict(info or {}),
        }
        return container.write(target, header, self.tensors())

    def map_points(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map a list of points ``(N, D)`` of the fixed world to the moving world, in double precision."""
        array = np.asarray(points, dtype=np.float64).reshape(-1, self.ndim)
        with torch.no_grad():
            mapped = self(torch.from_numpy(array.copy())[None].to(self.device))
        return np.asarray(mapped[0].cpu().numpy(), dtype=np.float64)

    def slab_points(self, grid: Grid) -> Iterator[tuple[slice, Tensor]]:
        """Map a whole grid slab by slab along its first axis, in double precision and outside any graph.

        Yields
        ------
        slice, Tensor
            Voxels along the first axis, and their positions in the moving world, ``(n, *shape[1:], D)``.

        Raises
        ------
        InputError
            If the transform holds several pairs.
        """
        # Apple's GPUs have no double precision.
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        for rows, part in self.check_grid(grid).slabs(SLAB_POINTS):
            check_stop()
            with torch.no_grad():
                mapped = self.on_grid(part, dtype)
            if mapped.shape[0] != 1:
                raise InputError(f"This transform holds {mapped.shape[0]} pairs. Select one of them first.")
            yield rows, mapped[0]

    def slabs(self, grid: Grid) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
        """Map a whole grid as :meth:`slab_points` does, into arrays."""
        for rows, mapped in self.slab_points(grid):
            yield rows, np.asarray(mapped.cpu().numpy(), dtype=np.float64)

    def voxel_indices(
        self, grid: Grid, moving: Grid, device: torch.device | str = "cpu"
    ) -> Iterator[tuple[slice, Tensor]]:
        """Map a whole grid as :meth:`slab_points` does, to fractional voxel indices of a moving grid.

        The world-to-index matrix is merged with the last affine part, so that no point is mapped twice.
        """
        affine: Any = transform_class("affine")
        to_index = affine(np.linalg.inv(moving.with_unit(self.unit).matrix), self.unit)
        yield from (to_index.to(device) @ self.to(device)).slab_points(grid)

    def displacement(self, grid: Grid) -> npt.NDArray[np.float32]:
        """Return ``T(x) - x`` on a grid of the fixed world, ``(D, *grid.shape)``, in world units and axis order."""
        out = np.empty((self.ndim, *grid.shape), dtype=np.float32)
        for (rows, mapped), (_, part) in zip(self.slabs(grid), self.check_grid(grid).slabs(SLAB_POINTS), strict=True):
            out[:, rows] = np.moveaxis(mapped - part.points(), -1, 0)
        return out

    def jacobian_determinant(self, grid: Grid) -> npt.NDArray[np.float32]:
        """Return the determinant of ``dT/dx`` at every voxel of a grid: 1 keeps volume, not positive where it folds."""
        grid = self.check_grid(grid)
        # In voxels along the grid's own axes: the determinant is the same, and the axes may be oblique.
        to_index = np.linalg.inv(grid.linear).astype(np.float32)
        displacement = self.displacement(grid)
        out = np.empty(grid.shape, dtype=np.float32)
        for rows, _ in grid.slabs(SLAB_POINTS):  # with a voxel more on both sides, for the differences
            check_stop()
            low, high = max(rows.start - 1, 0), min(rows.stop + 1, grid.shape[0])
            part = jacobian_determinant_array(np.tensordot(to_index, displacement[:, low:high], axes=1))
            out[rows] = part[rows.start - low : rows.stop - low]
        return out

    def folding_fraction(self, grid: Grid, mask: npt.ArrayLike | None = None) -> float:
        """Return the fraction of a grid's voxels that fold (:func:`~napari_stnreg.ops.jacobian.folding_fraction`)."""
        matrix = self.as_matrix()
        if matrix is not None and (mask is None or np.any(mask)):  # one determinant everywhere
            return float(np.linalg.det(matrix[:-1, :-1]) == 0)
        return folding_fraction(self.jacobian_determinant(grid), mask)
