"""Mean squared difference."""

from __future__ import annotations

import torch
from torch import Tensor

from napari_stnreg.losses.base import (
    Similarity,
    attach_gradient,
    combine_weights,
    expand,
    fill_masked,
    reciprocal,
    spatial_sum,
    wants_gradient,
)


class MeanSquares(Similarity):
    """Weighted mean squared difference; 0 without overlap."""

    name = "mse"
    description = "Mean squared difference: for equal intensities, from the same device or stain."

    def prepare(self, fixed: Tensor, weight: Tensor | None = None) -> None:
        """See :meth:`Similarity.prepare`."""
        self._weight = None if weight is None else weight.detach()
        self._fixed = fill_masked(fixed.detach(), self._weight)

    def _evaluate(self, warped: Tensor, weight: Tensor | None, gradient: bool) -> tuple[Tensor, Tensor | None]:
        with torch.no_grad():
            total = combine_weights(self._weight, weight)
            difference = fill_masked(warped, total) - self._fixed
            if total is None:
                voxel_weight = warped.new_tensor(1.0 / (warped.numel()))
                weighted = difference
            else:
                voxel_weight = reciprocal(spatial_sum(total)) / (warped.shape[0] * warped.shape[1])
                voxel_weight = expand(voxel_weight, warped)
                weighted = difference * total
            value = (spatial_sum(weighted * difference) * voxel_weight.reshape(-1, 1)).sum()
            return value, weighted.mul_(2 * voxel_weight) if gradient else None

    def __call__(self, warped: Tensor, weight: Tensor | None = None) -> Tensor:
        """See :meth:`Similarity.__call__`."""
        return attach_gradient(warped, *self._evaluate(warped, weight, wants_gradient(warped)))

    def score(self, warped: Tensor, weight: Tensor | None = None) -> float:
        """Return the mean squared difference."""
        return float(self._evaluate(warped, weight, False)[0])
