"""The scorecard: the same figures as the engine's, marked, and the way to each landmark."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

import napari_stnreg as sr
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.widgets.common.transform_store import store_for
from tests.helpers.napari_user import open_by_call
from tests.widgets.conftest import blobs
from tests.widgets.known_transforms import SHAPE, bend, make_entry

SCALE, OFFSET = (0.5, 0.25), (3.0, -2.0)


@pytest.fixture
def scene(viewer):
    """A fixed image and a moving one that the bend brings onto it, with labels and points on both sides."""
    grid = Grid.from_spacing(SHAPE, SCALE, OFFSET, unit="um")
    transform = bend("um", 0.25)
    where = {"scale": SCALE, "translate": OFFSET, "units": ("um", "um")}
    picture = blobs(SHAPE)
    moving = viewer.add_image(picture, name="moving", **where)
    moving_labels = viewer.add_labels((picture // 70).astype(np.int32), name="moving labels", **where)
    image = Image(picture, grid)
    fixed = viewer.add_image(sr.warp(image, transform, grid).data, name="fixed", **where)
    labels = image.replace(data=moving_labels.data)
    fixed_labels = viewer.add_labels(sr.warp(labels, transform, grid, "nearest").data, name="fixed labels", **where)
    index = np.array([[10.0, 12.0], [30.0, 50.0], [20.0, 33.0]])
    fixed_points = viewer.add_points(index, name="fixed points", **where)
    goal = transform.map_points(index * SCALE + OFFSET)
    moving_points = viewer.add_points((goal - OFFSET) / SCALE, name="moving points", **where)
    store_for(viewer).extra.append(make_entry(transform, grid=grid))
    return fixed, moving, (fixed_labels, moving_labels), (fixed_points, moving_points), transform


@pytest.fixture
def card(viewer, scene):
    return open_by_call(viewer, "scorecard")


def fill(card, scene):
    _, _, labels, points, _ = scene
    for boxes, layers in ((card.labels_boxes, labels), (card.points_boxes, points)):
        for box, layer in zip(boxes, layers, strict=False):
            assert box.set_current(layer)


def test_the_last_registration_is_chosen_already(card, scene):
    assert card.fixed_box.currentData() is scene[0]
    assert card.moving_box.currentData() is scene[1]
    assert card.transform_box.currentData().transform is scene[4]


def test_it_shows_the_scores_of_the_engine_with_good_and_bad_marked(viewer, card, scene, run):
    fill(card, scene)
    assert card.score()
    run(card)
    grid = Grid.from_spacing(SHAPE, SCALE, OFFSET, unit="um")
    fixed, moving, labels, points, transform = scene
    expected = sr.evaluate(
        Image(fixed.data, grid), Image(moving.data, grid), transform,
        fixed_labels=Image(labels[0].data, grid), moving_labels=Image(labels[1].data, grid),
        fixed_landmarks=points[0].data * SCALE + OFFSET, moving_landmarks=points[1].data * SCALE + OFFSET,
    )  # fmt: skip
    assert [s.after for s in card.card] == pytest.approx([s.after for s in expected], nan_ok=True)
    assert card.card.value("landmark", item="max") < 1e-4
    assert card.card.value("dice", item="mean") > 0.99
    text = card.table.text()
    assert "Dice, label 1" in text
    row = card.table.row_of_pair(0)
    assert card.table.item(row, 3).text() == "✓"
    good = card.table.item(row, 3).foreground().color().name()
    viewer.theme = "light"
    assert card.table.item(row, 3).foreground().color().name() != good


@pytest.mark.parametrize("ndisplay", [2, 3])
def test_selecting_a_pair_moves_the_viewer_to_it(viewer, card, scene, run, qtbot, ndisplay):
    """Also in a volume with uneven voxels, and while the viewer shows another unit's worth of axes."""
    where = {"scale": (4.0, 0.5, 0.25), "translate": (1.0, 3.0, -2.0), "units": ("um",) * 3}
    a = viewer.add_image(blobs((10, 24, 32)), name="a", **where)
    b = viewer.add_image(blobs((10, 24, 32), shift=1), name="b", **where)
    index = np.array([[1.0, 5.0, 6.0], [7.0, 20.0, 30.0]])
    points = viewer.add_points(index, name="pa", **where), viewer.add_points(index + 1, name="pb", **where)
    viewer.dims.ndisplay = ndisplay
    card.refresh()
    card.fixed_box.set_current(a)
    card.moving_box.set_current(b)
    card.transform_box.setCurrentIndex(0)
    for box, layer in zip(card.points_boxes, points, strict=False):
        box.set_current(layer)
    card.score()
    run(card)
    row = card.table.row_of_pair(1)
    assert card.table.item(row, 1).text() == f"{np.linalg.norm((4.0, 0.5, 0.25)):.4g}"
    zoom = viewer.scene.camera.zoom
    card.resize(320, 900)
    cell = card.table.visualItemRect(card.table.item(row, 0)).center()
    card.table.scrollToItem(card.table.item(row, 0))
    cell = card.table.visualItemRect(card.table.item(row, 0)).center()
    qtbot.mouseClick(card.table.viewport(), Qt.MouseButton.LeftButton, pos=cell)
    world = index[1] * (4.0, 0.5, 0.25) + (1.0, 3.0, -2.0)
    np.testing.assert_allclose(viewer.scene.camera.center[3 - ndisplay :], world[3 - ndisplay :])
    if ndisplay == 2:
        assert viewer.dims.point[0] == pytest.approx(world[0])
    assert viewer.scene.camera.zoom == zoom
    assert points[0].selected_data == {1}
    viewer.layers.remove(points[0])
    card.go_to_pair(1)
    assert "no longer" in card.status.text()


def test_copy_and_csv(card, scene, run, tmp_path):
    assert not card.copy_button.isEnabled()
    fill(card, scene)
    card.score()
    run(card)
    card.copy()
    copied = QApplication.clipboard().text()
    assert copied.startswith("\tbefore\tafter")
    assert "NCC\t" in copied
    card.save_csv(str(tmp_path / "scores.csv"))
    assert (tmp_path / "scores.csv").read_text() == card.card.to_csv()
    card.save_csv(str(tmp_path / "no" / "scores.csv"))
    assert "cannot be written" in card.status.text()


def test_result_layer_is_scored_without_resampling(viewer, card, scene, run):
    fixed = scene[0]
    where = {"scale": SCALE, "translate": OFFSET, "units": ("um", "um")}
    result = viewer.add_image(fixed.data * 2 + 5, name="by another program", **where)
    card.refresh()
    card.transform_box.setCurrentIndex(0)
    assert card.result_box.set_current(result)
    card.score()
    run(card)
    assert card.card.value("ncc") == pytest.approx(1)
    assert card.card.value("ncc", "before") < 0.99
    assert not [s for s in card.card if s.group == "deformation"]


def test_half_of_a_pair_is_reported(card, scene, run):
    card.points_boxes[0].set_current(scene[3][0])
    card.score()
    run(card)
    assert "Give both" in card.status.text()
    assert card.card is None


def test_closing_the_dock_while_scoring(viewer, card, scene, qtbot):
    assert card.score()
    viewer.window.remove_dock_widget(card)
    qtbot.waitUntil(lambda: not card.running, timeout=30_000)
    assert card.card is None


def test_the_views_open_on_fixed_and_result(viewer, card, scene):
    panel = card.compare()
    assert panel.first_box.currentData() is scene[0]
    assert panel.second_box.currentData() is scene[1]
    assert card.compare() is panel
