"""VoxelMorph: a U-Net that predicts a displacement or velocity for every voxel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.networks.base import LocalizationNetwork, padded_grid
from napari_stnreg.networks.blocks import average_pool, convolution, zero_initialized
from napari_stnreg.networks.unet import UNet
from napari_stnreg.transforms import make_family

Resolution = Literal["full", "half"]


class VoxelMorph(LocalizationNetwork):
    """Predict a dense field from both images with a U-Net.

    Parameters
    ----------
    ndim, channels
        See :class:`Network`.
    family
        ``"velocity"`` (integrated at half the resolution) or ``"displacement"``. ``"diffeomorphic"``, the name of the
        velocity in models of version 0.1, is accepted too.
    encoder, decoder, final
        See :class:`UNet`. The default is VoxelMorph's own.
    resolution
        ``"half"`` leaves out the layers at full resolution, which cost most; the field is then interpolated linearly.
    shrink
        Average blocks of this many voxels along each axis first. In a sequence of two networks, one that shrinks finds
        large displacements and one that does not refines them.

    References
    ----------
    Balakrishnan et al., VoxelMorph: a learning framework for deformable medical image registration, IEEE Transactions
    on Medical Imaging 38, 2019; Dalca et al., Unsupervised learning of probabilistic diffeomorphic registration for
    images and surfaces, Medical Image Analysis 2019.
    """

    name = "voxelmorph"
    families = ("velocity", "displacement")

    def __init__(
        self,
        ndim: int,
        channels: int = 1,
        *,
        family: str = "velocity",
        encoder: Sequence[int] = (16, 32, 32, 32),
        decoder: Sequence[int] = (32, 32, 32, 32),
        final: Sequence[int] = (32, 16, 16),
        resolution: Resolution = "full",
        shrink: int = 1,
    ) -> None:
        super().__init__(ndim, channels)
        family = "velocity" if family == "diffeomorphic" else family
        if family not in self.families:
            raise InputError(f"VoxelMorph has the families {' and '.join(self.families)}, not '{family}'.")
        if resolution not in get_args(Resolution):
            raise InputError(f"The resolution is full or half, not '{resolution}'.")
        if shrink < 1:
            raise InputError(f"The shrink factor of a network is 1 or more, not {shrink}.")
        self.family = make_family(family)
        self.shrink = int(shrink)
        self.resolution = resolution
        self._sizes = {"encoder": list(encoder), "decoder": list(decoder), "final": list(final)}
        self.unet = UNet(ndim, 2 * channels, encoder, decoder, final, half=resolution == "half")
        self.flow = zero_initialized(convolution(ndim, self.unet.width, ndim))

    @property
    def _step(self) -> int:
        return 1 if self.resolution == "full" and self.family.name == "displacement" else 2

    def domain(self, grid: Grid) -> Grid:
        """Extend the grid so that it halves evenly at every level."""
        return padded_grid(grid, self.shrink * 2 ** len(self._sizes["encoder"]))

    def parameter_domain(self, domain: Grid) -> Grid:
        """Half the resolution for velocities and for a network of half resolution."""
        return domain.resized([n // (self._step * self.shrink) for n in domain.shape])

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """See :meth:`LocalizationNetwork.forward`; vectors are in voxels of :meth:`parameter_domain`."""
        images = average_pool(torch.cat([fixed, moving], dim=1), [self.shrink] * self.ndim)
        field: Tensor = self.flow(self.unet(images))
        if self._step == 2 and self.resolution == "full":
            field = average_pool(field, [2] * self.ndim) / 2
        return field

    def config(self) -> dict[str, Any]:
        """See :meth:`Network.config`."""
        return {
            "name": self.name,
            "ndim": self.ndim,
            "channels": self.channels,
            "family": self.family.name,
            "resolution": self.resolution,
            "shrink": self.shrink,
            **self._sizes,
        }
