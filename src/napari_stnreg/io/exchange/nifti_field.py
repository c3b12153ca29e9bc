"""Displacement fields in NIfTI as ITK and ANTs read them: five axes, vector intent, vectors in LPS millimeters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.io.exchange.grid_image import field_for_itk
from napari_stnreg.io.exchange.itk import FILE_UNIT
from napari_stnreg.io.itk_image import LPS_TO_RAS
from napari_stnreg.io.nifti import check_nifti_size, checked_gzip
from napari_stnreg.transforms import DisplacementTransform, Transform

_VECTOR, _DISPLACEMENT = 1007, 1006
_SCALE_OF_UNIT = {"meter": 1e3, "micron": 1e-3}


def read_field(path: Path) -> tuple[Transform, str]:
    """Read a NIfTI displacement field in ITK's coordinates (x, y, z; LPS), and our note if there is one.

    Raises
    ------
    InputError
        If it is no field of vectors.
    """
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image | nib.Nifti2Image):
            raise InputError(f"'{path.name}' is not a NIfTI file.")
        check_nifti_size(image, path)
        vectors = checked_gzip(path, lambda _: np.asarray(image.dataobj, dtype=np.float64))(0)
    except (OSError, EOFError, ValueError, nib.filebasedimages.ImageFileError) as error:
        raise InputError(f"'{path.name}' cannot be read. It is incomplete or not a NIfTI file.") from error
    _refuse_absolute(image.header, path.name)
    ndim = vectors.shape[-1] if vectors.ndim == 5 else 0
    if ndim not in (2, 3) or vectors.shape[3] != 1 or (ndim == 2 and vectors.shape[2] != 1):
        raise InputError(
            f"'{path.name}' has the shape {tuple(vectors.shape)}. A displacement field has five axes, x, y, z, 1 and "
            "the vectors. Is it an image?"
        )
    header = image.header
    matrix = LPS_TO_RAS @ np.asarray(image.affine, dtype=np.float64)
    matrix[:-1] *= _SCALE_OF_UNIT.get(header.get_xyzt_units()[0], 1.0)
    field = vectors[:, :, :, 0]
    if int(header["intent_code"]) == _DISPLACEMENT:
        # Only this intent means that the vectors are RAS; ITK flips them, too.
        field = field * np.array([-1.0, -1.0, 1.0])[:ndim]
    if ndim == 2:
        keep = [0, 1, 3]
        matrix, field = matrix[np.ix_(keep, keep)], field[:, :, 0]
    grid = Grid(field.shape[:ndim][::-1], matrix[:, [*range(ndim)[::-1], ndim]], FILE_UNIT)
    order = (ndim, *range(ndim)[::-1])
    values = torch.from_numpy(np.ascontiguousarray(field.transpose(order)))
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"'{path.name}' holds vectors that are not finite numbers.")
    return DisplacementTransform(values, grid), bytes(header["descrip"]).rstrip(b"\0").decode("latin-1")


def _refuse_absolute(header: nib.Nifti1Header, name: str) -> None:
    """Refuse deformation maps that hold positions, or vectors of another direction, by their intent."""
    intent = header.get_intent()[2].strip()
    if intent == "Mapping":
        raise InputError(
            f"'{name}' is a deformation map of SPM with positions in mm. Convert it to a displacement field."
        )
    if intent.startswith("NREG_") and int(header["intent_p1"]) != 1:
        raise InputError(
            f"'{name}' is a deformation, velocity field or spline of NiftyReg. Convert it with 'reg_transform -disp'."
        )


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
