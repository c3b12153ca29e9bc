"""Fit linear transforms of many images to one reference by the inverse compositional Gauss-Newton method.

What depends on the reference alone, its pyramid, its gradients and the normal matrix, is computed once. Each iteration
then samples the image once and solves a system of at most twelve equations.

References
----------
Baker and Matthews, Lucas-Kanade 20 years on: a unifying framework, International Journal of Computer Vision 2004.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import expm
from torch import Tensor

from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.ops.filters import gaussian
from napari_stnreg.ops.interpolation import resize, sample_normalized, sampler_matrix
from napari_stnreg.ops.lattice import lattice_points
from napari_stnreg.registration.pyramid import Level, level_shapes
from napari_stnreg.registration.translation_search import phase_shift

Array = npt.NDArray[Any]

_Sampled = tuple[Tensor, Tensor | None, Grid]
"""An image at one resolution, its weight and its grid."""


@dataclass(frozen=True)
class GaussNewtonParameters:
    """Parameters of the fit, set by trials on generated movies (`benchmark/series.py`).

    Parameters
    ----------
    smoothing
        Standard deviation of the smoothing of every level, in its voxels. It suppresses noise and the error of
        interpolation.
    coarsest_side
        The pyramid ends with a level whose longest side is at most this many voxels.
    fit_voxels
        Voxels of the finest level at most; more gain nothing for so few parameters.
    iterations
        Iterations per level at most.
    tolerance
        A level ends when an iteration moves no corner by more than this many of its voxels.
    coarse_tolerance
        The same for all levels but the finest.
    ncc_loss
        Decrease of the correlation within a level that ends the iteration.
    margin
        Voxels at the border of each image that do not count: their smoothed values depend on values outside.
    min_overlap
        Fraction of the reference that must be covered.
    """

    smoothing: float = 0.8
    coarsest_side: int = 48
    fit_voxels: int = 2**22
    iterations: int = 25
    tolerance: float = 0.002
    coarse_tolerance: float = 0.05
    ncc_loss: float = 0.01
    margin: int = 2
    min_overlap: float = 0.2


PARAMETERS = GaussNewtonParameters()


@dataclass(frozen=True)
class LinearFit:
    """One fitted image.

    Parameters
    ----------
    matrix
        ``(D + 1, D + 1)``, reference world to the image's world.
    ncc
        Normalized cross-correlation of reference and warped image at the finest level, smoothed.
    overlap
        Fraction of the reference that the image covers.
    """

    matrix: FloatArray
    ncc: float
    overlap: float


def generators(family: str, ndim: int) -> FloatArray:
    """Return the generators ``(n, D + 1, D + 1)`` of a linear family: unit shifts, rotations, scale, or a full matrix.

    A member of the family is the matrix exponential of a combination of them.
    """
    made = []
    for axis in range(ndim):
        made.append(_unit(ndim, axis, ndim))
    if family == "affine":
        made += [_unit(ndim, a, b) for a in range(ndim) for b in range(ndim)]
    elif family in ("rigid", "similarity"):
        made += [_unit(ndim, b, a) - _unit(ndim, a, b) for a in range(ndim) for b in range(a + 1, ndim)]
        if family == "similarity":
            made.append(np.diag([1.0] * ndim + [0.0]))
    return np.array(made)


def _without_border(values: Tensor, weight: Tensor | None, margin: int) -> Tensor:
    """Return the weight with zeros in the outermost voxels of axes that are long enough."""
    inner = torch.ones_like(values) if weight is None else weight.clone()
    for axis in range(2, values.ndim):
        size = values.shape[axis]
        if size > 8 * margin > 0:
            inner.narrow(axis, 0, margin).zero_()
            inner.narrow(axis, size - margin, margin).zero_()
    return inner


def _unit(ndim: int, row: int, column: int) -> FloatArray:
    matrix = np.zeros((ndim + 1, ndim + 1))
    matrix[row, column] = 1.0
    return matrix


@dataclass
class _Level:
    """The reference at one resolution, and what follows from it alone."""

    values: Tensor
    weight: Tensor | None
    grid: Grid
    descent: Tensor
    normal: FloatArray


class GaussNewtonFitter:
    """Fit images on one grid to a reference.

    Parameters
    ----------
    reference
        Intensities ``(*shape)``, float32.
    mask
        True where the reference counts; ``None`` for everywhere.
    grid
        Lattice of the reference.
    family
        ``"translation"``, ``"rigid"``, ``"similarity"`` or ``"affine"``.
    device
        Device of the computation.
    parameters
        Parameters of the fit.
    """

    def __init__(
        self,
        reference: Array,
        mask: Array | None,
        grid: Grid,
        family: str,
        device: torch.device,
        parameters: GaussNewtonParameters = PARAMETERS,
    ) -> None:
        self.grid, self.family, self.device, self.parameters = grid, family, device, parameters
        self._generators = generators(family, grid.ndim)
        extent = grid.extent
        # a frame about the center with the radius as unit of length, in which all parameters have a similar effect
        self._frame = np.diag([float(np.linalg.norm(extent) / 2)] * grid.ndim + [1.0])
        self._frame[:-1, -1] = grid.center
        self._shrinks = self._levels_of(grid)
        self.levels = [self._level(*one) for one in self._pyramid(reference, mask, grid)]

    def _levels_of(self, grid: Grid) -> list[float]:
        longest = max(level_shapes(grid, 1.0))
        shrink = 1.0
        while np.prod(level_shapes(grid, shrink)) > self.parameters.fit_voxels:
            shrink *= 2
        shrinks = [shrink]
        while longest / shrinks[-1] > self.parameters.coarsest_side:
            shrinks.append(shrinks[-1] * 2)
        return shrinks[::-1]

    def _pyramid(self, values: Array, mask: Array | None, grid: Grid) -> list[_Sampled]:
        """Levels from coarse to fine; each is made from the next finer one."""
        image = torch.as_tensor(np.ascontiguousarray(values, np.float32), device=self.device)[None, None]
        weight = None
        if mask is not None:
            weight = torch.as_tensor(np.ascontiguousarray(mask, np.float32), device=self.device)[None, None]
            known = image[weight > 0.5]
            image = torch.where(weight > 0.5, image, known.mean() if known.numel() else image.new_zeros(()))
        made = []
        for shrink in reversed(self._shrinks):
            shape = level_shapes(grid, shrink * self.grid.spacing.min() / grid.spacing.min())
            image = resize(image, shape, antialias=shrink > 2 * self._shrinks[-1] or shrink == self._shrinks[-1])
            weight = None if weight is None else resize(weight, shape, antialias=False)
            smooth = gaussian(image, self.parameters.smoothing, edge="nearest")
            made.append((smooth, None if weight is None else (weight > 0.999).to(image.dtype), grid.resized(shape)))
        return made[::-1]

    def _level(self, values: Tensor, weight: Tensor | None, grid: Grid) -> _Level:
        shape, ndim = grid.shape, grid.ndim
        weight = _without_border(values, weight, self.parameters.margin)
        gradient = torch.stack(torch.gradient(values[0, 0]), dim=-1).reshape(-1, ndim)
        # gradients per unit of the frame: index gradients times d(index)/d(frame)
        to_index = np.linalg.inv(grid.matrix) @ self._frame
        gradients = gradient @ torch.as_tensor(to_index[:-1, :-1], dtype=torch.float32, device=self.device)
        place = torch.as_tensor(np.linalg.inv(to_index)[None], dtype=torch.float32, device=self.device)
        points = lattice_points(place, shape).reshape(-1, ndim)
        rows = []
        for generator in self._generators:
            move = torch.as_tensor(generator, dtype=torch.float32, device=self.device)
            rows.append((gradients * (points @ move[:-1, :-1].T + move[:-1, -1])).sum(dim=-1))
        descent = torch.stack(rows)
        if weight is not None:
            descent = descent * weight.reshape(1, -1)
        # a gain and an offset are fitted as well: what they explain is no motion
        basis = torch.stack([torch.ones_like(descent[0]), values.reshape(-1)])
        if weight is not None:
            basis = basis * weight.reshape(1, -1)
        basis, _ = torch.linalg.qr(basis.T)
        free = descent - (descent @ basis) @ basis.T
        normal = (free @ free.T).double().cpu().numpy()
        normal[np.diag_indices_from(normal)] += 1e-6 * max(float(np.trace(normal)) / len(normal), 1e-12)
        return _Level(values, weight, grid, descent, normal)

    def fit(self, moving: Array, mask: Array | None, grid: Grid, starts: list[FloatArray]) -> LinearFit:
        """Fit one image.

        Parameters
        ----------
        moving, mask, grid
            Intensities, mask and lattice of the image.
        starts
            Matrices to start from, reference world to the image's world; each is tried as it is and with the shift of
            the highest peak of the phase correlation.
        """
        pyramid = self._pyramid(moving, mask, grid)
        affine = self._best_start(pyramid[0], starts)
        matrix = np.linalg.inv(self._frame) @ affine @ self._frame
        ncc, overlap = -1.0, 0.0
        for level, image in zip(self.levels, pyramid, strict=True):
            fine = level is self.levels[-1]
            matrix, ncc, overlap = self._fit_level(level, image, matrix, fine=fine)
        return LinearFit(self._frame @ matrix @ np.linalg.inv(self._frame), ncc, overlap)

    def _best_start(self, image: _Sampled, starts: list[FloatArray]) -> FloatArray:
        level = self.levels[0]
        pair = Level(level.values, level.weight, level.grid, *image)
        tried = [*starts, *(phase_shift(pair, start) for start in starts[:1])]
        scored = [self._compare(level, image, start)[1] for start in tried]
        return tried[int(np.argmax(scored))]

    def _compare(self, level: _Level, image: _Sampled, affine: FloatArray) -> tuple[Tensor, float, float]:
        """Return the weighted residual ``a I + b - T`` with the best gain and offset, the NCC, and the overlap."""
        values, mask, grid = image
        to_sampler = sampler_matrix(grid.shape, np.linalg.inv(grid.matrix) @ affine @ level.grid.matrix)
        coordinates = lattice_points(
            torch.as_tensor(to_sampler[None], dtype=torch.float32, device=self.device), level.grid.shape
        )
        warped = sample_normalized(values, coordinates, padding="border")
        margin = self.parameters.margin
        inner = [1 - 2 * margin / n if n > 8 * margin else 1.0 for n in reversed(grid.shape)]
        limits = torch.tensor(inner, dtype=torch.float32, device=self.device)
        weight = (coordinates.abs() <= limits).all(dim=-1).to(warped.dtype).reshape(-1)
        if mask is not None:
            weight = weight * (sample_normalized(mask, coordinates, padding="zeros").reshape(-1) > 0.999)
        total = float(weight.numel())
        if level.weight is not None:
            weight = weight * level.weight.reshape(-1)
            total = float(level.weight.sum())
        moved, still = warped.reshape(-1), level.values.reshape(-1)
        count = float(weight.sum())
        if count < 8:
            return torch.zeros_like(moved), -1.0, 0.0
        moved = moved - (moved * weight).sum() / count
        still = still - (still * weight).sum() / count
        weighted = moved * weight
        variance, own = float((weighted * moved).sum()), float((still * still * weight).sum())
        if not variance > 1e-12 * max(float((warped * warped).mean()), 1e-30):  # constant, or not finite
            return torch.zeros_like(moved), 0.0, 0.0
        product = float((weighted * still).sum())
        ncc = product / math.sqrt(max(variance * own, 1e-30))
        gain = product / max(variance, 1e-30)
        if gain <= 0:
            gain = math.sqrt(own / max(variance, 1e-30))
        return weighted * gain - still * weight, ncc, count / max(total, 1.0)

    def _fit_level(
        self, level: _Level, image: _Sampled, matrix: FloatArray, *, fine: bool
    ) -> tuple[FloatArray, float, float]:
        """Iterate at one level; return the best matrix in the frame, its NCC and its overlap."""
        frame, back = self._frame, np.linalg.inv(self._frame)
        corners = np.column_stack([(level.grid.corners() - frame[:-1, -1]) / frame[0, 0], np.ones(2**level.grid.ndim)])
        voxel = float(level.grid.spacing.min()) / frame[0, 0]
        tolerance = self.parameters.tolerance if fine else self.parameters.coarse_tolerance
        best, best_ncc, best_overlap = matrix, -2.0, 0.0
        for _ in range(self.parameters.iterations):
            residual, ncc, overlap = self._compare(level, image, frame @ matrix @ back)
            # The correlation depends a little on where between the voxels the image is read, the point at which the
            # step is zero does not. So the last iterate counts, unless the iteration has diverged.
            if overlap < self.parameters.min_overlap or ncc < best_ncc - self.parameters.ncc_loss:
                break
            best, best_ncc, best_overlap = matrix, max(ncc, best_ncc), overlap
            descent = (level.descent @ residual).double().cpu().numpy()
            change = expm(np.tensordot(np.linalg.solve(level.normal, descent), self._generators, axes=1))
            if not np.isfinite(change).all():
                break
            matrix = matrix @ np.linalg.inv(change)
            moved = np.abs((corners @ (change - np.eye(len(change))).T)[:, :-1]).max()
            if moved < tolerance * voxel:
                best = matrix
                break
        return best, best_ncc, best_overlap
