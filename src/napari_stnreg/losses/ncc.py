"""Global normalized cross-correlation."""

from __future__ import annotations

import torch
from torch import Tensor

from napari_stnreg.core.progress import check_stop
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
            check_stop()
            normalized = weight * expand(reciprocal(spatial_sum(weight)), image)
            mean = spatial_sum(centered * normalized)
            centered = centered - expand(mean, image)
            weighted = centered * normalized
        check_stop()
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

    def value_and_gradient(self, warped: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """See :meth:`Similarity.value_and_gradient`."""
        if warped.shape[:2] == (1, 1) and warped.device.type == "cpu":
            with torch.no_grad():
                return self._evaluate_single(warped.detach(), combine_weights(self._weight, weight))
        ncc, gradient = self._evaluate(warped.detach(), weight, True)
        return 1 - (ncc.square() if self.squared else ncc).mean(), gradient

    def _evaluate_single(self, warped: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the loss of one image and its gradient, by dot products: for small images calls cost the most."""
        if weight is None:
            total, fixed, scale = float(warped.numel()), self._standardized, 1.0
        else:
            total = max(float(weight.sum()), 1e-30)
            _, fixed, scale = _moments(fill_masked(self._fixed, weight), weight, total)
            scale /= total
        centered, weighted, inverse = _moments(fill_masked(warped, weight), weight, total)
        check_stop()
        ncc = float(torch.dot(fixed.flatten(), centered.flatten())) * scale * inverse
        factor = -(2 * ncc if self.squared else 1.0) * inverse
        gradient = weighted.mul_(-ncc * inverse * factor / total).add_(fixed, alpha=scale * factor)
        return warped.new_tensor(1 - (ncc * ncc if self.squared else ncc)), gradient

    def score(self, warped: Tensor, weight: Tensor | None = None) -> float:
        """Return the correlation, between -1 and 1."""
        return float(self._evaluate(warped, weight, False)[0].mean())


def _moments(image: Tensor, weight: Tensor | None, total: float) -> tuple[Tensor, Tensor, float]:
    """Return an image without its weighted mean, that times the weight, and one over the standard deviation."""
    check_stop()
    flat = image.flatten()
    mean = float(flat.sum() if weight is None else torch.dot(flat, weight.flatten())) / total
    centered = image - mean
    weighted = centered.clone() if weight is None else centered * weight
    variance = float(torch.dot(weighted.flatten(), centered.flatten())) / total
    # Rounding errors of a constant image are not contrast.
    is_flat = variance <= (16 * torch.finfo(image.dtype).eps * mean) ** 2 + 1e-30
    return centered, weighted, 0.0 if is_flat else variance**-0.5
