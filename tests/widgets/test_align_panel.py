"""The panel for section stacks, with the real engine in its real thread."""

from dataclasses import replace

import fsspec
import numpy as np
import pytest
import zarr
from qtpy.QtCore import Qt

import napari_stnreg as sr
from tests.helpers.napari_user import open_from_menu
from tests.widgets.conftest import blobs

SLOPE = {"kept": 0.28, "recorded": 1.45, "error": 0.28}


@pytest.fixture
def raw():
    """Six sections of the same picture, shifted by known amounts; the fifth is lost."""
    picture = blobs((140, 150), dtype=np.uint8)
    shifts = [(0, 0), (4, -3), (-3, 5), (2, 2), (0, 0), (-4, -2)]
    stack = np.stack([picture[20 + y : 116 + y, 22 + x : 122 + x] for y, x in shifts])
    stack[4] = 0
    return stack


@pytest.fixture
def panel(viewer, raw):
    viewer.add_image(raw, name="stack", scale=(50, 8, 8), units=("nm",) * 3, axis_labels=("z", "y", "x"))
    panel = open_from_menu(viewer, "align")
    panel.inputs.field("deform").setChecked(False)
    panel.inputs.field("search_rotations").setChecked(False)
    panel.inputs.field("motion").set_current("translation")
    return panel


@pytest.fixture
def aligned(panel, qtbot, run):
    qtbot.mouseClick(panel.align_button, Qt.MouseButton.LeftButton)
    assert panel.running
    run(panel)
    return panel


def test_aligning_adds_a_layer_in_its_place_and_leaves_the_stack_alone(aligned, viewer, raw):
    before, after = viewer.layers["stack"], viewer.layers["stack aligned"]
    np.testing.assert_array_equal(before.data, raw)
    origin = aligned.result.aligned.canvas.origin
    np.testing.assert_allclose(after.translate, [0, 8 * origin[0], 8 * origin[1]])
    np.testing.assert_allclose(after.scale, (50, 8, 8))
    assert str(after.units[0]) in ("nm", "nanometer")
    assert not before.visible
    assert after.visible
    image = np.asarray(aligned.result.aligned.levels[0]).astype(float)
    there = [0, 1, 2, 3, 5]
    jumps = [np.abs(np.diff(s[there, 25:80, 25:80].astype(float), axis=0)).mean() for s in (raw, image)]
    assert jumps[1] < 0.3 * jumps[0]
    assert aligned.status.text().startswith("Done in ")
    assert "5 aligned, 1 bridged." in aligned.findings.summary.text()


def test_findings_are_listed_and_lead_to_their_sections(aligned, viewer, qtbot):
    assert aligned.findings.table.rowCount() == 1
    assert [aligned.findings.table.item(0, column).text() for column in (0, 1)] == ["4", "bridged"]
    viewer.dims.set_point(0, 0)
    aligned.findings.table.cellClicked.emit(0, 0)
    assert aligned.section == 4
    click_plot(aligned.findings.plot, qtbot, 2.4, 0.5)
    assert aligned.section == 2
    curves = aligned.findings.plot.curves()
    x, correlation = curves["after"].T
    np.testing.assert_allclose(x, [0.5, 1.5, 2.5, 4.0])
    assert correlation.min() > 0.5
    assert (correlation > curves["before"][:, 1] + 0.2).all()


def click_plot(plot, qtbot, x, y):
    """Click into a plot at data coordinates."""
    import pyqtgraph
    from qtpy.QtCore import QPointF, Qt

    view = plot.findChild(pyqtgraph.PlotWidget)
    place = view.mapFromScene(view.getPlotItem().vb.mapViewToScene(QPointF(x, y)))
    qtbot.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=place)


def test_a_key_flickers_before_and_after(aligned, viewer):
    key = next(key for key in viewer.keymap if str(key).replace("+", "-").endswith("Shift-B"))
    viewer.keymap[key](viewer)
    assert viewer.layers["stack"].visible
    assert not viewer.layers["stack aligned"].visible
    viewer.keymap[key](viewer)
    assert viewer.layers["stack aligned"].visible


def test_cuts_show_the_staircase_gone(aligned, qtbot, run):
    qtbot.mouseClick(aligned.reslice_button, Qt.MouseButton.LeftButton)
    view = aligned._reslices
    assert view is not None
    qtbot.waitUntil(lambda: view.pictures["YZ", "after"]._bytes is not None, timeout=10_000)
    images = {key: picture._bytes for key, picture in view.pictures.items()}
    assert images["XZ", "before"].shape == (6, 100)
    for plane in ("XZ", "YZ"):
        steps = [np.abs(np.diff(images[plane, when][:4, 20:70].astype(float), axis=0)).mean() for when in
                 ("before", "after")]  # fmt: skip
        assert steps[1] < 0.4 * steps[0]


def test_cuts_follow_the_cursor_and_fill_while_sections_arrive(panel, viewer, raw, qtbot, run):
    from types import SimpleNamespace

    assert panel.cut()  # before anything is aligned
    view = panel._reslices
    qtbot.waitUntil(lambda: view.pictures["YZ", "after"]._bytes is not None, timeout=10_000)
    assert not view.pictures["XZ", "after"]._bytes.any()
    move = next(one for one in viewer.mouse_move_callbacks if one.__name__ == "_on_cursor")
    move(viewer, SimpleNamespace(position=(0.0, 8 * 30.0, 8 * 70.0)))
    qtbot.waitUntil(lambda: panel.status.text() == "Cut through row 30 and column 70.", timeout=10_000)
    low, high = viewer.layers["stack"].contrast_limits
    wanted = np.rint(255 * np.clip((raw[:, 30].astype(float) - low) / (high - low), 0, 1))
    np.testing.assert_array_equal(view.pictures["XZ", "before"]._bytes, wanted)
    panel.start()
    run(panel)
    qtbot.waitUntil(lambda: view.pictures["XZ", "after"]._bytes.any(), timeout=10_000)
    panel.close_down()
    assert move not in viewer.mouse_move_callbacks


def test_neighbors_are_played(panel, qtbot):
    panel._player.setInterval(20)
    panel.go_to_section(2)
    panel.play_button.click()
    seen = set()
    qtbot.waitUntil(lambda: seen.add(panel.section) or seen == {2, 3}, timeout=5_000)
    panel.go_to_section(5)  # the last one: it is played with the one before
    seen.clear()
    qtbot.waitUntil(lambda: seen.add(panel.section) or {4, 5} <= seen, timeout=5_000)
    panel.play_button.click()
    here = panel.section
    qtbot.wait(80)
    assert panel.section == here


def test_a_section_is_excluded_and_its_range_aligned_again(aligned, viewer, qtbot, run):
    before = [aligned.result.aligned.displacement(z) for z in range(6)]
    aligned.go_to_section(1)
    aligned.corrections_section.expand(animate=False)
    aligned.corrections.exclude_button.click()
    assert aligned.excluded == {1}
    assert "Excluded: 1" in aligned.corrections.note.text()
    aligned.corrections.range_box.setValue(0)
    aligned.corrections.again_button.click()
    run(aligned)
    after = [aligned.result.aligned.displacement(z) for z in range(6)]
    assert (before[1] != after[1]).any()
    for z in (0, 2, 3, 4, 5):
        np.testing.assert_array_equal(before[z], after[z])
    assert {aligned.findings.table.item(row, 0).text() for row in range(aligned.findings.table.rowCount())} >= {
        "1",
        "4",
    }


def test_section_landmarks_determine_positions(aligned, viewer, run):
    aligned.corrections.points_button.click()
    points = viewer.layers["stack landmarks"]
    assert viewer.layers.selection.active is points
    assert points.mode == "add"
    # What the images say is (-5, 3); a person says (10, 7), and is believed.
    points.data = [[2, 40, 40], [2, 60, 70], [3, 50, 47], [3, 70, 77]]
    aligned.align_range(3, 3)
    run(aligned)
    a, b = (aligned.result.aligned.displacement(z).mean(axis=(1, 2)) for z in (2, 3))
    np.testing.assert_allclose(b - a, (10, 7), atol=1.5)
    points.data = points.data[:-1]
    assert not aligned.align_range(3, 3)
    assert "Section 2 has 2 landmarks and section 3 1" in aligned.status.text()


def test_saving_writes_ome_zarr_with_displacement_and_report(aligned, tmp_path, run):
    assert aligned.save_to(tmp_path / "mine")
    run(aligned)
    group = zarr.open_group(str(tmp_path / "mine.zarr"), mode="r")
    np.testing.assert_array_equal(group["0"][:], aligned.result.aligned.levels[0][:])
    assert group["displacement"].shape[:2] == (6, 2)
    assert (tmp_path / "mine.quality.csv").read_text().startswith("section,status,verdict")
    assert (tmp_path / "mine.report.json").exists()


def test_stopped_alignment_continues(panel, qtbot, run):
    panel.inputs.field("deform").setChecked(True)
    panel.start()
    qtbot.waitUntil(lambda: panel.bar.value() > 100 or not panel.running, timeout=60_000)
    qtbot.mouseClick(panel.stop_button, Qt.MouseButton.LeftButton)
    run(panel)
    assert panel.result is None
    assert "continues from there" in panel.status.text()
    output = panel._work.unfinished.output
    panel.start()
    assert panel._job.resume
    run(panel)
    assert panel.result.path == output


def test_closing_the_dock_in_the_middle_ends_the_run(panel, viewer, qtbot):
    panel.inputs.field("deform").setChecked(True)
    panel.start()
    qtbot.waitUntil(lambda: panel.bar.value() > 50, timeout=60_000)
    viewer.window.remove_dock_widget(panel)
    qtbot.waitUntil(lambda: not panel.running, timeout=60_000)
    assert "stack aligned" not in viewer.layers
    viewer.layers.clear()  # nothing listens any more


def test_layers_deleted_in_the_middle_do_no_harm(panel, viewer, qtbot, run):
    panel.start()
    qtbot.waitUntil(lambda: panel.bar.value() > 50 or not panel.running, timeout=60_000)
    viewer.layers.remove("stack")
    run(panel)
    assert panel.result.stop_reason == "finished"
    assert "stack aligned" in viewer.layers
    assert not panel.corrections.again_button.isEnabled()  # as all other buttons that need the stack
    viewer.layers.remove("stack aligned")
    panel.flicker()
    qtbot.waitUntil(lambda: not panel.flicker_button.isEnabled(), timeout=5_000)


def test_panel_without_a_stack_shows_a_hint(viewer):
    panel = open_from_menu(viewer, "align")
    assert not panel.align_button.isEnabled()
    viewer.add_image(np.zeros((40, 40)), name="flat")
    panel.refresh()
    assert panel.inputs.stack.count() == 0
    assert not panel.start()
    assert "There is no stack" in panel.status.text()


def test_warnings_stay_in_the_panel(aligned, viewer, qtbot, run):
    """A warning is no line of the status that the next sentence wipes out; a range aligned again does not lose that
    of the slope, which it cannot estimate. Everything else is judged again."""
    findings = aligned.findings
    assert not findings.warning.isVisibleTo(aligned)
    straightened = "Oblique structures keep only 28 % of their recorded slope."
    told = replace(aligned.result, warnings=[straightened, "Mirror image: sections 1 and 2."], slope=SLOPE)
    aligned._work.result = told
    findings.show_result(told)
    qtbot.mouseClick(aligned.reslice_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: aligned.status.text().startswith("Cut through"), timeout=10_000)
    assert findings.warning.isVisibleTo(aligned)
    assert findings.warning.text().split() == f"{straightened} Mirror image: sections 1 and 2.".split()
    assert (
        findings.summary.text()
        == "5 aligned, 1 bridged. Kept 0.28 of the recorded slope (1.45 ± 0.28 pixels per section)."
    )
    aligned.align_range(1, 2)
    run(aligned)
    assert findings.warning.text() == straightened
    assert "Kept 0.28" in findings.summary.text()
    assert aligned.result.report()["summary"][1].startswith("kept 0.28")


def test_arrow_keys_go_through_the_sections_to_look_at(aligned, viewer, qtbot):
    viewer.dims.set_point(0, 0)
    table = aligned.findings.table
    table.setFocus()
    qtbot.keyClick(table, Qt.Key.Key_Down)
    assert aligned.section == 4


def test_a_section_is_excluded_before_the_first_run(panel, viewer, run):
    panel.go_to_section(2)
    assert panel.section == 2
    panel.corrections.exclude_button.click()
    assert panel.corrections.exclude_button.text() == "Include this section again"
    panel.start()
    run(panel)
    assert [one.status for one in panel.result.verdicts] == [
        "aligned",
        "aligned",
        "excluded",
        "aligned",
        "bridged",
        "aligned",
    ]


def test_panel_keeps_the_state_of_each_stack(aligned, viewer, raw):
    result = aligned.result
    aligned.exclude_section(1)
    viewer.add_image(raw[:3], name="other")
    aligned.refresh()
    aligned.inputs.stack.setCurrentIndex(1)
    assert aligned.result is None
    assert aligned.excluded == set()
    assert not aligned.save_button.isEnabled()
    assert not aligned.findings.isVisibleTo(aligned)
    aligned.inputs.stack.setCurrentIndex(0)
    assert aligned.result is result
    assert aligned.excluded == {1}
    assert aligned.findings.isVisibleTo(aligned)


def test_new_alignment_deletes_the_old_result(aligned, viewer, run):
    before = aligned.result.path
    aligned.exclude_section(1)
    aligned.start()
    run(aligned)
    assert aligned.result.path != before
    assert not before.exists()
    assert aligned.result.path.exists()
    np.asarray(viewer.layers["stack aligned"].data[0])


def test_stopped_range_continues(aligned, qtbot, run):
    aligned.align_range(1, 3)
    aligned.stop()
    assert aligned.status.text() == "Stopping …"
    run(aligned)
    assert aligned._work.unfinished is not None
    assert "Align these again" in aligned.status.text()
    aligned.align_range(1, 3)
    assert aligned._job.resume
    run(aligned)
    assert aligned._work.unfinished is None


def test_nothing_is_cut_off_in_a_narrow_dock(panel):
    for part in (panel.inputs.advanced, panel.corrections_section):
        part.expand(animate=False)
    form = panel.scroll_area.widget()
    bar = panel.scroll_area.verticalScrollBar().sizeHint().width()
    assert form.minimumSizeHint().width() + bar <= panel.scroll_area.minimumSizeHint().width() <= 260


def test_a_saved_alignment_reopens_with_its_report_and_transform(aligned, viewer, run, tmp_path):
    from tests.helpers.napari_user import reopen_from_menu

    assert aligned.save_to(tmp_path / "kept.zarr")
    run(aligned)
    summary = aligned.findings.summary.text()
    displacement = aligned.result.aligned.displacement(1)
    viewer.layers.clear()
    viewer.open(tmp_path / "kept.zarr", plugin="napari-stnreg")
    panel = reopen_from_menu(viewer, "align")
    assert panel.result is not None, panel.status.text()
    assert panel.findings.isVisibleTo(panel)
    assert panel.findings.summary.text() == summary
    np.testing.assert_array_equal(panel.result.aligned.displacement(1), displacement)
    assert not panel.align_range(0, 1), "its raw stack is not known"
    assert panel.save_to(tmp_path / "again.zarr")
    run(panel)
    assert panel.status.text().startswith("Saved")


def test_landmarks_are_numbered_within_their_section(panel, viewer):
    panel.add_landmarks()
    points = viewer.layers["stack landmarks"]
    for place in ((0, 10, 10), (0, 20, 20), (1, 11, 10), (1, 22, 20)):
        points.add(place)
    assert list(points.features["number"]) == ["1", "2", "1", "2"]
    assert list(points.text.values) == ["1", "2", "1", "2"]
    assert points.size.min() >= 0.025 * 102
    assert np.all(np.abs(points.text.translation[-2:]) > 0)  # beside the ring, not on it


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_a_stack_at_a_url_is_opened_and_its_result_written_there(panel, viewer, raw, qtbot, run, tmp_path, protocol):
    base = "memory://stnreg-panel" if protocol == "memory" else tmp_path.as_uri()
    sr.write_image(tmp_path / "lab.zarr", sr.Image.from_array(raw, spacing=(50.0, 8.0, 8.0), unit="nm"))
    if protocol == "memory":
        copy = fsspec.filesystem("memory")
        copy.put(str(tmp_path / "lab.zarr"), "/stnreg-panel/lab.zarr", recursive=True)
    panel.remote_section.expand(animate=False)
    assert not panel.remote.open_button.isEnabled()
    qtbot.keyClicks(panel.remote.url, f"{base}/lab.zarr")
    qtbot.mouseClick(panel.remote.open_button, Qt.MouseButton.LeftButton)
    run(panel)
    layer = viewer.layers["lab"]
    assert panel.inputs.layer is layer
    np.testing.assert_array_equal(np.asarray(layer.data), raw)
    np.testing.assert_allclose(layer.scale, (50, 8, 8))
    assert not panel.remote.write_button.isEnabled()
    qtbot.mouseClick(panel.align_button, Qt.MouseButton.LeftButton)
    run(panel)
    assert "5 aligned, 1 bridged." in panel.findings.summary.text()
    panel.remote.url.setText(f"{base}/out.zarr")
    qtbot.mouseClick(panel.remote.write_button, Qt.MouseButton.LeftButton)
    run(panel)
    assert panel.status.text() == f"Written to {base}/out.zarr."
    there = zarr.open_group(f"{base}/out.zarr", mode="r")
    np.testing.assert_array_equal(there["0"][:], panel.result.aligned.levels[0][:])
    assert there.attrs["stnreg"]["finished"] is True
    qtbot.mouseClick(panel.remote.write_button, Qt.MouseButton.LeftButton)
    run(panel)
    assert ("cannot be written" if protocol == "memory" else "exists") in panel.status.text()
    fsspec.filesystem("memory").store.clear()


def test_a_url_that_holds_no_stack_is_refused_in_a_sentence(panel, viewer, qtbot, run):
    for text, message in (("memory://nowhere/at-all.zarr", "cannot be opened as Zarr"), ("stack.zarr", "is not a URL")):
        panel.remote.url.setText(text)
        assert panel.open_url(panel.remote.text)
        run(panel)
        assert message in panel.status.text()
    assert [layer.name for layer in viewer.layers] == ["stack"]
