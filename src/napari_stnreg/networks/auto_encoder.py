"""A convolutional auto-encoder, whose frozen features tell how alike two noisy images are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from napari_stnreg.core.errors import InputError
from napari_stnreg.networks.blocks import convolution, normalizer, rectifier


class AutoEncoder(nn.Module):
    """Learns to draw an image again from few numbers, and so what matters in it.

    Parameters
    ----------
    ndim, channels
        Of the images.
    features
        Channels after each halving; the last is the bottleneck.

    References
    ----------
    Wu et al., Scalable high-performance image registration framework by unsupervised deep feature representations
    learning, IEEE Transactions on Biomedical Engineering 63, 2016.
    Yoo et al., ssEMnet: serial-section electron microscopy image registration using a spatial transformer network with
    learned features, DLMIA 2017.
    """

    name = "auto-encoder"

    def __init__(self, ndim: int, channels: int = 1, *, features: Sequence[int] = (16, 32, 32)) -> None:
        super().__init__()
        if ndim not in (2, 3) or channels < 1 or not features:
            raise InputError("An auto-encoder is for 2D or 3D images of at least one channel, and has one layer.")
        self.ndim, self.channels, self.features = ndim, channels, [int(n) for n in features]
        widths = [channels, *self.features]
        self.encoder = nn.ModuleList(
            nn.Sequential(
                convolution(ndim, a, b, stride=2), normalizer(b), rectifier(), convolution(ndim, b, b), rectifier()
            )
            for a, b in itertools.pairwise(widths)
        )
        back = self.features[::-1]
        self.decoder = nn.ModuleList(
            nn.Sequential(convolution(ndim, a, b), rectifier())
            for a, b in zip(back, [*back[1:], back[-1]], strict=True)
        )
        self.last = convolution(ndim, back[-1], channels)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Features at every depth, fine to coarse."""
        found = []
        for layer in self.encoder:
            image = layer(image)
            found.append(image)
        return found

    def forward(self, image: Tensor) -> Tensor:
        """The image drawn again, ``(B, C, *shape)``; any size."""
        seen = self.encode(image)
        sizes = [tuple(image.shape[2:]), *(tuple(one.shape[2:]) for one in seen[:-1])]
        x = seen[-1]
        for layer, size in zip(self.decoder, reversed(sizes), strict=True):
            x = F.interpolate(layer(x), size=size, mode="bilinear" if x.ndim == 4 else "trilinear")
        drawn: Tensor = self.last(x)
        return drawn

    def config(self) -> dict[str, Any]:
        """Name and sizes, JSON-ready."""
        return {"name": self.name, "ndim": self.ndim, "channels": self.channels, "features": self.features}


class Features(nn.Module):
    """The encoder alone, as :class:`~napari_stnreg.losses.FeatureDistance` takes it.

    Parameters
    ----------
    auto_encoder
        Trained.
    depths
        Which layers count, from 0, the finest; ``None`` for the bottleneck, as in ssEMnet, and the layer before it.
    """

    def __init__(self, auto_encoder: AutoEncoder, depths: Sequence[int] | None = None) -> None:
        super().__init__()
        self.auto_encoder = auto_encoder
        self.ndim = auto_encoder.ndim
        count = len(auto_encoder.features)
        self.depths = list(range(max(count - 2, 0), count)) if depths is None else list(depths)

    def forward(self, image: Tensor) -> list[Tensor]:
        """``(B, C, *shape)`` to one tensor for each depth."""
        found = self.auto_encoder.encode(image)
        return [found[depth] for depth in self.depths]
