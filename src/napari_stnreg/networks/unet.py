"""U-Net for dense prediction."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_stnreg.core.errors import InputError
from napari_stnreg.networks.blocks import convolution, leaky_relu


class UNet(nn.Module):
    """An encoder-decoder with skip connections (Ronneberger et al., MICCAI 2015).

    Parameters
    ----------
    ndim, channels
        Axes and channels of the input.
    encoder
        Channels at each level, starting at full resolution.
    decoder
        Channels at the coarsest level and after each upsampling; as many numbers as ``encoder``.
    final
        Channels of further convolutions at the output's resolution.
    half
        Stop at half the input's resolution.
    """

    def __init__(
        self,
        ndim: int,
        channels: int,
        encoder: Sequence[int],
        decoder: Sequence[int],
        final: Sequence[int],
        half: bool = False,
    ) -> None:
        super().__init__()
        if not encoder or len(encoder) != len(decoder) or not final:
            raise InputError(
                f"A U-Net needs as many decoder as encoder channels and at least one final layer, not {len(encoder)} "
                f"encoder, {len(decoder)} decoder and {len(final)} final channels."
            )

        def block(inputs: int, outputs: int) -> nn.Module:
            return nn.Sequential(convolution(ndim, inputs, outputs), leaky_relu())

        self.encoder = nn.ModuleList(block(a, b) for a, b in zip([channels, *encoder], encoder, strict=False))
        self.bottom = block(encoder[-1], decoder[0])
        # Each decoder level reads the upsampled level below and the skip connection of its own resolution.
        ups = len(encoder) - half
        inputs = [decoder[j] + encoder[-1 - j] for j in range(ups)]
        after = [*decoder[1:], *final]
        self.decoder = nn.ModuleList(block(a, b) for a, b in zip(inputs, after, strict=False))
        rest = [*decoder, *final][ups:]
        self.final = nn.ModuleList(block(a, b) for a, b in itertools.pairwise(rest))
        self.width = int(rest[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels, *shape)`` to ``(B, width, *shape)``, or half that size; every level must halve evenly."""
        skips: list[Tensor] = []
        for layer in self.encoder:
            x = layer(x)
            skips.append(x)
            x = F.max_pool2d(x, 2) if x.ndim == 4 else F.max_pool3d(x, 2)
        x = self.bottom(x)
        for layer in self.decoder:
            x = layer(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skips.pop()], dim=1))
        for layer in self.final:
            x = layer(x)
        return x
