"""TIFF files: stacks, colors and channels, with the pixel size that ImageJ and OME put into them.

What ImageJ's fields cannot say (an origin, a rotation, an unusual type) is kept beside them in the image description
as this package's own grid, so that nothing is lost between two of our runs.
"""

from __future__ import annotations

import json
import math
import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from napari_stnreg.core.errors import InputError, announce
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.units import canonical, conversion_factor
from napari_stnreg.io.file_content import FileContent, check_memory
from napari_stnreg.io.formats import file_and_level

_GRID_KEY = "stnreg_grid"
# Types that Fiji shows calibrated; others go into a TIFF with its shape in a JSON description.
_OME_TYPES = (np.uint8, np.uint16, np.uint32, np.int8, np.int16, np.int32, np.float32, np.float64)
_OME_UNITS = {"um": "µm", "angstrom": "Å", "inch": "in"}
_IMAGEJ_TYPES = (np.uint8, np.uint16, np.float32)
_UNKNOWN_AXES = str.maketrans("QI", "ZZ")
_CHUNK = 2048
_SHOWN_WHOLE = 4096
"""Sides up to which a plane needs no coarser resolution to be shown."""
LAZY_BYTES = 2**28
"""Images above this size are read in napari as they are shown, at the resolution that is shown."""


def open_tiff(path: Path) -> FileContent:
    """Open the first series of a TIFF file; pixels are loaded frame by frame on request.

    Parameters
    ----------
    path
        The file, or ``image.tif/2`` for a coarser resolution: level 2 of a pyramid, or 1/4 of the pixels along y and x.

    Raises
    ------
    InputError
        If the axes are none of time, z, channel, y, x, if there are both frames and too many other axes, or if the
        coarser resolution has no pixels left.
    """
    path, coarser = file_and_level(path)
    with tifffile.TiffFile(path) as tif:
        series = first_series(tif)
        _check_complete(tif, series, 4.0**coarser)
        page: Any = series.keyframe
        _check_kind(page, path.name)
        is_color = page.photometric.name in ("RGB", "YCBCR", "PALETTE", "CIELAB")
        if len(tif.series) > 1:
            announce(f"'{path.name}' holds {len(tif.series)} images. The first one is read.")
        spacing, unit, own = calibration(tif)
        stored, sizes = str(series.axes), tuple(int(n) for n in series.shape)
        # What one pixel becomes, with its axes.
        one = np.zeros([n if axis == "S" else 1 for axis, n in zip(stored, sizes, strict=True)], series.dtype)
        pixel, seen = _as_seen(one, stored, page)
        is_plain = pixel.dtype == series.dtype and seen == stored and page.photometric.name != "MINISWHITE"
        n_levels = len(series.levels)

    size = dict(zip(stored, sizes, strict=True)) | ({"S": pixel.shape[seen.index("S")]} if "S" in seen else {})
    axes = "".join(axis for axis in seen if size[axis] > 1 or axis in "YX")
    # Q and I are pages without a stated meaning: as everywhere, slices along z.
    letters = axes.translate(_UNKNOWN_AXES)
    if set(letters) - set("TZCYXS") or len(set(letters)) < len(letters) or {"C", "S"} <= set(letters):
        raise InputError(f"'{path.name}' has the axes {letters}. TIFF images may have time, z, y, x and channels.")
    length = {letter: size[axis] for letter, axis in zip(letters, axes, strict=True)}
    order = [axis for axis in "ZYXCS" if axis in letters]
    channels = order[-1] in "CS"
    shape = tuple(length[axis] for axis in order if axis in "ZYX")
    frames = length.get("T", 1)
    grid = Grid.from_spacing(shape, spacing[-len(shape) :], unit=unit)
    if own is not None and own.shape == shape:
        grid = own
    n_bytes = float(np.prod(sizes, dtype=np.float64)) * pixel.dtype.itemsize
    one_level = _TiffLevel(path, coarser, stored) if coarser else None
    if one_level is not None:
        if not is_plain:
            raise InputError(f"'{path.name}' cannot be read at a coarser resolution. Convert it to gray or RGB first.")
        grid = _coarser_grid(grid, [one_level.length(axis) for axis in "ZYX"[-grid.ndim :]])

    def load(frame: int) -> npt.NDArray[Any]:
        with tifffile.TiffFile(path) as tif:
            series = first_series(tif)
            if frames > 1 or one_level is not None:
                index = tuple(slice(frame, frame + 1) if axis == "T" else slice(None) for axis in stored)
                array = (one_level or _TiffLevel(path, 0, stored))[index]
            else:
                array = series.asarray().reshape(sizes)
            array, now = _as_seen(array, stored, series.keyframe)
        kept = [i for i, axis in enumerate(now) if axis in axes and axis != "T"]
        named = "".join(now[i] for i in kept).translate(_UNKNOWN_AXES)
        array = array.reshape([array.shape[i] for i in kept])
        return np.asarray(array.transpose([named.index(axis) for axis in order]))

    def levels() -> list[Any]:
        """Return the pyramid of the file as Dask arrays that read the pixels that are shown."""
        import dask.array

        rgb = channels and is_color and length[order[-1]] in (3, 4)
        shown = [axis for axis in ("TZYX" if rgb else "CSTZYX") if axis in letters] + [order[-1]] * rgb
        found = []
        for level in range(max(n_levels, _levels_shown(length["Y"], length["X"]) if n_levels == 1 else 0)):
            one = _TiffLevel(path, level, stored)
            chunks = tuple(min(n, _CHUNK) if axis in "YXS" else 1 for axis, n in zip(stored, one.shape, strict=True))
            whole = dask.array.from_array(one, chunks=chunks, asarray=False)
            whole = whole[tuple(slice(None) if axis in axes else 0 for axis in stored)]
            named = "".join(axis for axis in stored if axis in axes).translate(_UNKNOWN_AXES)
            found.append(whole.transpose([named.index(axis) for axis in shown]))
        return found

    return FileContent(
        load,
        grid,
        frames=frames,
        channels=channels,
        rgb=order[-1] == "S" and is_color and length["S"] in (3, 4),
        levels=levels if is_plain and n_bytes > LAZY_BYTES and not coarser else None,
    )


class _TiffLevel:
    """One resolution of the first series of a file as an array, whose file is open only while pixels are read.

    A level beyond those of the file is the mean over blocks of its coarsest one along y and x, made from the regions
    that are read.
    """

    def __init__(self, path: Path, level: int, axes: str) -> None:
        self.path, self.axes = path, axes
        with tifffile.TiffFile(path) as tif:
            found = first_series(tif).levels
            self.level = min(level, len(found) - 1)
            series = found[self.level]
            stored = tuple(int(n) for n in series.shape)
            self.dtype, self.ndim = series.dtype, len(stored)
            # Plain pixels are mapped into memory; their only chunk may be the whole plane.
            self._mapped = (
                None if series.dataoffset is None else (f"{tif.byteorder}{series.dtype.char}", series.dataoffset)
            )
        self.factor = 2 ** (level - self.level)
        self._stored = stored
        self.shape = tuple(-(-n // self.factor) if a in "YX" else n for a, n in zip(axes, stored, strict=True))
        if min(self.length(axis) for axis in "YX") < 2:
            raise InputError(f"'{path.name}' has no resolution {level}: no pixels are left.")

    def length(self, axis: str) -> int:
        """Return the number of voxels along an axis; 1 if there is none."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        import zarr

        if self._mapped is not None:
            kind, offset = self._mapped
            return self._region(np.memmap(self.path, dtype=kind, mode="r", offset=offset, shape=self._stored), index)
        with tifffile.TiffFile(self.path) as tif, first_series(tif).aszarr(level=self.level) as store:
            return self._region(zarr.open_array(store, mode="r"), index)

    def _region(self, array: Any, index: Any) -> npt.NDArray[Any]:
        if self.factor > 1:
            return self._reduced(array, index if isinstance(index, tuple) else (index,))
        return np.array(array[index], dtype=self.dtype)

    def _reduced(self, array: Any, index: tuple[Any, ...]) -> npt.NDArray[Any]:
        """Average blocks of a region, in strips, so that no more than a few full rows are in memory."""
        full = [*index, *[slice(None)] * (self.ndim - len(index))]
        row, column = self.axes.index("Y"), self.axes.index("X")
        ranges = {at: range(*full[at].indices(self.shape[at])) for at in (row, column)}
        rows = max(_CHUNK // self.factor, 1)
        kept = [at for at, one in enumerate(full) if isinstance(one, slice)]
        y, x = kept.index(row), kept.index(column)
        fine = list(full)
        fine[column] = self._fine(column, ranges[column])
        strips = []
        for start in range(ranges[row].start, ranges[row].stop, rows):
            fine[row] = self._fine(row, range(start, min(start + rows, ranges[row].stop)))
            strips.append(_block_means(np.asarray(array[tuple(fine)], dtype=self.dtype), (y, x), self.factor))
        return np.concatenate(strips, axis=y)

    def _fine(self, at: int, wanted: range) -> slice:
        return slice(wanted.start * self.factor, min(wanted.stop * self.factor, self._stored[at]))


def _block_means(array: npt.NDArray[Any], axes: tuple[int, int], factor: int) -> npt.NDArray[Any]:
    """Average blocks along two axes, in the type of the array; blocks at the end may be incomplete."""
    means = array.astype(np.float64 if array.dtype.itemsize > 2 else np.float32)
    for axis in axes:
        starts = np.arange(0, array.shape[axis], factor)
        counts = np.diff([*starts, array.shape[axis]]).reshape([-1 if i == axis else 1 for i in range(array.ndim)])
        means = np.add.reduceat(means, starts, axis=axis) / counts
    return (np.rint(means) if array.dtype.kind in "ui" else means).astype(array.dtype)


def _levels_shown(height: int, width: int) -> int:
    """Return the number of resolutions with which a large plane is shown."""
    return 1 + max(math.ceil(math.log2(max(height, width, 1) / _SHOWN_WHOLE)), 0)


def _coarser_grid(grid: Grid, shape: list[int]) -> Grid:
    """Return the grid of a coarser resolution, whose voxels are means over those of the finest one."""
    factors = [max(round(a / b), 1) for a, b in zip(grid.shape, shape, strict=True)]
    whole = grid.cropped([0] * grid.ndim, [n * factor for n, factor in zip(shape, factors, strict=True)])
    return whole.resized(shape)


def tiff_axes(path: str, shape: tuple[int, ...]) -> str:
    """Return the letters of the axes of a TIFF file's first image, if an array of this shape was read from it."""
    if not path.lower().endswith((".tif", ".tiff")):
        return ""
    try:
        return _axes_of_file(path, Path(path).stat().st_mtime_ns, shape)
    except OSError:
        return ""


@lru_cache(maxsize=64)
def _axes_of_file(path: str, changed: int, shape: tuple[int, ...]) -> str:
    try:
        with tifffile.TiffFile(path) as tif:
            series = first_series(tif)
            axes, sizes = str(series.axes), tuple(int(n) for n in series.shape)
    except Exception:  # a parser; whoever reads the pixels reports what is wrong
        return ""
    if sizes != shape:  # napari leaves out axes of length one
        kept = [i for i, n in enumerate(sizes) if n > 1]
        axes, sizes = "".join(axes[i] for i in kept), tuple(sizes[i] for i in kept)
    return axes if sizes == shape else ""


def _check_kind(page: Any, name: str) -> None:
    """Refuse what would be read quietly wrong."""
    if page.photometric.name == "SEPARATED":
        raise InputError(f"'{name}' holds CMYK colors of a printer. Convert it to RGB or gray first.")
    tag = page.tags.get("Orientation")
    if tag is not None and int(tag.value) not in (0, 1):
        raise InputError(
            f"'{name}' is stored rotated or mirrored (orientation {int(tag.value)}). Save it upright first."
        )


def _as_seen(array: npt.NDArray[Any], axes: str, page: Any) -> tuple[npt.NDArray[Any], str]:
    """Convert stored to displayed values: 0 is black, palettes become colors, gray images lose their alpha."""
    kind = page.photometric.name
    if kind == "MINISWHITE" and array.dtype.kind in "ub":
        white = array.dtype.type(2 ** min(int(page.bitspersample), 8 * array.dtype.itemsize) - 1)
        array = ~array if array.dtype == np.bool_ else white - array
    elif kind == "PALETTE" and page.colormap is not None and "S" not in axes:
        table = (np.asarray(page.colormap).T >> 8).astype(np.uint8)
        if (table == table[:, :1]).all():
            array = table[:, 0][array]
        else:
            array, axes = table[array], axes + "S"
    if kind in ("MINISBLACK", "MINISWHITE") and "S" in axes:
        where = axes.index("S")
        if array.shape[where] == 2 and any(int(one) in (1, 2) for one in page.extrasamples):
            array, axes = array.take(0, axis=where), axes.replace("S", "")
    return array, axes


def save_tiff(path: Path, first: Image, *others: Image) -> None:
    """Write an image with its voxel size, unit and place; ImageJ's own form where it has the type.

    Further images on the same grid make it a time series, in ImageJ's order.

    Raises
    ------
    InputError
        If the values are complex.
    """
    arrays = [np.asarray(image.data) for image in (first, *others)]
    data = np.stack(arrays) if others else arrays[0]
    if np.iscomplexobj(data):
        raise InputError(f"'{first.name}' holds complex numbers, which TIFF does not: write its magnitude.")
    if data.dtype == np.bool_:
        data = data.astype(np.uint8)
    elif data.dtype == np.float16:
        data = data.astype(np.float32)
    axes = ("T" if others else "") + "ZYX"[-first.ndim :]
    photometric = "minisblack"
    if first.has_channel_axis and first.rgb and data.dtype == np.uint8:
        axes, photometric = axes + "S", "rgb"
    elif first.has_channel_axis:
        axes, data = axes[:-2] + "C" + axes[-2:], np.moveaxis(data, -1, -3)

    spacing = first.grid.spacing
    unit = canonical(first.grid.unit).encode("ascii", "ignore").decode()  # all that ImageJ's description may hold
    metadata: dict[str, Any] = {"axes": axes, "unit": unit, _GRID_KEY: json.dumps(first.grid.to_dict())}
    if first.ndim == 3:
        metadata["spacing"] = float(spacing[0])
    tifffile.imwrite(
        path,
        np.ascontiguousarray(data),
        imagej=data.dtype in _IMAGEJ_TYPES,
        photometric=photometric,
        resolution=(1 / float(spacing[-1]), 1 / float(spacing[-2])),
        resolutionunit="NONE",
        metadata=metadata,
        compression=None,
    )


def ome_metadata(axes: str, grid: Grid, coordinate_system: str) -> dict[str, Any]:
    """Return what tifffile writes into an OME description: axes, voxel size and unit, and the whole grid."""
    unit = canonical(grid.unit)
    note = {_GRID_KEY: json.dumps(grid.to_dict()), "coordinate_system": coordinate_system}
    metadata: dict[str, Any] = {"axes": axes, "MapAnnotation": {"Namespace": "napari-stnreg", **note}}
    for axis, size in zip("ZYX"[-grid.ndim :], grid.spacing, strict=True):
        metadata[f"PhysicalSize{axis}"] = float(size)
        metadata[f"PhysicalSize{axis}Unit"] = _OME_UNITS.get(unit, unit)
    return metadata


def save_ome_tiff(path: Path, first: Image, *others: Image) -> None:
    """Write an image as OME-TIFF with its voxel size, unit and position; further images make it a time series.

    Raises
    ------
    InputError
        If the values are of a type that OME does not have.
    """
    arrays = [np.asarray(image.data) for image in (first, *others)]
    data = np.stack(arrays) if others else arrays[0]
    if data.dtype == np.float16:
        data = data.astype(np.float32)
    elif data.dtype == np.bool_:
        data = data.astype(np.uint8)
    if data.dtype not in _OME_TYPES:
        raise InputError(f"'{first.name}' holds values of type {data.dtype}, which OME-TIFF does not have.")
    axes = ("T" if others else "") + "ZYX"[-first.ndim :]
    is_color = first.has_channel_axis and first.rgb and data.dtype == np.uint8
    if is_color:
        axes += "S"
    elif first.has_channel_axis:
        axes, data = axes[:-2] + "C" + axes[-2:], np.moveaxis(data, -1, -3)
    metadata = ome_metadata(axes, first.grid, first.coordinate_system)
    tifffile.imwrite(
        path,
        np.ascontiguousarray(data),
        ome=True,
        photometric="rgb" if is_color else "minisblack",
        metadata=metadata,
        compression="zlib",
    )


def calibration(tif: tifffile.TiffFile) -> tuple[tuple[float, float, float], str, Grid | None]:
    """Spacing (z, y, x) and unit that the file states, and the grid that this package wrote, if it did.

    A bare resolution tag is left alone: it is nearly always for a printer, and two photographs at 72 and 300 dots an
    inch are not of different size.
    """
    plain = (1.0, 1.0, 1.0)
    if tif.ome_metadata:
        return *_ome_calibration(tif.ome_metadata), _ome_grid(tif.ome_metadata)
    described: Mapping[str, Any] = tif.imagej_metadata or (tif.shaped_metadata or ({},))[0]
    own = _native_grid(described.get(_GRID_KEY))
    if not tif.imagej_metadata:
        return plain, "pixel", own
    unit = canonical(str(described.get("unit", "")).replace("\\u00B5", "µ"))
    if unit == "pixel":
        return plain, unit, own
    tags = tif.pages.first.tags
    spacing = [_in_unit(float(described.get("spacing", 1.0)) or 1.0, described.get("zunit"), unit)]
    for name in ("YResolution", "XResolution"):
        count, length = tags[name].value if name in tags else (1, 1)
        own_unit = described.get("yunit") if name == "YResolution" else None
        spacing.append(_in_unit(length / count if count and length else 1.0, own_unit, unit))
    return (abs(spacing[0]), spacing[1], spacing[2]), unit, own


def _check_complete(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, reduction: float = 1.0) -> None:
    """Refuse a file that ends before its pixels do, or declares more than it holds; tifffile would fill in zeros."""
    frames = dict(zip(series.axes, series.shape, strict=True)).get("T", 1)
    name = Path(tif.filehandle.path).name
    size = int(series.nbytes / reduction) // max(int(frames), 1)
    if reduction > 1 and series.dataoffset is None:  # a strip or tile is decoded as a whole
        size += int(np.prod(series.keyframe.chunks, dtype=np.float64)) * series.dtype.itemsize
    check_memory(name, size, f"such as {name}/1")
    if not all(has_all_segments(page) for page in series.pages):
        raise ValueError("parts of its pixels are missing")
    if series.dataoffset is not None:
        end = series.dataoffset + series.nbytes
    else:
        pages = [page for page in series.pages if page is not None]
        end = max((o + n for p in pages for o, n in zip(p.dataoffsets, p.databytecounts, strict=False)), default=0)
    promised = int((tif.imagej_metadata or {}).get("images", 1)) * tif.pages.first.size
    if end > tif.filehandle.size or promised > series.size:
        raise ValueError("it ends before its pixels do")


def first_series(tif: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    """Return the first image of a TIFF file.

    Raises
    ------
    ValueError
        If the chain of pages runs in a circle; tifffile would follow it forever, or leave pages out.
    """
    stream, layout = tif.filehandle, tif.tiff
    offset, seen = int(tif.pages.first.offset), set[int]()
    while 0 < offset < stream.size and not tif.is_ndpi:
        if offset in seen:
            raise ValueError("its pages run in a circle")
        seen.add(offset)
        stream.seek(offset)
        count = stream.read(layout.tagnosize)
        if len(count) < layout.tagnosize:
            break
        tags = int(struct.unpack(layout.tagnoformat, count)[0])
        stream.seek(offset + layout.tagnosize + tags * layout.tagsize)
        following = stream.read(layout.offsetsize)
        if len(following) < layout.offsetsize:
            break
        offset = int(struct.unpack(layout.offsetformat, following)[0])
    return tif.series[0]


def has_all_segments(page: Any) -> bool:
    """Return whether a page lists as many strips or tiles as its size needs."""
    if page is None:
        return True  # a page that an OME-TIFF leaves out
    page = getattr(page, "keyframe", page) if not hasattr(page, "chunked") else page
    return int(np.prod(page.chunked, dtype=np.float64)) == len(page.dataoffsets)


def _native_grid(text: object) -> Grid | None:
    if not isinstance(text, str):
        return None
    try:
        return Grid.from_dict(json.loads(text))
    except (ValueError, KeyError, TypeError):
        return None


def _ome_grid(xml: str) -> Grid | None:
    """Read the grid that :func:`save_ome_tiff` wrote into an OME description."""
    try:
        values = ElementTree.fromstring(xml).iterfind(".//{*}MapAnnotation/{*}Value/{*}M")
        return next((_native_grid(one.text) for one in values if one.get("K") == _GRID_KEY), None)
    except ElementTree.ParseError:
        return None


def _ome_calibration(xml: str) -> tuple[tuple[float, float, float], str]:
    """Physical sizes of the first image in an OME description, in the unit of its x axis."""
    try:
        pixels = ElementTree.fromstring(xml).find(".//{*}Pixels")
    except ElementTree.ParseError:
        pixels = None
    known = {} if pixels is None else {axis: _ome_size(pixels, axis) for axis in "ZYX"}
    first = next((axis for axis in "XYZ" if known.get(axis)), None)
    if pixels is None or first is None:
        return (1.0, 1.0, 1.0), "pixel"
    # Micrometers are the format's default unit; an axis without a unit, or without a size, has that of the first.
    unit = canonical(pixels.get(f"PhysicalSize{first}Unit", "um"))
    sizes = []
    for axis in "ZYX":
        own, own_unit = known[axis], pixels.get(f"PhysicalSize{axis}Unit", unit)
        if own is None:
            own, own_unit = known[first] or 1.0, unit
            if int(pixels.get(f"Size{axis}", 1)) > 1:
                announce(
                    f"The file does not state the voxel size along {axis.lower()}. The size along {first.lower()} is "
                    "used."
                )
        sizes.append(_in_unit(own, own_unit, unit))
    return (sizes[0], sizes[1], sizes[2]), unit


def _ome_size(pixels: ElementTree.Element, axis: str) -> float | None:
    """Return the size of a voxel along an axis, ``None`` if the file states none that is positive."""
    try:
        size = abs(float(pixels.get(f"PhysicalSize{axis}", "nan")))
    except ValueError:
        return None
    return size if 0 < size < math.inf else None


def _in_unit(size: float, own: object, unit: str) -> float:
    """Convert a size to a unit; a size in pixels or in an unknown unit is kept, with a message."""
    own = canonical(str(own).replace("\\u00B5", "µ")) if own else unit
    if own == unit:
        return size
    try:
        return size * conversion_factor(own, unit)
    except InputError:
        announce(f"A voxel size is given in '{own}' and another in '{unit}'. The one in '{unit}' is used.")
        return size
