"""Lists of points in CSV files: our own, and what napari saves of a Points layer."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_stnreg.core.atomic_io import write_text
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray


@dataclass(frozen=True)
class Table:
    """The numbers of a CSV file and the names of their columns.

    Parameters
    ----------
    name
        Of the file, for messages.
    header
        Names of the columns in lower case; empty if the file has none.
    values
        ``(rows, columns)``.
    """

    name: str
    header: tuple[str, ...]
    values: FloatArray

    def points(self, ndim: int) -> list[int]:
        """The columns that hold a point's coordinates, in axis order.

        Raises
        ------
        InputError
            If there are not as many as the image has axes.
        """
        axes = list("zyx"[-ndim:])
        if set(axes) <= set(self.header):
            return [self.header.index(axis) for axis in axes]
        columns = list(range(self.values.shape[1]))
        if self.header:
            saved_by_napari = [i for i, name in enumerate(self.header) if re.fullmatch(r"axis-\d+", name)]
            columns = saved_by_napari[-ndim:] or columns  # axes before the spatial ones are time
        if len(columns) != ndim:
            raise InputError(
                f"'{self.name}' has {self.values.shape[1]} columns; points in {ndim}D need {','.join(axes)}, "
                "or what napari saves of a Points layer."
            )
        return columns

    def pairs(self, ndim: int) -> tuple[FloatArray, FloatArray]:
        """Points of the fixed and of the moving side, ``(N, D)`` each.

        Raises
        ------
        InputError
            If the columns are not those of pairs.
        """
        axes = "zyx"[-ndim:]
        wanted = [[f"{side}_{axis}" for axis in axes] for side in ("fixed", "moving")]
        if not self.header and self.values.shape[1] == 2 * ndim:
            return self.values[:, :ndim], self.values[:, ndim:]
        if not set(wanted[0] + wanted[1]) <= set(self.header):
            raise InputError(
                f"'{self.name}' must have the columns {','.join(wanted[0] + wanted[1])}; "
                "give points of one side by --fixed-landmarks and --moving-landmarks."
            )
        columns = [[self.header.index(name) for name in side] for side in wanted]
        return self.values[:, columns[0]], self.values[:, columns[1]]


def read_table(path: Path) -> Table:
    """Read a CSV file of numbers, with or without a line of names.

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
    rows = [
        [cell.strip() for cell in row] for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)
    ]
    rows = [row for row in rows if not row[0].startswith("#")]
    header: tuple[str, ...] = ()
    if rows and not all(_is_number(cell) for cell in rows[0]):
        header = tuple(cell.lower() for cell in rows.pop(0))
    if not rows:
        raise InputError(f"'{path.name}' holds no points.")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header or rows[0]) or not all(_is_number(cell) for cell in row):
            raise InputError(f"Point {number} in '{path.name}' is not a row of {len(header or rows[0])} numbers.")
    return Table(path.name, header, np.array(rows, dtype=np.float64))


def write_table(path: Path, table: Table) -> None:
    """Write a table as it was read: whole, or not at all."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    if table.header:
        writer.writerow(table.header)
    writer.writerows([f"{value:.10g}" for value in row] for row in table.values)
    write_text(path, stream.getvalue())


def read_landmarks(
    both: Path | None, fixed: Path | None, moving: Path | None, ndim: int
) -> tuple[FloatArray | None, FloatArray | None]:
    """Landmarks of both sides, from one file or from two.

    Raises
    ------
    InputError
        If a file cannot be used, or one and two files are named at once.
    """
    if both is not None:
        if fixed is not None or moving is not None:
            raise InputError("Give --landmarks, or --fixed-landmarks with --moving-landmarks, not both.")
        return read_table(both).pairs(ndim)
    tables = [None if path is None else read_table(path) for path in (fixed, moving)]
    points = [None if table is None else table.values[:, table.points(ndim)] for table in tables]
    return points[0], points[1]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
