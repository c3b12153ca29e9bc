"""Stacks in multi-page, ImageJ and OME TIFF files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from napari_stnreg.core.errors import InputError
from napari_stnreg.io.tiff import calibration, first_series, has_all_segments
from napari_stnreg.stacks.sources.base import (
    Array,
    StackSource,
    Window,
    channel_notes,
    check_spacing,
    check_stack,
    select_channel,
    to_gray,
)


@dataclass(frozen=True, eq=False)
class TiffSource(StackSource):
    """Pages of a TIFF file: of section ``z``, ``pages[z]`` is file and number, or the number in a file's one block."""

    pages: tuple[tuple[str, int], ...] = ()
    offset: int | None = None
    stored: str = ""
    page_shape: tuple[int, ...] = ()

    def identity(self) -> dict[str, Any]:
        """As of other stacks, and the first page, which identifies the channel."""
        return {**super().identity(), "page": self.pages[0][1]}

    @property
    def paths(self) -> tuple[str, ...]:
        """The file, and further files of a multi-file OME-TIFF."""
        return (self.location, *sorted({path for path, _ in self.pages} - {self.location}))

    @property
    def decodes_whole_sections(self) -> bool:
        """Whether pages are compressed or scattered; plain ones are mapped into memory."""
        return self.offset is None

    def _load(self, z: int, window: Window) -> Array:
        path, number = self.pages[z]
        if self.offset is not None:
            size = int(np.prod(self.page_shape)) * np.dtype(self.stored).itemsize
            start = self.offset + number * size
            page = np.memmap(path, dtype=np.dtype(self.stored), mode="r", offset=start, shape=self.page_shape)
            return to_gray(page[window], self.dtype)
        with tifffile.TiffFile(path) as tif:
            return to_gray(tif.pages[number].asarray().reshape(self.page_shape)[window], self.dtype)


def open_tiff(path: Path, *, channel: int | None = None) -> TiffSource:
    """Open a multi-page, ImageJ or OME TIFF as a stack, one page a section.

    Raises
    ------
    InputError
        If it is broken at its beginning, or has axes that are no stack's.
    """
    if path.stat().st_size == 0:
        raise InputError(f"'{path.name}' is empty (0 bytes).")
    try:
        with tifffile.TiffFile(path) as tif:
            return _tiff_stack(path, tif, channel)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"'{path.name}' cannot be read. It is incomplete or not a TIFF file.") from error


def _tiff_stack(path: Path, tif: tifffile.TiffFile, channel: int | None) -> TiffSource:
    series = first_series(tif)
    spacing, unit, own = calibration(tif)
    if own is not None and own.ndim == 3:
        spacing, unit = (float(own.spacing[0]), float(own.spacing[1]), float(own.spacing[2])), own.unit
    numbers, page_shape = _sections_of(series, path.name, channel)
    dtype = np.dtype(series.dtype).newbyteorder("=")
    check_stack((len(numbers), *page_shape[:2]), dtype, path.name)
    check_spacing(np.asarray(spacing), path.name)
    size, length = int(np.prod(page_shape)) * dtype.itemsize, path.stat().st_size
    pages: list[tuple[str, int]] = []
    faults: dict[int, str] = {}
    for z, number in enumerate(numbers):
        if series.dataoffset is not None:
            broken = series.dataoffset + (number + 1) * size > length
            pages.append((str(path), number))
        else:
            page = series.pages[number]
            file = str(path) if page is None else str(Path(page.parent.filehandle.path).absolute())
            ends = [] if page is None else [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False)]
            broken = not ends or max(ends) > Path(file).stat().st_size or not has_all_segments(page)
            pages.append((file, -1 if page is None else int(page.index)))
        if broken:
            faults[z] = f"'{path.name}' ends before section {z}, or does not hold it."
    if len(faults) > len(numbers) - 2:
        raise InputError(f"'{path.name}' cannot be read. It ends before its pixels do.")
    return TiffSource(
        (len(numbers), page_shape[0], page_shape[1]), dtype, spacing, unit, path.name.split(".")[0], faults, str(path),
        tuple(pages), series.dataoffset, f"{tif.byteorder}{dtype.str[1:]}", page_shape,
        notes=channel_notes(channel, dict(zip(series.axes, series.shape, strict=True)).get("C", 1), path.name),
    )  # fmt: skip


def _sections_of(series: tifffile.TiffPageSeries, name: str, channel: int | None) -> tuple[list[int], tuple[int, ...]]:
    """Return the page of each section and the shape of a page."""
    # Q and I are pages without a stated meaning.
    axes, shape = series.axes.translate(str.maketrans("QI", "ZZ")), series.shape
    if "Z" not in axes or shape[axes.index("Z")] == 1:
        axes = axes.replace("Z", "W").replace("T", "Z")  # sections that a program took for time
    if "Z" not in axes:
        axes, shape = "Z" + axes, (1, *shape)  # a single section
    kept = [i for i, axis in enumerate(axes) if shape[i] > 1 or axis in "YXZ"]
    axes, shape = "".join(axes[i] for i in kept), tuple(shape[i] for i in kept)
    split = axes.index("Y") if "Y" in axes else 0
    outer, inner = axes[:split], axes[split:]
    if sorted(outer) not in (["Z"], ["C", "Z"]) or inner not in ("YX", "YXS"):
        raise InputError(f"'{name}' has the axes {series.axes}. A stack of sections has z, y, x and channels.")
    steps = {axis: int(np.prod(shape[i + 1 : split])) for i, axis in enumerate(outer)}
    first = select_channel(channel, shape[outer.index("C")], name, "c") * steps["C"] if "C" in outer else 0
    return [first + z * steps["Z"] for z in range(shape[outer.index("Z")])], tuple(shape[split:])
