"""Networks that look at the whole of both images and give a few numbers: linear families and thin-plate splines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.networks.base import LocalizationNetwork, centered
from napari_stnreg.networks.blocks import WholeImageRegressor
from napari_stnreg.registration.settings import LINEAR_FAMILIES
from napari_stnreg.transforms import make_family

FEATURES = {2: (16, 32, 64, 64, 64, 64), 3: (16, 32, 64, 64, 64, 64)}


class WholeImage(LocalizationNetwork):
    """What sees images of one size.

    Parameters
    ----------
    ndim, channels
        See :class:`LocalizationNetwork`.
    shape
        Size of the images it was made for; others are cut or padded about their middle.
    """

    def __init__(self, ndim: int, channels: int, shape: Sequence[int]) -> None:
        super().__init__(ndim, channels)
        if len(shape) != ndim:
            raise InputError(f"A {ndim}D network needs {ndim} sizes of an image, not {len(shape)}.")
        self.shape = tuple(int(n) for n in shape)

    def domain(self, grid: Grid) -> Grid:
        """The lattice at the size the network was made for."""
        return centered(grid, self.shape)

    def config(self) -> dict[str, Any]:
        """See :meth:`LocalizationNetwork.config`."""
        return {"name": self.name, "ndim": self.ndim, "channels": self.channels, "shape": list(self.shape)}


class WholeImageNetwork(WholeImage):
    """Fixed and moving image side by side through convolutions and two dense layers.

    Parameters
    ----------
    ndim, channels, shape
        See :class:`WholeImage`.
    features, hidden, shrink
        See :class:`~napari_stnreg.networks.blocks.WholeImageRegressor`.
    outputs
        Numbers for one pair.
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
            "features": list(features or FEATURES[ndim]), "hidden": int(hidden), "shrink": int(shrink)
        }  # fmt: skip
        self.regressor = WholeImageRegressor(ndim, 2 * channels, self.shape, outputs=outputs, **self.sizes)

    def regress(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """``(B, outputs)``."""
        seen: Tensor = self.regressor(torch.cat([fixed, moving], dim=1))
        return seen

    def config(self) -> dict[str, Any]:
        """See :meth:`LocalizationNetwork.config`."""
        return {**super().config(), **self.sizes}


class AffineNetwork(WholeImageNetwork):
    """A convolutional network that gives a translation, rigid, similarity or affine transform; it starts at none.

    Parameters
    ----------
    ndim, channels, shape, features, hidden, shrink
        See :class:`WholeImageNetwork`.
    family
        ``"translation"``, ``"rigid"``, ``"similarity"`` or ``"affine"``.

    References
    ----------
    Jaderberg et al., Spatial transformer networks, NeurIPS 2015.
    Chee and Wu, AIRNet: self-supervised affine registration for 3D medical images using neural networks, 2018.
    """

    name = "affine"

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
        if family not in LINEAR_FAMILIES:
            raise InputError(f"The affine network has the families {', '.join(LINEAR_FAMILIES)}, not '{family}'.")
        made = make_family(family)
        (count,) = made.parameter_shape(Grid.from_spacing([2] * ndim))
        super().__init__(ndim, channels, shape, count, features, hidden, shrink)
        self.family = made

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """See :meth:`LocalizationNetwork.forward`."""
        return self.regress(fixed, moving)

    def config(self) -> dict[str, Any]:
        """See :meth:`LocalizationNetwork.config`."""
        return {**super().config(), "family": self.family.name}


class ThinPlateNetwork(WholeImageNetwork):
    """A convolutional network that moves a lattice of thin-plate control points.

    Parameters
    ----------
    ndim, channels, shape, features, hidden, shrink
        See :class:`WholeImageNetwork`.
    points
        Control points along each axis.
    stiffness
        See :class:`~napari_stnreg.transforms.ThinPlateTransform`.

    References
    ----------
    Jaderberg et al., Spatial transformer networks, NeurIPS 2015 (the 16-point thin-plate spline of its section 4).
    """

    name = "tps"

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
        # A unit of the last layer moves a control point by the distance between two.
        self._reach = [n / max(k - 1, 1) for n, k in zip(self.shape, counts, strict=True)]

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """See :meth:`LocalizationNetwork.forward`."""
        moved = self.regress(fixed, moving).reshape(fixed.shape[0], -1, self.ndim)
        return moved * moved.new_tensor(self._reach)

    def config(self) -> dict[str, Any]:
        """See :meth:`LocalizationNetwork.config`."""
        return {**super().config(), **self._spline}
