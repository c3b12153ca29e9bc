"""Triangle meshes in files: GIFTI and FreeSurfer through nibabel, VTK, PLY, STL and OBJ through meshio."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError, announce
from napari_stnreg.core.file_errors import parser_errors
from napari_stnreg.core.grid import FloatArray, HasGrid
from napari_stnreg.core.output_guard import PathLike
from napari_stnreg.core.surface import Surface
from napari_stnreg.core.units import conversion_factor
from napari_stnreg.io.formats import SURFACE_FORMATS, suffix_in

_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
_HEAD_BYTES = 4096
_SCANNER = 1
"""Code of scanner coordinates in NIfTI and GIFTI."""


_SUFFIXES = tuple(suffix for one in SURFACE_FORMATS for suffix in one.suffixes)
_FREESURFER_MAGIC = (b"\xff\xff\xfe", b"\xff\xff\xfd", b"\xff\xff\xff")
"""First bytes of a mesh of triangles and of the two formats of quadrangles."""


def _suffixes_of(library: str) -> list[str]:
    return [suffix for one in SURFACE_FORMATS if one.library == library for suffix in one.suffixes]


def is_surface_file(path: Path) -> bool:
    """Return whether a file name is that of a triangle mesh."""
    return suffix_in(path, _SUFFIXES) is not None


def has_scanner_coordinates(path: Path) -> bool:
    """Return whether a mesh holds coordinates of the scanner by its format or by its own statement."""
    return suffix_in(path, _suffixes_of("nibabel")) is not None or b"SPACE=" in _head(path).upper()


def holds_surface(path: Path) -> bool:
    """Return whether a file is a triangle mesh that can be read, by its extension and its content."""
    suffix = suffix_in(path, _SUFFIXES)
    if suffix is None or not path.is_file():
        return False
    head = _head(path)
    if suffix == ".gii":  # GIFTI also holds labels and functional data without a mesh
        content = path.read_bytes()
        return all(f"NIFTI_INTENT_{name}".encode() in content for name in ("POINTSET", "TRIANGLE"))
    if suffix in _suffixes_of("nibabel"):
        return head[:3] in _FREESURFER_MAGIC
    if suffix == ".vtk":
        return b"VTK DATAFILE" in head.upper() and b"UNSTRUCTURED_GRID" in head.upper()
    if suffix == ".vtu":
        return b"<VTKFile" in head and b"UnstructuredGrid" in head
    if suffix == ".ply":
        return head.startswith(b"ply")
    if suffix == ".stl":
        facets = int.from_bytes(head[80:84], "little")
        return head.startswith(b"solid") or path.stat().st_size == 84 + 50 * facets > 84
    return re.search(rb"^v\s", head, re.MULTILINE) is not None


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_HEAD_BYTES)


def as_surface(surface: Surface | PathLike, image: HasGrid) -> Surface:
    """Return a triangle mesh, read from its file if it is one; see :func:`read_surface`."""
    return surface if isinstance(surface, Surface) else read_surface(Path(surface), image)


def read_surface(path: Path, image: HasGrid) -> Surface:
    """Read a triangle mesh in the world of an image.

    GIFTI and FreeSurfer hold RAS millimeters of the scanner. Other formats hold x, y, z: LPS millimeters for an image
    in scanner coordinates, unless the file states ``SPACE=RAS`` as 3D Slicer does, and the world of other images as
    it is.

    Raises
    ------
    InputError
        If the file cannot be read, holds no triangles, or the image is not 3D.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"'{path}' does not exist.")
    suffix = suffix_in(path, _SUFFIXES)
    if suffix is None:
        raise InputError(f"'{path.name}' has an unsupported extension for a surface.")
    if image.grid.ndim != 3:
        raise InputError(f"'{path.name}' is a surface in 3D, and the image is 2D.")
    with parser_errors(path, "surface"):
        one = next(one for one in SURFACE_FORMATS if suffix in one.suffixes)
        if one.library == "nibabel":
            ras, triangles = _read_gifti(path) if suffix == ".gii" else _read_freesurfer(path)
            return Surface(_from_ras(ras, image, path.name), triangles)
        points, triangles = _read_mesh(path)
        if image.coordinate_system != "scanner":
            return Surface(points[:, ::-1], triangles)
        head = _head(path).upper()
        signs = 1.0 if b"SPACE=RAS" in head else _LPS_TO_RAS
        if b"SPACE=" not in head:
            announce(f"'{path.name}' does not state its coordinates. They are read as LPS millimeters.")
        return Surface(_from_ras(points * signs, image, path.name), triangles)


def _from_ras(points: FloatArray, image: HasGrid, name: str) -> FloatArray:
    if image.coordinate_system != "scanner":
        raise InputError(f"'{name}' holds scanner coordinates, and the image has none.")
    return np.asarray(points[:, ::-1] * conversion_factor("mm", image.grid.unit))


def _read_gifti(path: Path) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    import nibabel as nib

    image: Any = nib.load(path)
    points, triangles = (image.get_arrays_from_intent(f"NIFTI_INTENT_{name}") for name in ("POINTSET", "TRIANGLE"))
    if len(points) != 1 or len(triangles) != 1:
        raise InputError(f"'{path.name}' does not hold exactly one surface with points and triangles.")
    values = np.asarray(points[0].data, np.float64)
    system = points[0].coordsys
    space = 0 if system is None else int(system.dataspace)
    if system is not None and space != _SCANNER and int(system.xformspace) == _SCANNER:
        matrix = np.asarray(system.xform, np.float64)
        values = values @ matrix[:3, :3].T + matrix[:3, 3]
    elif space == 0:  # FreeSurfer keeps surface coordinates, and the center of the volume beside them
        values = values + [float(points[0].meta.get(f"VolGeomC_{axis}", 0.0)) for axis in "RAS"]
    return values, np.asarray(triangles[0].data, np.int64)


def _read_freesurfer(path: Path) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    from nibabel.freesurfer import io as freesurfer

    read: Any = freesurfer.read_geometry
    points, triangles, info = read(str(path), read_metadata=True)
    center = info.get("cras") if info else None
    if center is None:
        announce(f"'{path.name}' does not state the center of its volume. It is assumed to be the origin.")
        center = np.zeros(3)
    return np.asarray(points, np.float64) + np.asarray(center, np.float64), np.asarray(triangles, np.int64)


def _read_mesh(path: Path) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    try:
        import meshio  # type: ignore[import-untyped]
    except ImportError as error:
        raise InputError(f"'{path.name}' needs the package meshio. Install napari-stnreg[surfaces].") from error
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            np.errstate(all="ignore"),
        ):
            mesh = meshio.read(path)
    except SystemExit as error:  # it ends the program where it fails
        raise InputError(f"'{path.name}' cannot be read. It is damaged or of another format.") from error
    triangles = [block.data for block in mesh.cells if block.type == "triangle"]
    squares = [block.data for block in mesh.cells if block.type == "quad"]
    triangles += [block[:, [0, 1, 2]] for block in squares] + [block[:, [0, 2, 3]] for block in squares]
    if not triangles:
        raise InputError(f"'{path.name}' holds no triangles.")
    points = np.asarray(mesh.points, np.float64)
    if points.shape[1] == 2:
        points = np.hstack([points, np.zeros((len(points), 1))])
    return points, np.concatenate(triangles).astype(np.int64)
