"""U-Net for dense prediction."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_stnreg.core.errors import InputError
from napari_stnreg.networks.blocks import convolution, leaky_relu, zero_initialized


def _unchanged(x: Tensor) -> Tensor:
    return x


class Modulation(nn.Module):
    """Scales and shifts of channels as a function of a few numbers; none before training.

    Parameters
    ----------
    conditions
        Number of inputs.
    widths
        Channels of each layer, in the order in which they are modulated.
    hidden
        Width of the two hidden layers.
    """

    def __init__(self, conditions: int, widths: Sequence[int], hidden: int = 32) -> None:
        super().__init__()
        self.widths = [int(width) for width in widths]
        self.layers = nn.Sequential(
            nn.Linear(conditions, hidden), leaky_relu(), nn.Linear(hidden, hidden), leaky_relu(),
            zero_initialized(nn.Linear(hidden, 2 * sum(self.widths))),
        )  # fmt: skip

    def forward(self, condition: Tensor) -> Callable[[Tensor], Tensor]:
        """Return a function that modulates the layers' outputs, to be called in their order."""
        pieces = iter(self.layers(condition).split([2 * width for width in self.widths], dim=1))

        def modulate(x: Tensor) -> Tensor:
            scale, shift = next(pieces).unflatten(-1, (-1, *[1] * (x.ndim - 2))).chunk(2, dim=1)
            modulated: Tensor = x * (1 + scale) + shift
            return modulated

        return modulate


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
    conditions
        Numbers that scale and shift the channels of every convolution but those of ``final`` (feature-wise linear
        modulation, Perez et al., AAAI 2018); 0 for none.
    """

    def __init__(
        self,
        ndim: int,
        channels: int,
        encoder: Sequence[int],
        decoder: Sequence[int],
        final: Sequence[int],
        half: bool = False,
        conditions: int = 0,
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
        widths = [*encoder, decoder[0], *after[:ups]]
        self.modulation = Modulation(conditions, widths) if conditions else None

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map ``(B, channels, *shape)`` to ``(B, width, *shape)``, or half that size; every level must halve evenly.

        ``condition`` ``(B or 1, conditions)`` is needed if there are conditions.
        """
        modulate: Callable[[Tensor], Tensor] = _unchanged
        if self.modulation is not None:
            assert condition is not None
            modulate = self.modulation(condition)
        skips: list[Tensor] = []
        for layer in self.encoder:
            x = modulate(layer(x))
            skips.append(x)
            x = F.max_pool2d(x, 2) if x.ndim == 4 else F.max_pool3d(x, 2)
        x = modulate(self.bottom(x))
        for layer in self.decoder:
            x = modulate(layer(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skips.pop()], dim=1)))
        for layer in self.final:
            x = layer(x)
        return x
