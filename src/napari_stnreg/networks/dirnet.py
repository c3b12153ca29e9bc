"""DIRNet: one small network looks at overlapping patches of both images and moves a control point for each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.networks.base import LocalizationNetwork, padded
from napari_stnreg.networks.blocks import convolution, normalizer, pooled, rectifier, zeroed
from napari_stnreg.transforms import BSplineFamily
from napari_stnreg.transforms.bspline import NO_FOLDING


class DIRNet(LocalizationNetwork):
    """A fully convolutional regressor of B-spline control points.

    Parameters
    ----------
    ndim, channels
        See :class:`LocalizationNetwork`.
    spacing
        Distance of the control points in voxels, a power of two, for all axes or for each.
    features
        Channels of the convolutions.
    depth
        Convolutions at the resolution of the control grid; each widens a control point's patch by two spacings.
    limit
        Coefficients stay below this share of the control spacing; the default rules out folds. ``None`` for no limit.
        Of two networks in a row, the first with wide spacing, neither folds and together they reach far.
    shrink
        Average blocks of this many voxels along each axis first, a power of two no larger than the spacing.

    Notes
    -----
    Averaging halves the image until a voxel is a cell of the control grid. A last convolution of two voxels, padded by
    two, then stands at the corners between cells, which is where the control points are, and reaches the ring of them
    around the image.

    References
    ----------
    de Vos et al., End-to-end unsupervised deformable image registration with a convolutional neural network, DLMIA
    2017; de Vos et al., A deep learning framework for unsupervised affine and deformable image registration, Medical
    Image Analysis 2019.
    """

    name = "dirnet"

    def __init__(
        self,
        ndim: int,
        channels: int = 1,
        *,
        spacing: int | Sequence[int] = 8,
        features: int = 32,
        depth: int = 3,
        limit: float | None = NO_FOLDING,
        shrink: int = 1,
    ) -> None:
        super().__init__(ndim, channels)
        steps = [int(s) for s in np.broadcast_to(np.asarray(spacing), (ndim,))]
        if any(s < 1 or s & (s - 1) for s in steps):
            raise InputError(f"The control spacing of DIRNet is a power of two, such as 4 or 8, not {spacing}.")
        if shrink < 1 or shrink & (shrink - 1) or shrink > min(steps):
            raise InputError(f"DIRNet shrinks its images by a power of two up to its control spacing, not by {shrink}.")
        self.spacing, self.shrink = tuple(steps), int(shrink)
        self._config = {
            "spacing": steps, "features": int(features), "depth": int(depth), "limit": limit, "shrink": self.shrink
        }  # fmt: skip
        self.family = BSplineFamily(steps, limit=limit)
        self.halvings = int(math.log2(max(steps) // self.shrink))
        widths = [2 * channels, *[features] * (self.halvings + depth)]
        self.convolutions = nn.ModuleList(
            nn.Sequential(convolution(ndim, a, b), normalizer(b), rectifier()) for a, b in itertools.pairwise(widths)
        )
        self.corners = nn.Sequential(
            convolution(ndim, features, 2 * features, 2, padding=2),
            rectifier(),
            convolution(ndim, 2 * features, 2 * features, 1),
            rectifier(),
            zeroed(convolution(ndim, 2 * features, ndim, 1)),
        )

    def domain(self, grid: Grid) -> Grid:
        """Whole cells along every axis."""
        return padded(grid, max(self.spacing))

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """See :meth:`LocalizationNetwork.forward`."""
        seen = pooled(torch.cat([fixed, moving], dim=1), [self.shrink] * self.ndim)
        for level, layer in enumerate(self.convolutions):
            seen = layer(seen)
            if level < self.halvings:
                seen = pooled(seen, [2 if s // self.shrink >> level > 1 else 1 for s in self.spacing])
        moved = cast(Tensor, self.corners(seen))
        # a unit of the last layer is the control spacing
        return moved * moved.new_tensor(self.spacing).reshape(-1, *[1] * self.ndim)

    def config(self) -> dict[str, Any]:
        """See :meth:`LocalizationNetwork.config`."""
        return {"name": self.name, "ndim": self.ndim, "channels": self.channels, **self._config}
