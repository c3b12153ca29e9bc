"""Save and load transforms and models by the ending of the file's name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from napari_stnreg.core.atomic_io import atomic_path
from napari_stnreg.core.errors import InputError
from napari_stnreg.io.safetensors_format import load_transform_file
from napari_stnreg.transforms import Transform

if TYPE_CHECKING:
    from napari_stnreg.core.grid import CoordinateSystem, Grid, HasGrid
    from napari_stnreg.models.model import Model

ENDING = ".safetensors"
ITK_ENDINGS = (".tfm", ".txt", ".h5", ".hdf5")
FIELD_ENDINGS = (".nii.gz", ".nii")
NGFF_ENDING = ".zarr"
SAVE_ENDINGS = (ENDING, *ITK_ENDINGS, *FIELD_ENDINGS, NGFF_ENDING)
"""Endings of the files that transforms can be written to."""
FORMATS = {
    ".safetensors": "napari-stnreg, every family exactly",
    ".tfm": "ITK transform, text",
    ".txt": "ITK transform, text",
    ".h5": "ITK transform, HDF5",
    ".nii.gz": "displacement field for ITK and ANTs",
    ".nii": "displacement field for ITK and ANTs",
    ".zarr": "OME-Zarr scene",
}
"""What a transform can be written as, for a file dialog: ending and what it is."""
LOAD_ENDINGS = (*SAVE_ENDINGS, ".mat")
"""Endings of the files that transforms can be read from; ``.txt`` may be ITK's or elastix', ``.mat`` is ANTs'."""


class TransformResult(Protocol):
    """A result that can be saved: a transform, the fixed image's grid and a JSON-ready report."""

    transform: Transform
    grid: Grid

    def report(self) -> dict[str, Any]:
        """Return the report that is stored beside the transform."""


def save(what: Transform | TransformResult | Model, path: str | os.PathLike[str], *, grid: Grid | None = None) -> Path:
    """Save a transform, a result's transform together with its report, or a trained model.

    The ending decides: ``.safetensors`` is our own file, which holds every family exactly; ``.tfm``, ``.txt`` and
    ``.h5`` are ITK's transform files; ``.nii`` and ``.nii.gz`` one displacement field as ITK and ANTs read it;
    ``.zarr`` an OME-Zarr 0.6 scene.

    Parameters
    ----------
    what
        A transform, what :func:`napari_stnreg.register` returned, or what :func:`napari_stnreg.train` did; a model is
        kept in ``.safetensors`` alone.
    path
        The file; written whole or not at all.
    grid
        The fixed image's grid: families that the other program does not have are sampled on its voxels. Known for a
        result; without it the transform's own grid is taken, if it has one.

    Returns
    -------
    Path
        What was written.

    Raises
    ------
    InputError
        If the ending is unknown, the format cannot hold the transform, a library is missing, or the file cannot be
        written.

    Notes
    -----
    A transform between images that were read from NIfTI is written for other programs in the scanner's space (LPS,
    millimeters), every other one as x, y, z with no flip, in its own unit; :attr:`Transform.coordinate_systems`
    says which.
    """
    target = Path(path)
    ending = transform_ending(target, SAVE_ENDINGS)
    transform, report = what, None
    if not isinstance(what, Transform):
        if not hasattr(what, "transform"):
            if ending != ENDING:
                raise InputError(f"Models are kept in files that end in {ENDING}; '{target.name}' does not.")
            return what.save(path)
        result = cast(TransformResult, what)
        transform, report, grid = result.transform, result.report(), result.grid if grid is None else grid
    assert isinstance(transform, Transform)
    if ending == ENDING:
        return transform.save(target, report)
    return _export(transform, target, ending, None if grid is None else grid.with_unit(transform.unit))


def load_transform(
    path: str | os.PathLike[str],
    *,
    fixed: HasGrid | None = None,
    moving: HasGrid | None = None,
    space: CoordinateSystem | None = None,
    unit: str | None = None,
) -> Transform:
    """Load a transform that :func:`save` or another program wrote.

    Parameters
    ----------
    path
        Ours (``.safetensors``), ITK's (``.tfm``, ``.txt``, ``.h5``; ``.mat`` of ANTs), a displacement field
        (``.nii``, ``.nii.gz``), a parameter file of elastix (``.txt``, with those it builds upon), or an OME-Zarr scene
        (``.zarr``).
    fixed, moving
        The images that it belongs to. A file of another program does not say what its coordinates are; the images do.
    space
        The same said outright: ``"scanner"`` for images from NIfTI, ``"world"`` for all others.
    unit
        Unit of a plain world's coordinates, and of the transform.

    Returns
    -------
    Transform
        Fixed world to moving world.

    Raises
    ------
    InputError
        If the file is missing, damaged, of another kind or of a newer version; nothing in it is executed.

    Notes
    -----
    Without images and ``space``, a file that we wrote knows them; a 3D transform of another program is taken to be in
    scanner space and millimeters, a 2D one in pixels.
    """
    source = Path(path)
    ending = transform_ending(source, LOAD_ENDINGS)
    if ending == ENDING:
        return load_transform_file(source)[0]
    if not source.exists():
        raise InputError(f"'{source}' does not exist.")
    from napari_stnreg.io.exchange import elastix, itk, ngff, nifti_field
    from napari_stnreg.io.exchange.coordinate_convention import CoordinateConvention

    if ending == NGFF_ENDING:
        return ngff.read_ngff(source)
    note, default = "", cast("CoordinateSystem | None", None)
    if ending in FIELD_ENDINGS:
        theirs, note = nifti_field.read_field(source)
        default = "scanner"
    elif ending == ".txt" and elastix.is_elastix(_head(source)):
        theirs = elastix.read_elastix(source)
    else:
        theirs, note = itk.read_itk(source)
    frames = CoordinateConvention.told(
        theirs.ndim, note, fixed=fixed, moving=moving, space=space, unit=unit, default=default
    )
    return frames.inward(theirs)


def transform_ending(path: str | os.PathLike[str], endings: tuple[str, ...] = LOAD_ENDINGS) -> str:
    """The ending by which a transform file's format is known, in lower case.

    Raises
    ------
    InputError
        If it is none of them.
    """
    name = Path(path).name.lower()
    for ending in sorted(endings, key=len, reverse=True):
        if name.endswith(ending) and name != ending:
            return ending
    raise InputError(f"'{Path(path).name}' has no ending of a transform file; use one of {', '.join(endings)}.")


def _export(transform: Transform, target: Path, ending: str, grid: Grid | None) -> Path:
    from napari_stnreg.io.exchange import itk, ngff, nifti_field
    from napari_stnreg.io.exchange.coordinate_convention import CoordinateConvention

    if ending == NGFF_ENDING:
        ngff.write_ngff(transform, target, grid)
        return target
    frames = CoordinateConvention.of(transform)
    theirs = frames.outward(transform)
    domain = None if grid is None else frames.grid_outward(grid)
    with atomic_path(target) as part:
        if ending in FIELD_ENDINGS:
            scanner = frames.fixed == "scanner"
            nifti_field.write_field(theirs, part, frames.note, domain, millimeters=scanner)
        else:
            itk.write_itk(theirs, part, frames.note, domain)
    return target


def _head(path: Path) -> str:
    with path.open("rb") as stream:
        return stream.read(4000).decode("utf-8", "replace")
