"""The panel, driven as a person would: a quick engine, but the real thread, viewer and canvas."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QLabel, QPushButton

from napari_stnreg.errors import InputError
from tests.gui.conftest import blobs

NAME = "moving -> fixed (affine+diffeomorphic)"


def names(viewer):
    return [layer.name for layer in viewer.layers]


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
    assert [name.removeprefix(NAME + ": ") for name in made] == [
        "warped image", "difference", "jacobian determinant, 0 % folded", "overlay", "displacement vectors",
        "deformed grid",
    ]  # fmt: skip
    for (name, data, scale), layer in zip(before, viewer.layers, strict=False):
        assert layer.name == name
        np.testing.assert_array_equal(layer.data, data)
        np.testing.assert_array_equal(layer.scale, scale)
    assert engine.closed == 1
    assert engine.thread is not threading.main_thread()
    assert "0.900" in full.report.text()
    for layer in list(viewer.layers)[2:]:
        record = layer.metadata["stnreg"]
        assert record["settings"]["family"] == "affine+diffeomorphic"
        assert record["transform"]["family"] == "diffeomorphic"
        assert {"scores", "versions", "seed", "fixed", "moving", "run"} <= set(record)


def test_the_transform_can_be_had_back_from_a_layer(panel, viewer, engine, run):
    from napari_stnreg.widgets.results import transform_from

    panel.start()
    run(panel)
    back = transform_from(viewer.layers[-1].metadata["stnreg"]["transform"])
    points = np.array([[3.0, 4.0], [30.0, 20.0]])
    np.testing.assert_allclose(back.map_points(points), panel.result.transform.map_points(points))


def test_register_waits_for_the_button_or_ctrl_enter(panel, viewer, engine, run, qtbot):
    panel.options.setFocus()
    qtbot.keyClick(panel.options.fill_box, Qt.Key.Key_Return)
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
    assert panel.result.ending == "stopped"
    assert f"{NAME}: warped image" in names(viewer)
    assert "stopped" in panel.report.text()
    assert engine.closed == 1


def test_napari_s_own_cancel_button_stops_too(panel, viewer, engine, run, qtbot):
    engine.steps = 10_000
    panel.start()
    qtbot.waitUntil(lambda: panel.bar.value() > 0)
    panel._activity.cancel()
    run(panel)
    assert panel.result.ending == "stopped"
    assert panel._activity is None


def test_the_preview_settles_and_its_layers_become_results(full, viewer, engine, run, qtbot):
    engine.steps, engine.pause = 400, 0.005
    full.start()
    qtbot.waitUntil(lambda: f"{NAME}: grid preview" in names(viewer), timeout=20_000)
    picture, grid = viewer.layers[f"{NAME}: preview"], viewer.layers[f"{NAME}: grid preview"]
    first = grid.data.copy()
    qtbot.waitUntil(lambda: not np.array_equal(grid.data, first), timeout=20_000)
    run(full)
    assert picture.name == f"{NAME}: overlay"
    assert grid.name == f"{NAME}: deformed grid"
    assert not any("preview" in name for name in names(viewer))


def test_without_previews_no_preview_layers_appear(panel, viewer, engine, run):
    seen = []
    viewer.layers.events.inserted.connect(lambda event: seen.append(event.value.name))
    panel.start()
    run(panel)
    assert seen == [f"{NAME}: warped image"]
    assert not any("preview" in name for name in seen)


def test_only_the_ticked_layers_are_added(panel, viewer, engine, run):
    for key, box in panel.options.kind_boxes.items():
        box.setChecked(key in ("warped", "checkerboard"))
    panel.start()
    run(panel)
    assert names(viewer)[2:] == [f"{NAME}: warped image", f"{NAME}: checkerboard"]


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
    assert not full._layers.can_undo


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
    panel.inputs.fixed.mask_box.choose(mask)
    panel.inputs.swap_button.click()
    assert panel.inputs.fixed.layer.name == "moving"
    assert panel.inputs.moving.layer.name == "fixed"
    assert panel.inputs.moving.mask_box.currentData() is mask
    assert panel.inputs.fixed.mask_box.currentData() is None


# -- bad input: one sentence, and nothing is lost


def expect_sentence(panel, text, capsys=None):
    assert not panel.start()
    assert text in panel.status.text()
    assert panel.state == "idle"
    assert panel.register_button.isEnabled()


def test_no_layer_is_said(viewer, open_panel):
    expect_sentence(open_panel(), "There is no fixed image")


def test_the_same_layer_twice_is_said(panel):
    panel.set_moving("fixed")
    expect_sentence(panel, "the same layer")


def test_2d_with_3d_is_said(panel, viewer):
    volume = viewer.add_image(np.zeros((4, 5, 6)), name="volume")
    panel.set_moving(volume)
    expect_sentence(panel, "cannot be registered to volumes yet")


def test_units_that_do_not_convert_are_said(panel, viewer):
    viewer.layers["moving"].units = ("um", "um")
    expect_sentence(panel, "cannot be converted")


def test_no_transform_is_said(panel):
    panel.options.linear_box.choose("")
    panel.options.bending_box.choose("")
    expect_sentence(panel, "No transform is chosen")


def test_landmarks_that_do_not_pair_are_said(panel, viewer, qtbot):
    a = viewer.add_points([[1, 2], [3, 4]], name="a")
    b = viewer.add_points([[1, 2]], name="b")
    qtbot.waitUntil(lambda: panel.inputs.fixed.points_box.count() == 3)
    panel.inputs.fixed.points_box.choose(a)
    assert "both sides" in panel.inputs.pairs.text()
    expect_sentence(panel, "one side only")
    panel.inputs.moving.points_box.choose(b)
    assert "2 fixed, 1 moving" in panel.inputs.pairs.text()
    expect_sentence(panel, "2 fixed and 1 moving")
    b.add([5, 6])
    assert "counts differ" not in panel.inputs.pairs.text()
    assert "2: (3.0, 4.0) ↔ (5.0, 6.0)" in panel.inputs.pairs.text()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InputError("The fixed image is constant; choose another."), "The fixed image is constant"),
        (RuntimeError("CUDA error: out of memory"), "CUDA error: out of memory"),
        (KeyError("what"), "what"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_an_error_in_the_thread_is_said_and_the_panel_is_idle(panel, viewer, engine, run, error, text):
    engine.error = error
    panel.start()
    run(panel)
    assert text in panel.status.text()
    assert names(viewer) == ["fixed", "moving"]
    assert panel.register_button.isEnabled()
    assert engine.closed == 1
    engine.error = None
    panel.start()
    run(panel)
    assert len(viewer.layers) == 3


def test_a_number_out_of_range_is_clamped_and_a_wrong_one_is_no_number(panel):
    panel.options.window_box.setText("9999")
    assert panel.options.values()["window"] == 31
    panel.options.window_box.setText("abc")
    assert "window" not in panel.options.values()


# -- things that happen during a run


def started(panel, engine, qtbot, steps=10_000):
    engine.steps = steps
    panel.start()
    qtbot.waitUntil(lambda: panel.bar.value() > 0, timeout=20_000)


@pytest.mark.parametrize("what", ["delete", "rename", "paint", "replace", "move"])
def test_a_layer_that_changes_during_the_run_does_not_reach_it(panel, viewer, engine, run, qtbot, what):
    moving = viewer.layers["moving"]
    original = moving.data.copy()
    started(panel, engine, qtbot)
    if what == "delete":
        viewer.layers.remove(moving)
        viewer.layers.remove("fixed")
    elif what == "rename":
        moving.name = "other"
    elif what == "paint":
        moving.data[:] = 0
    elif what == "replace":
        moving.data = np.zeros((7, 7, 7))
    else:
        moving.scale = (5, 5)
    panel.stop()
    run(panel)
    assert panel.result is not None
    np.testing.assert_array_equal(engine.calls[0][1].data, original)
    np.testing.assert_array_equal(viewer.layers[f"{NAME}: warped image"].scale[-2:], (1, 1))


def test_a_deleted_preview_is_left_alone(full, viewer, engine, run, qtbot):
    started(full, engine, qtbot)
    qtbot.waitUntil(lambda: f"{NAME}: grid preview" in names(viewer), timeout=20_000)
    viewer.layers.remove(f"{NAME}: grid preview")
    viewer.layers.remove(f"{NAME}: preview")
    qtbot.wait(300)
    full.stop()
    run(full)
    assert len(viewer.layers) == 8


def test_everything_deleted_during_the_run(panel, viewer, engine, run, qtbot):
    started(panel, engine, qtbot)
    viewer.layers.clear()
    panel.stop()
    run(panel)
    assert len(viewer.layers) == 1


def test_closing_the_dock_ends_the_run_and_frees_it(full, viewer, engine, qtbot):
    started(full, engine, qtbot)
    qtbot.waitUntil(lambda: f"{NAME}: grid preview" in names(viewer), timeout=20_000)
    dock = next(d for d in viewer.window._qt_window.findChildren(type(full.parent())) if d.widget() is full)
    dock.destroyOnClose()  # what its cross does
    qtbot.waitUntil(lambda: engine.closed == 1)
    qtbot.waitUntil(lambda: not full.running)
    assert names(viewer) == ["fixed", "moving"]
    count = full.inputs.fixed.layer_box.count()
    viewer.add_image(np.zeros((4, 4)))
    qtbot.wait(50)
    assert full.inputs.fixed.layer_box.count() == count  # it no longer listens
    full.deleteLater()


def test_a_closed_panel_is_forgotten(panel, viewer, engine, run, qtbot):
    panel.start()
    run(panel)
    gone = weakref.ref(panel.result)
    viewer.window.remove_dock_widget(panel)
    panel.deleteLater()
    engine.calls.clear()
    panel._outcome = None
    qtbot.wait(50)
    gc.collect()
    assert gone() is None


def test_closing_the_viewer_during_a_run_ends_the_thread(panel, viewer, engine, qtbot):
    started(panel, engine, qtbot)
    viewer.close()
    qtbot.waitUntil(lambda: engine.closed == 1, timeout=20_000)


# -- what is remembered, copied, shown


def test_settings_are_remembered(panel, viewer, engine, run, open_panel):
    panel.options.linear_box.choose("rigid")
    panel.options.bending_box.choose("bspline")
    panel.options.similarity_box.choose("mi")
    panel.options.iterations_box.value = 17
    panel.options.fill_box.value = 255
    panel.options.kind_boxes["vectors"].setChecked(False)
    panel.options.rate_box.setValue(2)
    panel.start()
    run(panel)
    assert engine.calls[0][2].fill == 255
    other = open_panel()
    assert other.options.family == "rigid+bspline"
    assert other.options.values()["similarity"] == "mi"
    assert other.options.values()["iterations"] == 17
    assert "fill" not in other.options.values()
    assert "vectors" not in other.options.kinds
    assert other.options.rate_box.value() == 2


def test_broken_settings_are_passed_over(settings_file, open_panel):
    from napari_stnreg.widgets import plugin_settings

    for text in ("no json", json.dumps([1]), json.dumps({"settings": {"family": "what", "preset": 3}, "results": "x"})):
        store = plugin_settings._store()
        store.setValue("register/panel", text)
        store.sync()
        panel = open_panel()
        panel.options.values()


def test_the_run_is_copied_as_python_that_gives_it_again(panel, viewer, engine, run):
    mask = viewer.add_labels(np.ones((24, 32), int), scale=(2, 2), name="mask")
    panel._refresh()
    panel.inputs.fixed.mask_box.choose(mask)
    panel.options.iterations_box.value = 5
    panel.start()
    run(panel)
    panel.copy_python.trigger()
    script = QApplication.clipboard().text()
    seen = {}

    def register(fixed, moving, **words):
        seen.update(words, fixed=fixed, moving=moving)
        return panel.result

    import napari_stnreg as sr

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sr, "register", register, raising=False)
        exec(script, {"viewer": viewer})  # the person runs it in napari's console
    fixed, moving, settings, _ = engine.calls[0]
    for mine, theirs in ((fixed, seen["fixed"]), (moving, seen["moving"])):
        np.testing.assert_array_equal(mine.data, theirs.data)
        assert mine.grid == theirs.grid
    np.testing.assert_array_equal(fixed.mask, seen["fixed"].mask)
    words = {name: value for name, value in seen.items() if name not in ("fixed", "moving")}
    assert type(settings).parse(**words) == settings


def test_the_run_is_copied_as_a_command(panel, viewer, engine, run):
    panel.options.mirror_box.setChecked(True)
    panel.options.fill_box.value = -2.5
    panel.options.iterations_box.value = 12
    panel.start()
    run(panel)
    panel.copy_command.trigger()
    text = QApplication.clipboard().text()
    assert "stnreg register fixed.nii.gz moving.nii.gz -o result --family affine+diffeomorphic" in text
    assert "# Save the layer 'moving'" in text

    import shlex

    from napari_stnreg.cli.options import make_parser
    from napari_stnreg.cli.setting_options import written_settings
    from napari_stnreg.settings import RegistrationSettings

    options = make_parser().parse_args(shlex.split(text.splitlines()[-1])[1:])
    assert written_settings(RegistrationSettings, options) == engine.calls[0][2]


def test_the_plot_follows_the_theme(panel, viewer, engine, run):
    panel.start()
    run(panel)
    dark = panel.plot._plot.backgroundBrush().color().name()
    viewer.theme = "light"
    assert panel.plot._plot.backgroundBrush().color().name() != dark


def test_everything_that_can_be_used_has_a_tooltip_and_a_name(panel):
    from qtpy.QtWidgets import QAbstractSpinBox, QCheckBox, QComboBox, QLineEdit

    for kind in (QPushButton, QComboBox, QCheckBox, QAbstractSpinBox, QLineEdit):
        for widget in panel.findChildren(kind):
            if widget.objectName().startswith("qt_"):  # the field inside a spin box
                continue
            assert widget.toolTip(), (widget, getattr(widget, "text", str)())
            assert widget.accessibleName() or widget.text(), widget


def test_the_panel_fits_a_narrow_dock(panel, viewer, qtbot):
    panel.resize(300, 700)
    for section in (panel.inputs.more, panel.options.advanced, panel.options.results):
        section.expand(animate=False)
    qtbot.wait(50)
    assert panel.minimumSizeHint().width() <= 300
    form = panel.scroll.widget()
    assert form.minimumSizeHint().width() <= 300, [
        (w, w.minimumSizeHint().width()) for w in form.findChildren(QLabel) if w.minimumSizeHint().width() > 280
    ]


def test_opening_the_panel_imports_no_torch():
    code = (
        "import sys, napari\n"
        "from napari.components import ViewerModel\n"
        "from qtpy.QtWidgets import QApplication\n"
        "app = QApplication([])\n"
        "from napari_stnreg.widgets.register import RegisterWidget\n"
        "panel = RegisterWidget(ViewerModel())\n"
        "panel.show(); app.processEvents()\n"
        "assert 'torch' not in sys.modules and 'pyqtgraph' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_devices_are_found_in_the_background(panel, engine, qtbot):
    qtbot.waitUntil(lambda: "CPU, 2 threads" in panel.options.device_box.itemText(1), timeout=30_000)
    assert panel.options.device_box.currentData() == "auto"
