"""What happens around the workbench while it works, what it refuses, and how one gets there."""

from __future__ import annotations

import numpy as np

from napari_stnreg.core.grid import Grid
from napari_stnreg.io.transform_entry import TransformEntry
from napari_stnreg.transforms import AffineTransform
from tests.helpers.napari_user import docked
from tests.widgets.conftest import blobs
from tests.widgets.known_transforms import SHAPE, bend, choose, make_entry


def test_layers_deleted_during_a_run_do_not_affect_it(viewer, open_workbench, run):
    layer = viewer.add_image(blobs((600, 800)), name="image")
    bench = open_workbench(make_entry(bend(), grid=Grid.from_spacing((600, 800))))
    choose(bench, layer)
    assert bench.apply()
    viewer.layers.clear()
    assert not bench.apply()
    run(bench)
    assert [layer.name for layer in viewer.layers] == ["image transformed to fixed"]


def test_stopping_restores_the_viewer(viewer, open_workbench, run):
    volume = np.zeros((64, 256, 256), np.float32)
    layer = viewer.add_image(volume, name="volume")
    matrix = np.eye(4)
    matrix[0, 3] = 2.5
    grid = Grid.from_spacing((64, 256, 256))
    bench = open_workbench(
        TransformEntry.of(AffineTransform(matrix), "fixed", "moving", "affine", grid=grid, source="made")
    )
    choose(bench, layer)
    assert bench.apply()
    bench.stop()
    run(bench)
    assert len(viewer.layers) == 1
    assert "Stopped" in bench.status.text()
    assert bench.applying.apply_button.isEnabled()


def test_closing_the_dock_in_the_middle_ends_the_work(viewer, open_workbench, qtbot):
    layer = viewer.add_image(blobs((600, 800)), name="image")
    bench = open_workbench(make_entry(bend(), grid=Grid.from_spacing((600, 800))))
    choose(bench, layer)
    assert bench.apply()
    viewer.window.remove_dock_widget(bench)
    qtbot.waitUntil(lambda: not bench.running, timeout=30_000)
    assert len(viewer.layers) == 1
    viewer.add_image(blobs(SHAPE), name="later")
    qtbot.wait(20)
    assert bench.applying.layer_box.count() == 1


def test_unsuitable_layer_is_reported(viewer, open_workbench):
    layer = viewer.add_image(np.zeros((8, 9, 10), np.float32), name="volume")
    bench = open_workbench(make_entry(bend()))
    choose(bench, layer)
    assert not bench.apply()
    assert "3D" in bench.status.text()
    assert not bench.running


def test_the_registration_leads_on_to_views_scorecard_and_workbench(viewer, panel, engine, run, qtbot):
    from qtpy.QtWidgets import QPushButton

    buttons = {b.text(): b for b in panel.scores.findChildren(QPushButton)}
    assert not buttons["Compare"].isVisibleTo(panel)
    panel.start()
    run(panel)
    fixed, warped = viewer.layers["fixed"], viewer.layers[-1]
    for text in ("Compare", "Scorecard", "Workbench"):
        assert buttons[text].isVisibleTo(panel)
        buttons[text].click()
    (compare,), (card,), (bench,) = (
        docked(viewer, name) for name in ("Compare views", "Registration scorecard", "Transform workbench")
    )
    assert compare.first_box.currentData() is fixed
    assert compare.second_box.currentData() is warped
    assert card.transform_box.currentData().moving == "moving"
    assert bench.chosen.fixed == "fixed"
    count = len(viewer.window.dock_widgets)
    buttons["Compare"].click()
    assert len(viewer.window.dock_widgets) == count
