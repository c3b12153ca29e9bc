"""Place by hand from the menu: handles, numbers, buttons, and the registration that starts there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_stnreg.io.napari_layers import transform_from_metadata
from napari_stnreg.widgets.register.code_export import python_script
from tests.helpers.napari_user import CanvasUser, PanelUser, docked, open_from_menu


def picture(shape):
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(shape), 3)
    return ((noise - noise.min()) / np.ptp(noise) * 250).astype(np.uint8)


@pytest.fixture
def pair(viewer):
    """A picture, and the same upside down."""
    fixed = picture((120, 140))
    layers = [viewer.add_image(fixed, name="fixed"), viewer.add_image(fixed[::-1, ::-1].copy(), name="moving")]
    viewer.layers.selection = set(layers)
    return layers


def test_handles_numbers_and_buttons_place_a_copy(viewer, pair, qtbot):
    user = PanelUser(open_from_menu(viewer, "place"), qtbot)
    before = pair[1].affine.affine_matrix.copy()
    user.click("Place by hand")
    copy = viewer.layers["placed · moving"]
    assert copy.mode == "transform"
    assert not pair[1].visible
    canvas = CanvasUser(viewer, qtbot)
    canvas.drag([(60, 70), (65, 80), (70, 90), (80, 100)])
    np.testing.assert_allclose(user.widget.placement.shift, (20, 30), atol=2)
    np.testing.assert_allclose(user.widget.shift_boxes[1].value(), 20, atol=2)
    user.type("shift y", "5")
    user.type("rotate about z", "30")
    user.type("scale", "1.5")
    np.testing.assert_allclose(np.linalg.det(copy.affine.affine_matrix[:-1, :-1]), 2.25, rtol=1e-6)
    np.testing.assert_allclose(copy.affine.affine_matrix[1, 0], 1.5 * np.sin(np.pi / 6), rtol=1e-6)
    user.click("Flip x")
    assert user.widget.placement.mirrors
    user.click("Reset")
    np.testing.assert_allclose(copy.affine.affine_matrix, before)
    user.click("rotate by 90 degrees clockwise")
    corner = np.asarray(copy.data_to_world((0, 0)))  # top left goes to the top right
    center = np.array([59.5, 69.5])
    assert corner[0] < center[0]
    assert corner[1] > center[1]
    np.testing.assert_array_equal(pair[1].affine.affine_matrix, before)
    user.click("Remove")
    assert [layer.name for layer in viewer.layers] == ["fixed", "moving"]
    assert pair[1].visible


def test_registration_starts_where_the_image_was_placed(viewer, pair, qtbot):
    user = PanelUser(open_from_menu(viewer, "place"), qtbot)
    user.click("Place by hand")
    user.click("rotate by 90 degrees clockwise")
    user.click("rotate by 90 degrees clockwise")
    user.type("shift x", "4")
    user.click("Register from here")
    (panel,) = docked(viewer, "STN registration")
    register = PanelUser(panel, qtbot)
    assert "placed by hand" in panel.start_note.text()
    panel.options.set_values({"family": "rigid", "preset": "fast", "device": "cpu"})
    panel.options.rate_box.setValue(0)
    register.run("Register")
    qtbot.waitUntil(lambda: not panel.running, timeout=60_000)
    corner = panel.result.transform.map_points([(0, 0)])[0]  # half a turn, which a rigid fit does not find by itself
    np.testing.assert_allclose(corner, (119, 139), atol=1)
    script = python_script(panel.job)  # the start comes from the metadata of a result
    record = next(layer for layer in viewer.layers if layer.name in script and "->" in layer.name).metadata["stnreg"]
    start = transform_from_metadata(record["start"])
    np.testing.assert_allclose(start.map_points([(0, 4)]), [(119, 139)], atol=1e-9)
    viewer.layers.remove("placed · moving")
    qtbot.waitUntil(lambda: not panel.start_note.isVisibleTo(panel))
    panel.close_down()


def test_handles_are_inside_the_canvas_when_the_panel_opens_again(viewer, pair, qtbot):
    panel = open_from_menu(viewer, "place")
    PanelUser(panel, qtbot).click("Place by hand")
    zoom = viewer.scene.camera.zoom
    viewer.window.remove_dock_widget(panel)
    qtbot.wait(50)
    viewer.scene.camera.zoom = 10 * zoom
    PanelUser(open_from_menu(viewer, "place"), qtbot).click("Place by hand")
    assert viewer.scene.camera.zoom < 1.5 * zoom


def test_volumes_are_placed_by_numbers_in_their_own_units(viewer, qtbot):
    volume = picture((20, 30, 34))
    viewer.add_image(volume, name="fixed", scale=(2, 1, 1), units="um")
    viewer.add_image(volume, name="moving", scale=(0.002, 0.001, 0.001), units="mm", translate=(0.01, 0, 0))
    panel = open_from_menu(viewer, "place")
    user = PanelUser(panel, qtbot)
    user.click("Place by hand")
    copy = viewer.layers["placed · moving"]
    user.click("Center")
    np.testing.assert_allclose(panel.placement.shift, (-0.01, 0, 0), atol=1e-9)
    user.type("rotate about y", "90")
    direction = copy.affine.affine_matrix[:-1, :-1] @ (0, 0, 1)
    np.testing.assert_allclose(np.abs(direction), (1, 0, 0), atol=1e-9)
    assert viewer.dims.ndisplay == 3  # napari cannot slice an oblique volume
    user.click("Show the copy")
    assert "2D display" in user.status
    viewer.layers.remove(viewer.layers["moving"])
    assert panel.copy is None


def test_the_3d_display_has_no_handles_to_drag(viewer, qtbot):
    layers = [viewer.add_image(np.zeros((8, 9, 10), np.float32), name=name) for name in ("fixed", "moving")]
    viewer.layers.selection = set(layers)
    panel = open_from_menu(viewer, "place")
    PanelUser(panel, qtbot).click("Place by hand")
    assert panel.hint.text().startswith("Drag")
    viewer.dims.ndisplay = 3
    shown = [panel.hint.text(), panel.status.text(), panel.place_button.text()]
    assert "Show the handles" not in shown
    assert shown[1].startswith("Type numbers")
    assert "numbers" in shown[0]
    viewer.dims.ndisplay = 2
    assert panel.hint.text().startswith("Drag")


@pytest.mark.parametrize("name", ["place", "landmarks"])
def test_a_message_about_missing_images_disappears_when_they_are_opened(viewer, qtbot, name):
    panel = open_from_menu(viewer, name)
    panel.place()
    assert "no two images" in panel.status.text()
    for layer in ("fixed", "moving"):
        viewer.add_image(np.zeros((8, 9), np.float32), name=layer)
    qtbot.waitUntil(lambda: panel.status.text().startswith("Choose"), timeout=5000)
