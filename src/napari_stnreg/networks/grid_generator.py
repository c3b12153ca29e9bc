"""The grid generator: from a transform to the coordinates at which the sampler reads the moving image."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from napari_stnreg.core.grid import Grid
from napari_stnreg.ops.interpolation import Kernel, Padding, sample_normalized, sampler_matrix
from napari_stnreg.transforms import (
    AffineTransform,
    ChainTransform,
    DisplacementTransform,
    Transform,
    VelocityTransform,
)
from napari_stnreg.transforms.base import affine_points, lattice_points


def sampling_grid(transform: Transform, onto: Grid, image_grid: Grid) -> Tensor:
    """Where the voxels of a lattice land in an image, in the sampler's own coordinates.

    Parameters
    ----------
    transform
        ``B`` transforms, fixed world to moving world.
    onto
        The lattice of the result, in the fixed world.
    image_grid
        Where the moving image lies.

    Returns
    -------
    Tensor
        ``(B, *onto.shape, D)``, normalized and ordered (x, y, z); differentiable in the transform's parameters.
    """
    unit = transform.unit
    onto, image_grid = onto.with_unit(unit), image_grid.with_unit(unit)
    matrix = sampler_matrix(image_grid.shape, np.asarray(np.linalg.inv(image_grid.matrix), dtype=np.float64))
    parts = transform.parts if isinstance(transform, ChainTransform) else [transform]
    last = torch.as_tensor(matrix, dtype=torch.float64, device=transform.device)[None]
    if transform.device.type == "mps":
        last = last.float()
    if isinstance(parts[-1], AffineTransform):  # one product of matrices instead of another pass over the points
        last = last @ parts[-1].matrix.to(last.dtype)
        parts = parts[:-1]
    place = torch.as_tensor(onto.matrix.copy(), dtype=last.dtype, device=last.device)
    if not parts:
        return lattice_points((last @ place).float(), onto.shape)
    if len(parts) == 1 and isinstance(parts[0], DisplacementTransform | VelocityTransform):
        return _dense(parts[0], onto, last, place)
    points = ChainTransform(parts).on_grid(onto)
    return affine_points(points, last.to(points.dtype))


def _dense(part: DisplacementTransform | VelocityTransform, onto: Grid, last: Tensor, place: Tensor) -> Tensor:
    """Base coordinates plus the displacement brought into the sampler's frame; no points of the world are made."""
    displacement = part.as_displacement if isinstance(part, VelocityTransform) else part
    field = displacement.field_at(onto).movedim(1, -1)
    base = lattice_points((last @ place).float(), onto.shape)
    linear = last[:, :-1, :-1].float()
    ndim = onto.ndim
    swapped = linear.flip(1)
    if linear.shape[0] == 1 and bool((swapped == torch.diag_embed(swapped.diagonal(dim1=1, dim2=2))).all()):
        return torch.addcmul(base, field.flip(-1), swapped[0].diagonal().flip(0))
    shifted = torch.cat([linear, linear.new_zeros(linear.shape[0], ndim, 1)], dim=2)
    rows = torch.cat([shifted, shifted.new_zeros(shifted.shape[0], 1, ndim + 1)], dim=1)
    return base + affine_points(field, rows)


def warped(
    image: Tensor,
    transform: Transform,
    onto: Grid,
    image_grid: Grid | None = None,
    *,
    padding: Padding = "border",
    mode: Kernel = "linear",
) -> Tensor:
    """Read images ``(B, C, *image_grid.shape)`` once through ``B`` transforms, ``(B, C, *onto.shape)``."""
    return sample_normalized(
        image, sampling_grid(transform, onto, image_grid or onto).to(image.dtype), padding=padding, mode=mode
    )
