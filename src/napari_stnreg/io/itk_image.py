"""NRRD and MetaImage files through SimpleITK, and the geometry of ITK images."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.file_errors import LARGEST_DEFLATE_RATIO, check_declared_size
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.units import canonical
from napari_stnreg.io.file_content import FileContent, check_memory
from napari_stnreg.io.nifti import AxisOrientation

_NOTE = "napari_stnreg"
_PIECE = 4_000_000
_HEADER_LINE = 65_536
LPS_TO_RAS: FloatArray = np.diag([-1.0, -1.0, 1.0, 1.0])


def simpleitk() -> ModuleType:
    """Import SimpleITK, which takes a moment, without its messages on the screen."""
    module = import_module("SimpleITK")
    module.ProcessObject.SetGlobalWarningDisplay(False)
    return module


def open_itk_image(path: Path) -> FileContent:
    """Open a NRRD or MetaImage file; the header is read, and voxels frame by frame on request.

    Raises
    ------
    InputError
        If the file is damaged, or has other than two or three axes and one for time.
    """
    sitk = simpleitk()
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"'{path.name}' cannot be read. Its header is damaged ({_reason(error)}).") from error
    size = [int(n) for n in reader.GetSize()]
    while len(size) > 3 and size[-1] == 1:
        size.pop()
    ndim = min(len(size), 3)
    if len(size) not in (2, 3, 4):
        raise InputError(f"'{path.name}' has {len(size)} axes. Images have two or three axes, and one more for time.")
    if min(size) < 1:
        raise InputError(f"'{path.name}' is empty: its size is {' x '.join(map(str, size))}.")
    total = len(reader.GetSize())
    direction = np.asarray(reader.GetDirection(), dtype=np.float64).reshape(total, total)[:ndim, :ndim]
    spacing, origin = reader.GetSpacing(), reader.GetOrigin()
    components = int(reader.GetNumberOfComponents())
    itemsize = _itemsize(sitk.GetPixelIDValueAsString(reader.GetPixelID()))
    check_memory(path.name, int(np.prod(size[:ndim], dtype=np.float64)) * components * itemsize)
    declared = float(np.prod(size, dtype=np.float64)) * components * itemsize
    checked: list[bool] = []
    check_declared_size(path.name, declared, _stored_size(path), ratio=LARGEST_DEFLATE_RATIO)

    def load(frame: int) -> npt.NDArray[Any]:
        if not checked:
            _check_meta_image(path)
            checked.append(True)
        one = sitk.ImageFileReader()
        one.SetFileName(str(path))
        if len(size) == 4:
            one.SetExtractSize([*size[:3], *([0] * (total - 3))])
            one.SetExtractIndex([0, 0, 0, frame, *([0] * (total - 4))])
        elif total > ndim:
            one.SetExtractSize([*size[:ndim], *([0] * (total - ndim))])
        try:
            return np.asarray(sitk.GetArrayFromImage(one.Execute()))
        except RuntimeError as error:
            raise InputError(f"'{path.name}' cannot be read. It is incomplete or damaged.") from error

    return itk_content(
        load,
        size[:ndim],
        spacing[:ndim],
        origin[:ndim],
        direction,
        path.name,
        _world_unit(reader),
        frames=size[3] if len(size) == 4 else 1,
        interval=float(spacing[3]) if len(size) == 4 and spacing[3] > 0 else 1.0,
        channels=components > 1,
        rgb=components in (3, 4) and itemsize == 1,
    )


def _check_meta_image(path: Path) -> None:
    """Refuse compressed voxels of a MetaImage file that are damaged; ITK returns what it could not decompress.

    Raises
    ------
    InputError
        If they are.
    """
    if path.suffix.lower() not in (".mha", ".mhd"):
        return
    with path.open("rb") as stream:
        fields = {}
        while "ElementDataFile" not in fields and (line := stream.readline(_HEADER_LINE)):
            key, _, value = line.decode("latin-1").partition("=")
            fields[key.strip()] = value.strip()
        if fields.get("CompressedData", "").lower() != "true":
            return
        named = fields.get("ElementDataFile", "")
        source = stream if named.upper() == "LOCAL" else path.with_name(named).open("rb")
        with source:
            inflate = zlib.decompressobj(47)  # zlib or gzip
            try:
                while piece := source.read(_PIECE):
                    while piece and not inflate.eof:
                        inflate.decompress(piece, _PIECE)
                        piece = inflate.unconsumed_tail
            except zlib.error as error:
                raise InputError(f"'{path.name}' cannot be read. It is damaged ({error}).") from error
            if not inflate.eof:
                raise InputError(f"'{path.name}' cannot be read. Its compressed voxels are incomplete.")


def _stored_size(path: Path) -> int:
    """Bytes of a file, or of a header and all files beside it, where the voxels are in files of their own."""
    if path.suffix.lower() in (".nhdr", ".mhd"):
        return sum(one.stat().st_size for one in path.absolute().parent.iterdir() if one.is_file())
    return path.stat().st_size


def itk_content(
    load: Callable[[int], npt.NDArray[Any]],
    size: Sequence[int],
    spacing: Sequence[float],
    origin: Sequence[float],
    direction: FloatArray,
    name: str,
    world_unit: str | None = None,
    **fields: Any,
) -> FileContent:
    """Describe an image of ITK; 3D axes are turned to the nearest of (superior, anterior, right).

    Parameters
    ----------
    load
        Returns a frame as SimpleITK gives it: ``(z, y, x)`` or ``(y, x)``, with channels one axis more.
    size, spacing, origin, direction
        As in ITK, in (x, y, z) order and LPS millimeters.
    name
        Name of the file in messages.
    world_unit
        Unit of an image without scanner coordinates, whose axes are not turned.
    **fields
        Further fields of :class:`FileContent`.

    Raises
    ------
    InputError
        If the geometry is singular or not finite.
    """
    ndim = len(size)
    matrix = np.eye(ndim + 1)
    matrix[:-1, :-1] = np.asarray(direction) * np.asarray(spacing)
    matrix[:-1, -1] = origin
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-30:
        raise InputError(f"'{name}' has a singular direction or a voxel size of zero in its header.")
    if ndim == 2 or world_unit is not None:
        order = [*range(ndim)[::-1], ndim]
        return FileContent(load, Grid(tuple(size[::-1]), matrix[np.ix_(order, order)], world_unit or "mm"), **fields)
    affine = LPS_TO_RAS @ matrix
    turn = AxisOrientation.nearest(affine)

    def turned(frame: int) -> npt.NDArray[Any]:
        return turn.data(load(frame).swapaxes(0, 2))

    stored = [list(turn.axes), list(turn.flips)]
    metadata = {"coordinate_system": "scanner", "stored_axes": stored, **fields.pop("metadata", {})}
    return FileContent(turned, turn.grid(affine, list(size), "mm"), metadata=metadata, **fields)


def save_itk_image(path: Path, image: Image) -> None:
    """Write an image as NRRD or MetaImage, in the coordinates of ITK.

    Raises
    ------
    InputError
        If the grid is sheared, or the values are of a type that the format does not have.
    """
    sitk = simpleitk()
    picture = to_itk_image(image)
    try:
        sitk.WriteImage(picture, str(path), useCompression=path.suffix.lower() in (".nrrd", ".mha"))
    except RuntimeError as error:
        raise InputError(f"'{path.name}' cannot be written ({_reason(error)}).") from error


def to_itk_image(image: Image) -> Any:
    """Convert an image to one of SimpleITK.

    3D images in scanner coordinates become LPS millimeters. Others become x, y, z without a flip, in their own unit,
    which the metadata keep; so an exported transform fits the exported images.

    Raises
    ------
    InputError
        If the grid is sheared, or the values are of a type that ITK does not have.
    """
    sitk = simpleitk()
    data = np.asarray(image.data)
    if data.dtype == np.bool_:
        data = data.astype(np.uint8)
    elif data.dtype == np.float16:
        data = data.astype(np.float32)
    if data.dtype.kind not in "iuf" or data.dtype == np.longdouble:
        raise InputError(f"'{image.name}' holds values of type {data.dtype}, which ITK does not have.")
    if not image.grid.is_orthogonal():
        raise InputError(f"The grid of '{image.name}' is sheared, which NRRD and MetaImage files of ITK cannot hold.")
    scanner = image.coordinate_system == "scanner" and image.ndim == 3
    grid = image.grid.with_unit("mm") if scanner else image.grid
    picture = sitk.GetImageFromArray(np.ascontiguousarray(data), isVector=image.has_channel_axis)
    order = [*range(grid.ndim)[::-1], grid.ndim]
    matrix = grid.matrix[np.ix_(order, order)]
    if scanner:
        matrix = LPS_TO_RAS @ matrix
    else:
        picture.SetMetaData(_NOTE, f"world {canonical(grid.unit)}")
    spacing = np.linalg.norm(matrix[:-1, :-1], axis=0)
    picture.SetSpacing(spacing.tolist())
    picture.SetOrigin(matrix[:-1, -1].tolist())
    picture.SetDirection((matrix[:-1, :-1] / spacing).ravel().tolist())
    return picture


def _world_unit(reader: Any) -> str | None:
    """Return the unit of an image without scanner coordinates that :func:`to_itk_image` made."""
    if not reader.HasMetaDataKey(_NOTE):
        return None
    system, _, unit = reader.GetMetaData(_NOTE).partition(" ")
    return canonical(unit) if system == "world" and unit else None


def _itemsize(name: str) -> int:
    """Bytes of one component of a pixel type, by SimpleITK's name of it."""
    return next((int(bits) // 8 for bits in ("8", "16", "32", "64") if f"{bits}-bit" in name), 8)


def _reason(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:160]
