"""The inverse of any transform, solved point by point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.transforms.base import Transform
from napari_stnreg.transforms.chain import ChainTransform
from napari_stnreg.transforms.linear import AffineTransform

_CHUNK = 2**17
_CHEAP_STEPS = 12
_NEWTON_STEPS = 25


class InverseTransform(Transform):
    """``x -> y`` with ``forward(y) = x``, moving world to fixed world of the forward transform.

    Parameters
    ----------
    forward
        The transform to invert.
    tolerance
        How far ``forward(y)`` may be from ``x``, as a share of the transform's :attr:`~Transform.length` (the voxel
        size of a field).

    Notes
    -----
    A few fixed-point steps, preconditioned with the transform's affine parts, settle most points; the rest are solved
    by Newton's method with halved steps where it overshoots. Results carry no graph. Where the forward transform folds
    there is no inverse: the best point found is returned, and :attr:`warning` has a sentence about it.
    """

    family = "inverse"

    def __init__(self, forward: Transform, tolerance: float = 1e-4) -> None:
        self.forward, self.tolerance = forward, tolerance
        self.ndim, self.unit, self.length = forward.ndim, forward.unit, forward.length
        self.coordinate_systems = (forward.coordinate_systems[1], forward.coordinate_systems[0])
        self._tally = _Tally()

    @property
    def unsolved(self) -> int:
        """Number of points of all calls so far that no solution was found for, copies on other devices included."""
        return self._tally.unsolved

    @property
    def warning(self) -> str | None:
        """What a person should know about the calls so far; ``None`` if every point was solved."""
        if not self.unsolved:
            return None
        share = 100 * self.unsolved / max(self._tally.asked, 1)
        return (
            f"The transform has no exact inverse at {share:.2g} % of the points, probably because it folds there; "
            "a stiffer or a diffeomorphic transform has one."
        )

    @override
    @torch.no_grad()
    def __call__(self, points: Tensor) -> Tensor:
        wide = torch.float32 if points.device.type == "mps" else torch.float64
        flat = points.detach().reshape(points.shape[0], -1, self.ndim).to(wide)
        pieces = [self._solve(part) for part in torch.split(flat, _CHUNK, dim=1)]
        solved = torch.cat(pieces, dim=1) if pieces else flat
        return solved.reshape(solved.shape[0], *points.shape[1:]).to(points.dtype)

    def _solve(self, goal: Tensor) -> Tensor:
        slope = _mean_linear(self.forward)
        guess = slope.inverse()(goal)
        miss = self.forward(guess) - goal
        batch = miss.shape[0]
        goal, guess = goal.expand(miss.shape), guess.expand(miss.shape)
        if batch > 1:  # pair by pair: each has points of its own that are still open
            return torch.cat(
                [self._settle(_Pair(self.forward, b), goal[b], guess[b], miss[b], slope)[None] for b in range(batch)]
            )
        return self._settle(_Pair(self.forward, None), goal[0], guess[0], miss[0], slope)[None]

    def _settle(self, pair: _Pair, goal: Tensor, guess: Tensor, miss: Tensor, slope: AffineTransform) -> Tensor:
        """Lower the misses of points ``(P, D)`` until they are within the tolerance."""
        enough = self.tolerance * self.length
        back = torch.linalg.inv(slope.matrix[pair.index(len(slope.matrix)), :-1, :-1].to(goal))
        guess, size = guess.clone(), miss.norm(dim=-1)
        miss = miss.clone()
        damping = torch.ones_like(size)
        for step in range(_CHEAP_STEPS + _NEWTON_STEPS):
            open_points = (size > enough).nonzero()[:, 0]
            if not len(open_points):
                break
            here, off = guess[open_points], miss[open_points]
            if step < _CHEAP_STEPS:
                move = off @ back.T
            else:
                move = self._newton(pair, here, off + goal[open_points], off)
            trial = here - damping[open_points, None] * move
            trial_miss = pair(trial) - goal[open_points]
            trial_size = trial_miss.norm(dim=-1)
            better = trial_size < size[open_points]
            better &= torch.isfinite(trial_size)
            chosen = open_points[better]
            guess[chosen], miss[chosen], size[chosen] = trial[better], trial_miss[better], trial_size[better]
            damping[open_points] = torch.where(
                better, (2 * damping[open_points]).clamp_max(1), damping[open_points] / 2
            )
            if step == _CHEAP_STEPS - 1:
                damping.fill_(1.0)
        self._tally.asked += len(size)
        self._tally.unsolved += int((size > enough).sum())
        return guess

    def _newton(self, pair: _Pair, here: Tensor, value: Tensor, off: Tensor) -> Tensor:
        step = 1e-3 * self.length
        columns = []
        for axis in range(self.ndim):
            ahead = here.clone()
            ahead[:, axis] += step
            columns.append((pair(ahead) - value) / step)
        jacobian = torch.stack(columns, dim=-1)
        # Never divided by nearly nothing: on a fold the step is long, and halved until it helps.
        flat = torch.linalg.det(jacobian).abs() < 1e-6
        jacobian[flat] += 1e-2 * torch.eye(self.ndim, dtype=here.dtype, device=here.device)
        move: Tensor = torch.linalg.solve_ex(jacobian, off[..., None])[0][..., 0]
        return move

    def residual(self, grid: Grid) -> tuple[float, float]:
        """Mean and largest distance between ``x`` and ``forward(inverse(x))`` over a grid, in world units."""
        total, largest, count = 0.0, 0.0, 0
        in_unit = self.check_grid(grid)
        for part, mapped in self.slab_points(grid):
            start = (part.start, *[0] * (grid.ndim - 1))
            here = in_unit.cropped(start, (part.stop, *in_unit.shape[1:])).points()
            with torch.no_grad():
                again = self.forward(mapped[None])[0].cpu().numpy()
            distance = np.linalg.norm(again - here, axis=-1)
            total, count = total + float(distance.sum()), count + distance.size
            largest = max(largest, float(distance.max()))
        return total / max(count, 1), largest

    @override
    def to(self, device: torch.device | str) -> Self:
        """A copy on another device; what it cannot solve is counted here too, so that the warning is not lost."""
        moved = type(self)(self.forward.to(device), self.tolerance).with_coordinate_systems(*self.coordinate_systems)
        moved._tally = self._tally
        return moved

    @override
    def inverse(self) -> Transform:
        return self.forward.with_coordinate_systems(*reversed(self.coordinate_systems))

    @override
    def translated_frame(self, by: FloatArray) -> InverseTransform:
        return InverseTransform(self.forward.translated_frame(by), self.tolerance)

    @override
    def tensors(self) -> dict[str, Tensor]:
        return {f"forward.{name}": tensor for name, tensor in self.forward.tensors().items()}

    @override
    def settings(self) -> dict[str, Any]:
        return {"forward": {"family": self.forward.family, **self.forward.settings()}, "tolerance": self.tolerance}

    @classmethod
    @override
    def from_state(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> Self:
        from napari_stnreg.transforms import transform_class  # the registry lists this class too

        inner = {name.removeprefix("forward."): tensor for name, tensor in tensors.items()}
        forward = transform_class(settings["forward"]["family"]).from_state(inner, settings["forward"])
        return cls(forward, float(settings["tolerance"]))


@dataclass
class _Tally:
    """How many points were asked for and how many of them had no solution, shared by a transform and its copies."""

    asked: int = 0
    unsolved: int = 0


class _Pair:
    """One pair's transform out of a batch, on points ``(P, D)``."""

    def __init__(self, forward: Transform, which: int | None) -> None:
        self.forward, self.which = forward, which

    def __call__(self, points: Tensor) -> Tensor:
        return self.forward(points[None])[self.which or 0]

    def index(self, size: int) -> int:
        return (self.which or 0) % size


def solver_warning(transform: Transform) -> str | None:
    """The warning of the first iterative inverse within a transform that has one, after it was used."""
    if isinstance(transform, InverseTransform):
        return transform.warning or solver_warning(transform.forward)
    if isinstance(transform, ChainTransform):
        return next((text for part in transform.parts if (text := solver_warning(part)) is not None), None)
    return None


def _mean_linear(forward: Transform) -> AffineTransform:
    """The product of the affine parts: deformations are small beside them."""
    slope = AffineTransform(torch.eye(forward.ndim + 1, dtype=torch.float64, device=forward.device), forward.unit)
    for part in forward.parts if isinstance(forward, ChainTransform) else [forward]:
        if isinstance(part, AffineTransform):
            slope = part.after(slope)
        elif isinstance(part, InverseTransform):
            slope = _mean_linear(part.forward).inverse().after(slope)
    return slope
