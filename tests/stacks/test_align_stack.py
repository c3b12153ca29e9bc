"""Complete alignments: accuracy, resuming, ranges, clusters and the command line."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

import napari_stnreg as sr
from napari_stnreg.cli import main
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.progress import run_to_completion
from napari_stnreg.datasets import SerialSections
from napari_stnreg.stacks.runtime.checkpoint import work_folder
from napari_stnreg.stacks.sources.base import FunctionSource
from tests.helpers.aligned import contents, same_result

QUICK = {"search_rotations": False, "iterations": 2, "grid_cells": 3}


def to_raw(z, points):
    """Where the tissue at points ``(N, 2)`` came to lie in section z: turned, shifted, gently bent."""
    angle = np.radians((0, 3, -2, 0, 4, 1)[z])
    shift = np.array([(0, 0), (5, -4), (-6, 2), (0, 0), (3, 7), (-2, -5)][z])
    c, s = np.cos(angle), np.sin(angle)
    moved = (np.asarray(points) - 56) @ np.array([[c, s], [-s, c]]) + 56 + shift
    return moved + 1.2 * np.sin(moved[..., ::-1] / 15 + z)


@pytest.fixture(scope="module")
def stack():
    """Six sections of the same tissue, 112x112, of which the fourth is missing."""
    rng = np.random.default_rng(4)
    tissue = gaussian_filter(rng.normal(size=(180, 180)), 2.2) + 2 * gaussian_filter(rng.normal(size=(180, 180)), 6)
    tissue = 128 + 38 * tissue / tissue.std()
    pixels = np.stack(np.meshgrid(np.arange(112.0), np.arange(112.0), indexing="ij"), axis=-1)
    sections = []
    for z in range(6):
        origin = pixels.copy()
        for _ in range(30):  # the section's pixels back to the tissue
            origin = origin + pixels - to_raw(z, origin)
        values = map_coordinates(tissue, np.moveaxis(origin, -1, 0) + 34, order=3)
        sections.append(np.clip(values + rng.normal(0, 4, values.shape), 1, 255).astype(np.uint8))
    sections[3][:] = 0
    return np.stack(sections)


@pytest.fixture(scope="module")
def whole(stack, tmp_path_factory):
    """An undisturbed run."""
    path = tmp_path_factory.mktemp("whole") / "whole.zarr"
    return sr.align_stack(stack, path, keep_work=True, **QUICK)


@pytest.mark.slow
def test_auto_encoder_features_trained_or_loaded(stack, tmp_path, whole):
    steps = sr.align_stack_steps(stack, tmp_path / "own.zarr", features="auto-encoder", keep_work=True, **QUICK)
    seen = []
    result = run_to_completion(steps, seen.append)
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert stages[:2] == ["encoder", "prepare"]
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    after = np.mean([gap["correlation_after"] for gap in result.gaps])
    assert after > np.mean([gap["correlation_before"] for gap in result.gaps]) + 0.1
    assert after > np.mean([gap["correlation_after"] for gap in whole.gaps]) - 0.1
    encoder = work_folder(tmp_path / "own.zarr").path / "encoder.safetensors"
    loaded = tmp_path / "encoder.safetensors"
    loaded.write_bytes(encoder.read_bytes())
    command = ["align", str(tmp_path / "raw.npy"), str(tmp_path / "again.zarr"), "--features", "auto-encoder"]
    np.save(tmp_path / "raw.npy", stack)
    assert (
        main([*command, "--encoder", str(loaded), "--no-search-rotations", "--iterations", "2", "--grid-cells", "3"])
        == 0
    )
    same_result(tmp_path / "own.zarr", tmp_path / "again.zarr")


@pytest.mark.slow
def test_auto_encoder_trains_on_two_sections(stack, tmp_path):
    """A pair to train on, and none to be held back."""
    result = sr.align_stack(stack[:2], tmp_path / "two.zarr", features="auto-encoder", workers=1, **QUICK)
    assert [one.status for one in result.verdicts] == ["aligned", "aligned"]
    y, x = np.meshgrid(np.arange(20, 93, 6.0), np.arange(20, 93, 6.0), indexing="ij")
    raw = [to_raw(z, np.column_stack([y.ravel(), x.ravel()])) for z in (0, 1)]
    here = [
        sr.AlignedStack(result.path).map_points(np.column_stack([np.full(len(p), z), p]))[:, 1:]
        for z, p in enumerate(raw)
    ]
    assert np.median(np.linalg.norm(raw[1] - raw[0], axis=1)) > 5
    assert np.median(np.linalg.norm(here[1] - here[0], axis=1)) < 1.6


def test_invalid_encoder_raises(stack, tmp_path):
    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(b"no model")
    with pytest.raises(InputError, match=r"wrong\.safetensors"):
        sr.align_stack(stack, tmp_path / "out.zarr", features="auto-encoder", encoder=str(wrong))
    with pytest.raises(InputError, match="features are not 'auto-encoder'"):
        sr.align_stack(stack, tmp_path / "out.zarr", encoder=str(wrong))
    assert not (tmp_path / "out.zarr").exists()


def test_neighbors_are_aligned(whole):
    y, x = np.meshgrid(np.arange(20, 93, 6.0), np.arange(20, 93, 6.0), indexing="ij")
    tissue = np.column_stack([y.ravel(), x.ravel()])
    raw, aligned = [], []
    for z in (0, 1, 2, 4, 5):
        raw.append(to_raw(z, tissue))
        aligned.append(sr.AlignedStack(whole.path).map_points(np.column_stack([np.full(y.size, z), raw[-1]]))[:, 1:])

    def jump(places):
        return np.median([np.linalg.norm(b - a, axis=1) for a, b in pairwise(places)])

    assert jump(raw) > 6
    assert jump(aligned) < 1.6


def test_landmarks_deform_their_sections(stack, whole, tmp_path):
    """Landmarks that contradict the images win, also where no rigid transform of a whole section fits them."""
    y, x = np.meshgrid(np.arange(20, 93, 12.0), np.arange(20, 93, 12.0), indexing="ij")
    tissue = np.column_stack([y.ravel(), x.ravel()])
    bend = np.column_stack([4 * np.sin(2 * np.pi * tissue[:, 1] / 112), np.zeros(len(tissue))])
    marks = to_raw(1, tissue), to_raw(2, tissue) + bend
    told = sr.align_stack(stack, tmp_path / "told.zarr", landmarks={(1, 2): marks}, **QUICK)

    def apart(path):
        places = [
            sr.AlignedStack(path).map_points(np.column_stack([np.full(len(p), z), p]))
            for z, p in zip((1, 2), marks, strict=True)
        ]
        return np.linalg.norm(places[1][:, 1:] - places[0][:, 1:], axis=1).mean()

    assert apart(whole.path) > 1.5
    assert apart(told.path) < 1


def test_inputs_are_unchanged_and_missing_section_is_interpolated(stack, whole):
    assert stack.flags.writeable
    verdicts = [one.status for one in whole.verdicts]
    assert verdicts[3] == "bridged"
    assert "bridged" not in verdicts[:3]
    field = [whole.aligned.displacement(z) for z in range(6)]
    between = np.abs(field[3] - (field[2] + field[4]) / 2).mean()
    assert between < 0.5 * np.abs(field[2] - field[4]).mean() + 0.2
    assert not np.asarray(whole.aligned.levels[0][3]).any()


def test_progress_reports_every_finished_section(stack, tmp_path):
    steps = list(sr.align_stack_steps(stack, tmp_path / "a.zarr", deform=False, search_rotations=False))
    assert [s.section for s in steps if s.stage == "prepare" and s.section is not None]
    fractions = [s.fraction for s in steps]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1)
    rendered = {s.section for s in steps if s.stage == "render"} - {None}
    assert rendered == set(range(6))
    assert not work_folder(tmp_path / "a.zarr").path.exists()


@pytest.mark.parametrize("stage", ["prepare", "coarse", "fine 2", "render"])
def test_canceled_run_resumes_bit_identically(stack, whole, tmp_path, stage):
    output = tmp_path / "a.zarr"
    steps = sr.align_stack_steps(stack, output, **QUICK)
    for _ in range(3):  # what was begun when the third of its kind ended
        while next(steps).stage != stage:
            pass
    with pytest.raises(StopIteration) as end:
        steps.send("stop")
    assert end.value.value.stop_reason == "stopped"
    again = list(sr.align_stack_steps(stack, output, resume=True, workers=1, **QUICK))
    assert sum(s.stage == "prepare" for s in again) < 7 or stage == "prepare"
    same_result(output, whole.path)


@pytest.mark.slow
@pytest.mark.parametrize("results", [9, 31])  # in the coarse and in the fine pass
def test_killed_run_resumes_bit_identically(stack, whole, tmp_path, results):
    np.save(tmp_path / "stack.npy", stack)
    output, work = tmp_path / "a.zarr", tmp_path / "a.work"
    words = ["align", str(tmp_path / "stack.npy"), str(output)]
    words += ["--no-search-rotations", "--iterations", "2", "--grid-cells", "3", "--keep-work"]
    process = subprocess.Popen([sys.executable, "-m", "napari_stnreg.cli", *words])
    deadline = time.monotonic() + 150
    while len(list(work.glob("*/*.npz"))) < results and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert main([*words, "--resume"]) == 0
    same_result(output, whole.path)


def test_resume_requires_the_same_stack_and_settings(stack, tmp_path):
    output = tmp_path / "a.zarr"
    steps = sr.align_stack_steps(stack, output, **QUICK)
    next(steps)
    steps.close()
    with pytest.raises(sr.InputError, match="Continue it with --resume"):
        sr.align_stack(stack, output, **QUICK)
    with pytest.raises(sr.InputError, match="neighbors was 2, is 1"):
        sr.align_stack(stack, output, resume=True, neighbors=1, **QUICK)
    with pytest.raises(sr.InputError, match="sums differ"):
        sr.align_stack(stack[::-1] + 1, output, resume=True, **QUICK)


def test_realigning_a_range_keeps_all_other_sections(stack, whole, tmp_path):
    beside(whole, tmp_path)
    before = contents(tmp_path / "a.zarr")
    result = sr.align_stack(stack, tmp_path / "a.zarr", section_range=(4, 5), exclude=[4], **QUICK)
    after = contents(tmp_path / "a.zarr")
    for z in range(4):
        np.testing.assert_array_equal(before["0"][z], after["0"][z])
        np.testing.assert_array_equal(before["displacement"][z], after["displacement"][z])
    assert (before["displacement"][4] != after["displacement"][4]).any()
    assert result.verdicts[4].status == "excluded"
    assert "excluded" in result.verdicts[4].reason


def beside(whole, folder):
    """A copy of a finished alignment and its work."""
    shutil.copytree(whole.path, folder / "a.zarr")
    shutil.copytree(work_folder(whole.path).path, folder / "a.work")
    return folder / "a.zarr"


def killed(stack, output, stage, **choices):
    """A range aligned again and left without a word in the middle of a stage."""
    steps = sr.align_stack_steps(stack, output, workers=1, **choices, **QUICK)
    for _ in range(3):  # what was begun when the third of its kind ended
        while next(steps).stage != stage:
            pass
    steps.close()


@pytest.mark.parametrize("stage", ["fine 1", "fine 2", "quality", "render"])
def test_killed_range_resumes(stack, whole, tmp_path, stage):
    (tmp_path / "once").mkdir()
    again = {"section_range": (1, 2), "exclude": [1]}
    once, output = beside(whole, tmp_path / "once"), beside(whole, tmp_path)
    undisturbed = list(sr.align_stack_steps(stack, once, workers=1, **again, **QUICK))
    killed(stack, output, stage, **again)
    rest = list(sr.align_stack_steps(stack, output, workers=1, resume=True, **again, **QUICK))
    assert len(rest) < len(undisturbed)
    if stage != "fine 1":
        assert sum(step.stage == "fine 1" for step in rest) < 2
    same_result(output, once)
    # and it is over: another range begins at once
    sr.align_stack(stack, output, section_range=(4, 4), **QUICK)


def test_killed_range_must_be_resumed_or_abandoned(stack, whole, tmp_path):
    (tmp_path / "once").mkdir()
    once, output = beside(whole, tmp_path / "once"), beside(whole, tmp_path)
    killed(stack, output, "render", section_range=(1, 2), exclude=[1])
    assert (contents(output)["displacement"] != contents(whole.path)["displacement"]).any()
    with pytest.raises(InputError, match=r"1 to 2 .* --resume"):
        sr.align_stack(stack, output, section_range=(4, 4), exclude=[4], **QUICK)
    with pytest.raises(InputError, match=r"exclude was \[1\], is \[\], section_range was \[1, 2\], is \[4, 4\]"):
        sr.align_stack(stack, output, section_range=(4, 4), resume=True, **QUICK)
    sr.align_stack(stack, output, section_range=(4, 4), exclude=[4], overwrite=True, **QUICK)
    sr.align_stack(stack, once, section_range=(4, 4), exclude=[4], **QUICK)
    same_result(output, once)


@pytest.mark.slow
def test_cluster_with_a_lost_worker_gives_the_same_result(stack, whole, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=3, threads_per_worker=1, processes=True, dashboard_address=":0", memory_limit=0
    ) as cluster:
        victims = [worker.pid for worker in cluster.workers.values()]
        output = tmp_path / "a.zarr"
        steps = sr.align_stack_steps(stack, output, scheduler=cluster.scheduler_address, **QUICK)
        killed, stages = False, []
        for progress in steps:
            stages.append(progress.stage)
            if progress.stage == "coarse" and progress.done == 2 and not killed:
                os.kill(victims[0], signal.SIGKILL)
                killed = True
        assert killed
        assert "render" in stages
        same_result(output, whole.path)


def test_free_memory_of_this_machine_does_not_limit_a_cluster(stack, whole, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    from napari_stnreg.stacks.runtime import memory

    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    with pytest.raises(sr.InputError, match="smaller working size"):
        sr.align_stack(stack, tmp_path / "a.zarr", **QUICK)
    cluster = {"n_workers": 1, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0", "memory_limit": 0}
    with distributed.LocalCluster(**cluster) as started:
        steps = sr.align_stack_steps(stack, tmp_path / "b.zarr", scheduler=started.scheduler_address, **QUICK)
        assert next(steps).stage == "prepare"
        steps.close()
        steps = whole.aligned.apply_steps(stack, tmp_path / "c.zarr", scheduler=started.scheduler_address)
        assert next(steps).stage == "render"
        steps.close()


def test_unreachable_scheduler_raises(stack, tmp_path):
    with pytest.raises(sr.InputError, match="threads"):
        sr.align_stack(stack, tmp_path / "a.zarr", scheduler="many machines")


def test_memory_limits_the_number_of_concurrent_tasks(stack, tmp_path):
    from napari_stnreg.stacks.runtime.memory import limit_workers

    assert limit_workers(3.5e6, 1e6, 8) == 3
    assert limit_workers(30e6, 1e6, 8) == 8
    assert limit_workers(30e6, 1e6, 8, own=25.5e6) == 4
    with pytest.raises(sr.InputError, match=r"At least .* [MG]iB are needed.*smaller working size"):
        sr.align_stack(stack, tmp_path / "a.zarr", memory=50e6, **QUICK)


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are counted by Linux alone")
def test_memory_is_a_ceiling_for_the_whole_process(stack, tmp_path):
    """The minimum that a refusal names suffices, and is not exceeded."""
    np.save(tmp_path / "s.npy", stack[:3])
    code = (
        "import sys; from napari_stnreg.cli import main; code = main(sys.argv[1:]); "
        "lines = open('/proc/self/status').read().splitlines(); "
        "print('peak', next(int(l.split()[1]) for l in lines if l.startswith('VmHWM')) // 1024); sys.exit(code)"
    )

    def run(limit):
        words = ["align", "s.npy", "a.zarr", "--grid-cells", "3", "--memory", limit]
        return subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True)

    refused = run("100MB")
    assert refused.returncode == 2
    value, unit = refused.stderr.split("At least ")[1].split()[:2]
    least = int(float(value) * {"MiB": 1, "GiB": 1024}[unit])
    done = run(f"{least + 20}MB")  # imports take a little more or less in every process
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split("peak ")[1]) <= least + 20


def test_tasks_use_one_thread():
    from threadpoolctl import threadpool_info

    from napari_stnreg.core.device import single_blas_thread
    from napari_stnreg.stacks.runtime.executor import Task, Threads

    def threads():
        return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}

    before = threads()
    with single_blas_thread():
        with single_blas_thread():
            pass
        assert threads() == {1}
    assert threads() == before
    with single_blas_thread():  # as align_stack does
        assert [found for _, found in Threads(1).run([Task("a", threads)])] == [{1}]
    assert threads() == before


def test_tasks_do_not_limit_torch_in_other_threads():
    from napari_stnreg.stacks.runtime.executor import Task, Threads

    def begin():
        seen = []
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return seen[0]

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = dict(Threads(1).run([Task("task", torch.get_num_threads), Task("beside", begin)]))
        assert found == {"task": 1, "beside": 2}
    finally:
        torch.set_num_threads(before)


def test_applying_resumes_and_decodes_each_section_once(stack, whole, tmp_path, monkeypatch):
    monkeypatch.setattr("napari_stnreg.stacks.aligned_stack.CHUNK", 32)
    decoded = Counter()

    def section(z):
        decoded.update([z])
        return stack[z]

    def source():
        return FunctionSource(stack.shape, stack.dtype, section=section)

    aligned = whole.aligned
    once = aligned.apply(source(), tmp_path / "once.zarr", workers=1)
    # however many bands are read; the middle one also once to find out whether these are labels
    assert decoded == {**dict.fromkeys(range(6), 1), 3: 2}
    steps = aligned.apply_steps(source(), tmp_path / "a.zarr", workers=1)
    for _ in range(3):
        next(steps)
    steps.close()
    done = len(list((tmp_path / "a.work" / "rendered").glob("*.npz")))
    assert done >= 3
    with pytest.raises(sr.InputError, match="--resume"):
        aligned.apply(source(), tmp_path / "a.zarr", workers=1, overwrite=False)
    with pytest.raises(sr.InputError, match="interpolation was linear, is nearest"):
        aligned.apply(source(), tmp_path / "a.zarr", workers=1, interpolation="nearest", resume=True)
    decoded.clear()
    aligned.apply(source(), tmp_path / "a.zarr", workers=1, resume=True)
    assert sum(decoded.values()) == 6 - done + 1
    same_result(once, tmp_path / "a.zarr")
    assert not (tmp_path / "a.work").exists()
    decoded.clear()
    aligned.apply(source(), tmp_path / "a.zarr", workers=1, resume=True)  # finished already
    assert sum(decoded.values()) <= 1
    with pytest.raises(sr.InputError, match=r"At least .* [MG]iB are needed"):
        aligned.apply(source(), tmp_path / "b.zarr", workers=1, memory=50e6)


def test_full_disk_raises_one_sentence_and_the_run_resumes(stack, whole, tmp_path, monkeypatch):
    from napari_stnreg.stacks.output import ome_zarr

    sync, left = ome_zarr.sync_tree, [4]

    def full(path):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        sync(path)

    monkeypatch.setattr(ome_zarr, "sync_tree", full)
    with pytest.raises(sr.InputError, match=r"a\.zarr' cannot be written: No space left on device"):
        sr.align_stack(stack, tmp_path / "a.zarr", workers=1, **QUICK)
    monkeypatch.undo()
    sr.align_stack(stack, tmp_path / "a.zarr", workers=1, resume=True, **QUICK)
    same_result(whole.path, tmp_path / "a.zarr")


def test_the_command_line_aligns_applies_and_exports(stack, whole, tmp_path, capsys):
    np.save(tmp_path / "s.npy", stack)
    out = tmp_path / "o.zarr"
    words = ["--no-search-rotations", "--iterations", "2", "--grid-cells", "3"]
    assert main(["align", str(tmp_path / "s.npy"), str(out), "--memory", "2GB", *words]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("5 aligned, 1 bridged\ntoo few consecutive sections to estimate slopes\n")
    assert "section 3: bridged" in printed
    same_result(out, whole.path)
    report = json.loads((tmp_path / "o.report.json").read_text())
    assert report["settings"]["grid_cells"] == 3
    assert report["summary"] == printed.splitlines()[:2]
    assert len(report["sections"]) == 6
    assert report["gaps"][0]["correlation_after"] > report["gaps"][0]["correlation_before"] + 0.3
    with (tmp_path / "o.quality.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [row["verdict"] for row in rows] == [one.verdict for one in whole.verdicts]

    np.save(tmp_path / "l.npy", (stack > 128).astype(np.uint8))
    labels = ["apply-stack", str(out), str(tmp_path / "l.npy"), "-o", str(tmp_path / "l.zarr")]
    assert main([*labels, "--interpolation", "nearest"]) == 0
    assert set(np.unique(contents(tmp_path / "l.zarr")["0"])) == {0, 1}
    (tmp_path / "p.csv").write_text("z,y,x\n0,40,50\n5,64,64\n")
    assert main(["apply-stack", str(out), str(tmp_path / "p.csv"), "-o", str(tmp_path / "q.csv")]) == 0
    moved = np.loadtxt(tmp_path / "q.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(moved, sr.AlignedStack(out).map_points([[0, 40, 50], [5, 64, 64]]), atol=1e-4)
    assert main(["export-field", str(out), str(tmp_path / "f.npy")]) == 0
    assert np.load(tmp_path / "f.npy").shape == (6, 2, 112, 112)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["missing.npy", "o.zarr"], "does not exist"),
        (["s.npy", "o.tif"], "ends in .zarr"),
        (["s.npy", "o.zarr", "--neighbors", "99"], "'neighbors'"),
        (["s.npy", "o.zarr", "--exclude", "17"], "no section 17"),
        (["s.npy", "o.zarr", "--exclude", "a,b"], "--exclude: 'a,b' is not a list of sections, such as 3,7,12."),
        (
            ["s.npy", "o.zarr", "--section-range", "4"],
            "'4' is not a range of sections, such as 10:14.",
        ),
        (["s.npy", "o.zarr", "--memory", "much"], "--memory: 'much' is not an amount of memory, such as 4GB."),
        (["s.npy", "o.zarr", "--reference", "6"], "no section 6"),
        (["s.npy", "o.zarr", "--section-range", "1:2"], "does not exist"),
        (["s.npy", "o.zarr", "--scheduler", "tcp://127.0.0.1:9"], "No Dask scheduler"),
        (["s.npy", "o.zarr", "--memory", "1"], "smaller working size"),
        (["flat.npy", "o.zarr"], "2 axes"),
    ],
)
def test_invalid_input_prints_one_message_and_exits_with_2(words, sentence, stack, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("napari_stnreg.stacks.runtime.executor.SCHEDULER_TIMEOUT_S", 1)
    np.save("s.npy", stack)
    np.save("flat.npy", stack[0])
    assert main(["align", *words]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert sentence in told[-1]
    assert len(told) == 1


def test_empty_stacks_raise(tmp_path):
    with pytest.raises(sr.RegistrationError, match="nothing to align"):
        sr.align_stack(np.zeros((4, 64, 64), np.uint8), tmp_path / "a.zarr", **QUICK)


def test_unmatched_section_does_not_enlarge_the_canvas(tmp_path):
    made = SerialSections((7, 192, 192), seed=1, faults={3: "mirrored"})
    result = sr.align_stack(made, tmp_path / "out.zarr", workers=1)
    assert result.verdicts[3].verdict == "failed"
    assert max(result.aligned.canvas.shape) < 1.4 * 192
    assert result.aligned.levels[0].shape[0] == 7
