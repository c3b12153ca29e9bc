"""Points, pairs of landmarks and tables in files."""

from napari_stnreg.io.points.files import (
    POINT_SUFFIXES,
    PointSet,
    is_points_file,
    read_landmark_pairs,
    read_landmarks,
    read_points,
    write_landmark_pairs,
    write_points,
)
from napari_stnreg.io.points.table import Table, read_table, write_table

__all__ = [
    "POINT_SUFFIXES",
    "PointSet",
    "Table",
    "is_points_file",
    "read_landmark_pairs",
    "read_landmarks",
    "read_points",
    "read_table",
    "write_landmark_pairs",
    "write_points",
    "write_table",
]
