"""Fitting the parameters of a family by gradient descent through the sampler (linear, B-spline and thin-plate stages)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_stnreg.fitting.pyramid import Level
from napari_stnreg.images import Grid
from napari_stnreg.objectives import Similarity
from napari_stnreg.transforms.base import Transform, lattice_points
from napari_stnreg.transforms.families import TransformFamily
from napari_stnreg.transforms.linear import AffineTransform

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
) -> Iterator[tuple[float, ParametricState]]:
    """Improve parameters at one level, in place.

    Parameters
    ----------
    level
        Both images.
    family, domain
        What the parameters mean, and over which grid of the fixed world.
    state
        Where to begin; at the end it holds the best parameters that were seen.
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
    float, ParametricState
        The loss before each step, and the state it belongs to. If it is not finite, the state is the last good one.

    References
    ----------
    Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015.
    """
    similarity.prepare(level.fixed, level.fixed_weight)
    theta = state.theta.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([theta], lr=options.step, betas=(0.9, 0.95))
    best, losses = ParametricState(state.theta), []
    for k in range(iterations):
        with torch.enable_grad():
            coordinates, transform, displacement = _coordinates(level, family, theta, domain, after)
            warped, weight = level.sample_moving(coordinates, masked=masked)
            loss = similarity(warped, weight)
            if penalty is not None:
                loss = loss + penalty(transform, displacement)
        value = float(loss.detach())
        if not np.isfinite(value):
            state.theta, state.best_loss = best.theta, best.best_loss
            yield value, state
            return
        if value < best.best_loss:
            best = ParametricState(theta.detach().clone(), value)
        losses.append(value)
        state.theta = theta.detach()
        yield value, state
        if not loss.requires_grad or _settled(losses, options):
            break
        share = k / max(iterations - 1, 1)
        for group in optimiser.param_groups:
            group["lr"] = options.final_step + (options.step - options.final_step) * 0.5 * (1 + math.cos(math.pi * share))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    state.theta, state.best_loss = best.theta, best.best_loss


def _coordinates(
    level: Level, family: TransformFamily, theta: Tensor, domain: Grid, after: npt.NDArray[np.float64]
) -> tuple[Tensor, Transform, Tensor | None]:
    """Where the level's voxels land in the moving image (normalised), the transform, and its displacement if it bends."""
    transform = family(theta, domain)
    if isinstance(transform, AffineTransform):
        to_normalised = level.normalising_matrix(after)
        grid = torch.as_tensor(level.fixed_grid.matrix.copy(), dtype=torch.float32, device=theta.device)
        return lattice_points(to_normalised @ transform.matrix @ grid, level.fixed_grid.shape), transform, None
    mapped = transform.on_grid(level.fixed_grid)
    matrix = torch.as_tensor(level.fixed_grid.matrix.copy(), dtype=mapped.dtype, device=mapped.device)
    displacement = mapped - lattice_points(matrix[None], level.fixed_grid.shape)
    to_normalised = level.normalising_matrix(after)
    coordinates = mapped @ to_normalised[:-1, :-1].T + to_normalised[:-1, -1]
    return coordinates, transform, displacement.movedim(-1, 1)


def _settled(losses: list[float], options: AdamOptions) -> bool:
    n = options.patience
    if len(losses) <= 2 * n:
        return False
    before, now = min(losses[:-n]), min(losses[-n:])
    return before - now < options.tolerance
