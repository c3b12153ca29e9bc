"""The few layers all networks here are built of, for 2D and 3D alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.2
"""Slope of the leaky rectifier below zero."""


def convolution(
    ndim: int, inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, padding: int | None = None
) -> nn.Module:
    """A convolution whose weights keep the variance through leaky rectifiers; zero padding that keeps the size."""
    kind = nn.Conv2d if ndim == 2 else nn.Conv3d
    layer = kind(inputs, outputs, kernel, stride=stride, padding=kernel // 2 if padding is None else padding)
    nn.init.kaiming_normal_(layer.weight, a=SLOPE)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def rectifier() -> nn.Module:
    """A leaky rectifier that overwrites its input: nothing else reads it, and memory is what 3D runs out of."""
    return nn.LeakyReLU(SLOPE, inplace=True)


def normalizer(channels: int) -> nn.Module:
    """Group normalization, which works for batches of one."""
    return nn.GroupNorm(math.gcd(channels, 8), channels)


def pooled(x: Tensor, factors: Sequence[int]) -> Tensor:
    """Averages over blocks of voxels; blocks at the end may be cut short."""
    if all(f == 1 for f in factors):
        return x
    pool = F.avg_pool2d if x.ndim == 4 else F.avg_pool3d
    return pool(x, tuple(factors), ceil_mode=True, count_include_pad=False)


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer with weights and bias of zero: what it feeds begins at the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class WholeImageRegressor(nn.Module):
    """Convolutions that halve the image until a few voxels are left, then two dense layers to some numbers.

    The dense layers see where in the image something lies, which averaging over the image would hide; the price is that
    the image must have one size.

    Parameters
    ----------
    ndim, channels
        Of the input.
    shape
        Of the input.
    features
        Channels after each halving. Halving ends earlier when no side would keep 3 voxels.
    hidden
        Width of the dense layer between.
    outputs
        How many numbers. They are zero before training.
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
            layers += [convolution(ndim, inputs, width, stride=2), normalizer(width), rectifier()]
            size = [math.ceil(n / 2) for n in size]
            inputs = width
        layers += [convolution(ndim, inputs, inputs), normalizer(inputs), rectifier()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Linear(inputs * math.prod(size), hidden), rectifier(), zeroed(nn.Linear(hidden, outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, *shape)`` to ``(B, outputs)``."""
        seen = self.layers(pooled(x, self.shrink))
        return cast(Tensor, self.head(torch.flatten(seen, 1)))
