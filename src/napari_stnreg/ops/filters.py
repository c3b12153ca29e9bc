"""Separable box and Gaussian filters built of shifted additions.

On the CPU these are several times faster than grouped convolutions or average pooling: an addition over a slice streams
through the cache, while a depthwise ``conv3d`` of a 7-voxel kernel costs some 7 ms an axis at 80 x 96 x 80. For the
same reason large batches are filtered one volume at a time. Small images are the exception: there the launches cost
more than the arithmetic, and one product with a banded matrix for each axis does the work of a dozen additions. On a
GPU the same holds for sides of up to 256 voxels. All filters are linear and carry their own adjoint, because
differentiating through slices would allocate a zero-filled volume for each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from napari_stnreg.core.progress import check_stop

Edge = Literal["zero", "nearest"]


@dataclass(frozen=True)
class FilterParameters:
    """Sizes at which the filters change their algorithm. They affect speed alone; found by timing on CPU and GPU."""

    split_voxels: int = 65536
    """Fewest voxels of a volume that is filtered batch entry by batch entry; smaller ones stay in the cache anyway."""
    doubling_radius: int = 3
    """Largest box radius that is summed offset by offset; larger ones by doubling."""
    matrix_side: int = 160
    """Longest axis for which a matrix product per axis is faster than shifted additions on the CPU."""
    matrix_voxels: int = 40_000
    """Most voxels for the same."""
    device_matrix_side: int = 256
    """Longest axis for the same on a GPU, where a product takes less time than launching a dozen additions."""


PARAMETERS = FilterParameters()


def per_axis(value: float | Sequence[float], ndim: int) -> tuple[float, ...]:
    """Expand a number, or check a sequence, to one number per spatial axis."""
    if isinstance(value, (int, float)):
        return (float(value),) * ndim
    values = tuple(float(v) for v in value)
    if len(values) != ndim:
        raise ValueError(f"Expected one value or {ndim}, got {len(values)}.")
    return values


def box_sum(x: Tensor, radius: int | Sequence[int]) -> Tensor:
    """Sum over a window of ``2 r + 1`` voxels along every spatial axis, with zero outside the volume.

    Parameters
    ----------
    x
        ``(B, C, *shape)``.
    radius
        Half width of the window in voxels, one for all axes or one each.

    Returns
    -------
    Tensor
        Same shape as ``x``; differentiable.
    """
    radii = tuple(int(r) for r in per_axis(radius, x.ndim - 2))
    if not any(radii):
        return x
    if not (torch.is_grad_enabled() and x.requires_grad):
        return _apply_box(x, radii)
    result: Tensor = _BoxSum.apply(x, radii)  # type: ignore[no-untyped-call]
    return result


def box_sums(images: Sequence[Tensor], radius: int | Sequence[int]) -> list[Tensor]:
    """:func:`box_sum` of several images of one shape without gradient, in one batch where that is faster."""
    if len(images[0]) == 1 and _use_matrices(images[0]):
        return list(box_sum(torch.cat(list(images)), radius).split(1))
    return [box_sum(image, radius) for image in images]


def sparse_box_sum(x: Tensor, radius: int, step: int) -> Tensor:
    """:func:`box_sum` around every ``step``-th voxel along each axis, without gradient."""
    every = slice(None, None, step)
    if not _use_matrices(x):
        return _apply_box(x, (radius,) * (x.ndim - 2))[(slice(None), slice(None), *[every] * (x.ndim - 2))]
    return _by_matrices(x, [_box_matrix(n, radius, x)[every] for n in x.shape[2:]])


def gaussian(x: Tensor, sigma: float | Sequence[float], edge: Edge = "zero", truncate: float = 4.0) -> Tensor:
    """Gaussian smoothing along every spatial axis; the kernel sums to one.

    Parameters
    ----------
    x
        ``(B, C, *shape)``.
    sigma
        Standard deviation in voxels, one for all axes or one each; 0 leaves an axis alone.
    edge
        Values outside the volume: zeros, or the nearest voxel's value.
    truncate
        Standard deviations at which the kernel is cut.

    Returns
    -------
    Tensor
        Same shape as ``x``; differentiable.
    """
    sigmas = per_axis(sigma, x.ndim - 2)
    if not any(s > 0 for s in sigmas):
        return x
    if not (torch.is_grad_enabled() and x.requires_grad):
        return _apply_gaussian(x, sigmas, edge, truncate, adjoint=False)
    result: Tensor = _Gaussian.apply(x, sigmas, edge, truncate)  # type: ignore[no-untyped-call]
    return result


class _BoxSum(torch.autograd.Function):
    """The box filter is its own adjoint."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, radii: tuple[int, ...]) -> Tensor:
        ctx.radii = radii
        return _apply_box(x, radii)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _apply_box(grad, ctx.radii), None


class _Gaussian(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sigmas: tuple[float, ...], edge: Edge, truncate: float) -> Tensor:
        ctx.options = (sigmas, edge, truncate)
        return _apply_gaussian(x, *ctx.options, adjoint=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _apply_gaussian(grad, *ctx.options, adjoint=True), None, None, None


def _apply_box(x: Tensor, radii: tuple[int, ...]) -> Tensor:
    if _use_matrices(x):
        made = {(n, r): _box_matrix(n, r, x) for n, r in set(zip(x.shape[2:], radii, strict=True)) if r}
        return _by_matrices(x, [made.get(axis) for axis in zip(x.shape[2:], radii, strict=True)])
    return _by_volume(x, lambda part: _box(part, radii))


def _apply_gaussian(x: Tensor, sigmas: tuple[float, ...], edge: Edge, truncate: float, *, adjoint: bool) -> Tensor:
    if _use_matrices(x):
        axes = list(zip(x.shape[2:], sigmas, strict=True))
        made = {(n, s): _gaussian_matrix(n, s, edge, truncate, adjoint, x) for n, s in set(axes) if s > 0}
        return _by_matrices(x, [made.get(axis) for axis in axes])
    return _by_volume(x, lambda part: _smooth(part, sigmas, edge, truncate, adjoint=adjoint))


def _use_matrices(x: Tensor) -> bool:
    if x.dtype not in (torch.float32, torch.float64):
        return False
    if x.device.type != "cpu":
        return max(x.shape[2:]) <= PARAMETERS.device_matrix_side
    return max(x.shape[2:]) <= PARAMETERS.matrix_side and x[0, 0].numel() <= PARAMETERS.matrix_voxels


def _by_matrices(x: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """Multiply each axis by a banded ``(m, n)`` matrix; ``None`` leaves an axis alone."""
    *others, last = matrices
    x = x if last is None else x @ last.T
    for axis, matrix in enumerate(others, start=2):
        if matrix is not None:
            x = (matrix @ x.flatten(axis + 1)).reshape(*x.shape[:axis], len(matrix), *x.shape[axis + 1 :])
    return x.contiguous()


def _box_matrix(size: int, radius: int, like: Tensor) -> Tensor:
    if like.device.type == "cpu":
        return _cpu_box_matrix(size, radius, like.dtype)
    return torch.from_numpy(_box_array(size, radius)).to(like.dtype).to(like.device, non_blocking=True)


def _gaussian_matrix(size: int, sigma: float, edge: Edge, truncate: float, adjoint: bool, like: Tensor) -> Tensor:
    if like.device.type == "cpu":
        return _cpu_gaussian_matrix(size, sigma, edge, truncate, adjoint, like.dtype)
    array = _gaussian_array(size, sigma, edge, truncate)
    matrix = torch.from_numpy(array).to(like.dtype).to(like.device, non_blocking=True)
    return matrix.T if adjoint else matrix


@lru_cache(maxsize=256)
def _cpu_box_matrix(size: int, radius: int, dtype: torch.dtype) -> Tensor:
    return _box(torch.eye(size, dtype=dtype)[None, None], (radius, 0))[0, 0]


@lru_cache(maxsize=256)
def _cpu_gaussian_matrix(
    size: int, sigma: float, edge: Edge, truncate: float, adjoint: bool, dtype: torch.dtype
) -> Tensor:
    return _smooth(torch.eye(size, dtype=dtype)[None, None], (sigma, 0.0), edge, truncate, adjoint=adjoint)[0, 0]


@lru_cache(maxsize=32)
def _box_array(size: int, radius: int) -> npt.NDArray[np.float64]:
    return (_distances(size) <= radius).astype(np.float64)


@lru_cache(maxsize=32)
def _gaussian_array(size: int, sigma: float, edge: Edge, truncate: float) -> npt.NDArray[np.float64]:
    """Return the matrix of a Gaussian along an axis; cheaper than filtering the unit matrix at every step."""
    kernel = np.array(gaussian_kernel(sigma, truncate))
    matrix = np.append(kernel, 0.0)[np.minimum(_distances(size), len(kernel))]
    if edge == "nearest":
        beyond = np.append(np.cumsum(kernel[::-1])[::-1], 0.0)[np.minimum(np.arange(size) + 1, len(kernel))]
        matrix[:, 0] += beyond
        matrix[:, -1] += beyond[::-1]
    return np.asarray(matrix)


@lru_cache(maxsize=32)
def _distances(size: int) -> npt.NDArray[np.int64]:
    return np.asarray(np.abs(np.subtract.outer(np.arange(size), np.arange(size))))


def _by_volume(x: Tensor, apply: Callable[[Tensor], Tensor]) -> Tensor:
    """Filter ``(B, C, *shape)``, volume by volume where that keeps the work in the processor's cache."""
    count = x.shape[0] * x.shape[1]
    if x.device.type != "cpu" or count <= 1 or x[0, 0].numel() < PARAMETERS.split_voxels:
        return apply(x)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            out[b : b + 1, c : c + 1] = apply(x[b : b + 1, c : c + 1])
    return out


def _box(x: Tensor, radii: Sequence[int]) -> Tensor:
    for axis, radius in enumerate(radii, start=2):
        check_stop()
        if radius > PARAMETERS.doubling_radius:
            x = _box_by_doubling(x, axis, radius)
        elif radius > 0:
            x = _box_by_shifts(x, axis, radius)
    return x


def _box_by_shifts(x: Tensor, axis: int, radius: int) -> Tensor:
    """Sum a box by one addition per neighbor."""
    size = x.shape[axis]
    out = x.clone(memory_format=torch.contiguous_format)
    for shift in range(1, min(radius, size - 1) + 1):
        out.narrow(axis, shift, size - shift).add_(x.narrow(axis, 0, size - shift))
        out.narrow(axis, 0, size - shift).add_(x.narrow(axis, shift, size - shift))
    return out


def _box_by_doubling(x: Tensor, axis: int, radius: int) -> Tensor:
    """Sums of 1, 2, 4, ... neighbors, those added up that make the window: its cost grows with log2 of the width.

    Unlike a difference of cumulated sums this loses no precision on long axes.
    """
    size = x.shape[axis]
    radius = min(radius, size - 1)
    shape = list(x.shape)
    shape[axis] = size + 2 * radius
    run = x.new_zeros(shape)
    run.narrow(axis, radius, size).copy_(x)
    out = torch.zeros_like(x, memory_format=torch.contiguous_format)
    length, start, width = 1, 0, 2 * radius + 1
    while width:
        if width & length:
            out.add_(run.narrow(axis, start, size))
            start += length
            width -= length
        if width:
            rest = run.shape[axis] - length
            run = run.narrow(axis, 0, rest) + run.narrow(axis, length, rest)
            length *= 2
    return out


def gaussian_kernel(sigma: float, truncate: float = 4.0) -> list[float]:
    """Weights at distances 0, 1, ... of a Gaussian cut at some standard deviations; the two-sided sum is one."""
    radius = max(1, math.ceil(truncate * sigma))
    weights = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(radius + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    return [w / total for w in weights]


def _smooth(x: Tensor, sigmas: Sequence[float], edge: Edge, truncate: float, *, adjoint: bool) -> Tensor:
    for axis, sigma in enumerate(sigmas, start=2):
        if sigma <= 0:
            continue
        kernel = gaussian_kernel(sigma, truncate)
        size = x.shape[axis]
        out = x * kernel[0]
        for k in range(1, min(len(kernel), size)):
            check_stop()
            out.narrow(axis, k, size - k).add_(x.narrow(axis, 0, size - k), alpha=kernel[k])
            check_stop()
            out.narrow(axis, 0, size - k).add_(x.narrow(axis, k, size - k), alpha=kernel[k])
        if edge == "nearest":
            _add_edges(out, x, axis, kernel, adjoint=adjoint)
        x = out
    return x


def _add_edges(out: Tensor, x: Tensor, axis: int, kernel: Sequence[float], *, adjoint: bool) -> None:
    """Give the outermost voxels the part of the kernel that reaches beyond them (or, in the adjoint, collect it)."""
    size = x.shape[axis]
    # Beyond[i]: the kernel's weight farther than i voxels away, which a voxel i steps inside the border has outside.
    beyond = [sum(kernel[i + 1 :]) for i in range(min(len(kernel) - 1, size))]
    tail = x.new_tensor(beyond).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    near = (0, len(beyond))
    far = (size - len(beyond), len(beyond))
    for edge_at, (start, count), weights in ((0, near, tail), (size - 1, far, tail.flip(axis))):
        if adjoint:
            gathered = (x.narrow(axis, start, count) * weights).sum(axis, keepdim=True)
            out.narrow(axis, edge_at, 1).add_(gathered)
        else:
            out.narrow(axis, start, count).add_(x.narrow(axis, edge_at, 1) * weights)
