"""Linear transforms of FSL (FLIRT) and FreeSurfer (LTA), in ITK's coordinates (x, y, z; LPS)."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.io.exchange.itk import FILE_UNIT
from napari_stnreg.io.itk_image import LPS_TO_RAS
from napari_stnreg.io.nifti import header_of
from napari_stnreg.transforms import AffineTransform, Transform


def is_flirt(path: Path) -> bool:
    """Return whether a file begins with rows of four numbers."""
    try:
        with path.open("rb") as stream:
            lines = stream.read(2000).decode("ascii").splitlines()
        return [len([float(word) for word in line.split()]) for line in lines if line.strip()][:4] == [4] * 4
    except (OSError, ValueError):
        return False


def read_flirt(path: Path, fixed: Any = None, moving: Any = None) -> Transform:
    """Read a matrix of FSL FLIRT.

    Parameters
    ----------
    path
        The file.
    fixed, moving
        The images of the registration (``-ref`` and ``-in``) as read from NIfTI files: the matrix refers to their
        voxels.

    Raises
    ------
    InputError
        If an image is missing or not from a NIfTI file, or the matrix is damaged.
    """
    fsl = _nitransforms("fsl", "Matrices of FSL")
    images = {}
    for side, image in (("reference", fixed), ("moving", moving)):
        header = None if image is None else header_of(getattr(image, "metadata", {}))
        if header is None:
            raise InputError(
                f"'{path.name}' is a matrix of FSL, which refers to the voxels of two NIfTI files. Give both, the "
                "fixed image (-ref) and the moving image (-in)."
            )
        shape = (*header.get_data_shape(), 1, 1)[:3]
        images[side] = nib.Nifti1Image(np.broadcast_to(np.uint8(0), shape), header.get_best_affine())
    try:
        matrix = fsl.FSLLinearTransform.from_string(path.read_text(encoding="ascii")).to_ras(**images)
    except Exception as error:  # a parser of another project
        raise InputError(f"'{path.name}' is not a matrix of FSL with four rows of four numbers.") from error
    return affine_from_ras(matrix, path.name)


def read_lta(path: Path) -> Transform:
    """Read a linear transform array of FreeSurfer with one matrix.

    Raises
    ------
    InputError
        If the file is damaged, or holds several matrices or another kind of coordinates.
    """
    lta = _nitransforms("lta", "LTA files of FreeSurfer")
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        matrix = lta.FSLinearTransform.from_string(text).to_ras()
    except NotImplementedError as error:
        raise InputError(f"'{path.name}' has an unsupported LTA type. Supported: vox2vox, ras2ras.") from error
    except Exception as error:  # a parser of another project
        raise InputError(f"'{path.name}' is not an LTA file of FreeSurfer with one matrix.") from error
    return affine_from_ras(matrix, path.name)


def _nitransforms(module: str, what: str) -> ModuleType:
    try:
        return import_module(f"nitransforms.io.{module}")
    except ImportError as error:
        raise InputError(
            f"{what} need nitransforms, which is not installed. Run: pip install 'napari-stnreg[exchange]'"
        ) from error


def affine_from_ras(matrix: npt.NDArray[Any], name: str) -> Transform:
    """Make a transform from a matrix of fixed to moving points in RAS."""
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-30:
        raise InputError(f"'{name}' holds a matrix that is singular or not finite.")
    return AffineTransform(LPS_TO_RAS @ matrix @ LPS_TO_RAS, FILE_UNIT)
