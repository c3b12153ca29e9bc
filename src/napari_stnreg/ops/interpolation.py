"""The sampler: the only place that uses ``grid_sample``.

Everywhere else points are voxel indices in (z, y, x) order with a voxel's center at its integer index. Here, and only
here, they become normalized (x, y, z) coordinates with ``align_corners=False`` (the outer *faces* of the image at -1
and 1), which is the convention that stays right for an axis of a single voxel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_stnreg.core.progress import check_stop
from napari_stnreg.ops.filters import gaussian

_UNINTERRUPTED_POINTS = 2**22
"""Points that are read at once; a stop is noticed in between. They take a quarter of a second."""

Padding = Literal["zeros", "border", "reflection"]
Kernel = Literal["linear", "nearest", "cubic"]
_KERNELS = {"linear": "bilinear", "cubic": "bicubic"}


def index_points(
    shape: Sequence[int], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Voxel indices of a whole grid, ``(*shape, D)``, in (z, y, x) order."""
    axes = [torch.arange(n, device=device, dtype=dtype) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def constant(values: Sequence[float], like: Tensor) -> Tensor:
    """Make a small tensor with the dtype and device of another; does not synchronize with the device."""
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)


def normalized(points: Tensor, shape: Sequence[int]) -> Tensor:
    """Voxel indices ``(..., D)`` in (z, y, x) order to ``grid_sample`` coordinates in (x, y, z) order."""
    scale = constant([2.0 / n for n in shape], points)
    shift = constant([1.0 / n - 1.0 for n in shape], points)
    return torch.addcmul(shift, points, scale).flip(-1)


def sample(
    image: Tensor,
    points: Tensor,
    *,
    padding: Padding = "zeros",
    mode: Kernel = "linear",
) -> Tensor:
    """Read an image between its voxels.

    Parameters
    ----------
    image
        ``(B, C, *shape)``.
    points
        Voxel indices of the image, ``(B, *out, D)`` in (z, y, x) order.
    padding
        Outside the image: zeros, the value at the border, or the image mirrored at its outer faces.
    mode
        Linear (bilinear or trilinear), the nearest voxel (the integer kernel of Jaderberg et al., see
        :func:`nearest_index`), or in 2D cubic convolution (Keys 1981, ``a = -0.75``).

    Returns
    -------
    Tensor
        ``(B, C, *out)``; differentiable in the image and, except for the nearest voxel, in the points.
    """
    if mode == "nearest":
        return _sample_nearest(*_broadcast(image, points), padding, 0.0)
    image, grid = _broadcast(image, normalized(points, image.shape[2:]).to(image.dtype))
    out_shape = points.shape[1:-1]
    ndim = points.shape[-1]
    if len(out_shape) != ndim:  # a list of points, not a grid: give it the axes that grid_sample wants
        grid = grid.reshape(grid.shape[0], *([1] * (ndim - 1)), -1, ndim)
    result = _grid_sample(image, grid, padding, mode)
    return result.reshape(*result.shape[:2], *out_shape)


def sample_normalized(image: Tensor, grid: Tensor, *, padding: Padding = "zeros", mode: Kernel = "linear") -> Tensor:
    """Sampling at coordinates that are normalized already, ``(B, *out, D)``; for loops that keep them so."""
    return _grid_sample(*_broadcast(image, grid), padding, mode)


def _broadcast(image: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Expand one image that is read at many sets of points, or one set of points of many images."""
    if image.shape[0] == grid.shape[0]:
        return image, grid
    batch = max(image.shape[0], grid.shape[0])
    return image.expand(batch, *image.shape[1:]), grid.expand(batch, *grid.shape[1:])


def nearest_index(points: Tensor) -> Tensor:
    """Return the index of the nearest voxel, ``floor(x + 1/2)``: halfway between two voxels it is the upper one.

    This is the integer kernel of Jaderberg et al., 2015, equation 4. Rounding halves to even, which :func:`torch.round`
    and :func:`torch.nn.functional.grid_sample` do, would alternate from one voxel to the next.

    Parameters
    ----------
    points
        Voxel coordinates of any shape.

    Returns
    -------
    Tensor
        Indices, int64.
    """
    return (points + 0.5).floor().to(torch.int64)


def sampler_matrix(shape: Sequence[int], to_index: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the matrix from the world to the sampler's coordinates of an image.

    Parameters
    ----------
    shape
        Of the image.
    to_index
        Homogeneous ``(D + 1, D + 1)``, from the world to the image's voxel indices in (z, y, x) order.

    Returns
    -------
    array
        Homogeneous ``(D + 1, D + 1)``; what it gives is normalized and ordered (x, y, z).
    """
    ndim = len(shape)
    size = np.asarray(shape, dtype=np.float64)
    normalize = np.eye(ndim + 1)
    normalize[:-1, :-1] = np.diag(2 / size)
    normalize[:-1, -1] = 1 / size - 1
    matrix = normalize @ to_index
    return np.concatenate([matrix[:ndim][::-1], matrix[ndim:]])


def _sample_nearest(image: Tensor, points: Tensor, padding: Padding, tolerance: float) -> Tensor:
    """Read the nearest voxels at voxel coordinates ``(B, *out, D)``; a half that was missed by rounding is a half."""
    shape = image.shape[2:]
    flat = torch.zeros(points.shape[:-1], dtype=torch.int64, device=points.device)
    inside = torch.ones_like(flat, dtype=torch.bool)
    for axis, n in enumerate(shape):
        position = points[..., axis].detach()
        if padding == "reflection":  # mirrored at the outer faces, -1/2 and n - 1/2
            position = (position + 0.5).remainder(2 * n)
            position = torch.minimum(position, 2 * n - position) - 0.5
        index = nearest_index(position + tolerance * n)
        if padding == "zeros":
            inside &= (index >= 0) & (index < n)
        flat = flat * n + index.clamp_(0, n - 1)
    batch, channels = image.shape[:2]
    where = flat.reshape(batch, 1, -1).expand(batch, channels, -1)
    result = image.reshape(batch, channels, -1).gather(2, where).reshape(batch, channels, *points.shape[1:-1])
    if padding == "zeros":
        result = result * inside[:, None]
    if points.requires_grad:  # the gradient with respect to the points is zero, not missing
        result = result + (points * 0).sum(dim=-1)[:, None]
    return result


def _has_invalid_gradient(grid: Tensor) -> bool:
    """Return whether the gradient of a grid with coordinates that are not finite is needed on the CPU.

    There the forward pass of torch returns the value of some voxel, and the backward pass reads memory at such
    coordinates: torch 2.13 ends with a segmentation fault in 2D with border or reflection.
    """
    is_needed = grid.requires_grad and grid.device.type == "cpu" and not torch.compiler.is_compiling()
    return is_needed and not bool(grid.detach().sum().isfinite())


def _grid_sample(image: Tensor, grid: Tensor, padding: Padding, mode: Kernel) -> Tensor:
    if mode == "nearest":
        size = constant(list(image.shape[2:]), grid)
        points = (grid.flip(-1) + 1) * (size / 2) - 0.5
        # Normalized coordinates miss a half by some units in the last place of the image's width.
        return _sample_nearest(image, points, padding, 4 * torch.finfo(grid.dtype).eps)
    kernel = _KERNELS[mode]
    if _has_invalid_gradient(grid):
        # The value at an invalid coordinate is invalid, so that the loss is, too.
        return _grid_sample(image, grid.nan_to_num(), padding, mode) + (0 * grid).sum(dim=-1)[:, None]
    threads = torch.get_num_threads() if image.device.type == "cpu" else 1
    out_shape, ndim = grid.shape[1:-1], grid.shape[-1]
    count = grid[0, ..., 0].numel()
    is_long = image.device.type == "cpu" and count > _UNINTERRUPTED_POINTS
    if grid.shape[0] > 1 or (threads < 2 and not is_long) or grid.numel() < 100_000:
        return F.grid_sample(image, grid, kernel, padding, align_corners=False)
    # On the CPU grid_sample runs in parallel over the batch only, so a single image is read in as many parts as there
    # are threads; the order of the points in the list does not matter.
    flat = grid.reshape(1, *[1] * (ndim - 1), -1, ndim)
    if is_long:
        pieces = []
        for part in flat.split(_UNINTERRUPTED_POINTS, dim=-2):
            check_stop()
            pieces.append(_grid_sample(image, part, padding, mode).flatten(2))
        return torch.cat(pieces, dim=2).reshape(1, image.shape[1], *out_shape)
    cut = count - count % threads
    parts = flat[..., :cut, :].reshape(threads, *[1] * (ndim - 1), cut // threads, ndim)
    many = F.grid_sample(image.expand(threads, *image.shape[1:]), parts, kernel, padding, align_corners=False)
    result = many.transpose(0, 1).reshape(1, image.shape[1], cut)
    if cut < count:
        rest = F.grid_sample(image, flat[..., cut:, :], kernel, padding, align_corners=False)
        result = torch.cat([result, rest.reshape(1, image.shape[1], -1)], dim=2)
    return result.reshape(1, image.shape[1], *out_shape)


def self_composed(flow: Tensor, times: int) -> Tensor:
    """Compose a displacement with itself ``times`` times: ``u <- u + u(x + u)``.

    Parameters
    ----------
    flow
        ``(B, D, *shape)`` in voxels, (z, y, x) order.
    times
        Number of doublings.

    Returns
    -------
    Tensor
        ``(B, D, *shape)`` in voxels; between voxels the displacement is linear, beyond the border constant.
    """
    shape = flow.shape[2:]
    # The loop stays in normalized (x, y, z) coordinates: no axes are reordered between two doublings.
    scale = constant([2.0 / n for n in reversed(shape)], flow)
    scale = scale.reshape(-1, *[1] * len(shape))
    here = normalized(index_points(shape, device=flow.device, dtype=flow.dtype), shape)[None]
    moved = flow.flip(1) * scale
    for _ in range(times):
        moved = moved + _grid_sample(moved, here + moved.movedim(1, -1), "border", "linear")
    return (moved / scale).flip(1)


def resize(image: Tensor, shape: Sequence[int], *, antialias: bool = True) -> Tensor:
    """Resample to another shape over the same extent (outer faces stay), smoothing first where it gets coarser.

    The smoothing has a standard deviation of 0.5 times the ratio of voxel sizes beyond one, about what averaging
    over the coarse voxel does, without its ringing.
    """
    if tuple(image.shape[2:]) == tuple(shape):
        return image
    if antialias:
        image = smoothed_for(image, [a / b for a, b in zip(image.shape[2:], shape, strict=True)])
    mode = "bilinear" if image.ndim == 4 else "trilinear"
    return F.interpolate(image, size=tuple(shape), mode=mode, align_corners=False)


def smoothed_for(image: Tensor, ratios: Sequence[float]) -> Tensor:
    """Smooth an image ``(B, C, *shape)`` so that every ``ratios``-th voxel can be read without aliasing."""
    sigmas = [0.5 * math.sqrt(max(r * r - 1, 0.0)) for r in ratios]
    return gaussian(image, [s if s > 0.05 else 0.0 for s in sigmas], edge="nearest")
