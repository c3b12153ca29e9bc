"""Image pyramids for the fit: normalized intensities, coarse to fine, in a centered frame."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_stnreg.core.grid import Grid
from napari_stnreg.core.progress import check_stop
from napari_stnreg.ops.filters import gaussian
from napari_stnreg.ops.interpolation import constant, index_points, resize, sample_normalized, sampler_matrix
from napari_stnreg.ops.lattice import lattice_points

EDGE_SPREAD = 1.5
"""Standard deviation, in voxels, of what continues an image beyond its mask."""
HALVE_ABOVE = 2**21
"""Voxels above which an image is halved step by step; below it one smoothing is as fast."""
SMALLEST_SIDE = 16
"""A pyramid stops before a side gets shorter than this many voxels."""


@dataclass
class Level:
    """Both images at one resolution.

    Parameters
    ----------
    fixed, moving
        ``(1, 1, *shape)`` float32, about 0 to 1, each on its own grid.
    fixed_weight, moving_weight
        Masks ``(1, 1, *shape)`` between 0 and 1, or ``None`` for everywhere.
    fixed_grid, moving_grid
        Where their voxels lie in the centered world.
    """

    fixed: Tensor
    fixed_weight: Tensor | None
    fixed_grid: Grid
    moving: Tensor
    moving_weight: Tensor | None
    moving_grid: Grid

    def normalizing_matrix(self, affine: npt.NDArray[np.float64]) -> Tensor:
        """Return the map from the fixed world through an affine to the sampler's coordinates of the moving image.

        Parameters
        ----------
        affine
            ``(D + 1, D + 1)``, to the moving world.

        Returns
        -------
        Tensor
            Homogeneous ``(D + 1, D + 1)``; its results are ordered (x, y, z).
        """
        matrix = sampler_matrix(self.moving_grid.shape, np.linalg.inv(self.moving_grid.matrix) @ affine)
        return torch.as_tensor(matrix, dtype=torch.float32, device=self.fixed.device)

    def sampling_matrix(self, affine: npt.NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """Return ``linear`` ``(D, D)`` and ``shift`` ``(D,)`` from fixed voxel indices to the sampler's coordinates."""
        whole = self.normalizing_matrix(affine @ self.fixed_grid.matrix)
        return whole[:-1, :-1].contiguous(), whole[:-1, -1].contiguous()

    def points(self) -> Tensor:
        """Fixed voxel indices, ``(1, *shape, D)``."""
        return index_points(self.fixed.shape[2:], device=self.fixed.device)[None]

    def shrunk(self, factor: float) -> Level:
        """Return a coarser copy for fast previews."""
        shapes = [
            tuple(max(round(n / factor), min(n, 8)) for n in g.shape) for g in (self.fixed_grid, self.moving_grid)
        ]
        return Level(
            *_resized(self.fixed, self.fixed_weight, self.fixed_grid, shapes[0]),
            *_resized(self.moving, self.moving_weight, self.moving_grid, shapes[1]),
        )

    def sample_moving(self, coordinates: Tensor, *, masked: bool) -> tuple[Tensor, Tensor | None]:
        """Sample the moving image at normalized coordinates; returns values and where they are defined.

        Parameters
        ----------
        coordinates
            ``(B, *shape, D)``.
        masked
            Whether voxels outside the moving image get weight zero. Otherwise its border value continues outside and
            only its mask, if it has one, counts.
        """
        batch = coordinates.shape[0]
        moving = self.moving.expand(batch, *self.moving.shape[1:])
        warped = sample_normalized(moving, coordinates, padding="border")
        weight = None
        if self.moving_weight is not None:
            mask = self.moving_weight.expand(batch, *self.moving_weight.shape[1:])
            weight = sample_normalized(mask, coordinates.detach(), padding="zeros")
        elif masked:
            weight = (coordinates.detach().abs().amax(-1) <= 1).to(warped.dtype)[:, None]
        return warped, weight

    def warp_moving(self, affine: npt.NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """Warp the moving image to the fixed lattice by an affine; returns it with the weight of both masks."""
        coordinates = lattice_points(
            self.normalizing_matrix(affine @ self.fixed_grid.matrix)[None], self.fixed.shape[2:]
        )
        warped, weight = self.sample_moving(coordinates, masked=True)
        assert weight is not None
        return warped, weight if self.fixed_weight is None else weight * self.fixed_weight


def level_shapes(grid: Grid, shrink: float) -> tuple[int, ...]:
    """Return a grid's shape with voxels of ``shrink`` times the finest spacing; coarser axes are kept."""
    target = grid.spacing.min() * shrink
    sizes = np.asarray(grid.shape) * np.minimum(grid.spacing / target, 1.0)
    return tuple(max(round(float(n)), min(full, 8)) for n, full in zip(sizes, grid.shape, strict=True))


def shrink_factors(grid: Grid, levels: int | None, finest: float = 1.0) -> list[float]:
    """Shrink factors from coarse to fine, by powers of two, until the shortest long side is small enough."""
    longest = float(np.max(grid.extent / grid.spacing.min()))
    count = 1
    while count < (levels or 8) and longest / (finest * 2**count) >= 2 * SMALLEST_SIDE:
        count += 1
    count = min(count, levels) if levels else min(count, 6)
    return [finest * 2.0**k for k in reversed(range(count))]


class Pyramid:
    """Both images of a pair, normalized and ready at any resolution.

    Parameters
    ----------
    fixed, moving
        Normalized intensities.
    fixed_mask, moving_mask
        Boolean masks or ``None``.
    fixed_grid, moving_grid
        Where they lie; the fixed grid must be orthogonal.
    device
        Where the tensors go.

    Attributes
    ----------
    moving_scale
        By how much a transform enlarges the fixed world, if that is known; the moving image's levels are that much
        coarser, so that both show the same detail.
    """

    moving_scale = 1.0

    def __init__(
        self,
        fixed: npt.NDArray[np.float32],
        fixed_mask: npt.NDArray[np.bool_] | None,
        fixed_grid: Grid,
        moving: npt.NDArray[np.float32],
        moving_mask: npt.NDArray[np.bool_] | None,
        moving_grid: Grid,
        device: torch.device,
    ) -> None:
        self.fixed_grid, self.moving_grid, self.device = fixed_grid, moving_grid, device
        self._fixed = self._halved(fixed, fixed_mask, fixed_grid)
        self._moving = self._halved(moving, moving_mask, moving_grid)

    def _halved(self, values: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_] | None, grid: Grid) -> _HalvedImage:
        return _HalvedImage(self._tensor(values), None if mask is None else self._tensor(mask), grid)

    def _tensor(self, values: npt.NDArray[np.generic]) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(values, dtype=np.float32), device=self.device)[None, None]

    def moving_arrays(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_] | None]:
        """Return the normalized moving image and its mask as arrays."""
        mask = None if self._moving.mask is None else self._moving.mask[0, 0].cpu().numpy() > 0.5
        return self._moving.values[0, 0].cpu().numpy(), mask

    def with_moving(self, moving: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_] | None, grid: Grid) -> Pyramid:
        """Return the same fixed image with another moving image."""
        other = copy(self)
        other.moving_grid, other.moving_scale = grid, 1.0
        other._moving = self._halved(moving, mask, grid)
        return other

    def fixed_shape(self, shrink: float) -> tuple[int, ...]:
        """Return the fixed image's shape at a level."""
        return level_shapes(self.fixed_grid, shrink)

    def level(self, shrink: float, scale: float = 1.0) -> Level:
        """Return both images with voxels of ``shrink`` times the finest fixed spacing, smoothed before downsampling.

        The moving image's voxels are ``scale`` times larger, for maps that enlarge the fixed world by that factor.
        """
        finest = self.fixed_grid.spacing.min() / self._moving.finest
        return Level(*self._fixed.at(shrink), *self._moving.at(shrink * scale * self.moving_scale * finest))


class _HalvedImage:
    """An image and its mask, halved by averaging until it is small; coarse levels are made from a halved copy.

    Variances add up: the smoothing of a level makes up for what the averaging did already, so that every level is
    smoothed as if it were made at once.
    """

    def __init__(self, values: Tensor, mask: Tensor | None, grid: Grid) -> None:
        self.values, self.mask, self.grid = values, mask, grid
        self.finest = float(grid.spacing.min())
        self._halved = [(values if mask is None else values * mask, mask, np.zeros(grid.ndim))]

    def at(self, shrink: float) -> tuple[Tensor, Tensor | None, Grid]:
        """Return the image, its mask and its grid with voxels of ``shrink`` times the finest spacing."""
        k = 0
        while 2 ** (k + 2) <= shrink and self._halved[k][0].numel() > HALVE_ABOVE:
            k += 1
            if k == len(self._halved):
                self._halve(level_shapes(self.grid, 2**k))
        inside, weight, variance = self._halved[k]
        shape = level_shapes(self.grid, shrink)
        ratios = np.asarray(inside.shape[2:]) / shape
        sigmas = np.sqrt(np.maximum(0.25 * (ratios**2 - 1) - variance, 0)).tolist()

        def smaller(x: Tensor) -> Tensor:
            return resize(gaussian(x, sigmas, edge="nearest"), shape, antialias=False)

        return _finish(smaller(inside), None if weight is None else smaller(weight), self.grid.resized(shape))

    def _halve(self, shape: Sequence[int]) -> None:
        check_stop()
        inside, weight, variance = self._halved[-1]
        ratios = np.asarray(inside.shape[2:]) / shape
        # linear interpolation halfway between two voxels averages them: a variance of 1/4
        variance = (variance + np.where(ratios > 1, 0.25, 0.0)) / ratios**2
        half = None if weight is None else resize(weight, shape, antialias=False)
        self._halved.append((resize(inside, shape, antialias=False), half, variance))


def _resized(
    values: Tensor, mask: Tensor | None, grid: Grid, shape: Sequence[int]
) -> tuple[Tensor, Tensor | None, Grid]:
    if mask is None:
        return resize(values, shape), None, grid.resized(shape)
    return _finish(resize(values * mask, shape), resize(mask, shape), grid.resized(shape))


def _finish(inside: Tensor, weight: Tensor | None, grid: Grid) -> tuple[Tensor, Tensor | None, Grid]:
    if weight is None:
        return inside, None, grid
    # Smooth only inside the mask, so that nothing from outside bleeds in, and extend the inside by a few
    # voxels beyond the mask, so that neither sampling nor a gradient sees an edge there.
    known = (weight > 0.5).to(inside.dtype)
    near = gaussian(weight, EDGE_SPREAD, edge="nearest")
    spread = gaussian(inside, EDGE_SPREAD, edge="nearest") / near.clamp_min(1e-3)
    return torch.where(known > 0, inside / weight.clamp_min(1e-3), spread), known, grid


def upsample(field: Tensor, shape: Sequence[int]) -> Tensor:
    """Resample a field ``(B, D, *shape)``, in voxels of its own grid, to another shape over the same extent."""
    if tuple(field.shape[2:]) == tuple(shape):
        return field
    ratio = constant([a / b for a, b in zip(shape, field.shape[2:], strict=True)], field)
    mode = "bilinear" if field.ndim == 4 else "trilinear"
    resized = F.interpolate(field, size=tuple(shape), mode=mode, align_corners=False)
    return resized * ratio.to(field.dtype).reshape(1, -1, *[1] * (field.ndim - 2))
