"""Nervous tissue without end: neurites that run obliquely through it, drawn at any height and at any place.

Positions are pixels (y, x) of the tissue, heights are sections of nominal thickness. The tissue repeats itself sideways
after :attr:`Tissue.period` pixels and never along the heights. Where a neurite's centre lies at a height is known
exactly, so that what an alignment makes of its slope can be measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from napari_stnreg.images import FloatArray
from napari_stnreg.samples.common import Waves
from napari_stnreg.samples.nodes import blocks_of, on_pixels, pixels_of

Values = npt.NDArray[np.float32]
Index = npt.NDArray[np.intp]
PointMap = Callable[[FloatArray], FloatArray]

BLOCK = 16
"""Neurites are looked up once for a block of so many pixels a side."""
LOOKED_UP = 16
"""Neurites around the middle of a block that may have a part in it."""
STRIP = 128
"""Blocks that are drawn at a time: few enough for the processor's cache."""
MEMBRANE = 1.6
"""Half the width of a membrane that is cut straight, pixels."""


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
        How obliquely neurites run, pixels a section: root mean square of what neighbours have in common. Half of it is
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

    def at_rest(self, points: FloatArray, height: float) -> FloatArray:
        """Where points ``(..., 2)`` of a height would lie if all neurites in common ran straight up, ``(..., 2)``."""
        course, wrinkles = _common(self)
        solid = _with_height(points, height)
        return points - np.asarray(_lean(self)) * height - course(solid) + wrinkles(solid)

    def paths(self, heights: FloatArray, shape: tuple[int, int]) -> FloatArray:
        """Centre lines ``(N, Z, 2)`` at heights ``(Z,)`` of the neurites that cross an area ``(y, x)`` halfway."""
        neurites = _neurites(self)
        heights = np.asarray(heights, dtype=np.float64)
        halfway = float(heights.mean())
        # every copy of the repeated tissue whose centre may lie in the area
        base = neurites.base + neurites.slope * halfway
        low = self.at_rest(np.zeros(2), halfway) - self.cell
        reach = int(np.ceil(max(shape) / self.period)) + 1
        copies = [low + (base - low) % self.period + self.period * np.array([i, j])
                  for i in range(-1, reach) for j in range(-1, reach)]  # fmt: skip
        number = np.tile(np.arange(len(base)), len(copies))
        resting = np.concatenate(copies)
        middle = self._raised(resting, halfway)
        inside = ((middle >= 0) & (middle <= np.asarray(shape) - 1)).all(axis=1)
        number, resting = number[inside], resting[inside]
        found = [self._raised(resting + neurites.slope[number] * (h - halfway), h) for h in heights]
        return np.stack(found, axis=1) if found else np.zeros((len(number), 0, 2))

    def _raised(self, resting: FloatArray, height: float, rounds: int = 80) -> FloatArray:
        """The inverse of :meth:`at_rest`: it is gentle, so taking the bend off again and again converges."""
        points = resting + np.asarray(_lean(self)) * height
        for _ in range(rounds):
            change = resting - self.at_rest(points, height)
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
        lift: PointMap = where or (lambda points: points)
        texture = _texture(self)

        def looked_up(points: FloatArray) -> FloatArray:
            tissue = lift(points)
            return np.concatenate(
                [self.at_rest(tissue, height), texture(_with_height(tissue, height))[..., :1]], axis=-1
            )

        y, x, reticulum = on_pixels(looked_up, shape, multiple=BLOCK)
        full = (y.shape[0], y.shape[1])
        # what is finer than a section is thick is another in every section
        rng = np.random.default_rng((self.seed, 6, int(np.float64(height).view(np.uint64))))
        grain = _grain(rng, full)
        y, x, reticulum, grain = (blocks_of(plane, BLOCK) for plane in (y, x, reticulum, grain))
        nearby = self._nearby(y, x, height, thickness)
        out, held = np.empty_like(y), np.empty(y.shape, dtype=bool)
        for begin in range(0, len(y), STRIP):
            part = slice(begin, begin + STRIP)
            out[part], held[part] = _drawn(
                _neurites(self), nearby.part(part), y[part], x[part], reticulum[part], grain[part], height
            )
        picture, terminals = (pixels_of(plane, full, BLOCK)[: shape[0], : shape[1]] for plane in (out, held))
        _vesicles(rng, picture, terminals)
        return picture

    def _nearby(self, y: Values, x: Values, height: float, thickness: float) -> _Nearby:
        """The neurites that may have a part in each block, nearest first."""
        neurites = _neurites(self)
        centres = (neurites.base + neurites.slope * height) % self.period
        tree = cKDTree(centres, boxsize=self.period)
        middle = np.stack([y.mean(axis=1), x.mean(axis=1)], axis=-1).astype(np.float64)
        reach = np.sqrt(((y - middle[:, :1]) ** 2 + (x - middle[:, 1:]) ** 2).max(axis=1))
        distance, number = tree.query(middle % self.period, k=min(LOOKED_UP, len(centres)))
        surface = distance - neurites.radius[number]
        order = np.argsort(surface, axis=1)
        surface, number = np.take_along_axis(surface, order, axis=1), np.take_along_axis(number, order, axis=1)
        count = (surface <= surface[:, 1:2] + 2 * reach[:, None]).sum(axis=1)
        away = (centres[number] - middle[:, None] + self.period / 2) % self.period - self.period / 2
        # how fast what all neurites have in common passes by, in the frame in which they rest
        course, _ = _common(self)
        places = middle  # the course is smooth: taking it where the neurites rest is near enough for a blur
        later, sooner = (course(_with_height(places, height + d)) for d in (0.5, -0.5))
        return _Nearby(
            number, (middle[:, None] + away).astype(np.float32), np.maximum(count, 2),
            (-np.asarray(_lean(self)) - (later - sooner)).astype(np.float32), float(thickness),
        )  # fmt: skip


@dataclass(frozen=True)
class _Nearby:
    """Candidates of each block: ``number (B, C)``, ``centre (B, C, 2)``, how many count, and the common motion."""

    number: Index
    centre: Values
    count: Index
    motion: Values
    thickness: float

    def part(self, rows: slice) -> _Nearby:
        return _Nearby(self.number[rows], self.centre[rows], self.count[rows], self.motion[rows], self.thickness)


@dataclass(frozen=True)
class _Neurites:
    """What each of ``K`` neurites is like."""

    base: FloatArray  # (K, 2) pixels at height 0, at rest
    slope: FloatArray  # (K, 2) pixels a section, of its own
    radius: Values  # (K,) pixels by which it is larger than its neighbours
    bright: Values  # (K,)
    roll: Values  # (K, 6) random numbers 0..1 that decide about its organelles
    myelin: npt.NDArray[np.bool_]
    terminal: npt.NDArray[np.bool_]  # holds vesicles


@lru_cache(maxsize=8)
def _neurites(tissue: Tissue) -> _Neurites:
    rng = np.random.default_rng((tissue.seed, 1))
    across = max(int(round(tissue.period / tissue.cell)), 4)
    pitch = tissue.period / across
    lattice = np.stack(np.meshgrid(np.arange(across), np.arange(across), indexing="ij"), axis=-1).reshape(-1, 2)
    count = len(lattice)
    base = (lattice + 0.5 + rng.uniform(-0.5, 0.5, (count, 2))) * pitch
    radius = 0.8 * pitch * rng.beta(0.7, 2.2, count)
    myelin = rng.random(count) < 0.02
    radius[myelin] += 0.25 * pitch
    return _Neurites(
        base, rng.normal(0, tissue.spread, (count, 2)), radius.astype(np.float32),
        (0.68 + 0.07 * rng.normal(size=count).clip(-1.6, 1.6)).astype(np.float32),
        rng.random((count, 6)).astype(np.float32), myelin, (rng.random(count) < 0.2) & ~myelin,
    )  # fmt: skip


def _lean(tissue: Tissue) -> tuple[float, float]:
    angle = np.random.default_rng((tissue.seed, 2)).uniform(0, 2 * np.pi)
    return 0.5 * tissue.slope * np.cos(angle), 0.5 * tissue.slope * np.sin(angle)


@lru_cache(maxsize=8)
def _common(tissue: Tissue) -> tuple[Waves, Waves]:
    """What neighbours have in common: the course, and the wrinkles of their walls; waves in (height, y, x)."""
    rng = np.random.default_rng((tissue.seed, 3))

    def waves(count: int, wavelengths: tuple[float, float], turns: tuple[float, float]) -> tuple[FloatArray, FloatArray]:
        angle, length = rng.uniform(0, 2 * np.pi, count), rng.uniform(*wavelengths, count)
        pace = 2 * np.pi / rng.uniform(*turns, count) * rng.choice([-1, 1], count)
        return np.stack([pace, *(2 * np.pi / length * f(angle) for f in (np.cos, np.sin))], axis=-1), pace

    directions, pace = waves(5, (500.0, 1200.0), (60.0, 200.0))
    push = rng.normal(size=(5, 2))
    push /= np.linalg.norm(push, axis=1, keepdims=True)
    push *= np.sqrt(0.75) * tissue.slope * np.sqrt(2 / 5) / np.abs(pace)[:, None]
    course = Waves(directions, rng.uniform(0, 2 * np.pi, 5), push)
    # walls: long, and as long as a neurite is wide; they change along the heights as fast as sideways
    wide = waves(4, (4.5 * tissue.cell, 7.0 * tissue.cell), (30.0, 70.0))[0]
    narrow = waves(6, (1.4 * tissue.cell, 2.4 * tissue.cell), (6.0, 14.0))[0]
    size = np.repeat([0.12, 0.05], [4, 6])[:, None] * tissue.cell
    return course, Waves(np.concatenate([wide, narrow]), rng.uniform(0, 2 * np.pi, 10), size * _unit(rng, 10))


@lru_cache(maxsize=8)
def _texture(tissue: Tissue) -> Waves:
    """Waves whose zero lines are the endoplasmic reticulum."""
    rng = np.random.default_rng((tissue.seed, 4))
    angle, length = rng.uniform(0, 2 * np.pi, 8), rng.uniform(38.0, 60.0, 8)
    pace = 2 * np.pi / rng.uniform(6.0, 14.0, 8)
    directions = np.stack([pace, *(2 * np.pi / length * f(angle) for f in (np.cos, np.sin))], axis=-1)
    return Waves(directions, rng.uniform(0, 2 * np.pi, 8), np.full((8, 2), 0.5))


def _unit(rng: np.random.Generator, count: int) -> FloatArray:
    angle = rng.uniform(0, 2 * np.pi, count)
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _with_height(points: FloatArray, height: float) -> FloatArray:
    return np.concatenate([np.full((*points.shape[:-1], 1), height), points], axis=-1)


def _grain(rng: np.random.Generator, shape: tuple[int, int]) -> Values:
    """Grain of the cytoplasm ``(h, w)``: noise as wide as a ribosome, of spread 1."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    noise[:, 1:] += noise[:, :-1]
    noise[1:] += noise[:-1]
    return np.asarray(0.5 * noise)


def _vesicles(rng: np.random.Generator, picture: Values, where: npt.NDArray[np.bool_]) -> None:
    """Synaptic vesicles, pale dots with a dark rim, added to a picture."""
    h, w = picture.shape
    reach = 4
    places = rng.integers(reach, (h - reach, w - reach), (h * w // 60, 2))
    places = places[where[places[:, 0], places[:, 1]]]
    away = np.arange(-reach, reach + 1)
    radius = np.hypot(*np.meshgrid(away, away))
    dot = -0.20 * np.exp(-(((radius - 2.3) / 0.8) ** 2)) + 0.10 * np.exp(-((radius / 1.2) ** 2))
    y, x = (places[:, k, None, None] + offset for k, offset in ((0, away[:, None]), (1, away[None])))
    np.add.at(picture, (y, x), dot.astype(np.float32))


def _drawn(
    neurites: _Neurites, near: _Nearby, y: Values, x: Values, reticulum: Values, grain: Values, height: float
) -> tuple[Values, npt.NDArray[np.bool_]]:
    """Brightness of some blocks ``(B, pixels)``, and where there are vesicles."""
    mine, other, gap = _owners(near, neurites.radius, y, x)
    choices = near.number.shape[1]
    row = np.repeat(np.arange(len(y)) * choices, y.shape[1])
    number = near.number.ravel()[row + mine]
    values, reticulum, grain, y, x = neurites.bright[number], reticulum.ravel(), grain.ravel(), y.ravel(), x.ravel()
    values += 0.05 * grain
    roll = neurites.roll
    tubes = np.flatnonzero(np.abs(reticulum) < 0.10)
    tubes = tubes[(gap[tubes] > 9.0) & (roll[:, 0] < 0.6)[number[tubes]]]
    values[tubes] -= 0.24
    holds = neurites.terminal & (((height / 45 + roll[:, 1]) % 1) < 0.6)
    held = holds[number] & (gap > 10.0)

    centres_y, centres_x = near.centre[..., 0].ravel(), near.centre[..., 1].ravel()

    def away(pixels: Index, choice: Index) -> tuple[Values, Values]:
        """Of pixels from the centre of one of their block's candidates."""
        place = row[pixels] + choice[pixels]
        return y[pixels] - centres_y[place], x[pixels] - centres_x[place]

    # mitochondria: dark ovals with pale stripes that lie within their neurite for some dozen sections
    along = (height / (26 + 30 * roll[:, 2]) + 13 * roll[:, 3]) % 1  # 0..0.6 of each repeat is inside of one
    present = (along < 0.6) & (roll[:, 4] < 0.5)
    pixels = np.flatnonzero(present[number] & (gap > 6.0))
    if len(pixels):
        who = number[pixels]
        oval, inside = _mitochondrion(roll[who], neurites.radius[who], along[who], *away(pixels, mine))
        oval /= 1 + np.exp(9.0 - gap[pixels])  # it stays clear of the wall
        values[pixels] += oval * (inside - values[pixels])
        held[pixels] &= oval < 0.05
    # walls
    pixels = np.flatnonzero((gap < 9.0) | (neurites.myelin[number] & (gap < 20.0)))
    if not len(pixels):
        return values.reshape(-1, BLOCK**2), held.reshape(-1, BLOCK**2)
    one, two = number[pixels], near.number.ravel()[row[pixels] + other[pixels]]
    (my, mx), (oy, ox) = (_unit_vectors(*away(pixels, which)) for which in (mine, other))
    steep = np.maximum(0.5 * np.sqrt((oy - my) ** 2 + (ox - mx) ** 2), 0.3)
    distance = 0.5 * gap[pixels] / steep
    # how far the wall moves while the knife goes through the section
    own_y, own_x = neurites.slope.astype(np.float32).T
    common_y, common_x = near.motion[pixels // BLOCK**2].T
    pace = (common_y - own_y[two]) * oy + (common_x - own_x[two]) * ox
    pace -= (common_y - own_y[one]) * my + (common_x - own_x[one]) * mx
    blur = np.maximum(np.abs(0.5 * pace / steep) * near.thickness, 0.1)
    synapse = (neurites.terminal[one] != neurites.terminal[two]) & (7 * (one + two) % 11 < 3)
    width = np.where(synapse, 2 * MEMBRANE, MEMBRANE).astype(np.float32)
    wall = _box_mean(distance, width, blur)
    sheath = np.flatnonzero(neurites.myelin[one])
    depth = distance[sheath]
    wall[sheath] = np.maximum(wall[sheath], (0.86 + 0.14 * np.cos(2.6 * depth)) / (1 + np.exp((depth - 6.0) / 0.8)))
    dark = np.where(synapse, 0.05, 0.12).astype(np.float32) + 0.02 * grain[pixels]
    values[pixels] += np.minimum(wall, 1.0) * (dark - values[pixels])
    return values.reshape(-1, BLOCK**2), held.reshape(-1, BLOCK**2)


def _owners(near: _Nearby, radius: Values, y: Values, x: Values) -> tuple[Index, Index, Values]:
    """For each pixel which candidate's surface is nearest and which is next, and by how much farther; flat."""
    # The candidate's number is written into the last bits of its distance, so that it comes along with the minimum:
    # a 4000th of a pixel is lost, and minimum and maximum are all that is asked of each pixel.
    far = np.float32(512.0)
    first = np.full(y.shape, np.float32(4096.0)).view(np.int32)
    second = first.copy()
    for c in range(int(near.count.max())):
        rows = np.flatnonzero(near.count > c)
        some = len(rows) < len(y)
        here = (y[rows], x[rows], first[rows], second[rows]) if some else (y, x, first, second)
        dy, dx = here[0] - near.centre[rows, c, :1], here[1] - near.centre[rows, c, 1:]
        dy *= dy
        dx *= dx
        dy += dx
        np.sqrt(dy, out=dy)
        dy += far - radius[near.number[rows, c], None]
        key = dy.view(np.int32)
        key &= ~15
        key |= c
        farther = np.maximum(here[2], key)
        if some:
            first[rows], second[rows] = np.minimum(here[2], key), np.minimum(here[3], farther)
        else:
            np.minimum(first, key, out=first)
            np.minimum(second, farther, out=second)
    first, second = first.ravel(), second.ravel()
    gap = second.view(np.float32) - first.view(np.float32)
    return (first & 15).astype(np.intp), (second & 15).astype(np.intp), gap


def _mitochondrion(
    roll: Values, radius: Values, along: Values, dy: Values, dx: Values
) -> tuple[Values, Values]:
    """How much of pixels ``(dy, dx)`` from their neurite's centre a mitochondrion covers, and its brightness there."""
    turn = 2 * np.pi * roll[:, 5]
    c, s = np.cos(turn), np.sin(turn)
    size = (4.0 + 0.9 * radius) * np.sqrt(np.maximum(1 - (along / 0.3 - 1) ** 2, 0))
    u, v = c * dy + s * dx - 0.5 * radius * np.cos(3 * turn), c * dx - s * dy
    out = np.sqrt((u / 1.45) ** 2 + (v / 0.95) ** 2) - size
    oval = 1 / (1 + np.exp(np.minimum(out / 0.8, 30)))
    stripes = 0.38 + 0.06 * np.sin(0.95 * u + 4 * roll[:, 0] + 0.9 * np.sin(0.35 * v))
    return oval, stripes - 0.2 * np.exp(-((out / 1.3) ** 2))


def _unit_vectors(y: Values, x: Values) -> tuple[Values, Values]:
    size = np.maximum(np.sqrt(y * y + x * x), 1e-3)
    return y / size, x / size


def _box_mean(distance: Values, width: Values, box: Values) -> Values:
    """A wall ``1 / cosh^2(distance / width)`` averaged over a shift that runs through a box."""
    low, high = (distance - box / 2) / width, (distance + box / 2) / width
    return np.asarray((np.tanh(high) - np.tanh(low)) * (width / box))
