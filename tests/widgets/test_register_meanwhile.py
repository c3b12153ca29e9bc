"""What happens while a registration runs: layers change, the dock or the viewer is closed."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from tests.widgets.conftest import NAME, names


def started(panel, engine, qtbot, steps=10_000):
    engine.steps = steps
    panel.start()
    qtbot.waitUntil(lambda: panel.bar.value() > 0, timeout=20_000)


@pytest.mark.parametrize("what", ["delete", "rename", "paint", "replace", "move"])
def test_layer_changes_during_a_run_do_not_affect_it(panel, viewer, engine, run, qtbot, what):
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
    np.testing.assert_array_equal(viewer.layers[f"warped · {NAME}"].scale[-2:], (1, 1))


def test_a_deleted_preview_is_left_alone(full, viewer, engine, run, qtbot):
    started(full, engine, qtbot)
    qtbot.waitUntil(lambda: f"grid preview · {NAME}" in names(viewer), timeout=20_000)
    viewer.layers.remove(f"grid preview · {NAME}")
    viewer.layers.remove(f"preview · {NAME}")
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


def test_closing_the_dock_cancels_the_run(full, viewer, engine, qtbot):
    started(full, engine, qtbot)
    qtbot.waitUntil(lambda: f"grid preview · {NAME}" in names(viewer), timeout=20_000)
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
    panel.forget()
    qtbot.wait(50)
    gc.collect()
    assert gone() is None


def test_closing_the_viewer_during_a_run_ends_the_thread(panel, viewer, engine, qtbot):
    started(panel, engine, qtbot)
    viewer.close()
    qtbot.waitUntil(lambda: engine.closed == 1, timeout=20_000)
