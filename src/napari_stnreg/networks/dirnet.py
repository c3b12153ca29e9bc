"""DIRNet: a fully convolutional network that regresses B-spline control points."""

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
from napari_stnreg.networks.base import LocalizationNetwork, padded_grid
from napari_stnreg.networks.blocks import average_pool, convolution, group_norm, leaky_relu, zero_initialized
from napari_stnreg.transforms import BSplineFamily
from napari_stnreg.transforms.bspline import NO_FOLDING_LIMIT


class DIRNet(LocalizationNetwork):
    """Regress B-spline control points from overlapping patches of both images.

    Parameters
    ----------
    ndim, channels
        See :class:`Network`.
    spacing
        Control point spacing in voxels, a power of two, for all axes or for each.
    features
        Channels of the convolutions.
    depth
        Convolutions at the resolution of the control grid; each widens a control point's receptive field by two
        spacings.
    limit
        Largest coefficient as a fraction of the control spacing; the default rules out folding. ``None`` for no limit.
        Two networks in sequence, the first with wide spacing, do not fold and still model large displacements.
    shrink
        Average blocks of this many voxels along each axis first, a power of two no larger than the spacing.

    Notes
    -----
    Average pooling downsamples the image until a voxel is a cell of the control grid. A last convolution of two voxels,
    padded by two, evaluates at the corners between cells, where the control points are, and covers the ring of control
    points around the image.

    References
    ----------
    de Vos et al., End-to-end unsupervised deformable image registration with a convolutional neural network, DLMIA
    2017; de Vos et al., A deep learning framework for unsupervised affine and deformable image registration, Medical
    Image Analysis 2019.
    """

    name = "dirnet"
    families = ("bspline",)

    def __init__(
        self,
        ndim: int,
        channels: int = 1,
        *,
        spacing: int | Sequence[int] = 8,
        features: int = 32,
        depth: int = 3,
        limit: float | None = NO_FOLDING_LIMIT,
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
            nn.Sequential(convolution(ndim, a, b), group_norm(b), leaky_relu()) for a, b in itertools.pairwise(widths)
        )
        self.corners = nn.Sequential(
            convolution(ndim, features, 2 * features, 2, padding=2),
            leaky_relu(),
            convolution(ndim, 2 * features, 2 * features, 1),
            leaky_relu(),
            zero_initialized(convolution(ndim, 2 * features, ndim, 1)),
        )

    def domain(self, grid: Grid) -> Grid:
        """Extend the grid to whole cells along every axis."""
        return padded_grid(grid, max(self.spacing))

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """See :meth:`LocalizationNetwork.forward`."""
        features = average_pool(torch.cat([fixed, moving], dim=1), [self.shrink] * self.ndim)
        for level, layer in enumerate(self.convolutions):
            features = layer(features)
            if level < self.halvings:
                features = average_pool(features, [2 if s // self.shrink >> level > 1 else 1 for s in self.spacing])
        coefficients = cast(Tensor, self.corners(features))
        # An output of 1 is one control spacing.
        return coefficients * coefficients.new_tensor(self.spacing).reshape(-1, *[1] * self.ndim)

    def config(self) -> dict[str, Any]:
        """See :meth:`Network.config`."""
        return {"name": self.name, "ndim": self.ndim, "channels": self.channels, **self._config}
