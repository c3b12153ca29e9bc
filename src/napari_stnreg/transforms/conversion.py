"""The same transform said otherwise: in another unit, as one matrix, or as a displacement field on a grid."""

from __future__ import annotations

import numpy as np
import torch

from napari_stnreg.errors import InputError
from napari_stnreg.images import FloatArray, Grid
from napari_stnreg.transforms.base import Transform
from napari_stnreg.transforms.bspline import BSplineTransform
from napari_stnreg.transforms.chain import ChainTransform
from napari_stnreg.transforms.dense import DisplacementTransform, VelocityTransform
from napari_stnreg.transforms.inverse import InverseTransform
from napari_stnreg.transforms.linear import AffineTransform
from napari_stnreg.transforms.thin_plate import ThinPlateTransform
from napari_stnreg.units import conversion_factor


def with_unit(transform: Transform, unit: str) -> Transform:
    """The same physical map with both of its worlds measured in another unit.

    Raises
    ------
    InputError
        If the units cannot be converted into each other.
    """
    if unit == transform.unit:
        return transform
    return _scaled(transform, conversion_factor(transform.unit, unit), unit).in_spaces(*transform.spaces)


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
    return joined.parts[0].in_spaces(*joined.spaces) if len(joined.parts) == 1 else joined


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
    """The transform sampled into a displacement field: the same at the voxel centres, linear between them.

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
    return DisplacementTransform(torch.from_numpy(field), in_unit).in_spaces(*transform.spaces)


def own_grid(transform: Transform) -> Grid | None:
    """The grid of the fixed world on which a transform has its parameters, if it has one; the finest of a chain's."""
    if isinstance(transform, DisplacementTransform | VelocityTransform):
        return transform.grid
    if isinstance(transform, BSplineTransform):
        # Two control points at each end lie outside what the spline covers; eight samples a cell are plenty.
        inner = transform.control_grid.cropped([1] * transform.ndim, [n - 1 for n in transform.control_grid.shape])
        return inner.resized([8 * n for n in inner.shape])
    if isinstance(transform, ThinPlateTransform):
        points = transform.basis.points
        return Grid.covering(points, np.maximum(np.ptp(points, axis=0), 1e-9) / 64, unit=transform.unit)
    if isinstance(transform, InverseTransform):
        return own_grid(transform.forward)
    if isinstance(transform, ChainTransform):
        known = [grid for part in transform.parts if (grid := own_grid(part)) is not None]
        return min(known, key=lambda grid: float(np.prod(grid.spacing)), default=None)
    return None


def _scaled(transform: Transform, factor: float, unit: str) -> Transform:
    """``x -> factor * T(x / factor)``."""
    if isinstance(transform, AffineTransform):
        matrix = transform.matrix.double().clone()
        matrix[:, :-1, -1] *= factor
        return AffineTransform(matrix, unit)
    if isinstance(transform, DisplacementTransform):
        return DisplacementTransform(transform.field * factor, transform.grid.with_unit(unit))
    if isinstance(transform, VelocityTransform):
        return VelocityTransform(transform.velocity * factor, transform.grid.with_unit(unit))
    if isinstance(transform, BSplineTransform):
        return BSplineTransform(transform.coefficients * factor, transform.control_grid.with_unit(unit))
    if isinstance(transform, ThinPlateTransform):
        points = transform.basis.points * factor
        return ThinPlateTransform(points, transform.targets.double() * factor, transform.basis.stiffness, unit)
    if isinstance(transform, InverseTransform):
        return InverseTransform(_scaled(transform.forward, factor, unit), transform.tolerance)
    if isinstance(transform, ChainTransform):
        return ChainTransform([_scaled(part, factor, unit) for part in transform.parts])
    raise InputError(f"A transform of family '{transform.family}' cannot be converted to another unit.")
