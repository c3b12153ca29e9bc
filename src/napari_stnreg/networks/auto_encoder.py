"""Convolutional auto-encoder, whose frozen features measure the similarity of noisy images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from napari_stnreg.core.errors import InputError
from napari_stnreg.networks.base import Network
from napari_stnreg.networks.blocks import convolution, group_norm, leaky_relu


class AutoEncoder(Network):
    """Reconstruct an image from a low-dimensional code.

    Parameters
    ----------
    ndim, channels
        Axes and channels of the images.
    features
        Channels after each downsampling by two; the last is the bottleneck.

    References
    ----------
    Wu et al., Scalable high-performance image registration framework by unsupervised deep feature representations
    learning, IEEE Transactions on Biomedical Engineering 63, 2016.
    Yoo et al., ssEMnet: serial-section electron microscopy image registration using a spatial transformer network with
    learned features, DLMIA 2017.
    """

    name = "auto-encoder"

    def __init__(self, ndim: int, channels: int = 1, *, features: Sequence[int] = (16, 32, 32)) -> None:
        super().__init__(ndim, channels)
        if not features:
            raise InputError("An auto-encoder has at least one layer.")
        self.widths = [int(n) for n in features]
        self.encoder = nn.ModuleList(
            nn.Sequential(
                convolution(ndim, a, b, stride=2), group_norm(b), leaky_relu(), convolution(ndim, b, b), leaky_relu()
            )
            for a, b in itertools.pairwise([channels, *self.widths])
        )
        back = self.widths[::-1]
        self.decoder = nn.ModuleList(
            nn.Sequential(convolution(ndim, a, b), leaky_relu())
            for a, b in zip(back, [*back[1:], back[-1]], strict=True)
        )
        self.last = convolution(ndim, back[-1], channels)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Return the features at every depth, fine to coarse."""
        features = []
        for layer in self.encoder:
            image = layer(image)
            features.append(image)
        return features

    def forward(self, image: Tensor) -> Tensor:
        """Reconstruct images ``(B, C, *shape)`` of any size."""
        features = self.encode(image)
        sizes = [tuple(image.shape[2:]), *(tuple(one.shape[2:]) for one in features[:-1])]
        x = features[-1]
        for layer, size in zip(self.decoder, reversed(sizes), strict=True):
            x = F.interpolate(layer(x), size=size, mode="bilinear" if x.ndim == 4 else "trilinear")
        reconstruction: Tensor = self.last(x)
        return reconstruction

    def config(self) -> dict[str, Any]:
        """See :meth:`Network.config`."""
        return {"name": self.name, "ndim": self.ndim, "channels": self.channels, "features": self.widths}


class FrozenEncoder(nn.Module):
    """The encoder alone, as :class:`~napari_stnreg.losses.FeatureDistance` takes it.

    Parameters
    ----------
    auto_encoder
        A trained auto-encoder.
    depths
        Which layers to return, from 0, the finest. By default the bottleneck, as in ssEMnet, and the layer before it.
    """

    def __init__(self, auto_encoder: AutoEncoder, depths: Sequence[int] | None = None) -> None:
        super().__init__()
        self.auto_encoder = auto_encoder
        self.ndim = auto_encoder.ndim
        count = len(auto_encoder.widths)
        self.depths = list(range(max(count - 2, 0), count)) if depths is None else list(depths)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map images ``(B, C, *shape)`` to one tensor for each depth."""
        features = self.auto_encoder.encode(image)
        return [features[depth] for depth in self.depths]
