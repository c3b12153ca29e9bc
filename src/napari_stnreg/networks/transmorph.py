"""TransMorph, for weights that were trained with its PyTorch version."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.networks.array_orientation import ArrayOrientation
from napari_stnreg.networks.base import LocalizationNetwork, padded_grid
from napari_stnreg.transforms import make_family

PATCH = 4
"""Voxels along each side of a patch. The decoder undoes exactly this and three halvings."""
MASKED = -100.0
"""Added to the attention between patches that are next to each other only because the image was rolled."""


def relative_positions(window: Sequence[int]) -> Tensor:
    """Return the row of the bias table for each pair of patches in a window, ``(N, N)``."""
    axes = torch.meshgrid(*[torch.arange(n) for n in window], indexing="ij")
    index = torch.zeros((), dtype=torch.long)
    for axis, n in zip(axes, window, strict=True):
        place = axis.flatten()
        index = index * (2 * n - 1) + place[:, None] - place[None, :] + n - 1
    return index


class WindowAttention(nn.Module):
    """Attention among the patches of one window, with a bias for each relative position.

    Parameters
    ----------
    width, heads, window
        Features, heads, and patches of a window along each axis.
    bias
        Whether queries, keys and values have a bias.
    relative
        Whether the bias of the relative position is added.
    """

    def __init__(self, width: int, heads: int, window: Sequence[int], *, bias: bool, relative: bool) -> None:
        super().__init__()
        if width % heads:
            raise InputError(f"{width} features cannot be divided among {heads} heads.")
        self.heads, self.relative, self.window = heads, relative, tuple(window)
        rows = 1
        for n in window:
            rows *= 2 * n - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, heads))
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map ``(B, windows, N, width)`` to the same shape; ``mask`` is ``(windows, 1, N, N)``."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-3, -2)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if self.relative:
            index = relative_positions(self.window).to(x.device)
            scores = scores + self.relative_position_bias_table[index].movedim(-1, 0)
        if mask is not None:
            scores = scores + mask
        return cast(Tensor, self.proj((scores.softmax(-1) @ v).transpose(-3, -2).flatten(-2)))


class SwinBlock(nn.Module):
    """Attention in windows, then two dense layers, each added to its input.

    Parameters
    ----------
    width, heads, window, bias, relative
        See :class:`WindowAttention`.
    hidden
        Width of the hidden dense layer.
    shifted
        Whether the windows are shifted by half their size.
    """

    def __init__(
        self, width: int, heads: int, window: Sequence[int], hidden: int, *, shifted: bool, bias: bool, relative: bool
    ) -> None:
        super().__init__()
        self.window = tuple(window)
        # As published: no axis is shifted if one cannot be.
        self.shift = tuple(n // 2 for n in window) if shifted and min(window) > 1 else None
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window, bias=bias, relative=relative)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, *patches, width)`` to the same shape."""
        size = x.shape[1:4]
        y = self.norm1(x)
        pads = [(0, -n % w) for n, w in zip(size, self.window, strict=True)]
        y = F.pad(y, (0, 0, *pads[2], *pads[1], *pads[0]))
        mask = None
        if self.shift is not None:
            y = y.roll([-s for s in self.shift], (1, 2, 3))
            mask = self._mask(y)
        counts = [n // w for n, w in zip(y.shape[1:4], self.window, strict=True)]
        y = self._unmerged(self.attn(self._windows(y), mask), counts)
        if self.shift is not None:
            y = y.roll(self.shift, (1, 2, 3))
        x = x + y[:, : size[0], : size[1], : size[2]]
        return x + cast(Tensor, self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x)))))

    def _windows(self, x: Tensor) -> Tensor:
        """Return ``(B, windows, N, width)``."""
        for axis, w in zip((1, 3, 5), self.window, strict=True):
            x = x.unflatten(axis, (-1, w))
        return x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).flatten(1, 3)

    def _unmerged(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """Undo :meth:`_windows`."""
        x = x.unflatten(1, tuple(counts)).unflatten(4, self.window).permute(0, 1, 4, 2, 5, 3, 6, 7)
        return x.flatten(5, 6).flatten(3, 4).flatten(1, 2)

    def _mask(self, rolled: Tensor) -> Tensor:
        """Return the mask that separates what the roll brought together, ``(windows, 1, N, N)``."""
        assert self.shift is not None
        region = torch.zeros((), device=rolled.device)
        for i, (w, s) in enumerate(zip(self.window, self.shift, strict=True)):
            n = rolled.shape[i + 1]
            place = torch.arange(n, device=rolled.device)
            part = (place >= n - w).to(rolled.dtype) + (place >= n - s)
            region = 3 * region[..., None] + part
        label = self._windows(region[None, ..., None])[0, :, :, 0]
        return ((label[:, None] != label[:, :, None]) * MASKED).to(rolled.dtype)[:, None]


class PatchMerging(nn.Module):
    """Join each block of 2 x 2 x 2 patches into one with twice the features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8 * width)
        self.reduction = nn.Linear(8 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, *patches, width)`` to ``(B, *patches / 2, 2 width)``."""
        # As published: no shift, one axis, two axes, three; not the order of counting.
        offsets = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1))
        joined = torch.cat([x[:, i::2, j::2, k::2] for i, j, k in offsets], dim=-1)
        return cast(Tensor, self.reduction(self.norm(joined)))


class Stage(nn.Module):
    """Blocks at one resolution, and the step to the next one."""

    def __init__(
        self, width: int, depth: int, heads: int, window: Sequence[int], hidden: int, *, last: bool, **kind: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(width, heads, window, hidden, shifted=bool(i % 2), **kind) for i in range(depth)
        )
        self.downsample = None if last else PatchMerging(width)

    def forward(self, x: Tensor) -> Tensor:
        """Run the blocks."""
        for block in self.blocks:
            x = block(x)
        return x


class ConvolutionUnit(nn.Sequential):
    """A convolution without bias, instance normalization, and a leaky ReLU of slope 0.01."""

    def __init__(self, inputs: int, outputs: int) -> None:
        convolution = nn.Conv3d(inputs, outputs, 3, padding=1, bias=False)
        super().__init__(convolution, nn.InstanceNorm3d(outputs), nn.LeakyReLU(inplace=True))


class DecoderLevel(nn.Module):
    """Twice the resolution, the skip connection, and two convolutions."""

    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = ConvolutionUnit(inputs + skip, outputs), ConvolutionUnit(outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Map ``(B, inputs, *shape)`` to ``(B, outputs, *2 shape)``."""
        x = F.interpolate(x, scale_factor=2, mode="trilinear")
        return cast(Tensor, self.conv2(self.conv1(x if skip is None else torch.cat([x, skip], dim=1))))


def sinusoids(x: Tensor) -> Tensor:
    """Return the sinusoidal position of each patch of ``(B, width, *patches)``, ``(width, *patches)``."""
    width = x.shape[1]
    share = 2 * -(-width // 6)
    rates = 10000 ** (-torch.arange(0, share, 2, device=x.device, dtype=x.dtype) / share)
    parts = []
    for axis, n in enumerate(x.shape[2:]):
        phase = rates[:, None] * torch.arange(n, device=x.device, dtype=x.dtype)
        wave = torch.cat([phase.sin(), phase.cos()])
        shape = [1, 1, 1]
        shape[axis] = n
        parts.append(wave.reshape(-1, *shape).expand(-1, *x.shape[2:]))
    return torch.cat(parts)[:width]


class Encoder(nn.Module):
    """The Swin transformer: patches, and blocks at four resolutions."""

    def __init__(
        self,
        width: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: Sequence[int],
        hidden: Sequence[int],
        *,
        patch_norm: bool,
        learned: Sequence[int] | None,
        sinusoidal: bool,
        **kind: bool,
    ) -> None:
        super().__init__()
        self.sinusoidal = sinusoidal
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(2, width, PATCH, stride=PATCH)})
        if patch_norm:
            self.patch_embed["norm"] = nn.LayerNorm(width)
        self.absolute_pos_embed = None if learned is None else nn.Parameter(torch.zeros(1, width, *learned))
        widths = [width * 2**i for i in range(len(depths))]
        self.layers = nn.ModuleList(
            Stage(*sizes[:3], window, sizes[3], last=i == len(depths) - 1, **kind)
            for i, sizes in enumerate(zip(widths, depths, heads, hidden, strict=True))
        )
        for i, n in enumerate(widths):
            self.add_module(f"norm{i}", nn.LayerNorm(n))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features at each resolution, finest first."""
        x = self.patch_embed["proj"](x).movedim(1, -1)
        if "norm" in self.patch_embed:
            x = self.patch_embed["norm"](x)
        x = x.movedim(-1, 1)
        if self.absolute_pos_embed is not None:
            x = x + F.interpolate(self.absolute_pos_embed, size=x.shape[2:], mode="trilinear")
        elif self.sinusoidal:
            x = x + sinusoids(x)
        x = x.movedim(1, -1)
        features = []
        for i, stage in enumerate(self.layers):
            x = stage(x)
            features.append(self.get_submodule(f"norm{i}")(x).movedim(-1, 1))
            if stage.downsample is not None:
                x = cast(Tensor, cast(nn.Module, stage.downsample)(x))
        return features


class TransMorph(LocalizationNetwork, selectable=False):
    """A Swin transformer whose features a convolutional decoder turns into a displacement.

    Parameters
    ----------
    ndim, channels
        See :class:`Network`; 3 and 1.
    width
        Features of a patch at the finest resolution.
    depths, heads, hidden
        Blocks, attention heads, and width of the hidden dense layers at each of the four resolutions.
    window
        Patches of a window along each axis of the network.
    head
        Channels of the last convolution but one.
    bias
        Whether queries, keys and values have a bias.
    relative, learned, sinusoidal
        Position of the patches: a bias for relative positions, the size of a learned table, sinusoids.
    patch_norm
        Whether patches are normalized.
    transformer_skips, convolution_skips
        Whether the decoder sees features of the transformer and of two convolutions.
    half
        Whether the decoder stops at half the resolution and the displacement is interpolated, as in the version for
        the OASIS data.
    orientation
        See :class:`~.array_orientation.ArrayOrientation`.

    Notes
    -----
    Stochastic depth and dropout of the original training are left out.

    References
    ----------
    Chen et al., TransMorph: Transformer for unsupervised medical image registration, Medical Image Analysis 82, 2022.
    """

    name = "transmorph"

    def __init__(
        self,
        ndim: int,
        channels: int = 1,
        *,
        width: int,
        depths: Sequence[int],
        heads: Sequence[int],
        hidden: Sequence[int],
        window: Sequence[int],
        head: int = 16,
        bias: bool = False,
        relative: bool = True,
        learned: Sequence[int] | None = None,
        sinusoidal: bool = False,
        patch_norm: bool = True,
        transformer_skips: bool = True,
        convolution_skips: bool = True,
        half: bool = False,
        orientation: str = "zyx",
    ) -> None:
        super().__init__(ndim, channels)
        if ndim != 3 or channels != 1 or len(depths) != 4 or len(window) != 3:
            raise InputError("TransMorph is for volumes of one channel, at four resolutions.")
        self.family = make_family("displacement")
        self.orientation = ArrayOrientation(orientation, ndim)
        self._sizes: dict[str, Any] = {
            "width": int(width), "depths": list(depths), "heads": list(heads), "hidden": list(hidden),
            "window": list(window), "head": int(head), "bias": bias, "relative": relative,
            "learned": None if learned is None else list(learned), "sinusoidal": sinusoidal, "patch_norm": patch_norm,
            "transformer_skips": transformer_skips, "convolution_skips": convolution_skips, "half": half,
        }  # fmt: skip
        self.transformer = Encoder(
            width, depths, heads, window, hidden, patch_norm=patch_norm, learned=learned, sinusoidal=sinusoidal,
            bias=bias, relative=relative,
        )  # fmt: skip
        widths = [8 * width, 4 * width, 2 * width, width, *([] if half else [width // 2]), head]
        skips = [n * transformer_skips for n in widths[1:4]] + [width // 2, *([] if half else [head])]
        self.levels = len(widths) - 1
        for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            skip = skips[i] if i < 3 or convolution_skips else 0
            self.add_module(f"up{i}", DecoderLevel(inputs, skip, outputs))
        if convolution_skips:
            self.c1 = ConvolutionUnit(2, width // 2)
            if not half:
                self.c2 = ConvolutionUnit(2, head)
        self.reg_head = nn.Sequential(nn.Conv3d(head, 3, 3, padding=1))

    def domain(self, grid: Grid) -> Grid:
        """Extend the grid so that patches halve evenly at every resolution."""
        return padded_grid(grid, 8 * PATCH)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Return the displacement in voxels, ``(B, 3, *shape)``."""
        pair = torch.cat([self.orientation.to_network(image) for image in (moving, fixed)], dim=1)
        *finer, x = self.transformer(pair)
        skips: list[Tensor | None] = [*reversed(finer)] if self._sizes["transformer_skips"] else [None] * 3
        if self._sizes["convolution_skips"]:
            skips.append(self.c1(F.avg_pool3d(pair, 3, stride=2, padding=1)))
            skips += [] if self._sizes["half"] else [self.c2(pair)]
        else:
            skips += [None, None]
        for i in range(self.levels):
            x = self.get_submodule(f"up{i}")(x, skips[i])
        field: Tensor = self.reg_head(x)
        if self._sizes["half"]:
            field = F.interpolate(field, scale_factor=2, mode="trilinear")
        return self.orientation.from_network(field)

    def config(self) -> dict[str, Any]:
        """See :meth:`Network.config`."""
        return {
            "name": self.name, "ndim": self.ndim, "channels": self.channels, "orientation": self.orientation.code,
            **self._sizes,
        }  # fmt: skip
