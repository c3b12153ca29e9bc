"""Commands and functions that write never destroy an input, however its path is spelled, nor a foreign folder."""

import json

import numpy as np
import pytest

import napari_stnreg as sr
from napari_stnreg.batch import batch_steps, read_jobs
from napari_stnreg.cli import main
from napari_stnreg.transforms import AffineTransform
from tests.cli.test_cli import QUICK, SHIFT, draw
from tests.core.test_output_guard import SPELLINGS, spelled


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """An OME-Zarr image that is the moving image of a pair, beside its fixed image and a transform."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    sr.write_image(tmp_path / "fixed.tif", sr.Image.from_array(draw(), unit="um"))
    sr.write_image(tmp_path / "raw.zarr", sr.Image.from_array(draw(SHIFT), unit="um"))
    matrix = np.eye(3)
    matrix[:2, 2] = SHIFT
    sr.save(AffineTransform(matrix, "um"), "t.safetensors")
    return tmp_path / "raw.zarr"


def listed(source):
    with open("jobs.csv", "w") as file:
        file.write(f"fixed,moving\nfixed.tif,{source}\n")
    return "jobs.csv"


COMMANDS = {
    "register": lambda source, out: ["register", "fixed.tif", source, "-o", out, *QUICK, "--overwrite"],
    "apply": lambda source, out: ["apply", "t.safetensors", source, "-r", "fixed.tif", "-o", out, "--overwrite"],
    "convert": lambda source, out: ["convert", "t.safetensors", out, "--moving", source, "--overwrite"],
    "compose": lambda source, out: ["compose", "t.safetensors", "--moving", source, "-o", out, "--overwrite"],
    "batch": lambda source, out: ["batch", listed(source), "-o", out, *QUICK],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("how", SPELLINGS)
def test_an_output_that_is_an_input_is_refused_in_every_spelling(raw, capsys, command, how):
    source, output = spelled(raw, how)
    assert main(COMMANDS[command](str(source), str(output))) == 2
    assert "input" in capsys.readouterr().err
    np.testing.assert_array_equal(sr.read(raw).data, draw(SHIFT))


@pytest.mark.parametrize("command", ["register", "batch"])
def test_a_foreign_folder_is_not_taken_for_results(raw, capsys, command):
    (raw.parent / "mine").mkdir()
    (raw.parent / "mine" / "warped.tif").write_text("keep me")
    (raw.parent / "mine" / "report.json").write_text(json.dumps({"chapter": 1}))
    (raw.parent / "mine" / "batch.json").write_text(json.dumps({"chapter": 2}))
    assert main(COMMANDS[command](str(raw), "mine")) == 2
    assert "not written by this program" in capsys.readouterr().err
    assert (raw.parent / "mine" / "warped.tif").read_text() == "keep me"
    if command == "batch":
        with pytest.raises(sr.InputError, match="not written by this program"):
            next(batch_steps(read_jobs("jobs.csv"), "mine"))


def test_a_pair_of_zarr_images_is_registered_and_its_result_replaced(raw, capsys):
    words = COMMANDS["register"](str(raw), "result")
    for _ in range(2):
        assert main(words) == 0
    warped = sr.read("result/warped.zarr")
    assert warped.grid == sr.read("fixed.tif").grid
    assert np.corrcoef(np.ravel(warped.data[8:-8, 8:-8]), np.ravel(draw()[8:-8, 8:-8]))[0, 1] > 0.95


def test_several_transforms_are_applied_in_one_sampling(raw, capsys):
    matrix = np.eye(3)
    matrix[:2, 2] = (2, 3)
    sr.save(AffineTransform(matrix, "um"), "extra.tfm")
    words = ["t.safetensors", "extra.tfm", "[extra.tfm,1]", str(raw), "-r", "fixed.tif", "-o"]
    assert main(["apply", *words, "several.tif"]) == 0
    assert main(["apply", "t.safetensors", str(raw), "-r", "fixed.tif", "-o", "one.tif"]) == 0
    np.testing.assert_allclose(sr.read("several.tif").data, sr.read("one.tif").data, atol=1)
    assert main(["compose", "t.safetensors", "[extra.tfm,1]", "-o", "both.safetensors", "--fixed", "fixed.tif"]) == 0
    both = sr.load("both.safetensors")
    np.testing.assert_allclose(both.map_points([[10.0, 20]])[0], np.add([10, 20], SHIFT) - (2, 3), atol=1e-9)
    assert main(["compose", "t.safetensors", "-o", "back.tfm", "--inverse"]) == 0
    np.testing.assert_allclose(sr.load("back.tfm").map_points([[10.0, 20]])[0], np.subtract([10, 20], SHIFT), atol=1e-9)
    capsys.readouterr()
    assert main(["apply", "t.safetensors", "-o", "x.tif"]) == 2
    assert "Give one or more transforms" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".csv", ".fcsv", ".mrk.json"])
def test_points_of_every_format_are_mapped(raw, capsys, suffix):
    from napari_stnreg.io.points import read_points, write_points

    points = np.array([[20.0, 30], [5, 7]])
    with open("plain.csv", "w") as file:
        file.write("name,y,x\na,20,30\nb,5,7\n")
    from pathlib import Path

    write_points(Path(f"p{suffix}"), points, like=read_points(Path("plain.csv"), 2), unit="um")
    assert main(["apply", "t.safetensors", f"p{suffix}", "-o", f"q{suffix}"]) == 0
    mapped = read_points(Path(f"q{suffix}"), 2, unit="um")
    np.testing.assert_allclose(mapped.points, points - SHIFT, atol=1e-6)
    assert mapped.names == ("a", "b")


def test_points_in_another_unit_and_of_napari(raw, capsys):
    sr.write_image("moving.tif", sr.Image.from_array(draw(SHIFT), spacing=0.5, unit="um"))
    with open("p.csv", "w") as file:
        file.write("y,x\n0.02,0.03\n")
    assert main(["apply", "t.safetensors", "p.csv", "-o", "q.csv", "--moving-unit", "mm"]) == 0
    np.testing.assert_allclose(np.loadtxt("q.csv", delimiter=",", skiprows=1), np.subtract([20, 30], SHIFT), atol=1e-6)
    with open("n.csv", "w") as file:
        file.write("index,axis-0,axis-1\n0,40,60\n")  # voxels of 0.5 um
    words = ["apply", "t.safetensors", "n.csv", "-o", "m.csv"]
    assert main(words) == 2
    assert "Give the image" in capsys.readouterr().err
    assert main([*words, "--points-image", "moving.tif", "-r", "fixed.tif"]) == 0
    voxels = np.loadtxt("m.csv", delimiter=",", skiprows=1)[1:]
    transform = sr.load("t.safetensors")  # with the grids of its images, as a run saves it
    transform.save("u.safetensors", {"grid": sr.read("fixed.tif").grid.to_dict(),
                                     "moving_grid": sr.read("moving.tif").grid.to_dict()})  # fmt: skip
    assert main(["apply", "u.safetensors", "n.csv", "-o", "v.csv"]) == 0
    np.testing.assert_allclose(np.loadtxt("v.csv", delimiter=",", skiprows=1)[1:], voxels)
    np.testing.assert_allclose(voxels * sr.read("fixed.tif").grid.spacing, np.subtract([20, 30], SHIFT), atol=1e-6)
