"""Movies of moving tissue whose motion is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Movie:
    """Frames and their true motion.

    Parameters
    ----------
    frames
        ``(t, *shape)`` float32, with noise.
    matrices
        ``(t, D + 1, D + 1)``: voxel of the first frame to voxel of each frame. Without the deformation.
    fields
        ``(t, D, *shape)``: displacement of every voxel of the first frame that the deformation adds before the matrix,
        in voxels; ``None`` for a linear motion.
    """

    frames: npt.NDArray[np.float32]
    matrices: FloatArray
    fields: npt.NDArray[np.float32] | None = None

    def errors(self, displacements: Any) -> FloatArray:
        """Return the mean error of each frame in voxels.

        Parameters
        ----------
        displacements
            One ``(D, *shape)`` array per frame, in voxels of the first frame.
        """
        shape = self.frames.shape[1:]
        place = np.indices(shape).astype(np.float64)
        found = []
        for t, estimate in enumerate(displacements):
            start = place if self.fields is None else place + self.fields[t]
            flat = start.reshape(len(shape), -1)
            moved = (self.matrices[t, :-1, :-1] @ flat + self.matrices[t, :-1, -1:]).reshape(place.shape)
            inside = ((moved >= 0) & (moved <= np.reshape(np.array(shape) - 1, (-1, *[1] * len(shape))))).all(axis=0)
            error = np.sqrt(((moved - place - estimate) ** 2).sum(axis=0))
            found.append(float(error[inside].mean()))
        return np.array(found)


def make_movie(
    n_frames: int,
    shape: tuple[int, ...],
    motion: str = "rigid",
    noise: float = 0.2,
    amplitude: float = 4.0,
    seed: int = 0,
) -> Movie:
    """Draw a movie: cells on uneven tissue, moved smoothly and by jitter, with noise.

    Parameters
    ----------
    n_frames
        Number of frames; the first one is at rest.
    shape
        Shape of a frame, 2D or 3D.
    motion
        ``"translation"``, ``"rigid"``, ``"affine"`` or ``"elastic"``, a smooth deformation after a shift.
    noise
        Standard deviation of the noise; that of the tissue is 1.
    amplitude
        Size of the motion in voxels.
    seed
        Seed of all random numbers.
    """
    rng = np.random.default_rng(seed)
    ndim, margin = len(shape), int(3 * amplitude) + 12
    large = tuple(n + 2 * margin for n in shape)
    tissue = ndimage.gaussian_filter(rng.normal(size=large), 1.2) + 6 * ndimage.gaussian_filter(
        rng.normal(size=large), 4
    )
    cells = np.where(rng.random(large) < 0.0025, rng.gamma(2, 1, large), 0)
    tissue = 0.5 * tissue / tissue.std() + 25 ** (ndim / 2) * ndimage.gaussian_filter(cells, 1.8)
    spline = ndimage.spline_filter(tissue / tissue.std(), 3)

    def course(sigma: float, size: float, count: int) -> FloatArray:
        drift = ndimage.gaussian_filter1d(rng.normal(size=(n_frames, count)), sigma, axis=0)
        drift = size * drift / max(float(drift.std()), 1e-9)
        return np.asarray(drift - drift[0])

    shift = course(5, amplitude / 2, ndim) + 0.25 * amplitude * rng.normal(size=(n_frames, ndim))
    shift -= shift[0]
    angle = course(6, np.deg2rad(1.0), 1)[:, 0]
    stretch = course(6, 0.01, ndim * ndim)
    center = (np.array(shape) - 1) / 2
    grid = np.indices(shape).astype(np.float64)
    waves = [ndimage.gaussian_filter(rng.normal(size=(ndim, *shape)), (0, *[max(n / 10, 2) for n in shape]))
             for _ in range(3)]  # fmt: skip
    waves = [wave / np.abs(wave).max() for wave in waves]
    weights = course(5, 0.6 * amplitude, 3)
    frames, matrices, fields = [], [], []
    for t in range(n_frames):
        linear = np.eye(ndim)
        if motion in ("rigid", "affine"):
            cosine, sine = np.cos(angle[t]), np.sin(angle[t])
            linear[-2:, -2:] = [[cosine, -sine], [sine, cosine]]
        if motion == "affine":
            linear = linear @ (np.eye(ndim) + stretch[t].reshape(ndim, ndim))
        matrix = np.eye(ndim + 1)
        matrix[:-1, :-1], matrix[:-1, -1] = linear, center - linear @ center + shift[t]
        back = np.linalg.inv(matrix)
        place = (back[:-1, :-1] @ grid.reshape(ndim, -1) + back[:-1, -1:]).reshape(grid.shape)
        if motion == "elastic":
            field = sum(w * wave for w, wave in zip(weights[t], waves, strict=True)) / 1.5
            fields.append(field)
            place = _inverted(np.asarray(field), place)
        frame = ndimage.map_coordinates(spline, place + margin, order=3, prefilter=False, mode="nearest")
        frames.append(frame + noise * rng.normal(size=shape))
        matrices.append(matrix)
    return Movie(np.array(frames, np.float32), np.array(matrices), np.array(fields, np.float32) if fields else None)


def _inverted(field: FloatArray, target: FloatArray) -> FloatArray:
    """Return the points ``x`` with ``x + field(x) = target``, by fixed-point iteration."""
    place = target.copy()
    for _ in range(20):
        moved = np.stack([ndimage.map_coordinates(one, place, order=1, mode="nearest") for one in field])
        place = target - moved
    return place
