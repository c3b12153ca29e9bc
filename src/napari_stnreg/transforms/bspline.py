"""Cubic B-spline free-form deformation: the transform, and the family that builds it from control points.

References
----------
Rueckert et al., Nonrigid registration using free-form deformations, IEEE Transactions on Medical Imaging 18, 1999.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.ops.bspline import cubic_bspline_matrix, cubic_bspline_weights
from napari_stnreg.ops.lattice import affine_points, apply_matrix, is_axis_parallel, lattice_points
from napari_stnreg.transforms.base import Transform
from napari_stnreg.transforms.family import TransformFamily
from napari_stnreg.transforms.inverse import InverseTransform

NO_FOLDING_LIMIT = 0.4
"""Coefficients below this fraction of the control spacing cannot fold (Choi and Lee 2000; 0.40 in 3D, 0.48 in 2D)."""
DEFAULT_CONTROL_SPACING = 4.0
"""Smallest control spacing that a registration chooses by itself, in voxels."""
CONTROL_CELLS = 24
"""Cells of the control lattice along the longest side that a registration chooses by itself."""

_CHUNK_POINTS = 2**16


class BSplineTransform(Transform):
    """``T(x) = x + sum_k c_k B(u(x) - k)`` with the cubic B-spline ``B`` and ``u`` in voxels of the control grid.

    Parameters
    ----------
    coefficients
        ``(B, D, *control_grid.shape)``, world units, (z, y, x) order.
    control_grid
        Control points in the fixed world, at least 4 along each axis; its unit is that of the transform.

    Notes
    -----
    The splines are complete from the second control point to the last but one; the displacement is constant beyond.
    """

    family = "bspline"

    def __init__(self, coefficients: Tensor, control_grid: Grid) -> None:
        ndim = control_grid.ndim
        coefficients = coefficients if coefficients.ndim == ndim + 2 else coefficients[None]
        if tuple(coefficients.shape[1:]) != (ndim, *control_grid.shape):
            shape = tuple(coefficients.shape)
            raise InputError(f"B-spline coefficients of shape {shape} do not fit a grid of shape {control_grid.shape}.")
        if min(control_grid.shape) < 4:
            raise InputError("A cubic B-spline needs four control points along every axis.")
        self.coefficients, self.control_grid = coefficients, control_grid
        self.ndim, self.unit = ndim, control_grid.unit
        self.length_scale = float(control_grid.spacing.min())

    @override
    def __call__(self, points: Tensor) -> Tensor:
        batch = max(points.shape[0], self.coefficients.shape[0])
        flat = points.reshape(points.shape[0], -1, self.ndim)
        table = self.coefficients.flatten(2).transpose(1, 2).to(points.dtype)
        moved = torch.stack([self._displacement(table[b % len(table)], flat[b % len(flat)]) for b in range(batch)])
        return points + moved.reshape(batch, *points.shape[1:])

    def _displacement(self, table: Tensor, points: Tensor) -> Tensor:
        """Return displacements ``(P, D)`` of points ``(P, D)`` from coefficients ``(control points, D)``."""
        matrix = torch.tensor(np.linalg.inv(self.control_grid.matrix), dtype=points.dtype, device=points.device)
        size = torch.tensor(self.control_grid.shape, dtype=points.dtype, device=points.device)
        pieces = []
        for part in torch.split(points, _CHUNK_POINTS):
            where = torch.minimum(affine_points(part, matrix[None]).clamp_min(1.0), size - 2)
            cell = torch.minimum(where.detach().floor(), size - 3)
            weights = cubic_bspline_weights(where - cell)
            pieces.append(_tensor_product(table, cell.to(torch.int64) - 1, weights, self.control_grid.shape))
        return torch.cat(pieces) if pieces else points.new_zeros(points.shape)

    @override
    def on_grid(self, grid: Grid, dtype: torch.dtype | None = None) -> Tensor:
        grid = self.check_grid(grid)
        matrix = torch.tensor(grid.matrix, dtype=dtype or self.coefficients.dtype, device=self.coefficients.device)
        points = lattice_points(matrix[None], grid.shape)
        to_index = np.linalg.inv(self.control_grid.matrix) @ grid.matrix
        if not is_axis_parallel(to_index, grid.shape):
            return self(points)
        field = self.coefficients.to(matrix.dtype)
        for axis, (count, size) in enumerate(zip(grid.shape, self.control_grid.shape, strict=True)):
            basis = cubic_bspline_matrix(to_index[axis, -1] + to_index[axis, axis] * np.arange(count), size)
            weights = torch.tensor(basis, dtype=field.dtype, device=field.device)
            # Contracting the first lattice axis puts the new one last, so that the axes end up in their order.
            field = torch.tensordot(field, weights, dims=([2], [1]))
        return points + field.movedim(1, -1)

    @override
    def inverse(self) -> Transform:
        return InverseTransform(self)

    @override
    def native_grid(self) -> Grid:
        # The cells between the second control point and the last but one, whose faces lie on control points, with eight
        # samples a cell.
        cells = self.control_grid.cropped([1] * self.ndim, [n - 2 for n in self.control_grid.shape])
        return cells.translated(cells.linear @ np.full(self.ndim, 0.5)).resized([8 * n for n in cells.shape])

    @override
    def _change_coordinates(self, matrix: FloatArray, unit: str) -> BSplineTransform:
        grid = Grid(self.control_grid.shape, matrix @ self.control_grid.matrix, unit)
        return BSplineTransform(apply_matrix(matrix[:-1, :-1], self.coefficients), grid)

    @override
    def tensors(self) -> dict[str, Tensor]:
        return {"coefficients": self.coefficients}

    @override
    def settings(self) -> dict[str, Any]:
        return {"grid": self.control_grid.to_dict()}

    @classmethod
    @override
    def from_state(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> Self:
        return cls(tensors["coefficients"], Grid.from_dict(settings["grid"]))


class BSplineFamily(TransformFamily):
    """B-splines over a control lattice that covers the domain; parameters are coefficients in voxels of the domain.

    Parameters
    ----------
    spacing
        Distance of control points in voxels, one number for each axis; or a single number, which is a distance in the
        smallest voxel size for all axes (and at least one voxel). It is rounded so that the domain holds whole cells.
    finest
        Grid whose voxels ``spacing`` counts: the control lattice then stays the same on every level of a pyramid.
        Without it each domain counts its own voxels, so that the lattice gets finer with the levels.
    limit
        Keep every coefficient below this fraction of the control spacing; :data:`NO_FOLDING_LIMIT` rules out folds.
        ``None`` leaves them free.
    """

    name = "bspline"
    composes_levels = True

    def __init__(
        self, spacing: float | Sequence[float] = 8.0, finest: Grid | None = None, limit: float | None = None
    ) -> None:
        values = np.atleast_1d(np.asarray(spacing, dtype=np.float64))
        if not np.isfinite(values).all() or (values <= 0).any():
            raise InputError(f"The control spacing must be positive, not {spacing}.")
        if limit is not None and limit <= 0:
            raise InputError(f"The limit of the coefficients must be positive, not {limit}.")
        self.spacing, self.finest, self.limit = values, finest, limit

    @classmethod
    @override
    def for_registration(cls, domain: Grid, control_spacing: float | None = None, coarsening: float = 1.0) -> Self:
        longest = float(domain.extent.max() / domain.spacing.min())
        spacing = control_spacing or max(longest / CONTROL_CELLS, DEFAULT_CONTROL_SPACING)
        return cls(coarsening * spacing, domain, NO_FOLDING_LIMIT)

    def cells(self, domain: Grid) -> tuple[int, ...]:
        """Return how many cells of the control lattice span the domain along each axis."""
        voxels = (self.finest or domain).with_unit(domain.unit)
        steps: FloatArray = self.spacing
        if len(steps) == 1:
            steps = np.asarray(np.maximum(steps * voxels.spacing.min() / voxels.spacing, 1.0), dtype=np.float64)
        if len(steps) != domain.ndim:
            raise InputError(f"{len(steps)} control spacings were given for {domain.ndim} axes.")
        return tuple(max(round(n / s), 1) for n, s in zip(voxels.shape, steps, strict=True))

    def control_grid(self, domain: Grid) -> Grid:
        """Return the control lattice: whole cells from face to face of the domain, and one more point at each side."""
        cells = np.asarray(self.cells(domain))
        step = np.asarray(domain.shape) / cells
        place = np.eye(domain.ndim + 1)
        place[:-1, :-1] = np.diag(step)
        place[:-1, -1] = -0.5 - step
        return Grid(tuple(cells + 3), domain.matrix @ place, domain.unit)

    @override
    def parameter_shape(self, domain: Grid) -> tuple[int, ...]:
        return (domain.ndim, *(n + 3 for n in self.cells(domain)))

    @override
    def __call__(self, theta: Tensor, domain: Grid) -> BSplineTransform:
        bound = self._bound(theta, domain)
        limited = theta if bound is None else bound * torch.tanh(theta / bound)
        return BSplineTransform(apply_matrix(domain.linear, limited), self.control_grid(domain))

    @override
    def resample(self, theta: Tensor, old: Grid, new: Grid) -> Tensor:
        new = new.with_unit(old.unit)
        change = np.asarray(np.linalg.inv(new.linear), dtype=np.float64)
        source, lattice = self(theta, old), self.control_grid(new)
        if lattice.same_lattice(source.control_grid):
            coefficients = source.coefficients
        else:
            # Least squares over samples of the domain, four to a cell: exact where the new lattice holds the old one.
            samples = new.resized([4 * n + 4 for n in self.cells(new)])
            to_index = np.linalg.inv(lattice.matrix) @ samples.matrix
            matrix = torch.tensor(samples.matrix, dtype=torch.float64, device=theta.device)[None]
            field = source.on_grid(samples, torch.float64) - lattice_points(matrix, samples.shape)
            field = field.movedim(-1, 1)
            for axis, (count, size) in enumerate(zip(samples.shape, lattice.shape, strict=True)):
                basis = cubic_bspline_matrix(to_index[axis, -1] + to_index[axis, axis] * np.arange(count), size)
                solve = torch.tensor(np.linalg.pinv(basis), dtype=field.dtype, device=field.device)
                field = torch.tensordot(field, solve, dims=([2], [1]))
            coefficients = field.to(theta.dtype)
        result = apply_matrix(change, coefficients)
        bound = self._bound(theta, new)
        return result if bound is None else bound * torch.atanh((result / bound).clamp(-0.999, 0.999))

    def _bound(self, theta: Tensor, domain: Grid) -> Tensor | None:
        if self.limit is None:
            return None
        steps = np.asarray(domain.shape) / np.asarray(self.cells(domain)) * self.limit
        return torch.tensor(steps, dtype=theta.dtype, device=theta.device).reshape(-1, *[1] * domain.ndim)


def _tensor_product(table: Tensor, first: Tensor, weights: Tensor, shape: Sequence[int]) -> Tensor:
    """Sum over the ``4**D`` control points around each point: rows of the table times the product of their weights."""
    taps = torch.arange(4, device=first.device)
    row, product = first[:, :1] + taps, weights[:, 0]
    for axis in range(1, len(shape)):
        row = (row[:, :, None] * shape[axis] + (first[:, axis, None] + taps)[:, None]).flatten(1)
        product = (product[:, :, None] * weights[:, axis, None]).flatten(1)
    total = table.new_zeros(len(first), table.shape[1])
    for tap in range(row.shape[1]):
        total = torch.addcmul(total, table[row[:, tap]], product[:, tap, None])
    return total
