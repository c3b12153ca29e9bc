"""Feature distance: compare images in the features of a frozen network."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from napari_stnreg.core.errors import InputError
from napari_stnreg.losses.base import Similarity, combine_weights, fill_masked


class FeatureDistance(Similarity, selectable=False):
    """Mean squared difference of the features that a frozen network computes from both images.

    Parameters
    ----------
    features
        Network that maps an image ``(B, C, *shape)`` to a tensor, or to several from different depths. It is copied,
        set to evaluation mode, and its weights get no gradient.

    Notes
    -----
    Each depth is divided by the variance of its features in the fixed image, and depths have equal weight, so the loss
    does not depend on the scale of the features. Where the weight is 0 the warped image is filled with the fixed one,
    so that a masked voxel has no effect through the network's receptive field.

    References
    ----------
    Yoo et al., ssEMnet: serial-section electron microscopy image registration using a spatial transformer network with
    learned features, DLMIA 2017.
    """

    name = "features"
    description = "Difference in a trained network's features: for noisy serial sections, with its own auto-encoder."

    def __init__(self, features: nn.Module) -> None:
        self._network = copy.deepcopy(features).eval().requires_grad_(False)

    def _features(self, image: Tensor) -> list[Tensor]:
        features: Tensor | Sequence[Tensor] = self._network(image)
        return [features] if isinstance(features, Tensor) else list(features)

    def prepare(self, fixed: Tensor, weight: Tensor | None = None) -> None:
        """See :meth:`Similarity.prepare`."""
        ndim = getattr(self._network, "ndim", None)
        if ndim is not None and ndim != fixed.ndim - 2:
            raise InputError(f"The features were learned from {ndim}D images. These are {fixed.ndim - 2}D.")
        with torch.no_grad():
            self._network.to(fixed.device)
            self._weight = None if weight is None else weight.detach()
            self._fixed = fill_masked(fixed.detach(), self._weight)
            self._fixed_features = self._features(self._fixed)
            self._scales = []
            for features in self._fixed_features:
                variance = features.var(dim=tuple(d for d in range(features.ndim) if d != 1), correction=0).mean()
                self._scales.append(torch.where(variance > 1e-12, 1 / variance.clamp_min(1e-12), 1.0))

    def __call__(self, warped: Tensor, weight: Tensor | None = None) -> Tensor:
        """See :meth:`Similarity.__call__`."""
        total = combine_weights(self._weight, weight)
        normalization = 1.0
        if total is not None:
            total = total.detach()
            warped = torch.where(
                total > 0, self._fixed + total * (fill_masked(warped, total) - self._fixed), self._fixed
            )
            mean = float(total.mean())
            normalization = 1 / mean if mean > 0 else 0.0
        distance = warped.new_zeros(())
        for features, fixed, scale in zip(self._features(warped), self._fixed_features, self._scales, strict=True):
            distance = distance + (features - fixed).square().mean() * scale
        return distance * (normalization / len(self._fixed_features))

    def score(self, warped: Tensor, weight: Tensor | None = None) -> float:
        """Return the mean squared difference in units of the fixed features' variance."""
        with torch.no_grad():
            return float(self(warped, weight))
