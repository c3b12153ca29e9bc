"""Where a registration begins: centres, centres of brightness, phase correlation, or a search over rotations.

All of it happens at the coarsest level and yields affine matrices of the centred world, fixed to moving.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_stnreg.fitting.pyramid import Level
from napari_stnreg.images import FloatArray, Grid
from napari_stnreg.objectives import Similarity
from napari_stnreg.transforms.base import lattice_points

LEAST_OVERLAP = 0.25
"""A candidate must put at least this share of the smaller image onto the other one."""
SCALES = (1.0, 1.5, 1 / 1.5)


def shifted(matrix: FloatArray, fixed_point: FloatArray, moving_point: FloatArray) -> FloatArray:
    """The affine with a linear part that takes one point onto another, ``(D + 1, D + 1)``."""
    ndim = len(fixed_point)
    out = np.eye(ndim + 1)
    out[:-1, :-1] = matrix
    out[:-1, -1] = moving_point - matrix @ fixed_point
    return out


def brightness_center(image: Tensor, weight: Tensor | None, grid: Grid) -> FloatArray:
    """World position of the centre of what differs from the border's brightness, ``(D,)``."""
    values = image[0, 0].double().cpu().numpy()
    border = np.concatenate([np.take(values, (0, -1), axis=a).ravel() for a in range(values.ndim)])
    mass = np.abs(values - np.median(border))
    if weight is not None:
        mass = mass * weight[0, 0].double().cpu().numpy()
    total = mass.sum()
    if total <= 0:
        return grid.center
    index = [float((mass.sum(axis=tuple(b for b in range(mass.ndim) if b != a)) * np.arange(n)).sum() / total)
             for a, n in enumerate(mass.shape)]
    return grid.to_world(np.array(index))


def phase_shift(level: Level, affine: FloatArray) -> FloatArray:
    """Improve an affine's shift by the highest peak of the two images' cross-correlation.

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
    to_normalised = level.normalising_matrix(affine @ around.matrix)
    coordinates = lattice_points(to_normalised[None], around.shape)
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
    spectrum = spectrum / (size + 0.05 * size.mean()).sqrt()
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


def rotations(ndim: int, *, mirror: bool) -> list[npt.NDArray[np.float64]]:
    """Rotation matrices all around, every 15 degrees in 2D, some 45 to 60 degrees apart in 3D; with mirror images."""
    found: list[npt.NDArray[np.float64]] = []
    if ndim == 2:
        for k in range(24):
            a = math.radians(15 * k)
            found.append(np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]))
    else:
        # unit quaternions of the 24 turns of a cube and of the 24 half-way between them
        quaternions = []
        for q in itertools.product((-1, 0, 1), repeat=4):
            norm = math.sqrt(sum(c * c for c in q))
            if norm and next(c for c in q if c) > 0:
                quaternions.append(np.array(q) / norm)
        found = [_quaternion_matrix(q) for q in quaternions]
        found.sort(key=lambda r: -np.trace(r))
    if mirror:
        flip = np.diag([-1.0] + [1.0] * (ndim - 1))
        found += [r @ flip for r in found]
    return found


def _quaternion_matrix(q: FloatArray) -> FloatArray:
    w, x, y, z = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def score(level: Level, similarity: Similarity, affine: FloatArray) -> float:
    """The loss of an affine map at this level; infinite where the images hardly overlap."""
    to_normalised = level.normalising_matrix(affine @ level.fixed_grid.matrix)
    coordinates = lattice_points(to_normalised[None], level.fixed_grid.shape)
    warped, weight = level.sample_moving(coordinates, masked=True)
    assert weight is not None
    # compare with the smaller image, in voxels of the fixed grid
    moved = abs(np.linalg.det(affine[:-1, :-1]))
    ratio = abs(np.linalg.det(level.moving_grid.linear)) / abs(np.linalg.det(level.fixed_grid.linear)) / moved
    smaller = min(level.fixed.numel(), level.moving.numel() * ratio)
    if float(weight.sum()) < LEAST_OVERLAP * smaller:
        return math.inf
    with torch.no_grad():
        value = float(similarity(warped, weight))
    return value if math.isfinite(value) else math.inf


def simple_candidates(level: Level, kinds: Iterable[str]) -> list[FloatArray]:
    """Candidates without rotation: ``none``, ``center``, ``moments`` and ``phase`` (from each of the others)."""
    ndim = level.fixed_grid.ndim
    eye = np.eye(ndim)
    wanted = set(kinds)
    found = []
    if "none" in wanted:
        found.append(np.eye(ndim + 1))
    if "center" in wanted:
        found.append(shifted(eye, level.fixed_grid.center, level.moving_grid.center))
    if "moments" in wanted:
        fixed = brightness_center(level.fixed, level.fixed_weight, level.fixed_grid)
        moving = brightness_center(level.moving, level.moving_weight, level.moving_grid)
        found.append(shifted(eye, fixed, moving))
    if "phase" in wanted:
        begin = found or [np.eye(ndim + 1), shifted(eye, level.fixed_grid.center, level.moving_grid.center)]
        found += [phase_shift(level, m) for m in begin]
    return found


def search_candidates(level: Level, *, mirror: bool, scales: bool) -> list[FloatArray]:
    """Candidates with every rotation (and scale, and mirror image), each shifted to its best place."""
    fixed_center = level.fixed_grid.center
    moving_center = level.moving_grid.center
    found = []
    for scale in SCALES if scales else (1.0,):
        for rotation in rotations(level.fixed_grid.ndim, mirror=mirror):
            found.append(phase_shift(level, shifted(rotation * scale, fixed_center, moving_center)))
    return found


def best_of(
    level: Level, similarity: Similarity, candidates: list[FloatArray], keep: int = 1
) -> list[tuple[float, FloatArray]]:
    """The candidates with the lowest loss, best first; near-copies of a better one are left out."""
    similarity.prepare(level.fixed, level.fixed_weight)
    scored = sorted(((score(level, similarity, c), i) for i, c in enumerate(candidates)))
    chosen: list[tuple[float, FloatArray]] = []
    corners = level.fixed_grid.corners()
    voxel = float(level.fixed_grid.spacing.max())
    for value, i in scored:
        matrix = candidates[i]
        mapped = corners @ matrix[:-1, :-1].T + matrix[:-1, -1]
        near = (np.abs(mapped - (corners @ m[:-1, :-1].T + m[:-1, -1])).max() < voxel for _, m in chosen)
        if math.isfinite(value) and not any(near):
            chosen.append((value, matrix))
        if len(chosen) == keep:
            break
    return chosen
