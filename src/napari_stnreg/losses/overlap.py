"""Label overlap (soft Dice) as a loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from napari_stnreg.losses.base import fill_masked, spatial_sum


def one_hot(labels: Tensor, values: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return one channel for each label value, 1 inside it: ``(B, 1, *shape)`` to ``(B, len(values), *shape)``."""
    wanted = torch.as_tensor(list(values), dtype=labels.dtype, device=labels.device)
    return (labels == wanted.reshape(1, -1, *([1] * (labels.ndim - 2)))).to(dtype)


def soft_dice(fixed: Tensor, warped: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the soft Dice overlap of label memberships from 0 to 1 (squared denominator, Milletari et al. 2016).

    Parameters
    ----------
    fixed, warped
        ``(B, L, *shape)``, one channel for each label.
    weight
        ``(B, 1, *shape)``; voxels of weight 0 are excluded.

    Returns
    -------
    Tensor
        ``(B, L)`` between 0 and 1; NaN for a label that is absent in both.
    """
    fixed, warped = fill_masked(fixed, weight), fill_masked(warped, weight)
    intersection, size = fixed * warped, fixed.square() + warped.square()
    if weight is not None:
        intersection, size = intersection * weight, size * weight
    total = spatial_sum(size)
    dice = 2 * spatial_sum(intersection) / total.clamp_min(torch.finfo(total.dtype).tiny)
    return torch.where(total > 0, dice, torch.nan)


class LabelOverlap:
    """One minus the soft Dice of warped labels, averaged over the labels that are present; a training loss.

    Parameters
    ----------
    fixed
        Memberships of the fixed image ``(B, L, *shape)``; see :func:`one_hot`.
    """

    def __init__(self, fixed: Tensor) -> None:
        self.fixed = fixed.detach()

    def __call__(self, warped: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the loss of warped memberships ``(B, L, *shape)``; 0 without labels."""
        dice = soft_dice(self.fixed, warped, weight)
        present = ~torch.isnan(dice)
        if not bool(present.any()):
            return warped.sum() * 0
        return 1 - dice[present].mean()
