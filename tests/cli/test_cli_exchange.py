"""``stnreg convert`` and ``stnreg evaluate``, and the other commands on other programs' files."""

import csv
import json
from pathlib import Path

import imageio.v3 as imageio
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

import napari_stnreg as sr
from napari_stnreg.cli import main
from napari_stnreg.core.grid import Grid
from napari_stnreg.transforms import AffineTransform
from tests.cli.test_cli import SHIFT, draw, scene


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A pair as PNG with its true shift, and another as NIfTI."""
    monkeypatch.chdir(tmp_path)
    imageio.imwrite("fixed.png", draw())
    imageio.imwrite("moving.png", draw(SHIFT))
    matrix = np.eye(3)
    matrix[:2, 2] = SHIFT
    sr.save(AffineTransform(matrix), "shift.safetensors")
    affine = np.diag([-1.5, 2.0, 1.0, 1.0])
    affine[:3, 3] = (40, -30, 5)
    points = np.stack(np.meshgrid(*(np.arange(n) for n in (30, 28, 16)), indexing="ij"), -1) @ affine[:3, :3].T
    for name, by in (("fixed", 0), ("moving", (3, -4, 2))):
        values = scene(np.abs(points - by)).astype(np.float32)
        nib.save(nib.Nifti1Image(values, affine), f"{name}.nii.gz")
    return tmp_path


def test_convert_round_trip_through_all_formats(folder, capsys):
    names = ["a.tfm", "b.h5", "c.nii.gz", "d.zarr", "e.txt", "f.safetensors"]
    before = "shift.safetensors"
    for name in names:
        assert main(["convert", before, name, "--fixed", "fixed.png", "--moving", "moving.png"]) == 0
        assert capsys.readouterr().out == f"{name}\n"
        before = name
    found = sr.load("f.safetensors")
    points = np.array([[10.0, 20], [30, 40]])
    np.testing.assert_allclose(found.map_points(points), points + SHIFT, atol=1e-5)
    assert main(["convert", "a.tfm", "back.tfm", "--inverse"]) == 0
    np.testing.assert_allclose(sr.load("back.tfm").map_points(points), points - SHIFT)


def test_space_comes_from_images_or_options(folder):
    theirs = sitk.TranslationTransform(3, (1.0, 2, 3))
    sitk.WriteTransform(theirs, "theirs.tfm")
    assert main(["convert", "theirs.tfm", "a.safetensors", "--fixed", "fixed.nii.gz", "--moving", "moving.nii.gz"]) == 0
    np.testing.assert_allclose(sr.load("a.safetensors").map_points([[0, 0, 0]])[0], [3, -2, -1])
    assert main(["convert", "theirs.tfm", "b.safetensors", "--space", "world", "--unit", "um"]) == 0
    found = sr.load("b.safetensors")
    assert (found.unit, found.coordinate_systems) == ("um", ("world", "world"))
    np.testing.assert_allclose(found.map_points([[0, 0, 0]])[0], [3, 2, 1])
    assert main(["convert", "a.safetensors", "c.tfm"]) == 0
    np.testing.assert_allclose(sitk.ReadTransform("c.tfm").TransformPoint((0, 0, 0)), (1, 2, 3))


def test_apply_and_register_take_itks_files(folder):
    rigid = sitk.Euler3DTransform((10.0, 5, 3), 0.1, 0, 0.2, (2.0, -1, 3))
    sitk.WriteTransform(rigid, "t.tfm")
    assert main(["apply", "t.tfm", "moving.nii.gz", "-r", "fixed.nii.gz", "-o", "ours.nii.gz", "--fill", "-1"]) == 0
    still, other = (sitk.ReadImage(f"{n}.nii.gz") for n in ("fixed", "moving"))
    theirs = sitk.GetArrayFromImage(sitk.Resample(other, still, rigid, sitk.sitkLinear, -1.0))
    ours = sitk.GetArrayFromImage(sitk.ReadImage("ours.nii.gz"))
    both = (theirs != -1) & (ours != -1)
    assert both.mean() > 0.5
    assert np.abs(theirs - ours)[both].max() < 1e-3
    words = ["register", "fixed.nii.gz", "moving.nii.gz", "-o", "out", "--start-transform", "t.tfm", "--device", "cpu"]
    assert main([*words, "--family", "translation", "--preset", "fast", "--iterations", "2", "--accept"]) == 0


def test_evaluate_prints_and_writes_the_scorecard(folder, capsys):
    grid = Grid.from_spacing((64, 60)).points()
    for name, by in (("fixed", 0), ("moving", SHIFT)):
        imageio.imwrite(f"{name}_labels.png", (scene(grid - by) > 0.6).astype(np.uint8))
    pairs = np.array([[20.0, 20], [30, 40]])
    rows = np.hstack([pairs, pairs + SHIFT + [[0, 0], [3, 4]]])
    np.savetxt("points.csv", rows, delimiter=",", header="fixed_y,fixed_x,moving_y,moving_x", comments="")
    words = ["evaluate", "fixed.png", "moving.png", "-t", "shift.safetensors", "--landmarks", "points.csv",
             "--fixed-labels", "fixed_labels.png", "--moving-labels", "moving_labels.png"]  # fmt: skip
    assert main([*words, "-o", "scores.csv"]) == 0
    out = capsys.readouterr().out
    assert "NCC" in out
    assert "Dice, label 1" in out
    assert main([*words, "-o", "scores.json"]) == 0
    table = {(r["name"], r["item"]): r for r in csv.DictReader(Path("scores.csv").read_text().splitlines())}
    assert float(table["landmark", "max"]["after"]) == pytest.approx(5)
    assert float(table["dice", "1"]["after"]) > 0.97 > float(table["dice", "1"]["before"])
    assert table["dice", "1"]["mark"] == "good"
    content = json.loads(Path("scores.json").read_text())
    assert content["info"]["fixed"] == "fixed"
    assert main([*words, "-o", "scores.csv"]) == 2
    assert "exists. Choose another name" in capsys.readouterr().err
    assert main(["evaluate", "fixed.png", "moving.png", "-o", "a.xml"]) == 2
    assert main(["apply", "shift.safetensors", "moving.png", "-r", "fixed.png", "-o", "warped.png"]) == 0
    assert main(["evaluate", "fixed.png", "moving.png", "--result", "warped.png", "-o", "b.json"]) == 0
    scores = {s["name"]: s for s in json.loads(Path("b.json").read_text())["scores"]}
    assert scores["ncc"]["after"] > 0.95 > scores["ncc"]["before"]


def test_info_describes_transforms_of_other_programs(folder, capsys):
    for name in ("a.tfm", "a.h5", "a.nii.gz", "a.zarr"):
        assert main(["convert", "shift.safetensors", name, "--fixed", "fixed.png"]) == 0
        capsys.readouterr()
        assert main(["info", name]) == 0
        assert "2D transform" in capsys.readouterr().out
    assert main(["info", "fixed.nii.gz"]) == 0
    assert "3D image" in capsys.readouterr().out


def test_mistakes_have_code_2(folder, capsys):
    for words, sentence in (
        (["convert", "none.tfm", "a.h5"], "does not exist"),
        (["convert", "shift.safetensors", "a.xyz"], "unsupported extension for a transform"),
        (["convert", "shift.safetensors", "shift.safetensors", "--overwrite"], "is an input"),
        (["convert", "shift.safetensors", "a.nii.gz"], "no voxels of its own"),
        (["convert", "shift.safetensors", "a.h5", "--fixed", "fixed.nii.gz"], "is 2D, but the fixed image is 3D"),
        (["apply", "fixed.nii.gz", "moving.nii.gz", "-r", "fixed.nii.gz", "-o", "x.nii.gz"], "Is it an image"),
        (["evaluate", "fixed.png", "moving.nii.gz"], "2D"),
        (["evaluate", "fixed.png", "moving.png", "--fixed-labels", "fixed.png"], "without the moving ones"),
    ):
        assert main(words) == 2, words
        assert sentence in capsys.readouterr().err, words
