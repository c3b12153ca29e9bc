"""Open a stack: an array, an image, or a path in any supported format."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

import numpy as np

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.image import Image
from napari_stnreg.core.units import canonical
from napari_stnreg.io.conversion import as_image
from napari_stnreg.io.formats import is_url
from napari_stnreg.io.image import SUPPORTED_SUFFIXES, read_image
from napari_stnreg.stacks.sources.base import Array, StackSource, Window, check_spacing, check_stack, from_array
from napari_stnreg.stacks.sources.folder import open_folder
from napari_stnreg.stacks.sources.tiff import open_tiff
from napari_stnreg.stacks.sources.zarr import open_zarr

_FOREIGN_IMAGES = ("nibabel", "SimpleITK", "xarray", "torch", "napari")
"""Packages whose images are converted; arrays of other packages are read section by section."""


def open_stack(
    stack: Any,
    *,
    level: int = 0,
    channel: int | None = None,
    pattern: str | None = None,
    spacing: float | Sequence[float] | None = None,
    unit: str | None = None,
) -> StackSource:
    """Open a stack whose sections are read when they are needed.

    Parameters
    ----------
    stack
        An array ``(z, y, x)`` (NumPy, Dask, Zarr); a 3D image of any kind that :func:`~napari_stnreg.as_image` takes;
        a source; or a path: an OME-Zarr or Zarr folder, a multi-page or OME TIFF, a ``.npy`` file, a folder with one
        image for each section, or a 3D image in another format, which is read at once. An OME-Zarr may also be a URL
        of fsspec, such as ``s3://bucket/stack.zarr``.
    level
        Resolution level of an OME-Zarr; 0 is the finest. Other stacks have one level and ignore it.
    channel
        Channel, if there are several. By default the first one of an OME-Zarr, TIFF, or folder, which is announced,
        and the luminance or mean of the channels of an image. In a folder, channels may be separate files, such as
        ``s1_DAPI.tif`` and ``s1_GFP.tif``.
    pattern
        Names of the files of a folder that are sections, such as ``"*_DAPI.tif"``. Without it, sections are
        distinguished from channels, masks and overviews by their names.
    spacing, unit
        Replace the values of the file.

    Raises
    ------
    InputError
        If the stack does not exist or cannot be read.
    """
    source: StackSource
    if isinstance(stack, StackSource):
        source = stack
    elif isinstance(stack, str | os.PathLike):
        source = _open_path(stack, level, channel, pattern)
    elif isinstance(stack, Image):
        data = stack.intensity(channel) if stack.has_channel_axis else stack.data
        source = from_array(data, tuple(stack.grid.spacing), stack.grid.unit, stack.name)
        if np.allclose(stack.grid.linear, np.diag(stack.grid.spacing)):
            z, y, x = stack.grid.origin.tolist()
            source = dataclasses.replace(source, origin=(z, y, x))
    elif type(stack).__module__.split(".")[0] in _FOREIGN_IMAGES:
        return open_stack(as_image(stack), channel=channel, spacing=spacing, unit=unit)
    else:
        source = from_array(stack)
    if spacing is not None or unit is not None:
        sizes = np.broadcast_to(np.asarray(source.spacing if spacing is None else spacing, dtype=np.float64), (3,))
        check_spacing(sizes, source.name)
        source = dataclasses.replace(
            source, spacing=(float(sizes[0]), float(sizes[1]), float(sizes[2])), unit=canonical(unit or source.unit)
        )
    return source


def _open_path(given: str | os.PathLike[str], level: int, channel: int | None, pattern: str | None) -> StackSource:
    if is_url(given):
        scheme, _, rest = str(given).partition("://")
        if scheme != "file":
            if not rest.strip("/"):
                raise InputError(f"'{given}' is not a Zarr store. Name the store, such as s3://bucket/stack.zarr.")
            return open_zarr(str(given).rstrip("/"), level=level, channel=channel)
        given = url2pathname(rest)
    path = Path(given).absolute()
    if not path.exists():
        raise InputError(f"'{path}' does not exist.")
    if path.is_dir():
        if any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zarray", ".zattrs")):
            return open_zarr(path, level=level, channel=channel)
        return open_folder(path, channel=channel, pattern=pattern)
    name = path.name.lower()
    if name.endswith((".tif", ".tiff")):
        return open_tiff(path, channel=channel)
    if name.endswith(".npy"):
        return open_npy(path)
    if name.endswith(SUPPORTED_SUFFIXES):
        return dataclasses.replace(open_stack(read_image(path), channel=channel), location=str(path))
    raise InputError(f"'{path.name}' is not a supported stack. Give an OME-Zarr, TIFF, .npy or a folder of images.")


@dataclasses.dataclass(frozen=True, eq=False)
class NpySource(StackSource):
    """A ``.npy`` file, read through a memory map."""

    def _load(self, z: int, window: Window) -> Array:
        return np.asarray(np.load(self.location, mmap_mode="r")[(z, *window)])


def open_npy(path: Path) -> NpySource:
    """Open an array ``(z, y, x)`` in a ``.npy`` file.

    Raises
    ------
    InputError
        If it is damaged or not a stack.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"'{path.name}' cannot be read. It is incomplete or not a .npy file.") from error
    check_stack(array.shape, array.dtype, path.name)
    shape = (int(array.shape[0]), int(array.shape[1]), int(array.shape[2]))
    return NpySource(shape, array.dtype, name=path.stem, location=str(path))
