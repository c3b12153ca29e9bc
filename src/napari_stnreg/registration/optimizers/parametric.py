"""Fitting a family's parameters by gradient descent through the sampler (linear, B-spline and thin-plate stages)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_stnreg.core.grid import Grid
from napari_stnreg.losses import Similarity
from napari_stnreg.ops.lattice import lattice_points
from napari_stnreg.registration.pyramid import Level
from napari_stnreg.transforms.base import Transform
from napari_stnreg.transforms.family import TransformFamily

Penalty = Callable[[Transform, Tensor | None], Tensor]
"""What is added to the similarity: given the transform and, for bending families, its displacement on the level."""


@dataclass
class AdamOptions:
    """Step sizes, in the family's own units of theta, falling along a cosine from the first to the last step."""

    step: float = 0.02
    final_step: float = 0.002
    tolerance: float = 1e-5
    patience: int = 10


@dataclass
class ParametricState:
    """Parameters, and the best that were seen at this level."""

    theta: Tensor
    best_loss: float = math.inf


def fit_parametric(
    level: Level,
    family: TransformFamily,
    state: ParametricState,
    domain: Grid,
    after: npt.NDArray[np.float64],
    similarity: Similarity,
    iterations: int,
    options: AdamOptions,
    *,
    penalty: Penalty | None = None,
    masked: bool = True,
) -> Iterator[tuple[float, Tensor]]:
    """Improve parameters at one level, in place.

    Parameters
    ----------
    level
        Both images.
    family, domain
        What the parameters mean, and over which grid of the fixed world.
    state
        The start. It always holds the best parameters that were seen at this level.
    after
        ``(D + 1, D + 1)`` affine applied after the family's transform: ``T = after o family(theta)``.
    similarity
        Prepared here with the level's fixed image.
    iterations, options
        Steps at most, and how long they are.
    penalty
        Regularity and landmarks, if any.
    masked
        Whether voxels that fall outside the moving image are left out.

    Yields
    ------
    float, Tensor
        The loss before each step, and the parameters it belongs to. After one that is not finite the fit ends.
    """
    similarity.prepare(level.fixed, level.fixed_weight)
    theta = state.theta.detach().clone().requires_grad_()
    optimizer = Adam(theta)
    state.best_loss, losses = math.inf, []
    for k in range(iterations):
        with torch.enable_grad():
            coordinates, transform, displacement = _coordinates(level, family, theta, domain, after)
            warped, weight = level.sample_moving(coordinates, masked=masked)
            extra = None if penalty is None else penalty(transform, displacement)
        loss, slope = similarity.value_and_gradient(warped, weight)
        value = float(loss) + (0.0 if extra is None else float(extra.detach()))
        now = theta.detach().clone()
        if value < state.best_loss:
            state.theta, state.best_loss = now, value
        losses.append(value)
        yield value, now
        if not math.isfinite(value):
            return
        terms = [] if slope is None or not warped.requires_grad else [(warped, slope)]
        terms += [] if extra is None or not extra.requires_grad else [(extra, torch.ones_like(extra))]
        if not terms or _settled(losses, options):
            break
        fraction = k / max(iterations - 1, 1)
        step_size = options.final_step + (options.step - options.final_step) * 0.5 * (1 + math.cos(math.pi * fraction))
        (gradient,) = torch.autograd.grad([term for term, _ in terms], theta, [given for _, given in terms])
        theta = optimizer.step(now, gradient, step_size).requires_grad_()


class Adam:
    """The optimizer; torch's own takes two seconds to import what it needs, and longer for each of these small steps.

    Parameters
    ----------
    like
        Parameters, for their shape and device.

    References
    ----------
    Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015.
    """

    MEAN, SQUARE, TINY = 0.9, 0.95, 1e-12

    def __init__(self, like: Tensor) -> None:
        self._mean, self._square = torch.zeros_like(like.detach()), torch.zeros_like(like.detach())
        self._count = 0

    def step(self, theta: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        """Return the parameters after one step down the gradient, as a new tensor."""
        self._count += 1
        self._mean.lerp_(gradient, 1 - self.MEAN)
        self._square.mul_(self.SQUARE).addcmul_(gradient, gradient, value=1 - self.SQUARE)
        size = (self._square / (1 - self.SQUARE**self._count)).sqrt_().add_(self.TINY)
        return torch.addcdiv(theta.detach(), self._mean, size, value=-step_size / (1 - self.MEAN**self._count))


def _coordinates(
    level: Level, family: TransformFamily, theta: Tensor, domain: Grid, after: npt.NDArray[np.float64]
) -> tuple[Tensor, Transform, Tensor | None]:
    """Return normalized moving coordinates of the voxels, the transform, and its displacement if deformable."""
    transform = family(theta, domain)
    if transform.matrix is not None:
        to_normalized = level.normalizing_matrix(after)
        grid = torch.as_tensor(level.fixed_grid.matrix.copy(), dtype=torch.float32, device=theta.device)
        return lattice_points(to_normalized @ transform.matrix @ grid, level.fixed_grid.shape), transform, None
    mapped = transform.on_grid(level.fixed_grid)
    matrix = torch.as_tensor(level.fixed_grid.matrix.copy(), dtype=mapped.dtype, device=mapped.device)
    displacement = mapped - lattice_points(matrix[None], level.fixed_grid.shape)
    to_normalized = level.normalizing_matrix(after)
    coordinates = mapped @ to_normalized[:-1, :-1].T + to_normalized[:-1, -1]
    return coordinates, transform, displacement.movedim(-1, 1)


def _settled(losses: list[float], options: AdamOptions) -> bool:
    n = options.patience
    if len(losses) <= 2 * n:
        return False
    before, now = min(losses[:-n]), min(losses[-n:])
    return before - now < options.tolerance
