"""Ways of looking at two images, and that leaving them leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_stnreg.visualization.overlays import checkerboard, rescaled
from napari_stnreg.widgets.compare.views import VIEWS
from tests.helpers.napari_user import open_by_call
from tests.widgets.conftest import blobs

SHAPE = (40, 60)


@pytest.fixture
def pair(viewer):
    """Two images of one place, a third one that is hidden, and points over all."""
    first = viewer.add_image(blobs(SHAPE), name="fixed", scale=(2.0, 0.5), translate=(3, 4))
    second = viewer.add_image(blobs(SHAPE, shift=2), name="warped", scale=(2.0, 0.5), translate=(3, 4))
    viewer.add_image(blobs(SHAPE, seed=2), name="hidden", visible=False)
    viewer.add_points([[10, 10]], name="points")
    return first, second


@pytest.fixture
def compare(viewer, pair):
    panel = open_by_call(viewer, "compare")
    panel.set_layers(*pair)
    panel.rate_box.setValue(0)
    return panel


def trace(viewer):
    grid = viewer.canvas.grid
    return (
        [(layer.name, layer.visible) for layer in viewer.layers],
        (grid.enabled, grid.shape, grid.stride),
        {layer.name for layer in viewer.layers.selection},
    )


def visible(viewer):
    return [layer.name for layer in viewer.layers if layer.visible]


@pytest.mark.parametrize("view", list(VIEWS))
def test_leaving_a_view_restores_the_viewer(viewer, compare, run, qtbot, view):
    before = trace(viewer)
    compare.resize(300, 700)
    qtbot.mouseClick(compare.buttons[view], Qt.MouseButton.LeftButton)
    run(compare)
    assert compare.views.view == view
    assert compare.buttons[view].isChecked()
    assert trace(viewer) != before
    qtbot.mouseClick(compare.off_button, Qt.MouseButton.LeftButton)
    assert compare.views.view is None
    assert trace(viewer) == before


def test_flicker_turns_by_itself_and_by_key(viewer, compare, qtbot):
    compare.rate_box.setValue(10)
    assert compare.show_view("flicker")
    assert visible(viewer) == ["fixed"]
    qtbot.waitUntil(lambda: visible(viewer) == ["warped"], timeout=5000)
    qtbot.waitUntil(lambda: visible(viewer) == ["fixed"], timeout=5000)
    key = next(function for binding, function in viewer.keymap.items() if str(binding) == "Shift+B")
    was = visible(viewer)
    key(viewer)
    assert visible(viewer) != was
    assert not compare.views.flickering
    now = visible(viewer)
    qtbot.wait(250)
    assert visible(viewer) == now
    assert now[0] in compare.shown.text()


def test_the_checkerboard_holds_both_images_in_squares_of_the_chosen_size(viewer, compare, pair, run, qtbot):
    first, second = pair
    compare.show_view("checkerboard")
    run(compare)
    assert visible(viewer) == ["compare: checkerboard"]
    layer = viewer.layers["compare: checkerboard"]
    a, b = rescaled(first.data), rescaled(second.data)
    np.testing.assert_array_equal(layer.data, checkerboard(a, b, 8))
    assert (layer.data == a).any()
    assert (layer.data == b).any()
    np.testing.assert_allclose(layer.scale, first.scale)
    np.testing.assert_allclose(layer.translate, first.translate)
    compare.squares_slider.setValue(20)
    qtbot.waitUntil(lambda: np.array_equal(layer.data, checkerboard(a, b, 20)))


def test_images_on_different_grids_are_compared_in_the_world(viewer, compare, run):
    """The second image is the first one cut out: where both are, there is no difference."""
    whole = blobs((40, 60))
    a = viewer.add_image(whole, name="whole")
    b = viewer.add_image(whole[10:30, 20:50], name="part", translate=(10, 20))
    compare.set_layers(a, b)
    compare.show_view("blend")
    run(compare)
    shown = [layer for layer in viewer.layers if layer.visible]
    assert [layer.colormap.name for layer in shown] == ["green", "magenta"]
    assert shown[1].data.shape == whole.shape
    inside = shown[1].data[12:28, 22:48]
    goal = rescaled(whole[10:30, 20:50])[2:-2, 2:-2]
    np.testing.assert_allclose(inside, goal, atol=0.02)
    assert not shown[1].data[:9].any()
    compare.color_box.set_current("cyan and magenta")
    assert [layer.colormap.name for layer in shown] == ["cyan", "magenta"]


def test_side_by_side_puts_the_first_on_the_left(viewer, compare, pair):
    first, second = pair
    compare.show_view("side")
    assert viewer.canvas.grid.enabled
    layers = viewer.layers
    assert viewer.canvas.grid.actual_shape(layers) == (1, 2)
    assert viewer.canvas.grid.position(layers.index(first), layers) == (0, 0)
    assert viewer.canvas.grid.position(layers.index(second), layers) == (0, 1)
    compare.set_layers(second, first)
    assert viewer.canvas.grid.position(layers.index(second), layers) == (0, 0)


def test_switching_views_keeps_the_state_from_before_the_first(viewer, compare, run):
    before = trace(viewer)
    for view in ("side", "checkerboard", "flicker", "difference", "blend"):
        compare.show_view(view)
        run(compare)
    assert not viewer.canvas.grid.enabled
    assert not any("checkerboard" in layer.name for layer in viewer.layers)
    compare.leave()
    assert trace(viewer) == before


def test_deleting_an_image_or_the_picture_ends_the_view(viewer, compare, pair, run):
    compare.show_view("difference")
    run(compare)
    viewer.layers.remove("compare: difference")
    assert compare.views.view is None
    assert visible(viewer) == ["fixed", "warped", "points"]
    compare.show_view("flicker")
    viewer.layers.remove(pair[1])
    assert compare.views.view is None
    assert visible(viewer) == ["fixed", "points"]


def test_an_image_deleted_while_it_is_read_is_reported(viewer, compare, pair, run):
    compare.show_view("blend")
    viewer.layers.remove(pair[1])
    run(compare)
    assert compare.views.view is None
    assert "removed" in compare.status.text()


def test_closing_the_dock_leaves_the_view_and_gives_the_key_back(viewer, compare, run):
    before = trace(viewer)
    compare.show_view("checkerboard")
    run(compare)
    viewer.window.remove_dock_widget(compare)
    assert trace(viewer) == before
    assert not any(str(binding) == "Shift+B" and function for binding, function in viewer.keymap.items())


def test_the_same_layer_twice_is_refused(viewer, compare, pair):
    compare.first_box.set_current(pair[0])
    compare.second_box.set_current(pair[0])
    assert not compare.show_view("flicker")
    assert "same layer" in compare.status.text()


def test_a_volume_is_compared_slice_by_slice(viewer, compare, run):
    a = viewer.add_image(blobs((8, 20, 24)), name="a")
    b = viewer.add_image(blobs((8, 20, 24), shift=1), name="b")
    compare.set_layers(a, b)
    compare.show_view("difference")
    run(compare)
    np.testing.assert_allclose(
        viewer.layers["compare: difference"].data, rescaled(b.data) - rescaled(a.data), atol=1e-6
    )
