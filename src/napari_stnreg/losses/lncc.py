"""Local normalized cross-correlation (LNCC)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from napari_stnreg.core.progress import check_stop
from napari_stnreg.losses.base import (
    Similarity,
    attach_gradient,
    combine_weights,
    fill_masked,
    spatial_sum,
    wants_gradient,
)
from napari_stnreg.ops.filters import box_sum, box_sums


@dataclass
class _Windows:
    """Window statistics that depend on the fixed image alone."""

    mask: Tensor | None
    inverse_count: Tensor
    mean: Tensor
    inverse_variance: Tensor
    voxel_weight: Tensor


class LocalNCC(Similarity):
    """Squared correlation in a cubic window around each voxel, averaged; the loss is 1 minus it.

    Parameters
    ----------
    radius
        Half width of the window in voxels; 2 is a window of 5.
    epsilon
        Added to the window variances of the fixed image, so that flat background has no influence; intensities are
        expected from about 0 to 1. A tenth of it is added to those of the warped image: the same value would reward
        deformations that steepen weak gradients.

    Notes
    -----
    With window means ``m`` and weights ``s`` the gradient with respect to the warped image ``J`` at ``y`` is
    ``sum over windows x that hold y of s(x) [a(x) (I(y) - m_I(x)) - b(x) (J(y) - m_J(x))]``, three more box filters.
    This takes six box filters per evaluation; autograd would take eleven.

    References
    ----------
    Avants et al., Symmetric diffeomorphic image registration with cross-correlation, Medical Image Analysis 2008.
    """

    name = "lncc"
    description = "Correlation in a small window: for the same modality with uneven brightness."

    def __init__(self, radius: int = 2, epsilon: float = 1e-5) -> None:
        self.radius = radius
        self.epsilon = epsilon

    def prepare(self, fixed: Tensor, weight: Tensor | None = None) -> None:
        """See :meth:`Similarity.prepare`."""
        self._weight = None if weight is None else weight.detach()
        # Not centered: a zero background must stay exactly zero, or rounding errors would correlate.
        self._fixed = fill_masked(fixed.detach(), self._weight)
        self._windows = self._window_statistics(self._weight)

    def _window_statistics(self, mask: Tensor | None) -> _Windows:
        fixed, radius = self._fixed, self.radius
        ones = torch.ones_like(fixed[:1, :1]) if mask is None else mask.to(fixed.dtype)
        inverse_count = box_sum(ones, radius).clamp_min_(1e-6).reciprocal_()
        check_stop()
        masked = fixed if mask is None else fill_masked(fixed, mask) * ones
        mean = box_sum(masked, radius).mul_(inverse_count)
        variance = box_sum(masked * fixed, radius).mul_(inverse_count).sub_(mean.square()).clamp_min_(0)
        check_stop()
        voxel_weight = ones / spatial_sum(ones).clamp_min(1e-6).reshape(-1, *([1] * (ones.ndim - 1)))
        voxel_weight = voxel_weight / (fixed.shape[1] * fixed.shape[0])
        return _Windows(
            None if mask is None else ones, inverse_count, mean, (variance + self.epsilon).reciprocal_(), voxel_weight
        )

    def __call__(self, warped: Tensor, weight: Tensor | None = None) -> Tensor:
        """See :meth:`Similarity.__call__`."""
        differentiate = wants_gradient(warped)
        with torch.no_grad():
            value, gradient = self._evaluate(warped.detach(), weight, differentiate)
        return attach_gradient(warped, value, gradient)

    def value_and_gradient(self, warped: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """See :meth:`Similarity.value_and_gradient`."""
        with torch.no_grad():
            return self._evaluate(warped.detach(), weight, True)

    def _evaluate(self, warped: Tensor, weight: Tensor | None, differentiate: bool) -> tuple[Tensor, Tensor | None]:
        fixed, radius = self._fixed, self.radius
        windows = self._windows if weight is None else self._window_statistics(combine_weights(self._weight, weight))
        mask, inverse_count = windows.mask, windows.inverse_count
        if mask is None:
            masked = warped
        else:
            warped = fill_masked(warped, mask)
            masked = warped * mask
        sums = box_sums((masked, masked * warped, masked * fixed), radius)
        mean, square, product = (one.mul_(inverse_count) for one in sums)
        check_stop()
        variance = square.addcmul_(mean, mean, value=-1).clamp_min_(0)
        cross = product.addcmul_(mean, windows.mean, value=-1)
        check_stop()
        inverse_variance = variance.add_(0.1 * self.epsilon).reciprocal_()
        check_stop()
        a = cross * windows.inverse_variance * inverse_variance
        local = cross.mul_(a).mul_(windows.voxel_weight)
        value = 1 - local.sum()
        check_stop()
        if not differentiate:
            return value, None
        a.mul_(windows.voxel_weight).mul_(inverse_count)
        b = local.mul_(inverse_variance).mul_(inverse_count)
        check_stop()
        offset = (b * mean).sub_(a * windows.mean)
        of_fixed, of_warped, constant = box_sums((a, b, offset), radius)
        check_stop()
        gradient = of_warped.mul_(warped).addcmul_(of_fixed, fixed, value=-1).sub_(constant).mul_(2)
        if mask is not None:
            gradient.mul_(mask)
        return value, gradient

    def score(self, warped: Tensor, weight: Tensor | None = None) -> float:
        """Return the mean squared local correlation, between 0 and 1."""
        with torch.no_grad():
            return 1 - float(self(warped, weight))
