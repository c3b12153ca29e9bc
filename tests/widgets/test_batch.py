"""The batch panel: rows fill, failed ones say why, stop and resume."""

from __future__ import annotations

import json

import imageio.v3 as iio
import numpy as np
import pytest

from tests.helpers.napari_user import open_from_menu
from tests.widgets.conftest import blobs

SHAPE = (32, 40)


@pytest.fixture
def folder(tmp_path):
    """Three pairs, the second of which has a moving image that is none."""
    for side, shift in (("fixed", 0), ("moving", 1.5)):
        (tmp_path / side).mkdir()
        for number in range(3):
            picture = blobs(SHAPE, shift=shift, seed=number, dtype=np.uint8)
            iio.imwrite(tmp_path / side / f"s{number}.tif", picture)
    (tmp_path / "moving" / "s1.tif").write_bytes(b"no picture")
    (tmp_path / "moving" / "notes.md").write_text("not an image")
    rows = [f"pair{n},fixed/s{n}.tif,moving/s{n}.tif" for n in range(3)]
    (tmp_path / "jobs.csv").write_text("\n".join(["name,fixed,moving", *rows]))
    return tmp_path


@pytest.fixture
def batch(viewer, folder, engine, monkeypatch):
    from napari_stnreg.batch import run

    monkeypatch.setattr(run, "register_steps", engine.register_steps)
    panel = open_from_menu(viewer, "batch")
    panel.output_edit.setText(str(folder / "results"))
    return panel


def states(panel):
    return [panel.table.row_state(number) for number in range(panel.table.rowCount())]


def test_rows_fill_and_a_failed_one_shows_the_reason_during_the_run(batch, folder, engine, run):
    assert not batch.run_button.isEnabled()
    assert batch.load_jobs(str(folder / "jobs.csv"))
    told = []
    batch._runner.updated.connect(lambda _step: told.append(batch.status.text()))
    assert batch.run()
    assert not batch.list_button.isEnabled()
    run(batch)
    assert any(text.startswith("pair") for text in told)  # names stay as they are
    assert states(batch) == ["done", "failed", "done"]
    assert [batch.table.item(n, 1).text() for n in range(3)] == ["✓", "✗", "✓"]
    assert "s1.tif" in batch.table.item(1, 2).text()
    assert "→" in batch.table.item(0, 2).text()
    assert "1 failed" in batch.status.text()
    row = batch.result.rows[0]
    assert f"{row['ncc_after']:.3g}" in batch.table.item(0, 2).text()
    assert batch.page.is_file()
    assert batch.page_button.isEnabled()
    assert (folder / "results" / "pair2" / "transform.safetensors").is_file()


def test_a_result_that_is_judged_as_failed_does_not_look_like_a_success(batch, folder, engine, run):
    engine.verdict = "failed"
    assert batch.load_jobs(str(folder / "jobs.csv"))
    assert batch.run()
    run(batch)
    assert states(batch) == ["done", "failed", "done"]
    assert [batch.table.item(n, 1).text() for n in range(3)] == ["✗", "✗", "✗"]
    assert batch.table.item(0, 2).text().startswith("failed: ")
    assert "1 failed, 2 judged as failed" in batch.status.text()


def test_stop_and_resume_do_no_pair_twice(batch, folder, engine, run, qtbot):
    engine.steps = 40
    batch.load_jobs(str(folder / "jobs.csv"))
    batch.run()
    qtbot.waitUntil(lambda: states(batch)[2] == "fitting", timeout=30_000)
    batch.stop()
    run(batch)
    assert states(batch) == ["done", "failed", ""]
    assert "continues from here" in batch.status.text()
    assert batch.run_button.text() == "Resume"
    calls = len(engine.calls)
    engine.steps = 5
    assert batch.run()
    run(batch)
    assert states(batch) == ["kept", "failed", "done"]
    assert len(engine.calls) == calls + 1


def test_missing_inputs_are_reported(batch, folder, viewer):
    assert not batch.run()
    assert "no pairs yet" in batch.status.text()
    assert batch.list_pairs(folder / "fixed", folder / "moving")
    batch.output_edit.setText("")
    assert not batch.run()
    assert "folder for the results" in batch.status.text()
    (folder / "bad.csv").write_text("a,b\n1,2")
    assert not batch.load_jobs(str(folder / "bad.csv"))
    assert "columns fixed and moving" in batch.status.text()
    assert len(batch.jobs) == 3


def test_a_folder_of_something_else_is_left_alone(batch, folder, run):
    (folder / "results").mkdir()
    (folder / "results" / "thesis.txt").write_text("dear")
    batch.load_jobs(str(folder / "jobs.csv"))
    batch.run()
    run(batch)
    assert states(batch) == ["", "", ""]
    assert "results" in batch.status.text()
    assert [one.name for one in (folder / "results").iterdir()] == ["thesis.txt"]


def test_closing_the_dock_ends_the_batch(viewer, batch, folder, engine, qtbot):
    engine.steps = 10_000
    batch.load_jobs(str(folder / "jobs.csv"))
    batch.run()
    qtbot.waitUntil(lambda: "fitting" in states(batch), timeout=30_000)
    viewer.window.remove_dock_widget(batch)
    qtbot.waitUntil(lambda: not batch.running, timeout=30_000)
    assert engine.closed == 1


def test_the_settings_of_the_form_are_those_of_the_run(batch, folder, engine, run):
    batch.options.linear_box.set_current("rigid")
    batch.options.deformable_box.set_current("")
    batch.load_jobs(str(folder / "jobs.csv"))
    batch.run()
    run(batch)
    assert engine.calls[0][2].family == "rigid"
    report = json.loads((folder / "results" / "pair0" / "report.json").read_text())
    assert report["settings"]["family"] == "rigid"


def test_the_one_model_selector_decides(batch, folder, engine, run, tmp_path):
    from qtpy.QtWidgets import QComboBox

    from napari_stnreg.widgets.models.session import SESSION
    from tests.widgets.conftest import model_of

    before = SESSION.entries
    boxes = [box for box in batch.findChildren(QComboBox) if box.accessibleName() == "model"]
    assert len(boxes) == 1
    assert batch.load_jobs(str(folder / "jobs.csv"))
    unsaved = SESSION.add(model_of(name="unsaved"))
    batch.options.model.select(unsaved)
    assert not batch.run()
    assert "'unsaved' is not saved yet" in batch.status.text()
    path = str(model_of(name="saved").save(tmp_path / "saved.safetensors"))
    batch.options.model.select(SESSION.add(None, path))
    assert batch.run()
    run(batch)
    report = json.loads((folder / "results" / "pair0" / "report.json").read_text())
    assert report["settings"]["model"] == path
    SESSION.entries = before
