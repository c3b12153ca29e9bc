"""Stacks of serial sections that are read lazily, one section or a part of one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.intensity import luminance
from napari_stnreg.core.units import canonical
from napari_stnreg.io.formats import is_url

Array = npt.NDArray[Any]
Window = tuple[slice, slice]

STRIP_BYTES = 64 * 2**20
"""Approximate size of the strips in which a section is read and reduced."""


class SectionError(InputError):
    """One section cannot be read, others can; an alignment bridges it and reports it."""


@dataclass(frozen=True, eq=False)
class StackSource:
    """Serial sections of one shape and type, read lazily; can be pickled and sent to another process.

    Parameters
    ----------
    shape
        ``(z, y, x)``.
    dtype
        Type of the pixels.
    spacing
        Section distance and pixel size ``(z, y, x)``, in ``unit``.
    unit
        Unit of the spacing.
    name
        Name of the stack.
    faults
        Sections known to be missing or unreadable, with one sentence each.
    location
        Absolute path of the file or folder, or its URL; empty for a stack in memory.
    origin
        Position ``(z, y, x)`` of the center of the first pixel, in ``unit``.
    inset
        Distance ``(y, x)`` of that center from the corner of the finest resolution, in pixels: 0.5 if a pixel is the
        mean over its area, less if the resolution is subsampled.
    notes
        Sentences about what is not used: other channels, or other files of a folder.
    missing
        The sections among ``faults`` without a file.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    unit: str = "pixel"
    name: str = "stack"
    faults: Mapping[int, str] = field(default_factory=dict)
    location: str = ""
    origin: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0), kw_only=True)
    inset: tuple[float, float] = field(default=(0.5, 0.5), kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    missing: frozenset[int] = field(default=frozenset(), kw_only=True)

    def read(self, z: int, window: Window | None = None) -> Array:
        """Read one section ``(y, x)``, or the part of it in ``window``, in the type of the stack.

        Raises
        ------
        SectionError
            If the section is missing or cannot be read.
        """
        if not 0 <= z < self.shape[0]:
            raise InputError(f"'{self.name}' has sections 0 to {self.shape[0] - 1}. There is no section {z}.")
        if z in self.faults:
            raise SectionError(self.faults[z])
        where = window or (slice(0, self.shape[1]), slice(0, self.shape[2]))
        try:
            data = self._load(z, where)
        except SectionError:
            raise
        except Exception as error:  # codecs, network mounts and dask graphs raise anything
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
            raise SectionError(f"Section {z} of '{self.name}' cannot be read ({reason}).") from error
        return np.ascontiguousarray(data, dtype=self.dtype)

    def _load(self, z: int, window: Window) -> Array:
        raise NotImplementedError

    @property
    def decodes_whole_sections(self) -> bool:
        """Whether reading a window decodes the whole section, so that it should be read once."""
        return False

    def windows(self, z: int) -> Callable[[Window], Array]:
        """Return a function that reads windows of a section; the section is decoded once."""
        if not self.decodes_whole_sections:
            return lambda window: self.read(z, window)
        whole: list[Array] = []

        def read(window: Window) -> Array:
            if not whole:
                whole.append(self.read(z))
            return whole[0][window]

        return read

    def read_reduced(self, z: int, factor: int, *, nonzero: bool = False) -> npt.NDArray[np.float32]:
        """Read a section reduced by an integer factor, float32; see :func:`reduce_section`.

        The section is read in strips, so it may be larger than memory. With ``nonzero``, the result is the fraction of
        non-zero pixels in each block.
        """
        height, width = (-(-n // factor) for n in self.shape[1:])
        rows = max(STRIP_BYTES // (self.shape[2] * max(self.dtype.itemsize, 4) * factor), 1)
        out, read = np.empty((height, width), dtype=np.float32), self.windows(z)
        for top in range(0, height, rows):
            lines = slice(top * factor, min((top + rows) * factor, self.shape[1]))
            strip = read((lines, slice(0, self.shape[2])))
            out[top : top + rows] = reduce_section(strip != 0 if nonzero else strip, factor)
        return out

    @property
    def section_bytes(self) -> int:
        """Size of one section in bytes."""
        return int(self.shape[1] * self.shape[2] * self.dtype.itemsize)

    @property
    def paths(self) -> tuple[str, ...]:
        """Absolute paths of all files and folders that are read; empty for a stack in memory or at a URL."""
        return (self.location,) if self.location and not is_url(self.location) else ()

    @property
    def warning(self) -> str:
        """Sentences about what is not used, and about sections that cannot be used; empty if there are none."""
        if not self.faults:
            return " ".join(self.notes)
        which = ", ".join(str(z) for z in sorted(self.faults)[:8]) + (", ..." if len(self.faults) > 8 else "")
        first = self.faults[min(self.faults)]
        bad = f"{len(self.faults)} of {self.shape[0]} sections cannot be used and will be bridged ({which}): {first}"
        return " ".join((*self.notes, bad))

    def identity(self) -> dict[str, Any]:
        """Return what identifies the stack when a run is resumed, JSON-ready."""
        return {
            "location": self.location,
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "spacing": list(self.spacing),
            "unit": self.unit,
            "inset": list(self.inset),
            "faults": sorted(self.faults),
        }


@dataclass(frozen=True, eq=False)
class ArraySource(StackSource):
    """A stack in an array ``(z, y, x)``: NumPy, Dask, Zarr, or any array with the same slicing."""

    array: Any = None

    def _load(self, z: int, window: Window) -> Array:
        part = self.array[(z, *window)]
        if hasattr(part, "compute"):  # a Dask chunk; this call is already one of many parallel tasks
            part = part.compute(scheduler="synchronous")
        return np.asarray(part)

    def identity(self) -> dict[str, Any]:
        """Shape, type, and sums of a few sections, since an array has no path."""
        middle = self.shape[0] // 2
        sums = [float(np.asarray(self.array[z], dtype=np.float64).sum()) for z in {0, middle, self.shape[0] - 1}]
        return {**super().identity(), "sums": sums}


@dataclass(frozen=True, eq=False)
class FunctionSource(StackSource):
    """A stack whose sections are generated by a function ``section(z) -> (y, x)``."""

    section: Callable[[int], Array] | None = None

    decodes_whole_sections = True

    def _load(self, z: int, window: Window) -> Array:
        assert self.section is not None
        return np.asarray(self.section(z))[window]


@dataclass(frozen=True, eq=False)
class SubStack(StackSource):
    """Some sections of another stack."""

    whole: StackSource | None = None
    sections: tuple[int, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the whole stack."""
        return self.whole.paths if self.whole is not None else ()

    @property
    def decodes_whole_sections(self) -> bool:
        """As the whole stack."""
        return self.whole is not None and self.whole.decodes_whole_sections

    def _load(self, z: int, window: Window) -> Array:
        assert self.whole is not None
        return self.whole.read(self.sections[z], window)


def reorder_sections(source: StackSource, order: Sequence[int]) -> StackSource:
    """Return a view of a stack that shows its section ``order[z]`` at ``z``; the stack itself if nothing moves."""
    if list(order) == list(range(source.shape[0])):
        return source
    faults = {z: source.faults[raw] for z, raw in enumerate(order) if raw in source.faults}
    return SubStack(
        source.shape, source.dtype, source.spacing, source.unit, source.name, faults, source.location, source,
        tuple(order), origin=source.origin, inset=source.inset, notes=source.notes,
        missing=frozenset(z for z, raw in enumerate(order) if raw in source.missing),
    )  # fmt: skip


def reduce_section(section: Array, factor: int) -> npt.NDArray[np.float32]:
    """Average blocks of ``factor`` x ``factor`` pixels; incomplete blocks at the end are averaged over what they hold.

    Pixel ``i`` of the result is at ``(i + 0.5) * factor - 0.5`` in pixels of the section.
    """
    image = np.asarray(section, dtype=np.float32)
    if factor == 1:
        return image
    rows, columns = np.arange(0, image.shape[0], factor), np.arange(0, image.shape[1], factor)
    sums = np.add.reduceat(np.add.reduceat(image, rows, axis=0), columns, axis=1)
    heights, widths = np.diff([*rows, image.shape[0]]), np.diff([*columns, image.shape[1]])
    return np.asarray(sums / np.outer(heights, widths), dtype=np.float32)


def from_array(
    array: Any, spacing: float | Sequence[float] = 1.0, unit: str = "pixel", name: str = "stack"
) -> ArraySource:
    """Wrap an array ``(z, y, x)`` in memory or lazy.

    Raises
    ------
    InputError
        If it has other axes, fewer than two sections, or complex values.
    """
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        array = np.asarray(array)
    shape = tuple(int(n) for n in array.shape)
    check_stack(shape, np.dtype(array.dtype), name)
    sizes = np.broadcast_to(np.asarray(spacing, dtype=np.float64), (3,))
    check_spacing(sizes, name)
    return ArraySource(
        shape=(shape[0], shape[1], shape[2]),
        dtype=np.dtype(array.dtype),
        spacing=(float(sizes[0]), float(sizes[1]), float(sizes[2])),
        unit=canonical(unit),
        name=name,
        array=array,
    )


def check_stack(shape: Sequence[int], dtype: np.dtype[Any], name: str) -> None:
    """Check that a shape and type are those of a stack of gray sections.

    Raises
    ------
    InputError
        If not, with the reason.
    """
    if len(shape) != 3:
        raise InputError(f"'{name}' has {len(shape)} axes. A stack has three, (z, y, x).")
    if shape[0] < 2:
        raise InputError(f"'{name}' has {shape[0]} section. A stack has at least two.")
    if min(shape[1:]) < 16:
        raise InputError(f"The sections of '{name}' are {shape[1]}x{shape[2]} pixels. At least 16x16 are needed.")
    if dtype.kind not in "buif":
        raise InputError(f"'{name}' has values of type {dtype}. Integers and real numbers are supported.")


def check_spacing(sizes: npt.NDArray[np.float64], name: str) -> None:
    """Check that pixel sizes are positive and pixels are square.

    Raises
    ------
    InputError
        If not, with the reason.
    """
    if not np.isfinite(sizes).all() or (sizes <= 0).any():
        raise InputError(f"The pixel size of '{name}' is {tuple(sizes.tolist())}. It must be positive.")
    if abs(sizes[1] / sizes[2] - 1) > 0.01:
        raise InputError(
            f"The pixels of '{name}' are {sizes[1]:g} by {sizes[2]:g}, not square. Resample the sections first."
        )


def select_channel(chosen: int | None, count: int, name: str, axis: str) -> int:
    """Select the entry of an axis other than z, y, x: the first channel, unless another one is chosen.

    Raises
    ------
    InputError
        If there are several entries of another axis, or there is no such channel.
    """
    if count == 1:
        return 0
    if axis != "c":
        raise InputError(f"'{name}' has {count} entries along '{axis}'. A stack has only z, y and x.")
    if chosen is None:
        return 0
    if not 0 <= chosen < count:
        raise InputError(f"'{name}' has {count} channels, counted from 0. There is no channel {chosen}.")
    return chosen


def channel_notes(chosen: int | None, count: int, name: str) -> tuple[str, ...]:
    """Return a sentence if one of several channels is used without having been chosen."""
    if chosen is not None or count < 2:
        return ()
    return (f"'{name}' has {count} channels. Channel 0 is used. Choose another one, up to {count - 1}, with channel.",)


def to_gray(data: Array, dtype: np.dtype[Any]) -> Array:
    """Convert red, green, blue (and alpha), or gray and alpha, to gray, in the type of the pixels."""
    if data.ndim == 2:
        return data
    if data.ndim == 3 and data.shape[-1] in (2, 3, 4):
        values = data[..., 0] if data.shape[-1] == 2 else luminance(data)
        return np.rint(values).astype(dtype) if dtype.kind in "ui" else values.astype(dtype)
    raise SectionError(f"a section has two axes, not {data.ndim}")
