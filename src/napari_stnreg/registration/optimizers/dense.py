"""Fitting a displacement or a stationary velocity field by small compositions (the deformable stages).

Every step computes the flow of the warped image that lowers the loss, smooths it, limits it to a fraction of a voxel
and composes it with the map so far: ``phi <- phi o (id + d)``. The derivative of ``moving(phi(x + d))`` with respect to
``d`` at 0 is the spatial gradient of the *warped image*, so a step needs no gradient through the sampler and the loss
may be any similarity that can differentiate with respect to an image. Part of that gradient may be taken from the fixed
image: at the solution the two are the same, their mean is good to second order (efficient second-order minimization),
and edges that only the fixed image has yet pull too. For the velocity family the same ``d`` is added to the velocity
(the first term of the Baker-Campbell-Hausdorff series, as in log-domain demons), whose flow is the map.

References
----------
Benhimane and Malis, Homography-based 2D visual tracking and servoing, IJRR 2007.
Vercauteren et al., Symmetric log-domain diffeomorphic registration, MICCAI 2008.
Jena et al., FireANTs: adaptive Riemannian optimization for multi-scale diffeomorphic matching, 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_stnreg.core.progress import check_stop
from napari_stnreg.losses import Similarity
from napari_stnreg.ops.filters import gaussian
from napari_stnreg.ops.folding import remove_folds
from napari_stnreg.registration.pyramid import Level, upsample
from napari_stnreg.transforms.dense import exponential

MIN_FORCE = 1e-2
"""Slope of the loss a voxel, times the number of voxels, that counts as none; misaligned images feel about 0.1 to 1."""
EXACT_FROM = 0.75
"""Fraction of a level's steps after which :func:`quick_exponential` no longer replaces the full integration."""
LEAST_CORRELATION = 0.3
"""Correlation of the images below which the fixed image's gradient has no information about the warped one's."""
MOMENT_VOXELS = 2**20
"""Voxels from which the covariance of the two images is computed."""
LANDMARK_SMOOTHING = 3.0
"""Standard deviation, in voxels, over which the pull of a landmark is spread; it would be smoothed away otherwise."""


@dataclass
class DenseOptions:
    """How the steps are made; lengths are in voxels of the level (of its finest axis where they differ)."""

    update_smoothing: float = 1.0
    field_smoothing: float = 0.75
    step: float = 0.6
    final_step: float = 0.15
    momentum: float = 0.9
    memory: float = 0.99
    noise_floor: float = 1.0
    tolerance: float = 1e-4
    patience: int = 15
    fixed_weight: float = 0.0
    """Fraction of the force that takes the gradient of the fixed image."""


@dataclass
class DenseState:
    """A deformation in voxels of the current level's grid.

    Parameters
    ----------
    displacement
        ``(1, D, *shape)``.
    velocity
        The same shape for the velocity family; ``None`` for the composed families.
    """

    displacement: Tensor
    velocity: Tensor | None
    best_loss: float = field(default=float("inf"))

    @classmethod
    def identity(cls, shape: tuple[int, ...], device: torch.device, *, velocity: bool) -> DenseState:
        """Return the zero deformation."""
        zero = torch.zeros((1, len(shape), *shape), device=device)
        return cls(zero, zero.clone() if velocity else None)

    def resized(self, shape: tuple[int, ...]) -> DenseState:
        """Resample the deformation to the next level's grid."""
        if self.velocity is None:
            return DenseState(upsample(self.displacement, shape), None)
        velocity = upsample(self.velocity, shape)
        return DenseState(exponential(velocity), velocity)

    def unfolded(self) -> DenseState:
        """Return the deformation without folds, see :func:`~napari_stnreg.ops.folding.remove_folds`.

        Small compositions of smooth steps do not fold, but their values at voxels can.
        """
        if self.velocity is None:
            return DenseState(remove_folds(self.displacement), None, self.best_loss)
        velocity = remove_folds(self.velocity, exponential)
        return DenseState(exponential(velocity), velocity, self.best_loss)


def compose_small(outer: Tensor, inner: Tensor) -> Tensor:
    """Compose ``(id + outer) o (id + inner) - id`` to first order in ``inner``, all in voxels, ``(1, D, *shape)``.

    The inner displacement is shorter than a voxel and the outer one smooth, so the remainder is of the order of what
    linear interpolation would lose. In 3D it takes a sixth of the time.
    """
    total = outer + inner
    image_gradient = torch.empty_like(outer)
    for axis in range(outer.ndim - 2):
        check_stop()
        n, dim = outer.shape[axis + 2], axis + 2
        if n < 2:
            continue
        torch.sub(outer.narrow(dim, 2, n - 2), outer.narrow(dim, 0, n - 2), out=image_gradient.narrow(dim, 1, n - 2))
        for at, low in ((0, 0), (n - 1, n - 2)):  # beyond the border the field is constant
            torch.sub(outer.narrow(dim, low + 1, 1), outer.narrow(dim, low, 1), out=image_gradient.narrow(dim, at, 1))
        total.addcmul_(image_gradient, inner[:, axis : axis + 1], value=0.5)
    return total


def spatial_gradient(image: Tensor) -> Tensor:
    """Central differences of ``(1, 1, *shape)`` along each axis, ``(1, D, *shape)``; zero on the border."""
    ndim = image.ndim - 2
    out = torch.zeros((1, ndim, *image.shape[2:]), device=image.device, dtype=image.dtype)
    for axis in range(ndim):
        n = image.shape[axis + 2]
        check_stop()
        if n > 2:
            ahead, behind = image.narrow(axis + 2, 2, n - 2), image.narrow(axis + 2, 0, n - 2)
            torch.sub(ahead[:, 0], behind[:, 0], out=out[:, axis].narrow(axis + 1, 1, n - 2))
    return out.mul_(0.5)


def fit_dense(
    level: Level,
    affine: npt.NDArray[np.float64],
    similarity: Similarity,
    state: DenseState,
    iterations: int,
    options: DenseOptions,
    *,
    penalty: Callable[[Tensor], Tensor] | None = None,
    landmark_force: Callable[[Tensor], Tensor] | None = None,
    masked: bool = False,
) -> Iterator[tuple[float, DenseState]]:
    """Improve a deformation at one level, in place.

    Parameters
    ----------
    level
        Both images.
    affine
        ``(D + 1, D + 1)`` applied after the deformation: ``T = affine o phi``.
    similarity
        Prepared here with the level's fixed image.
    state
        The start. Its tensors are replaced step by step and at the end hold the best that was seen.
    iterations
        Steps at most.
    options
        Step sizes and smoothing.
    penalty
        Regularizers of the displacement in voxels, added to the loss.
    pull
        A loss that depends on the displacement at a few points (landmarks); its gradient is spread around them.
    masked
        Whether voxels that fall outside the moving image are left out.

    Yields
    ------
    float, DenseState
        The loss before each step and the state it belongs to. A loss that is not finite is yielded too; the state is
        then the last good one and the caller is expected to stop.
    """
    similarity.prepare(level.fixed, level.fixed_weight)
    linear, shift = level.sampling_matrix(affine)
    check_stop()
    base = (level.points() @ linear.T).add_(shift)
    check_stop()
    relative = level.fixed_grid.spacing / level.fixed_grid.spacing.min()
    sigma_update = [options.update_smoothing / s for s in relative]
    sigma_field = [options.field_smoothing / s for s in relative]
    # steps are in units of the finest spacing, also for anisotropic voxels
    metric = torch.as_tensor(1 / relative, dtype=torch.float32, device=base.device).reshape(1, -1, *[1] * len(relative))
    isotropic = bool(np.allclose(relative, 1))
    mean, square = torch.zeros_like(state.displacement), torch.zeros_like(state.displacement)

    flat_base, linear_t = base.reshape(-1, len(relative)), linear.T.contiguous()

    def look(displacement: Tensor) -> tuple[Tensor, Tensor | None]:
        check_stop()
        moved = torch.addmm(flat_base, displacement[0].flatten(1).T, linear_t)
        return level.sample_moving(moved.reshape(base.shape), masked=masked)

    if penalty is None and landmark_force is None and bool(state.displacement.any()):
        _forget_if_worse(state, similarity, look)
    fixed_gradient = _fixed_gradient(level, look(state.displacement)[0]) if options.fixed_weight > 0 else None
    best, losses = DenseState(state.displacement, state.velocity, state.best_loss), []  # steps make new tensors
    for k in range(iterations):
        warped, weight = look(state.displacement)
        loss, gradient = similarity.value_and_gradient(warped, weight)
        value = float(loss)
        extra: Tensor | None = None
        for term, reach in ((penalty, 0.0), (landmark_force, LANDMARK_SMOOTHING)):
            if term is not None:
                cost, term_gradient = _force_gradient(term, state.displacement)
                value += cost
                if reach:
                    term_gradient = gaussian(term_gradient, reach, edge="nearest").mul_(reach ** term_gradient.shape[1])
                extra = term_gradient if extra is None else extra.add_(term_gradient)
        if not np.isfinite(value):
            state.displacement, state.velocity = best.displacement, best.velocity
            yield value, state
            return
        if value < best.best_loss:
            best = DenseState(state.displacement, state.velocity, value)
        losses.append(value)
        yield value, state
        if gradient is None or _settled(losses, options):
            break
        image_gradient = spatial_gradient(warped)
        if fixed_gradient is not None:
            image_gradient.lerp_(fixed_gradient, options.fixed_weight)
        force = image_gradient.mul_(gradient)
        if extra is not None:
            force.add_(extra)
        if not isotropic:
            force.mul_(metric)
        force = gaussian(force, sigma_update, "nearest", 3.0)
        check_stop()
        mean.lerp_(force, 1 - options.momentum)
        square.mul_(options.memory).addcmul_(force, force, value=1 - options.memory)
        # Relative to the typical force: where there is only rounding noise, noise must not become a full step.
        # And never below the force at convergence, or a perfect start would be perturbed.
        floor = max(options.noise_floor * float(square.mean().sqrt()), MIN_FORCE / warped.numel())
        check_stop()
        update = torch.div(mean, square.sqrt().add_(floor))
        unbiased = (1 - options.memory ** (k + 1)) ** 0.5 / (1 - options.momentum ** (k + 1))
        largest = unbiased * float(update.square().sum(1).amax().sqrt())
        check_stop()
        step = options.step + (options.final_step - options.step) * k / max(iterations - 1, 1)
        update.mul_(-step * unbiased / max(largest, 1.0))
        if not isotropic:
            update.mul_(metric)
        # smoothing fades with the steps; at full strength it would undo more than the last small steps do
        calm = round(20 * (step / options.step) ** 0.5) / 20  # few values: each makes a kernel
        _apply(state, update, [calm * s for s in sigma_field], exact=k >= EXACT_FROM * iterations)
    state.displacement, state.velocity, state.best_loss = best.displacement, best.velocity, best.best_loss


def _fixed_gradient(level: Level, warped: Tensor) -> Tensor | None:
    """The fixed image's gradient in the moving image's brightness; ``None`` where the two are not related by a line."""
    inside = slice(None) if level.fixed_weight is None else (level.fixed_weight > 0.5)
    # a covariance of a million voxels is exact enough
    every = max(warped.numel() // MOMENT_VOXELS, 1)
    a, b = (image[inside].flatten()[::every].double() for image in (level.fixed, warped))
    a, b = a - a.mean(), b - b.mean()
    covariance, variance = float(a @ b), float(a @ a)
    if abs(covariance) <= LEAST_CORRELATION * (variance * float(b @ b)) ** 0.5:
        return None
    return spatial_gradient(level.fixed).mul_(covariance / variance)


def _forget_if_worse(
    state: DenseState, similarity: Similarity, look: Callable[[Tensor], tuple[Tensor, Tensor | None]]
) -> None:
    """Start a level from no deformation where that scores better than what the coarser level brought."""
    zero = torch.zeros_like(state.displacement)
    if float(similarity(*look(zero))) < float(similarity(*look(state.displacement))):
        state.displacement = zero
        if state.velocity is not None:
            state.velocity = zero.clone()


def _force_gradient(term: Callable[[Tensor], Tensor], displacement: Tensor) -> tuple[float, Tensor]:
    with torch.enable_grad():
        field = displacement.detach().requires_grad_()
        cost = term(field)
        (gradient,) = torch.autograd.grad(cost, field)
    return float(cost.detach()), gradient


def quick_exponential(velocity: Tensor) -> Tensor:
    """Integrate a velocity at half resolution and add the remainder linearly, for use in the loop.

    The part of a smooth velocity that half the resolution cannot hold is a small fraction of a voxel, where a flow and
    a displacement are the same to second order; in 3D this takes a fifth of the time. Results are integrated in full.
    """
    shape = velocity.shape[2:]
    if min(shape) < 24:
        return exponential(velocity)
    coarse = upsample(velocity, [(n + 1) // 2 for n in shape])
    return upsample(exponential(coarse).sub_(coarse), shape).add_(velocity)


def _apply(state: DenseState, update: Tensor, sigma: list[float], *, exact: bool) -> None:
    # new tensors on purpose: snapshots share the old ones
    if state.velocity is not None:
        state.velocity = gaussian(state.velocity + update, sigma, "nearest", 3.0)
        state.displacement = exponential(state.velocity) if exact else quick_exponential(state.velocity)
        return
    state.displacement = gaussian(compose_small(state.displacement, update), sigma, "nearest", 3.0)


def _settled(losses: list[float], options: DenseOptions) -> bool:
    n = options.patience
    if len(losses) <= 2 * n:
        return False
    before, now = min(losses[-2 * n : -n]), min(losses[-n:])
    return before - now < options.tolerance * max(abs(before), 1e-6)
