"""Landmark registration from the menu: clicks and drags on the canvas, files, results, and what is left behind."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QApplication, QTableWidget
from scipy import ndimage

import napari_stnreg as sr
from napari_stnreg.io.points import write_landmark_pairs, write_points
from tests.helpers.napari_user import CanvasUser, PanelUser, docked, open_from_menu, reopen_from_menu

SHIFT = np.array([6.0, -9.0])
PLACES = np.array([(40, 40), (40, 130), (120, 50), (125, 120), (80, 90.0)])


def picture(shape, shift=0.0):
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(shape), 3)
    return ndimage.shift(((noise - noise.min()) / np.ptp(noise) * 250), shift, order=1, mode="nearest").astype(np.uint8)


@pytest.fixture
def pair(viewer):
    """A picture, and the same shifted, with a second channel."""
    layers = [viewer.add_image(picture((160, 180)), name="fixed")]
    layers += [viewer.add_image(picture((160, 180), SHIFT), name=name) for name in ("moving", "channel")]
    viewer.layers.selection = set(layers[:2])
    return layers


@pytest.fixture
def user(viewer, pair, qtbot):
    return PanelUser(open_from_menu(viewer, "landmarks"), qtbot)


def enter(user):
    user.click("Place landmarks")
    user.qtbot.waitUntil(lambda: "Click a place" in user.status, timeout=60_000)


def state(viewer):
    grid, camera = viewer.canvas.grid, viewer.scene.camera
    return (
        [(layer.name, layer.visible, layer.affine.affine_matrix.tolist()) for layer in viewer.layers],
        (grid.enabled, grid.shape, grid.stride),
        (camera.center, camera.zoom),
        {layer.name for layer in viewer.layers.selection},
    )


def shown(user, side):
    return user.widget.scene.shown_at(side, user.widget.pairs.points(side))


def test_points_are_placed_dragged_and_the_images_follow(viewer, pair, user, qtbot):
    before, arrays = state(viewer), [layer.data.copy() for layer in pair]
    enter(user)
    canvas, panel = CanvasUser(viewer, qtbot), user.widget
    for row, place in enumerate(PLACES[:4]):
        canvas.click(place, 0, 2)
        assert len(panel.pairs) == row + 1
        assert panel.pairs.rows[row].predicted == "moving"
        there = shown(user, "moving")[row]
        if row == 1:  # a click at the right place instead of a drag
            canvas.click(there + (15, 0), 1, 2)
            here = shown(user, "moving")[row]
            goal = panel.scene.shown_at("moving", (place + SHIFT)[None])[0]
            canvas.drag([here, (here + goal) / 2, goal], 1, 2)
        elif row == 0:
            canvas.drag([there, there + SHIFT / 2, there + SHIFT], 1, 2)
        else:  # the prediction is right: a click accepts it
            np.testing.assert_allclose(panel.pairs.points("moving")[row], place + SHIFT, atol=3)
            canvas.click(there, 1, 2)
        assert panel.pairs.rows[row].predicted is None
    assert panel.fit.family == "affine"
    np.testing.assert_allclose(panel.fit.predict(PLACES), PLACES + SHIFT, atol=3)
    qtbot.waitUntil(lambda: len(panel.scene.warped) == 2, timeout=20_000)
    updates = panel.updates
    here = shown(user, "fixed")[3]
    canvas.drag([here, here + 4, here + 8, here + 12, here + 16], 0, 2)
    qtbot.waitUntil(lambda: panel.updates > updates, timeout=20_000)
    assert panel.fit.residuals.max() > 1
    table = user.find(QTableWidget, "landmark pairs")
    assert "worst" in [table.item(row, 3).text() for row in range(4)]
    user.click("Undo")
    assert panel.fit.residuals.max() < 2
    user.click("Leave the landmark view")
    assert state(viewer) == before
    for layer, array in zip(pair, arrays, strict=True):
        np.testing.assert_array_equal(layer.data, array)
    again = PanelUser(reopen_from_menu(viewer, "landmarks"), qtbot)
    assert len(again.widget.pairs) == 4  # the pairs are kept


def test_result_is_warped_at_full_resolution_with_its_linked_layers(viewer, pair, user, qtbot, tmp_path):
    user.widget.add_pairs(PLACES, PLACES + SHIFT)
    user.choose("transform", "thin-plate spline")
    enter(user)
    assert "good" in user.widget.landmarks.summary.text()
    assert user.run("Add result").startswith("Added")
    warped = [layer for layer in viewer.layers if layer.name.startswith("warped · ")]
    names = [f"warped · {name} -> fixed (landmarks, thin-plate spline)" for name in ("moving", "channel")]
    assert [layer.name for layer in warped] == names
    for layer in warped:
        inner = (slice(15, -15),) * 2
        assert np.abs(layer.data[inner].astype(float) - pair[0].data[inner]).mean() < 4
    assert len(viewer.layers) == 5
    user.widget.save(str(tmp_path / "t.tfm"))
    qtbot.waitUntil(lambda: "Saved" in user.status, timeout=20_000)
    loaded = sr.load_transform(tmp_path / "t.tfm")
    np.testing.assert_allclose(loaded.map_points(PLACES), PLACES + SHIFT, atol=0.05)
    (workbench,) = [open_from_menu(viewer, "workbench")]
    assert any("landmarks, thin-plate spline" in entry.name for entry in workbench.transforms)


def test_result_is_of_the_pairs_and_the_family_that_are_chosen_now(viewer, pair, user):
    panel = user.widget
    panel.add_pairs(PLACES, PLACES + SHIFT)
    enter(user)
    assert user.run("Add result").startswith("Added")
    assert not panel.placing
    user.choose("transform", "rigid")
    panel.landmarks.table.select([4])
    panel.delete_selected()
    assert panel.landmarks.table.item(0, 1).text() != "-"
    assert user.run("Add result").startswith("Added")
    record = [layer for layer in viewer.layers if layer.name.startswith("warped")][-1].metadata["stnreg"]
    assert record["family"] == "landmarks, rigid"
    assert len(panel.fit) == len(panel.pairs) == 4


def drop_on(panel, *paths):
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    none = Qt.KeyboardModifier.NoModifier
    action, button = Qt.DropAction.CopyAction, Qt.MouseButton.LeftButton
    QApplication.sendEvent(panel, QDragEnterEvent(panel.rect().center(), action, mime, button, none))
    QApplication.sendEvent(panel, QDropEvent(QPointF(9, 9), action, mime, button, none))


def test_files_of_every_program_are_dropped_and_exported(viewer, pair, user, qtbot, tmp_path):
    panel = user.widget
    write_landmark_pairs(tmp_path / "bigwarp.csv", PLACES, PLACES + SHIFT, dialect="bigwarp")
    drop_on(panel, tmp_path / "bigwarp.csv")
    np.testing.assert_allclose(panel.pairs.points("moving"), PLACES + SHIFT)
    for form in ("pairs", "bigwarp", "table", "napari", "fcsv", "markups"):
        assert panel.export(tmp_path / form, form)
    drops = [["pairs.csv"], ["bigwarp.csv"]]
    drops += [[f"{name}_{side}.{end}" for side in ("moving", "fixed")] for name, end in (
        ("table", "csv"), ("napari", "csv"), ("fcsv", "fcsv"), ("markups", "mrk.json"))]  # fmt: skip
    for files in drops:
        panel.pairs.delete(range(len(panel.pairs)))
        drop_on(panel, *(tmp_path / name for name in files))
        np.testing.assert_allclose(panel.pairs.points("fixed"), PLACES, err_msg=str(files))
        np.testing.assert_allclose(panel.pairs.points("moving"), PLACES + SHIFT, err_msg=str(files))
    panel.pairs.delete(range(len(panel.pairs)))
    (tmp_path / "plain_fixed.csv").write_text("x,y\n1,2\n3,4\n5,9\n")
    (tmp_path / "plain_moving.csv").write_text("x,y\n2,2\n4,4\n6,9\n")
    drop_on(panel, tmp_path / "plain_fixed.csv")
    assert "moving" in user.status
    drop_on(panel, tmp_path / "plain_moving.csv")
    np.testing.assert_allclose(panel.pairs.points("fixed"), [(2, 1), (4, 3), (9, 5)])
    np.testing.assert_allclose(panel.pairs.points("moving"), [(2, 2), (4, 4), (9, 6)])
    write_points(tmp_path / "odd.csv", PLACES)
    assert not panel.load_files([tmp_path / "odd.csv"])
    assert "one side" in user.status


def test_landmarks_and_image_run_in_the_background(viewer, pair, user, qtbot):
    user.widget.add_pairs(PLACES, PLACES + SHIFT)
    assert not user.widget.placing
    user.click("Landmarks + image")
    qtbot.waitUntil(lambda: not user.widget.running, timeout=120_000)
    warped = [layer for layer in viewer.layers if layer.metadata.get("stnreg", {}).get("what") == "warped"]
    assert len(warped) == 1
    assert warped[0].metadata["stnreg"]["scores"]["after"]["landmark_median"] < 1.5


def test_layers_that_are_deleted_end_the_view(viewer, pair, user, qtbot):
    before = state(viewer)[1]
    for name in ("landmarks · moving", "moving"):
        enter(user)
        viewer.layers.remove(viewer.layers[name])
        assert not user.widget.placing
        assert "was removed" in user.status
        assert state(viewer)[1] == before
    assert [layer.name for layer in viewer.layers] == ["fixed", "channel"]


def test_closing_the_panel_leaves_the_view(viewer, pair, user, qtbot):
    before, callbacks = state(viewer), list(viewer.mouse_drag_callbacks)
    enter(user)
    CanvasUser(viewer, qtbot).click(PLACES[0], 0, 2)
    viewer.window.remove_dock_widget(user.widget)
    assert state(viewer) == before
    assert list(viewer.mouse_drag_callbacks) == callbacks
    user.widget.deleteLater()


def test_volumes_are_placed_in_slices_and_in_their_own_units(viewer, qtbot):
    shape = (20, 60, 70)
    fixed, moving = picture(shape), picture(shape, (2, 4, -5))
    viewer.add_image(fixed, name="fixed", scale=(2, 1, 1), units="um")
    viewer.add_image(moving, name="moving", scale=(0.002, 0.001, 0.001), units="mm")
    user = PanelUser(open_from_menu(viewer, "landmarks"), qtbot)
    enter(user)
    canvas, panel = CanvasUser(viewer, qtbot), user.widget
    viewer.dims.set_point(0, 18)
    factor = float((1 * viewer.layers.extent.units[-1]).to("um").magnitude)
    canvas.click(np.array((20, 30)) / factor, 0, 2)
    np.testing.assert_allclose(panel.pairs.points("fixed")[0][1:], (20, 30), atol=1)
    panel.pairs.delete([0])
    points = np.array([(6, 10, 10), (30, 12, 50), (10, 50, 12), (32, 48, 55), (20, 30, 30.0)])
    panel.add_pairs(points, points + (4, 4, -5))
    qtbot.waitUntil(lambda: bool(panel.scene.warped), timeout=30_000)
    viewer.dims.ndisplay = 3
    canvas.click((0, 0), 0, 2)
    assert len(panel.pairs) == 5
    viewer.dims.ndisplay = 2
    assert user.run("Add result").startswith("Added")
    warped = next(layer for layer in viewer.layers if layer.name.startswith("warped"))
    inner = (slice(4, -4), slice(8, -8), slice(8, -8))
    assert np.abs(warped.data[inner].astype(float) - fixed[inner]).mean() < 6


def test_the_verdict_of_a_registration_opens_the_panel_with_the_pair(viewer, pair, qtbot):
    register = open_from_menu(viewer, "register")
    register.try_next("landmarks")
    (panel,) = docked(viewer, "Landmark registration")
    assert (panel.fixed, panel.moving) == tuple(pair[:2])
    assert panel.placing


def test_pairs_imported_at_once_are_seen_whole_in_both_views(user, viewer, qtbot, tmp_path):
    """The moving image moves to its counterparts only when the engine has loaded; the view is fitted then."""
    points = np.random.default_rng(0).uniform(20, 140, (6, 2))
    write_landmark_pairs(tmp_path / "pairs.csv", points, points + (60.0, -45.0))
    user.widget.load_files([tmp_path / "pairs.csv"])  # enters the view
    scene, camera = user.widget.scene, viewer.scene.camera
    qtbot.waitUntil(lambda: user.widget.fit is not None, timeout=60_000)
    zoom, center = camera.zoom, camera.center
    low = scene.layers[-2].extent.world[0]
    assert low[0] < -30  # it was moved
    viewer.reset_view()
    assert (camera.zoom, camera.center) == (pytest.approx(zoom), pytest.approx(center))


def test_many_imported_pairs_leave_the_images_visible(user, viewer, qtbot, tmp_path):
    """With many pairs few numbers are shown, and the view is fitted after an import and in the overlay."""
    enter(user)
    rng = np.random.default_rng(0)
    points = rng.uniform(20, 140, (40, 2))
    moved = points + SHIFT + 300  # far away: the moving image is shown where its counterpart is
    moved[7] += 5
    write_landmark_pairs(tmp_path / "pairs.csv", points, moved)
    viewer.scene.camera.zoom *= 7
    user.widget.load_files([tmp_path / "pairs.csv"])
    scene, camera = user.widget.scene, viewer.scene.camera
    shown_numbers = [n for n in scene.points["fixed"].features["number"] if n]
    assert shown_numbers == ["8"]
    user.widget.landmarks.table.selectRow(3)
    qtbot.waitUntil(lambda: [n for n in scene.points["moving"].features["number"] if n] == ["4", "8"])
    beside = camera.zoom
    user.choose("view", "Overlay")
    qtbot.waitUntil(lambda: camera.zoom > 1.5 * beside)
    zoom = camera.zoom
    viewer.reset_view()
    assert camera.zoom == pytest.approx(zoom)


def test_the_overlay_shows_moving_points_where_the_spline_puts_them(viewer, pair, user, qtbot):
    """A linear map would put them several pixels away from their fixed points, which a spline meets."""
    panel = user.widget
    bent = PLACES + SHIFT + [(0, 0), (9, 0), (0, -9), (0, 0), (0, 12)]
    panel.add_pairs(PLACES, bent)
    user.choose("transform", "thin-plate spline")
    enter(user)
    user.choose("view", "Overlay")
    points = panel.scene.points["moving"]
    on_screen = np.asarray([points.data_to_world(point) for point in points.data])
    np.testing.assert_allclose(on_screen, PLACES, atol=0.05)
    assert not any(points.features["number"])  # they would cover those of the fixed points
    canvas = CanvasUser(viewer, qtbot)
    goal = PLACES[4] + (8, 4)
    expected = panel.fit.predict(goal[None])[0]
    canvas.drag([PLACES[4], (PLACES[4] + goal) / 2, goal])  # what belongs there
    np.testing.assert_allclose(panel.pairs.points("moving")[4], expected, atol=1.5)
    np.testing.assert_allclose(panel.fit.predict(PLACES), panel.pairs.points("moving"), atol=0.05)
    user.choose("view", "Side by side")
    np.testing.assert_allclose(panel.scene.points["moving"].data, panel.pairs.points("moving"))
