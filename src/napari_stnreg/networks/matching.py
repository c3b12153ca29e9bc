"""Matching network: describe cells of both images, match them, and solve for the affine transform."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.networks.blocks import average_pool, convolution, group_norm, leaky_relu
from napari_stnreg.networks.global_regression import FixedSizeNetwork
from napari_stnreg.ops.uncompiled import uncompiled
from napari_stnreg.transforms import Transform, make_family
from napari_stnreg.transforms.linear import radius


@dataclass(frozen=True)
class MatchingParameters:
    """Constants of :class:`MatchingNetwork`, chosen on 64 x 64 pixel pairs with rotations up to 180 degrees."""

    sharpness: float = 10.0
    """Initial factor of the cosine similarity before the softmax; learned."""
    prior_sigma: float = 0.7
    """Initial standard deviation of the expected displacement, in radii of the image; learned."""
    outlier_distance: float = 0.15
    """Distance from the transform at which a match counts half, in radii of the image."""


PARAMETERS = MatchingParameters()


class MatchingNetwork(FixedSizeNetwork):
    """Match cells of the fixed and the moving image by learned descriptors and fit an affine transform.

    A match counts as far as it is mutual: the similarity of all pairs of cells goes through a softmax over the moving
    image's cells and another over the fixed image's, and their product weighs the pair. The affine transform is the
    weighted least-squares solution, repeated with less weight on outliers. Nothing is regressed, so large rotations are
    learned from a fraction of the pairs that :class:`~.global_regression.AffineNetwork` needs.

    Parameters
    ----------
    ndim, channels, shape
        See :class:`FixedSizeNetwork`.
    features
        Channels after each downsampling by two; the remaining positions are the cells. All pairs of cells are compared,
        so there should be about a thousand at most.
    depth
        Convolutions at the resolution of the cells.
    shrink
        Average blocks of this many voxels along each axis first.
    iterations
        Reweighted solutions after the first.
    ridge
        Regularization of the matrix toward the identity, as a squared distance in radii of the image.

    References
    ----------
    Rocco et al., Convolutional neural network architecture for geometric matching, CVPR 2017 (all pairs compared); Sun
    et al., LoFTR: Detector-free local feature matching with transformers, CVPR 2021 (two softmaxes); Choy et al., Deep
    global registration, CVPR 2020 (differentiable weighted least squares).
    """

    name = "matching"
    families = ("affine",)

    def __init__(
        self,
        ndim: int,
        channels: int = 1,
        *,
        shape: Sequence[int],
        features: Sequence[int] = (16, 48),
        depth: int = 3,
        shrink: int = 1,
        iterations: int = 2,
        ridge: float = 1e-3,
    ) -> None:
        super().__init__(ndim, channels, shape)
        if not features or depth < 1 or shrink < 1 or iterations < 0 or ridge <= 0:
            raise InputError(
                "A matching network needs features, a depth and shrink of 1 or more, iterations of 0 or more, and a "
                "ridge above 0."
            )
        self.shrink, self.ridge = int(shrink), float(ridge)
        self.halvings, self.iterations = len(features), int(iterations)
        self._sizes = {"features": [int(f) for f in features], "depth": int(depth)}
        layers: list[nn.Module] = []
        inputs = channels
        for width in features:
            layers += [convolution(ndim, inputs, width, stride=2), group_norm(width), leaky_relu()]
            inputs = width
        for _ in range(depth):
            layers += [convolution(ndim, inputs, inputs), group_norm(inputs), leaky_relu()]
        self.layers = nn.Sequential(*layers, convolution(ndim, inputs, inputs, 1))
        self.family = make_family("affine")
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(PARAMETERS.sharpness)))
        self.log_prior_sigma = nn.Parameter(torch.tensor(math.log(PARAMETERS.prior_sigma)))

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Return unit descriptors of the cells of both images, ``(B, 2, F, cells)``; :meth:`transform` matches them."""
        descriptors = self.layers(average_pool(torch.cat([fixed, moving]), [self.shrink] * self.ndim)).flatten(2)
        descriptors = nn.functional.normalize(descriptors.float(), dim=1)
        return torch.stack([descriptors[: len(fixed)], descriptors[len(fixed) :]], dim=1)

    @uncompiled
    def _from_theta(self, descriptors: Tensor, domain: Grid) -> Transform:
        """Match the descriptors and fit the transform."""
        cells = torch.as_tensor(self._cells(domain), dtype=descriptors.dtype, device=descriptors.device)
        score = self.log_sharpness.exp() * (descriptors[:, 0].mT @ descriptors[:, 1])
        score = score - torch.cdist(cells, cells).square() / (2 * (2 * self.log_prior_sigma).exp())
        mutual = torch.softmax(score, dim=2) * torch.softmax(score, dim=1)
        weight = mutual.sum(dim=2)
        matched = mutual @ cells / weight[..., None].clamp_min(1e-12)
        theta = solve_affine(cells, matched, weight, self.ridge)
        for _ in range(self.iterations):
            residual = (_apply_affine(theta, cells) - matched).square().sum(dim=2)
            theta = solve_affine(cells, matched, weight / (1 + residual / PARAMETERS.outlier_distance**2), self.ridge)
        return self.family(theta, domain)

    def _cells(self, domain: Grid) -> FloatArray:
        """Return the cell centers ``(cells, D)`` about the domain's center, in units of its radius."""
        step = self.shrink * 2**self.halvings
        counts = [-(-n // step) for n in domain.shape]
        index = np.indices(counts).reshape(self.ndim, -1).T * step + (self.shrink - 1) / 2
        return np.asarray((domain.to_world(index) - domain.center) / radius(domain))

    def config(self) -> dict[str, Any]:
        """See :meth:`Network.config`."""
        return {
            **super().config(),
            **self._sizes,
            "shrink": self.shrink,
            "iterations": self.iterations,
            "ridge": self.ridge,
        }


def _apply_affine(theta: Tensor, points: Tensor) -> Tensor:
    """Map points ``(N, D)`` by ``(I + M) x + t``, ``(B, N, D)``."""
    ndim = points.shape[1]
    matrix = theta[:, ndim:].unflatten(1, (ndim, ndim))
    mapped: Tensor = points + points @ matrix.mT + theta[:, None, :ndim]
    return mapped


def _solve(system: Tensor, values: Tensor) -> Tensor:
    """Solve symmetric systems ``(B, D, D)``; by the adjugate in a traced program, since ONNX has no solver."""
    if not torch.compiler.is_compiling():
        solved: Tensor = torch.linalg.solve(system, values)
        return solved
    rows = system.unbind(dim=1)
    if len(rows) == 2:
        (a, b), (c, d) = (row.unbind(dim=1) for row in rows)
        adjugate = torch.stack([torch.stack([d, -b], dim=1), torch.stack([-c, a], dim=1)], dim=1)
        determinant = a * d - b * c
    else:
        columns = [torch.linalg.cross(rows[i - 2], rows[i - 1]) for i in range(3)]
        adjugate = torch.stack(columns, dim=2)
        determinant = (rows[0] * columns[0]).sum(dim=1)
    return adjugate @ values / determinant[:, None, None]


def solve_affine(fixed: Tensor, moving: Tensor, weight: Tensor, ridge: float) -> Tensor:
    """Fit the affine family's parameters to point pairs by weighted least squares.

    Parameters
    ----------
    fixed, moving
        ``(N, D)`` and ``(B, N, D)``, about the domain's center, in units of its radius.
    weight
        ``(B, N)``, not negative.
    ridge
        Weight of the squared entries of ``M``.

    Returns
    -------
    Tensor
        ``(B, D + D * D)``: the shift ``t``, then ``M`` row by row, of ``(I + M) x + t``; differentiable.
    """
    normalized = (weight / weight.sum(dim=1, keepdim=True).clamp_min(1e-12))[..., None]
    change = moving - fixed
    center, mean_change = (normalized * fixed).sum(dim=1, keepdim=True), (normalized * change).sum(dim=1, keepdim=True)
    centered = fixed - center
    eye = torch.eye(fixed.shape[1], dtype=fixed.dtype, device=fixed.device)
    normal = centered.mT @ (normalized * centered) + ridge * eye
    matrix = _solve(normal, (normalized * centered).mT @ (change - mean_change)).mT
    shift = mean_change[:, 0] - (matrix @ center.mT)[..., 0]
    return torch.cat([shift, matrix.flatten(1)], dim=1)
