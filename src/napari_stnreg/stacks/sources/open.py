"""Stacks on disk, whatever their format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_stnreg.core.errors import InputError
from napari_stnreg.io.image import SUPPORTED_SUFFIXES, read_image
from napari_stnreg.stacks.sources.base import Array, StackSource, Window, check_stack
from napari_stnreg.stacks.sources.folder import open_folder
from napari_stnreg.stacks.sources.tiff import open_tiff
from napari_stnreg.stacks.sources.zarr import open_zarr


def open_path(path: Path, *, level: int = 0, channel: int | None = None) -> StackSource:
    """Open a stack on disk, whatever it is; see :func:`napari_stnreg.stacks.sources.base.open_stack`.

    Raises
    ------
    InputError
        If it is missing or no stack.
    """
    path = Path(path).absolute()
    if not path.exists():
        raise InputError(f"'{path}' does not exist.")
    if path.is_dir():
        if any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zarray", ".zattrs")):
            return open_zarr(path, level=level, channel=channel)
        return open_folder(path)
    name = path.name.lower()
    if name.endswith((".tif", ".tiff")):
        return open_tiff(path, channel=channel)
    if name.endswith(".npy"):
        return open_npy(path)
    if name.endswith(SUPPORTED_SUFFIXES):
        from napari_stnreg.stacks.sources.base import open_stack

        return open_stack(read_image(path), channel=channel)
    raise InputError(f"'{path.name}' is no stack that can be read: give OME-Zarr, TIFF, .npy or a folder of images.")


@dataclass(frozen=True, eq=False)
class NpySource(StackSource):
    """A ``.npy`` file, read through the file system's own cache."""

    def _load(self, z: int, window: Window) -> Array:
        return np.asarray(np.load(self.location, mmap_mode="r")[(z, *window)])


def open_npy(path: Path) -> NpySource:
    """Open an array ``(z, y, x)`` in a ``.npy`` file.

    Raises
    ------
    InputError
        If it is broken or no stack.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"'{path.name}' cannot be read; it is incomplete or not a .npy file.") from error
    check_stack(array.shape, array.dtype, path.name)
    shape = (int(array.shape[0]), int(array.shape[1]), int(array.shape[2]))
    return NpySource(shape, array.dtype, name=path.stem, location=str(path))
