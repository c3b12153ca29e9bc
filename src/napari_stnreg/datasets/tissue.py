"""Unbounded simulated neural tissue: oblique neurites, rendered at any height and position.

Positions are pixels (y, x) of the tissue, heights are sections of nominal thickness. The tissue is periodic laterally
after :attr:`Tissue.period` pixels and never along the heights. The center of a neurite at a height is known
exactly, so that what an alignment makes of its slope can be measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from napari_stnreg.core.grid import FloatArray
from napari_stnreg.datasets.bspline_evaluation import evaluate_on_pixels, from_blocks, to_blocks
from napari_stnreg.datasets.neuropil import BLOCK, Nearby, Neurites, add_vesicles, cytoplasm_grain, draw_blocks
from napari_stnreg.datasets.primitives import PlaneWaves

Values = npt.NDArray[np.float32]
Index = npt.NDArray[np.intp]
PointMap = Callable[[FloatArray], FloatArray]

LOOKED_UP = 16
"""Neurites around the middle of a block that may have a part in it."""
STRIP = 128
"""Blocks that are drawn at a time: few enough for the processor's cache."""


@dataclass(frozen=True)
class Tissue:
    """A piece of neuropil: what is where, at every height.

    Parameters
    ----------
    period
        Pixels after which it repeats itself sideways.
    seed
        Which tissue.
    cell
        Typical diameter of a neurite, pixels.
    slope
        How obliquely neurites run, pixels a section: root mean square of what neighbors have in common. Half of it is
        the same everywhere, the rest bends over hundreds of pixels and sections.
    spread
        Standard deviation of each neurite's own slope beside that, pixels a section and axis.
    """

    period: float
    seed: int = 0
    cell: float = 36.0
    slope: float = 1.5
    spread: float = 1.5

    # -- where things are

    def straightened(self, points: FloatArray, height: float) -> FloatArray:
        """Map points ``(..., 2)`` at a height to their positions if all shared trends ran straight up, ``(..., 2)``."""
        course, wrinkles = _common(self)
        solid = _with_height(points, height)
        return points - np.asarray(_lean(self)) * height - course(solid) + wrinkles(solid)

    def paths(self, heights: FloatArray, shape: tuple[int, int]) -> FloatArray:
        """Center lines ``(N, Z, 2)`` at heights ``(Z,)`` of the neurites that cross an area ``(y, x)`` halfway."""
        neurites = _neurites(self)
        heights = np.asarray(heights, dtype=np.float64)
        halfway = float(heights.mean())
        # every copy of the repeated tissue whose center may lie in the area
        base = neurites.base + neurites.slope * halfway
        low = self.straightened(np.zeros(2), halfway) - self.cell
        reach = int(np.ceil(max(shape) / self.period)) + 1
        copies = [low + (base - low) % self.period + self.period * np.array([i, j])
                  for i in range(-1, reach) for j in range(-1, reach)]  # fmt: skip
        number = np.tile(np.arange(len(base)), len(copies))
        resting = np.concatenate(copies)
        middle = self._invert(resting, halfway)
        inside = ((middle >= 0) & (middle <= np.asarray(shape) - 1)).all(axis=1)
        number, resting = number[inside], resting[inside]
        found = [self._invert(resting + neurites.slope[number] * (h - halfway), h) for h in heights]
        return np.stack(found, axis=1) if found else np.zeros((len(number), 0, 2))

    def _invert(self, resting: FloatArray, height: float, iterations: int = 80) -> FloatArray:
        """Invert :meth:`straightened` by fixed-point iteration, which converges because the bend is gentle."""
        points = resting + np.asarray(_lean(self)) * height
        for _ in range(iterations):
            change = resting - self.straightened(points, height)
            points = points + change
            if np.abs(change).max(initial=0) < 1e-9:
                break
        return points

    # -- what it looks like

    def draw(self, shape: tuple[int, int], height: float, thickness: float = 1.0, where: PointMap | None = None) -> (
        Values
    ):  # fmt: skip
        """Brightness ``(h, w)`` of a cut, 0 (dark) to 1, before any camera.

        Parameters
        ----------
        shape
            Pixels (h, w).
        height
            Of the middle of the section.
        thickness
            In nominal sections: what stands obliquely in a thick section is blurred.
        where
            Pixels ``(..., 2)`` of the picture to those of the tissue, smooth; the same place if not given.
        """
        to_tissue: PointMap = where or (lambda points: points)
        texture = _texture(self)

        def looked_up(points: FloatArray) -> FloatArray:
            tissue = to_tissue(points)
            return np.concatenate(
                [self.straightened(tissue, height), texture(_with_height(tissue, height))[..., :1]], axis=-1
            )

        y, x, reticulum = evaluate_on_pixels(looked_up, shape, multiple=BLOCK)
        full = (y.shape[0], y.shape[1])
        # what is finer than a section is thick is another in every section
        # (rounded: a height that differs in its last bit between processors must give the same grain)
        rng = np.random.default_rng((self.seed, 6, int(np.rint(height * 2**20)) % 2**64))
        grain = cytoplasm_grain(rng, full)
        y, x, reticulum, grain = (to_blocks(plane, BLOCK) for plane in (y, x, reticulum, grain))
        nearby = self._nearby(y, x, height, thickness)
        out, held = np.empty_like(y), np.empty(y.shape, dtype=bool)
        for begin in range(0, len(y), STRIP):
            part = slice(begin, begin + STRIP)
            out[part], held[part] = draw_blocks(
                _neurites(self), nearby.part(part), y[part], x[part], reticulum[part], grain[part], height
            )
        picture = from_blocks(out, full, BLOCK)[: shape[0], : shape[1]]
        add_vesicles(rng, picture, from_blocks(held, full, BLOCK)[: shape[0], : shape[1]])
        return picture

    def _nearby(self, y: Values, x: Values, height: float, thickness: float) -> Nearby:
        """List the neurites that may overlap each block, nearest first."""
        neurites = _neurites(self)
        centers = (neurites.base + neurites.slope * height) % self.period
        tree = cKDTree(centers, boxsize=self.period)
        middle = np.stack([y.mean(axis=1), x.mean(axis=1)], axis=-1).astype(np.float64)
        reach = np.sqrt(((y - middle[:, :1]) ** 2 + (x - middle[:, 1:]) ** 2).max(axis=1))
        distance, number = tree.query(middle % self.period, k=min(LOOKED_UP, len(centers)))
        surface = distance - neurites.radius[number]
        order = np.argsort(surface, axis=1)
        surface, number = np.take_along_axis(surface, order, axis=1), np.take_along_axis(number, order, axis=1)
        count = (surface <= surface[:, 1:2] + 2 * reach[:, None]).sum(axis=1)
        away = (centers[number] - middle[:, None] + self.period / 2) % self.period - self.period / 2
        # how fast what all neurites have in common passes by, in the frame in which they rest
        course, _ = _common(self)
        places = middle  # the course is smooth: taking it where the neurites rest is near enough for a blur
        later, sooner = (course(_with_height(places, height + d)) for d in (0.5, -0.5))
        return Nearby(
            number, (middle[:, None] + away).astype(np.float32), np.maximum(count, 2),
            (-np.asarray(_lean(self)) - (later - sooner)).astype(np.float32), float(thickness),
        )  # fmt: skip


@lru_cache(maxsize=8)
def _neurites(tissue: Tissue) -> Neurites:
    rng = np.random.default_rng((tissue.seed, 1))
    across = max(round(tissue.period / tissue.cell), 4)
    pitch = tissue.period / across
    lattice = np.stack(np.meshgrid(np.arange(across), np.arange(across), indexing="ij"), axis=-1).reshape(-1, 2)
    count = len(lattice)
    base = (lattice + 0.5 + rng.uniform(-0.5, 0.5, (count, 2))) * pitch
    radius = 0.8 * pitch * rng.beta(0.7, 2.2, count)
    myelin = rng.random(count) < 0.02
    radius[myelin] += 0.25 * pitch
    return Neurites(
        base, rng.normal(0, tissue.spread, (count, 2)), radius.astype(np.float32),
        (0.68 + 0.07 * rng.normal(size=count).clip(-1.6, 1.6)).astype(np.float32),
        rng.random((count, 6)).astype(np.float32), myelin, (rng.random(count) < 0.2) & ~myelin,
    )  # fmt: skip


def _lean(tissue: Tissue) -> tuple[float, float]:
    angle = np.random.default_rng((tissue.seed, 2)).uniform(0, 2 * np.pi)
    return 0.5 * tissue.slope * np.cos(angle), 0.5 * tissue.slope * np.sin(angle)


@lru_cache(maxsize=8)
def _common(tissue: Tissue) -> tuple[PlaneWaves, PlaneWaves]:
    """Return the displacement that neighbors share (trend and wrinkles of walls) as waves in (height, y, x)."""
    rng = np.random.default_rng((tissue.seed, 3))

    def waves(
        count: int, wavelengths: tuple[float, float], turns: tuple[float, float]
    ) -> tuple[FloatArray, FloatArray]:
        angle, length = rng.uniform(0, 2 * np.pi, count), rng.uniform(*wavelengths, count)
        frequency = 2 * np.pi / rng.uniform(*turns, count) * rng.choice([-1, 1], count)
        return np.stack([frequency, *(2 * np.pi / length * f(angle) for f in (np.cos, np.sin))], axis=-1), frequency

    directions, frequency = waves(5, (500.0, 1200.0), (60.0, 200.0))
    push = rng.normal(size=(5, 2))
    push /= np.linalg.norm(push, axis=1, keepdims=True)
    push *= np.sqrt(0.75) * tissue.slope * np.sqrt(2 / 5) / np.abs(frequency)[:, None]
    course = PlaneWaves(directions, rng.uniform(0, 2 * np.pi, 5), push)
    # walls: long, and as long as a neurite is wide; they change along the heights as fast as sideways
    wide = waves(4, (4.5 * tissue.cell, 7.0 * tissue.cell), (30.0, 70.0))[0]
    narrow = waves(6, (1.4 * tissue.cell, 2.4 * tissue.cell), (6.0, 14.0))[0]
    size = np.repeat([0.12, 0.05], [4, 6])[:, None] * tissue.cell
    return course, PlaneWaves(np.concatenate([wide, narrow]), rng.uniform(0, 2 * np.pi, 10), size * _unit(rng, 10))


@lru_cache(maxsize=8)
def _texture(tissue: Tissue) -> PlaneWaves:
    """Waves whose zero lines are the endoplasmic reticulum."""
    rng = np.random.default_rng((tissue.seed, 4))
    angle, length = rng.uniform(0, 2 * np.pi, 8), rng.uniform(38.0, 60.0, 8)
    frequency = 2 * np.pi / rng.uniform(6.0, 14.0, 8)
    directions = np.stack([frequency, *(2 * np.pi / length * f(angle) for f in (np.cos, np.sin))], axis=-1)
    return PlaneWaves(directions, rng.uniform(0, 2 * np.pi, 8), np.full((8, 2), 0.5))


def _unit(rng: np.random.Generator, count: int) -> FloatArray:
    angle = rng.uniform(0, 2 * np.pi, count)
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _with_height(points: FloatArray, height: float) -> FloatArray:
    return np.concatenate([np.full((*points.shape[:-1], 1), height), points], axis=-1)
