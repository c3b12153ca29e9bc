"""Serial sections of nervous tissue, each lying a little elsewhere on its slide."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_stnreg.images import FloatArray, Grid, Image
from napari_stnreg.samples.common import (
    Sample,
    Waves,
    about,
    inner_points,
    nearest_seeds,
    paint,
    rotation_2d,
    step,
    to_bytes,
)

_SECTIONS, _SIDE = 12, 128
_THICKNESS = 50.0  # nm
_PIXEL = 10.0  # nm


def section_stack(seed: int = 51) -> Sample:
    """A stack of 12 sections as they were in the tissue (fixed) and as they lie on the slides (moving), 3D.

    Each section of the moving stack was shifted, turned and wrinkled on its own within its plane, and its contrast and
    shading differ. The true map takes a point of the tissue to where its section has it.

    Parameters
    ----------
    seed
        Of the noise.
    """
    grid = Grid.from_spacing((_SECTIONS, _SIDE, _SIDE), (_THICKNESS, _PIXEL, _PIXEL), unit="nm")
    slides = [_Slide(number) for number in range(_SECTIONS)]

    def true_map(points: npt.ArrayLike) -> FloatArray:
        points = np.asarray(points, dtype=np.float64)
        section = np.clip(np.rint(points[..., 0] / _THICKNESS), 0, _SECTIONS - 1).astype(int)
        moved = points.copy()
        for number, slide in enumerate(slides):
            here = section == number
            moved[here, 1:] = slide.place(points[here, 1:])
        return moved

    plane = grid.points().reshape(_SECTIONS, -1, 3)
    straight = np.stack([_scene(points[:, 1:], points[0, 0]) for points in plane])
    crooked = np.stack([slide.look(_scene(slide.lift(p[:, 1:]), p[0, 0]), p[:, 1:])
                        for slide, p in zip(slides, plane, strict=True)])  # fmt: skip
    fixed = Image(to_bytes(straight, grid, seed, noise=4.0), grid, name="sections_true")
    moving = Image(to_bytes(crooked, grid, seed + 1, noise=4.0), grid, name="sections")
    points = inner_points(grid, 24, seed=6)
    points[:, 0] = np.rint(points[:, 0] / _THICKNESS) * _THICKNESS
    return Sample("sections", fixed, moving, true_map, points)


class _Slide:
    """What happened to one section: wrinkled first, then turned and shifted; and how it was photographed."""

    def __init__(self, number: int) -> None:
        rng = np.random.default_rng(100 + number)
        extent = _SIDE * _PIXEL
        self.wrinkle = Waves.random(200 + number, 2, wavelength=0.65 * extent, height=2.5 * _PIXEL, count=4)
        turn, center = rotation_2d(rng.uniform(-3.5, 3.5)), [extent / 2] * 2
        shift = rng.uniform(-6.0, 6.0, 2) * _PIXEL
        self.lay = about(turn, center, shift)
        self.unlay = about(turn.T, np.add(center, shift), -shift)
        self.gain, self.offset = rng.uniform(0.8, 1.1), rng.uniform(-0.06, 0.08)
        self.shade = Waves.random(300 + number, 2, 1.6 * extent, 0.06, count=2)

    def place(self, points: FloatArray) -> FloatArray:
        """Tissue to slide, ``(N, 2)`` in nm."""
        return self.lay(points + self.wrinkle(points))

    def lift(self, points: FloatArray) -> FloatArray:
        """Slide to tissue: the exact inverse of :meth:`place`.

        The wrinkle is gentle (its slope stays below one half), so that taking it off again and again converges; sixty
        rounds leave nothing but rounding.
        """
        flat = self.unlay(points)
        guess = flat
        for _ in range(60):
            guess = flat - self.wrinkle(guess)
        return guess

    def look(self, values: FloatArray, points: FloatArray) -> FloatArray:
        """Brightness as this section was photographed."""
        return np.clip(values * self.gain + self.offset + self.shade(points)[:, 0], 0, 1)


def _scene(points: FloatArray, height: float) -> FloatArray:
    """Brightness 0 to 1 of tissue at points ``(N, 2)`` in nm at a height: cut neurites with dark membranes."""
    rng = np.random.default_rng(77)
    extent = _SIDE * _PIXEL
    count = 90
    # Neurites run obliquely through the stack: where they are cut moves from section to section, each its own way.
    seeds = rng.uniform(-0.25, 1.25, (count, 2)) * extent
    for _ in range(12):  # pushed apart, so that their sizes are alike
        gap = seeds[:, None] - seeds[None]
        distance = np.linalg.norm(gap, axis=-1) + 1e-9
        seeds = seeds + (gap / distance[..., None] * np.clip(150 - distance, 0, None)[..., None]).sum(axis=1) * 0.08
    slope = rng.normal(0, 0.16, (count, 2)) + [0.10, -0.06]
    middle = height - _THICKNESS * (_SECTIONS - 1) / 2
    seeds = seeds + slope * middle
    wavy = points + Waves.random(81, 2, 210.0, 34.0)(points) + Waves.random(83, 2, 80.0, 7.0)(points)
    cell, near, far = nearest_seeds(wavy, seeds)

    own = rng.uniform(0, 1, (count, 5))[cell]
    membrane = np.exp(-(((far - near) / 17.0) ** 2))
    grain = Waves.random(85, 2, 38.0, 1.0, count=9)(points + 0.4 * middle)[:, 0]
    values = 0.66 + 0.16 * own[:, 0] + 0.07 * grain
    # Every third neurite carries a mitochondrion: a dark oval with pale stripes.
    local = wavy - seeds[cell] - (own[:, 1:3] - 0.5) * 50
    angle = own[:, 3] * np.pi
    along = local[:, 0] * np.cos(angle) + local[:, 1] * np.sin(angle)
    across = -local[:, 0] * np.sin(angle) + local[:, 1] * np.cos(angle)
    oval = step(1 - np.hypot(along / 46, across / 27), 0.10) * (own[:, 4] < 0.36) * step(far - near - 30, 8.0)
    values = paint(values, oval, 0.36 + 0.07 * np.sin(along / 6.5))
    values = paint(values, membrane, 0.13)
    return np.clip(values, 0, 1)
