"""The same transform said otherwise: in another unit, as one matrix, or as a displacement field on a grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.units import conversion_factor
from napari_stnreg.transforms.base import Transform
from napari_stnreg.transforms.bspline import BSplineTransform
from napari_stnreg.transforms.chain import ChainTransform
from napari_stnreg.transforms.dense import DisplacementTransform, VelocityTransform, apply_matrix
from napari_stnreg.transforms.inverse import InverseTransform
from napari_stnreg.transforms.linear import AffineTransform
from napari_stnreg.transforms.thin_plate import ThinPlateTransform


def with_unit(transform: Transform, unit: str) -> Transform:
    """The same physical map with both of its worlds measured in another unit.

    Raises
    ------
    InputError
        If the units cannot be converted into each other.
    """
    if unit == transform.unit:
        return transform
    factor = conversion_factor(transform.unit, unit)
    return change_coordinates(transform, np.diag([factor] * transform.ndim + [1.0]), unit)


def compose(*parts: Transform) -> Transform:
    """Apply the parts in the order given, whatever their units; the result is in the first one's.

    ``compose(first, second)`` is ``x -> second(first(x))``: with ``first`` from A to B and ``second`` from B to C it
    takes points of A to C, and a warp by it brings C's image onto A in a single sampling.

    Raises
    ------
    InputError
        If there is none, or dimensions or units do not fit.
    """
    if not parts:
        raise InputError("A chain needs at least one transform.")
    joined = ChainTransform([with_unit(part, parts[0].unit) for part in parts])
    return joined.parts[0].with_coordinate_systems(*joined.coordinate_systems) if len(joined.parts) == 1 else joined


def linear_matrix(transform: Transform) -> FloatArray | None:
    """The homogeneous ``(D + 1, D + 1)`` matrix of a transform that is linear, in its unit; else ``None``."""
    if isinstance(transform, AffineTransform):
        return transform.numpy()
    if isinstance(transform, InverseTransform):
        forward = linear_matrix(transform.forward)
        return None if forward is None else np.asarray(np.linalg.inv(forward))
    if isinstance(transform, ChainTransform):
        product = np.eye(transform.ndim + 1)
        for part in transform.parts:
            matrix = linear_matrix(part)
            if matrix is None:
                return None
            product = matrix @ product
        return product
    return None


def as_displacement(transform: Transform, grid: Grid) -> DisplacementTransform:
    """The transform sampled into a displacement field: the same at the voxel centers, linear between them.

    Parameters
    ----------
    transform
        Any family.
    grid
        Voxels of the field, in the fixed world; usually those of the fixed image.

    Returns
    -------
    DisplacementTransform
        In the transform's unit, double precision.
    """
    in_unit = transform.check_grid(grid)
    field = np.empty((grid.ndim, *grid.shape))
    for part, mapped in transform.slabs(grid):
        start = (part.start, *[0] * (grid.ndim - 1))
        here = in_unit.cropped(start, (part.stop, *grid.shape[1:])).points()
        field[:, part] = np.moveaxis(mapped - here, -1, 0)
    return DisplacementTransform(torch.from_numpy(field), in_unit).with_coordinate_systems(
        *transform.coordinate_systems
    )


def native_grid(transform: Transform) -> Grid | None:
    """The grid of the fixed world on which a transform has its parameters, if it has one; the finest of a chain's."""
    if isinstance(transform, DisplacementTransform | VelocityTransform):
        return transform.grid
    if isinstance(transform, BSplineTransform):
        # The cells between the second control point and the last but one, whose faces lie on control points; eight
        # samples a cell are plenty.
        cells = transform.control_grid.cropped([1] * transform.ndim, [n - 2 for n in transform.control_grid.shape])
        return cells.translated(cells.linear @ np.full(transform.ndim, 0.5)).resized([8 * n for n in cells.shape])
    if isinstance(transform, ThinPlateTransform):
        points = transform.basis.points
        return Grid.covering(points, np.maximum(np.ptp(points, axis=0), 1e-9) / 64, unit=transform.unit)
    if isinstance(transform, InverseTransform):
        return native_grid(transform.forward)
    if isinstance(transform, ChainTransform):
        known = [grid for part in transform.parts if (grid := native_grid(part)) is not None]
        return min(known, key=lambda grid: float(np.prod(grid.spacing)), default=None)
    return None


def change_coordinates(transform: Transform, matrix: npt.ArrayLike, unit: str) -> Transform:
    """The same map in other coordinates, ``x -> G(T(G^-1(x)))``.

    Parameters
    ----------
    transform
        Any family.
    matrix
        Homogeneous ``(D + 1, D + 1)``: ``G``, a similarity (axes may be exchanged and mirrored, lengths scaled alike).
    unit
        Unit of the new coordinates.
    """
    change = np.asarray(matrix, dtype=np.float64)
    return _conjugated(transform, change, unit).with_coordinate_systems(*transform.coordinate_systems)


def _conjugated(transform: Transform, change: FloatArray, unit: str) -> Transform:
    linear = change[:-1, :-1]

    def placed(grid: Grid) -> Grid:
        return Grid(grid.shape, change @ grid.matrix, unit)

    if isinstance(transform, AffineTransform):
        outward = torch.from_numpy(change).to(transform.device)
        return AffineTransform(outward @ transform.matrix.double() @ torch.linalg.inv(outward), unit)
    if isinstance(transform, DisplacementTransform):
        return DisplacementTransform(apply_matrix(linear, transform.field), placed(transform.grid))
    if isinstance(transform, VelocityTransform):
        return VelocityTransform(apply_matrix(linear, transform.velocity), placed(transform.grid))
    if isinstance(transform, BSplineTransform):
        return BSplineTransform(apply_matrix(linear, transform.coefficients), placed(transform.control_grid))
    if isinstance(transform, ThinPlateTransform):
        outward = torch.from_numpy(change).to(transform.device)
        targets = transform.targets.double() @ outward[:-1, :-1].T + outward[:-1, -1]
        points = transform.basis.points @ linear.T + change[:-1, -1]
        return ThinPlateTransform(points, targets, transform.basis.stiffness, unit)
    if isinstance(transform, InverseTransform):
        return InverseTransform(_conjugated(transform.forward, change, unit), transform.tolerance)
    if isinstance(transform, ChainTransform):
        return ChainTransform([_conjugated(part, change, unit) for part in transform.parts])
    raise InputError(f"A transform of family '{transform.family}' cannot be written in other coordinates.")
