"""Orientation of files that state none, taken from the other image of the pair.

A NIfTI file whose sform and qform have the code 0 lost its orientation, usually in a program that keeps the order of
the voxels. Read by the default of the format, it may be a mirror image of its partner, which no rotation corrects. So
its axes are taken to be stored in the partner's order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.units import conversion_factor
from napari_stnreg.io.nifti import KEY, AxisOrientation, header_of
from napari_stnreg.registration.result import Progress, Result
from napari_stnreg.transforms import AffineTransform, Transform, chain


@dataclass(frozen=True)
class Reorientation:
    """A moving image that is oriented as its partner, and the way back.

    Parameters
    ----------
    fixed
        The fixed image.
    moving
        The moving image as it is read.
    matrix
        From the world of the moving image to the one in which both images have the same orientation, ``(4, 4)``,
        in the unit of the moving image.
    note
        One sentence for the user.
    """

    fixed: Image
    moving: Image
    matrix: FloatArray
    note: str

    def reoriented(self) -> Image:
        """Return the moving image, oriented as its partner."""
        grid = self.moving.grid
        return self.moving.replace(grid=Grid(grid.shape, self.matrix @ grid.matrix, grid.unit))

    def reoriented_points(self, points: npt.ArrayLike | None) -> npt.ArrayLike | None:
        """Map points of the moving world ``(N, 3)`` along with the image."""
        points = None if points is None else np.asarray(points, dtype=np.float64)
        if points is None or points.ndim != 2 or points.shape[1] != 3:
            return points  # refused by who reads them
        return np.asarray(points @ self.matrix[:3, :3].T + self.matrix[:3, 3])

    def restored(self, transform: Transform) -> Transform:
        """Return a transform to the reoriented image as one to the moving image as it is read."""
        back = np.linalg.inv(self.matrix)
        back[:3, 3] *= conversion_factor(self.moving.grid.unit, transform.unit)
        found = chain(transform, AffineTransform(back, transform.unit))
        return found.between(self.fixed, self.moving).with_domain(self.fixed.grid)

    def progress(self, step: Progress) -> Progress:
        """Return a step of the registration whose preview fits the moving image as it is read."""
        return replace(step, preview=lambda: self.restored(step.preview()))

    def result(self, result: Result) -> Result:
        """Return a result whose transform fits the moving image as it is read."""
        result.transform = self.restored(result.transform)
        result.warnings.insert(0, self.note)
        return result


def orient_as_partner(fixed: Image, moving: Image) -> Reorientation | None:
    """Return how the moving image is reoriented if one image of the pair states no orientation; ``None`` if it is not.

    An image that was moved since it was read is left as it is.
    """
    unknown = [_lost_orientation(one) for one in (fixed, moving)]
    if (unknown[0] is None) == (unknown[1] is None) or fixed.ndim != 3 or moving.ndim != 3:
        return None
    lost, partner = (fixed, moving) if unknown[0] is not None else (moving, fixed)
    own = unknown[0] or unknown[1]
    stored = _stored_orientation(partner)
    if own is None or stored is None or own == stored:
        return None
    turn = np.zeros((3, 3))
    for axis in range(3):
        turn[stored.axes[axis], own.axes[axis]] = stored.flips[axis] * own.flips[axis]
    center = lost.grid.center
    if lost is fixed:  # turning one world is turning the other one back
        turn = turn.T
        center = center * conversion_factor(fixed.grid.unit, moving.grid.unit)
    matrix = np.eye(4)
    matrix[:3, :3] = turn
    matrix[:3, 3] = center - turn @ center
    codes = "".join("ISPALR"[2 * stored.axes[axis] + (stored.flips[axis] > 0)] for axis in range(3))
    note = (
        f"'{lost.name}' states no orientation. Its axes are taken to be stored as those of '{partner.name}' ({codes})."
    )
    return Reorientation(fixed, moving, matrix, note)


def _lost_orientation(image: Image) -> AxisOrientation | None:
    """Return how the axes of a file without an orientation were read, ``None`` for every other image."""
    kept: Any = image.metadata.get(KEY)
    header = header_of(image.metadata)
    if header is None or not kept.get("unoriented", False):
        return None
    turn, affine, shape = _read_as(header)
    grid = turn.grid(affine, shape, image.grid.unit)
    same = grid.shape == image.grid.shape and np.allclose(grid.matrix, image.grid.matrix, atol=1e-4)
    return turn if same else None


def _stored_orientation(image: Image) -> AxisOrientation | None:
    """Return the order in which the axes of an oriented file are stored, if its reader kept it."""
    header = header_of(image.metadata)
    if header is not None:
        return _read_as(header)[0]
    axes = image.metadata.get("stored_axes")
    return None if axes is None else AxisOrientation(*(tuple(int(n) for n in one) for one in axes))


def _read_as(header: nib.Nifti1Header) -> tuple[AxisOrientation, FloatArray, tuple[int, ...]]:
    affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    return AxisOrientation.nearest(affine), affine, (*header.get_data_shape(), 1, 1)[:3]
