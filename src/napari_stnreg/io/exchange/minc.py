"""Transform files of MINC (XFM): linear parts and grid transforms, in ITK's coordinates (x, y, z; LPS)."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import torch
from nibabel.minc2 import Minc2File

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.file_errors import LARGEST_DEFLATE_RATIO, check_declared_size
from napari_stnreg.core.grid import Grid
from napari_stnreg.io.exchange.itk import FILE_UNIT
from napari_stnreg.io.exchange.linear_matrix import affine_from_ras
from napari_stnreg.io.file_content import check_memory
from napari_stnreg.io.itk_image import LPS_TO_RAS
from napari_stnreg.transforms import DisplacementTransform, Transform, chain

_PART = re.compile(r"Transform_Type\s*=\s*(\w+)\s*;(.*?)(?=Transform_Type|\Z)", re.DOTALL)
_MATRIX = re.compile(r"Linear_Transform\s*=\s*([^;]*);", re.DOTALL)
_VOLUME = re.compile(r"Displacement_Volume\s*=\s*([^;]*);")
_INVERTED = re.compile(r"Invert_Flag\s*=\s*True")
_SPACES = ("xspace", "yspace", "zspace")
_VECTORS = "vector_dimension"


def read_xfm(path: Path) -> Transform:
    """Read a transform file of MINC with linear parts and grid transforms.

    It maps the source (moving) to the target (fixed) world, so its inverse is returned.

    Raises
    ------
    InputError
        If the file or a displacement volume is damaged or missing, or a part is of another kind.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"'{path.name}' cannot be read: {error.strerror or error}.") from error
    text = re.sub(r"%.*", "", text)
    parts = _PART.findall(text)
    if not text.lstrip().startswith("MNI Transform File") or not parts:
        raise InputError(f"'{path.name}' is not a transform file of MINC.")
    backward: list[Transform] = []
    for kind, body in parts:
        if kind == "Linear":
            part = _linear(body, path.name)
        elif kind == "Grid_Transform":
            part = _grid_transform(body, path)
        else:
            raise InputError(f"'{path.name}' has a part of type {kind}. Linear and grid transforms are supported.")
        backward.insert(0, part if _INVERTED.search(body) else part.inverse())
    matrices = [one.as_matrix() for one in backward]
    if all(one is not None for one in matrices):
        whole = np.linalg.multi_dot([np.eye(4), *[one for one in matrices[::-1] if one is not None], np.eye(4)])
        return affine_from_ras(LPS_TO_RAS @ whole @ LPS_TO_RAS, path.name)
    return chain(*backward)


def _linear(body: str, name: str) -> Transform:
    found = _MATRIX.search(body)
    try:
        numbers = [float(word) for word in found[1].split()] if found else []
        matrix = np.vstack([np.reshape(numbers, (3, 4)), [0, 0, 0, 1]])
    except ValueError as error:
        raise InputError(f"'{name}' is damaged: a matrix does not have 12 valid numbers.") from error
    return affine_from_ras(matrix, name)


def _grid_transform(body: str, path: Path) -> Transform:
    """Read the displacement volume that a grid transform names; it is looked for beside the file."""
    named = _VOLUME.search(body)
    target = Path(named[1].strip()) if named else Path()
    volume = next((one for one in (path.parent / target, path.parent / target.name) if one.is_file()), None)
    if volume is None:
        raise InputError(f"'{path.name}' refers to the displacement volume '{target}', which does not exist beside it.")
    if not h5py.is_hdf5(volume):
        raise InputError(f"'{volume.name}' is not a volume of MINC 2. Convert it with 'mincconvert -2'.")
    try:
        with h5py.File(volume, "r") as stream:
            minc = Minc2File(stream)
            shape, names = minc.get_data_shape(), list(minc._dim_names)
            declared = float(np.prod(shape, dtype=np.float64)) * 8
            check_declared_size(volume.name, declared, volume.stat().st_size, ratio=8 * LARGEST_DEFLATE_RATIO)
            check_memory(volume.name, int(declared))
            values = np.asarray(minc.get_scaled_data(), dtype=np.float64)
            affine = minc.get_affine()
    except InputError:
        raise
    except Exception as error:  # a parser of another project
        raise InputError(f"'{volume.name}' is not a displacement volume of MINC 2, or is damaged.") from error
    spaces = [one for one in names if one != _VECTORS]
    if sorted(spaces) != sorted(_SPACES) or _VECTORS not in names or shape[names.index(_VECTORS)] != 3:
        raise InputError(
            f"'{volume.name}' has the axes {', '.join(names)}. A displacement volume has three and vectors."
        )
    # (vectors, z, y, x): the columns of the affine are in the order of the file, its rows are x, y, z
    values = values.transpose([names.index(one) for one in (_VECTORS, *_SPACES[::-1])])
    matrix = LPS_TO_RAS @ affine[:, [*(spaces.index(one) for one in _SPACES[::-1]), 3]]
    field = torch.from_numpy(np.ascontiguousarray(values * np.diag(LPS_TO_RAS)[:3, None, None, None]))
    return DisplacementTransform(field, Grid(field.shape[1:], matrix, FILE_UNIT))
