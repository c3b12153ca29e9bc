"""Regularizers of a displacement field: diffusion, bending energy, folding penalty.

A field ``u`` is ``(B, D, *shape)``: the displacement of ``x -> x + u(x)`` at each voxel, in world units along the
grid's axes, in axis order. ``spacing`` is the voxel size along each axis in the same unit. Derivatives are with respect
to world lengths, so a penalty does not depend on the sampling of the field.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from napari_stnreg.losses.base import attach_gradient, wants_gradient
from napari_stnreg.ops.filters import per_axis
from napari_stnreg.ops.jacobian import Spacing, jacobian_determinant


def diffusion(u: Tensor, spacing: Spacing) -> Tensor:
    """Return the mean sum of squared first derivatives, dimensionless; 0 for translations.

    Parameters
    ----------
    u
        Displacement in world units, ``(B, D, *shape)``.
    spacing
        Voxel size along each axis, in the same units.

    Returns
    -------
    Tensor
        A scalar.
    """
    steps = per_axis(spacing, u.ndim - 2)
    return _sum_of_squares(u, [((axis,), 1.0 / step) for axis, step in enumerate(steps, start=2)])


def bending_energy(u: Tensor, spacing: Spacing) -> Tensor:
    """Return the mean sum of squared second derivatives, in 1 / length squared; 0 for affine fields.

    The energy of a thin metal plate (Rueckert et al. 1999), mixed derivatives counted in both orders.

    Parameters
    ----------
    u
        Displacement in world units, ``(B, D, *shape)``.
    spacing
        Voxel size along each axis, in the same units.

    Returns
    -------
    Tensor
        A scalar.
    """
    steps = per_axis(spacing, u.ndim - 2)
    straight = [((i + 2, i + 2), 1.0 / step**2) for i, step in enumerate(steps)]
    mixed = [((i + 2, j + 2), 2**0.5 / (steps[i] * steps[j])) for i in range(len(steps)) for j in range(i)]
    return _sum_of_squares(u, straight + mixed)


def folding_penalty(u: Tensor, spacing: Spacing, margin: float = 0.0) -> Tensor:
    """Return the mean amount by which the Jacobian determinant is below ``margin``; 0 without folding.

    Parameters
    ----------
    u
        Displacement in world units, ``(B, D, *shape)``.
    spacing
        Voxel size along each axis, in the same units.
    margin
        Determinant above which there is no penalty; slightly above 0 keeps a distance from folding.

    Returns
    -------
    Tensor
        A scalar (Mok and Chung 2020 call it the selective Jacobian determinant regularization).
    """
    return torch.relu(margin - jacobian_determinant(u, spacing)).mean()


def _sum_of_squares(u: Tensor, terms: Sequence[tuple[Sequence[int], float]]) -> Tensor:
    """Sum the mean squares of scaled differences along axes; the gradient with respect to ``u`` is attached."""
    field = u.detach()
    with torch.no_grad():
        value, gradient = u.new_zeros(()), torch.zeros_like(field)
        for axes, scale in terms:
            _add_squares(value, gradient, field, axes, scale)
    return attach_gradient(u, value, gradient if wants_gradient(u) else None)


def _add_squares(value: Tensor, gradient: Tensor, field: Tensor, axes: Sequence[int], scale: float) -> None:
    """Add the mean square of a difference along ``axes`` in turn, times ``scale``, and its gradient, in place.

    The mean is over batch and the places where the difference exists, the sum over components.
    """
    # One component at a time fits into the cache.
    for component in range(field.shape[1]):
        difference, target = field.narrow(1, component, 1), gradient.narrow(1, component, 1)
        for axis in axes:
            if difference.shape[axis] < 2:
                return
            count = difference.shape[axis] - 1
            difference = difference.narrow(axis, 1, count) - difference.narrow(axis, 0, count)
        weight = scale**2 / difference.numel()
        value += difference.square().sum() * weight
        difference = difference.mul_(2 * weight)
        for axis in reversed(axes[1:]):
            difference = _adjoint_difference(difference, axis)
        count = difference.shape[axes[0]]
        target.narrow(axes[0], 1, count).add_(difference)
        target.narrow(axes[0], 0, count).sub_(difference)


def _adjoint_difference(difference: Tensor, axis: int) -> Tensor:
    shape = list(difference.shape)
    count = shape[axis]
    shape[axis] += 1
    out = difference.new_zeros(shape)
    out.narrow(axis, 1, count).add_(difference)
    out.narrow(axis, 0, count).sub_(difference)
    return out
