"""Files of points and landmarks of other programs, read and written."""

from __future__ import annotations

import json
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

import napari_stnreg as sr
from napari_stnreg.core.grid import Grid
from napari_stnreg.io.points import (
    read_landmark_pairs,
    read_landmarks,
    read_points,
    read_table,
    write_landmark_pairs,
    write_points,
)

SCANNER = SimpleNamespace(grid=Grid.from_spacing((10, 11, 12), (2, 0.5, 0.5), unit="mm"), coordinate_system="scanner")
WORLD = SimpleNamespace(grid=Grid.from_spacing((10, 11, 12), (2, 0.5, 0.5), unit="um"), coordinate_system="world")


def make(tmp_path, text, name="p.csv"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


@pytest.mark.parametrize(
    ("text", "ndim", "expected"),
    [
        ("y;x\n10,5;20,3\n11,5;-2,1e1\n", 2, [[10.5, 20.3], [11.5, -21]]),
        ("y\tx\n10\t20\n", 2, [[10, 20]]),
        ("10 20\n11 21\n", 2, [[10, 20], [11, 21]]),
        ("name,z,y,x\nAC,1,2,3\nPC,4,5,6\n", 3, [[1, 2, 3], [4, 5, 6]]),
        (" ,Area,X,Y,Slice\n1,0,10.5,20.5,3\n", 2, [[20.5, 10.5]]),
        ("# a comment\n1,2,3\n", 3, [[1, 2, 3]]),
    ],
)
def test_dialects_of_tables(tmp_path, text, ndim, expected):
    np.testing.assert_allclose(read_points(make(tmp_path, text), ndim).points, expected)


@pytest.mark.parametrize(
    ("text", "expected", "words"),
    [
        ("Z,Y,X\n1,2,3\n", [1, 2, 3], None),
        (" ,Label,Area,XM,YM,ZM\n1,a,9,1.5,1,4\n", [3, 0.75, 1.25], "corner"),
        (
            "LABEL,TRACK_ID,POSITION_X,POSITION_Y,POSITION_Z,FRAME\nLabel,Track ID,X,Y,Z,Frame\nLabel,ID,X,Y,Z,Frame\n"
            ",,(micron),(micron),(micron),\nID1,,3,2,1,0\n",
            [1, 2, 3],
            "lengths .* in um",
        ),
        ("label,centroid-0,centroid-1,centroid-2\n7,4,20,30\n", [8, 10, 15], "voxels"),
        ("Centroid X \u00b5m,Centroid Y \u00b5m,Centroid Z \u00b5m\n3,2,1\n", [1, 2, 3], "in um"),
        ("Location_Center_X,Location_Center_Y,Location_Center_Z\n30,20,4\n", [8, 10, 15], "voxels"),
        ("id,x [nm],y [nm],z [nm]\n1,3000,2000,1000\n", [1, 2, 3], "in nm"),
        ("x_pos;y_pos;z_pos\n3;2;1,5\n", [1.5, 2, 3], "first voxel"),
    ],
)
def test_columns_of_other_programs_are_read_and_announced(tmp_path, text, expected, words):
    path = make(tmp_path, text)
    with pytest.warns(sr.RegistrationWarning, match=words) if words else nullcontext():
        points = read_points(path, 3, image=WORLD)
    np.testing.assert_allclose(points.points, [expected])
    write_points(tmp_path / "q.csv", points.points + 1, like=points, image=WORLD)
    with pytest.warns(sr.RegistrationWarning, match=words) if words else nullcontext():
        back = read_points(tmp_path / "q.csv", 3, image=WORLD)
    np.testing.assert_allclose(back.points, points.points + 1)


@pytest.mark.parametrize(
    ("text", "ndim", "words"),
    [
        ("centroid-0,centroid-1,weighted_centroid-0,weighted_centroid-1\n1,2,3,4\n", 2, "several points in each row"),
        ("position_x,position_y,center_x,center_y\n1,2,3,4\n", 2, "several points in each row"),
        ("x,y,X\n1,2,3\n", 2, "several columns 'x'"),
        ("x,y,z\n1,2,3\n1,2,4\n", 2, "points in 3D .'z' varies"),
        ("X,Y,Slice\n1,2,3\n", 3, "Points in 3D need z,y,x"),
        ("centroid-0,centroid-1,centroid-2\n1,2,3\n4,2,3\n", 2, "points in 3D"),
    ],
)
def test_ambiguous_columns_are_refused(tmp_path, text, ndim, words):
    with pytest.raises(sr.InputError, match=words):
        read_points(make(tmp_path, text), ndim, unit="pixel")


def test_points_of_ants_are_lps(tmp_path):
    path = make(tmp_path, "x,y,z,t,label,comment\n-27,97,-13,0,1,NA\n")
    np.testing.assert_allclose(read_points(path, 3).points, [[-13, -97, 27]])  # superior, anterior, right
    np.testing.assert_allclose(read_points(path, 3, system="world").points, [[-13, 97, -27]])
    points = read_points(path, 3)
    write_points(tmp_path / "q.csv", points.points + 1, like=points)
    assert (tmp_path / "q.csv").read_text() == "x,y,z,t,label,comment\n-28,96,-12,0,1,NA\n"


def test_points_of_napari_are_voxels_of_their_image(tmp_path):
    path = make(tmp_path, "index,axis-0,axis-1,axis-2\n0,4,20,30\n")
    points = read_points(path, 3, image=WORLD)
    np.testing.assert_allclose(points.points, [[8, 10, 15]])
    with pytest.raises(sr.InputError, match="Give the image on which"):
        read_points(path, 3)
    with pytest.raises(sr.InputError, match="Give the image"):
        write_points(tmp_path / "q.csv", points.points, like=points, unit="um")
    write_points(tmp_path / "q.csv", points.points, like=points, image=WORLD)
    assert (tmp_path / "q.csv").read_text() == path.read_text()
    np.testing.assert_allclose(read_points(path, 3, unit="pixel").points, [[4, 20, 30]])


@pytest.mark.parametrize("system", ["LPS", "RAS", "0", "1"])
def test_fiducials_of_slicer(tmp_path, system):
    signs = np.array([-1, -1, 1]) if system in ("LPS", "1") else np.ones(3)
    x, y, z = signs * [27, -97, -13]
    head = f"# Markups fiducial file version = 4.11\n# CoordinateSystem = {system}\n"
    columns = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    path = make(tmp_path, f"{head}{columns}1,{x},{y},{z},0,0,0,1,1,1,0,AC,,\n", "p.fcsv")
    points = read_points(path, 3, image=SCANNER)
    np.testing.assert_allclose(points.points, [[-13, -97, 27]])
    assert points.names == ("AC",)


def test_markups_of_slicer(tmp_path):
    content = {"markups": [{"coordinateSystem": "RAS", "coordinateUnits": "cm", "controlPoints": [
        {"label": "AC", "position": [2.7, -9.7, -1.3], "positionStatus": "defined"},
        {"label": "none", "position": [0, 0, 0], "positionStatus": "undefined"},
    ]}]}  # fmt: skip
    path = make(tmp_path, json.dumps(content), "p.mrk.json")
    points = read_points(path, 3, image=SCANNER)
    np.testing.assert_allclose(points.points, [[-13, -97, 27]])
    assert points.names == ("AC",)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".fcsv", ".mrk.json"])
@pytest.mark.parametrize("image", [SCANNER, WORLD], ids=["scanner", "world"])
def test_written_points_come_back(tmp_path, suffix, image):
    points = np.random.default_rng(0).normal(0, 50, (4, 3))
    source = read_points(make(tmp_path, "name,z,y,x\n" + "\n".join(f"p{i},0,0,0" for i in range(4))), 3)
    write_points(tmp_path / f"q{suffix}", points, like=source, image=image)
    back = read_points(tmp_path / f"q{suffix}", 3, image=image)
    np.testing.assert_allclose(back.points, points, rtol=1e-8)
    assert back.names == ("p0", "p1", "p2", "p3")
    flat = points[:, 1:]
    write_points(tmp_path / f"r{suffix}", flat, unit="um", system="world")
    np.testing.assert_allclose(read_points(tmp_path / f"r{suffix}", 2).points, flat, rtol=1e-8)


def test_landmarks_of_bigwarp_hold_the_moving_point_first(tmp_path):
    rows = ['"Pt-0","true","1.0","2.0","3.0","4.0","5.0","6.0"', '"Pt-1","false","1","2","3","4","5","6"',
            '"Pt-2","true","7","8","9","Infinity","Infinity","Infinity"']  # fmt: skip
    fixed, moving = read_landmark_pairs(make(tmp_path, "\n".join(rows)), 3)
    assert (fixed.tolist(), moving.tolist()) == ([[6, 5, 4]], [[3, 2, 1]])
    for ndim in (2, 3):
        fixed, moving = np.random.default_rng(0).normal(0, 9, (2, 5, ndim))
        for dialect in ("bigwarp", "table"):
            write_landmark_pairs(tmp_path / "b.csv", fixed, moving, dialect=dialect)
            back = read_landmarks(tmp_path / "b.csv", None, None, ndim)
            np.testing.assert_allclose(back, (fixed, moving), rtol=1e-8)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.csv", "name,z,y,x\nAC,1,2,3\nPC,4,5\n", "Point 2"),
        ("p.csv", "z,y,x\n1,2,nan\n", "not a finite number"),
        ("p.csv", "name,comment\nAC,none\n", "no points"),
        ("p.fcsv", "# CoordinateSystem = XYZ\n1,2,3,4\n", "coordinate system 'XYZ'"),
        ("p.fcsv", "# CoordinateSystem = LPS\n1,2,three,4\n", "Point 1"),
        ("p.mrk.json", "{}", "markups file"),
        ("p.mrk.json", '{"markups": []}', "no points"),
        ("p.csv", '"Pt-0","false","1.0","2.0","3.0","4.0","5.0","6.0"\n', "columns"),
    ],
)
def test_files_without_usable_points_are_refused(tmp_path, name, text, words):
    with pytest.raises(sr.InputError, match=words):
        read_points(make(tmp_path, text, name), 3)


def test_a_table_keeps_its_text(tmp_path):
    path = make(tmp_path, "name;z;y;x\nA b;1;2;3,5\n")
    table = read_table(path)
    assert table.names == ("A b",)
    points = read_points(path, 3)
    write_points(tmp_path / "q.csv", points.points * 2, like=points)
    assert (tmp_path / "q.csv").read_text() == "name,z,y,x\nA b,2,4,7\n"
