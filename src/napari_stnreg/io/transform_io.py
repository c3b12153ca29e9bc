"""Save and load transforms and models by the ending of the file's name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
import torch

from napari_stnreg.core.atomic_io import atomic_path
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.file_errors import parser_errors
from napari_stnreg.core.output_guard import check_output
from napari_stnreg.io.formats import TRANSFORM_FORMATS, suffix_in, transform_format, unsupported
from napari_stnreg.io.ome_zarr import is_written_scene
from napari_stnreg.io.safetensors_format import load_transform_file
from napari_stnreg.transforms import Transform

if TYPE_CHECKING:
    from napari_stnreg.core.grid import CoordinateSystem, Grid, HasGrid
    from napari_stnreg.models.model import Model

ENDING = ".safetensors"
SAVE_ENDINGS = tuple(dict.fromkeys(s for one in TRANSFORM_FORMATS for s in one.written_suffixes))
"""Suffixes of the files that transforms can be written to."""
LOAD_ENDINGS = tuple(dict.fromkeys(s for one in TRANSFORM_FORMATS for s in one.suffixes))
"""Suffixes of the files that transforms can be read from."""


NGFF_ENDING = ".zarr"
SINGULAR = 1e-6
"""Ratio of the smallest to the largest scale of a matrix up to which it is singular."""
FLIRT = "exchange.linear_matrix:is_flirt"
_SCANNER_ENDINGS = (".nii", ".nii.gz", ".lta", ".xfm")
"""Formats whose coordinates are always those of a scanner."""
_OTHER_PROGRAMS = ("linear_matrix", "minc", "read_deformation_map")
"""Parts of the names of readers for programs that do not take the position of an image from ITK."""


GRID_KEYS = ("grid", "moving_grid")
"""Keys of the grids of the fixed and of the moving image in our own file."""


class TransformResult(Protocol):
    """A result that can be saved: a transform, the fixed image's grid and a JSON-ready report."""

    transform: Transform
    grid: Grid

    def report(self) -> dict[str, Any]:
        """Return the report that is stored beside the transform."""


def save(what: Transform | TransformResult | Model, path: str | os.PathLike[str], *, grid: Grid | None = None) -> Path:
    """Save a transform, a result's transform together with its report, or a trained model.

    The suffix decides: ``.safetensors`` is our own file, which holds every family exactly; ``.tfm``, ``.txt`` and
    ``.h5`` are ITK's transform files, ``.mat`` the one of ANTs for linear transforms; ``.nii.gz``, ``.nrrd`` and
    ``.mha`` hold one displacement field as ITK, ANTs and 3D Slicer read it; ``TransformParameters*.txt`` is a parameter
    file of elastix; ``.zarr`` an OME-Zarr 0.6 scene.

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
    holds the spaces.
    """
    images = (getattr(what, "fixed", None), getattr(what, "moving", None))
    files = [image.metadata.get("path") for image in images if image is not None]
    target = Path(path)
    check_transform_output(target, [one for one in files if isinstance(one, str)], overwrite=True)
    ending = transform_ending(target, SAVE_ENDINGS)
    transform, report = what, None
    if not isinstance(what, Transform):
        if not hasattr(what, "transform"):
            if ending != ENDING:
                raise InputError(f"'{target.name}' has an unsupported extension. Models are saved as {ENDING}.")
            return what.save(path)
        result = cast(TransformResult, what)
        transform, report, grid = result.transform, result.report(), result.grid if grid is None else grid
        for side, key, image in zip(("fixed", "moving"), GRID_KEYS, images, strict=True):
            if image is not None:
                report = {**report, side: image.name, key: image.grid.to_dict()}
    assert isinstance(transform, Transform)
    if grid is not None and grid.ndim != transform.ndim:
        raise InputError(f"The transform is {transform.ndim}D, but the fixed image is {grid.ndim}D.")
    if ending == ENDING:
        return transform.save(target, report)
    return _export(transform, target, None if grid is None else grid.with_unit(transform.unit))


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
        A file in one of the formats of the page "Supported files", such as ``.safetensors``, ITK's ``.h5`` and
        ``.tfm``, the ``.mat`` of ANTs or of FSL, a displacement field (``.nii.gz``, ``.nrrd``, ``.mha``), a parameter
        file of elastix (``.txt``), ``.lta`` of FreeSurfer, ``.xfm`` of MINC, or an OME-Zarr scene (``.zarr``).
    fixed, moving
        The images that it belongs to. A file of another program does not state its coordinate system; the images do.
    space
        The coordinate system, if no images are given: ``"scanner"`` for images from NIfTI, ``"world"`` for all others.
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
        with parser_errors(source, "transform"):
            return load_transform_file(source)[0]
    if not source.exists():
        raise InputError(f"'{source}' does not exist.")
    from napari_stnreg.io.exchange.coordinate_convention import CoordinateConvention

    with parser_errors(source, f"{ending} transform"):
        one = transform_format(source)
        read = one.read_function()
        if ending == NGFF_ENDING:
            scene: Transform = read(source)
            return scene
        found = read(source, fixed, moving) if one.detect == FLIRT else read(source)
        theirs, note = found if isinstance(found, tuple) else (found, "")
        _check_numbers(theirs, source.name)
        is_scanner = ending in _SCANNER_ENDINGS or one.detect == FLIRT
        convention = CoordinateConvention.told(
            theirs.ndim,
            note,
            fixed=fixed,
            moving=moving,
            space=space,
            unit=unit,
            default="scanner" if is_scanner else None,
            is_itk=not any(name in one.reader for name in _OTHER_PROGRAMS),
        )
        return convention.inward(theirs)


def _check_numbers(transform: Transform, name: str) -> None:
    """Refuse what would warp every image to nothing: parameters that are not finite, and singular matrices."""
    for part in transform.parts:
        if not all(bool(torch.isfinite(values).all()) for values in part.tensors().values()):
            raise InputError(f"'{name}' is damaged: its parameters are not finite numbers.")
        matrix = part.as_matrix()
        scales = np.ones(1) if matrix is None else np.linalg.svd(matrix[:-1, :-1], compute_uv=False)
        if scales.min() <= SINGULAR * scales.max():
            raise InputError(f"'{name}' holds a singular matrix, which maps the image to a plane or a point.")


def check_transform_output(
    path: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str] | None] = (), *, overwrite: bool = False
) -> Path:
    """Check the name of a transform that will be written; see :func:`~napari_stnreg.core.output_guard.check_output`."""
    is_folder = transform_format(path, write=True).is_folder
    return check_output(path, inputs, overwrite=overwrite, folder=is_folder, is_ours=is_written_scene)


@dataclass(frozen=True)
class TransformStep:
    """A transform file in a composition.

    Parameters
    ----------
    path
        The file.
    inverse
        Whether its inverse is taken.
    """

    path: Path
    inverse: bool = False

    @classmethod
    def parse(cls, text: str | os.PathLike[str]) -> TransformStep:
        """Read a file name, or ``[FILE,1]`` for its inverse as ANTs writes it; ``[FILE,0]`` is the file itself."""
        match = re.fullmatch(r"\[\s*(.+?)\s*,\s*([01])\s*\]", os.fspath(text))
        return cls(Path(match[1]), match[2] == "1") if match else cls(Path(text))


def load_composition(
    steps: Sequence[TransformStep | str | os.PathLike[str]],
    *,
    fixed: HasGrid | None = None,
    moving: HasGrid | None = None,
    space: CoordinateSystem | None = None,
    unit: str | None = None,
) -> Transform:
    """Load several transforms and compose them.

    Parameters
    ----------
    steps
        Files in the order of ``antsApplyTransforms -t``: the first one begins at the fixed image, the last one ends at
        the moving image, so points of the fixed image go through the first one first. ``"[FILE,1]"`` is the inverse.
    fixed, moving
        The images at the two ends.
    space, unit
        As in :func:`load_transform`, for every file.

    Returns
    -------
    Transform
        Fixed world to moving world, in the unit of the first transform.

    Raises
    ------
    InputError
        If a file cannot be read, or dimensions, units or coordinate systems of neighbors do not fit together.
    """
    from napari_stnreg.transforms import compose

    parts: list[Transform] = []
    known = [one if isinstance(one, TransformStep) else TransformStep.parse(one) for one in steps]
    if not known:
        raise InputError("No transform is given.")
    for number, one in enumerate(known):
        ends = (fixed if number == 0 else None, moving if number == len(known) - 1 else None)
        first, second = ends[::-1] if one.inverse else ends
        part = load_transform(one.path, fixed=first, moving=second, space=space, unit=unit)
        part = part.inverse() if one.inverse else part
        if parts:
            if part.ndim != parts[0].ndim:
                raise InputError(
                    f"'{one.path.name}' is {part.ndim}D and '{known[0].path.name}' {parts[0].ndim}D. They cannot be "
                    "composed."
                )
            part = part.with_unit(parts[0].unit)
            if part.coordinate_systems[0] != parts[-1].coordinate_systems[1]:
                raise InputError(
                    f"'{known[number - 1].path.name}' ends in {parts[-1].coordinate_systems[1]} coordinates and "
                    f"'{one.path.name}' begins in {part.coordinate_systems[0]} coordinates. Convert one of them first, "
                    "with the option space."
                )
        parts.append(part)
    return parts[0] if len(parts) == 1 else compose(*parts)


def recorded_grid(step: TransformStep, side: Literal["fixed", "moving"]) -> Grid | None:
    """Return the grid of an image that our own file records, as seen after the step's inversion, or ``None``."""
    from napari_stnreg.core.grid import Grid

    if suffix_in(step.path, (ENDING,)) is None:
        return None
    key = GRID_KEYS[(side == "moving") != step.inverse]
    with parser_errors(step.path, "transform"):
        found = load_transform_file(step.path)[1].get(key)
        return None if found is None else Grid.from_dict(found)


def transform_ending(path: str | os.PathLike[str], endings: tuple[str, ...] = LOAD_ENDINGS) -> str:
    """Return the lower-case suffix that identifies a transform file's format.

    Raises
    ------
    InputError
        If it is none of them.
    """
    suffix = suffix_in(path, endings)
    if suffix is None:
        raise unsupported(Path(path), "transform", endings)
    return suffix


def _export(transform: Transform, target: Path, grid: Grid | None) -> Path:
    from napari_stnreg.io.exchange.coordinate_convention import CoordinateConvention

    one = transform_format(target, write=True)
    write = one.write_function()
    if one.is_folder:
        write(transform, target, grid)
        return target
    convention = CoordinateConvention.of(transform)
    theirs = convention.outward(transform)
    domain = None if grid is None else convention.grid_outward(grid)
    if one.detect:  # elastix: several files, each written atomically
        write(theirs, target, domain)
        return target
    options = {"millimeters": convention.fixed == "scanner"} if ".nii" in one.suffixes else {}
    with atomic_path(target) as part:
        write(theirs, part, convention.note, domain, **options)
    return target
