"""Batches of pairs: known transforms, isolated failures, and runs that are interrupted and resumed."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import imageio.v3 as imageio
import numpy as np
import pytest

import napari_stnreg as sr
from napari_stnreg.batch import batch_steps, pair_folders, read_jobs
from napari_stnreg.cli import main
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.progress import run_to_completion
from tests.cli.test_cli import draw, scene

QUICK = {"family": "translation", "preset": "fast", "device": "cpu", "iterations": 12}
START = os.getcwd()
SHIFTS = {"a": (3.0, -4.0), "b": (-2.0, 5.0), "c": (4.0, 1.0)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three pairs that can be registered and one that cannot, with labels and landmarks for the first."""
    monkeypatch.chdir(tmp_path)
    imageio.imwrite("fixed.png", draw())
    grid = Grid.from_spacing((64, 60)).points()
    for name, shift in SHIFTS.items():
        imageio.imwrite(f"{name}.png", draw(shift))
    imageio.imwrite("fixed_labels.png", (scene(grid) > 0.6).astype(np.uint8))
    imageio.imwrite("a_labels.png", (scene(grid - SHIFTS["a"]) > 0.6).astype(np.uint8))
    points = np.array([[20.0, 20], [30, 40]])
    rows = np.hstack([points, points + SHIFTS["a"]])
    np.savetxt("a.csv", rows, delimiter=",", header="fixed_y,fixed_x,moving_y,moving_x", comments="")
    (tmp_path / "jobs.csv").write_text(
        "name,fixed,moving,fixed_labels,moving_labels,landmarks,iterations\n"
        "first,fixed.png,a.png,fixed_labels.png,a_labels.png,a.csv,\n"
        "broken,fixed.png,missing.png,,,,\n"
        "second,fixed.png,b.png,,,,15\n"
        ",fixed.png,c.png,,,,\n"
    )
    return tmp_path


def run(jobs="jobs.csv", stop_at=None, **options):
    steps = batch_steps(read_jobs(jobs), "out", **{**QUICK, **options})
    seen = []
    result = run_to_completion(steps, seen.append, lambda: stop_at is not None and bool(seen) and stop_at(seen[-1]))
    return result, [(s.name, s.state) for s in seen if s.row is not None]


def test_each_pair_has_a_row_and_a_failed_one_its_reason(folder):
    result, seen = run()
    last = "0004_c_to_fixed"
    assert seen == [("first", "done"), ("broken", "failed"), ("second", "done"), (last, "done")]
    assert result.stop_reason == "finished"
    for name, moving in (("first", "a"), ("second", "b"), (last, "c")):
        transform = sr.load(folder / "out" / name / "transform.safetensors")
        np.testing.assert_allclose(transform.map_points([[30, 30]])[0] - 30, SHIFTS[moving], atol=0.15)
        warped = imageio.imread(folder / "out" / name / "warped.png")
        assert np.abs(warped[8:-8, 8:-8].astype(float) - draw()[8:-8, 8:-8]).mean() < 3
    table = {row["name"]: row for row in csv.DictReader((folder / "out" / "scores.csv").read_text().splitlines())}
    assert "'missing.png' does not exist" in table["broken"]["error"]
    assert float(table["first"]["landmark_max_after"]) < 0.2 < float(table["first"]["landmark_max_before"])
    assert float(table["first"]["dice_mean_after"]) > 0.97
    assert table["second"]["dice_mean_after"] == ""
    assert float(table["second"]["ncc_after"]) > float(table["second"]["ncc_before"])
    report = json.loads((folder / "out" / "second" / "report.json").read_text())
    assert report["settings"]["iterations"] == 15
    assert json.loads((folder / "out" / "first" / "report.json").read_text())["settings"]["iterations"] == 12


def test_report_page_is_self_contained_and_shows_every_pair(folder):
    result, _ = run()
    page = result.page.read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 9
    assert "failed: 'missing.png' does not exist." in page.replace("&#39;", "'").replace(str(folder) + os.sep, "")
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "4 pairs, 1 not registered" in page
    before, after, grid = (imageio.imread(folder / "out" / "first" / f"{n}.png") for n in ("before", "after", "grid"))
    assert before.shape == (64, 60, 3)
    apart = [np.abs(p[..., 0].astype(float) - p[..., 1])[8:-8, 8:-8].mean() for p in (before, after)]
    assert apart[1] < 0.3 * apart[0]  # green and magenta fall together
    assert (grid == 255).mean() > 0.02


def test_finished_pairs_are_kept_and_changed_ones_repeated(folder):
    run()
    made = (folder / "out" / "first" / "transform.safetensors").stat().st_mtime_ns
    imageio.imwrite("missing.png", draw((1, 1)))
    result, seen = run()
    assert [state for _, state in seen] == ["kept", "done", "kept", "kept"]
    assert (folder / "out" / "first" / "transform.safetensors").stat().st_mtime_ns == made
    assert not result.failed
    imageio.imwrite("b.png", draw((-2, 4)))
    _, seen = run()
    assert [state for _, state in seen] == ["kept", "kept", "done", "kept"]
    (folder / "jobs.csv").write_text("name,fixed,moving\nsecond,fixed.png,b.png\n")
    for options, state in (({}, "done"), ({}, "kept"), ({"seed": 3}, "done"), ({"seed": 3, "restart": True}, "done")):
        assert run(**options)[1] == [("second", state)]


def test_stop_leaves_the_current_pair_for_the_next_run(folder):
    result, seen = run(stop_at=lambda step: step.name == "second" and step.fit is not None)
    assert seen == [("first", "done"), ("broken", "failed")]
    assert result.stop_reason == "stopped"
    assert "2 of 4 pairs" in result.page.read_text()
    assert not (folder / "out" / "second" / "transform.safetensors").exists()
    result, seen = run()
    assert [state for _, state in seen] == ["kept", "failed", "done", "done"]


@pytest.mark.slow
def test_killed_batch_resumes(folder):
    words = [sys.executable, "-m", "napari_stnreg.cli", "batch", "jobs.csv", "-o", "out", "--family", "translation",
             "--preset", "fast", "--device", "cpu", "--iterations", "12"]  # fmt: skip
    paths = {"PYTHONPATH": os.pathsep.join(os.path.abspath(os.path.join(START, path)) for path in sys.path)}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **paths})
    until = time.monotonic() + 100
    while not (folder / "out" / "first" / "row.json").exists() and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _, seen = run()
    assert seen[0] == ("first", "kept")
    assert [state for _, state in seen][1] == "failed"
    assert len(seen) == 4


def test_command_continues_after_failures_and_reports_them(folder, capsys):
    words = ["batch", "jobs.csv", "-o", "out", "--family", "translation", "--preset", "fast", "--iterations", "12"]
    assert main(words) == 1
    captured = capsys.readouterr()
    assert "1 of 4 pairs failed: broken." in captured.err
    assert captured.out.splitlines()[-2:] == [os.path.join("out", "scores.csv"), os.path.join("out", "summary.html")]
    (folder / "jobs.csv").write_text("fixed,moving\nfixed.png,a.png\n")
    assert main(words) == 0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("fixed,mowing\na,b\n", "must have the columns fixed and moving"),
        ("fixed,moving,color\na,b,c\n", "column 'color'"),
        ("fixed,moving\na,\n", "Row 1 of 'jobs.csv' has no moving image"),
        ("fixed,moving,name\na,b,x\na,c,x\n", "have the name 'x'"),
        ("fixed,moving\na,b,c,d\n", "more cells"),
        ("fixed,moving\n", "lists no pairs"),
        ("fixed,moving,family\na,b,round\n", "no transform family 'round'"),
    ],
)
def test_bad_lists_are_refused(tmp_path, monkeypatch, capsys, text, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs.csv").write_text(text)
    assert main(["batch", "jobs.csv", "-o", "out"]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def two_folders(tmp_path):
    """A folder of fixed and one of moving images, with a file that is no image."""
    for side in ("fixed", "moving"):
        (tmp_path / side).mkdir()
        for name in ("s.1.png", "s.2.png", "s.3.png"):  # dots in a name do not end it
            imageio.imwrite(tmp_path / side / name, draw((0.0, 2.0) if side == "moving" else (0.0, 0.0)))
    (tmp_path / "moving" / "notes.md").write_text("not an image")
    return tmp_path


def names_of(jobs):
    return [(job.fixed.name, job.moving.name) for job in jobs]


def test_pair_folders_by_name_order_or_with_one_image(two_folders):
    fixed, moving = two_folders / "fixed", two_folders / "moving"
    assert names_of(pair_folders(fixed, moving)) == [(f"s.{n}.png",) * 2 for n in (1, 2, 3)]
    with_one = pair_folders(fixed / "s.1.png", moving)
    assert [job.fixed.name for job in with_one] == ["s.1.png"] * 3
    assert len({job.name for job in with_one}) == 3
    assert names_of(pair_folders(fixed, moving / "s.2.png")) == [(f"s.{n}.png", "s.2.png") for n in (1, 2, 3)]
    assert len({job.name for job in pair_folders(fixed, moving / "s.2.png")}) == 3
    for number, path in enumerate(sorted(moving.glob("*.png"))):
        path.rename(path.with_name(f"other{number}.png"))
    assert names_of(pair_folders(fixed, moving)) == [(f"s.{n}.png", f"other{n - 1}.png") for n in (1, 2, 3)]


def test_pair_folders_refuses_a_moving_image_without_a_partner(two_folders):
    fixed, moving = two_folders / "fixed", two_folders / "moving"
    (fixed / "s.2.png").unlink()
    with pytest.raises(sr.InputError, match=r"2 fixed and 3 moving images, and 's\.2\.png' has no fixed image"):
        pair_folders(fixed, moving)
    (fixed / "s.1.tif").write_bytes((fixed / "s.1.png").read_bytes())
    (moving / "s.2.png").unlink()
    with pytest.raises(sr.InputError, match=r"'s\.1\.png' has no fixed image of its own"):
        pair_folders(fixed, moving)
    (two_folders / "empty").mkdir()
    with pytest.raises(sr.InputError, match="no images"):
        pair_folders(fixed, two_folders / "empty")
    with pytest.raises(sr.InputError, match="'missing' does not exist"):
        pair_folders("missing", moving)


def test_the_command_registers_two_folders(two_folders, monkeypatch, capsys):
    monkeypatch.chdir(two_folders)
    words = ["batch", "--fixed", "fixed", "--moving", "moving", "-o", "out", "--family", "translation", "--preset",
             "fast", "--iterations", "12"]  # fmt: skip
    assert main(words) == 0
    rows = list(csv.DictReader((two_folders / "out" / "scores.csv").read_text().splitlines()))
    assert [row["state"] for row in rows] == ["done"] * 3
    transform = sr.load(two_folders / "out" / rows[0]["name"] / "transform.safetensors")
    np.testing.assert_allclose(transform.map_points([[30, 30]])[0] - 30, (0, 2), atol=0.15)
    capsys.readouterr()
    for wrong in (["batch", "-o", "x"], ["batch", "--fixed", "fixed", "-o", "x"],
                  ["batch", "a.csv", "--fixed", "fixed", "--moving", "moving", "-o", "x"]):  # fmt: skip
        assert main(wrong) == 2
        assert "either a list of pairs" in capsys.readouterr().err


def test_batch_keeps_foreign_folders(folder):
    (folder / "out").mkdir()
    (folder / "out" / "thesis.txt").write_text("keep me")
    with pytest.raises(sr.InputError, match="not written by this program"):
        run()
    assert [path.name for path in (folder / "out").iterdir()] == ["thesis.txt"]


def test_volumes_show_their_middle_slice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, by in (("fixed", 0), ("moving", (1, 2, -2))):
        np.save(f"{name}.npy", scene(Grid.from_spacing((20, 64, 60)).points() - np.asarray(by)).astype(np.float32))
    (tmp_path / "jobs.csv").write_text("fixed,moving,name\nfixed.npy,moving.npy,pair\n")
    result, _ = run()
    assert not result.failed
    assert imageio.imread(tmp_path / "out" / "pair" / "after.png").shape == (64, 60, 3)
