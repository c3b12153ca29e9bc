"""The two families with one vector for every voxel: free displacements, and velocities whose flow never folds."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.ops.interpolation import resize
from napari_stnreg.transforms.dense import DisplacementTransform, VelocityTransform, apply_matrix
from napari_stnreg.transforms.families.base import TransformFamily


class DenseFamily(TransformFamily):
    """One vector for every voxel, ``(D, *shape)``, in voxels along the domain's own axes."""

    def parameter_shape(self, domain: Grid) -> tuple[int, ...]:
        """One vector a voxel."""
        return (domain.ndim, *domain.shape)

    def resample(self, theta: Tensor, old: Grid, new: Grid) -> Tensor:
        """The field on a finer or coarser domain over the same extent (any other lattice is read point by point)."""
        return resample_field(theta, old, new)


class DisplacementFamily(DenseFamily):
    """``T(x) = x + u(x)``; parameters are the displacements ``u``."""

    name = "displacement"

    def __call__(self, theta: Tensor, domain: Grid) -> DisplacementTransform:
        """The transforms with parameters ``(B, D, *shape)``."""
        return DisplacementTransform(apply_matrix(domain.linear, theta), domain)


class DiffeomorphicFamily(DenseFamily):
    """Flow of a stationary velocity; parameters are the velocities."""

    name = "diffeomorphic"

    def __call__(self, theta: Tensor, domain: Grid) -> VelocityTransform:
        """The transforms with parameters ``(B, D, *shape)``."""
        return VelocityTransform(apply_matrix(domain.linear, theta), domain)


def resample_field(theta: Tensor, old: Grid, new: Grid) -> Tensor:
    """A field in voxels of one grid as a field in voxels of another, ``(B, D, *new.shape)``."""
    new = new.with_unit(old.unit)
    if new.same_lattice(old):
        return theta.clone()
    if new.same_lattice(old.resized(new.shape)):
        field = resize(theta, new.shape)
    else:
        field = DisplacementTransform(theta, old).field_at(new)
    change: FloatArray = np.linalg.inv(new.linear) @ old.linear
    return apply_matrix(change, field)
