"""Matching: a network describes the places of each image, and the affine that joins alike places is solved for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.networks.base import fitted
from napari_stnreg.networks.blocks import convolution, normalizer, pooled, rectifier
from napari_stnreg.networks.global_regression import WholeImage
from napari_stnreg.transforms import Transform, make_family
from napari_stnreg.transforms.families.linear import radius

SHARPNESS = 10.0
"""Factor of the likeness (a cosine) before the softmax, at first."""
REACH = 0.7
"""Standard deviation of how far places are expected to move, in radii of the image, at first."""
OUTLIER = 0.15
"""A match that lies this far from the transform counts half, in radii of the image."""


class MatchingNetwork(WholeImage):
    """The same convolutions describe cells of the fixed and of the moving image; alike cells are matched.

    A match is believed as far as it is mutual: the likeness of all pairs of cells goes through a softmax over the
    moving image's cells and another over the fixed image's, and their product weighs the pair. The affine transform is
    the weighted least-squares solution, found again with less weight on what does not agree. So nothing is regressed:
    what is learned is to know a place again in another pose and contrast. Large rotations are learned with a fraction
    of the pairs that :class:`~.whole_image.AffineNetwork` takes.

    Parameters
    ----------
    ndim, channels, shape
        See :class:`WholeImage`.
    features
        Channels after each halving of the image; what is left after the last one are the cells. Every pair of cells is
        compared, so there should be about a thousand at most.
    depth
        Convolutions among the cells.
    shrink
        Average blocks of this many voxels along each axis first.
    rounds
        How often the solution is found again.
    ridge
        Pull of the matrix toward the identity, as a squared distance in radii of the image.

    References
    ----------
    Rocco et al., Convolutional neural network architecture for geometric matching, CVPR 2017 (all pairs compared); Sun
    et al., LoFTR: Detector-free local feature matching with transformers, CVPR 2021 (two softmaxes); Choy et al., Deep
    global registration, CVPR 2020 (weighted least squares of matches, in a training).
    """

    name = "matching"

    def __init__(
        self,
        ndim: int,
        channels: int = 1,
        *,
        shape: Sequence[int],
        features: Sequence[int] = (16, 48),
        depth: int = 3,
        shrink: int = 1,
        rounds: int = 2,
        ridge: float = 1e-3,
    ) -> None:
        super().__init__(ndim, channels, shape)
        if not features or depth < 1 or shrink < 1 or rounds < 0 or ridge <= 0:
            raise InputError(
                "A matching network has features, a depth and shrink of 1 or more, rounds of 0 or more, and a ridge "
                "above 0."
            )
        self.shrink, self.halvings, self.rounds, self.ridge = int(shrink), len(features), int(rounds), float(ridge)
        self._sizes = {"features": [int(f) for f in features], "depth": int(depth)}
        layers: list[nn.Module] = []
        inputs = channels
        for width in features:
            layers += [convolution(ndim, inputs, width, stride=2), normalizer(width), rectifier()]
            inputs = width
        for _ in range(depth):
            layers += [convolution(ndim, inputs, inputs), normalizer(inputs), rectifier()]
        self.layers = nn.Sequential(*layers, convolution(ndim, inputs, inputs, 1))
        self.family = make_family("affine")
        self.sharpness = nn.Parameter(torch.tensor(math.log(SHARPNESS)))
        self.reach = nn.Parameter(torch.tensor(math.log(REACH)))

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Unit descriptions of the cells of both images, ``(B, 2, F, cells)``.

        These are no parameters of the family yet; :meth:`transform` solves for those.
        """
        seen = self.layers(pooled(torch.cat([fixed, moving]), [self.shrink] * self.ndim)).flatten(2)
        seen = nn.functional.normalize(seen.float(), dim=1)
        return torch.stack([seen[: len(fixed)], seen[len(fixed) :]], dim=1)

    def transform(self, fixed: Tensor, moving: Tensor, grid: Grid) -> Transform:
        """See :meth:`LocalizationNetwork.transform`."""
        domain = self.domain(grid)
        found = self.theta(fitted(fixed, grid, domain), fitted(moving, grid, domain))
        places = torch.as_tensor(self._places(domain), dtype=found.dtype, device=found.device)
        likeness = self.sharpness.exp() * (found[:, 0].mT @ found[:, 1])
        likeness = likeness - torch.cdist(places, places).square() / (2 * (2 * self.reach).exp())
        mutual = torch.softmax(likeness, dim=2) * torch.softmax(likeness, dim=1)
        weight = mutual.sum(dim=2)
        matched = mutual @ places / weight[..., None].clamp_min(1e-12)
        theta = solved(places, matched, weight, self.ridge)
        for _ in range(self.rounds):
            apart = (_applied(theta, places) - matched).square().sum(dim=2)
            theta = solved(places, matched, weight / (1 + apart / OUTLIER**2), self.ridge)
        return self.family(theta, domain)

    def _places(self, domain: Grid) -> FloatArray:
        """Where the cells lie, ``(cells, D)``, about the domain's middle and in units of its radius."""
        step = self.shrink * 2**self.halvings
        counts = [-(-n // step) for n in domain.shape]
        index = np.indices(counts).reshape(self.ndim, -1).T * step + (self.shrink - 1) / 2
        return np.asarray((domain.to_world(index) - domain.center) / radius(domain))

    def config(self) -> dict[str, Any]:
        """See :meth:`LocalizationNetwork.config`."""
        return {**super().config(), **self._sizes, "shrink": self.shrink, "rounds": self.rounds, "ridge": self.ridge}


def _applied(theta: Tensor, points: Tensor) -> Tensor:
    """``(I + M) x + t`` of points ``(N, D)``, ``(B, N, D)``."""
    ndim = points.shape[1]
    matrix = theta[:, ndim:].unflatten(1, (ndim, ndim))
    moved: Tensor = points + points @ matrix.mT + theta[:, None, :ndim]
    return moved


def solved(fixed: Tensor, moving: Tensor, weight: Tensor, ridge: float) -> Tensor:
    """The affine family's parameters that take one set of points onto another, by weighted least squares.

    Parameters
    ----------
    fixed, moving
        ``(N, D)`` and ``(B, N, D)``, about the domain's middle, in units of its radius.
    weight
        ``(B, N)``, not negative.
    ridge
        Charge for the squared entries of ``M``.

    Returns
    -------
    Tensor
        ``(B, D + D * D)``: the shift ``t``, then ``M`` row by row, of the nearest ``(I + M) x + t``; differentiable.
    """
    share = (weight / weight.sum(dim=1, keepdim=True).clamp_min(1e-12))[..., None]
    change = moving - fixed
    middle, apart = (share * fixed).sum(dim=1, keepdim=True), (share * change).sum(dim=1, keepdim=True)
    spread = fixed - middle
    eye = torch.eye(fixed.shape[1], dtype=fixed.dtype, device=fixed.device)
    normal = spread.mT @ (share * spread) + ridge * eye
    matrix = torch.linalg.solve(normal, (share * spread).mT @ (change - apart)).mT
    shift = apart[:, 0] - (matrix @ middle.mT)[..., 0]
    return torch.cat([shift, matrix.flatten(1)], dim=1)
