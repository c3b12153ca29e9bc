"""Grid generator: from a transform to the coordinates at which the moving image is sampled."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from napari_stnreg.core.grid import Grid
from napari_stnreg.ops.interpolation import Kernel, Padding, sample_normalized, sampler_matrix
from napari_stnreg.ops.lattice import affine_points, lattice_points
from napari_stnreg.ops.uncompiled import uncompiled
from napari_stnreg.transforms import ChainTransform, DisplacementTransform, Transform


@uncompiled
def sampling_grid(transform: Transform, onto: Grid, image_grid: Grid, dtype: torch.dtype = torch.float32) -> Tensor:
    """Map the voxels of a grid into an image, in the sampler's normalized coordinates.

    Parameters
    ----------
    transform
        ``B`` transforms, fixed world to moving world.
    onto
        Grid of the result, in the fixed world.
    image_grid
        Grid of the moving image.
    dtype
        Type of the coordinates.

    Returns
    -------
    Tensor
        ``(B, *onto.shape, D)``, normalized and ordered (x, y, z); differentiable in the transform's parameters.
    """
    unit = transform.unit
    onto, image_grid = onto.with_unit(unit), image_grid.with_unit(unit)
    matrix = sampler_matrix(image_grid.shape, np.asarray(np.linalg.inv(image_grid.matrix), dtype=np.float64))
    parts = transform.parts
    rows = matrix[:-1, :-1][::-1]
    is_axis_aligned = bool((rows == np.diag(np.diag(rows))).all())
    last = torch.as_tensor(matrix, dtype=torch.float64, device=transform.device)[None]
    if transform.device.type == "mps":
        last = last.float()
    predicted = False
    if parts[-1].matrix is not None:  # a matrix product instead of another pass over the points
        last = last @ parts[-1].matrix.to(last.dtype)
        # A GPU would have to be waited for, and a traced program cannot decide by values.
        traced = torch.compiler.is_compiling()
        is_axis_aligned = is_axis_aligned and last.device.type == "cpu" and not traced
        predicted = True
        parts = parts[:-1]
    place = torch.as_tensor(onto.matrix.copy(), dtype=last.dtype, device=last.device)
    if not parts:
        return lattice_points((last @ place).to(dtype), onto.shape)
    field = parts[0].displacement_field() if len(parts) == 1 else None
    if field is not None:
        is_diagonal = is_axis_aligned and last.shape[0] == 1 and (not predicted or _is_diagonal(last))
        return _dense(field, onto, last, place, is_diagonal, dtype)
    points = ChainTransform(parts).on_grid(onto)
    return affine_points(points, last.to(points.dtype))


def _is_diagonal(last: Tensor) -> bool:
    """Return whether the linear part is diagonal in (z, y, x) order; reads the values."""
    swapped = last[:, :-1, :-1].flip(1)
    return bool((swapped == torch.diag_embed(swapped.diagonal(dim1=1, dim2=2))).all())


def _dense(
    displacement: DisplacementTransform,
    onto: Grid,
    last: Tensor,
    place: Tensor,
    is_diagonal: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Add the displacement in the sampler's coordinates to the base grid, without computing world points.

    ``is_diagonal`` says whether the matrix ``last`` is a single one whose linear part is diagonal in (z, y, x) order.
    """
    field = displacement.field_at(onto).movedim(1, -1)
    base = lattice_points((last @ place).to(dtype), onto.shape)
    linear = last[:, :-1, :-1].to(dtype)
    ndim = onto.ndim
    if is_diagonal:
        return torch.addcmul(base, field.flip(-1), linear.flip(1)[0].diagonal().flip(0))
    shifted = torch.cat([linear, linear.new_zeros(linear.shape[0], ndim, 1)], dim=2)
    rows = torch.cat([shifted, shifted.new_zeros(shifted.shape[0], 1, ndim + 1)], dim=1)
    return base + affine_points(field, rows)


def warp_batch(
    image: Tensor,
    transform: Transform,
    onto: Grid,
    image_grid: Grid | None = None,
    *,
    padding: Padding = "border",
    mode: Kernel = "linear",
) -> Tensor:
    """Warp a batch of images, ``warped(x) = image(T(x))``.

    Parameters
    ----------
    image
        ``(B, C, *image_grid.shape)``. Integers are label maps: sampled by nearest neighbor, with 0 outside.
    transform
        ``B`` transforms from the world of ``onto`` to that of the image.
    onto
        Grid of the result.
    image_grid
        Grid of the images; ``onto`` if not given.
    padding, mode
        See :func:`~napari_stnreg.ops.interpolation.sample_normalized`.

    Returns
    -------
    Tensor
        ``(B, C, *onto.shape)``.
    """
    if not image.is_floating_point():
        labels = warp_batch(image.float(), transform, onto, image_grid, padding="zeros", mode="nearest")
        return labels.to(image.dtype)
    precision = torch.float64 if image.dtype == torch.float64 else torch.float32
    coordinates = sampling_grid(transform, onto, image_grid or onto, precision).to(image.dtype)
    return sample_normalized(image, coordinates, padding=padding, mode=mode)
