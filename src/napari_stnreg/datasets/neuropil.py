"""Appearance of a section through neurites: walls, myelin, synapses, mitochondria, reticulum, vesicles, grain.

Pictures are drawn in square blocks, ``(B, pixels)``; each block knows the few neurites that may reach into it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.grid import FloatArray

Values = npt.NDArray[np.float32]
Index = npt.NDArray[np.intp]
Keys = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

BLOCK = 16
"""Side of the blocks, in pixels, for which neurites are looked up once."""
MEMBRANE = 1.6
"""Half the width of a membrane that is cut straight, pixels."""


@dataclass(frozen=True)
class Neurites:
    """What each of ``K`` neurites is like."""

    base: FloatArray  # (K, 2) pixels at height 0, at rest
    slope: FloatArray  # (K, 2) pixels a section, of its own
    radius: Values  # (K,) pixels by which it is larger than its neighbors
    bright: Values  # (K,)
    roll: Values  # (K, 6) random numbers 0..1 that decide about its organelles
    myelin: Mask
    terminal: Mask  # holds vesicles


@dataclass(frozen=True)
class Nearby:
    """Candidates of each block: ``number (B, C)``, ``center (B, C, 2)``, how many count, and the common motion."""

    number: Index
    center: Values
    count: Index
    motion: Values
    thickness: float

    def part(self, rows: slice) -> Nearby:
        """Select the values of some blocks."""
        return Nearby(self.number[rows], self.center[rows], self.count[rows], self.motion[rows], self.thickness)


def draw_blocks(
    neurites: Neurites, near: Nearby, y: Values, x: Values, reticulum: Values, grain: Values, height: float
) -> tuple[Values, Mask]:
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

    centers_y, centers_x = near.center[..., 0].ravel(), near.center[..., 1].ravel()

    def away(pixels: Index, choice: Index) -> tuple[Values, Values]:
        """Return the offsets of pixels from the center of one candidate of their block."""
        place = row[pixels] + choice[pixels]
        return y[pixels] - centers_y[place], x[pixels] - centers_x[place]

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
    distance: Values = np.asarray(0.5 * gap[pixels] / steep, dtype=np.float32)
    # how far the wall moves while the knife goes through the section
    own_y, own_x = neurites.slope.astype(np.float32).T
    common_y, common_x = near.motion[pixels // BLOCK**2].T
    speed = (common_y - own_y[two]) * oy + (common_x - own_x[two]) * ox
    speed -= (common_y - own_y[one]) * my + (common_x - own_x[one]) * mx
    blur = np.maximum(np.abs(0.5 * speed / steep) * near.thickness, 0.1)
    synapse = (neurites.terminal[one] != neurites.terminal[two]) & (7 * (one + two) % 11 < 3)
    width = np.where(synapse, 2 * MEMBRANE, MEMBRANE).astype(np.float32)
    wall = _box_mean(distance, width, blur)
    sheath = np.flatnonzero(neurites.myelin[one])
    depth = distance[sheath]
    wall[sheath] = np.maximum(wall[sheath], (0.86 + 0.14 * np.cos(2.6 * depth)) / (1 + np.exp((depth - 6.0) / 0.8)))
    dark = np.where(synapse, 0.05, 0.12).astype(np.float32) + 0.02 * grain[pixels]
    values[pixels] += np.minimum(wall, 1.0) * (dark - values[pixels])
    return values.reshape(-1, BLOCK**2), held.reshape(-1, BLOCK**2)


def _owners(near: Nearby, radius: Values, y: Values, x: Values) -> tuple[Index, Index, Values]:
    """Find the nearest and second nearest candidate surface of each pixel and the difference of distances; flat."""
    # The candidate's number is written into the last bits of its distance, so that it comes along with the minimum:
    # a 4000th of a pixel is lost, and only the minimum and maximum of each pixel are needed.
    far = np.float32(512.0)
    first: Keys = np.full(y.shape, np.float32(4096.0)).view(np.int32)
    second = first.copy()
    for c in range(int(near.count.max())):
        rows = np.flatnonzero(near.count > c)
        some = len(rows) < len(y)
        here = (y[rows], x[rows], first[rows], second[rows]) if some else (y, x, first, second)
        dy, dx = here[0] - near.center[rows, c, :1], here[1] - near.center[rows, c, 1:]
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


def _mitochondrion(roll: Values, radius: Values, along: Values, dy: Values, dx: Values) -> tuple[Values, Values]:
    """Return a mitochondrion's coverage and brightness at offsets ``(dy, dx)`` from its neurite's center."""
    turn = 2 * np.pi * roll[:, 5]
    c, s = np.cos(turn), np.sin(turn)
    size = (4.0 + 0.9 * radius) * np.sqrt(np.maximum(1 - (along / 0.3 - 1) ** 2, 0))
    u, v = c * dy + s * dx - 0.5 * radius * np.cos(3 * turn), c * dx - s * dy
    out = np.sqrt((u / 1.45) ** 2 + (v / 0.95) ** 2) - size
    oval = 1 / (1 + np.exp(np.minimum(out / 0.8, 30)))
    stripes = 0.38 + 0.06 * np.sin(0.95 * u + 4 * roll[:, 0] + 0.9 * np.sin(0.35 * v))
    return oval, stripes - 0.2 * np.exp(-((out / 1.3) ** 2))


def _unit_vectors(y: Values, x: Values) -> tuple[Values, Values]:
    scale: Values = np.asarray(1 / np.maximum(np.sqrt(y * y + x * x), 1e-3), dtype=np.float32)
    return y * scale, x * scale


def _box_mean(distance: Values, width: Values, box: Values) -> Values:
    """Average a wall ``1 / cosh^2(distance / width)`` over a shift that runs through a box."""
    low, high = (distance - box / 2) / width, (distance + box / 2) / width
    return np.asarray((np.tanh(high) - np.tanh(low)) * (width / box))


def cytoplasm_grain(rng: np.random.Generator, shape: tuple[int, int]) -> Values:
    """Grain of the cytoplasm ``(h, w)``: noise as wide as a ribosome, of spread 1."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    noise[:, 1:] += noise[:, :-1]
    noise[1:] += noise[:-1]
    return np.asarray(0.5 * noise)


def add_vesicles(rng: np.random.Generator, picture: Values, where: Mask) -> None:
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
