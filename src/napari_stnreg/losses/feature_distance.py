"""Distance in the features of a frozen network."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from napari_stnreg.core.errors import InputError
from napari_stnreg.losses.similarity import Similarity, cleaned, combine


class FeatureDistance(Similarity):
    """Mean squared difference between what a network sees in either image.

    Parameters
    ----------
    features
        Takes an image ``(B, C, *shape)`` and returns a tensor, or several from different depths. A private copy is
        taken, in evaluation mode and without gradients of its own.

    Notes
    -----
    Each depth is divided by the variance of its own features in the fixed image and all count alike, so the loss does
    not depend on how a network scales its features. Where the weight is 0 the warped image is filled with the fixed
    one: a masked voxel then makes no difference even through the network's receptive field. (Yoo et al., ssEMnet,
    DLMIA 2017, compare sections in the bottleneck of an auto-encoder.)
    """

    name = "features"
    description = "Difference in a trained network's features: for noisy serial sections, with its own auto-encoder."

    def __init__(self, features: nn.Module) -> None:
        self._network = copy.deepcopy(features).eval().requires_grad_(False)

    def _features(self, image: Tensor) -> list[Tensor]:
        found: Tensor | Sequence[Tensor] = self._network(image)
        return [found] if isinstance(found, Tensor) else list(found)

    def prepare(self, fixed: Tensor, weight: Tensor | None = None) -> None:
        """See :meth:`Similarity.prepare`."""
        wanted = getattr(self._network, "ndim", None)
        if wanted is not None and wanted != fixed.ndim - 2:
            raise InputError(f"The features were learned from {wanted}D images; these are {fixed.ndim - 2}D.")
        with torch.no_grad():
            self._network.to(fixed.device)
            self._weight = None if weight is None else weight.detach()
            self._fixed = cleaned(fixed.detach(), self._weight)
            self._seen = self._features(self._fixed)
            self._scales = []
            for seen in self._seen:
                variance = seen.var(dim=tuple(d for d in range(seen.ndim) if d != 1), correction=0).mean()
                self._scales.append(torch.where(variance > 1e-12, 1 / variance.clamp_min(1e-12), 1.0))

    def __call__(self, warped: Tensor, weight: Tensor | None = None) -> Tensor:
        """See :meth:`Similarity.__call__`."""
        total = combine(self._weight, weight)
        share = 1.0
        if total is not None:
            total = total.detach()
            warped = torch.where(total > 0, self._fixed + total * (cleaned(warped, total) - self._fixed), self._fixed)
            mean = float(total.mean())
            share = 1 / mean if mean > 0 else 0.0
        apart = warped.new_zeros(())
        for seen, fixed, scale in zip(self._features(warped), self._seen, self._scales, strict=True):
            apart = apart + (seen - fixed).square().mean() * scale
        return apart * (share / len(self._seen))

    def score(self, warped: Tensor, weight: Tensor | None = None) -> float:
        """The mean squared difference in units of the fixed features' variance."""
        with torch.no_grad():
            return float(self(warped, weight))
