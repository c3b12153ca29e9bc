"""Register two sections by a cubic B-spline deformation with Gauss-Newton steps."""

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
from napari_stnreg.stacks.matching.pair_frame import MIN_COMMON_PIXELS, FeatureSampler, PairFrame, compare
from napari_stnreg.stacks.section_transform import Lattice


@dataclass(frozen=True)
class SplineFitParameters:
    """Tuning constants of the spline fit. All were set by hand; no tuning is recorded.

    Parameters
    ----------
    block_size
        Side of the pixel blocks that are summed before they enter the curvature. Splines are nearly constant over one.
    ridge
        Weight of the prior toward the initial coefficients, in units of the mean curvature. It decides where the
        images have no detail.
    min_shared
        Lower limit of the correlation by which the data force is divided.
    """

    block_size: int = 4
    ridge: float = 0.02
    min_shared: float = 0.25


PARAMETERS = SplineFitParameters()


class Basis:
    """B-spline basis of a lattice, evaluated at the pixels of a frame."""

    def __init__(self, lattice: Lattice, frame: PairFrame) -> None:
        self.lattice = lattice
        self.y, self.x = (
            torch.as_tensor(cubic_bspline_matrix(self._where(axis, values), lattice.shape[axis]), dtype=torch.float32)
            for axis, values in ((0, frame.y), (1, frame.x))
        )
        self.coarse_y, self.coarse_x = _block_means(self.y), _block_means(self.x)
        self.pairs_y, self.pairs_x = _basis_products(self.coarse_y), _basis_products(self.coarse_x)

    def _where(self, axis: int, values: FloatArray) -> FloatArray:
        return np.asarray((values - self.lattice.origin[axis]) / self.lattice.spacing[axis])

    def field(self, vectors: Tensor) -> Tensor:
        """Evaluate the displacements ``(h, w, 2)`` of coefficients ``(2, gy, gx)``."""
        return (self.y @ vectors @ self.x.T).movedim(0, -1)

    def adjoint(self, values: Tensor) -> Tensor:
        """Apply the adjoint of :meth:`field` to ``(..., h, w)``: sums weighted by the basis functions."""
        return self.y.T @ values @ self.x

    def curvature(self, values: Tensor) -> Tensor:
        """Return ``sum B_k B_m v`` for overlapping basis functions, ``(7, gy, 7, gx)`` by offset from -3 to 3."""
        summed = _sum_blocks(values)
        ny, nx = self.lattice.shape
        return (self.pairs_y.T @ summed @ self.pairs_x).reshape(7, ny, 7, nx)


def _block_means(basis: Tensor) -> Tensor:
    """Average the basis functions over blocks of pixels."""
    short = -basis.shape[0] % PARAMETERS.block_size
    padded = torch.cat([basis, basis[-1:].expand(short, -1)]) if short else basis
    return padded.reshape(-1, PARAMETERS.block_size, basis.shape[1]).mean(1)


def _sum_blocks(values: Tensor) -> Tensor:
    height, width = values.shape
    padded = torch.nn.functional.pad(values, (0, -width % PARAMETERS.block_size, 0, -height % PARAMETERS.block_size))
    return padded.reshape(
        padded.shape[0] // PARAMETERS.block_size,
        PARAMETERS.block_size,
        padded.shape[1] // PARAMETERS.block_size,
        PARAMETERS.block_size,
    ).sum((1, 3))


def _basis_products(basis: Tensor) -> Tensor:
    """Return ``B_k B_(k + d)`` for offsets d from -3 to 3, ``(n, 7 * g)``."""
    size = basis.shape[1]
    out = basis.new_zeros(basis.shape[0], 7, size)
    for place, offset in enumerate(range(-3, 4)):
        low, high = max(0, -offset), min(size, size - offset)
        if high > low:
            out[:, place, low:high] = basis[:, low:high] * basis[:, low + offset : high + offset]
    return out.flatten(1)


@dataclass(frozen=True)
class SplineFit:
    """Result of a spline fit.

    Parameters
    ----------
    vectors
        ``(2, gy, gx)`` coefficients of the second section that align it to the first.
    weight
        ``(3, gy, gx)`` curvature yy, yx and xx of the data term at each coefficient, with a mean of about 1 in tissue
        full of detail.
    score
        Correlation of the features over the common tissue.
    overlap
        Common tissue as a fraction of the frame.
    """

    vectors: FloatArray
    weight: FloatArray
    score: float
    overlap: float


def fit_spline(
    first: tuple[FeatureSampler, Tensor],
    second: FeatureSampler,
    start: FloatArray,
    frame: PairFrame,
    lattice: Lattice,
    *,
    neighbor: FloatArray,
    iterations: int,
    trim_fractions: tuple[float, float],
    smoothness: float,
) -> SplineFit:
    """Fit the coefficients of the second section at one pyramid level.

    Parameters
    ----------
    first
        The fixed section, and the canvas positions ``(h, w, 2)`` at which it is sampled (its vectors added).
    second
        The section whose vectors are fitted.
    start
        ``(2, gy, gx)`` initial coefficients.
    neighbor
        ``(2, gy, gx)`` vectors of the fixed section; the difference to them is kept smooth.
    iterations
        Gauss-Newton steps.
    trim_fractions
        Fraction of the worst pixels that is trimmed at the first and at the last step.
    smoothness
        Stiffness of the difference.
    """
    points, basis = frame.points(), Basis(lattice, frame)
    seen = first[0].sample_features(first[1])
    vectors = torch.as_tensor(start, dtype=torch.float32)
    begin, other = vectors.clone(), torch.as_tensor(neighbor, dtype=torch.float32)
    stiffness = torch.from_numpy(smoothness_matrix(lattice.shape)).float() * smoothness
    best = vectors
    for k in range(iterations + 1):
        progress = k / max(iterations - 1, 1)
        trim_fraction = trim_fractions[0] + (trim_fractions[1] - trim_fractions[0]) * min(progress, 1.0)
        comparison = compare(seen, second.sample_features(points + basis.field(vectors)), frame.step, trim_fraction)
        best = vectors
        if k == iterations or float(comparison.weight.sum()) < MIN_COMMON_PIXELS:
            break
        gradients = comparison.gradients * comparison.weight
        force = torch.stack([basis.adjoint((s * comparison.difference).sum(0)) for s in gradients])
        curvature = [(gradients[i] * comparison.gradients[j]).sum(0) for i, j in ((0, 0), (0, 1), (1, 1))]
        mean = float((curvature[0] + curvature[2]).sum()) / (2 * max(float(comparison.weight.sum()), 1.0))
        # curvature of a coefficient inside tissue with the mean amount of detail
        unit = max(mean * float(lattice.spacing[0] * lattice.spacing[1]) / frame.step**2, 1e-12)
        # Detail that only one image has adds to the curvature but not to the force.
        shared = min(max(comparison.score, PARAMETERS.min_shared), 1.0)
        difference = vectors - other
        prior_force = (stiffness @ difference.flatten(1).T).T.reshape(difference.shape) + PARAMETERS.ridge * (
            vectors - begin
        )
        step = _solve(
            [basis.curvature(c) for c in curvature],
            force / (shared * unit) + prior_force,
            unit,
            smoothness,
            lattice.shape,
        )
        limit = 2.0 * frame.step
        vectors = vectors - step * (limit / step.abs().max().clamp_min(limit))
    weight = np.zeros((3, *lattice.shape))
    if float(comparison.weight.sum()) >= MIN_COMMON_PIXELS:
        curvature = [
            (comparison.gradients[i] * comparison.gradients[j] * comparison.weight).sum(0)
            for i, j in ((0, 0), (0, 1), (1, 1))
        ]
        mean = float((curvature[0] + curvature[2]).sum()) / (2 * float(comparison.weight.sum()))
        unit = max(mean * float(lattice.spacing[0] * lattice.spacing[1]) / frame.step**2, 1e-12)
        weight = torch.stack([basis.adjoint(c) for c in curvature]).double().numpy() / unit
    return SplineFit(best.double().numpy(), weight, comparison.score, comparison.overlap)


def _solve(curvature: list[Tensor], force: Tensor, unit: float, smoothness: float, shape: tuple[int, int]) -> Tensor:
    """Solve the banded system of the Newton step ``(2, gy, gx)``; y and x of a control point are adjacent unknowns."""
    system = _system(shape)
    band = system.stiffness * smoothness
    yy, yx, xx = (c.permute(1, 3, 0, 2).reshape(-1).double().numpy() / unit for c in curvature)
    for values, (rows, columns, indices) in zip((yy, yx, yx, xx), system.blocks, strict=True):
        band[rows, columns] += values[indices]
    band[-1] += PARAMETERS.ridge
    right = force.flatten(1).T.reshape(-1).double().numpy()
    step = solveh_banded(band, right, overwrite_ab=True, check_finite=False)
    return torch.from_numpy(step.reshape(*shape, 2)).movedim(-1, 0).float()


Index = npt.NDArray[np.intp]


class _System(NamedTuple):
    """Image-independent part of the banded system of a lattice.

    ``stiffness`` is the band ``(width + 1, 2 n)`` of the smoothness matrix. ``blocks`` holds, for the products yy, yx,
    xy and xx, the rows and columns of the band and the indices of the values in the list of all offsets.
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
    indices = np.flatnonzero(inside.ravel())
    blocks = []
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        r, c = 2 * rows + i, 2 * columns + j
        upper = c >= r
        blocks.append((width + r[upper] - c[upper], c[upper], indices[upper]))
    band = np.zeros((width + 1, 2 * ny * nx))
    dense = smoothness_matrix(shape)
    r, c = np.nonzero(np.triu(dense))
    for i in (0, 1):
        band[width + 2 * r - 2 * c, 2 * c + i] = dense[r, c]
    return _System(band, tuple(blocks))


@lru_cache(maxsize=8)
def smoothness_matrix(shape: tuple[int, int]) -> FloatArray:
    """Return the bending-energy matrix ``(n, n)`` of a lattice.

    It sums the squared second differences and a small part of the first ones, so that control points without data
    follow their neighbors.
    """
    ny, nx = shape
    first = [np.kron(_differences(ny, 1), np.eye(nx)), np.kron(np.eye(ny), _differences(nx, 1))]
    second = [np.kron(_differences(ny, 2), np.eye(nx)), np.kron(np.eye(ny), _differences(nx, 2))]
    mixed = np.sqrt(2) * np.kron(_differences(ny, 1), _differences(nx, 1))
    return np.asarray(sum(d.T @ d for d in [*second, mixed]) + 0.05 * sum(d.T @ d for d in first))


def _differences(size: int, order: int) -> FloatArray:
    return np.asarray(np.diff(np.eye(size), n=order, axis=0))
