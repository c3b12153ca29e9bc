"""Sampling a transform into a displacement field, and batches of transforms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.transforms.base import SLAB_POINTS, Transform
from napari_stnreg.transforms.chain import ChainTransform
from napari_stnreg.transforms.dense import DisplacementTransform


def as_displacement(transform: Transform, grid: Grid) -> DisplacementTransform:
    """Sample a transform into a displacement field: equal at the voxel centers, linear between them.

    Parameters
    ----------
    transform
        A transform of any family.
    grid
        Voxels of the field, in the fixed world; usually those of the fixed image.

    Returns
    -------
    DisplacementTransform
        In the unit of the transform, double precision.
    """
    in_unit = transform.check_grid(grid)
    field = np.empty((grid.ndim, *grid.shape))
    for (rows, mapped), (_, part) in zip(transform.slabs(grid), in_unit.slabs(SLAB_POINTS), strict=True):
        field[:, rows] = np.moveaxis(mapped - part.points(), -1, 0)
    return DisplacementTransform(torch.from_numpy(field), in_unit).like(transform)


def collate_transforms(transforms: Sequence[Transform]) -> Transform:
    """Combine transforms of one kind into one with a batch axis.

    Raises
    ------
    InputError
        If they are of different kinds.
    """
    first = transforms[0]
    if len(transforms) == 1:
        return first
    lengths = {len(one.parts) for one in transforms}
    if lengths != {1}:
        if len(lengths) == 1:
            return ChainTransform(
                [collate_transforms(parts) for parts in zip(*(one.parts for one in transforms), strict=True)]
            )
    elif all(type(one) is type(first) and one.settings() == first.settings() for one in transforms):
        tensors = [one.tensors() for one in transforms]
        return type(first).from_state(
            {name: torch.cat([t[name] for t in tensors]) for name in tensors[0]}, first.settings()
        )
    raise InputError("Transforms of different kinds cannot be combined into one batch.")


def select_transforms(transform: Transform, indices: Sequence[int]) -> Transform:
    """Return some of a batch of transforms, detached."""
    shared = {"control_points"}  # of thin plates, the same for every pair
    picked = {
        name: t.detach() if name.rsplit(".", 1)[-1] in shared or len(t) == 1 else t[list(indices)].detach()
        for name, t in transform.tensors().items()
    }
    return type(transform).from_state(picked, transform.settings())
