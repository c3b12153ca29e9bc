"""VoxelMorph's own networks, for weights that were trained with its PyTorch versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.networks.array_orientation import ArrayOrientation
from napari_stnreg.networks.base import LocalizationNetwork, padded_grid
from napari_stnreg.networks.blocks import convolution
from napari_stnreg.networks.unet import UNet
from napari_stnreg.transforms import make_family


class OriginalVoxelMorph(LocalizationNetwork, selectable=False):
    """The dense network of the package voxelmorph (version 0.2, PyTorch), to its last digit.

    :class:`~napari_stnreg.networks.VoxelMorph` differs from it in the order of the images, in how fields are resized
    (faces of the image instead of centers of its outer voxels stay), and in the number of squarings.

    Parameters
    ----------
    ndim, channels
        See :class:`Network`.
    encoder, decoder, final, half
        See :class:`UNet`.
    steps
        Squarings of the integration; 0 for a displacement.
    downsize
        Factor by which the field is smaller while it is integrated.
    orientation
        See :class:`~.array_orientation.ArrayOrientation`.

    References
    ----------
    Balakrishnan et al., IEEE Transactions on Medical Imaging 38, 2019; Dalca et al., Medical Image Analysis 2019.
    """

    name = "voxelmorph-original"

    def __init__(
        self,
        ndim: int,
        channels: int = 1,
        *,
        encoder: Sequence[int],
        decoder: Sequence[int],
        final: Sequence[int],
        half: bool = False,
        steps: int = 7,
        downsize: int = 2,
        orientation: str = "zyx",
    ) -> None:
        super().__init__(ndim, channels)
        if not 0 <= steps <= 32 or downsize < 1:
            raise InputError(
                f"The integration needs 0 to 32 steps and a factor of 1 or more, not {steps} and {downsize}."
            )
        self.family = make_family("displacement")
        self.steps, self.downsize, self.stops_at_half = int(steps), int(downsize), bool(half)
        self.orientation = ArrayOrientation(orientation, ndim)
        self._sizes = {"encoder": list(encoder), "decoder": list(decoder), "final": list(final)}
        self.unet = UNet(ndim, 2 * channels, encoder, decoder, final, half=half)
        self.flow = convolution(ndim, self.unet.width, ndim)

    def domain(self, grid: Grid) -> Grid:
        """Extend the grid so that it halves evenly at every level."""
        return padded_grid(grid, max(2 ** len(self._sizes["encoder"]), self.downsize))

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Return the displacement in voxels, ``(B, D, *shape)``."""
        reoriented = [self.orientation.to_network(image) for image in (moving, fixed)]
        field: Tensor = self.flow(self.unet(torch.cat(reoriented, dim=1)))
        if self.steps and self.downsize > 1 and not self.stops_at_half:
            field = self._resized(field, 1 / self.downsize) / self.downsize
        if self.steps:
            field = integrate(field, self.steps)
            if self.downsize > 1:
                field = self._resized(field * self.downsize, float(self.downsize))
        return self.orientation.from_network(field)

    def _resized(self, field: Tensor, factor: float) -> Tensor:
        mode = "bilinear" if self.ndim == 2 else "trilinear"
        return F.interpolate(field, scale_factor=factor, mode=mode, align_corners=True)

    def config(self) -> dict[str, Any]:
        """See :meth:`Network.config`."""
        return {
            "name": self.name, "ndim": self.ndim, "channels": self.channels, "half": self.stops_at_half,
            "steps": self.steps, "downsize": self.downsize, "orientation": self.orientation.code, **self._sizes,
        }  # fmt: skip


def integrate(velocity: Tensor, steps: int) -> Tensor:
    """Integrate a velocity field by scaling and squaring; zero beyond the centers of the outer voxels.

    Parameters
    ----------
    velocity
        ``(B, D, *shape)`` in voxels, channels along the axes.
    steps
        Number of squarings.
    """
    shape = velocity.shape[2:]
    axes = [torch.arange(n, dtype=velocity.dtype, device=velocity.device) for n in shape]
    here = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
    size = velocity.new_tensor([max(n - 1, 1) for n in shape]).reshape(1, -1, *[1] * len(shape))
    field: Tensor = velocity / 2**steps
    for _ in range(steps):
        where = 2 * ((here + field) / size - 0.5)
        field = field + F.grid_sample(field, where.movedim(1, -1).flip(-1), align_corners=True)
    return field


class PairwiseVoxelMorph(LocalizationNetwork, selectable=False):
    """The pairwise network of the package voxelmorph (version 0.3), ``VxmPairwise``, to its last digit.

    Parameters
    ----------
    ndim, channels
        See :class:`Network`.
    encoder, decoder
        Channels of the levels down, starting at full resolution, and up, starting at the bottom.
    steps
        Squarings of the integration; 0 for a displacement.
    orientation
        See :class:`~.array_orientation.ArrayOrientation`.
    """

    name = "voxelmorph-pairwise"

    def __init__(
        self,
        ndim: int,
        channels: int = 1,
        *,
        encoder: Sequence[int],
        decoder: Sequence[int],
        steps: int = 5,
        orientation: str = "zyx",
    ) -> None:
        super().__init__(ndim, channels)
        if not encoder or len(encoder) != len(decoder) or min((*encoder, *decoder)) < 1:
            raise InputError(f"The levels need channels down and up, not {list(encoder)} and {list(decoder)}.")
        if not 0 <= steps <= 32:
            raise InputError(f"The integration needs 0 to 32 steps, not {steps}.")
        self.family = make_family("displacement")
        self.steps = int(steps)
        self.orientation = ArrayOrientation(orientation, ndim)
        self._sizes = {"encoder": list(encoder), "decoder": list(decoder)}
        down = zip([2 * channels, *encoder], encoder, strict=False)
        self.encoder = nn.ModuleList(convolution(ndim, a, b) for a, b in down)
        self.bottom = convolution(ndim, encoder[-1], decoder[0])
        after, skips = [*decoder[1:], decoder[-1]], list(encoder)[::-1]
        self.decoder = nn.ModuleList(convolution(ndim, a + s, b) for a, s, b in zip(decoder, skips, after, strict=True))
        self.out = (nn.Conv2d if ndim == 2 else nn.Conv3d)(decoder[-1], ndim, 1)
        self.flow = convolution(ndim, ndim, ndim)

    def domain(self, grid: Grid) -> Grid:
        """Extend the grid so that it halves evenly at every level."""
        return padded_grid(grid, 2 ** len(self._sizes["encoder"]))

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Return the displacement in voxels, ``(B, D, *shape)``."""
        x = torch.cat([self.orientation.to_network(image) for image in (moving, fixed)], dim=1)
        pool, mode = (F.max_pool2d, "bilinear") if self.ndim == 2 else (F.max_pool3d, "trilinear")
        skips: list[Tensor] = []
        for layer in self.encoder:
            skips.append(torch.relu(layer(x)))
            x = pool(skips[-1], 2)
        x = torch.relu(self.bottom(x))
        for layer in self.decoder:
            x = torch.cat([F.interpolate(x, scale_factor=2.0, mode=mode, align_corners=True), skips.pop()], dim=1)
            x = torch.relu(layer(x))
        field: Tensor = self.flow(self.out(x))
        return self.orientation.from_network(integrate(field, self.steps) if self.steps else field)

    def config(self) -> dict[str, Any]:
        """See :meth:`Network.config`."""
        return {
            "name": self.name, "ndim": self.ndim, "channels": self.channels, "steps": self.steps,
            "orientation": self.orientation.code, **self._sizes,
        }  # fmt: skip
