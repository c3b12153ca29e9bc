"""Layers shared by all networks, for 2D and 3D."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NEGATIVE_SLOPE = 0.2
"""Slope of the leaky ReLU below zero, as in VoxelMorph."""


def convolution(
    ndim: int, inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, padding: int | None = None
) -> nn.Module:
    """Return a convolution with Kaiming initialization; zero padding keeps the size by default."""
    layer_class = nn.Conv2d if ndim == 2 else nn.Conv3d
    layer = layer_class(inputs, outputs, kernel, stride=stride, padding=kernel // 2 if padding is None else padding)
    if not layer.weight.is_meta:  # random numbers without memory would import torch's compiler, which takes a second
        nn.init.kaiming_normal_(layer.weight, a=NEGATIVE_SLOPE)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def leaky_relu() -> nn.Module:
    """Return a leaky ReLU that overwrites its input, which saves memory in 3D."""
    return nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)


def group_norm(channels: int) -> nn.Module:
    """Return group normalization, which works for batches of one."""
    return nn.GroupNorm(math.gcd(channels, 8), channels)


def average_pool(x: Tensor, factors: Sequence[int]) -> Tensor:
    """Average over blocks of voxels; the last block along an axis may be smaller."""
    if all(f == 1 for f in factors):
        return x
    pool = F.avg_pool2d if x.ndim == 4 else F.avg_pool3d
    return pool(x, tuple(factors), ceil_mode=True, count_include_pad=False)


def zero_initialized(layer: nn.Module) -> nn.Module:
    """Set the weights and bias of a layer to zero, so that the transform it parametrizes starts at the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class GlobalRegressor(nn.Module):
    """Regress numbers from a whole image: strided convolutions to a few voxels, then two dense layers.

    Dense layers keep the position of what they see, which global average pooling would lose; in return the image must
    have a fixed size.

    Parameters
    ----------
    ndim, channels, shape
        Axes, channels and size of the input.
    features
        Channels after each downsampling by two. Downsampling stops when a side would have fewer than 3 voxels.
    hidden
        Width of the hidden dense layer.
    outputs
        Number of outputs. They are zero before training.
    shrink
        Average blocks of this many voxels along each axis first; for large volumes.
    """

    def __init__(
        self,
        ndim: int,
        channels: int,
        shape: Sequence[int],
        features: Sequence[int],
        hidden: int,
        outputs: int,
        shrink: int = 1,
    ) -> None:
        super().__init__()
        self.shrink = (shrink,) * ndim
        size = [math.ceil(n / shrink) for n in shape]
        layers: list[nn.Module] = []
        inputs = channels
        for width in features:
            if min(size) < 5:
                break
            layers += [convolution(ndim, inputs, width, stride=2), group_norm(width), leaky_relu()]
            size = [math.ceil(n / 2) for n in size]
            inputs = width
        layers += [convolution(ndim, inputs, inputs), group_norm(inputs), leaky_relu()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Linear(inputs * math.prod(size), hidden), leaky_relu(), zero_initialized(nn.Linear(hidden, outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels, *shape)`` to ``(B, outputs)``."""
        features = self.layers(average_pool(x, self.shrink))
        return cast(Tensor, self.head(torch.flatten(features, 1)))
