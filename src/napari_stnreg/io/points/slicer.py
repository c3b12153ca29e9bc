"""Fiducials and markups of 3D Slicer."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_stnreg.core.atomic_io import write_json, write_text
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray
from napari_stnreg.core.units import conversion_factor

LPS, RAS = np.array([-1.0, -1.0, 1.0]), np.array([1.0, 1.0, 1.0])
"""Signs of x, y, z in RAS."""
_SKIPPED_MARKUPS = ("undefined", "missing")


def read_fcsv(path: Path) -> tuple[FloatArray, tuple[str, ...], FloatArray]:
    """Read fiducials: points (x, y, z), names, and the signs of x, y, z in RAS."""
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
    return require_points(points, path.name), tuple(names), signs


def read_markups(path: Path) -> tuple[FloatArray, tuple[str, ...], FloatArray]:
    """Read markups: points (x, y, z), names, and the signs of x, y, z in RAS."""
    try:
        markups = json.loads(path.read_text(encoding="utf-8-sig"))["markups"]
        points: list[list[float]] = []
        names: list[str] = []
        signs = LPS
        for one in markups:
            signs = _system_signs(str(one.get("coordinateSystem", "LPS")), path.name)
            factor = conversion_factor(str(one.get("coordinateUnits", "mm")), "mm")
            for point in one["controlPoints"]:
                if point.get("positionStatus", "defined") in _SKIPPED_MARKUPS:
                    continue
                x, y, z = (float(value) * factor for value in point["position"])
                points.append((np.array([x, y, z]) * signs * LPS).tolist())
                names.append(str(point.get("label", "")))
    except InputError:
        raise
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"'{path.name}' cannot be read as a markups file of 3D Slicer.") from error
    return require_points(points, path.name), tuple(names), LPS


def require_finite(points: FloatArray, name: str) -> FloatArray:
    """Return the points; an error if a coordinate is not finite."""
    wrong = ~np.isfinite(points).all(axis=1)
    if wrong.any():
        raise InputError(f"Point {int(wrong.argmax()) + 1} in '{name}' has a coordinate that is not a finite number.")
    return points


def _system_signs(system: str, name: str) -> FloatArray:
    signs = {"LPS": LPS, "RAS": RAS}.get(system)
    if signs is None:
        raise InputError(f"'{name}' has the coordinate system '{system}'. Supported: LPS, RAS.")
    return signs


def require_points(points: Sequence[Sequence[float]], name: str) -> FloatArray:
    """Return the points as an array; an error if there are none."""
    if not points:
        raise InputError(f"'{name}' holds no points.")
    return require_finite(np.asarray(points, dtype=np.float64), name)


def write_fcsv(path: Path, xyz: FloatArray, names: Sequence[str]) -> None:
    """Write points (x, y, z) in LPS as fiducials."""
    lines = ["# Markups fiducial file version = 4.11", "# CoordinateSystem = LPS",
             "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"]  # fmt: skip
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for number, (point, name) in enumerate(zip(xyz, names, strict=True), start=1):
        writer.writerow([number, *(f"{value:.10g}" for value in point), 0, 0, 0, 1, 1, 1, 0, name, "", ""])
    write_text(path, "\n".join(lines) + "\n" + stream.getvalue())


def write_markups(path: Path, xyz: FloatArray, names: Sequence[str]) -> None:
    """Write points (x, y, z) in LPS as markups."""
    points: list[dict[str, Any]] = [
        {"id": str(number), "label": name, "position": point.tolist(), "positionStatus": "defined"}
        for number, (point, name) in enumerate(zip(xyz, names, strict=True), start=1)
    ]
    schema = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points}
    write_json(path, {"@schema": schema, "markups": [markup]})
