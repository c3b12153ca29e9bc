"""Overlap of labels as a loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from napari_stnreg.losses.similarity import fill_masked, spatial_sum


def one_hot(labels: Tensor, values: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """One channel for each label value, 1 inside it: ``(B, 1, *shape)`` to ``(B, len(values), *shape)``."""
    wanted = torch.as_tensor(list(values), dtype=labels.dtype, device=labels.device)
    return (labels == wanted.reshape(1, -1, *([1] * (labels.ndim - 2)))).to(dtype)


def soft_dice(fixed: Tensor, warped: Tensor, weight: Tensor | None = None) -> Tensor:
    """Dice overlap of two sets of label memberships between 0 and 1 (squared in the denominator, Milletari 2016).

    Parameters
    ----------
    fixed, warped
        ``(B, L, *shape)``, one channel for each label.
    weight
        ``(B, 1, *shape)``; voxels of weight 0 do not count.

    Returns
    -------
    Tensor
        ``(B, L)`` between 0 and 1; NaN for a label that is absent in both.
    """
    fixed, warped = fill_masked(fixed, weight), fill_masked(warped, weight)
    both, size = fixed * warped, fixed.square() + warped.square()
    if weight is not None:
        both, size = both * weight, size * weight
    total = spatial_sum(size)
    dice = 2 * spatial_sum(both) / total.clamp_min(torch.finfo(total.dtype).tiny)
    return torch.where(total > 0, dice, torch.nan)


class LabelOverlap:
    """One minus the soft Dice of the warped labels, averaged over the labels that are there (for training).

    Parameters
    ----------
    fixed
        Memberships of the fixed image ``(B, L, *shape)``, as :func:`one_hot` makes them.
    """

    def __init__(self, fixed: Tensor) -> None:
        self.fixed = fixed.detach()

    def __call__(self, warped: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss for warped memberships ``(B, L, *shape)``; 0 if there is no label at all."""
        dice = soft_dice(self.fixed, warped, weight)
        present = ~torch.isnan(dice)
        if not bool(present.any()):
            return warped.sum() * 0
        return 1 - dice[present].mean()
