"""Random affine transforms and smooth deformations with known parameters."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.transforms import AffineTransform, BSplineTransform, DisplacementTransform, Transform, chain
from napari_stnreg.transforms.bspline import NO_FOLDING_LIMIT, BSplineFamily
from napari_stnreg.transforms.linear import rotation


@dataclass(frozen=True)
class SpatialAugmentation:
    """Random affine transforms about the image center and smooth deformations, in world units.

    Parameters are the largest values that are drawn; 0 disables a part.

    Parameters
    ----------
    rotation
        Degrees, about a random axis.
    scale
        Largest relative change of an isotropic scale: 0.15 draws factors from 0.85 to 1.15.
    stretch
        The same for each axis separately, in addition.
    shear
        Off-diagonal entries of the matrix.
    shift
        World units along each axis.
    deformation
        Largest displacement of a control point of a cubic B-spline, world units; clamped below the fraction of the
        control spacing at which folding is possible.
    control_spacing
        Control point spacing, world units.
    flip
        Whether axes may be mirrored. Only for transforms of both images of a pair.

    Raises
    ------
    InputError
        If a value is negative or not finite.
    """

    rotation: float = 0.0
    scale: float = 0.0
    stretch: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    deformation: float = 0.0
    control_spacing: float = 0.0
    flip: bool = False

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not np.isfinite(value) or value < 0:
                raise InputError(f"The augmentation's {name} must be 0 or more, not {value}.")
        if self.scale >= 1 or self.stretch >= 1:
            raise InputError("The augmentation's scale and stretch are relative changes below 1, such as 0.15.")
        if self.deformation > 0 and self.control_spacing <= 0:
            raise InputError("Give control_spacing, the control point spacing, together with deformation.")

    def draw(self, random: np.random.Generator, grid: Grid) -> Transform:
        """Draw a transform ``T`` of the grid's world, by which an image ``I`` becomes ``x -> I(T(x))``.

        The number of random draws and the classes of the parts do not depend on the values, so that transforms of one
        augmentation can be collated.
        """
        affine = self.draw_affine(random, grid)
        if self.deformation <= 0:
            return affine
        family = BSplineFamily(np.maximum(self.control_spacing / grid.spacing, 1.0).tolist())
        control = family.control_grid(grid)
        limit = np.minimum(self.deformation, 0.99 * NO_FOLDING_LIMIT * control.spacing)
        strength = random.uniform(0.0, 1.0)
        directions = random.uniform(-1.0, 1.0, (grid.ndim, *control.shape))
        values = strength * limit.reshape(-1, *[1] * grid.ndim) * directions
        # The limit is along the grid's axes; rotate the displacements into the world.
        displacements = np.einsum("ij,j...->i...", grid.linear / grid.spacing, values)
        spline = BSplineTransform(torch.from_numpy(displacements.astype(np.float32))[None], control)
        # Converted to a field, which is twenty times faster at scattered points. Four voxels per control spacing are
        # enough, and the field is the true transform by definition.
        cells = np.asarray(family.cells(grid))
        fine = grid.resized([min(n, 4 * c) for n, c in zip(grid.shape, cells, strict=True)])
        return chain(DisplacementTransform(torch.from_numpy(spline.displacement(fine))[None], fine), affine)

    def draw_affine(self, random: np.random.Generator, grid: Grid) -> AffineTransform:
        """Draw the affine part alone."""
        ndim = grid.ndim
        axis = random.normal(size=1 if ndim == 2 else 3)
        axis /= max(float(np.linalg.norm(axis)), 1e-9)
        angle = np.deg2rad(self.rotation) * random.uniform(-1, 1)
        linear = rotation(torch.from_numpy(axis * angle)[None])[0].numpy()
        linear = linear * (1 + self.scale * random.uniform(-1, 1))
        linear = linear @ np.diag(1 + self.stretch * random.uniform(-1, 1, ndim))
        off = random.uniform(-1, 1, (ndim, ndim)) * (1 - np.eye(ndim))
        linear = linear @ (np.eye(ndim) + self.shear * off)
        mirrored = np.where(random.uniform(size=ndim) < 0.5, -1.0, 1.0)
        if self.flip:
            linear = linear @ np.diag(mirrored)
        shift = self.shift * random.uniform(-1, 1, ndim)
        matrix = np.eye(ndim + 1)
        matrix[:-1, :-1] = linear
        matrix[:-1, -1] = grid.center + shift - linear @ grid.center
        return AffineTransform(matrix, grid.unit)

    def describe(self) -> dict[str, Any]:
        """Return the ranges that are drawn from, JSON-ready."""
        return {name: value for name, value in asdict(self).items() if value}
