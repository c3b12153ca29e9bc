"""Exhaustive translation search: correlation by Fourier transform, for a batch of rotations of the moving image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from napari_stnreg.core.grid import FloatArray
from napari_stnreg.core.progress import check_stop
from napari_stnreg.evaluation.chance import edge_features
from napari_stnreg.ops.lattice import lattice_points
from napari_stnreg.registration.pyramid import Level

BATCH_VOXELS = 2_000_000
"""Padded voxels that are transformed in one batch."""


def edges(image: Tensor) -> Tensor:
    """Gradient magnitude of ``(1, 1, *shape)``: what images of different contrast have in common."""
    squares = [g.square() for g in torch.gradient(image[0, 0])]
    return torch.stack(squares).sum(0).sqrt()[None, None]


def best_translations(
    level: Level, linears: Sequence[FloatArray], *, by_edges: bool = False
) -> list[tuple[float, FloatArray]]:
    """Return the best shift for each of several linear maps, by correlation; outside, an image has its mean.

    Parameters
    ----------
    level
        Both images; keep it small.
    linears
        ``(D, D)`` matrices, fixed world to moving world; the two images' middles are put on each other before shifting.
    by_edges
        Correlate gradient magnitudes, for images of different contrast.

    Returns
    -------
    list of (float, array)
        For each linear map the correlation at its best shift, at most 1, and the ``(D + 1, D + 1)`` affine.
    """
    fixed, moving = (edges(level.fixed), edges(level.moving)) if by_edges else (level.fixed, level.moving)
    grid, ndim = level.fixed_grid, level.fixed_grid.ndim
    middle = level.moving_grid.center
    size = _reach(level, linears)
    padded = [int(next_fast_len(int(a + b - 1), real=True)) for a, b in zip(grid.shape, size, strict=True)]
    axes = tuple(range(2, ndim + 2))

    weight = torch.ones_like(fixed) if level.fixed_weight is None else level.fixed_weight
    centered = (fixed - _mean(fixed, weight)) * weight
    spectrum = torch.fft.rfftn(centered, s=padded, dim=axes).conj()
    own = centered.square().sum()
    source = replace(level, moving=moving)

    found: list[tuple[float, FloatArray]] = []
    step = max(BATCH_VOXELS // math.prod(padded), 1)
    for start in range(0, len(linears), step):
        some = [_through(a, grid.linear, size, middle) for a in linears[start : start + step]]
        normalized = torch.stack([source.normalizing_matrix(m) for m in some])
        seen, inside = source.sample_moving(lattice_points(normalized, size.tolist()), masked=True)
        assert inside is not None
        each = (-1, *[1] * (ndim + 1))
        mean = (seen * inside).flatten(1).sum(1) / inside.flatten(1).sum(1).clamp_min(1e-6)
        seen = (seen - mean.reshape(each)) * inside
        product = torch.fft.rfftn(seen, s=padded, dim=axes) * spectrum
        correlation = torch.fft.irfftn(product, s=padded, dim=axes).flatten(1)
        best, place = correlation.max(1)
        best = best / (own * seen.square().flatten(1).sum(1)).sqrt().clamp_min(1e-20)
        for matrix, value, index in zip(some, best.tolist(), place.tolist(), strict=True):
            where = [int(i) for i in np.unravel_index(index, padded)]
            found.append((value, _with_shift(matrix, grid.matrix, where, padded, size)))
    return found


def best_edge_translations(level: Level, linears: Sequence[FloatArray], least: float) -> list[tuple[float, FloatArray]]:
    """Find the best shift for each of several linear maps, by edges without sign and with partial overlap.

    As in masked correlation, only what both images know counts at each shift. The agreement of edges in place and
    direction is multiplied by the square root of the edges in common: by chance, few edges agree better than many.

    Parameters
    ----------
    level, linears
        See :func:`best_translations`.
    least
        Fraction of the edges of one image that must have a counterpart in the other image's field of view.

    Returns
    -------
    list of (float, array)
        For each linear map the value at its best shift, comparable among the maps of one level, and the affine.

    References
    ----------
    Padfield, Masked object registration in the Fourier domain, IEEE Transactions on Image Processing 2012.
    """
    grid, ndim = level.fixed_grid, level.fixed_grid.ndim
    weight = torch.ones_like(level.fixed) if level.fixed_weight is None else level.fixed_weight
    middle = level.moving_grid.center
    size = _reach(level, linears)
    padded = [int(next_fast_len(int(a + b - 1), real=True)) for a, b in zip(grid.shape, size, strict=True)]
    axes = tuple(range(2, ndim + 2))

    def spectrum(x: Tensor) -> Tensor:
        transformed: Tensor = torch.fft.rfftn(x, s=padded, dim=axes)
        return transformed

    def correlation(moved: Tensor, fixed: Tensor) -> Tensor:
        product: Tensor = torch.fft.irfftn((moved * fixed.conj()).sum(1), s=padded, dim=tuple(a - 1 for a in axes))
        return product

    features = edge_features(level.fixed, weight)
    own = features.square().sum(1, keepdim=True)
    fixed_features, fixed_energy, fixed_inside = spectrum(features), spectrum(own), spectrum(weight)
    found: list[tuple[float, FloatArray]] = []
    step = max(BATCH_VOXELS // (math.prod(padded) * features.shape[1]), 1)
    for start in range(0, len(linears), step):
        check_stop()
        some = [_through(a, grid.linear, size, middle) for a in linears[start : start + step]]
        normalized = torch.stack([level.normalizing_matrix(m) for m in some])
        seen, inside = level.sample_moving(lattice_points(normalized, size.tolist()), masked=True)
        assert inside is not None
        moved = edge_features(seen, inside)
        energy = moved.square().sum(1, keepdim=True)
        agreement = correlation(spectrum(moved), fixed_features)
        of_fixed = correlation(spectrum(inside), fixed_energy).clamp_min(0)
        of_moved = correlation(spectrum(energy), fixed_inside).clamp_min(0)
        each = (-1, *[1] * ndim)
        whole = energy.flatten(1).sum(1).clamp_min(1e-9).reshape(each)
        common = torch.maximum(of_fixed / own.sum().clamp_min(1e-9), of_moved / whole)
        value = agreement / (of_fixed * of_moved).sqrt().clamp_min(1e-6) * torch.minimum(of_fixed, of_moved).sqrt()
        best, place = torch.where(common >= least, value, -1.0).flatten(1).max(1)
        for matrix, number, index in zip(some, best.tolist(), place.tolist(), strict=True):
            where = [int(i) for i in np.unravel_index(index, padded)]
            found.append((number, _with_shift(matrix, grid.matrix, where, padded, size)))
    return found


def _reach(level: Level, linears: Sequence[FloatArray]) -> FloatArray:
    """How many fixed voxels the moving image extends over along each axis, for any of the linear maps."""
    offsets = level.moving_grid.corners() - level.moving_grid.center
    reach = [np.abs(offsets @ np.linalg.inv(a @ level.fixed_grid.linear).T).max(axis=0) for a in linears]
    return np.asarray(np.maximum(np.ceil(2 * np.max(reach, axis=0) - 1e-6), 1), dtype=int)


def _through(linear: FloatArray, voxels: FloatArray, size: FloatArray, middle: FloatArray) -> FloatArray:
    """Return the map from indices of a lattice around the moving image's center (fixed steps) to its world."""
    matrix = np.eye(len(size) + 1)
    matrix[:-1, :-1] = linear @ voxels
    matrix[:-1, -1] = middle - matrix[:-1, :-1] @ ((size - 1) / 2)
    return matrix


def _with_shift(
    lattice: FloatArray, grid: FloatArray, index: Sequence[int], padded: Sequence[int], size: FloatArray
) -> FloatArray:
    """Return the affine that maps fixed voxel ``i`` to the lattice point ``i + shift``."""
    shift = np.array([i - n if i >= s else i for i, n, s in zip(index, padded, size, strict=True)], dtype=np.float64)
    step = np.eye(len(shift) + 1)
    step[:-1, -1] = shift
    return np.asarray(lattice @ step @ np.linalg.inv(grid))


def phase_shift(level: Level, affine: FloatArray) -> FloatArray:
    """Improve an affine's shift by the highest peak of the two images' phase correlation.

    Parameters
    ----------
    level
        The level to look at; the smaller, the faster.
    affine
        ``(D + 1, D + 1)``, where to begin; its linear part is kept.

    Notes
    -----
    The moving image is read on a lattice around the fixed one, both are freed of their mean, padded, and correlated by
    Fourier transform; the spectrum is partly whitened, which sharpens the peak without trusting noise fully.

    References
    ----------
    Kuglin and Hines, The phase correlation image alignment method, IEEE Conference on Cybernetics and Society 1975.
    """
    shape = level.fixed.shape[2:]
    grid = level.fixed_grid
    around = grid.cropped([-(n // 2) for n in shape], [n + n // 2 for n in shape])
    to_normalized = level.normalizing_matrix(affine @ around.matrix)
    coordinates = lattice_points(to_normalized[None], around.shape)
    moved, weight = level.sample_moving(coordinates, masked=True)
    assert weight is not None
    moved = (moved - _mean(moved, weight)) * weight
    fixed = torch.zeros_like(moved)
    inside = tuple(slice(n // 2, n // 2 + n) for n in shape)
    own = torch.ones_like(level.fixed) if level.fixed_weight is None else level.fixed_weight
    fixed[(slice(None), slice(None), *inside)] = (level.fixed - _mean(level.fixed, own)) * own
    axes = tuple(range(2, moved.ndim))
    spectrum = torch.fft.rfftn(moved, dim=axes) * torch.fft.rfftn(fixed, dim=axes).conj()
    size = spectrum.abs()
    spectrum = spectrum / (size + 0.05 * size.mean() + 1e-30).sqrt()
    peak = torch.fft.irfftn(spectrum, s=moved.shape[2:], dim=axes)[0, 0]
    where = np.array(np.unravel_index(int(peak.argmax()), peak.shape), dtype=np.float64)
    sizes = np.asarray(peak.shape)
    where = np.where(where > sizes / 2, where - sizes, where)
    # fixed(x) looks like moved(x + where): the map must first go `where` voxels further
    step = np.eye(grid.ndim + 1)
    step[:-1, -1] = grid.linear @ where
    return np.asarray(affine @ step)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp_min(1e-6)
