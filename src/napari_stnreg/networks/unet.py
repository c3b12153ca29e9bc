"""The U-Net of the networks that answer for every voxel."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_stnreg.core.errors import InputError
from napari_stnreg.networks.blocks import convolution, rectifier


class UNet(nn.Module):
    """An encoder that halves the image, and a decoder that brings it back with what was seen on the way.

    Parameters
    ----------
    ndim, channels
        Of the input.
    encoder
        Channels at each level, starting at the full size.
    decoder
        As many numbers: channels at the coarsest size and on the way back.
    final
        Channels of further convolutions at the output's size.
    half
        Come back to half the size only.
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
                "A U-Net has as many numbers of channels on the way up as on the way down, and a last one."
            )

        def block(inputs: int, outputs: int) -> nn.Module:
            return nn.Sequential(convolution(ndim, inputs, outputs), rectifier())

        self.encoder = nn.ModuleList(block(a, b) for a, b in zip([channels, *encoder], encoder, strict=False))
        self.bottom = block(encoder[-1], decoder[0])
        # Every level up reads the level below, enlarged, beside what the encoder saw at its own size.
        ups = len(encoder) - half
        joined = [decoder[j] + encoder[-1 - j] for j in range(ups)]
        after = [*decoder[1:], *final]
        self.decoder = nn.ModuleList(block(a, b) for a, b in zip(joined, after, strict=False))
        rest = [*decoder, *final][ups:]
        self.final = nn.ModuleList(block(a, b) for a, b in itertools.pairwise(rest))
        self.width = int(rest[-1])

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, *shape)`` to ``(B, width, *shape)`` or half of it; every level must halve evenly."""
        seen: list[Tensor] = []
        for layer in self.encoder:
            x = layer(x)
            seen.append(x)
            x = F.max_pool2d(x, 2) if x.ndim == 4 else F.max_pool3d(x, 2)
        x = self.bottom(x)
        for layer in self.decoder:
            x = layer(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), seen.pop()], dim=1))
        for layer in self.final:
            x = layer(x)
        return x
