"""DICOM slices through SimpleITK: one series of a folder, or a single file."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray
from napari_stnreg.io.file_content import FileContent, check_memory
from napari_stnreg.io.itk_image import itk_content, simpleitk

_POSITION, _ORIENTATION, _DESCRIPTION = "0020|0032", "0020|0037", "0008|103e"
GAP_TOLERANCE = 0.02
"""Relative difference of slice distances that is accepted; headers round positions to about 0.01 mm."""

_LONG_FORMS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
"""Types of elements whose length has four bytes."""
_PIXEL_GROUP, _UNDEFINED = 0x7FE0, 0xFFFFFFFF


def open_dicom(path: Path) -> FileContent:
    """Open the DICOM series in a folder, or one DICOM file; headers are read, and voxels on request.

    Slices are ordered by their position along the slice normal.

    Raises
    ------
    InputError
        If the folder holds no DICOM file or several series, slices are missing, doubled or differ in size or
        orientation, or a file is damaged.
    """
    for one in sorted(path.iterdir()) if path.is_dir() else [path]:
        _check_elements(one)
    files = _series(path) if path.is_dir() else [str(path)]
    headers = [_Header(file, path.name) for file in files]
    first = headers[0]
    if len(headers) > 1:
        headers, spacing = _ordered(headers, path.name)
        first = headers[0]
        size = [*first.size[:2], len(headers)]
    else:
        size, spacing = list(first.size), float(first.spacing[2])
        if size[2] == 1 and path.is_dir():
            raise InputError(f"'{path.name}' holds a single DICOM slice. Name the file itself to read it as 2D.")
    check_memory(path.name, int(np.prod(size, dtype=np.float64)) * first.components * 4)

    def load(_: int) -> npt.NDArray[Any]:
        sitk = simpleitk()
        try:
            slices = [np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(one.file))) for one in headers]
        except RuntimeError as error:
            raise InputError(f"'{path.name}' cannot be read. A slice is incomplete or damaged.") from error
        voxels = np.concatenate(slices) if slices[0].ndim - (first.components > 1) == 3 else np.stack(slices)
        return voxels[0] if size[2] == 1 else voxels

    if size[2] == 1:
        # A single slice is flat: pixel size and no position.
        return itk_content(load, size[:2], first.spacing[:2], (0.0, 0.0), np.eye(2), path.name, **first.channels)
    return itk_content(
        load, size, (*first.spacing[:2], spacing), first.origin, first.direction, path.name, **first.channels
    )


def _check_elements(path: Path) -> None:
    """Refuse a file whose elements declare more bytes than it holds, before GDCM takes memory for them."""
    if not path.is_file():
        return
    size = path.stat().st_size
    with path.open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            return
        position = 132
        while position + 8 <= size:
            stream.seek(position)
            head = stream.read(12)
            group, kind = struct.unpack("<H", head[:2])[0], head[4:6]
            if group >= _PIXEL_GROUP:
                return
            long = kind in _LONG_FORMS and len(head) == 12
            if long:
                length, start = struct.unpack("<I", head[8:12])[0], 12
            elif kind.isalpha() and kind.isupper():
                length, start = struct.unpack("<H", head[6:8])[0], 8
            else:  # an implicit type
                length, start = struct.unpack("<I", head[4:8])[0], 8
            if length == _UNDEFINED:
                return
            position += start + length
            if position > size:
                raise InputError(f"'{path.name}' is not a readable DICOM image. It ends before its header does.")


class _Header:
    """Header of one file."""

    def __init__(self, file: str, name: str) -> None:
        sitk = simpleitk()
        reader = sitk.ImageFileReader()
        reader.SetFileName(file)
        reader.SetImageIO("GDCMImageIO")
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise InputError(f"'{Path(file).name}' is not a readable DICOM image.") from error
        size = list(reader.GetSize())
        if len(size) < 3:
            size = [*size, 1]
        if len(size) != 3:
            raise InputError(f"'{name}' has {len(size)} axes. Only DICOM images with three axes are supported.")
        self.file, self.size = file, tuple(int(n) for n in size)
        self.spacing = (*(float(s) for s in reader.GetSpacing()), 1.0)[:3]
        self.origin = (*(float(o) for o in reader.GetOrigin()), 0.0)[:3]
        direction = np.asarray(reader.GetDirection(), dtype=np.float64)
        self.direction = direction.reshape(3, 3) if direction.size == 9 else np.eye(3)
        self.components = int(reader.GetNumberOfComponents())
        self.placed = reader.HasMetaDataKey(_POSITION) and reader.HasMetaDataKey(_ORIENTATION)

    @property
    def height(self) -> float:
        """Position along the slice normal."""
        return float(self.direction[:, 2] @ np.asarray(self.origin))

    @property
    def channels(self) -> dict[str, Any]:
        return {"channels": self.components > 1, "rgb": self.components in (3, 4)}


def _series(folder: Path) -> list[str]:
    """Return the files of the only series in a folder."""
    reader = simpleitk().ImageSeriesReader
    series = reader.GetGDCMSeriesIDs(str(folder), False)
    if not series:
        inside = [one.name for one in folder.iterdir() if one.is_dir()][:3] if folder.is_dir() else []
        more = f" It contains folders, such as '{inside[0]}'." if inside else ""
        raise InputError(
            f"'{folder.name}' is a folder without DICOM slices or Zarr arrays. Name the image file itself.{more}"
        )
    found = [[str(file) for file in reader.GetGDCMSeriesFileNames(str(folder), one)] for one in series]
    if len(found) > 1:
        listed = ", ".join(f"{_description(files[0])} ({len(files)} files)" for files in found[:6])
        raise InputError(
            f"'{folder.name}' holds {len(found)} DICOM series: {listed}. Put the files of one series into a folder of "
            "their own."
        )
    return found[0]


def _description(file: str) -> str:
    reader = simpleitk().ImageFileReader()
    reader.SetFileName(file)
    try:
        reader.ReadImageInformation()
        text = str(reader.GetMetaData(_DESCRIPTION)).strip() if reader.HasMetaDataKey(_DESCRIPTION) else ""
    except RuntimeError:
        text = ""
    return f"'{text or Path(file).name}'"


def _ordered(headers: list[_Header], name: str) -> tuple[list[_Header], float]:
    """Return the slices ordered along their normal, and their distance."""
    first = headers[0]
    if not all(one.placed for one in headers):
        raise InputError(f"Slices of '{name}' have no position, so their order is unknown.")
    for one in headers:
        if one.size != first.size or one.size[2] != 1:
            raise InputError(f"The slices of '{name}' differ in size. Put the slices of one volume into a folder.")
        if not np.allclose(one.direction, first.direction, atol=1e-3) or not np.allclose(one.spacing, first.spacing):
            raise InputError(
                f"The slices of '{name}' differ in orientation or pixel size, such as those of a localizer."
            )
    ordered = sorted(headers, key=lambda one: one.height)
    heights: FloatArray = np.array([one.height for one in ordered])
    steps = np.diff(heights)
    usual = float(np.median(steps))
    if (steps < 1e-4).any():
        raise InputError(
            f"'{name}' holds several slices at one position, as of a time series. Put one volume into a folder."
        )
    if (np.abs(steps - usual) > GAP_TOLERANCE * usual + 1e-3).any():
        worst = int(np.abs(steps - usual).argmax())
        raise InputError(
            f"The slices of '{name}' are not evenly spaced: {steps[worst]:.4g} mm after slice {worst}, usually "
            f"{usual:.4g} mm. Is a slice missing?"
        )
    drift = np.asarray(ordered[-1].origin) - np.asarray(ordered[0].origin)
    expected = first.direction[:, 2] * (heights[-1] - heights[0])
    if np.abs(drift - expected).max() > max(0.1 * usual, 0.05):
        raise InputError(f"The slices of '{name}' are shifted against each other (gantry tilt). Resample them first.")
    return ordered, float(steps.mean())
