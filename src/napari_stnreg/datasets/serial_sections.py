"""Serial sections with known deformation: stacks of any length, generated section by section."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.linalg import rotation_2d
from napari_stnreg.datasets.bspline_evaluation import evaluate_on_pixels
from napari_stnreg.datasets.primitives import round_binary
from napari_stnreg.datasets.sample import Sample, inner_points
from napari_stnreg.datasets.section_deformation import SectionDeformation, SmoothField, Tear
from napari_stnreg.datasets.tissue import Tissue

Bytes = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float32]

FAULTS = {
    "missing": "the section is lost: an empty image",
    "nearly empty": "a scrap of tissue in an empty image",
    "crack": "torn across, both sides displaced outward",
    "fold": "a band of tissue hidden under a dark fold, both sides displaced inward",
    "dirt": "saturated blobs and specks",
    "low contrast": "a fifth of the usual contrast",
    "mirrored": "mirror image",
    "reversed": "rotated by 180 degrees",
    "turned": "rotated by a random angle",
    "far": "shifted by a third of its side",
}
"""Faults of a section; several are joined by ``+``."""

TISSUE, EMPTY, CRACK, FOLD, DIRT = range(5)
"""Pixel classes of :meth:`SerialSections.mask`."""


@dataclass(frozen=True)
class SerialSections:
    """Serial sections of generated nervous tissue, each with its own deformation and faults.

    It is sliced like an array ``(z, y, x)`` of type uint8 and is accepted wherever a lazy stack is, such as
    :func:`napari_stnreg.align_stack`. A section is a pure function of its number and of the fields below, generated on
    access (0.2 s for 1024 x 1024), so a stack of thousands of sections takes no memory.

    Parameters
    ----------
    shape
        Sections and pixels ``(z, y, x)``.
    seed
        Seed of the tissue and of everything that happens to the sections.
    faults
        One of :data:`FAULTS`, or several joined by ``+``, by section number.
    bend
        Root mean square, in pixels, of the smooth deformation of each section (4 x 4 control points).
    drift
        Root mean square, in pixels, of the smooth deformation that accumulates from section to section.
    shift
        Standard deviation of the shift along each axis, pixels.
    rotation
        Standard deviation of the rotation, degrees.
    stretch
        Standard deviation of the stretch across the knife's direction, relative.
    contrast
        0 for constant intensity; 1 for gains, offsets and shading as in recorded sections.
    noise
        Standard deviation of the camera noise, gray values.
    thickness_sd
        Standard deviation of the logarithm of the section thickness.
    slope, spread, cell
        Neurites; see :class:`~napari_stnreg.datasets.tissue.Tissue`.
    crack_width, fold_width
        Width of cracks, and of the band of tissue that a fold hides, pixels.
    spacing
        Nominal thickness and pixel size ``(z, y, x)``, nm.

    Raises
    ------
    InputError
        If the shape is not valid, or a fault is unknown or beyond the stack.

    Notes
    -----
    Positions are pixels (y, x). :meth:`to_tissue` maps a section to the tissue and :meth:`to_section` is its exact
    inverse. Tissue pixels are those of an undeformed section, so a perfect alignment pulls back by :meth:`to_section`.
    """

    shape: tuple[int, int, int] = (20, 512, 512)
    seed: int = 0
    faults: Mapping[int, str] = field(default_factory=dict)
    bend: float = 3.0
    drift: float = 0.5
    shift: float = 4.0
    rotation: float = 0.5
    stretch: float = 0.004
    contrast: float = 1.0
    noise: float = 8.0
    thickness_sd: float = 0.15
    slope: float = 1.5
    spread: float = 1.5
    cell: float = 36.0
    crack_width: float = 16.0
    fold_width: float = 20.0
    spacing: tuple[float, float, float] = (40.0, 8.0, 8.0)

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise InputError(f"A stack of sections has the shape (z, y, x), not {self.shape}.")
        for z, names in self.faults.items():
            if not 0 <= z < self.shape[0]:
                raise InputError(
                    f"A fault is set for section {z}, but the stack has sections 0 to {self.shape[0] - 1}."
                )
            for name in _parts(names):
                if name not in FAULTS:
                    raise InputError(f"There is no fault '{name}'. Choose from {', '.join(FAULTS)}.")

    # -- array interface

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Bytes]:
        return (self.section(z) for z in range(len(self)))

    def __getitem__(self, key: Any) -> Bytes:
        """Return sections by number or slice, and crops of them, as for an array."""
        z, *window = key if isinstance(key, tuple) else (key,)
        if isinstance(z, slice):
            return np.stack([self.section(k)[tuple(window)] for k in range(*z.indices(len(self)))])
        return np.asarray(self.section(int(z))[tuple(window)])

    def section(self, z: int) -> Bytes:
        """Return the image ``(y, x)`` of a section, read-only."""
        if not -len(self) <= z < len(self):
            raise IndexError(f"section {z} of {len(self)}")
        return _cached_section(_CacheKey(self), z % len(self))

    # -- ground truth

    @cached_property
    def tissue(self) -> Tissue:
        """The tissue that was sectioned."""
        return Tissue(2.0 * max(self.shape[1:]), self.seed, self.cell, self.slope, self.spread)

    @cached_property
    def thickness(self) -> FloatArray:
        """Thickness of each section ``(z,)``, in nominal sections."""
        drawn = np.random.default_rng((self.seed, 10)).normal(0, self.thickness_sd, self.shape[0])
        # A short binary fraction: processors differ in the last bit of an exponential, but the rounded value is the
        # same, and sums of such values (the heights) are exact.
        return round_binary(np.exp(np.clip(drawn, -2.5 * self.thickness_sd, 2.5 * self.thickness_sd)))

    @cached_property
    def heights(self) -> FloatArray:
        """Height of the center of each section ``(z,)``, in nominal sections."""
        return np.asarray(np.cumsum(self.thickness) - 0.5 * self.thickness)

    @cached_property
    def _drifts(self) -> FloatArray:
        """Accumulated deformation at each section, ``(z, 2, 4, 4)`` pixels."""
        rng, shape = np.random.default_rng((self.seed, 11)), self.shape[1:]
        steps = rng.normal(size=(self.shape[0], 2, 4, 4))
        # Normalized by the mean amplitude, so that a section does not depend on the whole stack.
        unit = np.mean([SmoothField.random(np.random.default_rng(k), shape, 1.0).values.std() for k in range(32)])
        return np.asarray(np.cumsum(self.drift * unit * steps, axis=0))

    def deformation(self, z: int) -> SectionDeformation:
        """Return the deformation of a section."""
        shape = self.shape[1:]
        rng = np.random.default_rng((self.seed, 12, z))
        side, faults = float(max(shape)), self._faults_of(z)
        middle = (np.array(shape) - 1) / 2
        own = SmoothField.random(rng, shape, 1.0).values * self.bend
        angle, shift = rng.normal(0, self.rotation), rng.normal(0, self.shift, 2)
        knife = rotation_2d(np.deg2rad(17.0))
        stretch = knife @ np.diag([1 + rng.normal(0, self.stretch), 1.0]) @ knife.T
        any_angle, direction, tear_angle, tear_offset = rng.uniform(-1, 1, 4)
        phase = rng.uniform(0, 2 * np.pi)
        if "far" in faults:
            shift = shift + side / 3 * np.array([np.cos(np.pi * direction), np.sin(np.pi * direction)])
        if "turned" in faults:
            angle += 180 * any_angle
        if "reversed" in faults:
            angle += 180
        linear = rotation_2d(np.deg2rad(angle)) @ stretch
        if "mirrored" in faults:
            linear = linear @ np.diag([1.0, -1.0])
        tear = None
        if faults & {"crack", "fold"}:
            through = middle + 0.15 * side * tear_offset * np.array(
                [np.cos(np.pi * tear_angle), np.sin(np.pi * tear_angle)]
            )
            tear = Tear(
                (float(through[0]), float(through[1])), float(np.pi * tear_angle),
                self.crack_width if "crack" in faults else -self.fold_width, 0.012 * side, 0.45 * side, float(phase),
            )  # fmt: skip
        return SectionDeformation(middle, linear, shift, SmoothField(own + self._drifts[z], shape), tear)

    def to_tissue(self, z: int, points: npt.ArrayLike) -> FloatArray:
        """Map positions ``(..., 2)`` of a section to the tissue."""
        return self.deformation(z).to_tissue(points)

    def to_section(self, z: int, points: npt.ArrayLike) -> FloatArray:
        """Map positions ``(..., 2)`` of the tissue to a section; tissue hidden by a fold maps onto its line."""
        return self.deformation(z).to_section(points)

    def paths(self, first: int = 0, last: int | None = None) -> FloatArray:
        """Return the center lines ``(N, Z, 2)``, in tissue pixels, of neurites that cross the field of view.

        ``first`` and ``last`` are the range of sections; the neurites are those in view halfway between them.
        """
        chosen = self.heights[first : None if last is None else last + 1]
        return self.tissue.paths(chosen, self.shape[1:])

    def reference_section(self, z: int) -> Bytes:
        """Return a section without deformation, faults, intensity changes and noise."""
        drawn = self.tissue.draw(self.shape[1:], float(self.heights[z]), float(self.thickness[z]))
        return _bytes(255 * drawn)

    def mask(self, z: int) -> Bytes:
        """Return the class of each pixel ``(y, x)`` of a section.

        One of :data:`TISSUE`, :data:`EMPTY`, :data:`CRACK`, :data:`FOLD` and :data:`DIRT`.
        """
        shape = self.shape[1:]
        out = np.full(shape, TISSUE, dtype=np.uint8)
        deformation, faults = self.deformation(z), self._faults_of(z)
        if deformation.tear is not None:
            out[np.abs(_across(deformation.tear, shape)) < _tear_width(deformation.tear) / 2] = (
                CRACK if deformation.tear.opening > 0 else FOLD
            )
        if "dirt" in faults:
            out[self._dirt(z) > 0] = DIRT
        if "missing" in faults:
            out[:] = EMPTY
        if "nearly empty" in faults:
            out[self._scrap(z) < 0] = EMPTY
        return out

    # -- rendering

    def _faults_of(self, z: int) -> set[str]:
        return set(_parts(self.faults.get(z, "")))

    def _render(self, z: int) -> Bytes:
        faults, shape, deformation = self._faults_of(z), self.shape[1:], self.deformation(z)
        if "missing" in faults:
            return np.zeros(shape, dtype=np.uint8)
        rng = np.random.default_rng((self.seed, 13, z))
        height, thickness = float(self.heights[z]), float(self.thickness[z])
        if deformation.tear is None:
            drawn = self.tissue.draw(shape, height, thickness, deformation.to_tissue)
        else:
            across = _across(deformation.tear, shape)
            sides = [
                self.tissue.draw(shape, height, thickness, partial(deformation.to_tissue, side=side))
                for side in (-1, 1)
            ]
            drawn = np.where(across < 0, *sides)
            rim = 1 / (1 + np.exp(np.clip((np.abs(across) - _tear_width(deformation.tear) / 2) / 0.7, -30, 30)))
            # A crack shows bright resin; a fold is three layers of tissue, dark.
            drawn += rim * ((0.95 if deformation.tear.opening > 0 else 0.10 + 0.2 * drawn) - drawn)
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
        """Return 1 for dark dirt and 2 for saturated bright dirt."""
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
        """Return a level set, positive inside the scrap of tissue of a nearly empty section, in one corner."""
        rng, shape = np.random.default_rng((self.seed, 15, z)), self.shape[1:]
        y, x = (np.abs(np.arange(n) / n - corner) for n, corner in zip(shape, rng.integers(0, 2, 2), strict=True))
        edge = 0.30 + 0.03 * np.sin(9 * x)[None] + 0.02 * np.sin(23 * y)[:, None]
        return np.asarray(edge - np.hypot(y[:, None], x[None]), dtype=np.float32)


class _CacheKey:
    """A hashable description of a stack, by which its sections are cached."""

    def __init__(self, stack: SerialSections) -> None:
        self.stack = stack
        self.words = repr(stack)

    def __hash__(self) -> int:
        return hash(self.words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _CacheKey) and other.words == self.words


@lru_cache(maxsize=4)
def _cached_section(key: _CacheKey, z: int) -> Bytes:
    """Render a section, with a cache for readers that access it in parts."""
    made = key.stack._render(z)
    made.setflags(write=False)
    return made


def _parts(names: str) -> list[str]:
    return [name.strip() for name in names.split("+") if name.strip()]


def _bytes(gray: npt.NDArray[np.floating]) -> Bytes:
    return np.asarray(np.clip(np.rint(gray), 0, 255), dtype=np.uint8)


def _across(tear: Tear, shape: tuple[int, int]) -> Plane:
    return evaluate_on_pixels(lambda points: tear.across(points)[..., None], shape)[0][: shape[0], : shape[1]]


def _tear_width(tear: Tear) -> float:
    """Return the width of the tear in the image: a fold is half as wide as the tissue that it hides."""
    return tear.opening if tear.opening > 0 else -0.5 * tear.opening


def _shading(rng: np.random.Generator, shape: tuple[int, int]) -> Plane:
    """Return uneven illumination ``(y, x)``, gray values: a second-order polynomial."""
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    a, b, c, d, e = rng.uniform(-8, 8, 5).astype(np.float32)
    return np.asarray(a * y[:, None] + b * x + c * np.outer(y, x) + d * (y * y)[:, None] + e * x * x)


def section_stack(seed: int = 51) -> Sample:
    """Generate a 3D stack of 12 sections, undeformed (fixed) and as recorded (moving).

    Each section of the moving stack has its own in-plane bending, rotation, stretch and shift, contrast and shading.
    The true map takes a point of the tissue to its position in the recorded section.

    Parameters
    ----------
    seed
        Seed of the tissue and of the deformations.

    See Also
    --------
    SerialSections : stacks of any size, with faults.
    """
    made = SerialSections(
        (12, 128, 128), seed, bend=1.8, drift=0.3, shift=4.0, rotation=2.0, contrast=0.7, noise=4.0, slope=1.0,
        spread=0.8, cell=26.0, spacing=(50.0, 10.0, 10.0),
    )  # fmt: skip
    grid = Grid.from_spacing(made.shape, made.spacing, unit="nm")
    thickness, pixel = made.spacing[0], np.asarray(made.spacing[1:])

    def true_map(points: npt.ArrayLike) -> FloatArray:
        points = np.asarray(points, dtype=np.float64)
        section = np.clip(np.rint(points[..., 0] / thickness), 0, len(made) - 1).astype(int)
        moved = points.copy()
        for z in range(len(made)):
            here = section == z
            moved[here, 1:] = made.to_section(z, points[here, 1:] / pixel) * pixel
        return moved

    fixed = Image(np.stack([made.reference_section(z) for z in range(len(made))]), grid, name="sections_true")
    moving = Image(np.stack(list(made)), grid, name="sections")
    points = inner_points(grid, 24, seed=6)
    points[:, 0] = np.rint(points[:, 0] / thickness) * thickness
    return Sample("sections", fixed, moving, true_map, points)
