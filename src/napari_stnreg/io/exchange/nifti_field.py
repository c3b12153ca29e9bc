"""Deformations in NIfTI files of five axes: fields of ITK and ANTs, maps of SPM, fields and maps of NiftyReg.

ITK and ANTs keep displacements in LPS millimeters. SPM and NiftyReg keep RAS millimeters: SPM positions in the moving
image, NiftyReg positions, displacements or the positions of control points, distinguished by the header's intent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage

from napari_stnreg.core.errors import InputError, announce
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.io.exchange.grid_image import field_for_itk
from napari_stnreg.io.exchange.itk import FILE_UNIT
from napari_stnreg.io.itk_image import LPS_TO_RAS
from napari_stnreg.io.nifti import check_nifti_size, checked_gzip
from napari_stnreg.transforms import BSplineTransform, DisplacementTransform, Transform

_VECTOR, _DISPLACEMENT = 1007, 1006
_SCALE_OF_UNIT = {"meter": 1e3, "micron": 1e-3}
_CUBIC_SPLINE = 2
"""Kind of a NiftyReg file that holds the control points of a cubic B-spline."""
_TO_LPS: FloatArray = np.array([-1.0, -1.0, 1.0])


def is_deformation_map(path: Path) -> bool:
    """Return whether a NIfTI file is a deformation of SPM or NiftyReg, by its header or the name that SPM gives."""
    try:
        header = nib.load(path).header
    except (OSError, EOFError, ValueError, nib.filebasedimages.ImageFileError):
        return False
    return isinstance(header, nib.Nifti1Header) and _program(header, path.name) != "ITK"


def _program(header: nib.Nifti1Header, name: str) -> str:
    """Return the program whose convention a file of vectors follows: ITK, SPM or NiftyReg."""
    intent = header.get_intent()[2].strip()
    if intent.startswith("NREG_"):
        return "NiftyReg"
    flow = bytes(header["descrip"]).lower().startswith(b"flow field")
    named = name.startswith(("y_", "iy_")) and not intent and len(header.get_data_shape()) == 5
    return "SPM" if intent == "Mapping" or flow or named else "ITK"


def read_field(path: Path) -> tuple[Transform, str]:
    """Read a displacement field of ITK or ANTs in ITK's coordinates (x, y, z; LPS), and our note if there is one.

    Raises
    ------
    InputError
        If it is no field of vectors, or its vectors are positions.
    """
    header, vectors, affine = _read_vectors(path)
    note = bytes(header["descrip"]).rstrip(b"\0").decode("latin-1")
    ndim = vectors.shape[-1]
    if not note.startswith("napari-stnreg") and ndim == 3 and _are_positions(vectors, affine):
        raise InputError(
            f"'{path.name}' seems to hold positions, not displacements. Convert it to a displacement field with the "
            "program that wrote it."
        )
    if int(header["intent_code"]) == _DISPLACEMENT:
        # Only this intent means that the vectors are RAS; ITK flips them, too.
        vectors = vectors * _TO_LPS[:ndim]
    return _displacement(path, vectors, affine), note


def read_deformation_map(path: Path) -> Transform:
    """Read a deformation of SPM or NiftyReg in ITK's coordinates (x, y, z; LPS).

    Raises
    ------
    InputError
        If it is a flow, a velocity field or a spline that is not cubic, or no field of vectors.
    """
    header, vectors, affine = _read_vectors(path)
    intent = header.get_intent()[2].strip()
    is_spline = False
    if _program(header, path.name) == "NiftyReg":
        kind = int(header["intent_p1"])
        if intent != "NREG_TRANS" or kind not in (0, 1, _CUBIC_SPLINE):
            raise InputError(
                f"'{path.name}' is a velocity field or linear spline of NiftyReg. Convert it with "
                "'reg_transform -disp'."
            )
        absolute, is_spline = kind != 1, kind == _CUBIC_SPLINE
    elif bytes(header["descrip"]).lower().startswith(b"flow field"):
        raise InputError(f"'{path.name}' is a flow field of SPM. Convert it to a deformation (y_*.nii) with SPM first.")
    else:
        absolute = True
    if absolute:
        vectors = vectors - _positions(vectors.shape[:-2], affine)[..., None, : vectors.shape[-1]]
        vectors = _filled(vectors, path.name)
    found = _displacement(path, vectors * _TO_LPS[: vectors.shape[-1]], affine)
    # Cubic splines reproduce positions, so the coefficients of the displacement are those of the map less the lattice.
    return BSplineTransform(found.field, found.grid) if is_spline else found


def _read_vectors(path: Path) -> tuple[nib.Nifti1Header, FloatArray, FloatArray]:
    """Return header, vectors ``(x, y, z, 1, D)`` as stored, and the affine in RAS millimeters."""
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image | nib.Nifti2Image):
            raise InputError(f"'{path.name}' is not a NIfTI file.")
        check_nifti_size(image, path)
        vectors = checked_gzip(path, lambda _: np.asarray(image.dataobj, dtype=np.float64))(0)
    except (OSError, EOFError, ValueError, nib.filebasedimages.ImageFileError) as error:
        raise InputError(f"'{path.name}' cannot be read. It is incomplete or not a NIfTI file.") from error
    ndim = vectors.shape[-1] if vectors.ndim == 5 else 0
    if ndim not in (2, 3) or vectors.shape[3] != 1 or (ndim == 2 and vectors.shape[2] != 1):
        raise InputError(
            f"'{path.name}' has the shape {tuple(vectors.shape)}. A displacement field has five axes, x, y, z, 1 and "
            "the vectors. Is it an image?"
        )
    affine = np.array(image.affine, dtype=np.float64)
    affine[:-1] *= _SCALE_OF_UNIT.get(image.header.get_xyzt_units()[0], 1.0)
    return image.header, vectors, affine


def _positions(shape: tuple[int, ...], affine: FloatArray) -> FloatArray:
    """Return the positions of voxels ``(x, y, z, 3)`` in RAS millimeters."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return np.asarray(index @ affine[:3, :3].T + affine[:3, 3])


def _are_positions(vectors: FloatArray, affine: FloatArray) -> bool:
    """Return whether vectors ``(x, y, z, 1, 3)`` follow the positions of their voxels along every axis.

    Displacements that do so double all lengths.
    """
    own = _positions(vectors.shape[:3], affine).reshape(-1, 3)
    values = vectors.reshape(-1, 3)
    own, values = own[np.isfinite(values).all(axis=1)], values[np.isfinite(values).all(axis=1)]
    spread = own - own.mean(axis=0) if len(own) else own
    if min(vectors.shape[:3]) < 3 or len(own) < 8:
        return False
    slopes, *_ = np.linalg.lstsq(spread, values - values.mean(axis=0), rcond=None)
    diagonal = np.abs(np.diag(slopes))
    rest = values - values.mean(axis=0) - spread @ slopes
    return bool(((diagonal > 0.8) & (diagonal < 1.25)).all() and rest.std() < 0.25 * values.std())


def _filled(displacement: FloatArray, name: str) -> FloatArray:
    """Replace vectors outside of a map, which SPM leaves undefined, by the nearest one, and announce it."""
    known = np.isfinite(displacement).all(axis=-1)
    if known.all() or not known.any():
        return displacement
    announce(
        f"{100 * (1 - known.mean()):.0f} % of '{name}' is undefined. The nearest known displacement is used there."
    )
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return np.asarray(displacement[tuple(nearest)])


def _displacement(path: Path, vectors: FloatArray, affine: FloatArray) -> DisplacementTransform:
    """Make a transform from displacements ``(x, y, z, 1, D)`` in LPS millimeters."""
    matrix = LPS_TO_RAS @ affine
    ndim = vectors.shape[-1]
    field = vectors[:, :, :, 0]
    if ndim == 2:
        keep = [0, 1, 3]
        matrix, field = matrix[np.ix_(keep, keep)], field[:, :, 0]
    grid = Grid(field.shape[:ndim][::-1], matrix[:, [*range(ndim)[::-1], ndim]], FILE_UNIT)
    order = (ndim, *range(ndim)[::-1])
    values = torch.from_numpy(np.ascontiguousarray(field.transpose(order)))
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"'{path.name}' holds vectors that are not finite numbers.")
    return DisplacementTransform(values, grid)


def write_field(transform: Transform, path: Path, note: str, domain: Grid | None, *, millimeters: bool) -> None:
    """Write a transform as one displacement field.

    Parameters
    ----------
    transform
        In ITK's coordinates (x, y, z).
    path
        A name ending in ``.nii`` or ``.nii.gz``.
    note
        Kept in the header's description.
    domain
        The field's voxels; those of a field or flow if not given.
    millimeters
        Whether the coordinates are known to be millimeters.

    Raises
    ------
    InputError
        If no grid is known.
    """
    sampled = field_for_itk(transform, domain)
    field, grid = sampled.field[0].double().numpy(), sampled.grid
    ndim = grid.ndim
    vectors = field.transpose(*range(1, ndim + 1)[::-1], 0).astype(np.float32)
    matrix = grid.matrix[:, [*range(ndim)[::-1], ndim]]
    if ndim == 2:
        vectors = vectors[:, :, None]
        solid = np.eye(4)
        solid[np.ix_([0, 1, 3], [0, 1, 3])] = matrix
        matrix = solid
    affine = LPS_TO_RAS @ matrix
    data = vectors[:, :, :, None]
    kind: Any = nib.Nifti2Image if max(data.shape) > 32767 else nib.Nifti1Image
    image = kind(data, affine)
    image.header.set_intent(_VECTOR)
    image.header.set_xyzt_units("mm" if millimeters else "unknown")
    image.header["descrip"] = note.encode("ascii", "replace")[:79]
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nib.save(image, path)
