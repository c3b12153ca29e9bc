"""Transforms in OME-Zarr scenes, as its specification defines them."""

from __future__ import annotations

import json

import numpy as np
import pytest

import napari_stnreg as sr
from napari_stnreg.core.grid import Grid
from tests.helpers.exchange_scenes import bent, turn
from tests.resampling.test_applying import FAMILIES


@pytest.mark.parametrize("name", [*FAMILIES, "chain", "inverse", "oblique"])
def test_an_ome_zarr_scene_holds_the_transform(tmp_path, name):
    grid = Grid.from_spacing((20, 22), (2.0, 1.0), (5, -3), unit="um")
    if name == "oblique":
        turned = turn(0, 0.3)[1:, 1:]
        grid = Grid.from_spacing((20, 22), (2.0, 1.0), (5, -3), turned, unit="um")
    transform = bent("diffeomorphic" if name == "oblique" else name, grid)
    path = sr.save(transform, tmp_path / "t.ome.zarr", grid=grid)
    again = sr.load(path)
    assert again.unit == "um"
    points = grid.points().reshape(-1, 2)
    np.testing.assert_allclose(again.map_points(points), transform.map_points(points), atol=1e-6)
    ome = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]
    assert ome["version"] == "0.6"
    assert [s["name"] for s in ome["scene"]["coordinateSystems"]] == ["fixed", "moving"]
    assert ome["scene"]["coordinateTransformations"][0]["input"] == {"name": "fixed"}
    assert ome["scene"]["coordinateSystems"][0]["axes"][0] == {"name": "y", "type": "space", "unit": "micrometer"}


def scene(path, transformation, axes=("y", "x"), **systems):
    import zarr

    root = zarr.open_group(str(path), mode="w", zarr_format=3)
    described = [{"name": a, "type": "channel" if a == "c" else "space"} for a in axes]
    places = [{"name": n, "axes": described} for n in ("in", "out")]
    root.attrs["ome"] = {
        "version": "0.6",
        "scene": {
            "coordinateSystems": places,
            "coordinateTransformations": [{**transformation, "input": {"name": "in"}, "output": {"name": "out"}}],
        },
    }
    return path


@pytest.mark.parametrize(
    ("transformation", "point", "expected"),
    [
        ({"type": "identity"}, (2, 3), (2, 3)),
        ({"type": "scale", "scale": [2, 3.12]}, (2, 3), (4, 9.36)),
        ({"type": "translation", "translation": [9, -1.42]}, (2, 3), (11, 1.58)),
        ({"type": "rotation", "rotation": [[0, -1], [1, 0]]}, (2, 3), (-3, 2)),
        ({"type": "affine", "affine": [[1, 2, 3], [4, 5, 6]]}, (2, 3), (11, 29)),
        ({"type": "mapAxis", "mapAxis": [1, 0]}, (2, 3), (3, 2)),
        ({"type": "sequence", "transformations": [{"type": "translation", "translation": [0.1, 0.9]},
                                                  {"type": "scale", "scale": [2, 3]}]}, (2, 3), (4.2, 11.7)),
        ({"type": "bijection", "forward": {"type": "scale", "scale": [2, 2]},
          "inverse": {"type": "scale", "scale": [0.5, 0.5]}}, (2, 3), (4, 6)),
        ({"type": "byDimension", "transformations": [
            {"input_axes": [1], "output_axes": [0], "transformation": {"type": "translation", "translation": [10]}},
            {"input_axes": [0], "output_axes": [1], "transformation": {"type": "scale", "scale": [2]}}]},
         (2, 3), (13, 4)),
    ],
)  # fmt: skip
def test_transformations_of_the_specification_are_read(tmp_path, transformation, point, expected):
    found = sr.load(scene(tmp_path / "t.zarr", transformation))
    np.testing.assert_allclose(found.map_points([point])[0], expected)


def test_channels_of_a_scene_are_left_out(tmp_path):
    matrix = [[1, 0, 0, 0], [0, 2, 1, 5], [0, 0, 3, 6]]
    found = sr.load(scene(tmp_path / "t.zarr", {"type": "affine", "affine": matrix}, axes=("c", "y", "x")))
    np.testing.assert_allclose(found.map_points([(2, 3)])[0], (12, 15))


def test_bad_scenes_are_refused(tmp_path):
    zarr = pytest.importorskip("zarr")
    zarr.open_group(str(tmp_path / "empty.zarr"), mode="w", zarr_format=3)
    with pytest.raises(sr.InputError, match="no scene"):
        sr.load(tmp_path / "empty.zarr")
    with pytest.raises(sr.InputError, match="type 'coordinates'"):
        sr.load(scene(tmp_path / "c.zarr", {"type": "coordinates", "path": "nowhere"}))
    with pytest.raises(sr.InputError, match="has the shape"):
        sr.load(scene(tmp_path / "d.zarr", {"type": "affine", "affine": [[1, 2], [3, 4]]}))
    with pytest.raises(sr.InputError, match="damaged"):
        sr.load(scene(tmp_path / "e.zarr", {"type": "displacements", "path": "nowhere"}))
