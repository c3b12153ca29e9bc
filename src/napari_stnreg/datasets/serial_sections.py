"""A stack of serial sections of any length, made section by section, of which everything is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray
from napari_stnreg.datasets.bspline_evaluation import on_pixels
from napari_stnreg.datasets.common import rotation_2d, round_binary
from napari_stnreg.datasets.section_deformation import Slide, SmoothField, Tear
from napari_stnreg.datasets.tissue import Tissue

Bytes = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float32]

FAULTS = {
    "missing": "the section was lost: an empty picture",
    "nearly empty": "a scrap of tissue in an empty picture",
    "crack": "torn right across, both sides drawn apart",
    "fold": "a band of tissue hidden under a dark fold, both sides drawn together",
    "dirt": "saturated blobs and specks",
    "low contrast": "a fifth of the usual contrast",
    "mirrored": "picked up upside down",
    "reversed": "turned by 180 degrees",
    "turned": "turned by any angle",
    "far": "shifted by a third of its side",
}
"""What may be wrong with a section; several may be joined by ``+``."""

TISSUE, EMPTY, CRACK, FOLD, DIRT = range(5)
"""What a pixel shows: the values of :meth:`SerialSections.mask`."""


@dataclass(frozen=True)
class SerialSections:
    """Serial sections of generated nervous tissue, each lying elsewhere, with everything that happens to sections.

    It is sliced like an array ``(z, y, x)`` of type uint8 and can be given to whatever takes a lazy stack, such as
    :func:`napari_stnreg.align_stack`. A section is a pure function of its number and of the fields below, made when it
    is asked for (a fifth of a second for 1024 x 1024), so that a stack of thousands takes no memory.

    Parameters
    ----------
    shape
        Sections and pixels ``(z, y, x)``.
    seed
        Of the tissue and of everything that happens.
    faults
        By section number one of :data:`FAULTS`, or several joined by ``+``.
    bend
        Root mean square length, pixels, of the smooth field by which each section is bent on its own (4 x 4 nodes).
    walk
        The same of the deformation that adds up from section to section.
    shift
        Standard deviation of the shift along each axis, pixels.
    turn
        Standard deviation of the turn, degrees.
    stretch
        Standard deviation of the stretch across the knife's direction, as a share.
    contrast
        0 for the same brightness everywhere; 1 for gains, offsets and shadings as on real sections.
    noise
        Standard deviation of the camera's noise, gray values.
    uneven
        Standard deviation of the logarithm of the sections' thickness.
    slope, spread, cell
        Of the neurites; see :class:`~napari_stnreg.datasets.tissue.Tissue`.
    opening, hidden
        Width of cracks, and of the band of tissue that a fold hides, pixels.
    spacing
        Nominal thickness and pixel size ``(z, y, x)``, nm.

    Raises
    ------
    InputError
        If the shape is none, or a fault is not known or lies beyond the stack.

    Notes
    -----
    Positions are pixels (y, x). :meth:`lift` leads from a picture to the tissue, :meth:`place` back, exactly. Tissue
    pixels are those of a picture to which nothing happened, so that a perfect alignment pulls back by :meth:`place`.
    """

    shape: tuple[int, int, int] = (20, 512, 512)
    seed: int = 0
    faults: Mapping[int, str] = field(default_factory=dict)
    bend: float = 3.0
    walk: float = 0.5
    shift: float = 4.0
    turn: float = 0.5
    stretch: float = 0.004
    contrast: float = 1.0
    noise: float = 8.0
    uneven: float = 0.15
    slope: float = 1.5
    spread: float = 1.5
    cell: float = 36.0
    opening: float = 16.0
    hidden: float = 20.0
    spacing: tuple[float, float, float] = (40.0, 8.0, 8.0)

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise InputError(f"A stack of sections has the shape (z, y, x); {self.shape} is none.")
        for z, names in self.faults.items():
            if not 0 <= z < self.shape[0]:
                raise InputError(f"The stack has sections 0 to {self.shape[0] - 1}; there is no {z} (faults).")
            for name in _parts(names):
                if name not in FAULTS:
                    raise InputError(f"There is no fault '{name}'; choose from {', '.join(FAULTS)}.")

    # -- as an array

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Bytes]:
        return (self.section(z) for z in range(len(self)))

    def __getitem__(self, key: Any) -> Bytes:
        """Sections by number or slice, and parts of them, as of an array."""
        z, *window = key if isinstance(key, tuple) else (key,)
        if isinstance(z, slice):
            return np.stack([self.section(k)[tuple(window)] for k in range(*z.indices(len(self)))])
        return np.asarray(self.section(int(z))[tuple(window)])

    def section(self, z: int) -> Bytes:
        """The picture ``(y, x)`` of a section; it cannot be written to."""
        if not -len(self) <= z < len(self):
            raise IndexError(f"section {z} of {len(self)}")
        return _kept(_Key(self), z % len(self))

    # -- the truth

    @cached_property
    def tissue(self) -> Tissue:
        """What was cut."""
        return Tissue(2.0 * max(self.shape[1:]), self.seed, self.cell, self.slope, self.spread)

    @cached_property
    def thickness(self) -> FloatArray:
        """Of each section ``(z,)``, in nominal sections."""
        drawn = np.random.default_rng((self.seed, 10)).normal(0, self.uneven, self.shape[0])
        # A short binary fraction: processors differ in the last bit of an exponential, but the rounded value is the
        # same, and sums of such values (the heights) are exact.
        return round_binary(np.exp(np.clip(drawn, -2.5 * self.uneven, 2.5 * self.uneven)))

    @cached_property
    def heights(self) -> FloatArray:
        """Of the middle of each section ``(z,)``, in nominal sections."""
        return np.asarray(np.cumsum(self.thickness) - 0.5 * self.thickness)

    @cached_property
    def _walks(self) -> FloatArray:
        """The deformation that has added up at each section, ``(z, 2, 4, 4)`` pixels."""
        rng, shape = np.random.default_rng((self.seed, 11)), self.shape[1:]
        steps = rng.normal(size=(self.shape[0], 2, 4, 4))
        # all of one size in the mean: that of a single one would have to be measured
        unit = np.mean([SmoothField.random(np.random.default_rng(k), shape, 1.0).values.std() for k in range(32)])
        return np.asarray(np.cumsum(self.walk * unit * steps, axis=0))

    def slide(self, z: int) -> Slide:
        """Where a section's tissue lies in its picture."""
        shape = self.shape[1:]
        rng = np.random.default_rng((self.seed, 12, z))
        side, faults = float(max(shape)), self._of(z)
        middle = (np.array(shape) - 1) / 2
        own = SmoothField.random(rng, shape, 1.0).values * self.bend
        angle, shift = rng.normal(0, self.turn), rng.normal(0, self.shift, 2)
        knife = rotation_2d(17.0)
        stretch = knife @ np.diag([1 + rng.normal(0, self.stretch), 1.0]) @ knife.T
        anywhere, way, line, place = rng.uniform(-1, 1, 4)
        phase = rng.uniform(0, 2 * np.pi)
        if "far" in faults:
            shift = shift + side / 3 * np.array([np.cos(np.pi * way), np.sin(np.pi * way)])
        if "turned" in faults:
            angle += 180 * anywhere
        if "reversed" in faults:
            angle += 180
        linear = rotation_2d(angle) @ stretch
        if "mirrored" in faults:
            linear = linear @ np.diag([1.0, -1.0])
        tear = None
        if faults & {"crack", "fold"}:
            through = middle + 0.15 * side * place * np.array([np.cos(np.pi * line), np.sin(np.pi * line)])
            tear = Tear(
                (float(through[0]), float(through[1])), float(np.pi * line),
                self.opening if "crack" in faults else -self.hidden, 0.012 * side, 0.45 * side, float(phase),
            )  # fmt: skip
        return Slide(middle, linear, shift, SmoothField(own + self._walks[z], shape), tear)

    def lift(self, z: int, points: npt.ArrayLike) -> FloatArray:
        """Positions ``(..., 2)`` in the picture of a section to those in the tissue."""
        return self.slide(z).lift(points)

    def place(self, z: int, points: npt.ArrayLike) -> FloatArray:
        """Positions ``(..., 2)`` in the tissue to those in the picture of a section; what a fold hides, on its line."""
        return self.slide(z).place(points)

    def paths(self, first: int = 0, last: int | None = None) -> FloatArray:
        """Center lines ``(N, Z, 2)``, tissue pixels, of the neurites that cross the field of view.

        ``first`` and ``last`` name the range of sections; neurites are those in view halfway between them.
        """
        chosen = self.heights[first : None if last is None else last + 1]
        return self.tissue.paths(chosen, self.shape[1:])

    def straight(self, z: int) -> Bytes:
        """A section as the tissue has it: nothing bent, torn, dirty or lost, the usual brightness, no noise."""
        drawn = self.tissue.draw(self.shape[1:], float(self.heights[z]), float(self.thickness[z]))
        return _bytes(255 * drawn)

    def mask(self, z: int) -> Bytes:
        """What each pixel ``(y, x)`` of a section shows.

        One of :data:`TISSUE`, :data:`EMPTY`, :data:`CRACK`, :data:`FOLD` and :data:`DIRT`.
        """
        shape = self.shape[1:]
        out = np.full(shape, TISSUE, dtype=np.uint8)
        slide, faults = self.slide(z), self._of(z)
        if slide.tear is not None:
            out[np.abs(_across(slide.tear, shape)) < _tear_width(slide.tear) / 2] = (
                CRACK if slide.tear.opening > 0 else FOLD
            )
        if "dirt" in faults:
            out[self._dirt(z) > 0] = DIRT
        if "missing" in faults:
            out[:] = EMPTY
        if "nearly empty" in faults:
            out[self._scrap(z) < 0] = EMPTY
        return out

    # -- how a picture is made

    def _of(self, z: int) -> set[str]:
        return set(_parts(self.faults.get(z, "")))

    def _made(self, z: int) -> Bytes:
        faults, shape, slide = self._of(z), self.shape[1:], self.slide(z)
        if "missing" in faults:
            return np.zeros(shape, dtype=np.uint8)
        rng = np.random.default_rng((self.seed, 13, z))
        height, thickness = float(self.heights[z]), float(self.thickness[z])
        if slide.tear is None:
            drawn = self.tissue.draw(shape, height, thickness, slide.lift)
        else:
            across = _across(slide.tear, shape)
            sides = [self.tissue.draw(shape, height, thickness, partial(slide.lift, side=side)) for side in (-1, 1)]
            drawn = np.where(across < 0, *sides)
            rim = 1 / (1 + np.exp(np.clip((np.abs(across) - _tear_width(slide.tear) / 2) / 0.7, -30, 30)))
            # nothing but resin, pale; or three layers over each other, dark
            drawn += rim * ((0.95 if slide.tear.opening > 0 else 0.10 + 0.2 * drawn) - drawn)
        drawn *= 1 + self.contrast * 0.12 * (1 - thickness)
        gray = 255 * drawn
        gain, offset = 1 + self.contrast * rng.uniform(-0.25, 0.1), self.contrast * rng.uniform(-15, 15)
        if "low contrast" in faults:
            gain, offset = 0.2 * gain, offset + 20
        gray = 128 + gain * (gray - 128) + offset + self.contrast * _shading(rng, shape)
        gray += self.noise * rng.standard_normal(shape, dtype=np.float32)
        gray = np.clip(gray, 1, 254)
        if "dirt" in faults:
            dirt = self._dirt(z)
            gray[dirt == 1], gray[dirt == 2] = 0, 255
        if "nearly empty" in faults:
            gray[self._scrap(z) < 0] = 0
        return _bytes(gray)

    def _dirt(self, z: int) -> Bytes:
        """1 where dark dirt lies, 2 where the picture is burnt out by pale dirt."""
        rng, shape = np.random.default_rng((self.seed, 14, z)), self.shape[1:]
        out = np.zeros(shape, dtype=np.uint8)
        side = max(shape)
        y, x = np.ogrid[: shape[0], : shape[1]]
        for k in range(14):
            radius = side * (0.03 + 0.05 * rng.random() if k < 4 else 0.004 + 0.008 * rng.random())
            at, phase = rng.uniform(0, shape), rng.uniform(0, 2 * np.pi, 2)
            low = np.maximum(np.floor(at - 1.6 * radius), 0).astype(int)
            high = np.minimum(np.ceil(at + 1.6 * radius), shape).astype(int)
            if (high <= low).any():
                continue
            part = slice(low[0], high[0]), slice(low[1], high[1])
            dy, dx = y[part[0]] - at[0], x[:, part[1]] - at[1]
            turn = np.arctan2(dy, dx)
            ragged = radius * (1 + 0.25 * np.sin(3 * turn + phase[0]) + 0.12 * np.sin(7 * turn + phase[1]))
            out[part][np.hypot(dy, dx) < ragged] = 1 + (k % 3 == 1)
        return out

    def _scrap(self, z: int) -> Plane:
        """Positive within the scrap of tissue that is left of a nearly empty section, in one corner of the picture."""
        rng, shape = np.random.default_rng((self.seed, 15, z)), self.shape[1:]
        y, x = (np.abs(np.arange(n) / n - corner) for n, corner in zip(shape, rng.integers(0, 2, 2), strict=True))
        edge = 0.30 + 0.03 * np.sin(9 * x)[None] + 0.02 * np.sin(23 * y)[:, None]
        return np.asarray(edge - np.hypot(y[:, None], x[None]), dtype=np.float32)


class _Key:
    """A stack by what it was made of, so that its sections can be kept for a moment."""

    def __init__(self, stack: SerialSections) -> None:
        self.stack = stack
        self.words = repr(stack)

    def __hash__(self) -> int:
        return hash(self.words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other.words == self.words


@lru_cache(maxsize=4)
def _kept(key: _Key, z: int) -> Bytes:
    """Whoever reads a section in parts asks for it several times."""
    made = key.stack._made(z)
    made.setflags(write=False)
    return made


def _parts(names: str) -> list[str]:
    return [name.strip() for name in names.split("+") if name.strip()]


def _bytes(gray: npt.NDArray[np.floating]) -> Bytes:
    return np.asarray(np.clip(np.rint(gray), 0, 255), dtype=np.uint8)


def _across(tear: Tear, shape: tuple[int, int]) -> Plane:
    return on_pixels(lambda points: tear.across(points)[..., None], shape)[0][: shape[0], : shape[1]]


def _tear_width(tear: Tear) -> float:
    """Pixels in the picture from one rim to the other: a fold is half as wide as what it hides."""
    return tear.opening if tear.opening > 0 else -0.5 * tear.opening


def _shading(rng: np.random.Generator, shape: tuple[int, int]) -> Plane:
    """Uneven light ``(y, x)``, gray values: a ramp and a bow along each axis."""
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    a, b, c, d, e = rng.uniform(-8, 8, 5).astype(np.float32)
    return np.asarray(a * y[:, None] + b * x + c * np.outer(y, x) + d * (y * y)[:, None] + e * x * x)
