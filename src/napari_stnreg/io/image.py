"""Read and write images; the suffix selects the format."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.atomic_io import atomic_path
from napari_stnreg.core.errors import InputError, RegistrationWarning
from napari_stnreg.core.file_errors import parser_errors
from napari_stnreg.core.image import Image, placement_notes
from napari_stnreg.core.output_guard import check_output
from napari_stnreg.io.file_content import FileContent
from napari_stnreg.io.formats import IMAGE_FORMATS, FileFormat, file_and_level, image_format, suffix_in
from napari_stnreg.io.ome_zarr import is_written_image

SUPPORTED_SUFFIXES = tuple(sorted((s for one in IMAGE_FORMATS for s in one.suffixes), key=len, reverse=True))
"""Suffixes that can be read, longest first."""
WRITABLE_SUFFIXES = tuple(sorted((s for one in IMAGE_FORMATS for s in one.written_suffixes), key=len, reverse=True))
"""Suffixes that can be written, longest first."""


def suffix_of(path: str | os.PathLike[str]) -> str:
    """Return the suffix by which a file's format is known, in lower case, such as ``.nii.gz``; empty for a folder.

    Raises
    ------
    InputError
        If the format is not supported.
    """
    image_format(path)
    return suffix_in(file_and_level(path)[0], SUPPORTED_SUFFIXES) or ""


def result_suffix(path: str | os.PathLike[str]) -> str:
    """Return the suffix for an image made from a file: its own, or one that can be written and keeps its position."""
    one = image_format(path)
    suffix = suffix_of(path)
    if suffix in one.written_suffixes:
        return suffix
    return one.written_suffixes[0] if one.written_suffixes else one.written_as


def writable_format(path: str | os.PathLike[str]) -> FileFormat:
    """Return the format in which an image is written under a name.

    Raises
    ------
    InputError
        If the suffix is not one of :data:`WRITABLE_SUFFIXES`.
    """
    suffix = suffix_in(path, SUPPORTED_SUFFIXES)
    if suffix not in WRITABLE_SUFFIXES:
        raise InputError(
            f"'{Path(path).name}' has an unsupported extension for writing. "
            f"Supported: {', '.join(sorted(WRITABLE_SUFFIXES))}."
        )
    return image_format(f"image{suffix}")


def check_image_output(
    path: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str] | None] = (), *, overwrite: bool = False
) -> Path:
    """Check the name of an image that will be written; see :func:`~napari_stnreg.core.output_guard.check_output`."""
    is_folder = writable_format(path).is_folder
    return check_output(path, inputs, overwrite=overwrite, folder=is_folder, is_ours=is_written_image)


def read_image(path: str | os.PathLike[str], frame: int | None = None) -> Image:
    """Read one image with its place in the world.

    Parameters
    ----------
    path
        A file or folder in one of the formats of the page "Supported files", such as NIfTI, NRRD, MHA, a folder of
        DICOM slices, OME-Zarr, TIFF or PNG. A coarser resolution of a Zarr or TIFF image is named behind it:
        ``image.zarr/2``, ``image.tif/2``.
    frame
        Which frame of a time series, counted from 0.

    Returns
    -------
    Image
        Data ``(y, x)`` or ``(z, y, x)``, with one axis more at the end for colors and channels.

    Raises
    ------
    InputError
        If the file is missing, a folder, broken, of an unknown kind, or a time series and no frame is named.
    """
    path = Path(path)
    content = read_content(path)
    if frame is None and content.frames > 1:
        raise InputError(
            f"'{path.name}' holds {content.frames} frames in time: choose one with frame=0 to "
            f"frame={content.frames - 1}, or read them all with read_series."
        )
    if frame is not None and not 0 <= frame < content.frames:
        raise InputError(f"'{path.name}' has {content.frames} frame(s), counted from 0. There is no frame {frame}.")
    _warn_of_placement(content)
    with parser_errors(path, suffix_of(path)):
        return _image(path, content, frame or 0)


read = read_image
"""Short name of :func:`read_image`."""


def read_series(path: str | os.PathLike[str]) -> list[Image]:
    """Read every frame of a time series, all on one grid; a file with one image gives a list of one.

    Raises
    ------
    InputError
        As :func:`read_image` does.
    """
    content = read_content(path)
    _warn_of_placement(content)
    return read_frames(path, content)


def read_frames(path: str | os.PathLike[str], content: FileContent) -> list[Image]:
    """Load every frame of a file that :func:`read_content` opened."""
    path = Path(path)
    with parser_errors(path, suffix_of(path)):
        return [_image(path, content, frame) for frame in range(content.frames)]


def read_content(path: str | os.PathLike[str]) -> FileContent:
    """Open a file without loading its voxels, to inspect frames and labels.

    Raises
    ------
    InputError
        As :func:`read_image` does.
    """
    path = Path(path)
    one = image_format(path)
    file, _ = file_and_level(path)
    if not file.exists():
        raise InputError(f"'{path}' does not exist.")
    with parser_errors(file, suffix_of(path)):
        if file.is_file() and file.stat().st_size == 0:
            raise InputError(f"'{path.name}' is empty (0 bytes).")
        if one.is_folder and path.is_file():
            raise InputError(f"'{path.name}' is a file. A {one.suffixes[0]} image must be a folder.")
        content: FileContent = one.read_function()(path)
        return content


def write_image(path: str | os.PathLike[str], image: Image) -> None:
    """Write an image in the format that the suffix names.

    NIfTI, NRRD and MHA keep the position; NIfTI also keeps axis order and header of the NIfTI file that the image came
    from. TIFF keeps the position for this package, and voxel size and unit for others. OME-Zarr keeps an upright
    position. PNG, JPEG and NumPy keep the values alone. An existing file is replaced once the new one is complete, and
    so is an existing OME-Zarr image that this function wrote.

    Raises
    ------
    InputError
        If the format is unknown or cannot hold the image, or the file cannot be written.
    """
    write_images(path, [image])


def write_images(path: str | os.PathLike[str], images: Sequence[Image]) -> None:
    """Write an image, or the frames of a time series on one grid; see :func:`write_image`.

    Raises
    ------
    InputError
        If the format is unknown or cannot hold the images, or the file cannot be written.
    """
    path = Path(path)
    one = writable_format(path)
    if len(images) > 1 and not one.series:
        raise InputError(
            f"A {suffix_of(path)} file holds a single image, not {len(images)} frames. Write a .tif or .nii.gz."
        )
    save = one.write_function()
    if one.is_folder:  # writes atomically itself
        save(path, *images)
    else:
        with atomic_path(path) as part:
            save(part, *images)


def _warn_of_placement(content: FileContent) -> None:
    for note in placement_notes(content.metadata):
        warnings.warn(note, RegistrationWarning, stacklevel=3)


def _image(path: Path, content: FileContent, frame: int) -> Image:
    file = file_and_level(path)[0].name
    name = file[: len(file) - len(suffix_of(path))]
    image = content_image(content, f"{name} [{frame}]" if content.frames > 1 else name, frame)
    return image.replace(metadata={"path": str(path), **image.metadata})


def content_image(content: FileContent, name: str, frame: int = 0) -> Image:
    """Load one frame of an open file."""
    return Image(
        usable(content.load(frame)), content.grid, name=name, rgb=content.rgb, metadata=content.metadata,
        is_labels=content.labels or None,
    )  # fmt: skip


def usable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the array in native byte order and contiguous memory, as torch requires."""
    if array.dtype == np.longdouble:
        array = array.astype(np.float64)
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
