"""A stack of serial sections, read one section (or a part of one) at a time, wherever it lies."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.units import canonical

Array = npt.NDArray[Any]
Window = tuple[slice, slice]

_STRIP_BYTES = 64 * 2**20
"""A section is read and shrunk in strips of about this many bytes."""


class SectionError(InputError):
    """One section cannot be read; the others can. Whoever aligns bridges it and says so."""


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
        Distance of sections and pixel size, ``(z, y, x)``, in ``unit``.
    unit
        Unit of the spacing.
    name
        What to call the stack.
    faults
        Sections that are known to be missing or unreadable before any is read, with one sentence each.
    location
        Absolute path of the file or folder, or empty for a stack in memory.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    unit: str = "pixel"
    name: str = "stack"
    faults: Mapping[int, str] = field(default_factory=dict)
    location: str = ""

    def read(self, z: int, window: Window | None = None) -> Array:
        """Pixels of one section, ``(y, x)`` or the part of it in ``window``, in the stack's type.

        Raises
        ------
        SectionError
            If the section is missing or cannot be read.
        """
        if not 0 <= z < self.shape[0]:
            raise InputError(f"'{self.name}' has {self.shape[0]} sections, counted from 0; there is no section {z}.")
        if z in self.faults:
            raise SectionError(self.faults[z])
        where = window or (slice(0, self.shape[1]), slice(0, self.shape[2]))
        try:
            data = self._load(z, where)
        except SectionError:
            raise
        except Exception as error:  # a codec, a network mount, a dask graph: whatever a section's file can do to us
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
            raise SectionError(f"Section {z} of '{self.name}' cannot be read ({reason}).") from error
        return np.ascontiguousarray(data, dtype=self.dtype)

    def _load(self, z: int, window: Window) -> Array:
        raise NotImplementedError

    def read_reduced(self, z: int, factor: int, *, nonzero: bool = False) -> npt.NDArray[np.float32]:
        """A section shrunk by a whole factor, float32; see :func:`reduced`.

        It is read in strips, so that a section larger than memory can be shrunk. With ``nonzero`` the result is the
        share of pixels in each block that are not zero.
        """
        height, width = (-(-n // factor) for n in self.shape[1:])
        rows = max(_STRIP_BYTES // (self.shape[2] * max(self.dtype.itemsize, 4) * factor), 1)
        out = np.empty((height, width), dtype=np.float32)
        for top in range(0, height, rows):
            lines = slice(top * factor, min((top + rows) * factor, self.shape[1]))
            strip = self.read(z, (lines, slice(0, self.shape[2])))
            out[top : top + rows] = reduced(strip != 0 if nonzero else strip, factor)
        return out

    @property
    def section_bytes(self) -> int:
        """Bytes of one section."""
        return int(self.shape[1] * self.shape[2] * self.dtype.itemsize)

    @property
    def sentence(self) -> str:
        """What is known to be wrong with it, in one sentence; empty when nothing is."""
        if not self.faults:
            return ""
        which = ", ".join(str(z) for z in sorted(self.faults)[:8]) + (", ..." if len(self.faults) > 8 else "")
        first = self.faults[min(self.faults)]
        return f"{len(self.faults)} of {self.shape[0]} sections cannot be used and are bridged ({which}): {first}"

    def identity(self) -> dict[str, Any]:
        """What makes this stack the same one when a run goes on."""
        return {
            "location": self.location,
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "spacing": list(self.spacing),
            "unit": self.unit,
            "faults": sorted(self.faults),
        }


@dataclass(frozen=True, eq=False)
class ArraySource(StackSource):
    """A stack in an array ``(z, y, x)``: NumPy, Dask, or whatever else is sliced in the same way."""

    array: Any = None

    def _load(self, z: int, window: Window) -> Array:
        part = self.array[(z, *window)]
        if hasattr(part, "compute"):  # a chunk of Dask; in this very thread, as we are one task of many already
            part = part.compute(scheduler="synchronous")
        return np.asarray(part)

    def identity(self) -> dict[str, Any]:
        """Shape and type, and a sum over a few sections, since an array has no name."""
        middle = self.shape[0] // 2
        sums = [float(np.asarray(self.array[z], dtype=np.float64).sum()) for z in {0, middle, self.shape[0] - 1}]
        return {**super().identity(), "sums": sums}


@dataclass(frozen=True, eq=False)
class FunctionSource(StackSource):
    """A stack whose sections are made by a function ``section(z) -> (y, x)``, as generated ones are."""

    section: Callable[[int], Array] | None = None

    def _load(self, z: int, window: Window) -> Array:
        assert self.section is not None
        return np.asarray(self.section(z))[window]


@dataclass(frozen=True, eq=False)
class PartOfStack(StackSource):
    """Some sections of another stack, in their order."""

    whole: StackSource | None = None
    sections: tuple[int, ...] = ()

    def _load(self, z: int, window: Window) -> Array:
        assert self.whole is not None
        return self.whole.read(self.sections[z], window)


def reduced(section: Array, factor: int) -> npt.NDArray[np.float32]:
    """Means over blocks of ``factor`` pixels a side; an incomplete last block is the mean of what there is.

    Pixel ``i`` of the result lies at ``(i + 0.5) * factor - 0.5`` in pixels of the section.
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
    """Wrap an array ``(z, y, x)`` that is in memory or lazily computed.

    Raises
    ------
    InputError
        If it has other axes, fewer than two sections, or values that are no gray values.
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


def open_stack(
    stack: Any,
    *,
    level: int = 0,
    channel: int | None = None,
    spacing: float | Sequence[float] | None = None,
    unit: str | None = None,
) -> StackSource:
    """Open a stack without reading its pixels.

    Parameters
    ----------
    stack
        An array ``(z, y, x)`` (NumPy, Dask, Zarr), an :class:`~napari_stnreg.Image` in 3D, a source, or a path: an
        OME-Zarr or Zarr folder, a multi-page or OME TIFF, a ``.npy`` file, or a folder of images, one a section.
    level
        Which resolution of a multiscale image; 0 is the finest.
    channel
        Which channel, where there are several.
    spacing, unit
        Instead of what the file says.

    Raises
    ------
    InputError
        If there is no such stack or it is none; the sentence says why.
    """
    from napari_stnreg.core.image import Image

    source: StackSource
    if isinstance(stack, StackSource):
        source = stack
    elif isinstance(stack, str | os.PathLike):
        from napari_stnreg.stacks.sources import open as open_files

        source = open_files.open_path(Path(stack), level=level, channel=channel)
    elif isinstance(stack, Image):
        data = stack.intensity(channel) if stack.has_channel_axis else stack.data
        source = from_array(data, tuple(stack.grid.spacing), stack.grid.unit, stack.name)
    else:
        source = from_array(stack)
    if spacing is not None or unit is not None:
        sizes = np.broadcast_to(np.asarray(source.spacing if spacing is None else spacing, dtype=np.float64), (3,))
        check_spacing(sizes, source.name)
        source = replaced(source, spacing=tuple(float(s) for s in sizes), unit=canonical(unit or source.unit))
    return source


def replaced(source: StackSource, **changes: Any) -> StackSource:
    """A copy with some fields exchanged."""
    import dataclasses

    return dataclasses.replace(source, **changes)


def check_stack(shape: Sequence[int], dtype: np.dtype[Any], name: str) -> None:
    """Refuse what is no stack of gray sections.

    Raises
    ------
    InputError
        With the reason.
    """
    if len(shape) != 3:
        raise InputError(f"'{name}' has {len(shape)} axes; a stack of sections has three, (z, y, x).")
    if shape[0] < 2:
        raise InputError(f"'{name}' has {shape[0]} section; a stack to be aligned has at least two.")
    if min(shape[1:]) < 16:
        raise InputError(f"The sections of '{name}' are {shape[1]}x{shape[2]} pixels; at least 16x16 are needed.")
    if dtype.kind not in "buif":
        raise InputError(f"'{name}' holds values of type {dtype}; sections are of whole or real numbers.")


def check_spacing(sizes: npt.NDArray[np.float64], name: str) -> None:
    """Refuse a pixel size that is none, or pixels that are not square.

    Raises
    ------
    InputError
        With the reason.
    """
    if not np.isfinite(sizes).all() or (sizes <= 0).any():
        raise InputError(f"The pixel size of '{name}' is {tuple(sizes.tolist())}; it must be positive.")
    if abs(sizes[1] / sizes[2] - 1) > 0.01:
        raise InputError(
            f"The pixels of '{name}' are {sizes[1]:g} by {sizes[2]:g}, not square; resample the sections first."
        )


def chosen_channel(chosen: int | None, count: int, name: str, axis: str) -> int:
    """Which entry of an axis beside z, y, x to read.

    Raises
    ------
    InputError
        If that is not clear, or there is no such channel.
    """
    if count == 1:
        return 0
    if axis != "c":
        raise InputError(f"'{name}' has {count} entries along '{axis}'; a stack of sections has z, y and x alone.")
    if chosen is None:
        raise InputError(f"'{name}' has {count} channels; choose one with channel 0 to {count - 1}.")
    if not 0 <= chosen < count:
        raise InputError(f"'{name}' has {count} channels, counted from 0; there is no channel {chosen}.")
    return chosen


def gray(data: Array, dtype: np.dtype[Any]) -> Array:
    """Red, green, blue to luminance, in the type that the pixels had."""
    if data.ndim == 2:
        return data
    if data.ndim == 3 and data.shape[-1] in (2, 3, 4):
        values = data[..., 0] if data.shape[-1] == 2 else data[..., :3] @ np.array([0.2125, 0.7154, 0.0721])
        return np.rint(values).astype(dtype) if dtype.kind in "ui" else values.astype(dtype)
    raise SectionError(f"a section has two axes, not {data.ndim}")
