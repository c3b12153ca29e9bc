"""Our own file for transforms: one safetensors file with a JSON header, every family kept exactly.

The header is one key of the file's metadata: format, version, family, number of axes, unit, the settings that
rebuild the transform (grids and the like), and ``info``, free content of a run. The parameters
are the tensors. Nothing in such a file can run code.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch

from napari_stnreg.core import container
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import CoordinateSystem, Grid
from napari_stnreg.core.image import Matrix
from napari_stnreg.transforms import Transform, transform_class
from napari_stnreg.transforms.base import FILE_FORMAT, FILE_VERSION


def load_transform_file(path: str | os.PathLike[str]) -> tuple[Transform, dict[str, Any]]:
    """Read what :meth:`Transform.save <napari_stnreg.transforms.base.Transform.save>` wrote.

    Returns
    -------
    Transform, dict
        The transform, and the ``info`` saved with it.

    Raises
    ------
    InputError
        If the file is missing, cut short, of another kind, from a newer version, or contradicts itself.
    """
    source = Path(path)
    header, tensors = container.read(source)
    return transform_from(header, tensors, source)


def transform_from(
    header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], source: Path
) -> tuple[Transform, dict[str, Any]]:
    """Build the transform of parsed file content; see :func:`load_transform_file`."""
    container.expect(header, FILE_FORMAT, FILE_VERSION, source)
    damaged = f"'{source.name}' is damaged: its header and its parameters do not fit together"
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise InputError(f"'{source.name}' is damaged: '{name}' holds values that are not finite numbers.")
    try:
        transform = transform_class(header["family"]).from_state(dict(tensors), header["settings"])
        fixed, moving = (_space(name) for name in header.get("coordinate_systems", ("world", "world")))
        transform = transform.with_coordinate_systems(fixed, moving)
        transform = transform.with_itk_matrices(*(_matrix(rows) for rows in header.get("itk_matrices", (None, None))))
        if header.get("domain") is not None:
            transform = transform.with_domain(Grid.from_dict(header["domain"]))
        info = dict(header.get("info") or {})
    except InputError as error:
        raise InputError(f"{damaged} ({error})") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"{damaged}.") from error
    if (transform.ndim, transform.unit) != (header.get("ndim"), header.get("unit")):
        raise InputError(f"{damaged}.")
    return transform, info


def _matrix(rows: Any) -> Matrix | None:
    if rows is None:
        return None
    matrix = np.asarray(rows, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-30:
        raise InputError("a matrix is damaged")
    return tuple(tuple(row) for row in matrix.tolist())


def _space(name: str) -> CoordinateSystem:
    if name not in get_args(CoordinateSystem):
        raise InputError(f"there is no space '{name}'")
    return cast(CoordinateSystem, name)
