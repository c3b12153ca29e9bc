"""Warp an image: sample the original once, where a transform maps the voxels of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.io.conversion import ImageLike, as_image
from napari_stnreg.ops.pullback import Interpolation as Interpolation
from napari_stnreg.ops.pullback import resample
from napari_stnreg.transforms import Transform


class HasTransform(Protocol):
    """An object that carries a transform, such as the result of a registration."""

    transform: Transform


def warp(
    image: ImageLike,
    transform: Transform | HasTransform | None,
    grid: Grid | ImageLike,
    interpolation: Interpolation | None = None,
    fill: float | Sequence[float] | None = 0,
    *,
    spacing: float | Sequence[float] | None = None,
    unit: str | None = None,
    moving_spacing: float | Sequence[float] | None = None,
    moving_unit: str | None = None,
    device: torch.device | str = "cpu",
) -> Image:
    """Resample an image onto a grid through a transform, ``warped(x) = image(transform(x))``.

    The image is sampled once, slab by slab. It extends to the outer faces of its outermost voxels; points beyond are
    outside.

    Parameters
    ----------
    image
        The moving image, of any dtype, with or without channels; see :func:`~napari_stnreg.as_image`.
    transform
        Fixed world to moving world, or the result of a registration; ``None`` for the identity.
    grid
        The voxels of the result in the fixed world: a :class:`~napari_stnreg.Grid`, or the fixed image. Grid, transform
        and image may be in different units of length.
    interpolation
        ``"linear"``, ``"cubic"`` (cubic B-spline) or ``"nearest"``, which copies values exactly. By default nearest for
        labels and linear for all other images; whole numbers are labels if file or layer say so, by their name, or if
        they have few values in connected regions, which a warning announces.
    fill
        Value outside the image, one number or one for each channel; ``None`` takes the median of the image's border
        (white for a brightfield slide).
    spacing, unit
        Voxel size and unit of both images, where ``grid`` is given as an image.
    moving_spacing, moving_unit
        Voxel size and unit of ``image``, where they differ.
    device
        Device that computes the points and the linear interpolation.

    Returns
    -------
    Image
        On ``grid``, with the image's dtype, channels, name and metadata. Whole numbers are rounded and clipped. Its
        mask is true where the image, and its mask if it has one, was read; it is ``None`` if that is everywhere.

    Raises
    ------
    InputError
        If dimensions, units or channels do not fit together, or the fill value does not fit the dtype.
    """
    if not isinstance(grid, Grid):
        grid = as_image(grid, spacing=spacing, unit=unit).grid
    image = as_image(
        image,
        spacing=spacing if moving_spacing is None else moving_spacing,
        unit=unit if moving_unit is None else moving_unit,
    )
    if transform is not None and not isinstance(transform, Transform):
        transform = transform.transform
    return resample(image, transform, grid, interpolation, fill, device)
