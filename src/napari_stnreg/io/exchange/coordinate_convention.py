"""Conversion between our worlds and the coordinates of other programs' files.

Ours are ordered (z, y, x). Theirs are (x, y, z); and where an image came from a NIfTI file, ITK counts x to the left
and y to the back (LPS, millimeters), while our world of it is the scanner's, (superior, anterior, right). Any other
layer's world becomes (x, y, z) without a flip, and the numbers stay in the transform's unit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import cast, get_args

import numpy as np

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import CoordinateSystem, FloatArray, Grid, HasGrid
from napari_stnreg.core.image import Matrix, itk_matrix_of
from napari_stnreg.core.units import canonical, conversion_factor
from napari_stnreg.transforms import AffineTransform, Transform, chain

SIDES = ("fixed", "moving")
_NOTE = re.compile(r"napari-stnreg unit=(\S+) fixed=(\S+) moving=(\S+)")


@dataclass(frozen=True)
class CoordinateConvention:
    """What a file's two coordinate systems are.

    Parameters
    ----------
    fixed, moving
        ``"scanner"`` for what ITK reads from NIfTI (LPS, millimeters), ``"world"`` for plain x, y, z.
    unit
        Unit of plain coordinates, and of the transform that is read.
    itk_matrices
        Where ITK puts the voxels of the two files, if elsewhere; see :attr:`Transform.itk_matrices`.
    """

    fixed: CoordinateSystem = "world"
    moving: CoordinateSystem = "world"
    unit: str = "pixel"
    itk_matrices: tuple[Matrix | None, Matrix | None] = (None, None)

    @classmethod
    def of(cls, transform: Transform) -> CoordinateConvention:
        """Return the convention of a transform to write."""
        return cls(*transform.coordinate_systems, transform.unit, transform.itk_matrices)

    @classmethod
    def told(
        cls,
        ndim: int,
        note: str = "",
        *,
        fixed: HasGrid | None = None,
        moving: HasGrid | None = None,
        space: CoordinateSystem | None = None,
        unit: str | None = None,
        default: CoordinateSystem | None = None,
        is_itk: bool = True,
    ) -> CoordinateConvention:
        """Return the convention of a file: given by the caller, else by the images, else by our note in the file.

        A file of another program states neither; then a 3D transform is taken to be in scanner space, as nearly all of
        them are, and a 2D one in pixels.

        Raises
        ------
        InputError
            If there is no such space, or the file fits ITK's position of images that are not given.
        """
        if space is not None and space not in get_args(CoordinateSystem):
            raise InputError(f"There is no space '{space}'. Use scanner (images from NIfTI) or world (all others).")
        own = cls.from_note(note)
        moved = re.findall(r"itk=(\S+)", note)
        moved = moved[0].split(",") if own is not None and moved else []
        usual: CoordinateSystem = default or ("scanner" if ndim == 3 else "world")
        found = own or cls(usual, usual, "")
        images = (fixed, moving)
        sides: list[CoordinateSystem] = [
            space or (kept if image is None else image.coordinate_system)
            for image, kept in zip(images, (found.fixed, found.moving), strict=True)
        ]
        if unit is None:
            # The numbers of a plain world are in the image's own unit; a scanner's are millimeters.
            plain = [i.grid.unit for i, s in zip(images, sides, strict=True) if i is not None and s == "world"]
            unknown = "mm" if "scanner" in sides else "pixel"
            unit = plain[0] if plain else (own.unit if own is not None else unknown)
        matrices = [None if one is None else itk_matrix_of(getattr(one, "metadata", {})) for one in images]
        if is_itk and any(one is None and side in moved for one, side in zip(images, SIDES, strict=True)):
            raise InputError(
                "The transform was written for ITK's position of images whose sform and qform differ. Give the fixed "
                "and the moving image."
            )
        return cls(sides[0], sides[1], canonical(unit), (matrices[0], matrices[1]) if is_itk else (None, None))

    @classmethod
    def from_note(cls, text: str) -> CoordinateConvention | None:
        """Return the convention in our own note in a file."""
        match = _NOTE.search(text)
        if match is None or not {match[2], match[3]} <= set(get_args(CoordinateSystem)):
            return None
        return cls(cast(CoordinateSystem, match[2]), cast(CoordinateSystem, match[3]), match[1])

    @property
    def note(self) -> str:
        """Return a note for the file with what ITK's formats have no field for."""
        moved = ",".join(side for side, one in zip(SIDES, self.itk_matrices, strict=True) if one is not None)
        return f"napari-stnreg unit={self.unit} fixed={self.fixed} moving={self.moving}{moved and f' itk={moved}'}"

    def outward(self, transform: Transform) -> Transform:
        """Convert a transform to the file's coordinates, points in (x, y, z) order."""
        there = self._matrix("fixed", transform.unit, transform.ndim)
        other = self._matrix("moving", transform.unit, transform.ndim)
        before, after = self._itk_steps(transform.ndim)
        plain = _between(transform, there, other, "file")
        if before is not None:
            plain = chain(AffineTransform(np.linalg.inv(before), "file"), plain)
        return plain if after is None else chain(plain, AffineTransform(after, "file"))

    def grid_outward(self, grid: Grid) -> Grid:
        """Convert a grid of the fixed world, in the transform's unit, to the file's coordinates."""
        matrix = self._matrix("fixed", grid.unit, grid.ndim) @ grid.matrix
        before, _ = self._itk_steps(grid.ndim)
        return Grid(grid.shape, matrix if before is None else before @ matrix, "file")

    def inward(self, transform: Transform) -> Transform:
        """Convert a transform from the file's coordinates to world coordinates in :attr:`unit`."""
        there, other = (
            np.asarray(np.linalg.inv(self._matrix(side, self.unit, transform.ndim)), dtype=np.float64) for side in SIDES
        )
        before, after = self._itk_steps(transform.ndim)
        if before is not None:
            transform = chain(AffineTransform(before, transform.unit), transform)
        if after is not None:
            transform = chain(transform, AffineTransform(np.linalg.inv(after), transform.unit))
        found = _between(transform, there, other, self.unit).with_coordinate_systems(self.fixed, self.moving)
        return found.with_itk_matrices(*self.itk_matrices)

    def _itk_steps(self, ndim: int) -> tuple[FloatArray | None, FloatArray | None]:
        """For each side, from the file's coordinates of our position to those of ITK's position; ``None`` if equal."""
        steps: list[FloatArray | None] = []
        for side, space, one in zip(SIDES, (self.fixed, self.moving), self.itk_matrices, strict=True):
            if one is None or space != "scanner" or ndim != 3:
                steps.append(None)
            else:
                there = self._matrix(side, "mm", ndim)
                steps.append(np.asarray(there @ np.asarray(one) @ np.linalg.inv(there), dtype=np.float64))
        return steps[0], steps[1]

    def _matrix(self, side: str, unit: str, ndim: int) -> FloatArray:
        """Return the matrix from world coordinates in a unit to the file's coordinates of a side."""
        space = self.fixed if side == "fixed" else self.moving
        matrix = np.zeros((ndim + 1, ndim + 1))
        matrix[:-1, :-1] = np.eye(ndim)[::-1]
        matrix[-1, -1] = 1
        if space == "scanner":
            matrix[:2] *= -1
            matrix[:-1] *= conversion_factor(unit, "mm")
        else:
            matrix[:-1] *= conversion_factor(unit, self.unit)
        return matrix


def _between(transform: Transform, fixed: FloatArray, moving: FloatArray, unit: str) -> Transform:
    """Return ``moving o T o fixed^-1``."""
    changed = transform.change_coordinates(fixed, unit)
    step = moving @ np.linalg.inv(fixed)
    if np.allclose(step, np.eye(len(step)), atol=1e-12):
        return changed
    return chain(changed, AffineTransform(step, unit))
