"""Theta: the six parameters of an affine spatial transformer, as a matrix and as rotation, scale, shear and shift.

References
----------
Jaderberg et al., Spatial transformer networks, NeurIPS 2015, equation 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.linalg import rotation_2d
from napari_stnreg.transforms.linear import AffineTransform


@dataclass(frozen=True)
class AffineParameters:
    """An affine map as shear along x, then scale, then rotation, then shift.

    Parameters
    ----------
    rotation
        Degrees from the x axis toward the y axis, which on screen is clockwise.
    scale_x, scale_y
        Scale factors; a negative ``scale_y`` mirrors.
    shear
        Shift of x per unit of y.
    shift_x, shift_y
        Pixels.
    """

    rotation: float = 0.0
    scale_x: float = 1.0
    scale_y: float = 1.0
    shear: float = 0.0
    shift_x: float = 0.0
    shift_y: float = 0.0


@dataclass(frozen=True, eq=False)
class Theta:
    """The matrix ``[A | t]`` that maps output points to the input points they sample.

    Parameters
    ----------
    matrix
        ``(2, 3)`` in pixels of the input, (x, y) order, about the middle of the image:
        ``(x, y)_input = A (x, y)_output + t``.

    Notes
    -----
    This is the pull-back direction: a scale of 0.5 shrinks the sampling grid, and the output shows the image enlarged.
    """

    matrix: FloatArray

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        if matrix.shape != (2, 3):
            raise InputError(f"Theta needs 2 rows of 3 numbers, not shape {matrix.shape}.")
        if not np.isfinite(matrix).all():
            raise InputError("Theta has a value that is not finite.")
        matrix.flags.writeable = False
        object.__setattr__(self, "matrix", matrix)

    @classmethod
    def identity(cls) -> Theta:
        """Return the identity."""
        return cls(np.eye(2, 3))

    # -- normalized coordinates, -1 to 1 from face to face, as in the paper

    @classmethod
    def from_normalized(cls, values: npt.ArrayLike, shape: Sequence[int]) -> Theta:
        """Build theta from the paper's six numbers for an image of ``shape`` (y, x), -1 and 1 at its outer faces."""
        values = np.asarray(values, dtype=np.float64)
        if values.size != 6:
            raise InputError(f"Theta has six numbers, not {values.size}.")
        half = np.array([shape[1], shape[0]]) / 2
        return cls(half[:, None] * values.reshape(2, 3) / np.append(half, 1.0))

    def normalized(self, shape: Sequence[int]) -> FloatArray:
        """Return the paper's six numbers ``(2, 3)`` for an image of ``shape`` (y, x)."""
        half = np.array([shape[1], shape[0]]) / 2
        return np.asarray(self.matrix * np.append(half, 1.0) / half[:, None])

    # -- rotation, scale, shear and shift

    @classmethod
    def from_parameters(cls, parts: AffineParameters) -> Theta:
        """Build theta from rotation, scale, shear and shift."""
        linear = (
            rotation_2d(np.deg2rad(parts.rotation))
            @ np.diag([parts.scale_x, parts.scale_y])
            @ np.array([[1.0, parts.shear], [0.0, 1.0]])
        )
        return cls(np.column_stack([linear, [parts.shift_x, parts.shift_y]]))

    def parameters(self) -> AffineParameters:
        """Return rotation, scale, shear and shift; the inverse of :meth:`from_parameters`.

        Notes
        -----
        The QR decomposition with a positive first diagonal entry. It is unique as long as the first column is not
        zero.

        Raises
        ------
        InputError
            If the first column is zero, so that the rotation is undefined.
        """
        (a, b), (c, d) = self.matrix[:, :2]
        width = float(np.hypot(a, c))
        if width < 1e-12:
            raise InputError("The first column of theta is zero, so its rotation is undefined.")
        cosine, sine = a / width, c / width
        return AffineParameters(
            rotation=float(np.rad2deg(np.arctan2(c, a))),
            scale_x=width,
            scale_y=float(cosine * d - sine * b),
            shear=float((cosine * b + sine * d) / width),
            shift_x=float(self.matrix[0, 2]),
            shift_y=float(self.matrix[1, 2]),
        )

    # -- homogeneous matrix in (y, x), from the first pixel

    def transform(self, grid: Grid) -> AffineTransform:
        """Return the transform over an image with pixel coordinates."""
        linear, shift = self.matrix[::-1, 1::-1], self.matrix[::-1, 2]
        full = np.eye(3)
        full[:2, :2] = linear
        full[:2, 2] = grid.center - linear @ grid.center + shift
        return AffineTransform(full, grid.unit)

    def __call__(self, points: npt.ArrayLike) -> FloatArray:
        """Map (x, y) points about the center of the output, ``(..., 2)``, to the input."""
        return np.asarray(np.asarray(points, dtype=np.float64) @ self.matrix[:, :2].T + self.matrix[:, 2])
