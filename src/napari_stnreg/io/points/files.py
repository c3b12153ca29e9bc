"""Points and pairs of landmarks in files: CSV tables, napari, ANTs, BigWarp, and fiducials and markups of 3D Slicer.

In memory, points are world coordinates of their image in (z, y, x) order. :func:`read_points`,
:func:`read_landmark_pairs` and :func:`read_landmarks` are the entry points for every format.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from napari_stnreg.core.atomic_io import write_text
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import CoordinateSystem, FloatArray, HasGrid
from napari_stnreg.core.units import conversion_factor
from napari_stnreg.io.formats import POINT_FORMATS, suffix_in
from napari_stnreg.io.points.columns import PointColumns
from napari_stnreg.io.points.slicer import (
    LPS,
    RAS,
    read_fcsv,
    read_markups,
    require_finite,
    write_fcsv,
    write_markups,
)
from napari_stnreg.io.points.table import Dialect, Table, read_table, write_table

POINT_SUFFIXES = tuple(dict.fromkeys(suffix for one in POINT_FORMATS for suffix in one.suffixes))
"""Suffixes of files of points."""
_SLICER = (".fcsv", ".mrk.json")


@dataclass(frozen=True)
class PointSet:
    """Points of one image.

    Parameters
    ----------
    points
        World coordinates ``(N, D)`` in (z, y, x) order.
    dialect
        Convention of the file that they came from.
    names
        Names of the points; empty if they have none.
    table
        The table that they came from, whose other columns are kept on writing.
    columns
        Columns of the table that hold their coordinates.
    """

    points: FloatArray
    dialect: Dialect = "table"
    names: tuple[str, ...] = ()
    table: Table | None = None
    columns: PointColumns | None = None


def is_points_file(path: Path) -> bool:
    """Return whether a file name has a suffix of points."""
    return suffix_in(path, POINT_SUFFIXES) is not None


def read_points(
    path: Path,
    ndim: int,
    *,
    image: HasGrid | None = None,
    system: CoordinateSystem | None = None,
    unit: str | None = None,
) -> PointSet:
    """Read points of one image from a file of any supported format.

    Parameters
    ----------
    path
        A ``.csv`` or ``.tsv`` table, ``.fcsv``, or ``.mrk.json``.
    ndim
        Number of axes of the image.
    image
        The image of the points. Files of napari hold voxels and need it, unless the unit is ``"pixel"``.
    system
        Coordinate system of the image, if it is not given; by default scanner coordinates in 3D.
    unit
        Unit of the world coordinates that are returned, for files in millimeters; that of the image by default.

    Raises
    ------
    InputError
        If the file cannot be read, or does not hold points with ``ndim`` coordinates.
    """
    suffix = suffix_in(path, POINT_SUFFIXES)
    system, unit = _world_of(image, ndim, system, unit)
    if suffix in _SLICER:
        points, names, signs = (read_fcsv if suffix == ".fcsv" else read_markups)(path)
        return PointSet(_from_xyz(points, signs, ndim, system, unit, path.name), "slicer", names)
    table = read_table(path)
    dialect = table.dialect
    if dialect == "ants":
        values = require_finite(table.values[:, :3], table.name)
        points = _from_xyz(values, LPS, ndim, system, unit, table.name)
        return PointSet(points, dialect, table.names, table, PointColumns((0, 1, 2)))
    columns = table.columns(ndim)
    values = require_finite(table.values[:, columns.indices], table.name)
    values = columns.to_world(values, image, unit, table.name)
    return PointSet(values, dialect, table.names, table, columns)


def write_points(
    path: Path,
    points: FloatArray,
    *,
    like: PointSet | None = None,
    dialect: Dialect | None = None,
    image: HasGrid | None = None,
    system: CoordinateSystem | None = None,
    unit: str | None = None,
) -> None:
    """Write points of one image in the format that the suffix names.

    Parameters
    ----------
    path
        A ``.csv``, ``.tsv``, ``.fcsv`` or ``.mrk.json`` file.
    points
        World coordinates ``(N, D)`` in (z, y, x) order.
    like
        Points that were read from a file: a table gets the same columns, and names are kept.
    dialect
        Convention of a table; by default that of ``like``.
    image
        The image of the points; a table for napari needs it.
    system, unit
        Coordinate system and unit of the points, if no image is given.

    Raises
    ------
    InputError
        If the suffix is not one of :data:`POINT_SUFFIXES`, the image is missing, or the file cannot be written.
    """
    suffix = suffix_in(path, POINT_SUFFIXES)
    if suffix is None:
        raise InputError(f"'{path.name}' is not a point file. Supported: {', '.join(POINT_SUFFIXES)}.")
    ndim = points.shape[1]
    system, unit = _world_of(image, ndim, system, unit)
    names = like.names if like is not None else ()
    if suffix in _SLICER:
        xyz = _to_xyz(points, system, unit)
        labels = names or tuple(f"P-{number}" for number in range(1, len(xyz) + 1))
        (write_fcsv if suffix == ".fcsv" else write_markups)(path, xyz, labels)
        return
    table = None if like is None else like.table
    dialect = dialect or ("table" if like is None or like.dialect == "slicer" else like.dialect)
    columns = like.columns if like is not None and table is not None and table.dialect == dialect else None
    if dialect == "ants":
        points = _to_xyz(points, system, unit)
    else:
        meaning = columns or PointColumns((), "voxels" if dialect == "napari" else "world")
        points = meaning.from_world(points, image, unit, path.name)
    if columns is None or table is None:
        table = _new_table(path.name, points, dialect, names)
    else:
        values = table.values.copy()
        values[:, columns.indices] = points
        table = replace(table, values=values)
    write_table(path, table, delimiter="\t" if suffix == ".tsv" else ",")


def read_landmark_pairs(path: Path, ndim: int) -> tuple[FloatArray, FloatArray]:
    """Read pairs of landmarks, ``(N, D)`` of the fixed and of the moving image, from a table or a file of BigWarp.

    Raises
    ------
    InputError
        If the file cannot be read or holds no pairs.
    """
    fixed, moving = read_table(path).pairs(ndim)
    return require_finite(fixed, path.name), require_finite(moving, path.name)


def write_landmark_pairs(
    path: Path, fixed: FloatArray, moving: FloatArray, *, dialect: Literal["table", "bigwarp"] = "table"
) -> None:
    """Write pairs of landmarks as a table with a header, or as BigWarp reads them.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL)
    if dialect == "bigwarp":
        for number, (a, b) in enumerate(zip(fixed[:, ::-1], moving[:, ::-1], strict=True)):
            writer.writerow([f"Pt-{number}", "true", *(f"{value:.10g}" for value in (*b, *a))])
    else:
        writer = csv.writer(stream, lineterminator="\n")
        axes = "zyx"[-fixed.shape[1] :]
        writer.writerow([f"{side}_{axis}" for side in ("fixed", "moving") for axis in axes])
        writer.writerows([f"{value:.10g}" for value in row] for row in np.hstack([fixed, moving]))
    write_text(path, stream.getvalue())


def read_landmarks(
    both: Path | None,
    fixed: Path | None,
    moving: Path | None,
    ndim: int,
    *,
    fixed_image: HasGrid | None = None,
    moving_image: HasGrid | None = None,
) -> tuple[FloatArray | None, FloatArray | None]:
    """Read landmarks of both images, from one file or from two.

    Raises
    ------
    InputError
        If a file cannot be used, or one and two files are named at once.
    """
    if both is not None:
        if fixed is not None or moving is not None:
            raise InputError("Give --landmarks, or --fixed-landmarks with --moving-landmarks, not both.")
        return read_landmark_pairs(both, ndim)
    sides = ((fixed, fixed_image), (moving, moving_image))
    found = [None if path is None else read_points(path, ndim, image=image).points for path, image in sides]
    return found[0], found[1]


def _world_of(
    image: HasGrid | None, ndim: int, system: CoordinateSystem | None, unit: str | None
) -> tuple[CoordinateSystem, str | None]:
    """Return coordinate system and unit of points: those that are given, else those of their image."""
    if image is None:
        return system or ("scanner" if ndim == 3 else "world"), unit
    return system or image.coordinate_system, image.grid.unit if unit is None else unit


def _from_xyz(
    points: FloatArray, signs: FloatArray, ndim: int, system: CoordinateSystem, unit: str | None, name: str
) -> FloatArray:
    """Convert points (x, y, z) of another program to world coordinates (z, y, x)."""
    if ndim == 2:
        if np.abs(points[:, 2]).max(initial=0.0) > 1e-6:
            raise InputError(f"'{name}' has points in 3D, and the image is 2D.")
        return np.ascontiguousarray(points[:, 1::-1])
    if system == "scanner":
        points = points * signs * conversion_factor("mm", unit or "mm")
    elif (signs == RAS).all():
        points = points * LPS  # plain x, y, z are what ITK takes for LPS
    return np.ascontiguousarray(points[:, ::-1])


def _to_xyz(points: FloatArray, system: CoordinateSystem, unit: str | None) -> FloatArray:
    """Convert world coordinates (z, y, x) to points (x, y, z) in LPS; in 2D with z = 0."""
    xyz = points[:, ::-1]
    if xyz.shape[1] == 2:
        return np.hstack([xyz, np.zeros((len(xyz), 1))])
    return xyz * LPS * conversion_factor(unit or "mm", "mm") if system == "scanner" else np.asarray(xyz)


def _new_table(name: str, points: FloatArray, dialect: Dialect, names: Sequence[str]) -> Table:
    number = np.arange(len(points), dtype=np.float64)[:, None]
    if dialect == "napari":
        header = ("index", *(f"axis-{axis}" for axis in range(points.shape[1])))
        return Table(name, header, np.hstack([number, points]))
    if dialect == "ants":
        return Table(name, ("x", "y", "z", "t"), np.hstack([points, np.zeros_like(number)]))
    header = tuple("zyx"[-points.shape[1] :])
    if not names:
        return Table(name, header, points)
    values = np.hstack([np.full_like(number, np.nan), points])
    cells = tuple((label, *("",) * points.shape[1]) for label in names)
    return Table(name, ("name", *header), values, cells)
