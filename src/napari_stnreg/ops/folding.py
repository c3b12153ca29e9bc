"""Removal of folds from a displacement field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from napari_stnreg.ops.filters import gaussian
from napari_stnreg.ops.jacobian import smallest_cell_determinant


@dataclass(frozen=True)
class FoldRemoval:
    """How folds are removed; lengths in voxels. Chosen on generated fields of up to 30 voxels on 64 x 64 and 32^3."""

    least_determinant: float = 0.02
    """Determinants below this count as folds: the margin keeps the sign in single precision and after resampling."""
    smoothing: float = 1.0
    """Standard deviation of the Gaussian in the first round."""
    growth: float = 1.1
    """Factor of the standard deviation from round to round: folds that stay need a wider one."""
    reach: float = 2.0
    """Standard deviation over which the smoothing fades out around a fold."""
    iterations: int = 30
    """Rounds of smoothing; what still folds then is scaled down."""
    scaling: float = 0.8
    """Factor of the displacement in each round of scaling; it ends, since the determinant of no displacement is 1."""


def remove_folds(
    field: Tensor,
    displacement_of: Callable[[Tensor], Tensor] | None = None,
    options: FoldRemoval = FoldRemoval(),
) -> Tensor:
    """Smooth a field around its folds until it has none; a field without folds is returned unchanged.

    Afterward the determinant is positive at every voxel, with one-sided derivatives too
    (:func:`~napari_stnreg.ops.jacobian.smallest_cell_determinant`).

    Parameters
    ----------
    field
        ``(B, D, *shape)`` in voxels.
    displacement_of
        The displacement that a field gives, such as the flow of a velocity; the field itself by default.
    options
        How strongly it is smoothed.

    Returns
    -------
    Tensor
        The same shape; differentiable.
    """
    sigma = options.smoothing
    for iteration in count():
        with torch.no_grad():
            displacement = field if displacement_of is None else displacement_of(field)
            folded = smallest_cell_determinant(displacement.detach()) < options.least_determinant
            pairs = folded.flatten(1).any(1)
            if not bool(pairs.any()):
                break
            if iteration < options.iterations:
                around = gaussian(folded[:, None].to(field.dtype), max(options.reach, sigma), "nearest")
                weight = around.mul_(20).clamp_max_(1)
        if iteration < options.iterations:
            field = torch.lerp(field, gaussian(field, sigma, "nearest"), weight.expand_as(field))
            sigma *= options.growth
        else:
            factor = torch.where(pairs, options.scaling, 1.0).to(field)
            field = field * factor.reshape(-1, *[1] * (field.ndim - 1))
    return field
