"""Stacks in folders of images, one file a section."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from napari_stnreg.core.errors import InputError
from napari_stnreg.io.image import SUPPORTED_SUFFIXES, read_image
from napari_stnreg.stacks.sources.base import Array, StackSource, Window, check_stack, to_gray


@dataclass(frozen=True, eq=False)
class FolderSource(StackSource):
    """One image file for each section; a smaller image is padded with zeros at its lower right."""

    files: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """The folder and its files, which may be links."""
        return (self.location, *(str(Path(self.location) / name) for name in self.files if name))

    def _load(self, z: int, window: Window) -> Array:
        image = read_image(Path(self.location) / self.files[z])
        data = to_gray(np.asarray(image.data), self.dtype)
        if data.shape != self.shape[1:]:
            whole = np.zeros(self.shape[1:], dtype=data.dtype)
            whole[: data.shape[0], : data.shape[1]] = data
            data = whole
        return data[window]


def open_folder(path: Path) -> FolderSource:
    """Open a folder of images as a stack, in the order of the numbers in their names.

    A number that is missing in the row is a missing section. A file that cannot be read, or of another type than the
    others, is an unreadable one.

    Raises
    ------
    InputError
        If there are fewer than two images, or they are not gray (or red, green, blue).
    """
    names = [p.name for p in path.iterdir() if p.is_file() and p.name.lower().endswith(SUPPORTED_SUFFIXES)]
    names = [name for name in names if not name.startswith(".")]
    if len(names) < 2:
        raise InputError(f"The folder '{path.name}' holds {len(names)} image files; a stack has at least two.")
    rows = _numbered(names)
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
    height, width = max(s[0] for s in good), max(s[1] for s in good)
    for z, (shape, _) in headers.items():
        if z not in faults and shape[0] * shape[1] < 0.25 * height * width:
            faults[z] = f"Section {z} cannot be used: '{rows[z]}' is {shape[0]}x{shape[1]}, others {height}x{width}."
    check_stack((len(rows), height, width), dtype, path.name)
    spacing, unit = _folder_calibration(path / next(rows[z] or "" for z in headers if z not in faults))
    return FolderSource(
        (len(rows), height, width), dtype, spacing, unit, path.name, faults, str(path), tuple(n or "" for n in rows)
    )


def _numbered(names: list[str]) -> list[str | None]:
    """Names in the order of the number by which they differ, ``None`` where the row has a gap."""
    parts = {name: [int(p) for p in re.findall(r"\d+", name.rsplit(".", 1)[0])] for name in names}
    natural = sorted(names, key=lambda n: [(0, int(p), "") if p.isdigit() else (1, 0, p)
                                           for p in re.split(r"(\d+)", n.lower()) if p])  # fmt: skip
    lengths = {len(p) for p in parts.values()}
    if len(lengths) != 1 or not lengths.copy().pop():
        return list(natural)
    varying = [i for i in range(lengths.pop()) if len({p[i] for p in parts.values()}) == len(names)]
    if len(varying) != 1:
        return list(natural)
    by_number = {p[varying[0]]: name for name, p in parts.items()}
    numbers = sorted(by_number)
    step = math.gcd(*(b - a for a, b in pairwise(numbers)))
    count = (numbers[-1] - numbers[0]) // step + 1
    if count > 2 * len(names):  # not a row with gaps, but numbers that mean something else, such as dates
        return [by_number[n] for n in numbers]
    return [by_number.get(numbers[0] + i * step) for i in range(count)]


def _header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type of a section's image, without reading its pixels if the format allows it."""
    name = path.name.lower()
    if name.endswith((".tif", ".tiff")):
        with tifffile.TiffFile(path) as tif:
            series = tif.series[0]
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
