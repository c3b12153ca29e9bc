"""VoxelMorph: a U-Net that predicts a displacement or velocity for every voxel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.losses.regularization import diffusion
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
    conditional
        Take the smoothness of the field as an input, so that one network serves every weight of the regularization; see
        :meth:`set_smoothness`.
    probabilistic
        Predict a variance for every vector. In training a field is drawn, and the loss holds the divergence from a
        smooth prior; otherwise the mean is returned.
    prior_precision
        Precision of that prior: the weight of squared differences of neighboring vectors, in voxels.

    References
    ----------
    Balakrishnan et al., VoxelMorph: a learning framework for deformable medical image registration, IEEE Transactions
    on Medical Imaging 38, 2019; Dalca et al., Unsupervised learning of probabilistic diffeomorphic registration for
    images and surfaces, Medical Image Analysis 2019; Hoopes et al., HyperMorph, IPMI 2021, and Mok and Chung,
    Conditional deformable image registration, MICCAI 2021 (smoothness as an input).
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
        conditional: bool = False,
        probabilistic: bool = False,
        prior_precision: float = 10.0,
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
        if prior_precision <= 0:
            raise InputError(f"The precision of the prior is above 0, not {prior_precision}.")
        self.prior_precision, self.sampling = float(prior_precision), False
        self.unet = UNet(
            ndim, 2 * channels, encoder, decoder, final, half=resolution == "half", conditions=int(conditional)
        )
        self.flow = zero_initialized(convolution(ndim, self.unet.width, ndim))
        self.log_variance = None
        if probabilistic:
            self.log_variance = zero_initialized(convolution(ndim, self.unet.width, ndim))
            bias = cast(Tensor, cast(nn.Conv2d, self.log_variance).bias)
            nn.init.constant_(bias, -math.log(2 * ndim * self.prior_precision))  # that of the prior
        self._smoothness = 1.0
        self._distribution: tuple[Tensor, Tensor] | None = None

    @property
    def _step(self) -> int:
        return 1 if self.resolution == "full" and self.family.name == "displacement" else 2

    def domain(self, grid: Grid) -> Grid:
        """Extend the grid so that it halves evenly at every level."""
        return padded_grid(grid, self.shrink * 2 ** len(self._sizes["encoder"]))

    def parameter_domain(self, domain: Grid) -> Grid:
        """Return the parameter grid: half resolution for velocities and for half-resolution networks."""
        return domain.resized([n // (self._step * self.shrink) for n in domain.shape])

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """See :meth:`LocalizationNetwork.forward`; vectors are in voxels of :meth:`parameter_domain`."""
        images = average_pool(torch.cat([fixed, moving], dim=1), [self.shrink] * self.ndim)
        condition = None
        if self.is_conditional:
            condition = images.new_full((1, 1), math.log10(self._smoothness))
        features = self.unet(images, condition)
        mean = self._at_field_resolution(self.flow(features)).float()
        if self.log_variance is None:
            return mean
        change = 2 * math.log(2) if self._step == 2 and self.resolution == "full" else 0.0  # of halved vectors
        log_variance = self._at_field_resolution(self.log_variance(features), scale=1.0).float() - change
        self._distribution = mean, log_variance
        if not (self.training or self.sampling):
            return mean
        return mean + (log_variance / 2).exp() * torch.randn_like(mean)

    def _at_field_resolution(self, x: Tensor, scale: float = 0.5) -> Tensor:
        """Average values at full resolution to the resolution of the field and convert them to its voxels."""
        if self._step == 2 and self.resolution == "full":
            return average_pool(x, [2] * self.ndim) * scale
        return x

    @property
    def is_conditional(self) -> bool:
        """Whether the smoothness is an input."""
        return self.unet.modulation is not None

    def set_smoothness(self, value: float) -> None:
        """See :meth:`Network.set_smoothness`."""
        self._smoothness = float(value)

    @property
    def is_probabilistic(self) -> bool:
        """Whether a variance is predicted too."""
        return self.log_variance is not None

    def set_sampling(self, enabled: bool) -> None:
        """Draw fields outside of training as well, instead of returning the mean."""
        self.sampling = enabled

    def divergence(self) -> Tensor | None:
        """Return the Kullback-Leibler divergence of the last field's distribution from the prior, a mean over voxels.

        Up to a constant, with the prior's precision matrix a multiple of the Laplacian of the grid.
        """
        if self._distribution is None:
            return None
        mean, log_variance = self._distribution
        self._distribution = None
        neighbors = 2 * self.ndim * log_variance.exp()
        variance = (self.prior_precision * neighbors - log_variance).sum(dim=1).mean()
        return (variance + self.prior_precision * diffusion(mean, 1.0)) / 2

    def config(self) -> dict[str, Any]:
        """See :meth:`Network.config`."""
        return {
            "name": self.name,
            "ndim": self.ndim,
            "channels": self.channels,
            "family": self.family.name,
            "resolution": self.resolution,
            "shrink": self.shrink,
            "conditional": self.is_conditional,
            "probabilistic": self.is_probabilistic,
            "prior_precision": self.prior_precision,
            **self._sizes,
        }
