"""Landmark files of the panel: what a dropped file holds, and the formats to export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import CoordinateSystem, FloatArray, Grid, HasGrid
from napari_stnreg.core.landmarks import check_landmarks
from napari_stnreg.io.points import (
    POINT_SUFFIXES,
    is_points_file,
    read_landmark_pairs,
    read_points,
    write_landmark_pairs,
    write_points,
)
from napari_stnreg.landmarks.pairs import Side

_WORDS: dict[Side, tuple[str, ...]] = {"fixed": ("fixed", "target", "reference"), "moving": ("moving", "source")}

EXPORTS = {
    "pairs": ("Table of pairs (*.csv)", ".csv"),
    "bigwarp": ("BigWarp landmarks (*.csv)", ".csv"),
    "table": ("Two tables, fixed and moving (*.csv)", ".csv"),
    "napari": ("Two napari points files (*.csv)", ".csv"),
    "fcsv": ("Two 3D Slicer fiducial files (*.fcsv)", ".fcsv"),
    "markups": ("Two 3D Slicer markups files (*.mrk.json)", ".mrk.json"),
}
"""Formats to export: file filter and suffix."""

IMPORT_FILTER = f"Landmarks ({' '.join(f'*{suffix}' for suffix in POINT_SUFFIXES)})"


@dataclass(frozen=True)
class ImagePlace:
    """Grid and coordinate system of one image, in the unit of the landmarks."""

    grid: Grid
    coordinate_system: CoordinateSystem


def read_files(
    paths: list[Path], ndim: int, fixed: HasGrid, moving: HasGrid
) -> tuple[FloatArray | None, FloatArray | None]:
    """Read pairs from one file, or from one file for each side, in world coordinates of each image.

    Parameters
    ----------
    paths
        One file of pairs, or one or two files of points. The words "fixed" (target, reference) or "moving" (source) in
        a name identify its side; two files without are fixed and moving in this order.
    ndim
        Number of axes of the images.
    fixed, moving
        Places of the two images.

    Returns
    -------
    array or None, array or None
        Fixed and moving points; one is ``None`` if a single file of points was given.

    Raises
    ------
    InputError
        If a file cannot be used, the counts differ, or the side of a file is not known.
    """
    for path in paths:
        if not is_points_file(path):
            raise InputError(f"'{path.name}' is not a landmark file. Supported: {', '.join(POINT_SUFFIXES)}.")
    if len(paths) > 2:
        raise InputError(f"{len(paths)} files were given. Give one file of pairs, or two files of points.")
    if len(paths) == 1 and paths[0].suffix.lower() in (".csv", ".tsv"):
        try:
            return read_landmark_pairs(paths[0], ndim)
        except InputError as not_pairs:
            try:
                read_points(paths[0], ndim, image=fixed)
            except InputError:
                raise not_pairs from None
    sides = [side_of(path) for path in paths]
    if len(paths) == 2 and (None in sides or sides[0] == sides[1]):
        sides = ["fixed", "moving"]
    if sides[0] is None:
        raise InputError(
            f"'{paths[0].name}' holds points of one side. Give both files together, or put 'fixed' or 'moving' into "
            "its name."
        )
    found: dict[str, FloatArray] = {}
    for side, path in zip(sides, paths, strict=True):
        found[str(side)] = read_points(path, ndim, image=fixed if side == "fixed" else moving).points
    if len(found) == 2:
        return check_landmarks(found["fixed"], found["moving"], ndim)
    return found.get("fixed"), found.get("moving")


def side_of(path: Path) -> Side | None:
    """Return the side in a file's name; ``None`` if it has none or both."""
    name = path.name.lower()
    sides = [side for side, words in _WORDS.items() if any(word in name for word in words)]
    return sides[0] if len(sides) == 1 else None


def write_files(
    path: Path, form: str, fixed_points: FloatArray, moving_points: FloatArray, fixed: HasGrid, moving: HasGrid
) -> list[Path]:
    """Write pairs in a format of :data:`EXPORTS`; return the files.

    Raises
    ------
    InputError
        If a file cannot be written.
    """
    suffix = EXPORTS[form][1]
    stem = path.name[: -len(suffix)] if path.name.lower().endswith(suffix) else path.name
    if form in ("pairs", "bigwarp"):
        target = path.with_name(stem + suffix)
        write_landmark_pairs(target, fixed_points, moving_points, dialect="bigwarp" if form == "bigwarp" else "table")
        return [target]
    targets = [path.with_name(f"{stem}_{side}{suffix}") for side in ("fixed", "moving")]
    for target, points, image in zip(targets, (fixed_points, moving_points), (fixed, moving), strict=True):
        write_points(target, points, dialect="napari" if form == "napari" else None, image=image)
    return targets
