"""One section's vectors moved until it lies on another: Gauss-Newton on the coefficients of a cubic B-spline."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import solveh_banded
from torch import Tensor

from napari_stnreg.core.grid import FloatArray
from napari_stnreg.ops.bspline import cubic_bspline_matrix
from napari_stnreg.stacks.matching.pair_frame import LEAST_PIXELS, FeatureSampler, PairFrame, compare
from napari_stnreg.stacks.section_transform import Lattice

BLOCK = 4
"""Pixels along a side that are summed up before they enter the curvature: splines hardly change over so few."""
RIDGE = 0.02
"""Pull to the start, in units of the mean curvature: decides where there is nothing to see."""


LEAST_SHARED = 0.25
"""Correlation below which the share of the detail that two sections have in common is not taken at its word."""


class Basis:
    """The splines of a lattice at the pixels of a canvas."""

    def __init__(self, lattice: Lattice, canvas: PairFrame) -> None:
        self.lattice = lattice
        self.y, self.x = (
            torch.as_tensor(cubic_bspline_matrix(self._where(axis, values), lattice.shape[axis]), dtype=torch.float32)
            for axis, values in ((0, canvas.y), (1, canvas.x))
        )
        self.coarse_y, self.coarse_x = _blocked(self.y), _blocked(self.x)
        self.pairs_y, self.pairs_x = _products(self.coarse_y), _products(self.coarse_x)

    def _where(self, axis: int, values: FloatArray) -> FloatArray:
        return np.asarray((values - self.lattice.origin[axis]) / self.lattice.spacing[axis])

    def field(self, vectors: Tensor) -> Tensor:
        """Displacements ``(h, w, 2)`` of coefficients ``(2, gy, gx)``."""
        return (self.y @ vectors @ self.x.T).movedim(0, -1)

    def gathered(self, values: Tensor) -> Tensor:
        """The adjoint of :meth:`field` for ``(..., h, w)``: sums weighted by each control point's spline."""
        return self.y.T @ values @ self.x

    def curvature(self, values: Tensor) -> Tensor:
        """``sum B_k B_m v`` of ``(h, w)`` for control points that touch, ``(7, gy, 7, gx)`` by offset -3 to 3."""
        summed = _sum_blocks(values)
        ny, nx = self.lattice.shape
        return (self.pairs_y.T @ summed @ self.pairs_x).reshape(7, ny, 7, nx)


def _blocked(basis: Tensor) -> Tensor:
    """The splines in the middle of blocks of pixels: their mean over the block."""
    short = -basis.shape[0] % BLOCK
    padded = torch.cat([basis, basis[-1:].expand(short, -1)]) if short else basis
    return padded.reshape(-1, BLOCK, basis.shape[1]).mean(1)


def _sum_blocks(values: Tensor) -> Tensor:
    height, width = values.shape
    padded = torch.nn.functional.pad(values, (0, -width % BLOCK, 0, -height % BLOCK))
    return padded.reshape(padded.shape[0] // BLOCK, BLOCK, padded.shape[1] // BLOCK, BLOCK).sum((1, 3))


def _products(basis: Tensor) -> Tensor:
    """``B_k B_(k + d)`` for offsets d of -3 to 3, ``(n, 7 * g)``."""
    size = basis.shape[1]
    out = basis.new_zeros(basis.shape[0], 7, size)
    for place, offset in enumerate(range(-3, 4)):
        low, high = max(0, -offset), min(size, size - offset)
        if high > low:
            out[:, place, low:high] = basis[:, low:high] * basis[:, low + offset : high + offset]
    return out.flatten(1)


@dataclass(frozen=True)
class SplineFit:
    """What a fit found.

    Parameters
    ----------
    vectors
        ``(2, gy, gx)`` of the second section, so that it lies on the first.
    weight
        ``(3, gy, gx)`` how firmly the images hold each vector: yy, yx and xx of its curvature, a tissue full of detail
        having a mean of about 1.
    score
        Correlation of the features over the common tissue.
    overlap
        Common tissue, as a share of the canvas compared.
    """

    vectors: FloatArray
    weight: FloatArray
    score: float
    overlap: float


def fit_spline(
    first: tuple[FeatureSampler, Tensor],
    second: FeatureSampler,
    start: FloatArray,
    canvas: PairFrame,
    lattice: Lattice,
    *,
    neighbor: FloatArray,
    iterations: int,
    drops: tuple[float, float],
    smoothness: float,
) -> SplineFit:
    """Fit at one level.

    Parameters
    ----------
    first
        The section that stays, and the canvas positions ``(h, w, 2)`` at which it is read (its vectors added).
    second
        The section whose vectors are sought.
    start
        ``(2, gy, gx)``, where to begin.
    neighbor
        ``(2, gy, gx)``, vectors of the section that stays: what is kept smooth is the difference.
    iterations
        Gauss-Newton steps.
    drops
        Share of the worst pixels that is left out at the first and at the last step.
    smoothness
        Stiffness of the difference.
    """
    points, basis = canvas.points(), Basis(lattice, canvas)
    seen = first[0].read(first[1])
    vectors = torch.as_tensor(start, dtype=torch.float32)
    begin, other = vectors.clone(), torch.as_tensor(neighbor, dtype=torch.float32)
    stiffness = torch.from_numpy(smoothness_matrix(lattice.shape)).float() * smoothness
    best = vectors
    for k in range(iterations + 1):
        share = k / max(iterations - 1, 1)
        drop = drops[0] + (drops[1] - drops[0]) * min(share, 1.0)
        found = compare(seen, second.read(points + basis.field(vectors)), canvas.step, drop)
        best = vectors
        if k == iterations or float(found.weight.sum()) < LEAST_PIXELS:
            break
        slopes = found.slopes * found.weight
        force = torch.stack([basis.gathered((s * found.difference).sum(0)) for s in slopes])
        curvature = [(slopes[i] * found.slopes[j]).sum(0) for i, j in ((0, 0), (0, 1), (1, 1))]
        mean = float((curvature[0] + curvature[2]).sum()) / (2 * max(float(found.weight.sum()), 1.0))
        # the curvature that a vector would have in the middle of tissue of the mean amount of detail
        unit = max(mean * float(lattice.spacing[0] * lattice.spacing[1]) / canvas.step**2, 1e-12)
        # Only what both images share pulls; what each has alone adds to the curvature but to no force.
        shared = min(max(found.score, LEAST_SHARED), 1.0)
        away = vectors - other
        pull = (stiffness @ away.flatten(1).T).T.reshape(away.shape) + RIDGE * (vectors - begin)
        step = _solve(
            [basis.curvature(c) for c in curvature], force / (shared * unit) + pull, unit, smoothness, lattice.shape
        )
        limit = 2.0 * canvas.step
        vectors = vectors - step * (limit / step.abs().max().clamp_min(limit))
    weight = np.zeros((3, *lattice.shape))
    if float(found.weight.sum()) >= LEAST_PIXELS:
        curvature = [(found.slopes[i] * found.slopes[j] * found.weight).sum(0) for i, j in ((0, 0), (0, 1), (1, 1))]
        mean = float((curvature[0] + curvature[2]).sum()) / (2 * float(found.weight.sum()))
        unit = max(mean * float(lattice.spacing[0] * lattice.spacing[1]) / canvas.step**2, 1e-12)
        weight = torch.stack([basis.gathered(c) for c in curvature]).double().numpy() / unit
    return SplineFit(best.double().numpy(), weight, found.score, found.overlap)


def _solve(curvature: list[Tensor], force: Tensor, unit: float, smoothness: float, shape: tuple[int, int]) -> Tensor:
    """The Newton step ``(2, gy, gx)``: a banded system, control points in order, y and x side by side."""
    system = _system(shape)
    band = system.stiffness * smoothness
    yy, yx, xx = (c.permute(1, 3, 0, 2).reshape(-1).double().numpy() / unit for c in curvature)
    for values, (rows, columns, places) in zip((yy, yx, yx, xx), system.blocks, strict=True):
        band[rows, columns] += values[places]
    band[-1] += RIDGE
    right = force.flatten(1).T.reshape(-1).double().numpy()
    step = solveh_banded(band, right, overwrite_ab=True, check_finite=False)
    return torch.from_numpy(step.reshape(*shape, 2)).movedim(-1, 0).float()


Index = npt.NDArray[np.intp]


class _System(NamedTuple):
    """What the banded system of a lattice has in common for all images.

    ``stiffness`` is the band ``(width + 1, 2 n)`` of the smoothness matrix. ``blocks`` says for the products yy, yx, xy
    and xx which rows and columns of the band their values belong to, and their places in the list of all offsets.
    """

    stiffness: FloatArray
    blocks: tuple[tuple[Index, Index, Index], ...]


@lru_cache(maxsize=8)
def _system(shape: tuple[int, int]) -> _System:
    ny, nx = shape
    width = 2 * (3 * nx + 3) + 1
    k, m, d, e = np.meshgrid(np.arange(ny), np.arange(nx), np.arange(-3, 4), np.arange(-3, 4), indexing="ij")
    inside = (k + d >= 0) & (k + d < ny) & (m + e >= 0) & (m + e < nx)
    rows, columns = (k * nx + m)[inside], ((k + d) * nx + m + e)[inside]
    places = np.flatnonzero(inside.ravel())
    blocks = []
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        r, c = 2 * rows + i, 2 * columns + j
        upper = c >= r
        blocks.append((width + r[upper] - c[upper], c[upper], places[upper]))
    band = np.zeros((width + 1, 2 * ny * nx))
    dense = smoothness_matrix(shape)
    r, c = np.nonzero(np.triu(dense))
    for i in (0, 1):
        band[width + 2 * r - 2 * c, 2 * c + i] = dense[r, c]
    return _System(band, tuple(blocks))


@lru_cache(maxsize=8)
def smoothness_matrix(shape: tuple[int, int]) -> FloatArray:
    """The bending of a lattice of vectors as a matrix ``(n, n)``.

    Squares of all second differences, and a little of the first ones, so that what hangs in the air follows its
    neighbors.
    """
    ny, nx = shape
    first = [np.kron(_differences(ny, 1), np.eye(nx)), np.kron(np.eye(ny), _differences(nx, 1))]
    second = [np.kron(_differences(ny, 2), np.eye(nx)), np.kron(np.eye(ny), _differences(nx, 2))]
    mixed = np.sqrt(2) * np.kron(_differences(ny, 1), _differences(nx, 1))
    return np.asarray(sum(d.T @ d for d in [*second, mixed]) + 0.05 * sum(d.T @ d for d in first))


def _differences(size: int, order: int) -> FloatArray:
    return np.asarray(np.diff(np.eye(size), n=order, axis=0))
