"""The multi-step networks of ICON, GradICON and uniGradICON, for weights that were trained with them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.networks.array_orientation import ArrayOrientation
from napari_stnreg.networks.base import LocalizationNetwork, centered_grid
from napari_stnreg.networks.blocks import average_pool
from napari_stnreg.transforms import make_family

Tree = Mapping[str, Any]
"""JSON-ready structure: ``{"unet": [down, up]}``, ``{"half": tree}`` or ``{"first": tree, "second": tree}``."""
OUTPUT_SCALE = 0.1
"""Factor of the U-Net's output, in lengths of the image."""


class ResidualUNet(nn.Module):
    """A U-Net whose levels add the resized input of their convolution, the ``UNet2`` of icon_registration.

    Parameters
    ----------
    ndim
        Number of axes.
    down
        Channels of the input and after each downsampling by two.
    up
        Channels after each upsampling, finest first.
    """

    def __init__(self, ndim: int, down: Sequence[int], up: Sequence[int]) -> None:
        super().__init__()
        two = ndim == 2
        convolution, transposed = (nn.Conv2d, nn.ConvTranspose2d) if two else (nn.Conv3d, nn.ConvTranspose3d)
        norm = nn.BatchNorm2d if two else nn.BatchNorm3d
        self.mode = "bilinear" if two else "trilinear"
        inputs = [a + b for a, b in zip(down[1:], [*up[1:], 0], strict=True)]
        self.downConvs = nn.ModuleList(convolution(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(down))
        self.upConvs = nn.ModuleList(transposed(a, b, 4, stride=2, padding=1) for a, b in zip(inputs, up, strict=True))
        self.batchNorms = nn.ModuleList(norm(n) for n in up)
        self.lastConv = convolution(down[0] + up[0], ndim, 3, padding=1)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """Return displacements ``(B, D, *shape)`` in lengths of the image along each axis."""
        x, skips = torch.cat([moving, fixed], dim=1), []
        for layer in self.downConvs:
            skips.append(x)
            y = layer(F.leaky_relu(x))
            x = y + _with_channels(average_pool(x, [2] * (x.ndim - 2)), y.shape[1])
        for layer, norm in zip(reversed(self.upConvs), reversed(self.batchNorms), strict=True):
            y = layer(F.leaky_relu(x))
            x = norm(y + F.interpolate(_with_channels(x, y.shape[1]), scale_factor=2, mode=self.mode))
            skip = skips.pop()
            for axis in range(2, skip.ndim):
                x = x.narrow(axis, 0, skip.shape[axis])
            x = torch.cat([x, skip], dim=1)
        return cast(Tensor, self.lastConv(x) * OUTPUT_SCALE)


def _with_channels(x: Tensor, count: int) -> Tensor:
    """Return the first channels, or zeros followed by all channels."""
    if x.shape[1] >= count:
        return x[:, :count]
    return torch.cat([x.new_zeros(x.shape[0], count - x.shape[1], *x.shape[2:]), x], dim=1)


Map = Callable[[Tensor], Tensor]
"""From coordinates ``(B, D, *shape)``, 0 to 1 between the centers of the outer voxels, to others."""


def identity_map(like: Tensor) -> Tensor:
    """Return the coordinates of the voxels of an image, ``(1, D, *shape)``."""
    axes = [torch.linspace(0, 1, n, dtype=like.dtype, device=like.device) for n in like.shape[2:]]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def _sample(image: Tensor, coordinates: Tensor) -> Tensor:
    where = (2 * coordinates - 1).movedim(1, -1).flip(-1).expand(image.shape[0], *[-1] * (image.ndim - 1))
    return F.grid_sample(image, where, padding_mode="border", align_corners=True)


class Field(nn.Module):
    """One U-Net, whose output is a displacement."""

    def __init__(self, ndim: int, tree: Tree) -> None:
        super().__init__()
        self.net = ResidualUNet(ndim, *tree["unet"])

    def forward(self, moving: Tensor, fixed: Tensor, identities: dict[Any, Tensor]) -> Map:
        """Return the map of the pair."""
        field = self.net(moving, fixed)

        def apply(coordinates: Tensor) -> Tensor:
            on_grid = coordinates is identities.get(field.shape[2:])
            return coordinates + (field if on_grid else _sample(field, coordinates))

        return apply


class HalfResolution(nn.Module):
    """A network that sees both images at half the resolution."""

    def __init__(self, ndim: int, tree: Tree) -> None:
        super().__init__()
        self.net = build(ndim, tree["half"])

    def forward(self, moving: Tensor, fixed: Tensor, identities: dict[Any, Tensor]) -> Map:
        """Return the map of the pair."""
        halves = [average_pool(image, [2] * (image.ndim - 2)) for image in (moving, fixed)]
        return cast(Map, self.net(*halves, identities))


class TwoSteps(nn.Module):
    """A network, and a second one that sees the image as the first has warped it."""

    def __init__(self, ndim: int, tree: Tree) -> None:
        super().__init__()
        self.netPhi, self.netPsi = build(ndim, tree["first"]), build(ndim, tree["second"])

    def forward(self, moving: Tensor, fixed: Tensor, identities: dict[Any, Tensor]) -> Map:
        """Return the map of the pair."""
        here = identities.setdefault(moving.shape[2:], identity_map(moving))
        first = self.netPhi(moving, fixed, identities)
        second = self.netPsi(_sample(moving, first(here)), fixed, identities)
        return lambda coordinates: first(second(coordinates))


def build(ndim: int, tree: Tree) -> nn.Module:
    """Build the network of a structure.

    Raises
    ------
    InputError
        If the structure is not known.
    """
    for key, kind in (("unet", Field), ("half", HalfResolution), ("first", TwoSteps)):
        if key in tree:
            made: nn.Module = kind(ndim, tree)
            return made
    raise InputError(f"There is no part '{next(iter(tree), '')}' of an ICON network.")


class IconNetwork(LocalizationNetwork, selectable=False):
    """A tree of U-Nets that refine each other's displacement, at one size of the images.

    Parameters
    ----------
    ndim, channels
        See :class:`Network`.
    tree
        See :data:`Tree`.
    shape
        Size of the images in our axis order; others are cropped or padded.
    orientation
        See :class:`~.array_orientation.ArrayOrientation`.

    References
    ----------
    Greer et al., ICON: learning regular maps through inverse consistency, ICCV 2021; Tian et al., GradICON, CVPR 2023;
    Tian et al., uniGradICON: a foundation model for medical image registration, MICCAI 2024.
    """

    name = "icon"

    def __init__(
        self, ndim: int, channels: int = 1, *, tree: Tree, shape: Sequence[int], orientation: str = "zyx"
    ) -> None:
        super().__init__(ndim, channels)
        self.family = make_family("displacement")
        self.tree, self.shape = dict(tree), tuple(int(n) for n in shape)
        self.orientation = ArrayOrientation(orientation, ndim)
        self.root = build(ndim, tree)

    def domain(self, grid: Grid) -> Grid:
        """Return the grid cropped or extended to the network's size."""
        return centered_grid(grid, self.shape)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Return the displacement in voxels, ``(B, D, *shape)``."""
        fixed, moving = self.orientation.to_network(fixed), self.orientation.to_network(moving)
        here = identity_map(fixed)
        moved = self.root(moving, fixed, {fixed.shape[2:]: here})(here)
        size = here.new_tensor([n - 1 for n in fixed.shape[2:]]).reshape(-1, *[1] * self.ndim)
        return self.orientation.from_network((moved - here) * size)

    def config(self) -> dict[str, Any]:
        """See :meth:`Network.config`."""
        return {
            "name": self.name, "ndim": self.ndim, "channels": self.channels, "tree": self.tree,
            "shape": list(self.shape), "orientation": self.orientation.code,
        }  # fmt: skip
