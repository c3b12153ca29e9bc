"""Deformation of a section: the map from its image to the tissue, with affine part, smooth field, cracks and folds.

Positions are pixels (y, x), both in the picture and in the tissue. Both directions are known without error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from napari_stnreg.core.grid import FloatArray


@dataclass(frozen=True, eq=False)
class SmoothField:
    """Displacements on a few nodes over a section, interpolated cubically; constant beyond it.

    Parameters
    ----------
    values
        ``(2, rows, columns)`` pixels, corner to corner of the section.
    shape
        Pixels (y, x) of the section.
    """

    values: FloatArray
    shape: tuple[int, int]

    def __call__(self, points: FloatArray) -> FloatArray:
        """Displacement ``(..., 2)`` at positions ``(..., 2)``."""
        step = [(n - 1) / (k - 1) for n, k in zip(self.shape, self.values.shape[1:], strict=True)]
        where = np.moveaxis(np.asarray(points, dtype=np.float64) / step, -1, 0)
        return np.stack([map_coordinates(v, where, order=3, mode="nearest") for v in self.values], axis=-1)

    @classmethod
    def random(cls, rng: np.random.Generator, shape: tuple[int, int], rms: float, cells: int = 4) -> SmoothField:
        """Normal numbers on ``cells`` times ``cells`` nodes, scaled to a root mean square length over the section."""
        made = cls(rng.normal(size=(2, cells, cells)), shape)
        points = np.stack(np.meshgrid(*(np.linspace(0, n - 1, 40) for n in shape), indexing="ij"), axis=-1)
        return cls(made.values * (rms / np.sqrt((made(points) ** 2).sum(-1).mean())), shape)


@dataclass(frozen=True)
class Tear:
    """A crack, whose sides were drawn apart, or a fold, which hides a band of tissue: a wavy line across the section.

    Parameters
    ----------
    middle
        A place (y, x) on the line, in the picture.
    angle
        Of the direction across it, radians from y toward x.
    opening
        Pixels by which the sides were drawn apart; negative for a fold, by so much together.
    height, wavelength, phase
        Of the line's waves: pixels, pixels, radians.
    """

    middle: tuple[float, float]
    angle: float
    opening: float
    height: float = 0.0
    wavelength: float = 200.0
    phase: float = 0.0

    @property
    def normal(self) -> FloatArray:
        """Unit vector across the line."""
        return np.array([np.cos(self.angle), np.sin(self.angle)])

    def across(self, points: npt.ArrayLike) -> FloatArray:
        """Signed distance ``(...)`` from the line along :attr:`normal`, pixels; of the picture or the whole."""
        away = np.asarray(points, dtype=np.float64) - np.asarray(self.middle)
        along = away @ np.array([-np.sin(self.angle), np.cos(self.angle)])
        return np.asarray(away @ self.normal - self.height * np.sin(2 * np.pi * along / self.wavelength + self.phase))

    def to_intact(self, points: npt.ArrayLike, side: int = 0) -> FloatArray:
        """Map positions ``(..., 2)`` of the image to the intact section; a crack closes to its line.

        With ``side`` 1 or -1 the map of that side of the line is used everywhere, which is smooth.
        """
        points = np.asarray(points, dtype=np.float64)
        distance = self.across(points)
        if side:
            return np.asarray(points - self.normal * (side * self.opening / 2))
        whole = np.sign(distance) * np.maximum(np.abs(distance) - self.opening / 2, 0)
        return np.asarray(points + self.normal * (whole - distance)[..., None])

    def from_intact(self, points: npt.ArrayLike) -> FloatArray:
        """Map positions of the intact section to the image; tissue that a fold hides is mapped to its line."""
        points = np.asarray(points, dtype=np.float64)
        distance = self.across(points)
        torn = np.sign(distance) * np.maximum(np.abs(distance) + self.opening / 2, 0)
        return np.asarray(points + self.normal * (torn - distance)[..., None])

    def hides(self, points: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Return whether positions of the intact section are hidden by the fold; a crack hides none."""
        return np.abs(self.across(points)) < -self.opening / 2


@dataclass(frozen=True, eq=False)
class SectionDeformation:
    """Position of a section's tissue in its image.

    Parameters
    ----------
    middle
        About which ``linear`` turns and stretches, pixels.
    linear
        ``(2, 2)`` picture to tissue.
    shift
        ``(2,)`` pixels, picture to tissue.
    bend
        Displacement, picture to tissue, at positions that are turned and shifted already.
    tear
        A crack or a fold, in the picture.
    """

    middle: FloatArray
    linear: FloatArray
    shift: FloatArray
    bend: SmoothField
    tear: Tear | None = None

    def to_tissue(self, points: npt.ArrayLike, side: int = 0) -> FloatArray:
        """Positions ``(..., 2)`` of the picture to those of the tissue; ``side`` as in :meth:`Tear.to_intact`."""
        points = np.asarray(points, dtype=np.float64)
        if self.tear is not None:
            points = self.tear.to_intact(points, side)
        laid = (points - self.middle) @ self.linear.T + self.middle + self.shift
        return laid + self.bend(laid)

    def to_section(self, points: npt.ArrayLike, iterations: int = 60) -> FloatArray:
        """Positions ``(..., 2)`` of the tissue to those of the picture.

        The bend is gentle (its slope stays below one half), so that taking it off again and again converges.
        """
        whole = self._undeformed(points, iterations)
        return whole if self.tear is None else self.tear.from_intact(whole)

    def hides(self, points: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Return whether a fold hides positions ``(..., 2)`` of the tissue."""
        if self.tear is None:
            return np.zeros(np.shape(points)[:-1], dtype=bool)
        return self.tear.hides(self._undeformed(points))

    def from_tear(self, points: npt.ArrayLike) -> FloatArray:
        """Distance ``(...)`` of tissue ``(..., 2)`` from the crack or fold, pixels; infinite where there is none."""
        if self.tear is None:
            return np.full(np.shape(points)[:-1], np.inf)
        return np.abs(self.tear.across(self._undeformed(points)))

    def _undeformed(self, points: npt.ArrayLike, iterations: int = 60) -> FloatArray:
        points = np.asarray(points, dtype=np.float64)
        laid = points
        for _ in range(iterations):
            before, laid = laid, points - self.bend(laid)
            if np.abs(laid - before).max(initial=0) < 1e-10:
                break
        return np.asarray((laid - self.middle - self.shift) @ np.linalg.inv(self.linear).T + self.middle)
