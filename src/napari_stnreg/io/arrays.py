"""Pictures (PNG, JPEG) and NumPy files: arrays without a position in the world."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import imageio.v3 as imageio
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.file_errors import LARGEST_DEFLATE_RATIO, check_declared_size
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.io.file_content import FileContent, check_memory

_PILLOW_PIXELS = 80_000_000
"""Larger pictures are decoded without Pillow, which warns of them from 89 million pixels on."""


def open_picture(path: Path) -> FileContent:
    """Open a PNG or JPEG file: gray, or with channels; one pixel is one unit."""
    array = _large_png(path)
    if array is None:
        with PillowImage.open(path) as picture:
            mode, frames = picture.mode, int(getattr(picture, "n_frames", 1))
        if mode == "CMYK":
            raise InputError(f"'{path.name}' holds CMYK colors of a printer. Convert it to RGB or gray first.")
        if frames > 1:
            raise InputError(f"'{path.name}' is an animation of {frames} frames. Save it as TIFF.")
        array = np.asarray(imageio.imread(path, plugin="pillow", rotate=True))  # upright, as its EXIF data say
    if array.ndim == 3 and array.shape[-1] == 2:
        array = array[..., 0]  # gray with transparency; transparency is no image
    return _plain(array, path)


def open_numpy(path: Path) -> FileContent:
    """Open an ``.npy`` file, or an ``.npz`` with a single array or one called ``image``.

    Two axes are (y, x), three (z, y, x), four (time, z, y, x); a last axis of 3 or 4 bytes is color.

    Raises
    ------
    InputError
        If an archive holds several arrays and none is called ``image``, or the array is not of numbers.
    """
    # Opened here, as numpy leaves a broken archive open.
    with path.open("rb") as file:
        _check_numpy_size(file, path)
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            array = loaded
        else:
            names = list(loaded.files)
            if "image" not in names and len(names) != 1:
                listed = ", ".join(names[:8]) or "nothing"
                raise InputError(f"'{path.name}' holds {listed}. Call the one to read 'image', or save it on its own.")
            array = loaded["image" if "image" in names else names[0]]
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_):
        raise InputError(f"'{path.name}' holds values of type {array.dtype}, which are not an image.")
    return _plain(array, path)


def save_picture(path: Path, image: Image) -> None:
    """Write a 2D image of whole numbers as PNG or JPEG; its place in the world is not kept.

    Raises
    ------
    InputError
        If the format cannot hold the image's axes, type or channels.
    """
    data = np.asarray(image.data)
    jpeg = path.suffix.lower() != ".png"
    allowed: tuple[type[Any], ...] = (np.uint8,) if jpeg else (np.uint8, np.uint16, np.bool_)
    if image.ndim != 2:
        raise InputError(
            f"'{image.name}' is 3D, and a {path.suffix} file holds 2D images. Write a .tif or .nii.gz instead."
        )
    if data.dtype not in allowed or (image.has_channel_axis and data.dtype != np.uint8):
        raise InputError(
            f"'{image.name}' holds values of type {data.dtype}, which a {path.suffix} file cannot keep. "
            "Write a .tif, or convert it to uint8 first."
        )
    if image.has_channel_axis and image.channels not in ((3,) if jpeg else (3, 4)):
        raise InputError(f"'{image.name}' has {image.channels} channels, which a {path.suffix} file cannot hold.")
    if data.dtype == np.bool_:
        data = data.astype(np.uint8) * 255
    if jpeg:
        imageio.imwrite(path, data, plugin="pillow", quality=95)
    else:
        imageio.imwrite(path, data, plugin="pillow")


def save_numpy(path: Path, *images: Image) -> None:
    """Write the bare array, with time in front for several frames, as ``.npy`` or as ``image`` of an ``.npz``."""
    arrays = [np.asarray(image.data) for image in images]
    data = arrays[0] if len(arrays) == 1 else np.stack(arrays)
    if path.suffix.lower() == ".npz":
        np.savez_compressed(path, image=data)
    else:
        np.save(path, data, allow_pickle=False)


def _check_numpy_size(file: BinaryIO, path: Path) -> None:
    """Hold the sizes that the headers declare against the bytes that are there."""
    if path.suffix.lower() == ".npz":
        with zipfile.ZipFile(file) as archive:
            for one in archive.infolist():
                check_declared_size(path.name, one.file_size, one.compress_size, ratio=LARGEST_DEFLATE_RATIO)
                check_memory(path.name, one.file_size)
                with archive.open(one) as member:
                    _check_array_size(member, path.name, one.file_size)
    else:
        _check_array_size(file, path.name, path.stat().st_size)
    file.seek(0)


def _check_array_size(stream: Any, name: str, stored: int) -> None:
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(stream)
    check_declared_size(name, float(np.prod(shape, dtype=np.float64)) * dtype.itemsize, stored)


def _large_png(path: Path) -> npt.NDArray[Any] | None:
    """Decode a PNG that Pillow refuses for its size or reduces from 16 to 8 bits; ``None`` for all others."""
    with path.open("rb") as stream:
        head = stream.read(26)
    if len(head) < 26 or not head.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    width, height, depth, color = struct.unpack(">IIBB", head[16:26])
    if width * height <= _PILLOW_PIXELS and (depth < 16 or color == 0):
        return None
    check_memory(path.name, width * height * (depth // 8 or 1) * {2: 3, 4: 2, 6: 4}.get(color, 1))
    import imagecodecs

    try:
        return np.asarray(imagecodecs.png_decode(path.read_bytes()))
    except Exception as error:  # a decoder's own exception class
        raise InputError(f"'{path.name}' cannot be read. It is incomplete or not a PNG file.") from error


def _plain(array: npt.NDArray[Any], path: Path) -> FileContent:
    color = array.ndim > 2 and array.shape[-1] in (3, 4) and array.dtype in (np.uint8, np.uint16)
    color = color and (array.dtype == np.uint8 or path.suffix.lower() == ".png")
    spatial = array.ndim - color
    if not 2 <= spatial <= 4:
        raise InputError(f"'{path.name}' has {array.ndim} axes. Images have two or three axes, and one more for time.")
    shape = array.shape[:spatial]
    timed = spatial == 4
    grid = Grid.from_spacing(shape[1:] if timed else shape)
    return FileContent.of_array(array, first_is_time=timed, grid=grid, channels=bool(color), rgb=bool(color))
