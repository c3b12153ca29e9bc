"""The command line: what it writes against the known truth, what it answers to mistakes, and how it is interrupted."""

import inspect
import json
import os
import shlex
import signal
import subprocess
import sys
import time

import imageio.v3 as imageio
import nibabel as nib
import numpy as np
import psutil
import pytest

import napari_stnreg as sr
from napari_stnreg.cli import main
from napari_stnreg.cli.app import COMMANDS, app
from napari_stnreg.cli.progress import Interrupt, ProgressDisplay
from napari_stnreg.core.grid import Grid
from napari_stnreg.io.points import read_table
from napari_stnreg.io.series import write_series
from napari_stnreg.registration.settings import RegistrationSettings
from tests.helpers.command_line import parse_command

SHIFT = np.array([3.0, -4.0])
QUICK = ["--family", "translation", "--preset", "fast", "--device", "cpu", "--iterations", "12"]


def scene(points):
    """Brightness 0 to 1 of a few spots at world points ``(..., D)``; those in 3D have the same pattern."""
    value = np.zeros(points.shape[:-1])
    for i, width in enumerate((9, 7, 5, 6, 8)):
        center = np.resize([20 + 7 * i, 44 - 6 * i, 18 + 6 * i + (i % 2) * 9], 3)[-points.shape[-1] :]
        value += (0.5 + 0.1 * i) * np.exp(-((points - center) ** 2).sum(-1) / (2 * width**2))
    return value


def draw(shift=(0, 0), dtype=np.uint8, shape=(64, 60)):
    """The scene moved by a shift."""
    value = scene(Grid.from_spacing(shape).points() - np.asarray(shift))
    return (200 * value / 1.6).astype(dtype)


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """Two PNG files, ``fixed.png`` and ``moving.png``, in the folder that the command runs in."""
    monkeypatch.chdir(tmp_path)
    imageio.imwrite("fixed.png", draw())
    imageio.imwrite("moving.png", draw(SHIFT))
    return tmp_path


@pytest.fixture
def done(pair):
    """The pair, registered into ``result``."""
    assert main(["register", "fixed.png", "moving.png", "-o", "result", *QUICK]) == 0
    return pair / "result"


def run_python(*words, **options):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, **options)


def test_register_writes_image_transform_and_report(done):
    assert sorted(path.name for path in done.iterdir()) == ["report.json", "transform.safetensors", "warped.png"]
    warped = imageio.imread(done / "warped.png")
    assert warped.dtype == np.uint8
    inner = (slice(8, -8),) * 2
    assert np.abs(warped[inner].astype(int) - draw()[inner]).max() <= 4
    points = np.array([[20.0, 20.0], [40.0, 30.0]])
    np.testing.assert_allclose(sr.load(done / "transform.safetensors").map_points(points), points + SHIFT, atol=0.1)
    report = json.loads((done / "report.json").read_text())
    assert report["scores"]["after"]["ncc"] > 0.99 > report["scores"]["before"]["ncc"]
    assert report["settings"]["family"] == "translation"
    assert report["settings"]["iterations"] == 12
    assert (report["stop_reason"], report["folding_fraction"]) == ("finished", 0)
    assert report["inputs"] == {"fixed": "fixed.png", "moving": "moving.png"}
    assert report["outputs"] == {"warped": "warped.png", "transforms": ["transform.safetensors"]}
    assert report["seconds"] > 0
    assert {"napari-stnreg", "torch", "numpy"} <= set(report["versions"])
    assert Grid.from_dict(report["grid"]) == sr.read("fixed.png").grid


def test_terminal_shows_stage_level_and_loss(pair, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["register", "fixed.png", "moving.png", "-o", "result", *QUICK]) == 0
    bar = capsys.readouterr().err
    assert "translation, level" in bar  # a quick fit shows but its end
    assert "loss" in bar
    assert "100%" in bar


def test_apply_repeats_what_register_warped(done):
    assert main(["apply", "result/transform.safetensors", "moving.png", "-r", "fixed.png", "-o", "again.png"]) == 0
    np.testing.assert_array_equal(imageio.imread("again.png"), imageio.imread("result/warped.png"))


def test_nearest_keeps_labels_and_their_type(done):
    labels = (draw(SHIFT) // 40).astype(np.int32) * 70_000
    np.save("labels.npy", labels)
    command = ["apply", "result/transform.safetensors", "labels.npy", "-r", "fixed.png", "-o", "moved.npy"]
    assert main([*command, "--interpolation", "nearest"]) == 0
    moved = np.load("moved.npy")
    assert moved.dtype == np.int32
    assert set(np.unique(moved)) <= set(np.unique(labels))
    truth = (draw() // 40).astype(np.int32) * 70_000
    assert (moved == truth)[8:-8, 8:-8].mean() > 0.97
    assert main([*command, "--interpolation", "nearest", "--fill", "70000", "--overwrite"]) == 0
    assert (np.load("moved.npy")[:, :2] == 70_000).all()


def test_inverse_maps_fixed_to_moving(done):
    words = ["apply", "result/transform.safetensors", "fixed.png", "-r", "moving.png", "-o", "back.npy", "--inverse"]
    assert main(words) == 0
    inner = (slice(8, -8),) * 2
    assert np.abs(np.load("back.npy")[inner].astype(int) - draw(SHIFT)[inner]).max() <= 4


def test_points_of_the_moving_side_go_to_the_fixed_side(done, capsys):
    with open("points.csv", "w") as file:
        file.write("index,axis-0,axis-1\n0,23,16\n1,43,26\n")
    assert main(["apply", "result/transform.safetensors", "points.csv", "-o", "mapped.csv"]) == 0
    table = read_table(done.parent / "mapped.csv")
    assert table.header == ("index", "axis-0", "axis-1")
    np.testing.assert_allclose(table.values, [[0, 20, 20], [1, 40, 30]], atol=0.1)
    assert main(["apply", "result/transform.safetensors", "mapped.csv", "-o", "there.csv", "--inverse"]) == 0
    np.testing.assert_allclose(read_table(done.parent / "there.csv").values, [[0, 23, 16], [1, 43, 26]], atol=1e-6)


def test_nifti_is_written_in_the_fixed_images_orientation(tmp_path, capsys):
    shift, files = np.array([2.0, -3.0, 4.0]), {}
    # Voxel axes of the files: fixed (left, superior, anterior), moving (posterior, right, superior); x, y, z in mm.
    affines = {
        "fixed": [[-2, 0, 0, 60], [0, 0, 2.5, 0], [0, 2, 0, 5], [0, 0, 0, 1]],
        "moving": [[0, 2, 0, 2], [-2, 0, 0, 62], [0, 0, 2, 2], [0, 0, 0, 1]],
    }
    for name, shape in (("fixed", (30, 28, 25)), ("moving", (31, 30, 29))):
        affine = np.array(affines[name], dtype=float)
        index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
        world = (index @ affine[:3, :3].T + affine[:3, 3])[..., ::-1]  # z, y, x
        values = scene(world - (shift if name == "moving" else 0))
        files[name] = nib.Nifti1Image((1000 * values).astype(np.int16), affine)
        files[name].header["cal_max"] = 7
        nib.save(files[name], tmp_path / f"{name}.nii.gz")
    words = ["register", *(str(tmp_path / f"{name}.nii.gz") for name in files), "-o", str(tmp_path / "new" / "result")]
    assert main([*words, *QUICK]) == 0
    result = tmp_path / "new" / "result"
    warped = nib.load(result / "warped.nii.gz")
    np.testing.assert_allclose(warped.affine, files["fixed"].affine)
    assert warped.shape == (30, 28, 25)
    assert warped.get_data_dtype() == np.int16
    assert warped.header["cal_max"] == 0  # that was about the fixed image's values
    both = [np.asarray(image.dataobj)[4:-4, 4:-4, 4:-4].ravel() for image in (warped, files["fixed"])]
    assert np.corrcoef(both)[0, 1] > 0.999
    points = np.array([[30.0, 30.0, 30.0], [20.0, 40.0, 35.0]])
    np.testing.assert_allclose(sr.load(result / "transform.safetensors").map_points(points), points + shift, atol=0.2)
    again = tmp_path / "again.nii.gz"
    words = ["apply", str(result / "transform.safetensors"), str(tmp_path / "moving.nii.gz"), "-o", str(again)]
    assert main([*words, "-r", str(tmp_path / "fixed.nii.gz")]) == 0
    np.testing.assert_array_equal(nib.load(again).dataobj, warped.dataobj)


def test_every_frame_of_a_series_is_registered(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shifts = [(0, 2), (3, 0), (-2, -3)]
    frames = [sr.Image.from_array(draw(shift, np.uint16), 0.5, unit="um") for shift in shifts]
    write_series("series.tif", frames)
    write_series("fixed.tif", [sr.Image.from_array(draw(dtype=np.uint16), 0.5, unit="um")])
    assert [frame.grid for frame in sr.read_series("series.tif")] == [frame.grid for frame in frames]
    words = ["register", "fixed.tif", "series.tif", "-o", "result"]
    assert main(words) == 2
    assert "3 time frames. Choose one with --frame 0 to --frame 2, or give --all-frames" in capsys.readouterr().err
    assert main([*words, *QUICK, "--all-frames", "--extent", "union"]) == 0
    said = capsys.readouterr().out.replace("\\", "/")
    assert "frame 2: NCC" in said
    assert "result/warped.tif" in said
    warped = sr.read_series("result/warped.tif")
    report = json.loads((tmp_path / "result" / "report.json").read_text())
    for number, (shift, image) in enumerate(zip(shifts, warped, strict=True)):
        # The union of every frame is larger than the fixed image, and lies on its lattice.
        assert image.grid == warped[0].grid == Grid.from_dict(report["grid"])
        name = report["outputs"]["transforms"][number]
        found = sr.load(tmp_path / "result" / name).map_points([[15.0, 15.0]])[0]
        np.testing.assert_allclose(found, 15 + 0.5 * np.array(shift), atol=0.1)
    assert min(np.subtract(warped[0].grid.shape, frames[0].grid.shape)) >= 5
    words = ["apply", "result/transform_0001.safetensors", "series.tif", "-r", "result/warped.tif", "-o", "again.tif"]
    assert main(words) == 0
    again = sr.read_series("again.tif")
    assert len(again) == 3
    np.testing.assert_array_equal(again[1].data, warped[1].data)
    assert main([*words, "--frame", "1", "--overwrite"]) == 0
    np.testing.assert_array_equal(sr.read("again.tif").data, warped[1].data)


def test_a_stopped_run_over_all_frames_is_resumed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shifts = [(0, 2), (3, 0), (-2, -3), (2, 2)]
    # another contrast than the fixed image, and a bright artifact that the mask leaves out
    frames = [180 - draw(shift) for shift in shifts]
    mask = np.ones((64, 60), np.uint8)
    mask[:12, :12] = 0
    for one in frames:
        one[mask == 0] = 255
    write_series("series.tif", [sr.Image.from_array(one) for one in frames])
    imageio.imwrite("fixed.png", draw())
    imageio.imwrite("mask.png", mask)
    words = ["register", "fixed.png", "series.tif", "--moving-mask", "mask.png", *QUICK, "--all-frames", "-o"]
    assert main([*words, "whole"]) == 0
    assert "series: verdict: good" in capsys.readouterr().out
    shown = ProgressDisplay.update

    def stop_in_the_third(self, done, total, text, *rest):
        if text.startswith("frame 3"):
            signal.raise_signal(signal.SIGINT)
        shown(self, done, total, text, *rest)

    monkeypatch.setattr(ProgressDisplay, "update", stop_in_the_third)
    assert main([*words, "part"]) == 130
    assert "--resume" in capsys.readouterr().err
    report = json.loads((tmp_path / "part" / "report.json").read_text())
    assert [one["stop_reason"] for one in report["frames"]] == ["finished", "finished", "stopped"]
    assert len(sr.read_series("part/warped.tif")) == 3
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert main([*words, "part"]) == 2  # neither resumed nor overwritten
    assert main([*words, "part", "--resume", "--seed", "4"]) == 2
    assert "settings differ" in capsys.readouterr().err
    first = (tmp_path / "part" / "transform_0000.safetensors").stat().st_mtime_ns
    assert main([*words, "part", "--resume"]) == 0
    assert (tmp_path / "part" / "transform_0000.safetensors").stat().st_mtime_ns == first
    for name in ("warped.tif", *(f"transform_{number:04d}.safetensors" for number in range(4))):
        if name.endswith(".tif"):
            both = [np.stack([one.data for one in sr.read_series(f"{folder}/{name}")]) for folder in ("part", "whole")]
            np.testing.assert_array_equal(*both)
        else:
            both = [sr.load(f"{folder}/{name}").map_points([[30.0, 30.0]]) for folder in ("part", "whole")]
            np.testing.assert_array_equal(*both)
            np.testing.assert_allclose(both[0][0], 30 + np.array(shifts[int(name[10:14])]), atol=0.4)
    report = json.loads((tmp_path / "part" / "report.json").read_text())
    assert report["verdict"] == "good"
    assert len(report["frames"]) == 4
    assert {"motion.csv", "motion.svg", "frames.jsonl"} <= {path.name for path in (tmp_path / "part").iterdir()}
    assert main(["register", "fixed.png", "fixed.png", "-o", "x", "--resume"]) == 2


def test_masks_landmarks_and_start_are_used(done, capsys):
    mask = np.zeros((64, 60), np.uint8)
    mask[5:-5, 5:-5] = 255
    imageio.imwrite("mask.png", mask)  # on the image's own voxels
    write_series("coarse.tif", [sr.Image.from_array(mask[::2, ::2], 2.0)])  # on another grid
    with open("pairs.csv", "w") as file:
        file.write("# fixed, then moving\n20,20,23,16\n40,30,43,26\n30,44,33,40\n")
    masks = ["--fixed-mask", "mask.png", "--moving-mask", "coarse.tif"]
    words = ["register", "fixed.png", "moving.png", "-o", "second", *QUICK]
    assert main([*words, *masks, "--landmarks", "pairs.csv", "--start-transform", "result/transform.safetensors"]) == 0
    report = json.loads((done.parent / "second" / "report.json").read_text())
    assert report["scores"]["before"]["landmark_median"] == pytest.approx(5, abs=1e-3)
    assert report["scores"]["after"]["landmark_median"] < 0.2
    assert report["inputs"]["moving_mask"] == "coarse.tif"
    # One side at a time, as napari saves it.
    for name, points in (("a", [[20, 20], [40, 30], [30, 44]]), ("b", [[23, 16], [43, 26], [33, 40]])):
        rows = "\n".join(f"{i},{y},{x}" for i, (y, x) in enumerate(points))
        (done.parent / f"{name}.csv").write_text(f"index,axis-0,axis-1\n{rows}\n")
    sides = ["--fixed-landmarks", "a.csv", "--moving-landmarks", "b.csv"]
    assert main([*words, "--overwrite", *sides]) == 0
    again = json.loads((done.parent / "second" / "report.json").read_text())
    assert again["scores"]["before"]["landmark_median"] == pytest.approx(5, abs=1e-3)
    assert main([*words, "--overwrite", *sides, "--landmarks", "pairs.csv"]) == 2


def test_voxel_size_and_unit_options(pair):
    np.save("moving.npy", draw(SHIFT).astype(np.float32))
    place = ["--moving-spacing", "0.002", "--moving-unit", "mm", "--fixed-spacing", "2,2", "--fixed-unit", "um"]
    assert main(["register", "fixed.png", "moving.npy", "-o", "result", *QUICK, *place]) == 0
    assert np.load("result/warped.npy").dtype == np.float32
    transform = sr.load("result/transform.safetensors")
    assert transform.unit == "um"
    np.testing.assert_allclose(transform.map_points([[40.0, 40.0]]), [[46.0, 32.0]], atol=0.2)


def test_a_format_that_cannot_hold_the_result_becomes_tiff(pair, monkeypatch, capsys):
    np.save("series.npy", np.stack([np.stack([draw(SHIFT)] * 9)] * 2))
    np.save("volume.npy", np.stack([draw()] * 9))
    monkeypatch.setattr("napari_stnreg.cli.commands.register._output_suffix", lambda path: ".png")
    assert main(["register", "volume.npy", "series.npy", "-o", "result", *QUICK, "--all-frames"]) == 0
    assert len(sr.read_series("result/warped.tif")) == 2
    assert "holds a single image, not 2 frames" in capsys.readouterr().err


def test_existing_results_are_kept_without_overwrite(done, capsys):
    words = ["register", "fixed.png", "moving.png", "-o", "result", *QUICK]
    before = (done / "report.json").read_bytes()
    assert main(words) == 2
    assert "not empty. Choose another folder, or add --overwrite" in capsys.readouterr().err
    assert (done / "report.json").read_bytes() == before
    np.save(done / "warped.npy", draw())  # left by a run on another format
    assert main([*words, "--overwrite"]) == 0
    assert sorted(path.name for path in done.iterdir()) == ["report.json", "transform.safetensors", "warped.png"]
    # ... and never an input.
    assert main(["register", "fixed.png", "result/warped.png", "-o", "result", "--overwrite"]) == 2
    assert "is inside the output" in capsys.readouterr().err
    apply = ["apply", "result/transform.safetensors", "moving.png", "-r", "fixed.png", "-o"]
    assert main([*apply, "fixed.png"]) == 2
    assert main([*apply, "fixed.png", "--overwrite"]) == 2
    assert "is an input" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["register", "no.png", "moving.png"], "'no.png' does not exist."),
        (["register", "fixed.png", "no.png"], "'no.png' does not exist."),
        (["register", "fixed.png", "fixed.png"], "FIXED and MOVING are the same file. Choose two different images."),
        (["register", "fixed.png", "moving.png", "--fixed-mask", "no.png"], "'no.png' does not exist."),
        (["register", "fixed.png", "moving.png", "--landmarks", "no.csv"], "'no.csv' cannot be read: No such file"),
        (["register", "fixed.png", "moving.png", "--landmarks", "fixed.png"], "'fixed.png' cannot be read: it is no"),
        (["register", "fixed.png", "moving.png", "--start-transform", "no.safetensors"], "'no.safetensors' cannot be"),
        (["register", "fixed.png", "moving.png", "--preset", "slow"], "Setting 'preset': Input should be 'fast'"),
        (["register", "fixed.png", "moving.png", "--family", "round"], "there is no transform family 'round'"),
        (["register", "fixed.png", "moving.png", "--similarity", "x"], "similarity 'x'"),
        (
            ["register", "fixed.png", "moving.png", "--seed", "many"],
            "'seed': Input should be a valid integer, not 'many'.",
        ),
        (
            ["register", "fixed.png", "moving.png", "--smoothness", "-1"],
            "'smoothness': Input should be greater than 0, not '-1'.",
        ),
        (["register", "fixed.png", "moving.png", "--fixed-spacing", "2,x"], "'2,x' is not a voxel size, such as 2,0.5"),
        (["register", "fixed.png", "moving.png", "--fixed-spacing", "0"], "'0' is not a voxel size, such as 2,0.5"),
        (["register", "fixed.png", "moving.png", "--fill", "300"], "cannot hold the fill value 300"),
        (["register", "fixed.png", "moving.png", "--moving-spacing", "1,2,3"], "2 axes, but 3 voxel sizes"),
        (["register", "fixed.png", "volume.npy"], "'fixed' is 2D and 'volume' is 3D. A slice cannot be registered"),
        (["register", "fixed.png", "flat.npy"], "flat"),
        (["register", "fixed.png", "moving.png", "--moving-mask", "flat.npy"], "leaves nothing of 'moving'"),
        (["apply", "moving.png", "moving.png", "-r", "fixed.png"], "'moving.png' holds an image, not a transform."),
        (["apply", "no.safetensors", "moving.png", "-r", "fixed.png"], "'no.safetensors' cannot be read"),
        (["info", "no.nii.gz"], "'no.nii.gz' does not exist."),
        (["info", "cut.nii.gz"], "'cut.nii.gz' cannot be read"),
    ],
)
def test_bad_input_prints_one_sentence_and_exits_with_2(pair, capsys, words, sentence):
    np.save("volume.npy", np.zeros((8, 9, 10)))
    np.save("flat.npy", np.zeros((64, 60)))
    (pair / "cut.nii.gz").write_bytes(b"\x1f\x8b\x08\x00cut")
    output = [] if words[0] == "info" else ["-o", "result"] if words[0] == "register" else ["-o", "out.png"]
    assert main([*words, *output]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"stnreg {words[0]}: ")
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
    assert not (pair / "result").exists()
    assert not list(pair.glob(".*"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["register", "fixed.png"], "parameter MOVING requires an argument"),
        (["register", "fixed.png", "moving.png", "-o", "x", "--fam", "rigid"], "Unknown option: --fam"),
        (["register", "a", "b", "-o", "x", "--frame", "1", "--all-frames"], "--frame or --all-frames, not both"),
        (["apply", "t", "m", "-o", "x", "--moving-spacing", "0"], "'0' is not a voxel size"),
        (["regster", "a", "b"], "Did you mean"),
    ],
)
def test_a_command_that_cannot_be_parsed_has_code_2(capsys, words, sentence):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_no_command_prints_the_help_and_has_code_2(capsys):
    assert main([]) == 2
    assert "register" in capsys.readouterr().out


def test_other_failures_have_code_1_and_debug_shows_where(pair, monkeypatch, capsys):
    def broken(*_args, **_options):
        raise RuntimeError("the engine broke")

    monkeypatch.setattr("napari_stnreg.registration.api.register_steps", broken)
    words = ["register", "fixed.png", "moving.png", "-o", "result"]
    assert main(words) == 1
    assert capsys.readouterr().err == "stnreg register: RuntimeError: the engine broke (--debug shows where)\n"
    assert not (pair / "result").exists()
    assert main([*words, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setattr(
        "napari_stnreg.registration.api.register_steps", lambda *a, **k: (_ for _ in ()).throw(MemoryError)
    )
    assert main(words) == 1
    assert "Not enough memory" in capsys.readouterr().err


@pytest.mark.parametrize("bad", ["y,x\n1,2\n3\n", "y,x\n1,two\n", "", "y,x,t\n"])
def test_broken_tables_are_refused(tmp_path, bad):
    (tmp_path / "points.csv").write_text(bad)
    with pytest.raises(sr.InputError, match=r"points\.csv"):
        read_table(tmp_path / "points.csv")


def test_columns_are_found_by_name_and_number(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("moving_x,moving_y,fixed_x,fixed_y\n1,2,3,4\n")
    fixed, moving = read_table(path).pairs(2)
    assert (fixed.tolist(), moving.tolist()) == ([[4, 3]], [[2, 1]])
    path.write_text("x,y\n1,2\n")
    assert read_table(path).columns(2).indices == (1, 0)
    path.write_text("index,axis-0,axis-1,axis-2\n0,5,6,7\n")
    assert read_table(path).columns(2).indices == (2, 3)  # axis 0 is time
    with pytest.raises(sr.InputError, match="must have the columns fixed_y,fixed_x,moving_y,moving_x"):
        read_table(path).pairs(2)
    path.write_text("1,2,3\n")
    with pytest.raises(sr.InputError, match=r"3 columns. Points in 2D need y,x"):
        read_table(path).points(2)


def test_info_describes_a_file(done, capsys):
    assert main(["info", "result/transform.safetensors"]) == 0
    said = capsys.readouterr().out
    assert "2D transform" in said
    assert "translation" in said
    image = sr.Image.from_array(np.zeros((5, 6, 7), np.float32), (3, 0.5, 0.5), unit="um")
    sr.write_image("image.tif", image)
    assert main(["info", "image.tif"]) == 0
    said = capsys.readouterr().out
    assert "5 x 6 x 7 (z, y, x)" in said
    assert "3 x 0.5 x 0.5 um" in said
    assert "float32" in said


def test_every_setting_is_an_option():
    values = {"family": "rigid+bspline", "similarity": "mi", "preset": "fast", "start": "search", "mirror": True,
              "extent": "union", "device": "cpu", "smoothness": 2.5, "control_spacing": 6.0, "fill": -3.5,
              "model": "box-2d"}  # fmt: skip
    words = ["register", "a", "b", "-o", "c"]
    for name in RegistrationSettings.model_fields:
        value = values.setdefault(name, 3)
        flag = "--" + name.replace("_", "-")
        words += [flag] if value is True else [flag, str(value)]
    assert parse_command(words)["settings"] == RegistrationSettings.parse(**values)
    assert parse_command(["register", "a", "b", "-o", "c"])["settings"] == RegistrationSettings.parse()


def test_settings_come_from_a_file_and_flags_have_priority(pair, capsys):
    (pair / "settings.json").write_text(json.dumps({"family": "translation", "preset": "fast", "iterations": 3}))
    words = ["register", "fixed.png", "moving.png", "-o", "result", "--config", "settings.json"]
    assert main([*words, "--iterations", "12"]) == 0
    report = json.loads((pair / "result" / "report.json").read_text())
    settings = report["settings"]
    assert (settings["family"], settings["preset"], settings["iterations"]) == ("translation", "fast", 12)
    again = ["register", "fixed.png", "moving.png", "-o", "again", "--config", "result/report.json"]
    assert main(again) == 0
    repeated = json.loads((pair / "again" / "report.json").read_text())
    assert repeated["settings"] == settings
    assert repeated["scores"] == report["scores"]
    (pair / "settings.json").write_text("[1]")
    assert main([*words, "--overwrite"]) == 2
    assert "must hold a JSON object" in capsys.readouterr().err
    (pair / "settings.json").write_text(json.dumps({"familiy": "affine"}))
    assert main([*words, "--overwrite"]) == 2
    assert "Setting 'familiy' does not exist" in capsys.readouterr().err


def test_quiet_prints_results_only_and_verbose_logs(done, capsys):
    words = ["register", "fixed.png", "moving.png", "-o", "result", "--overwrite", *QUICK, "--start", "none"]
    capsys.readouterr()
    assert main([*words, "-q"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "report.json" in captured.out


def test_progress_is_printed_in_lines_without_a_terminal(pair, monkeypatch, capsys):
    monkeypatch.setattr("napari_stnreg.cli.progress.SECONDS_BETWEEN_LINES", 0.0)
    assert main(["register", "fixed.png", "moving.png", "-o", "result", *QUICK]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert any("translation, level" in line and "%" in line and "loss" in line for line in lines)
    assert "|" not in "".join(lines)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_a_completion_script(shell, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["install-completion", "--shell", shell, "--output", str(tmp_path / "completion")]) == 0
    script = (tmp_path / "completion").read_text()
    assert "register" in script
    assert "--smoothness" in script


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_the_whole_description_and_an_example_that_parses(command, capsys):
    assert main([command, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    text = inspect.getdoc(app[command].default_command)
    description, _, rest = text.partition("\n\nParameters\n")
    assert " ".join(description.split()) in shown
    example = rest.partition("\nExamples\n--------\n")[2]
    assert " ".join(example.split()) in shown
    words = shlex.split(example)
    assert words[:2] == ["stnreg", command]
    parse_command(words[1:])


@pytest.mark.parametrize("words", [["register", "--help"], ["--version"]])
def test_help_is_quick(words):
    code = f"""
import sys
from napari_stnreg.cli import main
from napari_stnreg.cli.app import COMMANDS, app
try:
    main({words})
except SystemExit as end:
    assert end.code == 0
heavy = {{"torch", "napari", "qtpy", "numpy", "scipy", "nibabel", "tqdm"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "stnreg" in done.stdout


def test_two_interrupts_abort():
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_aborted_run_leaves_nothing(pair, monkeypatch, capsys):
    def aborted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("napari_stnreg.registration.api.register_steps", aborted)
    assert main(["register", "fixed.png", "moving.png", "-o", "result"]) == 130
    assert capsys.readouterr().err == "stnreg register: Aborted.\n"
    assert not (pair / "result").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl+C cannot be sent to one process there")
def test_ctrl_c_keeps_the_best_so_far(pair):
    words = ["register", "fixed.png", "moving.png", "-o", "result", "--family", "translation+diffeomorphic",
             "--iterations", "10000", "--similarity", "mse", "--device", "cpu"]  # fmt: skip
    command = [sys.executable, "-m", "napari_stnreg.cli", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
        try:
            end = time.monotonic() + 100
            while not (pair / "result").exists() and run.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
            program = psutil.Process(run.pid)  # its own time: the machine may be busy
            begun = program.cpu_times().user
            while program.cpu_times().user < begun + 0.4 and run.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
            run.send_signal(signal.SIGINT)
            said, error = run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode == 130, error
    assert "Stopping. The best result so far is kept" in error
    report = json.loads((pair / "result" / "report.json").read_text())
    assert report["stop_reason"] == "stopped"
    assert "stopped" in said
    assert report["scores"]["after"]["ncc"] > report["scores"]["before"]["ncc"]
    assert (pair / "result" / "warped.png").exists()
    assert sr.load(pair / "result" / "transform.safetensors").ndim == 2
