"""Stacks in folders of images, one file a section."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from napari_stnreg.core.errors import InputError
from napari_stnreg.io.formats import is_image_path
from napari_stnreg.io.image import read_image
from napari_stnreg.io.tiff import first_series
from napari_stnreg.stacks.sources.base import Array, StackSource, Window, check_stack, to_gray
from napari_stnreg.stacks.sources.section_names import natural_sections, order_sections

_SIZE_RATIO = 4.0
"""Pixels of a section against the median of all; beyond this ratio a picture is not of the stack."""


@dataclass(frozen=True, eq=False)
class FolderSource(StackSource):
    """One image file for each section; a smaller image is padded with zeros at its lower right."""

    files: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """The folder and its files, which may be links."""
        return (self.location, *(str(Path(self.location) / name) for name in self.files if name))

    def identity(self) -> dict[str, Any]:
        """As of other stacks, and which files are the sections."""
        return {**super().identity(), "files": hashlib.sha256("/".join(self.files).encode()).hexdigest()}

    decodes_whole_sections = True

    def _load(self, z: int, window: Window) -> Array:
        image = read_image(Path(self.location) / self.files[z])
        data = to_gray(np.asarray(image.data), self.dtype)
        if data.shape != self.shape[1:]:
            whole = np.zeros(self.shape[1:], dtype=data.dtype)
            whole[: data.shape[0], : data.shape[1]] = data
            data = whole
        return data[window]


def open_folder(path: Path, *, channel: int | None = None, pattern: str | None = None) -> FolderSource:
    """Open a folder of images as a stack, in the order of the numbers in their names.

    A number that is missing in the row is a missing section. A file that cannot be read, or of another type or quite
    another size than the others, is an unreadable one. See :func:`order_sections` for channels and other pictures in
    the folder.

    Parameters
    ----------
    path
        The folder.
    channel
        Channel, if the folder holds several files for each section.
    pattern
        Names of the files that are sections, such as ``"*_DAPI.tif"``; then all of them are.

    Raises
    ------
    InputError
        If there are fewer than two images, or they are not gray (or red, green, blue).
    """
    names = [one.name for one in path.iterdir() if one.is_file() and is_image_path(one)]
    if pattern is not None:
        names = [name for name in names if fnmatchcase(name.lower(), pattern.lower())]
    if len(names) < 2:
        fitting = "" if pattern is None else f" that fit '{pattern}'"
        raise InputError(f"The folder '{path.name}' holds {len(names)} image files{fitting}. A stack has at least two.")
    order = order_sections(names, path.name, channel) if pattern is None else natural_sections(names)
    rows = order.rows
    headers: dict[int, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    faults: dict[int, str] = {}
    for z, name in enumerate(rows):
        if name is None:
            before = next(one for one in reversed(rows[:z]) if one is not None)
            faults[z] = f"Section {z} is missing: no file follows '{before}' in the row of numbers."
            continue
        try:
            headers[z] = _header(path / name)
        except Exception:
            faults[z] = f"Section {z} cannot be read: '{name}' is broken."
    if len(headers) < 2:
        raise InputError(f"The folder '{path.name}' holds no two images that can be read.")
    dtype = Counter(kind for _, kind in headers.values()).most_common(1)[0][0]
    for z, (shape, kind) in list(headers.items()):
        if kind != dtype:
            faults[z] = f"Section {z} cannot be used: '{rows[z]}' is of type {kind}, the others of {dtype}."
        elif len(shape) != 2 and shape[-1] not in (3, 4):
            faults[z] = f"Section {z} cannot be used: '{rows[z]}' has the shape {shape}."
    good = [headers[z][0][:2] for z in headers if z not in faults]
    if len(good) < 2:
        raise InputError(f"The images in '{path.name}' have no shape and type in common.")
    height, width = (int(np.median([s[axis] for s in good])) for axis in range(2))
    for z, (shape, _) in headers.items():
        ratio = shape[0] * shape[1] / (height * width)
        if z not in faults and not 1 / _SIZE_RATIO <= ratio <= _SIZE_RATIO:
            faults[z] = f"Section {z} cannot be used: '{rows[z]}' is {shape[0]}x{shape[1]}, others {height}x{width}."
    height, width = (max(headers[z][0][axis] for z in headers if z not in faults) for axis in range(2))
    check_stack((len(rows), height, width), dtype, path.name)
    spacing, unit = _folder_calibration(path / next(rows[z] or "" for z in headers if z not in faults))
    return FolderSource(
        (len(rows), height, width), dtype, spacing, unit, path.name, faults, str(path), tuple(n or "" for n in rows),
        notes=order.notes, missing=frozenset(z for z, name in enumerate(rows) if name is None),
    )  # fmt: skip


def _header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type of a section's image, without reading its pixels if the format allows it."""
    name = path.name.lower()
    if name.endswith((".tif", ".tiff")):
        with tifffile.TiffFile(path) as tif:
            series = first_series(tif)
            return tuple(n for n in series.shape if n > 1), np.dtype(series.dtype).newbyteorder("=")
    if name.endswith((".png", ".jpg", ".jpeg")):
        from PIL import Image as Picture

        with Picture.open(path) as picture:
            kinds = {"I;16": np.uint16, "I": np.int32, "F": np.float32, "1": np.bool_}
            channels = (3,) if len(picture.getbands()) >= 3 or picture.mode == "P" else ()
            return (picture.height, picture.width, *channels), np.dtype(kinds.get(picture.mode, np.uint8))
    image = read_image(path)
    return image.data.shape, image.data.dtype


def _folder_calibration(path: Path) -> tuple[tuple[float, float, float], str]:
    image = read_image(path)
    y, x = (float(s) for s in image.grid.spacing[-2:])
    if image.grid.ndim != 2 or abs(y / x - 1) > 0.01:
        return (1.0, 1.0, 1.0), "pixel"
    return (y, y, x), image.grid.unit
