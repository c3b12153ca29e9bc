"""Tables of points: CSV and TSV, separated by commas, semicolons or tabs, with or without a line of names."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from napari_stnreg.core.atomic_io import write_text
from napari_stnreg.core.errors import InputError, announce
from napari_stnreg.core.grid import FloatArray
from napari_stnreg.io.points.columns import NUMBERED_AXIS, PointColumns, find_columns, is_coordinate, unit_in

Dialect = Literal["table", "napari", "ants", "slicer"]
"""``table``: world coordinates z, y, x; ``napari``: voxels of a layer; ``ants``, ``slicer``: x, y, z in LPS or RAS."""

_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+(?:[eE][-+]?\d+)?")
_PAIR = re.compile(r"(fixed|moving)[ _.\-]*([xyz])|([xyz])[ _.\-]*(fixed|moving)")
_MAX_TITLE_ROWS = 3
"""Rows of titles and units below the names of the columns; TrackMate writes three."""


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
    units
        Unit of a column by its number, where the file states it below the names.
    """

    name: str
    header: tuple[str, ...]
    values: FloatArray
    cells: tuple[tuple[str, ...], ...] = ()
    units: dict[int, str] = field(default_factory=dict)

    @property
    def dialect(self) -> Dialect:
        """The convention of the columns, by their names."""
        if self.header[:4] == ("x", "y", "z", "t"):
            return "ants"
        return "napari" if any(NUMBERED_AXIS.fullmatch(name) for name in self.header) else "table"

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

    def columns(self, ndim: int) -> PointColumns:
        """Return the columns that hold a point's coordinates, in axis order, and what they mean.

        Columns other than z, y, x and those of napari are announced.

        Raises
        ------
        InputError
            If there are not as many as the image has axes, or several columns for one axis.
        """
        found = find_columns(self.header, ndim, self.name, self.units)
        if found is None:
            numeric = [i for i in range(self.values.shape[1]) if not np.isnan(self.values[:, i]).all()]
            if self.header and any(is_coordinate(name) for name in self.header):
                numeric = []  # some axes have a name, others are missing
            if len(numeric) != ndim or self.is_bigwarp:
                raise InputError(
                    f"'{self.name}' has {self.values.shape[1]} columns. Points in {ndim}D need "
                    f"{','.join('zyx'[-ndim:])}, or what napari saves of a Points layer."
                )
            return PointColumns(tuple(numeric))
        spread = [float(np.ptp(self.values[:, i])) if len(self.values) else 0.0 for i in found.others]
        if any(spread):
            names = ", ".join(f"'{self.header[i]}'" for i, s in zip(found.others, spread, strict=True) if s)
            if not found.others_are_time:
                raise InputError(
                    f"'{self.name}' has points in {ndim + len(found.others)}D ({names} varies), and the image is "
                    f"{ndim}D."
                )
            announce(f"The coordinate {names} of '{self.name}' is assumed to be time and is not used.")
        if found.note:
            announce(found.note)
        return found

    def points(self, ndim: int) -> list[int]:
        """Return the numbers of the columns of :meth:`columns`."""
        return list(self.columns(ndim).indices)

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
        header = [_pair_name(name) for name in self.header]
        if not self.header and not self.cells and self.values.shape[1] == 2 * ndim:
            return self.values[:, :ndim], self.values[:, ndim:]
        if not set(wanted[0] + wanted[1]) <= set(header):
            raise InputError(
                f"'{self.name}' must have the columns {','.join(wanted[0] + wanted[1])}, or be a landmark file of "
                "BigWarp. Give points of one side by --fixed-landmarks and --moving-landmarks."
            )
        columns = [[header.index(name) for name in side] for side in wanted]
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
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
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
    units: dict[int, str] = {}
    if not any(_is_number(cell) for cell in rows[0]):
        header = tuple(cell.lower() for cell in rows.pop(0))
    coordinates = [i for i, name in enumerate(header) if is_coordinate(name) or _PAIR.fullmatch(name)]
    if coordinates:
        for _ in range(_MAX_TITLE_ROWS):
            if len(rows) < 2 or any(_is_number(rows[0][i]) for i in coordinates if i < len(rows[0])):
                break
            if len(rows[0]) != len(header):
                break
            titles = rows.pop(0)
            units |= {i: unit for i in coordinates if (unit := unit_in(titles[i]))}
    if not rows:
        raise InputError(f"'{path.name}' holds no points.")
    width = len(header or rows[0])
    numeric = [any(_is_number(row[i]) for row in rows if i < len(row)) for i in range(width)]
    for i in range(width) if coordinates else ():
        if i in coordinates:
            numeric[i] = True
        else:  # columns of no interest may be empty in places
            numeric[i] &= all(i < len(row) and _is_number(row[i]) for row in rows)
    for number, row in enumerate(rows, start=1):
        if len(row) != width or not all(_is_number(cell) for cell, n in zip(row, numeric, strict=True) if n):
            raise InputError(f"Point {number} in '{path.name}' is not a row of {width} numbers.")
    if not any(numeric):
        raise InputError(f"'{path.name}' holds no points.")
    values = np.array([[float(c) if n else np.nan for c, n in zip(row, numeric, strict=True)] for row in rows])
    return Table(path.name, header, values, () if all(numeric) else tuple(map(tuple, rows)), units)


def write_table(path: Path, table: Table, *, delimiter: str = ",") -> None:
    """Write a table as it was read: whole, or not at all."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n", delimiter=delimiter)
    if table.header:
        writer.writerow(
            [f"{one} [{table.units[i]}]" if i in table.units else one for i, one in enumerate(table.header)]
        )
    for number, row in enumerate(table.values):
        cells = table.cells[number] if table.cells else None
        writer.writerow([cells[i] if cells is not None and np.isnan(v) else f"{v:.10g}" for i, v in enumerate(row)])
    write_text(path, stream.getvalue())


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


def _pair_name(name: str) -> str:
    """Return the name of a column of pairs in the form ``fixed_z``."""
    found = _PAIR.fullmatch(name)
    return name if found is None else f"{found[1] or found[4]}_{found[2] or found[3]}"
