"""The panel, driven like a user would: a fast engine with the real thread, viewer and canvas."""

from __future__ import annotations

import threading

import numpy as np
import tifffile
from qtpy.QtCore import Qt

from napari_stnreg.core.intensity import LUMINANCE_WEIGHTS
from tests.helpers.napari_user import open_from_menu
from tests.widgets.conftest import NAME, blobs, names


def test_the_selected_layers_are_fixed_and_moving(panel, viewer):
    assert panel.inputs.fixed.layer is viewer.layers["fixed"]
    assert panel.inputs.moving.layer is viewer.layers["moving"]


def test_layers_opened_later_are_taken_up(viewer, open_panel, qtbot):
    panel = open_panel()
    assert panel.inputs.fixed.layer is None
    a, b = viewer.add_image(blobs((20, 20)), name="a"), viewer.add_image(blobs((20, 20)), name="b")
    qtbot.waitUntil(lambda: panel.inputs.fixed.layer is a and panel.inputs.moving.layer is b)
    a.name = "renamed"
    qtbot.waitUntil(lambda: panel.inputs.fixed.layer_box.currentText() == "renamed")
    viewer.layers.remove(b)
    qtbot.waitUntil(lambda: panel.inputs.moving.layer is a)


def test_a_run_ends_with_its_layers_and_changes_nothing_else(full, viewer, engine, run):
    before = [(layer.name, layer.data.copy(), layer.scale.copy()) for layer in viewer.layers]
    assert full.start()
    run(full)
    assert full.state == "idle"
    assert names(viewer)[:2] == ["fixed", "moving"]
    made = names(viewer)[2:]
    assert [name.removesuffix(f" · {NAME}") for name in made] == [
        "difference", "jacobian, 0 % folded", "fixed", "warped", "displacement", "grid",
    ]  # fmt: skip
    for (name, data, scale), layer in zip(before, viewer.layers, strict=False):
        assert layer.name == name
        np.testing.assert_array_equal(layer.data, data)
        np.testing.assert_array_equal(layer.scale, scale)
    assert engine.closed == 1
    assert engine.thread is not threading.main_thread()
    assert "0.900" in full.scores.text()
    for layer in list(viewer.layers)[2:]:
        record = layer.metadata["stnreg"]
        assert record["settings"]["family"] == "affine+diffeomorphic"
        assert record["transform"]["family"] == "diffeomorphic"
        assert {"scores", "versions", "seed", "fixed", "moving", "run"} <= set(record)


def test_results_of_rgb_images_appear_in_the_3d_display(viewer, open_panel, engine, run):
    for name in ("fixed", "moving"):
        viewer.add_image(np.stack([np.uint8(255 * blobs((40, 50)))] * 3, axis=-1), name=name)
    viewer.dims.ndisplay = 3
    viewer.layers.selection = set(viewer.layers)
    panel = open_panel()
    assert panel.inputs.moving.layer is viewer.layers["moving"]
    panel.start()
    run(panel)
    assert panel.result is not None
    assert f"warped · {NAME}" in names(viewer)
    assert viewer.dims.ndisplay == 3


def test_the_transform_can_be_had_back_from_a_layer(panel, viewer, engine, run):
    from napari_stnreg.io.napari_layers import transform_from_metadata

    panel.start()
    run(panel)
    back = transform_from_metadata(viewer.layers[-1].metadata["stnreg"]["transform"])
    points = np.array([[3.0, 4.0], [30.0, 20.0]])
    np.testing.assert_allclose(back.map_points(points), panel.result.transform.map_points(points))


def test_register_waits_for_the_button_or_ctrl_enter(panel, viewer, engine, run, qtbot):
    panel.options.setFocus()
    qtbot.keyClick(panel.options.field("fill"), Qt.Key.Key_Return)
    qtbot.keyClick(panel.inputs.fixed.layer_box, Qt.Key.Key_Return)
    assert not panel.running
    qtbot.mouseClick(panel.register_button, Qt.MouseButton.LeftButton)
    assert panel.running
    assert not panel.register_button.isEnabled()
    run(panel)
    assert panel.register_button.isEnabled()


def test_stop_keeps_the_best_so_far(panel, viewer, engine, run, qtbot):
    engine.steps = 10_000
    panel.start()
    qtbot.waitUntil(lambda: panel.bar.value() > 0)
    panel.stop()
    assert panel.state == "stopping"
    run(panel)
    assert panel.result.stop_reason == "stopped"
    assert panel.status.text().startswith("Stopped. The best result so far is kept")
    assert panel.bar.value() < 1000
    assert f"warped · {NAME}" in names(viewer)
    assert "stopped" in panel.scores.text()
    assert engine.closed == 1


def test_a_warning_does_not_hide_that_the_run_was_stopped(panel, engine, run, qtbot):
    engine.steps, engine.warnings = 10_000, ["12 % of the fixed image is NaN."]
    panel.start()
    qtbot.waitUntil(lambda: panel.bar.value() > 0)
    panel.stop()
    run(panel)
    assert panel.status.text() == "Stopped. The best result so far is kept. 12 % of the fixed image is NaN."


def test_napari_s_own_cancel_button_stops_too(panel, viewer, engine, run, qtbot):
    engine.steps = 10_000
    panel.start()
    qtbot.waitUntil(lambda: panel.bar.value() > 0)
    panel.activity.cancel()
    run(panel)
    assert panel.result.stop_reason == "stopped"
    assert panel.activity is None


def test_the_preview_settles_and_its_layers_become_results(full, viewer, engine, run, qtbot):
    engine.steps, engine.pause = 400, 0.005
    full.start()
    qtbot.waitUntil(lambda: f"grid preview · {NAME}" in names(viewer), timeout=20_000)
    picture, grid = viewer.layers[f"preview · {NAME}"], viewer.layers[f"grid preview · {NAME}"]
    first = grid.data.copy()
    qtbot.waitUntil(lambda: not np.array_equal(grid.data, first), timeout=20_000)
    run(full)
    assert picture.name == f"warped · {NAME}"
    assert f"fixed · {NAME}" in names(viewer)
    assert grid.name == f"grid · {NAME}"
    assert not any("preview" in name for name in names(viewer))


def test_without_previews_no_preview_layers_appear(panel, viewer, engine, run):
    seen = []
    viewer.layers.events.inserted.connect(lambda event: seen.append(event.value.name))
    panel.start()
    run(panel)
    assert seen == [f"warped · {NAME}"]
    assert not any("preview" in name for name in seen)


def test_only_the_ticked_layers_are_added(panel, viewer, engine, run):
    for key, box in panel.options.kind_boxes.items():
        box.setChecked(key in ("warped", "checkerboard"))
    panel.start()
    run(panel)
    assert names(viewer)[2:] == [f"checkerboard · {NAME}", f"warped · {NAME}"]


def test_undo_removes_exactly_the_last_run(full, viewer, engine, run):
    full.start()
    run(full)
    first = names(viewer)
    twin = viewer.add_image(np.zeros((5, 5)), name=f"{NAME}: mine", metadata=viewer.layers[-1].metadata)
    full.start()
    run(full)
    assert len(viewer.layers) > len(first) + 1
    full.undo()
    run(full)
    assert names(viewer) == [*first, twin.name]
    full.undo()
    run(full)
    assert names(viewer) == ["fixed", "moving", twin.name]
    assert not full.can_undo


def test_run_again_begins_at_the_result(panel, viewer, engine, run):
    assert not panel.again_button.isEnabled()
    panel.start()
    run(panel)
    first = panel.result.transform
    viewer.layers.selection.clear()
    assert panel.again()
    run(panel)
    assert engine.calls[1][3]["start_transform"] is first
    viewer.layers.selection = {viewer.layers[2]}
    panel.again()
    run(panel)
    points = np.array([[3.0, 4.0]])
    np.testing.assert_allclose(engine.calls[2][3]["start_transform"].map_points(points), first.map_points(points))


def test_run_again_needs_the_result_of_a_run(panel, viewer, qtbot, engine, run):
    """Neither a layer placed by hand nor one that another program marked is a result."""
    viewer.layers.selection = {viewer.layers["moving"]}
    place = open_from_menu(viewer, "place")
    place.set_layers(viewer.layers["fixed"], viewer.layers["moving"])
    assert place.place()
    place.rotate(90)
    qtbot.waitUntil(lambda: "stnreg" in place.copy.metadata)
    viewer.add_image(np.zeros((8, 8)), name="other", metadata={"stnreg": {"what": "warped"}})
    for layer in viewer.layers:
        viewer.layers.selection = {layer}
        panel.refresh()
        assert not panel.again_button.isEnabled(), layer


def test_nothing_is_seen_through_the_nan_of_a_result(full, viewer, engine, run):
    """napari draws NaN transparent, so that the gray input below looked like a part of the result."""
    viewer.layers["fixed"].data[:, :20] = np.nan
    before = viewer.layers["fixed"].data.copy()
    full.start()
    run(full)
    green = next(layer for layer in viewer.layers if layer.name.startswith("fixed ·"))
    assert np.isfinite(green.data).all()
    np.testing.assert_allclose(green.data[:, :20], green.contrast_limits[0], rtol=1e-6)
    np.testing.assert_array_equal(viewer.layers["fixed"].data, before)


def test_a_second_run_cannot_start_while_one_runs(panel, viewer, engine, run, qtbot):
    engine.steps = 10_000
    panel.start()
    assert not panel.start()
    assert "running already" in panel.status.text()
    panel.stop()
    run(panel)
    assert len(engine.calls) == 1


def test_swap_exchanges_the_sides(panel, viewer, qtbot):
    mask = viewer.add_labels(np.ones((48, 64), int), name="mask")
    qtbot.waitUntil(lambda: panel.inputs.fixed.mask_box.count() == 2)
    panel.inputs.fixed.mask_box.set_current(mask)
    panel.inputs.swap_button.click()
    assert panel.inputs.fixed.layer.name == "moving"
    assert panel.inputs.moving.layer.name == "fixed"
    assert panel.inputs.moving.mask_box.currentData() is mask
    assert panel.inputs.fixed.mask_box.currentData() is None


def key_press(viewer):
    """What the canvas does when the key for before and after is pressed."""
    next(function for key, function in viewer.keymap.items() if str(key) == "Shift+B")(viewer)


def test_a_result_is_green_and_magenta_with_the_verdict_beside_it(full, viewer, engine, run):
    full.start()
    run(full)
    shown = [layer for layer in viewer.layers[2:] if layer.visible]
    assert [layer.name for layer in shown] == [f"fixed · {NAME}", f"warped · {NAME}", f"grid · {NAME}"]
    assert [layer.colormap.name for layer in shown[:2]] == ["green", "magenta"]
    assert shown[1].blending == "additive"
    assert shown[1].data.dtype == viewer.layers["moving"].data.dtype
    assert shown[1].contrast_limits[1] > 100
    assert not any(layer.rgb for layer in viewer.layers if hasattr(layer, "rgb"))
    verdict = full.scores.verdict
    assert verdict.label.text().startswith("Good (confidence 0.90)")
    assert not full.scroll_area.isAncestorOf(verdict), "it is in sight without scrolling"
    full.undo()
    run(full)
    assert not verdict.isVisibleTo(full)
    assert full.scores.text() == ""


def test_one_key_shows_before_and_after(full, viewer, engine, run):
    full.start()
    run(full)
    count = len(viewer.layers)
    looks = [(layer.visible, layer.blending) for layer in viewer.layers[:2]]
    warped = viewer.layers[f"warped · {NAME}"]
    key_press(viewer)
    before = viewer.layers[f"moving · {NAME}"]
    assert (before.visible, warped.visible) == (True, False)
    np.testing.assert_array_equal(before.data, viewer.layers["moving"].data)
    key_press(viewer)
    assert (before.visible, warped.visible) == (False, True)
    assert len(viewer.layers) == count + 1
    assert [(layer.visible, layer.blending) for layer in viewer.layers[:2]] == looks
    viewer.layers.remove(warped)
    full.show_status("")
    key_press(viewer)  # there is nothing to compare any more, and nothing is claimed
    assert full.status.text() == ""
    assert not before.visible
    full.undo()
    run(full)
    assert names(viewer) == ["fixed", "moving"]
    key_press(viewer)
    viewer.window.remove_dock_widget(full)
    assert not any(str(key) == "Shift+B" and function for key, function in viewer.keymap.items())
    full.deleteLater()


def test_before_shows_the_intensity_of_a_color_image(viewer, engine, open_panel, run):
    color = np.stack([blobs((48, 64)), blobs((48, 64), shift=(2, -3)), blobs((48, 64))], axis=-1)
    for name in ("fixed", "moving"):
        viewer.add_image(color, name=name, rgb=True)
    panel = open_panel()
    panel.start()
    run(panel)
    warped = viewer.layers[f"warped intensity · {NAME}"]
    key_press(viewer)
    before = viewer.layers[f"moving · {NAME}"]
    assert (before.visible, warped.visible, before.rgb) == (True, False, False)
    assert (before.colormap.name, before.blending) == ("magenta", "additive")
    assert before.contrast_limits == warped.contrast_limits
    np.testing.assert_allclose(before.data, color @ LUMINANCE_WEIGHTS, rtol=1e-5)


def test_channels_of_one_file_are_not_taken_as_a_pair(viewer, engine, open_panel, tmp_path):
    for name in ("a", "b"):
        data = np.stack([blobs((48, 64))] * 3)
        tifffile.imwrite(tmp_path / f"{name}.ome.tif", data, ome=True, metadata={"axes": "CYX"})
    viewer.open([str(tmp_path / "a.ome.tif"), str(tmp_path / "b.ome.tif")], plugin="napari-stnreg")
    assert len(viewer.layers) == 6
    inputs = open_panel().inputs
    assert [inputs.fixed.layer, inputs.moving.layer] == [viewer.layers[0], viewer.layers[3]]


def test_own_results_are_not_offered_as_inputs(full, viewer, engine, run):
    full.start()
    run(full)
    full.switch()
    full.refresh()
    for side in (full.inputs.fixed, full.inputs.moving):
        box = side.layer_box
        assert [box.itemText(i) for i in range(box.count())] == ["fixed", "moving"]


def test_old_scores_do_not_stay_beside_a_new_error(panel, viewer, engine, run):
    panel.start()
    run(panel)
    assert "0.900" in panel.scores.text()
    engine.error = ValueError("broken")
    panel.start()
    run(panel)
    assert "broken" in panel.status.text()
    assert panel.scores.text() == ""
    engine.error = None
    panel.start()
    run(panel)
    panel.set_moving("fixed")
    assert not panel.start()
    assert panel.scores.text() == ""


def test_first_steps_are_hidden_for_good(panel, open_panel):
    assert panel.first_steps.isVisibleTo(panel)
    panel.first_steps.hide_button.click()
    assert not open_panel().first_steps.isVisibleTo(open_panel())
