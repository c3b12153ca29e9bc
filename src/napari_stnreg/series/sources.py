"""Time series whose frames are read one at a time, from arrays and files."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.io import image as image_files
from napari_stnreg.io import tiff
from napari_stnreg.io.conversion import as_image, override_geometry
from napari_stnreg.io.ome_zarr import open_node

Array = npt.NDArray[Any]

SeriesLike = Any
"""What :func:`open_series` accepts: an array, a list of images, a path, or a :class:`Series`."""

_DEFAULT_AXES = {3: "tyx", 4: "tzyx"}


@dataclass(frozen=True)
class Series:
    """Frames on one grid, read on demand.

    Parameters
    ----------
    load
        Return a frame by its index as an image.
    count
        Number of frames.
    name
        Name in results and messages.
    interval
        Time between frames.
    path
        File of the series, if there is one.
    """

    load: Callable[[int], Image]
    count: int
    name: str = "series"
    interval: float = 1.0
    path: Path | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Image:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.load(index)

    def __iter__(self) -> Iterator[Image]:
        return (self.load(index) for index in range(self.count))


def open_series(
    series: SeriesLike,
    *,
    axes: str | None = None,
    spacing: float | Sequence[float] | None = None,
    unit: str | None = None,
) -> Series:
    """Open a time series without loading its frames.

    Parameters
    ----------
    series
        An array ``(t, y, x)`` or ``(t, z, y, x)`` of any kind that can be indexed (NumPy, dask, zarr, memory map), a
        list of images, a TIFF, NIfTI or NumPy file, an OME-Zarr folder, or a :class:`Series`.
    axes
        Letters of the array's axes, such as ``"tcyx"`` or ``"tyxc"``, if they are others.
    spacing, unit
        Voxel size in (z, y, x) order and unit, which override those of the series.

    Raises
    ------
    InputError
        If there are no frames, or the axes cannot be understood.
    """
    if isinstance(series, Series):
        opened = series
    elif isinstance(series, str | os.PathLike):
        opened = _open_path(Path(series), axes)
    elif isinstance(series, list | tuple):
        images = [as_image(one) for one in series]
        opened = Series(images.__getitem__, len(images), images[0].name if images else "series")
    elif hasattr(series, "shape") and hasattr(series, "__getitem__"):
        opened = _of_array(series, axes, None, "series")
    else:
        raise InputError(f"A {type(series).__name__} is not a time series. Give an array, a list of images or a path.")
    if len(opened) < 1:
        raise InputError(f"'{opened.name}' has no frames.")
    if spacing is None and unit is None:
        return opened
    return replace(opened, load=lambda index: override_geometry(opened.load(index), spacing, unit))


def _of_array(
    array: Any, axes: str | None, grid: Grid | None, name: str, interval: float = 1.0, path: Path | None = None,
    rgb: bool = False, metadata: dict[str, Any] | None = None,
) -> Series:  # fmt: skip
    shape = tuple(int(n) for n in array.shape)
    letters = (axes or _DEFAULT_AXES.get(len(shape), "")).lower()
    if len(letters) != len(shape) or set(letters) - set("tczyx") or len(set(letters)) < len(letters):
        raise InputError(
            f"'{name}' has shape {shape}. Say what its axes are with axes='tyx', 'tzyx', 'tcyx', 'tyxc' or others."
        )
    if not {"t", "y", "x"} <= set(letters):
        missing = ", ".join({"t": "time"}.get(one, one) for one in "tyx" if one not in letters)
        raise InputError(f"'{name}' has the axes '{letters}' and no {missing}, so it has no frames to register.")
    time_axis = letters.index("t")
    rest = letters.replace("t", "")
    order = [rest.index(letter) for letter in "zyxc" if letter in rest]
    sizes = dict(zip(letters, shape, strict=True))
    spatial = tuple(sizes[letter] for letter in "zyx" if letter in sizes)
    place = grid or Grid.from_spacing(spatial)
    if place.shape != spatial:
        raise InputError(f"'{name}' has frames of shape {spatial} on a grid {place.shape}.")
    color = rgb or ("c" in rest and letters[-1] == "c" and sizes["c"] in (3, 4) and array.dtype == np.uint8)

    def load(index: int) -> Image:
        data = np.asarray(array[(slice(None),) * time_axis + (index,)]).transpose(order)
        # the whole series, not one frame, is what the metadata describe
        return Image(image_files.usable(data), place, name=f"{name} [{index}]", rgb=color, metadata=metadata or {})

    return Series(load, sizes["t"], name, interval, path)


def _open_path(path: Path, axes: str | None) -> Series:
    if not path.exists():
        raise InputError(f"'{path}' does not exist.")
    if path.is_file() and path.name.lower().endswith((".tif", ".tiff")):
        return _open_tiff(path, axes)
    if path.is_dir() and axes is not None:
        return _of_array(open_node(path), axes, None, path.name.removesuffix(".zarr"), path=path)
    content = image_files.read_content(path)
    name = path.name.removesuffix(image_files.suffix_of(path)) if path.is_file() else path.name.removesuffix(".zarr")
    if content.frames > 1 and axes is None:
        return Series(
            lambda index: image_files.content_image(content, f"{name} [{index}]", index),
            content.frames, name, content.interval, path,
        )  # fmt: skip
    whole = content.load(0)
    if content.frames > 1:
        whole = np.stack([content.load(index) for index in range(content.frames)])
    is_plain = path.suffix.lower() in (".npy", ".npz") and whole.ndim == 3 and not content.channels
    if axes is None and not is_plain:
        raise InputError(f"'{path.name}' is a single image, not a time series. If it is one, name its axes.")
    return _of_array(whole, axes, None, name, path=path)


def _open_tiff(path: Path, axes: str | None) -> Series:
    """Open a TIFF series; pages without a named axis are frames."""
    name = path.name[: -len(image_files.suffix_of(path))]
    try:
        with tifffile.TiffFile(path) as file:
            pages = tiff.first_series(file)
            letters = axes or pages.axes.translate(str.maketrans("QIS", "TTC")).lower()
            spacing, unit, own = tiff.calibration(file)
            interval = float((file.imagej_metadata or {}).get("finterval", 1.0) or 1.0)
            color = "S" in pages.axes
            shape = pages.shape
    except (OSError, ValueError, IndexError, tifffile.TiffFileError) as error:
        raise InputError(f"'{path.name}' cannot be read as TIFF: {error}.") from error
    if "t" not in letters and letters == "zyx" and own is None:
        raise InputError(
            f"'{path.name}' has the axes z, y, x and no time. If its slices are frames, say so with axes 'tyx'."
        )
    import zarr

    store: Any = tifffile.imread(path, aszarr=True)
    stored: Any = zarr.open_array(store, mode="r")
    if len(letters) != len(shape):
        raise InputError(f"'{path.name}' has {len(shape)} axes of shape {shape}, and '{letters}' names {len(letters)}.")
    values, letters = _without_single_axes(stored, letters)
    weakref.finalize(values, store.close)
    sizes = dict(zip(letters, values.shape, strict=True))
    spatial = tuple(sizes[letter] for letter in "zyx" if letter in sizes)
    grid = None
    if len(spatial) in (2, 3):
        grid = own if own is not None and own.shape == spatial else Grid.from_spacing(
            spatial, spacing[-len(spatial) :], unit=unit
        )  # fmt: skip
    return _of_array(values, letters, grid, name, interval, path, color)


class _SingleAxesRemoved:
    """An array with some axes of length one left out, read lazily."""

    def __init__(self, array: Any, kept: list[int]) -> None:
        self._array, self._kept = array, kept
        self.shape = tuple(array.shape[axis] for axis in kept)
        self.dtype = array.dtype

    def __getitem__(self, key: tuple[Any, ...]) -> Array:
        full: list[Any] = [0] * len(self._array.shape)
        for axis in self._kept:
            full[axis] = slice(None)
        for axis, one in zip(self._kept, key, strict=False):
            full[axis] = one
        return np.asarray(self._array[tuple(full)])


def _without_single_axes(array: Any, letters: str) -> tuple[Any, str]:
    kept = [axis for axis, n in enumerate(array.shape) if n > 1 or letters[axis] in "tyx"]
    return _SingleAxesRemoved(array, kept), "".join(letters[axis] for axis in kept)
