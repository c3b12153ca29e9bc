"""Turn a transform round, and say how well that went."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_stnreg.core.grid import Grid
from napari_stnreg.transforms.base import Transform
from napari_stnreg.transforms.chain import ChainTransform
from napari_stnreg.transforms.dense import VelocityTransform
from napari_stnreg.transforms.inverse import InverseTransform, solver_warning
from napari_stnreg.transforms.linear import AffineTransform

_POINTS = 200_000
WORTH_A_WARNING = 0.1
"""Round-trip errors above this many voxels are told to the person."""


@dataclass(frozen=True)
class Inversion:
    """An inverse and its round-trip error.

    Parameters
    ----------
    transform
        Moving world to fixed world.
    method
        ``"exact"`` for linear maps, ``"velocity"`` for a flow run backwards (exact but for the interpolation of its
        field), ``"iterative"`` where every point is solved for.
    mean_error, max_error
        Distance between a voxel center ``y`` of the grid and ``forward(inverse(y))``, in world units.
    max_voxels
        The largest error over the smallest voxel size.
    unsolved_fraction
        Share of the voxels at which it misses by more than a tenth of a voxel.
    warning
        A sentence, if a person should know that the inverse fails somewhere.
    """

    transform: Transform
    method: str
    mean_error: float
    max_error: float
    max_voxels: float
    unsolved_fraction: float
    warning: str | None

    @property
    def sentence(self) -> str:
        """One line for a person."""
        if self.method == "exact":
            return "Inverted exactly."
        how = "by running the flow backwards" if self.method == "velocity" else "point by point"
        return f"Inverted {how}; there and back again misses by {self.max_voxels:.2g} voxels at most."


def inversion_method(transform: Transform) -> str:
    """How a transform would be inverted: ``"exact"``, ``"velocity"`` or ``"iterative"``."""
    if isinstance(transform, AffineTransform):
        return "exact"
    if isinstance(transform, VelocityTransform):
        return "velocity"
    if isinstance(transform, InverseTransform):
        return "exact"  # what it inverts is at hand
    if isinstance(transform, ChainTransform):
        methods = [inversion_method(part) for part in transform.parts]
        return max(methods, key=("exact", "velocity", "iterative").index)
    return "iterative"


def solved_inverse(transform: Transform) -> Transform:
    """An inverse that undoes what the transform does to points, to the tolerance of the solver.

    A flow run backwards undoes the flow of a smooth velocity, and its sampled field only as well as that is smooth: a
    velocity that changes much from voxel to voxel can miss by a voxel. Here its points are solved for like those of
    the other deformations, which for lists of points costs next to nothing.
    """
    if isinstance(transform, VelocityTransform):
        return InverseTransform(transform)
    if isinstance(transform, ChainTransform):
        parts = [solved_inverse(part) for part in reversed(transform.parts)]
        return ChainTransform(parts).with_coordinate_systems(*reversed(transform.coordinate_systems))
    return transform.inverse()


def invert(transform: Transform, grid: Grid) -> Inversion:
    """Invert a transform and measure the round trip.

    A velocity is run backwards where that comes within a tenth of a voxel, and solved for point by point otherwise.

    Parameters
    ----------
    transform
        Any family: fixed world to moving world.
    grid
        Where to measure, in the *moving* world, from which the inverse starts: usually the moving image's grid.

    Returns
    -------
    Inversion
        The inverse transform and its round-trip errors over at most about 200,000 of the grid's voxels.
    """
    method = inversion_method(transform)
    back = transform.inverse()
    found = _round_trip(transform, back, grid, method)
    if "velocity" in method and found.max_voxels > WORTH_A_WARNING:
        solved = _round_trip(transform, solved_inverse(transform), grid, "iterative")
        found = min(found, solved, key=lambda one: one.mean_error)
    return found


def _round_trip(transform: Transform, back: Transform, grid: Grid, method: str) -> Inversion:
    in_unit = transform.check_grid(grid)
    thin = max(int(np.ceil((grid.size / _POINTS) ** (1 / grid.ndim))), 1)
    axes = [np.arange((n - 1) % thin // 2, n, thin) for n in grid.shape]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, grid.ndim)
    points = in_unit.to_world(index)
    again = transform.map_points(back.map_points(points))
    errors = np.linalg.norm(again - points, axis=1)
    voxel = float(in_unit.spacing.min())
    largest = float(errors.max(initial=0.0))
    unsolved = float((errors > WORTH_A_WARNING * voxel).mean())
    warning = None
    if method != "exact" and unsolved:
        warning = solver_warning(back) or (
            f"There and back again misses by more than {WORTH_A_WARNING} voxels at {100 * unsolved:.2g} % of the "
            "points; do not rely on the inverse there."
        )
    return Inversion(back, method, float(errors.mean()), largest, largest / voxel, unsolved, warning)
