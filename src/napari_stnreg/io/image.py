"""Reading and writing images, whatever the format: the ending of the name decides."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from napari_stnreg.core.atomic_io import atomic_path
from napari_stnreg.core.errors import InputError, RegistrationError
from napari_stnreg.core.image import Image
from napari_stnreg.io import arrays, nifti, tiff
from napari_stnreg.io.content import FileContent

# Longest first, so that .nii.gz is not taken for .gz.
_OPENERS: dict[str, Callable[[Path], FileContent]] = {
    ".nii.gz": nifti.open_nifti,
    ".nii": nifti.open_nifti,
    ".tiff": tiff.open_tiff,
    ".tif": tiff.open_tiff,
    ".png": arrays.open_picture,
    ".jpeg": arrays.open_picture,
    ".jpg": arrays.open_picture,
    ".npy": arrays.open_numpy,
    ".npz": arrays.open_numpy,
}
_SAVERS: dict[str, Callable[[Path, Image], None]] = {
    ".nii.gz": lambda path, image: nifti.save_nifti(path, [image]),
    ".nii": lambda path, image: nifti.save_nifti(path, [image]),
    ".tiff": tiff.save_tiff,
    ".tif": tiff.save_tiff,
    ".png": arrays.save_picture,
    ".jpeg": arrays.save_picture,
    ".jpg": arrays.save_picture,
    ".npy": arrays.save_numpy,
    ".npz": arrays.save_numpy,
}
SUPPORTED_SUFFIXES = tuple(_OPENERS)
"""File name endings that can be read and written."""

# What the libraries below raise for a file that is not what its name says, or that stops half way.
_BROKEN = (OSError, EOFError, ValueError, LookupError, TypeError, SyntaxError, struct.error, zlib.error,
           zipfile.BadZipFile, nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError)  # fmt: skip


def suffix_of(path: str | os.PathLike[str]) -> str:
    """The ending of a file name by which its format is known, in lower case, such as ``.nii.gz``.

    Raises
    ------
    InputError
        If it is none of :data:`SUPPORTED_SUFFIXES`.
    """
    name = Path(path).name.lower()
    for ending in SUPPORTED_SUFFIXES:
        if name.endswith(ending) and name != ending:
            return ending
    raise InputError(
        f"'{Path(path).name}' has no ending that is known here; use one of {', '.join(SUPPORTED_SUFFIXES)}."
    )


def read_image(path: str | os.PathLike[str], frame: int | None = None) -> Image:
    """Read one image with its place in the world.

    Parameters
    ----------
    path
        A NIfTI, TIFF, PNG, JPEG or NumPy file.
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
        raise InputError(f"'{path.name}' has {content.frames} frame(s), counted from 0; there is no frame {frame}.")
    with _explained(path):
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
    return read_frames(path, read_content(path))


def read_frames(path: str | os.PathLike[str], content: FileContent) -> list[Image]:
    """Load every frame of a file that :func:`read_content` opened."""
    path = Path(path)
    with _explained(path):
        return [_image(path, content, frame) for frame in range(content.frames)]


def read_content(path: str | os.PathLike[str]) -> FileContent:
    """Open a file without loading its voxels, for who must know about frames and labels beforehand.

    Raises
    ------
    InputError
        As :func:`read_image` does.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"'{path.name}' is a folder; name the image file itself.")
    opener = _OPENERS[suffix_of(path)]
    if not path.exists():
        raise InputError(f"'{path}' does not exist.")
    with _explained(path):
        if path.stat().st_size == 0:
            raise InputError(f"'{path.name}' is empty (0 bytes).")
        return opener(path)


def write_image(path: str | os.PathLike[str], image: Image) -> None:
    """Write an image in the format that the name ends in.

    NIfTI keeps its whole place in the world, and the axis order and header of the NIfTI file that it came from; TIFF
    keeps it too, though other programs understand only voxel size and unit; PNG, JPEG and NumPy keep the values alone.
    A file of that name is replaced once the new one is complete.

    Raises
    ------
    InputError
        If the format is unknown or cannot hold the image, or the file cannot be written.
    """
    path = Path(path)
    saver = _SAVERS[suffix_of(path)]
    with atomic_path(path) as part:
        saver(part, image)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Whatever goes wrong in the block, told in one sentence."""
    try:
        yield
    except RegistrationError:
        raise
    except PermissionError as error:
        raise InputError(f"'{path.name}' may not be read: permission denied.") from error
    except _BROKEN as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise InputError(
            f"'{path.name}' cannot be read; it is incomplete or not a {suffix_of(path)} file ({reason})."
        ) from error


def _image(path: Path, content: FileContent, frame: int) -> Image:
    name = path.name[: -len(suffix_of(path))]
    image = content_image(content, f"{name} [{frame}]" if content.frames > 1 else name, frame)
    return image.replace(metadata={"path": str(path), **image.metadata})


def content_image(content: FileContent, name: str, frame: int = 0) -> Image:
    """Load one frame of an open file."""
    return Image(usable(content.load(frame)), content.grid, name=name, rgb=content.rgb, metadata=content.metadata)


def usable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array in this machine's byte order and in one piece, as torch wants it."""
    if array.dtype == np.longdouble:
        array = array.astype(np.float64)
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
