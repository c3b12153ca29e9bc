"""Simulated micrograph of a cell layer: outlines, textured nuclei, filaments."""

from __future__ import annotations

import numpy as np

from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.linalg import rotation_2d
from napari_stnreg.datasets.primitives import PlaneWaves, affine_about, blend, nearest_seeds, soft_step
from napari_stnreg.datasets.sample import Sample, inner_points, to_bytes

_SIDE = 128.0  # micrometers


def shapes_pair(size: int = 256, seed: int = 4) -> Sample:
    """Make a 2D pair of cell sheets: rotated by 11 degrees, 7 % larger, shifted and smoothly stretched.

    Parameters
    ----------
    size
        Pixels along each side; the field of view is always 128 by 128 micrometers.
    seed
        Of the noise.
    """
    grid = Grid.from_spacing((size, size), _SIDE / size, unit="um")
    stretch = PlaneWaves.random(21, 2, wavelength=75.0, height=4.2)
    linear = affine_about(rotation_2d(np.deg2rad(11)) * 1.07, [_SIDE / 2] * 2, [3.5, -5.0])

    def true_map(points: object) -> FloatArray:
        return linear(np.asarray(points)) + stretch(np.asarray(points))

    images = []
    for name, where, grain in (("cells_fixed", true_map, seed), ("cells_moving", np.asarray, seed + 1)):
        values = _scene(np.asarray(where(grid.points())).reshape(-1, 2))
        images.append(Image(to_bytes(values, grid, grain), grid, name=name))
    return Sample("cells", images[0], images[1], true_map, inner_points(grid, 12, seed=2))


def _scene(points: FloatArray) -> FloatArray:
    """Brightness 0 to 1 at points ``(N, 2)`` in micrometers."""
    rng = np.random.default_rng(7)
    # Seeds on a jittered hexagonal lattice make cells of even size; a wavy space makes their outlines organic.
    rows, columns = np.mgrid[0:6, 0:6].reshape(2, -1)
    seeds = np.stack([rows * 18.5 + 18, columns * 20.5 + 7 + 10 * (rows % 2)], axis=1) + rng.uniform(-4.2, 4.2, (36, 2))
    seeds = seeds[np.linalg.norm(seeds - _SIDE / 2, axis=1) < 53]
    wavy = (
        points
        + PlaneWaves.random(3, 2, wavelength=21.0, height=2.2)(points)
        + PlaneWaves.random(5, 2, 9.0, 0.7)(points)
    )
    cell, near, far = nearest_seeds(wavy, seeds)

    rim = 52 + PlaneWaves.random(9, 2, 60.0, 5.0)(points)[:, 0] - np.linalg.norm(wavy - _SIDE / 2, axis=1)
    sheet = soft_step(rim + 0.8, 0.5)
    outline = np.maximum(np.exp(-(((far - near) / 1.5) ** 2)), np.exp(-((rim / 0.9) ** 2)))

    own = rng.uniform(0, 1, (len(seeds), 6))[cell]
    local = wavy - seeds[cell]
    angle = own[:, 0] * np.pi
    along = local[:, 0] * np.cos(angle) + local[:, 1] * np.sin(angle)
    across = -local[:, 0] * np.sin(angle) + local[:, 1] * np.cos(angle)

    body = 0.13 + 0.10 * own[:, 1] + 0.03 * PlaneWaves.random(11, 2, 7.0, 1.0)(points)[:, 0]
    # Filaments run along the cell and bend a little; thin bright lines where a sine of the distance across peaks.
    bend = across + 0.9 * np.sin(along / 3.2 + 6 * own[:, 2]) + 0.02 * along**2
    lines = np.exp(-((np.sin(bend * np.pi / 2.6) / 0.30) ** 2))
    lines *= 0.5 + 0.5 * np.sin(along / 2.1 + 9 * own[:, 3] + bend)
    values = body + 0.26 * lines * soft_step(far - near - 2.2, 0.8)
    values += 0.62 * outline

    # Nuclei: ellipses with a mottled inside, a bright rim and one or two dark nucleoli.
    length, width = 5.0 + 1.6 * own[:, 4], 3.5 + 1.0 * own[:, 5]
    radius = np.sqrt((along / length) ** 2 + (across / width) ** 2)
    # A cell at the rim has its nucleus out of focus, so that none is cut in half.
    whole = np.linalg.norm(seeds[cell] - _SIDE / 2, axis=1) < 45
    inside = soft_step((1 - radius) * width, 0.35) * whole
    mottle = 0.5 + 0.5 * PlaneWaves.random(13, 2, 3.6, 1.6, count=9)(points)[:, 0]
    nucleus = 0.60 + 0.22 * mottle + 0.14 * np.exp(-(((radius - 0.93) / 0.12) ** 2))
    values = blend(values, inside, nucleus)
    for sign in (-1, 1):
        spot = np.hypot(along - sign * (1.1 + own[:, 2]), across + sign * (0.7 * own[:, 3]))
        values = blend(values, 0.75 * whole * soft_step(0.75 + 0.35 * own[:, 1] - spot, 0.25), 0.30)

    glow = 0.035 + 0.02 * PlaneWaves.random(17, 2, 80.0, 1.0)(points)[:, 0]
    return np.clip(blend(np.broadcast_to(glow, values.shape), sheet, values), 0, 1)
