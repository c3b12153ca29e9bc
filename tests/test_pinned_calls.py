"""Calls that scripts outside of this repository rely on; they keep working as they are written here."""

import json

import numpy as np
import pytest
from scipy import ndimage

import napari_stnreg as sr
from napari_stnreg.cli import main

SHIFT = (2.0, -3.0)


@pytest.fixture(scope="module")
def pair():
    noise = np.random.default_rng(0).standard_normal((56, 64))
    scene = ndimage.gaussian_filter(noise, 3)
    scene = (200 * (scene - scene.min()) / np.ptp(scene)).astype(np.float32)
    # moving(x) = fixed(x - SHIFT), so the transform adds SHIFT
    return scene, ndimage.shift(scene, SHIFT, order=1, mode="nearest")


def test_python(pair, tmp_path):
    f, m = (sr.Image.from_array(a, spacing=(1.0, 1.0)) for a in pair)
    result = sr.register(f, m, family="translation", similarity="ncc", preset="fast", start="auto", mirror=False,
                         device="cpu", seed=0)  # fmt: skip
    np.testing.assert_allclose(result.transform.map_points([[20.0, 30.0]]), [[22.0, 27.0]], atol=0.1)
    field = np.asarray(result.transform.displacement(f.grid))
    assert field.shape in {(2, 56, 64), (56, 64, 2)}
    assert list(result.warnings) == []
    warped = sr.warp(m, result.transform, f.grid, interpolation="linear")
    assert np.abs(warped.data - f.data)[6:-6, 6:-6].mean() < 2
    for kept in (result, result.transform):
        sr.save(kept, tmp_path / "t.safetensors")
        points = sr.load(tmp_path / "t.safetensors").map_points([[20.0, 30.0]])
        np.testing.assert_allclose(points, result.transform.map_points([[20.0, 30.0]]), atol=1e-4)
    sr.write_image(tmp_path / "f.tif", f)
    np.testing.assert_array_equal(sr.read(tmp_path / "f.tif").data, f.data)
    model = sr.load("box-2d")
    assert model(f, m).transform.map_points([[20.0, 30.0]]).shape == (1, 2)


def test_command_line(pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, data in zip(("F.npy", "M.npy"), pair, strict=True):
        np.save(name, data)
    np.save("STACK.npy", np.stack([pair[0], pair[0], pair[1]]).astype(np.uint8))
    assert main(["register", "F.npy", "M.npy", "-o", "DIR", "--family", "translation", "--preset", "fast"]) == 0
    assert {"warped.npy", "transform.safetensors", "report.json"} <= {path.name for path in tmp_path.glob("DIR/*")}
    assert json.loads((tmp_path / "DIR" / "report.json").read_text())["verdict"] == "good"
    assert main(["apply", "DIR/transform.safetensors", "M.npy", "-o", "again.npy", "-r", "F.npy"]) == 0
    assert np.abs(np.load("again.npy") - pair[0])[6:-6, 6:-6].mean() < 2
    assert main(["convert", "DIR/transform.safetensors", "OUT.tfm"]) == 0
    np.testing.assert_allclose(sr.load("OUT.tfm").map_points([[20.0, 30.0]]), [[22.0, 27.0]], atol=0.1)
    assert main(["align", "STACK.npy", "OUT.zarr", "--no-deform", "--no-search-rotations"]) == 0
    assert (tmp_path / "OUT.report.json").is_file()
    assert main(["export-field", "OUT.zarr", "F2.npy"]) == 0
    assert np.load("F2.npy").shape == (3, 2, 56, 64)
