"""Mean squared difference and global normalized cross-correlation."""

from __future__ import annotations

import torch
from torch import Tensor

from napari_stnreg.losses.similarity import (
    Similarity,
    attach_gradient,
    combine_weights,
    expand,
    fill_masked,
    spatial_sum,
    wants_gradient,
)


def _reciprocal(x: Tensor) -> Tensor:
    """Return ``1 / x``, and 0 where ``x`` is 0."""
    return torch.where(x > 0, 1 / x.clamp_min(torch.finfo(x.dtype).tiny), 0.0)


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
                voxel_weight = _reciprocal(spatial_sum(total)) / (warped.shape[0] * warped.shape[1])
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


class NormalizedCrossCorrelation(Similarity):
    """Pearson correlation over the whole image, per channel; the loss is 1 minus it.

    Parameters
    ----------
    squared
        Square the correlation, so that inverted contrast is an equally good match.

    Notes
    -----
    The correlation of a constant image is 0.
    """

    name = "ncc"
    description = "Correlation over the whole image: for the same contrast with another gain and offset."

    def __init__(self, squared: bool = False) -> None:
        self.squared = squared

    def prepare(self, fixed: Tensor, weight: Tensor | None = None) -> None:
        """See :meth:`Similarity.prepare`."""
        self._weight = None if weight is None else weight.detach()
        self._fixed = fixed.detach()
        self._standardized = self._standardize(self._fixed, self._weight)[0]

    @staticmethod
    def _standardize(image: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the weighted standardized image, the centered image and one over the standard deviation.

        The mean is subtracted before squaring, since raw moments would cancel in float32.
        """
        centered = fill_masked(image, weight)
        if weight is None:
            mean = centered.flatten(2).mean(-1)
            centered = centered - expand(mean, image)
            weighted = centered / image[0, 0].numel()
        else:
            normalized = weight * expand(_reciprocal(spatial_sum(weight)), image)
            mean = spatial_sum(centered * normalized)
            centered = centered - expand(mean, image)
            weighted = centered * normalized
        variance = spatial_sum(weighted * centered)
        info = torch.finfo(image.dtype)
        # Rounding errors of a constant image are not contrast.
        flat = variance <= (16 * info.eps * mean) ** 2 + 1e-30
        inverse = torch.where(flat, 0.0, variance.clamp_min(1e-30).rsqrt())
        return weighted.mul_(expand(inverse, image)), centered, inverse

    def _evaluate(self, warped: Tensor, weight: Tensor | None, gradient: bool) -> tuple[Tensor, Tensor | None]:
        """Return the correlation per batch and channel, and the gradient of the loss."""
        with torch.no_grad():
            total = combine_weights(self._weight, weight)
            fixed = self._standardized if weight is None else self._standardize(self._fixed, total)[0]
            weighted, centered, inverse = self._standardize(warped, total)
            ncc = spatial_sum(fixed * centered) * inverse
            if not gradient:
                return ncc, None
            factor = -(2 * ncc if self.squared else torch.ones_like(ncc)) * inverse / ncc.numel()
            # The gradient of the correlation is the component of the fixed image orthogonal to the warped one.
            return ncc, weighted.mul_(expand(-ncc, warped)).add_(fixed).mul_(expand(factor, warped))

    def __call__(self, warped: Tensor, weight: Tensor | None = None) -> Tensor:
        """See :meth:`Similarity.__call__`."""
        ncc, gradient = self._evaluate(warped, weight, wants_gradient(warped))
        value = 1 - (ncc.square() if self.squared else ncc).mean()
        return attach_gradient(warped, value, gradient)

    def score(self, warped: Tensor, weight: Tensor | None = None) -> float:
        """Return the correlation, between -1 and 1."""
        return float(self._evaluate(warped, weight, False)[0].mean())
