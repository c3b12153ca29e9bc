"""Normalised cross-correlation in a window around every voxel."""

from __future__ import annotations

import torch
from torch import Tensor

from napari_stnreg.objectives.filters import box_sum
from napari_stnreg.objectives.similarity import Similarity, cleaned, combine, spatial_sum


class LocalNCC(Similarity):
    """Squared correlation in a box around each voxel, averaged; the loss is 1 minus it.

    Parameters
    ----------
    radius
        Half width of the window in voxels; 3 is a window of 7.
    """

    name = "lncc"
    description = "Correlation in a small window: for the same modality with uneven brightness; the usual choice."

    def __init__(self, radius: int = 3) -> None:
        self.radius = radius

    def prepare(self, fixed: Tensor, weight: Tensor | None = None) -> None:
        """See :meth:`Similarity.prepare`."""
        self._weight = None if weight is None else weight.detach()
        self._fixed = cleaned(fixed.detach(), self._weight)

    def __call__(self, warped: Tensor, weight: Tensor | None = None) -> Tensor:
        """See :meth:`Similarity.__call__`."""
        total = combine(self._weight, weight)
        known = torch.ones_like(warped[:, :1]) if total is None else total.detach().to(warped.dtype)
        fixed, warped = cleaned(self._fixed, known), cleaned(warped, known)
        # Nearly centred values: the variances below are differences of squares.
        fixed = fixed - fixed.mean()
        warped = warped - warped.detach().mean()
        count = box_sum(known, self.radius).clamp_min(1e-6)
        mean_f, mean_w = box_sum(known * fixed, self.radius) / count, box_sum(known * warped, self.radius) / count
        cross = box_sum(known * fixed * warped, self.radius) / count - mean_f * mean_w
        var_f = (box_sum(known * fixed.square(), self.radius) / count - mean_f.square()).clamp_min(0)
        var_w = (box_sum(known * warped.square(), self.radius) / count - mean_w.square()).clamp_min(0)
        local = cross.square() / (var_f * var_w + 1e-5)
        share = known / spatial_sum(known).clamp_min(1e-6).reshape(-1, *([1] * (known.ndim - 1)))
        return 1 - spatial_sum(local * share).mean()

    def score(self, warped: Tensor, weight: Tensor | None = None) -> float:
        """The mean squared local correlation, between 0 and 1."""
        with torch.no_grad():
            return 1 - float(self(warped, weight))
