"""Inverse transforms: the point-wise solver, and inversion with its round-trip error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.progress import check_stop
from napari_stnreg.ops.lattice import affine_points
from napari_stnreg.transforms.base import SLAB_POINTS, InversionMethod, Transform
from napari_stnreg.transforms.registry import transform_class

MAX_ROUND_TRIP_VOXELS = 0.1
"""Round-trip errors above this many voxels are reported."""
ROUND_TRIP_POINTS = 200_000
"""Voxels at most at which :func:`invert` measures."""
_CHUNK_POINTS = 2**17
_FIXED_POINT_STEPS = 12
_NEWTON_STEPS = 25


class InverseTransform(Transform):
    """``x -> y`` with ``forward(y) = x``, moving world to fixed world of the forward transform.

    Parameters
    ----------
    forward
        The transform to invert.
    tolerance
        Largest distance of ``forward(y)`` from ``x``, as a fraction of :attr:`~Transform.length_scale` (the voxel size
        of a field).

    Notes
    -----
    Fixed-point steps, preconditioned with the affine part of the transform, solve most points; the others are solved
    by damped Newton steps. Results carry no graph. Where the forward transform folds there is no inverse: the best
    point found is returned, and :attr:`warning` reports it.
    """

    family = "inverse"

    def __init__(self, forward: Transform, tolerance: float = 1e-4) -> None:
        self.forward, self.tolerance = forward, tolerance
        self.ndim, self.unit, self.length_scale = forward.ndim, forward.unit, forward.length_scale
        self.coordinate_systems = (forward.coordinate_systems[1], forward.coordinate_systems[0])
        self.itk_matrices = (forward.itk_matrices[1], forward.itk_matrices[0])
        self._count = _PointCount()

    @property
    def unsolved(self) -> int:
        """Number of points without a solution in all calls so far, copies on other devices included."""
        return self._count.unsolved

    @property
    @override
    def warning(self) -> str | None:
        if not self.unsolved:
            return self.forward.warning
        percent = 100 * self.unsolved / max(self._count.total, 1)
        return (
            f"The transform has no exact inverse at {percent:.2g} % of the points, where it folds or is close to it. "
            "A stiffer transform has one."
        )

    @override
    @torch.no_grad()
    def __call__(self, points: Tensor) -> Tensor:
        wide = torch.float32 if points.device.type == "mps" else torch.float64
        flat = points.detach().reshape(points.shape[0], -1, self.ndim).to(wide)
        pieces = [self._solve(part) for part in torch.split(flat, _CHUNK_POINTS, dim=1)]
        solved = torch.cat(pieces, dim=1) if pieces else flat
        return solved.reshape(solved.shape[0], *points.shape[1:]).to(points.dtype)

    def _solve(self, goal: Tensor) -> Tensor:
        linear = self.forward.linear_part()
        guess = affine_points(goal, torch.linalg.inv(linear).to(goal.dtype))
        miss = self.forward(guess) - goal
        batch = miss.shape[0]
        goal, guess = goal.expand(miss.shape), guess.expand(miss.shape)
        if batch > 1:  # each pair has its own unsolved points
            return torch.cat(
                [self._settle(_Pair(self.forward, b), goal[b], guess[b], miss[b], linear)[None] for b in range(batch)]
            )
        return self._settle(_Pair(self.forward, 0), goal[0], guess[0], miss[0], linear)[None]

    def _settle(self, pair: _Pair, goal: Tensor, guess: Tensor, miss: Tensor, linear: Tensor) -> Tensor:
        """Reduce the residuals of points ``(P, D)`` until they are within the tolerance."""
        enough = self.tolerance * self.length_scale
        back = torch.linalg.inv(linear[pair.number % len(linear), :-1, :-1].to(goal))
        guess, size = guess.clone(), miss.norm(dim=-1)
        miss = miss.clone()
        damping = torch.ones_like(size)
        for step in range(_FIXED_POINT_STEPS + _NEWTON_STEPS):
            unsolved = (size > enough).nonzero()[:, 0]
            if not len(unsolved):
                break
            here, off = guess[unsolved], miss[unsolved]
            if step < _FIXED_POINT_STEPS:
                move = off @ back.T
            else:
                move = self._newton(pair, here, off + goal[unsolved], off)
            trial = here - damping[unsolved, None] * move
            trial_miss = pair(trial) - goal[unsolved]
            trial_size = trial_miss.norm(dim=-1)
            better = trial_size < size[unsolved]
            better &= torch.isfinite(trial_size)
            chosen = unsolved[better]
            guess[chosen], miss[chosen], size[chosen] = trial[better], trial_miss[better], trial_size[better]
            damping[unsolved] = torch.where(better, (2 * damping[unsolved]).clamp_max(1), damping[unsolved] / 2)
            if step == _FIXED_POINT_STEPS - 1:
                damping.fill_(1.0)
        self._count.total += len(size)
        self._count.unsolved += int((size > enough).sum())
        return guess

    def _newton(self, pair: _Pair, here: Tensor, value: Tensor, off: Tensor) -> Tensor:
        step = 1e-3 * self.length_scale
        columns = []
        for axis in range(self.ndim):
            ahead = here.clone()
            ahead[:, axis] += step
            columns.append((pair(ahead) - value) / step)
        jacobian = torch.stack(columns, dim=-1)
        # Regularized where it is nearly singular: on a fold the step is long, and halved until it helps.
        flat = torch.linalg.det(jacobian).abs() < 1e-6
        jacobian[flat] += 1e-2 * torch.eye(self.ndim, dtype=here.dtype, device=here.device)
        move: Tensor = torch.linalg.solve_ex(jacobian, off[..., None])[0][..., 0]
        return move

    def residual(self, grid: Grid) -> tuple[float, float]:
        """Return the mean and maximum distance of ``x`` and ``forward(inverse(x))`` over a grid, in world units."""
        total, largest, count = 0.0, 0.0, 0
        slabs = self.check_grid(grid).slabs(SLAB_POINTS)
        for (_, mapped), (_, part) in zip(self.slab_points(grid), slabs, strict=True):
            with torch.no_grad():
                again = self.forward(mapped[None])[0].cpu().numpy()
            distance = np.linalg.norm(again - part.points(), axis=-1)
            total, count = total + float(distance.sum()), count + distance.size
            largest = max(largest, float(distance.max()))
        return total / max(count, 1), largest

    @override
    def to(self, device: torch.device | str) -> Self:
        # The copy counts its unsolved points here too, so that the warning is not lost.
        forward = self.forward.to(device)
        if forward is self.forward:
            return self
        moved = type(self)(forward, self.tolerance).like(self)
        moved._count = self._count
        return moved

    @override
    def inverse(self) -> Transform:
        return self.forward.reversed_like(self)

    @override
    def as_matrix(self) -> FloatArray | None:
        forward = self.forward.as_matrix()
        return None if forward is None else np.asarray(np.linalg.inv(forward))

    @override
    def linear_part(self) -> Tensor:
        inverse: Tensor = torch.linalg.inv(self.forward.linear_part())
        return inverse

    @override
    def native_grid(self) -> Grid | None:
        return self.forward.native_grid()

    @property
    @override
    def inversion_method(self) -> InversionMethod:
        return "exact"

    @override
    def _change_coordinates(self, matrix: FloatArray, unit: str) -> InverseTransform:
        return InverseTransform(self.forward._change_coordinates(matrix, unit), self.tolerance)

    @override
    def _translated_frame(self, offset: FloatArray) -> InverseTransform:
        return InverseTransform(self.forward._translated_frame(offset), self.tolerance)

    @override
    def tensors(self) -> dict[str, Tensor]:
        return {f"forward.{name}": tensor for name, tensor in self.forward.tensors().items()}

    @override
    def settings(self) -> dict[str, Any]:
        return {"forward": {"family": self.forward.family, **self.forward.settings()}, "tolerance": self.tolerance}

    @classmethod
    @override
    def from_state(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> Self:
        inner = {name.removeprefix("forward."): tensor for name, tensor in tensors.items()}
        forward = transform_class(settings["forward"]["family"]).from_state(inner, settings["forward"])
        return cls(forward, float(settings["tolerance"]))


@dataclass
class _PointCount:
    """Numbers of points of all calls and of those without a solution, shared by a transform and its copies."""

    total: int = 0
    unsolved: int = 0


class _Pair:
    """The transform of one pair of a batch, on points ``(P, D)``."""

    def __init__(self, forward: Transform, number: int) -> None:
        self.forward, self.number = forward, number

    def __call__(self, points: Tensor) -> Tensor:
        return self.forward(points[None])[self.number]


@dataclass(frozen=True)
class Inversion:
    """An inverse and its round-trip error.

    Parameters
    ----------
    transform
        Moving world to fixed world.
    method
        ``"exact"`` for linear maps, ``"velocity"`` for the flow of the negative velocity (exact up to interpolation),
        ``"iterative"`` where every point is solved for.
    mean_error, max_error
        Distance between a voxel center ``y`` of the grid and ``forward(inverse(y))``, in world units.
    max_voxels
        The largest error over the smallest voxel size.
    unsolved_fraction
        Fraction of the voxels with a round-trip error above :data:`MAX_ROUND_TRIP_VOXELS`.
    warning
        Message for the user if the inverse fails somewhere.
    """

    transform: Transform
    method: InversionMethod
    mean_error: float
    max_error: float
    max_voxels: float
    unsolved_fraction: float
    warning: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return method and round-trip errors, JSON-ready."""
        names = ("method", "mean_error", "max_error", "max_voxels", "unsolved_fraction")
        return {name: getattr(self, name) for name in names}

    @property
    def summary(self) -> str:
        """One line about the method and the error, for the user."""
        if self.method == "exact":
            return "Inverted exactly."
        how = "by running the flow backward" if self.method == "velocity" else "point by point"
        return f"Inverted {how}. The round-trip error is at most {self.max_voxels:.2g} voxels."


def invert(transform: Transform, grid: Grid, *, max_points: int = ROUND_TRIP_POINTS) -> Inversion:
    """Invert a transform and report the round-trip error.

    The flow of a velocity is run backward if the error stays below a tenth of a voxel, else points are solved for.

    Parameters
    ----------
    transform
        Any family: fixed world to moving world.
    grid
        Where to measure, in the *moving* world, from which the inverse starts: usually the grid of the moving image.
    max_points
        Number of the grid's voxels at most at which the error is measured.

    Returns
    -------
    Inversion
        The inverse transform and its round-trip errors.
    """
    back = transform.inverse()
    found = _round_trip(transform, back, grid, transform.inversion_method, max_points)
    if found.method == "velocity" and found.max_voxels > MAX_ROUND_TRIP_VOXELS:
        solved = _round_trip(transform, transform.solved_inverse(), grid, "iterative", max_points)
        found = min(found, solved, key=lambda one: one.mean_error)
    return found


def _round_trip(
    transform: Transform, back: Transform, grid: Grid, method: InversionMethod, max_points: int
) -> Inversion:
    in_unit = transform.check_grid(grid)
    thin = max(int(np.ceil((grid.size / max_points) ** (1 / grid.ndim))), 1)
    axes = [np.arange((n - 1) % thin // 2, n, thin) for n in grid.shape]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, grid.ndim)
    points = in_unit.to_world(index)
    check_stop()
    again = back.map_points(points)
    check_stop()
    again = transform.map_points(again)
    errors = np.linalg.norm(again - points, axis=1)
    voxel = float(in_unit.spacing.min())
    largest = float(errors.max(initial=0.0))
    unsolved = float((errors > MAX_ROUND_TRIP_VOXELS * voxel).mean())
    warning = None
    if method != "exact" and unsolved:
        warning = back.warning or (
            f"The round-trip error of the inverse exceeds {MAX_ROUND_TRIP_VOXELS} voxels at {100 * unsolved:.2g} % of "
            "the points. Do not rely on the inverse there."
        )
    return Inversion(back, method, float(errors.mean()), largest, largest / voxel, unsolved, warning)
