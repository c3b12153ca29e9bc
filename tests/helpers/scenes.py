"""Scenes whose brightness is known at every point of the world, and pairs of images drawn of them.

Both images of a pair are drawn by evaluating the scene at their voxels' places, the fixed one through the true map: no
image is resampled, so nothing that is tested had a hand in the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import napari_stnreg as sr
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.linalg import rotation_2d
from napari_stnreg.datasets.primitives import PlaneWaves, rotation_3d

SIDE = 100.0
"""Extent of every scene along each axis, in world units; its middle is the world's zero."""


@dataclass(frozen=True)
class Blobs:
    """Smooth spots of all sizes in a round field, none like another; dark around."""

    centers: np.ndarray
    widths: np.ndarray
    heights: np.ndarray

    @classmethod
    def random(cls, ndim: int, seed: int = 0, count: int | None = None) -> Blobs:
        rng = np.random.default_rng(seed)
        count = count or (60 if ndim == 2 else 200)
        directions = rng.normal(size=(count, ndim))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        centers = directions * 0.33 * SIDE * rng.uniform(0, 1, (count, 1)) ** (1 / ndim)
        widths = rng.uniform(0.025, 0.07, count) * SIDE * (1 if ndim == 2 else 1.15)
        return cls(centers, widths, rng.uniform(0.3, 1.0, count))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        flat = points.reshape(-1, points.shape[-1])
        rate = 0.5 / self.widths**2
        # |x - c|^2 by one product, some thousand points at a time so that they stay in the cache
        offset = (self.centers**2).sum(axis=1) * rate
        values = np.empty(len(flat))
        for start in range(0, len(flat), 2048):
            part = flat[start : start + 2048]
            power = np.multiply.outer((part**2).sum(axis=1), rate) + offset - 2 * part @ (self.centers.T * rate)
            values[start : start + 2048] = np.exp(-power.astype(np.float32)) @ self.heights.astype(np.float32)
        return values.reshape(points.shape[:-1])


@dataclass(frozen=True)
class Pair:
    """Two images and the true map of fixed world points to the moving world."""

    fixed: Image
    moving: Image
    truth: Callable[[np.ndarray], np.ndarray]
    center: np.ndarray

    def points(self, reach: float = 0.33) -> np.ndarray:
        """Places of the fixed world that show something, ``(N, D)``."""
        ndim = self.fixed.ndim
        rng = np.random.default_rng(1)
        inner = rng.uniform(-1, 1, (1500, ndim))
        inner = inner[np.linalg.norm(inner, axis=1) < 1] * reach * SIDE
        return inner + self.center

    def errors(self, transform, reach: float = 0.33) -> np.ndarray:
        """Distance from the truth, in fixed voxels (of the finest axis), at places that show something."""
        points = self.points(reach)
        where = self.truth(points)
        fine = self.fixed.grid.spacing.min()
        return np.linalg.norm(transform.map_points(points) - where, axis=1) / fine

    def error(self, transform, reach: float = 0.33) -> float:
        """Mean of :meth:`errors`."""
        return float(self.errors(transform, reach).mean())


def grid(size, ndim: int | None = None, *, turn=None, offset=0.0, unit="pixel", extent=SIDE, shear=0.0) -> Grid:
    """A grid around the world's zero with ``size`` voxels along each axis over ``extent`` world units."""
    shape = (size,) * ndim if ndim is not None else tuple(size)
    spacing = np.broadcast_to(extent, (len(shape),)) / np.asarray(shape)
    linear = np.eye(len(shape)) if turn is None else np.asarray(turn)
    if shear:
        linear = linear @ (np.eye(len(shape)) + shear * np.eye(len(shape), k=1))
    linear = linear * spacing
    matrix = np.eye(len(shape) + 1)
    matrix[:-1, :-1] = linear
    matrix[:-1, -1] = np.asarray(offset) - linear @ ((np.asarray(shape) - 1) / 2)
    return Grid(shape, matrix, unit)


def affine_map(ndim: int, degrees: float = 0.0, scale=1.0, shift=0.0, shear: float = 0.0, mirror: bool = False):
    """``x -> A x + t`` about the world's zero, as a function and as a homogeneous matrix."""
    turn = rotation_2d(np.deg2rad(degrees)) if ndim == 2 else rotation_3d(degrees, degrees / 2, -degrees / 3)
    linear = turn @ np.diag(np.broadcast_to(scale, (ndim,))) @ (np.eye(ndim) + shear * np.eye(ndim, k=1))
    if mirror:
        linear = linear @ np.diag([-1.0] + [1.0] * (ndim - 1))
    shift = np.broadcast_to(np.asarray(shift, dtype=float), (ndim,))
    return lambda points: points @ linear.T + shift


def bent_map(ndim: int, height: float = 3.0, wavelength: float = 70.0, seed: int = 3, linear=None):
    """A smooth bending of up to ``height`` world units, then an affine map."""
    waves = PlaneWaves.random(seed, ndim, wavelength, height)
    linear = linear or (lambda points: points)
    return lambda points: linear(points + waves(points))


def pair(
    truth,
    fixed_grid: Grid,
    moving_grid: Grid | None = None,
    *,
    seed: int = 0,
    noise: float = 0.0,
    remap=None,
    center=0.0,
) -> Pair:
    """Draw a pair; ``remap`` changes the fixed image's brightness, ``center`` is where in the world the scene lies."""
    moving_grid = moving_grid or fixed_grid
    scene = Blobs.random(fixed_grid.ndim, seed)
    fixed = scene(truth(fixed_grid.points()) - center)
    moving = scene(moving_grid.points() - center)
    if remap is not None:
        fixed = remap(fixed)
    rng = np.random.default_rng(seed + 1)
    fixed = fixed + noise * rng.normal(size=fixed.shape)
    moving = moving + noise * rng.normal(size=moving.shape)
    return Pair(
        Image(fixed.astype(np.float32), fixed_grid, name="fixed"),
        Image(moving.astype(np.float32), moving_grid, name="moving"),
        truth,
        np.broadcast_to(np.asarray(center, dtype=float), (fixed_grid.ndim,)),
    )


def turn_3d(axis: int, degrees: float) -> np.ndarray:
    """Rotation about one axis."""
    angles = [0.0, 0.0, 0.0]
    angles[axis] = degrees
    return rotation_3d(*angles)


FAST = {"preset": "fast", "device": "cpu"}


def bent_pair(ndim: int = 2, size: int = 64, **options) -> Pair:
    """A pair that is turned, shifted and bent."""
    truth = bent_map(ndim, height=3.0, linear=affine_map(ndim, degrees=5, shift=2.0))
    return pair(truth, grid(size, ndim), **options)


def registered(images: Pair, **options):
    """Register a pair, quickly unless told otherwise."""
    return sr.register(images.fixed, images.moving, **{**FAST, **options})
