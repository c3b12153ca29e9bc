"""NIfTI files: voxels turned to (z, y, x), their place in the scanner kept, their orientation restored on writing.

The world of an image read here is the scanner's, reversed into napari's axis order: ``(z, y, x)`` is
``(superior, anterior, right)``, each growing in the direction of its name (RAS+ reversed). Voxel axes are permuted and
flipped to the nearest of these, so only what no permutation can express (voxel size, position, an oblique angle,
shear) remains in the grid's matrix. A file of a single slice becomes a 2D image in the two axes that are left. The
file's header travels in ``metadata["nifti"]``, and from it writing restores axis order, flips, form codes and unit.
"""

from __future__ import annotations

import dataclasses
import gzip
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.nifti1 import Nifti1Extension
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.file_errors import LARGEST_DEFLATE_RATIO, check_declared_size
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.units import canonical
from napari_stnreg.io.exchange.nifti_placement import itk_placement
from napari_stnreg.io.file_content import FileContent, check_memory

KEY = "nifti"
_PIECE = 4_000_000
_UNIT_OF_CODE = {"mm": "mm", "micron": "um", "meter": "m"}
_CODE_OF_UNIT = {unit: code for code, unit in _UNIT_OF_CODE.items()} | {"pixel": "unknown"}
# (right, anterior, superior) <-> (superior, anterior, right)
_REVERSE: FloatArray = np.eye(4)[[2, 1, 0, 3]]
_RGB = {3: np.dtype([(c, "u1") for c in "RGB"]), 4: np.dtype([(c, "u1") for c in "RGBA"])}


@dataclass(frozen=True)
class AxisOrientation:
    """How a file's voxel axes (i, j, k) become (z, y, x): which goes where, and which are flipped.

    Parameters
    ----------
    axes
        For each of the file's axes, the array axis that it becomes.
    flips
        For each of the file's axes, 1 or -1.
    """

    axes: tuple[int, ...] = (2, 1, 0)
    flips: tuple[int, ...] = (1, 1, 1)

    @classmethod
    def nearest(cls, affine: FloatArray) -> AxisOrientation:
        """Return the orientation change that brings a ``(4, 4)`` affine closest to upright RAS axes."""
        table = io_orientation(_REVERSE @ affine).astype(int)
        return cls(tuple(table[:, 0].tolist()), tuple(table[:, 1].tolist()))

    def _table(self) -> npt.NDArray[np.int_]:
        return np.array([self.axes, self.flips]).T

    def grid(self, affine: FloatArray, shape: Sequence[int], unit: str) -> Grid:
        """Return the ``(z, y, x)`` grid of a file's voxels; each keeps its world position."""
        reoriented = tuple(shape[self.axes.index(axis)] for axis in range(3))
        return Grid(reoriented, _REVERSE @ affine @ inv_ornt_aff(self._table(), shape), unit)

    def affine(self, grid: Grid) -> FloatArray:
        """Invert :meth:`grid`: return the affine of the grid's voxels in the file's order."""
        shape = [grid.shape[axis] for axis in self.axes]
        return np.asarray(_REVERSE @ grid.matrix @ np.linalg.inv(inv_ornt_aff(self._table(), shape)))

    def data(self, voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Reorder voxels ``(i, j, k, ...)`` to ``(z, y, x, ...)``."""
        return np.asarray(apply_orientation(voxels, self._table()))

    def restore(self, voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Invert :meth:`data`."""
        in_order = voxels.transpose(*self.axes, *range(3, voxels.ndim))
        return in_order[tuple(slice(None, None, flip) for flip in self.flips)]


def open_nifti(path: Path) -> FileContent:
    """Open a NIfTI file of two to four axes; voxels are loaded frame by frame on demand.

    Raises
    ------
    InputError
        If the affine is singular or not finite, or there are more than four axes.
    """
    image = nib.load(path)
    if not isinstance(image, nib.Nifti1Image | nib.Nifti2Image):
        raise InputError(f"'{path.name}' is not a NIfTI file.")
    check_nifti_size(image, path)
    content = nifti_content(image, path.name)
    return dataclasses.replace(content, load=checked_gzip(path, content.load))


def check_nifti_size(image: Any, path: Path) -> None:
    """Refuse a file whose header declares more voxels than its bytes, or the memory, can hold.

    Raises
    ------
    InputError
        If it does.
    """
    shape = [int(n) for n in image.shape]
    declared = float(np.prod(shape, dtype=np.float64)) * image.get_data_dtype().itemsize
    ratio = LARGEST_DEFLATE_RATIO if path.name.lower().endswith((".gz", ".mgz")) else 1.0
    check_declared_size(path.name, declared, path.stat().st_size, ratio=ratio)
    check_memory(path.name, int(declared / max(1.0, float(np.prod(shape[3:], dtype=np.float64)))))


def checked_gzip(path: Path, load: Callable[[int], npt.NDArray[Any]]) -> Callable[[int], npt.NDArray[Any]]:
    """Check a compressed file's checksum before its voxels are loaded for the first time; nibabel does not.

    Raises
    ------
    InputError
        On loading, if the checksum is wrong.
    """
    if not path.name.lower().endswith(".gz"):
        return load
    checked: list[bool] = []

    def loaded(frame: int) -> npt.NDArray[Any]:
        if not checked:
            try:
                with gzip.open(path) as stream:
                    while stream.read(_PIECE):
                        pass
            except (OSError, EOFError, zlib.error) as error:
                raise InputError(f"'{path.name}' cannot be read. It is damaged ({error}).") from error
            checked.append(True)
        return load(frame)

    return loaded


def nifti_content(image: nib.Nifti1Image, name: str) -> FileContent:
    """Describe a nibabel image that is open or in memory; voxels are loaded frame by frame on request.

    Parameters
    ----------
    image
        Two to four axes.
    name
        Name of the image in error messages.

    Raises
    ------
    InputError
        If the affine is singular or not finite, or there are more than four axes.
    """
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-30:
        raise InputError(f"'{name}' has a singular affine in its header, so the position of its voxels is unknown.")
    shape = tuple(int(n) for n in image.shape)
    if any(n > 1 for n in shape[4:]):
        raise InputError(f"'{name}' has {len(shape)} axes. NIfTI images must have three axes, or four with time.")

    spatial = (*shape[:3], 1, 1)[:3]
    turn = AxisOrientation.nearest(affine)
    full = turn.grid(affine, spatial, _unit(image.header))
    flat = _flat_axis(full)
    colors = image.get_data_dtype().names

    def load(frame: int) -> npt.NDArray[Any]:
        # Beyond the third axis all are of length one but time.
        picked = image.dataobj[(*(slice(None),) * min(len(shape), 3), *(frame, 0, 0, 0)[: len(shape[3:])])]
        voxels = np.asarray(picked).reshape(spatial)
        if colors:
            voxels = np.stack([voxels[c] for c in colors], axis=-1)
        elif voxels.dtype == np.float64 and image.get_data_dtype().itemsize < 3:
            voxels = voxels.astype(np.float32)  # whole numbers of 16 bits that were scaled need no more
        reoriented = turn.data(voxels)
        return reoriented if flat is None else reoriented.take(0, axis=flat)

    return FileContent(
        load=load,
        grid=full if flat is None else _plane(full, flat),
        frames=shape[3] if len(shape) > 3 else 1,
        channels=bool(colors),
        rgb=bool(colors),
        labels=image.header.get_intent()[0] == "label",
        interval=_interval(image.header) if len(shape) > 3 else 1.0,
        metadata={KEY: _remember(image) | _placement(image, affine, name)},
    )


def save_nifti(path: Path, images: Sequence[Image], *, labels: bool = False) -> None:
    """Write one image, or several on one grid as the frames of a time series.

    If the first image's metadata holds the header of a NIfTI file, that file's axis order, flips, form codes and
    unit are restored; the place of every voxel always follows the image's grid.

    Parameters
    ----------
    path
        A name ending in ``.nii`` or ``.nii.gz``.
    images
        At least one image.
    labels
        Mark the values as labels in the header.

    Raises
    ------
    InputError
        If the images are on different grids, or have channels that are not 8-bit RGB or RGBA.
    """
    first = images[0]
    if any(image.grid != first.grid for image in images[1:]):
        raise InputError("The frames of a time series must lie on one grid to be written into one file.")
    header = header_of(first.metadata)
    unit = canonical(first.grid.unit)
    if unit not in _CODE_OF_UNIT:
        first, unit = first.with_unit("mm"), "mm"

    own: FloatArray | None = None if header is None else np.asarray(header.get_best_affine(), dtype=np.float64)
    turn = AxisOrientation() if own is None else AxisOrientation.nearest(own)
    flat: int | None = None
    grid = first.grid
    if grid.ndim == 2:
        before = None
        if header is not None and own is not None:
            before = turn.grid(own, (*header.get_data_shape(), 1, 1)[:3], _unit(header)).with_unit(unit)
            flat = _flat_axis(before)
        if flat is None:
            turn, before, flat, header, own = AxisOrientation(), None, 0, None, None
        grid = _solid(grid, flat, before)
    affine = turn.affine(grid)
    unchanged = own is not None and np.allclose(affine, own, rtol=0, atol=1e-6 * max(1.0, float(np.abs(own).max())))
    if own is not None and unchanged:
        affine = own

    voxels = [turn.restore(_storable(image, flat)) for image in images]
    data = voxels[0] if len(voxels) == 1 else np.stack(voxels, axis=-1)
    kind: Any = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) or max(data.shape) > 32767 else nib.Nifti1Image
    result = kind(data, affine, header=header, dtype=data.dtype)
    if not unchanged:
        _place(result, affine, header)
    if header is None or header.get_xyzt_units()[0] != "unknown" or unit != "mm":
        result.header.set_xyzt_units(_CODE_OF_UNIT[unit], result.header.get_xyzt_units()[1])
    if labels or first.is_labels:
        result.header.set_intent("label")
    nib.save(result, path)


def _unit(header: nib.Nifti1Header) -> str:
    """Return the unit of a header's affine, millimeters where none is named."""
    return _UNIT_OF_CODE.get(header.get_xyzt_units()[0], "mm")


def _interval(header: nib.Nifti1Header) -> float:
    """Return the seconds between frames; 1 if the header has no valid value."""
    seconds = {"msec": 1e-3, "usec": 1e-6}.get(header.get_xyzt_units()[1], 1.0) * float(header["pixdim"][4])
    return seconds if np.isfinite(seconds) and seconds > 0 else 1.0


def _placement(image: nib.Nifti1Image, affine: FloatArray, name: str) -> dict[str, Any]:
    """Return where ITK places the voxels, if that differs, and a note about it."""
    found = itk_placement(image.header, affine, name)
    if found is None:
        return {}
    itk_matrix = None if found.matrix is None else (_REVERSE @ found.matrix @ _REVERSE).tolist()
    unoriented = {"unoriented": True} if found.unoriented else {}
    return {"note": found.note} | unoriented | ({} if itk_matrix is None else {"itk_matrix": itk_matrix})


def _remember(image: nib.Nifti1Image) -> dict[str, Any]:
    """Return the header as plain values that survive copying, pickling and a layer's metadata."""
    return {
        "header": bytes(image.header.binaryblock),
        "endianness": image.header.endianness,
        "version": 2 if isinstance(image, nib.Nifti2Image) else 1,
        "extensions": [(int(e.get_code()), bytes(e.content)) for e in image.header.extensions],
    }


def header_of(metadata: Mapping[str, Any]) -> nib.Nifti1Header | None:
    """Return the header of the file that an image came from, if its metadata holds a usable one."""
    kept = metadata.get(KEY)
    if not isinstance(kept, Mapping):
        return None
    kind: Any = nib.Nifti2Header if kept.get("version") == 2 else nib.Nifti1Header
    try:
        header: nib.Nifti1Header = kind(kept["header"], kept["endianness"], check=False)
        affine = header.get_best_affine()
    except (KeyError, TypeError, ValueError, nib.spatialimages.HeaderDataError):
        return None
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-30:
        return None
    for code, content in kept.get("extensions", ()):
        header.extensions.append(Nifti1Extension(code, content))
    return header


def _place(result: nib.Nifti1Image, affine: FloatArray, header: nib.Nifti1Header | None) -> None:
    """Set both forms to a new affine; the codes stay those of the original file, or say 'scanner'."""
    code = 1 if header is None else int(header["sform_code"]) or int(header["qform_code"]) or 1
    result.set_sform(affine, code)
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    # A quaternion holds no shear; then the sform alone speaks.
    result.set_qform(affine, code if np.allclose(axes.T @ axes, np.eye(3), atol=1e-5) else 0, strip_shears=True)
    # Slice timing and private extensions describe the old voxels.
    for name in ("slice_start", "slice_end", "slice_code", "slice_duration"):
        result.header[name] = 0
    result.header.extensions.clear()


def _storable(image: Image, flat: int | None) -> npt.NDArray[Any]:
    """Return an image's voxels as a 3D array of a supported data type."""
    data = np.asarray(image.data)
    if image.has_channel_axis:
        if data.dtype != np.uint8 or image.channels not in _RGB:
            raise InputError(
                f"'{image.name}' has {image.channels} channels of type {data.dtype}. NIfTI holds single-channel images "
                "and 8-bit RGB: choose one channel, or write a .tif."
            )
        data = np.ascontiguousarray(data).view(_RGB[image.channels])[..., 0]
    elif data.dtype == np.bool_:
        data = data.astype(np.uint8)
    elif data.dtype == np.float16:
        data = data.astype(np.float32)
    return data if flat is None else np.expand_dims(data, flat)


def _flat_axis(grid: Grid) -> int | None:
    """Return the axis with a single slice if there is exactly one."""
    single = [axis for axis, n in enumerate(grid.shape) if n == 1]
    return single[0] if len(single) == 1 else None


def _plane(full: Grid, flat: int) -> Grid:
    """Return the 2D grid of a single slice, seen along the flat axis."""
    keep = [axis for axis in range(4) if axis != flat]
    return Grid(tuple(full.shape[axis] for axis in keep[:-1]), full.matrix[np.ix_(keep, keep)], full.unit)


def _solid(plane: Grid, flat: int, before: Grid | None) -> Grid:
    """Return a 2D grid as one slice in 3D, in the plane of ``before`` or at height zero and one unit thick."""
    keep = [axis for axis in range(4) if axis != flat]
    shape = list(plane.shape)
    shape.insert(flat, 1)
    matrix = np.eye(4)
    if before is not None:
        matrix = before.matrix.copy()
        # A tilted slice's height is a linear function of the other two coordinates: follow it to the new voxels.
        height = matrix[flat, keep] @ np.linalg.inv(matrix[np.ix_(keep, keep)])
        matrix[flat, keep] = height @ plane.matrix
    matrix[np.ix_(keep, keep)] = plane.matrix
    return Grid(tuple(shape), matrix, plane.unit)
