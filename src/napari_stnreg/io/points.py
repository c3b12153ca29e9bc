"""Points and pairs of landmarks in files: CSV tables, napari, ANTs, BigWarp, and fiducials and markups of 3D Slicer.

In memory, points are world coordinates of their image in (z, y, x) order. :func:`read_points`,
:func:`read_landmark_pairs` and :func:`read_landmarks` are the entry points for every format.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from napari_stnreg.core.atomic_io import write_json, write_text
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import CoordinateSystem, FloatArray, HasGrid
from napari_stnreg.core.units import conversion_factor
from napari_stnreg.io.formats import POINT_FORMATS, suffix_in

Dialect = Literal["table", "napari", "ants", "slicer"]
"""``table``: world coordinates z, y, x; ``napari``: voxels of a layer; ``ants``, ``slicer``: x, y, z in LPS or RAS."""

POINT_SUFFIXES = tuple(dict.fromkeys(suffix for one in POINT_FORMATS for suffix in one.suffixes))
"""Suffixes of files of points."""

_LPS, _RAS = np.array([-1.0, -1.0, 1.0]), np.array([1.0, 1.0, 1.0])
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+(?:[eE][-+]?\d+)?")
_NAPARI_AXIS = re.compile(r"axis-\d+")
_SKIPPED_MARKUPS = ("undefined", "missing")


@dataclass(frozen=True)
class Table:
    """The numbers of a table and the names of its columns.

    Parameters
    ----------
    name
        Name of the file, for messages.
    header
        Names of the columns in lower case; empty if the file has none.
    values
        ``(rows, columns)``; NaN in columns of text.
    cells
        The text of every cell, if some are not numbers.
    """

    name: str
    header: tuple[str, ...]
    values: FloatArray
    cells: tuple[tuple[str, ...], ...] = ()

    @property
    def dialect(self) -> Dialect:
        """The convention of the columns, by their names."""
        if self.header[:4] == ("x", "y", "z", "t"):
            return "ants"
        return "napari" if any(_NAPARI_AXIS.fullmatch(name) for name in self.header) else "table"

    @property
    def is_bigwarp(self) -> bool:
        """Whether the columns are those of BigWarp: name, active, moving and fixed coordinates."""
        return not self.header and bool(self.cells) and all(
            len(row) in (6, 8) and row[1].lower() in ("true", "false") for row in self.cells
        )  # fmt: skip

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the points; empty if there is no such column."""
        for name in ("name", "label", "comment"):
            if name in self.header and self.cells:
                return tuple(row[self.header.index(name)] for row in self.cells)
        return ()

    def points(self, ndim: int) -> list[int]:
        """Return the columns that hold a point's coordinates, in axis order.

        Raises
        ------
        InputError
            If there are not as many as the image has axes.
        """
        axes = list("zyx"[-ndim:])
        if set(axes) <= set(self.header):
            return [self.header.index(axis) for axis in axes]
        columns = [i for i in range(self.values.shape[1]) if not np.isnan(self.values[:, i]).all()]
        if self.header:
            saved_by_napari = [i for i, name in enumerate(self.header) if _NAPARI_AXIS.fullmatch(name)]
            columns = saved_by_napari[-ndim:] or columns  # axes before the spatial ones are time
        if len(columns) != ndim or self.is_bigwarp:
            raise InputError(
                f"'{self.name}' has {self.values.shape[1]} columns. Points in {ndim}D need {','.join(axes)}, "
                "or what napari saves of a Points layer."
            )
        return columns

    def pairs(self, ndim: int) -> tuple[FloatArray, FloatArray]:
        """Return the points of the fixed and of the moving side, ``(N, D)`` each.

        Raises
        ------
        InputError
            If the columns are not those of pairs.
        """
        if self.is_bigwarp:
            return self._bigwarp_pairs(ndim)
        axes = "zyx"[-ndim:]
        wanted = [[f"{side}_{axis}" for axis in axes] for side in ("fixed", "moving")]
        if not self.header and not self.cells and self.values.shape[1] == 2 * ndim:
            return self.values[:, :ndim], self.values[:, ndim:]
        if not set(wanted[0] + wanted[1]) <= set(self.header):
            raise InputError(
                f"'{self.name}' must have the columns {','.join(wanted[0] + wanted[1])}, or be a landmark file of "
                "BigWarp. Give points of one side by --fixed-landmarks and --moving-landmarks."
            )
        columns = [[self.header.index(name) for name in side] for side in wanted]
        return self.values[:, columns[0]], self.values[:, columns[1]]

    def _bigwarp_pairs(self, ndim: int) -> tuple[FloatArray, FloatArray]:
        stored = (self.values.shape[1] - 2) // 2
        if stored < ndim:
            raise InputError(f"'{self.name}' has landmarks in {stored}D, and the images are {ndim}D.")
        active = np.array([row[1].lower() == "true" for row in self.cells])
        used = active & np.isfinite(self.values[:, 2:]).all(axis=1)
        if not used.any():
            raise InputError(f"'{self.name}' holds no active landmark with both points.")
        values = self.values[used, 2:]
        moving, fixed = values[:, :stored], values[:, stored:]
        return fixed[:, ndim - 1 :: -1] if ndim == stored else fixed[:, [1, 0]], (
            moving[:, ndim - 1 :: -1] if ndim == stored else moving[:, [1, 0]]
        )


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
    """

    points: FloatArray
    dialect: Dialect = "table"
    names: tuple[str, ...] = ()
    table: Table | None = None


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
    unit = image.grid.unit if unit is None and image is not None else unit
    system = system or (image.coordinate_system if image is not None else "scanner" if ndim == 3 else "world")
    if suffix == ".fcsv":
        points, names, signs = _read_fcsv(path)
        return PointSet(_from_xyz(points, signs, ndim, system, unit, path.name), "slicer", names)
    if suffix == ".mrk.json":
        points, names, signs = _read_markups(path)
        return PointSet(_from_xyz(points, signs, ndim, system, unit, path.name), "slicer", names)
    table = read_table(path)
    dialect = table.dialect
    if dialect == "ants":
        values = _finite(table.values[:, :3], table.name)
        return PointSet(_from_xyz(values, _LPS, ndim, system, unit, table.name), dialect, table.names, table)
    values = _finite(table.values[:, table.points(ndim)], table.name)
    if dialect == "napari" and image is not None:
        values = image.grid.to_world(values)
    elif dialect == "napari" and unit != "pixel":
        raise InputError(
            f"'{path.name}' was saved by napari and holds voxels of a layer. Give the image on which the points were "
            "placed, or save their world coordinates in the columns z,y,x."
        )
    return PointSet(values, dialect, table.names, table)


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
    unit = image.grid.unit if unit is None and image is not None else unit
    system = system or (image.coordinate_system if image is not None else "scanner" if ndim == 3 else "world")
    names = like.names if like is not None else ()
    if suffix in (".fcsv", ".mrk.json"):
        xyz = _to_xyz(points, system, unit)
        labels = names or tuple(f"P-{number}" for number in range(1, len(xyz) + 1))
        (_write_fcsv if suffix == ".fcsv" else _write_markups)(path, xyz, labels)
        return
    table = None if like is None else like.table
    dialect = dialect or ("table" if like is None or like.dialect == "slicer" else like.dialect)
    if dialect == "napari" and image is not None:
        points = image.grid.to_index(points)
    elif dialect == "napari" and unit != "pixel":
        raise InputError(
            f"'{path.name}' would hold voxels of a layer, as napari saves them. Give the image that the points go to."
        )
    elif dialect == "ants":
        points = _to_xyz(points, system, unit)
    if table is None or table.dialect != dialect:
        table = _new_table(path.name, points, dialect, names)
    else:
        columns = [0, 1, 2] if dialect == "ants" else table.points(ndim)
        values = table.values.copy()
        values[:, columns] = points
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
    return _finite(fixed, path.name), _finite(moving, path.name)


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


def read_table(path: Path) -> Table:
    """Read a table of points: separated by commas, semicolons or tabs, with or without a line of names.

    Columns of text are kept beside those of numbers. A decimal comma is accepted where it does not separate columns.

    Raises
    ------
    InputError
        If it cannot be read, or is not a table of numbers.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text file"
        raise InputError(f"'{path}' cannot be read: {reason}.") from error
    lines = [line for line in text.splitlines() if line.strip(" ,;\t") and not line.lstrip().startswith("#")]
    if not lines:
        raise InputError(f"'{path.name}' holds no points.")
    separator = next((one for one in ";\t," if one in lines[0]), " ")
    try:
        rows = list(csv.reader(lines, delimiter=separator, skipinitialspace=True))
    except csv.Error as error:
        raise InputError(f"'{path.name}' is not a table: {error}.") from error
    rows = [[_plain_number(cell.strip(), separator) for cell in row] for row in rows]
    header: tuple[str, ...] = ()
    if not any(_is_number(cell) for cell in rows[0]):
        header = tuple(cell.lower() for cell in rows.pop(0))
    if not rows:
        raise InputError(f"'{path.name}' holds no points.")
    width = len(header or rows[0])
    numeric = [any(_is_number(row[i]) for row in rows if i < len(row)) for i in range(width)]
    for i, name in enumerate(header):
        numeric[i] |= bool(re.fullmatch(r"((fixed|moving)_)?[xyz]|axis-\d+", name))
    for number, row in enumerate(rows, start=1):
        if len(row) != width or not all(_is_number(cell) for cell, n in zip(row, numeric, strict=True) if n):
            raise InputError(f"Point {number} in '{path.name}' is not a row of {width} numbers.")
    if not any(numeric):
        raise InputError(f"'{path.name}' holds no points.")
    values = np.array([[float(c) if n else np.nan for c, n in zip(row, numeric, strict=True)] for row in rows])
    return Table(path.name, header, values, () if all(numeric) else tuple(map(tuple, rows)))


def write_table(path: Path, table: Table, *, delimiter: str = ",") -> None:
    """Write a table as it was read: whole, or not at all."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n", delimiter=delimiter)
    if table.header:
        writer.writerow(table.header)
    for number, row in enumerate(table.values):
        cells = table.cells[number] if table.cells else None
        writer.writerow([cells[i] if cells is not None and np.isnan(v) else f"{v:.10g}" for i, v in enumerate(row)])
    write_text(path, stream.getvalue())


# -- coordinates


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
    elif (signs == _RAS).all():
        points = points * _LPS  # plain x, y, z are what ITK takes for LPS
    return np.ascontiguousarray(points[:, ::-1])


def _to_xyz(points: FloatArray, system: CoordinateSystem, unit: str | None) -> FloatArray:
    """Convert world coordinates (z, y, x) to points (x, y, z) in LPS; in 2D with z = 0."""
    xyz = points[:, ::-1]
    if xyz.shape[1] == 2:
        return np.hstack([xyz, np.zeros((len(xyz), 1))])
    return xyz * _LPS * conversion_factor(unit or "mm", "mm") if system == "scanner" else np.asarray(xyz)


def _finite(points: FloatArray, name: str) -> FloatArray:
    wrong = ~np.isfinite(points).all(axis=1)
    if wrong.any():
        raise InputError(f"Point {int(wrong.argmax()) + 1} in '{name}' has a coordinate that is not a finite number.")
    return points


# -- files of 3D Slicer


def _read_fcsv(path: Path) -> tuple[FloatArray, tuple[str, ...], FloatArray]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"'{path.name}' cannot be read as a file of Slicer fiducials.") from error
    comments = [line.lstrip("# ") for line in lines if line.startswith("#")]
    settings = dict(part.split("=", 1) for part in (line.replace(" ", "") for line in comments) if "=" in part)
    system = settings.get("CoordinateSystem", "LPS").upper()
    columns = settings.get("columns", "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label").lower().split(",")
    signs = _system_signs({"0": "RAS", "1": "LPS"}.get(system, system), path.name)
    points, names = [], []
    try:
        for row in csv.reader(line for line in lines if line.strip() and not line.startswith("#")):
            points.append([float(row[columns.index(axis)]) for axis in "xyz"])
            place = columns.index("label") if "label" in columns else columns.index("id")
            names.append(row[place] if place < len(row) else "")
    except (ValueError, IndexError, csv.Error) as error:
        raise InputError(f"Point {len(points) + 1} in '{path.name}' is damaged.") from error
    return _some(points, path.name), tuple(names), signs


def _read_markups(path: Path) -> tuple[FloatArray, tuple[str, ...], FloatArray]:
    try:
        markups = json.loads(path.read_text(encoding="utf-8-sig"))["markups"]
        points: list[list[float]] = []
        names: list[str] = []
        signs = _LPS
        for one in markups:
            signs = _system_signs(str(one.get("coordinateSystem", "LPS")), path.name)
            factor = conversion_factor(str(one.get("coordinateUnits", "mm")), "mm")
            for point in one["controlPoints"]:
                if point.get("positionStatus", "defined") in _SKIPPED_MARKUPS:
                    continue
                x, y, z = (float(value) * factor for value in point["position"])
                points.append((np.array([x, y, z]) * signs * _LPS).tolist())
                names.append(str(point.get("label", "")))
    except InputError:
        raise
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"'{path.name}' cannot be read as a markups file of 3D Slicer.") from error
    return _some(points, path.name), tuple(names), _LPS


def _system_signs(system: str, name: str) -> FloatArray:
    signs = {"LPS": _LPS, "RAS": _RAS}.get(system)
    if signs is None:
        raise InputError(f"'{name}' has the coordinate system '{system}'. Supported: LPS, RAS.")
    return signs


def _some(points: Sequence[Sequence[float]], name: str) -> FloatArray:
    if not points:
        raise InputError(f"'{name}' holds no points.")
    return _finite(np.asarray(points, dtype=np.float64), name)


def _write_fcsv(path: Path, xyz: FloatArray, names: Sequence[str]) -> None:
    lines = ["# Markups fiducial file version = 4.11", "# CoordinateSystem = LPS",
             "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"]  # fmt: skip
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for number, (point, name) in enumerate(zip(xyz, names, strict=True), start=1):
        writer.writerow([number, *(f"{value:.10g}" for value in point), 0, 0, 0, 1, 1, 1, 0, name, "", ""])
    write_text(path, "\n".join(lines) + "\n" + stream.getvalue())


def _write_markups(path: Path, xyz: FloatArray, names: Sequence[str]) -> None:
    points: list[dict[str, Any]] = [
        {"id": str(number), "label": name, "position": point.tolist(), "positionStatus": "defined"}
        for number, (point, name) in enumerate(zip(xyz, names, strict=True), start=1)
    ]
    schema = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points}
    write_json(path, {"@schema": schema, "markups": [markup]})


# -- cells


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


def _plain_number(cell: str, separator: str) -> str:
    if separator != "," and _DECIMAL_COMMA.fullmatch(cell):
        return cell.replace(",", ".")
    return cell


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
