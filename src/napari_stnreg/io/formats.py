"""The file formats of images, transforms and points: the one list from which readers and writers are dispatched.

The page "Supported files" of the documentation is generated from it, and a test compares the patterns of the napari
manifest with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from napari_stnreg.core.errors import InputError

_DICOM_PROBES = 20
"""Files of a folder that are looked at; a folder of slices may hold a few other files."""
Content = Literal["image", "transform", "points", "surface"]


@dataclass(frozen=True)
class FileFormat:
    """One file format.

    Parameters
    ----------
    name
        Name of the format and the programs that use it.
    content
        What such a file holds.
    suffixes
        Ends of the file name, lower case; empty for folders that are recognized by their content.
    reader, writer
        ``"module:function"`` below :mod:`napari_stnreg.io`; empty if the format is not read or not written.
    lazy
        What is read without loading the whole file; empty if nothing is.
    conventions
        Coordinates, units and axes, in the words of the documentation.
    library
        The package that reads it.
    extra
        The extra of this package that installs the library; empty if it is always installed.
    is_folder
        Whether it is a folder.
    written_as
        Suffix of results made from such an image if the format is not written.
    written
        The suffixes that are written, if not all are.
    series
        Whether a time series can be written to one file.
    opened_by_napari
        Whether napari opens and saves it without a plugin; then the manifest does not name it.
    detect
        Function that recognizes the format by its content, if another one has the same suffix.
    """

    name: str
    content: Content
    suffixes: tuple[str, ...]
    reader: str = ""
    writer: str = ""
    lazy: str = ""
    conventions: str = ""
    library: str = ""
    extra: str = ""
    is_folder: bool = False
    written_as: str = ".tif"
    written: tuple[str, ...] = ()
    series: bool = False
    opened_by_napari: bool = False
    detect: str = ""

    @property
    def written_suffixes(self) -> tuple[str, ...]:
        """The suffixes that can be written."""
        return (self.written or self.suffixes) if self.writer else ()

    def read_function(self) -> Callable[..., Any]:
        """Import the function that reads the format."""
        return _function(self.reader)

    def write_function(self) -> Callable[..., Any]:
        """Import the function that writes the format."""
        return _function(self.writer)


_EXACT = "LPS millimeters between scanner images, x, y, z without a flip between others; exact for linear and B-spline"
_FIELD = "one displacement field on the grid of the fixed image, vectors and axes in LPS millimeters as ITK reads them"
_SCANNER = "3D in scanner coordinates (mm), axes turned to (z, y, x) = (superior, anterior, right); 2D in mm as stored"

IMAGE_FORMATS: tuple[FileFormat, ...] = (
    FileFormat(
        "NIfTI", "image", (".nii", ".nii.gz"), "nifti:open_nifti", "nibabel_image:save_nifti_image", "frame by frame",
        "scanner coordinates from sform or qform, axes turned to (z, y, x) = (superior, anterior, right); time series; "
        "8-bit RGB; label intent", "nibabel", series=True,
    ),
    FileFormat(
        "Analyze 7.5 and NIfTI pairs", "image", (".hdr", ".img", ".img.gz"), "nibabel_image:open_nibabel", "",
        "frame by frame", "either file of the pair; as NIfTI. Analyze has no orientation: left is taken to be stored "
        "on the right, as SPM and nibabel do; an SPM .mat beside it is used", "nibabel", written_as=".nii.gz",
    ),
    FileFormat(
        "FreeSurfer MGH", "image", (".mgz", ".mgh"), "nibabel_image:open_nibabel", "", "",
        "as NIfTI", "nibabel", written_as=".nii.gz",
    ),
    FileFormat(
        "NRRD (3D Slicer)", "image", (".nrrd", ".nhdr"), "itk_image:open_itk_image", "itk_image:save_itk_image",
        "header first, then frame by frame", _SCANNER + "; channels; time series", "SimpleITK", written=(".nrrd",),
    ),
    FileFormat(
        "MetaImage (ITK, elastix)", "image", (".mha", ".mhd"), "itk_image:open_itk_image", "itk_image:save_itk_image",
        "header first, then frame by frame", _SCANNER + "; channels; time series", "SimpleITK", written=(".mha",),
    ),
    FileFormat(
        "DICOM series", "image", (), "dicom:open_dicom", "", "headers first", "a folder with the slices of one series; "
        + _SCANNER + "; slices are ordered by position, and missing or uneven ones are refused", "SimpleITK",
        is_folder=True, written_as=".nii.gz",
    ),
    FileFormat(
        "DICOM file", "image", (".dcm", ".ima"), "dicom:open_dicom", "", "", "one slice or one multi-frame file; "
        + _SCANNER, "SimpleITK", written_as=".nii.gz",
    ),
    FileFormat(
        "OME-Zarr 0.4 to 0.6, Zarr arrays", "image", (".zarr",), "ome_zarr:open_ome_zarr", "ome_zarr:save_ome_zarr",
        "chunk by chunk in napari and for stacks; one resolution for a pair",
        "scale, translation and units of the axes; t, c, z, y, x in any order; the layout of bioformats2raw. A coarser "
        "resolution is named by its path, image.zarr/2. Written as 0.5 with a pyramid; rotated grids are refused",
        "zarr, ome-zarr-models", is_folder=True, series=True,
    ),
    FileFormat(
        "OME-TIFF", "image", (".ome.tif", ".ome.tiff"), "tiff:open_tiff", "tiff:save_ome_tiff",
        "frame by frame; large files as they are shown in napari; one resolution for a pair; section by section for "
        "stacks",
        "voxel size and unit from the OME description. A coarser resolution is named behind the file, image.ome.tif/2, "
        "and made by averaging if the file has no pyramid", "tifffile, imagecodecs",
        series=True,
    ),
    FileFormat(
        "TIFF, ImageJ", "image", (".tif", ".tiff"), "tiff:open_tiff", "tiff:save_tiff",
        "frame by frame; one resolution for a pair; section by section for stacks",
        "voxel size and unit of ImageJ; coarser resolutions as of OME-TIFF; a bare resolution tag is ignored; all "
        "usual compressions",
        "tifffile, imagecodecs", series=True, opened_by_napari=True,
    ),
    FileFormat(
        "PNG", "image", (".png",), "arrays:open_picture", "arrays:save_picture", "", "one pixel is one unit",
        "imageio, imagecodecs", opened_by_napari=True,
    ),
    FileFormat(
        "JPEG", "image", (".jpg", ".jpeg"), "arrays:open_picture", "arrays:save_picture", "", "one pixel is one unit",
        "imageio", opened_by_napari=True,
    ),
    FileFormat(
        "NumPy", "image", (".npy", ".npz"), "arrays:open_numpy", "arrays:save_numpy", ".npy, section by section for "
        "stacks", "(y, x), (z, y, x) or (t, z, y, x); one voxel is one unit", "numpy", series=True,
        opened_by_napari=True,
    ),
    FileFormat(
        "Zeiss CZI, Nikon ND2, Leica LIF", "image", (".czi", ".nd2", ".lif"), "bioio_image:open_bioio", "",
        "plane by plane in napari", "voxel size in um; the first scene; channels and time", "bioio", "microscopy",
    ),
)  # fmt: skip
"""Formats of images; of two suffixes that fit a name, the longer one counts."""


def suffix_in(path: str | os.PathLike[str], suffixes: Iterable[str]) -> str | None:
    """Return the longest suffix that ends a file name, in lower case, or ``None``."""
    name = Path(path).name.lower()
    fitting = [suffix for suffix in suffixes if name.endswith(suffix) and name != suffix]
    return max(fitting, key=len, default=None)


def file_and_level(path: str | os.PathLike[str]) -> tuple[Path, int]:
    """Return a file and the resolution that is named behind it, such as 2 in ``image.tif/2``; 0 is the finest."""
    path = Path(path)
    if path.name.isdecimal() and suffix_in(path.parent, (".tif", ".tiff")) is not None and path.parent.is_file():
        return path.parent, int(path.name)
    return path, 0


def image_format(path: str | os.PathLike[str]) -> FileFormat:
    """Return the format of an image by its name, or of a folder by its content.

    Raises
    ------
    InputError
        If it is none of :data:`IMAGE_FORMATS`.
    """
    by_suffix = {suffix: one for one in IMAGE_FORMATS for suffix in one.suffixes}
    path, _ = file_and_level(path)
    suffix = suffix_in(path, by_suffix)
    if path.is_dir():
        if is_zarr(path):
            return by_suffix[".zarr"]
        if suffix != ".zarr":
            return next(one for one in IMAGE_FORMATS if one.is_folder and not one.suffixes)
    if suffix is None and not path.exists() and "://" not in str(path):
        raise InputError(f"'{path}' does not exist.")
    if suffix is None:
        raise unsupported(path, "image", by_suffix)
    return by_suffix[suffix]


def is_image_path(path: Path) -> bool:
    """Return whether a path inside a folder of images is an image: a file by its suffix, or a Zarr image."""
    if path.name.startswith(".") or suffix_in(path, [s for one in IMAGE_FORMATS for s in one.suffixes]) is None:
        return False
    if path.is_dir():
        return is_zarr(path)
    pair = path.suffix.lower() == ".hdr" and (path.with_suffix(".img").exists() or path.with_suffix(".img.gz").exists())
    return path.is_file() and not pair


def is_dicom(folder: Path) -> bool:
    """Return whether one of the first files of a folder has the mark of DICOM."""
    for number, one in enumerate(sorted(folder.iterdir())):
        if number >= _DICOM_PROBES:
            return False
        if one.is_file():
            with suppress(OSError), one.open("rb") as stream:
                if stream.read(132)[128:] == b"DICM":
                    return True
    return False


def is_url(path: object) -> bool:
    """Return whether a path is a URL of fsspec, such as ``s3://bucket/stack.zarr``."""
    return isinstance(path, str) and "://" in path


def is_zarr(path: Path) -> bool:
    """Return whether a folder is a Zarr group or array."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray", ".zattrs"))


def _function(where: str) -> Callable[..., Any]:
    module, _, name = where.partition(":")
    function: Callable[..., Any] = getattr(import_module(f"napari_stnreg.io.{module}"), name)
    return function


TRANSFORM_FORMATS: tuple[FileFormat, ...] = (
    FileFormat(
        "napari-stnreg", "transform", (".safetensors",), "safetensors_format:load_transform_file",
        "transform_io:save", conventions="every family, chains and inverses exactly, with the report of the run",
        library="safetensors",
    ),
    FileFormat(
        "ITK transform, HDF5 (SimpleITK, ANTs, 3D Slicer)", "transform", (".h5", ".hdf5"), "exchange.itk:read_itk",
        "exchange.itk:write_itk", conventions=_EXACT, library="SimpleITK, h5py",
    ),
    FileFormat(
        "ITK transform, text", "transform", (".tfm", ".txt"), "exchange.itk:read_itk", "exchange.itk:write_itk",
        conventions=_EXACT, library="SimpleITK",
    ),
    FileFormat(
        "ANTs affine", "transform", (".mat",), "exchange.itk:read_itk", "exchange.itk:write_itk",
        conventions="linear transforms in LPS millimeters; deformations cannot be written", library="SimpleITK",
    ),
    FileFormat(
        "elastix parameter file", "transform", (".txt",), "exchange.elastix:read_elastix",
        "exchange.elastix:write_elastix",
        conventions="recognized by its content, and written under the name TransformParameters*.txt with the grid of "
        "the fixed image: affine and B-spline exactly, what it builds upon in files beside it; other families are "
        "refused", detect="exchange.elastix:is_elastix_file",
    ),
    FileFormat(
        "Displacement field in NIfTI (ANTs, ITK)", "transform", (".nii", ".nii.gz"), "exchange.nifti_field:read_field",
        "exchange.nifti_field:write_field", conventions=_FIELD, library="nibabel",
    ),
    FileFormat(
        "Deformation of SPM (y_*.nii), NiftyReg", "transform", (".nii", ".nii.gz"),
        "exchange.nifti_field:read_deformation_map", conventions="recognized by the intent in its header, or by the "
        "name; positions or displacements in RAS millimeters, from the fixed to the moving world; cubic splines of "
        "NiftyReg exactly; flow and velocity fields are refused", library="nibabel",
        detect="exchange.nifti_field:is_deformation_map",
    ),
    FileFormat(
        "Grid transform (3D Slicer), deformation field (transformix)", "transform", (".nrrd", ".mha", ".mhd"),
        "exchange.grid_image:read_grid_image", "exchange.grid_image:write_grid_image", conventions=_FIELD,
        library="SimpleITK", written=(".nrrd", ".mha"),
    ),
    FileFormat(
        "OME-Zarr 0.6 scene", "transform", (".zarr",), "exchange.ngff:read_ngff", "exchange.ngff:write_ngff",
        conventions="axes (z, y, x) without a flip; input is the fixed system, output the moving one",
        library="zarr", is_folder=True,
    ),
    FileFormat(
        "FSL FLIRT", "transform", (".mat",), "exchange.linear_matrix:read_flirt",
        conventions="4 x 4 numbers as text; maps scaled voxels of the moving (-in) to the fixed (-ref) image, so both "
        "NIfTI images must be given", library="nitransforms", extra="exchange",
        detect="exchange.linear_matrix:is_flirt",
    ),
    FileFormat(
        "FreeSurfer LTA", "transform", (".lta",), "exchange.linear_matrix:read_lta",
        conventions="source is the moving and destination the fixed image; both geometries are in the file",
        library="nitransforms", extra="exchange",
    ),
    FileFormat(
        "MINC XFM", "transform", (".xfm",), "exchange.minc:read_xfm",
        conventions="linear parts, grid transforms (MINC 2) in files beside it, and their concatenation; maps the "
        "moving (source) to the fixed (target) world in RAS millimeters", library="nibabel, h5py",
    ),
)  # fmt: skip
"""Formats of transforms; where two have a suffix, the one that detects its content is tried first."""

POINT_FORMATS: tuple[FileFormat, ...] = (
    FileFormat(
        "CSV and TSV tables", "points", (".csv", ".tsv"), "points:read_points", "points:write_points",
        conventions="columns z, y, x in any order (world coordinates of the image), or without a header in this order; "
        "comma, semicolon or tab; decimal comma; names and other columns are kept. Pairs: fixed_z ... moving_x",
    ),
    FileFormat(
        "napari Points", "points", (".csv",), "points:read_points", "points:write_points",
        conventions="columns index, axis-0, axis-1, ...: the coordinates of the layer's data, so voxels of its image",
    ),
    FileFormat(
        "Tables of scikit-image, ImageJ, TrackMate, QuPath, CellProfiler", "points", (".csv", ".tsv"),
        "points:read_points", "points:write_points", conventions="columns such as centroid-0 and Location_Center_X "
        "(voxels), POSITION_X, Centroid X \N{MICRO SIGN}m and x [nm] (lengths from the first voxel, in the unit that "
        "is stated), XM, YM (from its corner), in any case; announced. Several such sets in one table are refused",
    ),
    FileFormat(
        "ANTs points", "points", (".csv",), "points:read_points", "points:write_points",
        conventions="columns x, y, z, t, ...: LPS millimeters for scanner images, x, y, z without a flip for others",
    ),
    FileFormat(
        "BigWarp landmarks", "points", (".csv",), "points:read_landmark_pairs", "points:write_landmark_pairs",
        conventions="name, active, moving x, y, z, fixed x, y, z; inactive and unset points are skipped",
    ),
    FileFormat(
        "Slicer fiducials", "points", (".fcsv",), "points:read_points", "points:write_points",
        conventions="LPS or RAS, as in the file",
    ),
    FileFormat(
        "Slicer markups", "points", (".mrk.json",), "points:read_points", "points:write_points",
        conventions="LPS or RAS and the unit, as in the file; undefined points are skipped",
    ),
)  # fmt: skip
"""Formats of points and of pairs of landmarks."""

SURFACE_FORMATS: tuple[FileFormat, ...] = (
    FileFormat(
        "GIFTI surface", "surface", (".gii",), "surfaces:read_surface",
        conventions="points and triangles in RAS millimeters of the scanner", library="nibabel",
    ),
    FileFormat(
        "FreeSurfer surface", "surface", (".pial", ".white", ".smoothwm", ".inflated", ".orig", ".surf"),
        "surfaces:read_surface", conventions="surface coordinates, moved by the center of the volume that the file "
        "states", library="nibabel",
    ),
    FileFormat(
        "VTK, PLY, STL, OBJ mesh", "surface", (".vtk", ".vtu", ".ply", ".stl", ".obj"), "surfaces:read_surface",
        conventions="x, y, z; LPS millimeters for scanner images unless the file states RAS, and no flip for others",
        library="meshio", extra="surfaces",
    ),
)  # fmt: skip
"""Formats of triangle meshes."""

FORMATS = (*IMAGE_FORMATS, *TRANSFORM_FORMATS, *POINT_FORMATS, *SURFACE_FORMATS)

_CONTENTS: dict[Content, str] = {
    "image": "an image",
    "transform": "a transform",
    "points": "points",
    "surface": "a surface",
}


def unsupported(path: Path, content: Content, suffixes: Iterable[str]) -> InputError:
    """Return the error for a name that fits no format of this content; what an existing file holds is stated."""
    others = {_CONTENTS[one.content] for one in FORMATS if suffix_in(path, one.suffixes)}
    if others and path.exists():
        return InputError(
            f"'{path.name}' holds {' or '.join(sorted(others))}, not {_CONTENTS[content]}. "
            "Check the order of the files."
        )
    kind = "" if content == "image" else f" for {_CONTENTS[content]}"
    return InputError(f"'{path.name}' has an unsupported extension{kind}. Supported: {', '.join(sorted(suffixes))}.")


def transform_format(path: str | os.PathLike[str], *, write: bool = False) -> FileFormat:
    """Return the format of a transform by its name, and by its content where several formats have the suffix.

    Raises
    ------
    InputError
        If it is none of :data:`TRANSFORM_FORMATS`.
    """
    path = Path(path)
    suffixes = {s for one in TRANSFORM_FORMATS for s in (one.written_suffixes if write else one.suffixes)}
    suffix = suffix_in(path, suffixes)
    if suffix is None and not write and not path.exists():
        raise InputError(f"'{path}' does not exist.")
    if suffix is None:
        raise unsupported(path, "transform", suffixes)
    fitting = [one for one in TRANSFORM_FORMATS if suffix in (one.written_suffixes if write else one.suffixes)]
    if write and suffix == ".txt" and path.name.lower().startswith("transformparameters"):
        fitting = [one for one in fitting if one.detect]
    elif not write:
        detected = [one for one in fitting if one.detect and path.is_file() and _function(one.detect)(path)]
        fitting = detected or fitting
    return next((one for one in fitting if not one.detect), fitting[0]) if len(fitting) > 1 else fitting[0]
