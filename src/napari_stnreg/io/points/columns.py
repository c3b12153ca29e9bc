"""Columns of a table that hold the coordinates of points, recognized by their names.

Accepted, in any case: ``x, y, z``, also with a unit (``x [nm]``); ``position_x`` (TrackMate), ``Centroid X um``
(QuPath), ``Location_Center_X`` (CellProfiler), ``x_pos`` and the like; ``XM, YM`` (center of mass of ImageJ);
``axis-0`` (napari) and ``centroid-0`` (scikit-image), which count voxels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, HasGrid
from napari_stnreg.core.units import canonical, conversion_factor

Meaning = Literal["world", "voxels", "calibrated", "corner"]
"""``calibrated`` counts lengths from the center of the first voxel, ``corner`` from its corner."""

_UNIT = r"(?:[ _.]*[\[(](?P<bracket>[^\])]+)[\])]|[ _.]+(?P<plain>px|pixels?|voxels?|nm|[µμu]m|microns?|mm|cm))?"
_WORD = r"position|pos|centroid|cent(?:er|re)(?:[ _.]of[ _.]mass)?|location|coords?|coordinates?|com"
_BEFORE = re.compile(rf"(?P<word>(?:.*[ _.:\-])?(?:{_WORD}))[ _.:\-]*(?P<axis>[xyz]){_UNIT}")
_AFTER = re.compile(rf"(?P<axis>[xyz])(?:[ _.\-]*(?P<word>{_WORD})|(?P<mass>m))?{_UNIT}")
NUMBERED_AXIS = re.compile(r"(?P<word>axis|centroid|(?:weighted[_ ]centroid|centroid[_ ]weighted))[-_ ]?(?P<number>\d)")
"""Names of columns that count voxels: those of napari and of scikit-image."""
_PIXEL_WORDS = ("location_center", "areashape_center")
"""Words of CellProfiler, which counts voxels."""


@dataclass(frozen=True)
class PointColumns:
    """The columns that hold the coordinates of points.

    Parameters
    ----------
    indices
        Numbers of the columns, in axis order (z, y, x).
    meaning
        What the coordinates are.
    unit
        Unit that the table states.
    others
        Further columns of the same kind, for axes that the image does not have.
    others_are_time
        Whether these may be time.
    note
        Announced when the table is read.
    """

    indices: tuple[int, ...]
    meaning: Meaning = "world"
    unit: str | None = None
    others: tuple[int, ...] = ()
    others_are_time: bool = False
    note: str = ""

    def to_world(self, values: FloatArray, image: HasGrid | None, unit: str | None, name: str) -> FloatArray:
        """Convert coordinates of the table to world coordinates in a unit.

        Raises
        ------
        InputError
            If the coordinates count voxels and no image is known.
        """
        grid = None if image is None else image.grid
        if self.meaning == "voxels":
            if grid is None and unit != "pixel":
                raise InputError(
                    f"'{name}' holds voxels of an image, not world coordinates. Give the image on which the points "
                    "were placed (--points-image), or save their world coordinates in the columns z,y,x."
                )
            return values if grid is None else grid.to_world(values)
        target = unit if grid is None else grid.unit
        if self.unit is not None and target is not None:
            values = values * conversion_factor(self.unit, target)
        if grid is None or self.meaning == "world":
            return values
        return np.asarray(grid.to_world(values / grid.spacing - 0.5 * (self.meaning == "corner")))

    def from_world(self, points: FloatArray, image: HasGrid | None, unit: str | None, name: str) -> FloatArray:
        """Convert world coordinates in a unit to coordinates of the table; the inverse of :meth:`to_world`.

        Raises
        ------
        InputError
            If the coordinates count voxels and no image is known.
        """
        grid = None if image is None else image.grid
        if self.meaning == "voxels":
            if grid is None and unit != "pixel":
                raise InputError(f"'{name}' would hold voxels of an image. Give the image that the points go to.")
            return points if grid is None else grid.to_index(points)
        if grid is not None and self.meaning != "world":
            points = (grid.to_index(points) + 0.5 * (self.meaning == "corner")) * grid.spacing
        source = unit if grid is None else grid.unit
        if self.unit is not None and source is not None:
            points = points * conversion_factor(source, self.unit)
        return np.asarray(points)


@dataclass(frozen=True)
class _Column:
    word: str
    axis: str
    meaning: Meaning
    unit: str | None


def is_coordinate(name: str) -> bool:
    """Return whether a name in lower case is that of a coordinate."""
    return _parse(name) is not None


def unit_in(text: str) -> str | None:
    """Return the unit in a cell such as ``(micron)``, if it is one of length or pixels."""
    inner = text.strip().strip("()[]")
    found = canonical(inner)
    if not inner:
        return None
    if found == "pixel":
        return found
    try:
        conversion_factor(found, "mm")
    except InputError:
        return None
    return found


def find_columns(
    header: Sequence[str], ndim: int, name: str, units: Mapping[int, str] | None = None
) -> PointColumns | None:
    """Find the columns of coordinates by their names; ``None`` if there are none for every axis.

    Parameters
    ----------
    header
        Names of the columns in lower case.
    ndim
        Number of axes of the image.
    name
        Name of the file, for messages.
    units
        Units of columns that the file states elsewhere.

    Raises
    ------
    InputError
        If several sets of columns hold coordinates, and none of them is called z, y, x.
    """
    groups: dict[str, dict[str, int]] = {}
    columns = [_parse(one) for one in header]
    for i, one in enumerate(columns):
        if one is not None and groups.setdefault(one.word, {}).setdefault(one.axis, i) != i:
            raise InputError(f"'{name}' has several columns '{header[i]}'. Keep one of them.")
    axes = "zyx"[-ndim:]
    complete: dict[str, list[str]] = {}
    for word, group in groups.items():
        numbers = sorted(axis for axis in group if axis.isdigit())
        if set(axes) <= set(group):
            complete[word] = list(axes)
        elif len(numbers) >= ndim:
            complete[word] = numbers[-ndim:]
    if not complete:
        return None
    word = "" if "" in complete else "axis" if "axis" in complete else next(iter(complete))

    def listed(one: str) -> str:
        return ", ".join(f"'{header[groups[one][axis]]}'" for axis in sorted(complete[one]))

    others = [one for one in complete if one != word]
    if others and word not in ("", "axis"):
        raise InputError(
            f"'{name}' holds several points in each row: {' and '.join(listed(one) for one in complete)}. Keep the "
            "columns of one."
        )
    group, used = groups[word], complete[word]
    first = columns[group[used[0]]]
    assert first is not None
    unit = first.unit or (units or {}).get(group[used[0]])
    meaning: Meaning = "voxels" if unit == "pixel" and first.meaning == "calibrated" else first.meaning
    note = ""
    if word not in ("", "axis") or others or unit:
        meant = {
            "voxels": "voxels of the image",
            "world": "world coordinates",
            "calibrated": "lengths from the first voxel",
            "corner": "lengths from the corner of the first voxel",
        }[meaning]
        note = f"The points of '{name}' are read from {listed(word)}: {meant}" + (
            f" in {unit}." if unit and meaning != "voxels" else "."
        )
    return PointColumns(
        tuple(group[axis] for axis in used),
        meaning,
        None if meaning == "voxels" else unit,
        tuple(i for axis, i in group.items() if axis not in used),
        word == "axis",
        note,
    )


def _parse(name: str) -> _Column | None:
    """Return the meaning of a lower-case column name, if it names a coordinate."""
    name = name.strip().replace("\N{GREEK SMALL LETTER MU}", "\N{MICRO SIGN}")
    found = NUMBERED_AXIS.fullmatch(name)
    if found is not None:
        return _Column(found["word"], found["number"], "voxels", None)
    found = _BEFORE.fullmatch(name) or _AFTER.fullmatch(name)
    if found is None:
        return None
    text = found["bracket"] or found["plain"] or ""
    unit = unit_in(text)
    if text and unit is None:
        return None
    if found.groupdict().get("mass"):
        return _Column("m", found["axis"], "corner", unit)
    word = found["word"] or ""
    if not word:
        return _Column("", found["axis"], "calibrated" if unit else "world", unit)
    return _Column(word, found["axis"], "voxels" if word.endswith(_PIXEL_WORDS) else "calibrated", unit)
