"""Networks that regress a few parameters from the whole of both images: linear families and thin-plate splines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.networks.base import LocalizationNetwork, centered_grid
from napari_stnreg.networks.blocks import GlobalRegressor
from napari_stnreg.transforms import make_family

DEFAULT_FEATURES = (16, 32, 64, 64, 64, 64)
"""Channels after each downsampling by two."""


class FixedSizeNetwork(LocalizationNetwork):
    """Base class of networks whose layers need images of one size.

    Parameters
    ----------
    ndim, channels
        See :class:`Network`.
    shape
        Size of the images; others are cropped or padded about their center.
    """

    fixed_size = True

    def __init__(self, ndim: int, channels: int, shape: Sequence[int]) -> None:
        super().__init__(ndim, channels)
        if len(shape) != ndim:
            raise InputError(f"A {ndim}D network needs {ndim} image sizes, not {len(shape)}.")
        self.shape = tuple(int(n) for n in shape)

    def domain(self, grid: Grid) -> Grid:
        """Return the grid cropped or extended to the network's size."""
        return centered_grid(grid, self.shape)

    def config(self) -> dict[str, Any]:
        """See :meth:`Network.config`."""
        return {"name": self.name, "ndim": self.ndim, "channels": self.channels, "shape": list(self.shape)}


class GlobalRegressionNetwork(FixedSizeNetwork):
    """Base class: fixed and moving image as channels through convolutions and two dense layers.

    Parameters
    ----------
    ndim, channels, shape
        See :class:`FixedSizeNetwork`.
    outputs
        Numbers for one pair.
    features, hidden, shrink
        See :class:`~napari_stnreg.networks.blocks.GlobalRegressor`.
    """

    def __init__(
        self,
        ndim: int,
        channels: int,
        shape: Sequence[int],
        outputs: int,
        features: Sequence[int] | None,
        hidden: int,
        shrink: int,
    ) -> None:
        super().__init__(ndim, channels, shape)
        self.sizes: dict[str, Any] = {
            "features": list(features or DEFAULT_FEATURES), "hidden": int(hidden), "shrink": int(shrink)
        }  # fmt: skip
        self.regressor = GlobalRegressor(ndim, 2 * channels, self.shape, outputs=outputs, **self.sizes)

    def regress(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Return the numbers, ``(B, outputs)``."""
        numbers: Tensor = self.regressor(torch.cat([fixed, moving], dim=1))
        return numbers

    def config(self) -> dict[str, Any]:
        """See :meth:`Network.config`."""
        return {**super().config(), **self.sizes}


class AffineNetwork(GlobalRegressionNetwork):
    """Regress a translation, rigid, similarity or affine transform; the identity before training.

    Parameters
    ----------
    ndim, channels, shape, features, hidden, shrink
        See :class:`GlobalRegressionNetwork`.
    family
        One of :attr:`families`.

    References
    ----------
    Jaderberg et al., Spatial transformer networks, NeurIPS 2015.
    Chee and Wu, AIRNet: self-supervised affine registration for 3D medical images using neural networks, 2018.
    """

    name = "affine"
    families = ("translation", "rigid", "similarity", "affine")

    def __init__(
        self,
        ndim: int,
        channels: int = 1,
        *,
        shape: Sequence[int],
        family: str = "affine",
        features: Sequence[int] | None = None,
        hidden: int = 128,
        shrink: int = 1,
    ) -> None:
        if family not in self.families:
            raise InputError(f"The affine network has the families {', '.join(self.families)}, not '{family}'.")
        linear = make_family(family)
        (count,) = linear.parameter_shape(Grid.from_spacing([2] * ndim))
        super().__init__(ndim, channels, shape, count, features, hidden, shrink)
        self.family = linear

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """See :meth:`LocalizationNetwork.forward`."""
        return self.regress(fixed, moving)

    def config(self) -> dict[str, Any]:
        """See :meth:`Network.config`."""
        return {**super().config(), "family": self.family.name}


class ThinPlateNetwork(GlobalRegressionNetwork):
    """Regress the displacements of a regular grid of thin-plate control points.

    Parameters
    ----------
    ndim, channels, shape, features, hidden, shrink
        See :class:`GlobalRegressionNetwork`.
    points
        Control points along each axis.
    stiffness
        See :class:`~napari_stnreg.transforms.ThinPlateTransform`.

    References
    ----------
    Jaderberg et al., Spatial transformer networks, NeurIPS 2015 (the 16-point thin-plate spline of its section 4).
    """

    name = "tps"
    families = ("tps",)

    def __init__(
        self,
        ndim: int,
        channels: int = 1,
        *,
        shape: Sequence[int],
        points: int | Sequence[int] = 4,
        stiffness: float = 0.0,
        features: Sequence[int] | None = None,
        hidden: int = 128,
        shrink: int = 1,
    ) -> None:
        counts = [int(n) for n in np.broadcast_to(np.asarray(points), (ndim,))]
        self._spline = {"points": counts, "stiffness": float(stiffness)}
        family = make_family("tps", **self._spline)
        super().__init__(ndim, channels, shape, int(np.prod(counts)) * ndim, features, hidden, shrink)
        self.family = family
        # An output of 1 moves a control point by the distance between two.
        self._point_spacing = [n / max(k - 1, 1) for n, k in zip(self.shape, counts, strict=True)]

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """See :meth:`LocalizationNetwork.forward`."""
        displacements = self.regress(fixed, moving).reshape(fixed.shape[0], -1, self.ndim)
        return displacements * displacements.new_tensor(self._point_spacing)

    def config(self) -> dict[str, Any]:
        """See :meth:`Network.config`."""
        return {**super().config(), **self._spline}
