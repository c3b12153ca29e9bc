"""Real fits on small pairs through the panel: 2D, 3D, masks, landmarks, series, scales and units, and bad images."""

from __future__ import annotations

import gc

import numpy as np
import psutil
import pytest
from qtpy.QtCore import Qt, QThreadPool, QTimer
from qtpy.QtWidgets import QApplication
from scipy import ndimage

import napari_stnreg as sr
from napari_stnreg.registration import preprocessing
from napari_stnreg.widgets.common import memory_dialog
from tests.widgets.conftest import blobs, plain

FAST = {"preset": "fast", "iterations": 25}


def quick(panel, **settings):
    plain(panel)
    panel.options.set_values({"family": "translation", "similarity": "mse", **FAST, **settings})


@pytest.fixture
def pair_panel(viewer, open_panel):
    """A panel on layers that a test describes."""

    def make(fixed, moving, fixed_options=None, moving_options=None, **settings):
        viewer.add_image(fixed, name="fixed", **(fixed_options or {}))
        viewer.add_image(moving, name="moving", **(moving_options or {}))
        viewer.layers.selection = set(viewer.layers)
        panel = open_panel()
        quick(panel, **settings)
        return panel

    return make


def wait_for_fit(panel, qtbot):
    """Wait until the status line names a stage: the images are prepared, and a stop keeps a result."""
    qtbot.waitUntil(lambda: ", level " in panel.status.text(), timeout=120_000)


def warped_layer(viewer):
    return next(layer for layer in viewer.layers if layer.name.startswith("warped · "))


def test_a_3d_fit_with_preview_and_all_layers(viewer, pair_panel, run):
    fixed = blobs((24, 28, 32))
    panel = pair_panel(fixed, ndimage.shift(fixed, (1, -2, 1.5), mode="nearest"), family="affine+diffeomorphic")
    panel.options.rate_box.setValue(20)
    for box in panel.options.kind_boxes.values():
        box.setChecked(True)
    panel.start()
    run(panel, 120_000)
    assert panel.result is not None, panel.status.text()
    assert panel.result.scores["after"]["ncc"] > panel.result.scores["before"]["ncc"]
    assert len(viewer.layers) == 2 + 7
    assert not any("preview" in layer.name for layer in viewer.layers)
    viewer.dims.ndisplay = 3


def test_in_the_3d_view_the_grid_is_a_lattice(viewer, pair_panel, run, qtbot):
    fixed = blobs((16, 20, 24))
    panel = pair_panel(fixed, np.roll(fixed, 2, 2), family="diffeomorphic", iterations=60)
    viewer.dims.ndisplay = 3
    panel.options.rate_box.setValue(20)
    panel.options.kind_boxes["grid"].setChecked(True)
    seen = []
    viewer.layers.events.inserted.connect(lambda event: seen.append((event.value.name, type(event.value).__name__)))
    panel.start()
    run(panel, 120_000)
    assert panel.status.text().startswith("Done"), panel.status.text()
    lattice = next(layer for layer in viewer.layers if layer.name.startswith("grid · "))
    assert lattice.data.shape[1:] == (2, 3)
    assert any(kind == "Vectors" for name, kind in seen if name.startswith("grid preview · "))


def test_stopping_a_real_3d_fit_keeps_its_best(viewer, pair_panel, run, qtbot):
    fixed = blobs((32, 32, 32))
    panel = pair_panel(fixed, np.roll(fixed, 2, 1), family="affine+diffeomorphic", iterations=10_000, preset="thorough")
    panel.start()
    wait_for_fit(panel, qtbot)
    panel.stop()
    run(panel, 60_000)
    assert panel.result.stop_reason == "stopped"
    assert warped_layer(viewer).data.shape == (32, 32, 32)


def test_closing_the_dock_during_a_real_3d_fit(viewer, pair_panel, qtbot):
    fixed = blobs((32, 32, 32))
    panel = pair_panel(fixed, np.roll(fixed, 2, 1), family="diffeomorphic", iterations=10_000)
    panel.start()
    wait_for_fit(panel, qtbot)
    viewer.window.remove_dock_widget(panel)
    qtbot.waitUntil(lambda: not panel.running, timeout=60_000)
    assert [layer.name for layer in viewer.layers] == ["fixed", "moving"]
    panel.deleteLater()


def test_closing_the_viewer_during_a_real_3d_fit(viewer, pair_panel, qtbot):
    fixed = blobs((32, 32, 32))
    panel = pair_panel(fixed, np.roll(fixed, 2, 1), family="diffeomorphic", iterations=10_000)
    panel.start()
    wait_for_fit(panel, qtbot)
    viewer.close()  # the panel goes with it, so only the thread can be asked
    assert QThreadPool.globalInstance().waitForDone(30_000)


def test_layers_deleted_renamed_and_changed_during_a_real_3d_fit(viewer, pair_panel, run, qtbot):
    fixed = blobs((32, 32, 32))
    panel = pair_panel(fixed, np.roll(fixed, 3, 1), family="translation", iterations=10_000, preset="thorough")
    panel.options.set_values({"family": "affine+diffeomorphic"})
    panel.start()
    wait_for_fit(panel, qtbot)
    viewer.layers["fixed"].name = "renamed"
    viewer.layers["renamed"].scale = (3, 3, 3)
    viewer.layers.remove("moving")
    assert not panel.start()  # a second one
    assert "running already" in panel.status.text()
    qtbot.wait(200)
    panel.stop()
    run(panel, 60_000)
    # on a fast machine the fit ends by itself before the stop
    assert panel.status.text().startswith(("Done", "Stopped. The best result so far is kept")), panel.status.text()
    warped = warped_layer(viewer)
    assert warped.name.startswith("warped · moving -> fixed")
    np.testing.assert_allclose(warped.scale, (1, 1, 1))  # of the fixed layer as it was when the run began
    assert panel.result.scores["after"]["ncc"] > 0.9


def test_given_up_runs_give_their_memory_back(viewer, pair_panel, qtbot):
    fixed = blobs((40, 40, 40))
    panel = pair_panel(fixed, np.roll(fixed, 2, 1), family="diffeomorphic", iterations=10_000)
    process = psutil.Process()

    def held():
        panel.start()
        wait_for_fit(panel, qtbot)
        panel.cancel()
        qtbot.waitUntil(lambda: not panel.running, timeout=60_000)
        gc.collect()
        return process.memory_info().rss

    first = [held() for _ in range(3)][-1]
    after = [held() for _ in range(4)][-1]
    need = sr.estimate_memory(panel.inputs.fixed.source(), panel.inputs.moving.source())
    assert after - first < need, "every run that was given up left something behind"


def test_every_frame_of_a_volume_series(viewer, open_panel, run):
    still = blobs((16, 20, 24))
    series = np.stack([np.roll(still, k, 2) for k in (0, 2, 3)])
    layer = viewer.add_image(series, name="series", axis_labels=("t", "z", "y", "x"))
    panel = open_panel()
    quick(panel)
    panel.set_fixed(layer)
    panel.set_moving(layer)
    viewer.dims.set_current_step(0, 0)
    panel.inputs.frames_box.setChecked(True)
    panel.start()
    run(panel)
    assert panel.results, panel.status.text()
    shifts = [r.transform.map_points([[8.0, 10.0, 12.0]])[0, 2] - 12 for r in panel.results]
    np.testing.assert_allclose(shifts, (0, 2, 3), atol=0.5)
    assert warped_layer(viewer).data.shape == series.shape


def test_run_beyond_memory_needs_confirmation(viewer, pair_panel, run, qtbot, monkeypatch):
    fixed = blobs((96, 96))
    panel = pair_panel(fixed, np.roll(fixed, 3, 1), family="affine+diffeomorphic", iterations=10)
    sides = panel.inputs.fixed.source(), panel.inputs.moving.source()
    need = sr.estimate_memory(*sides)
    monkeypatch.setattr(memory_dialog, "free_memory", lambda device: int(0.8 * need))
    asked = []

    def answer(take):
        def press():
            box = QApplication.activeModalWidget()
            asked.append(box.text())
            wanted = "Use the lower resolution" if take else "Cancel"
            next(button for button in box.buttons() if button.text().replace("&", "") == wanted).click()

        QTimer.singleShot(200, press)

    answer(take=False)
    assert not panel.start()
    assert panel.status.text().startswith("Not started")
    assert not panel.running
    answer(take=True)
    monkeypatch.setattr(preprocessing, "free_memory", memory_dialog.free_memory)
    assert panel.start()
    run(panel)
    assert "1/2 of the resolution" in asked[0]
    assert "full resolution" in panel.result.warnings[0]
    assert warped_layer(viewer).data.shape == (96, 96)
    monkeypatch.setattr(memory_dialog, "free_memory", lambda device: 1000)
    assert not panel.start()
    assert "Crop or shrink the images" in panel.status.text()


def test_layers_of_other_scale_place_and_unit(viewer, pair_panel, run):
    picture = blobs((60, 80))
    fixed = picture
    # The same picture at half the pixel size, in nanometers, moved by (4, -6) micrometers.
    moving = ndimage.zoom(picture, 2, order=1)
    panel = pair_panel(
        fixed, moving,
        {"scale": (2, 2), "units": ("um", "um"), "axis_labels": ("y", "x")},
        {"scale": (1000, 1000), "translate": (4000, -6000), "units": ("nm", "nm"), "axis_labels": ("y", "x")},
    )  # fmt: skip
    panel.start()
    run(panel)
    assert panel.result is not None, panel.status.text()
    mapped = panel.result.transform.map_points([[60.0, 80.0]])[0]
    np.testing.assert_allclose(mapped, (64, 74), atol=1.0)
    layer = warped_layer(viewer)
    np.testing.assert_allclose(layer.scale, (2, 2))
    assert [str(unit) for unit in layer.units] == ["micrometer", "micrometer"]
    assert layer.axis_labels == ("y", "x")


def test_labels_and_shapes_are_masks(viewer, pair_panel, run):
    fixed = blobs((48, 64))
    panel = pair_panel(fixed, np.roll(fixed, 2, 1))
    labels = viewer.add_labels(np.ones((25, 33), int), scale=(2, 2), name="labels")
    shapes = viewer.add_shapes([[[4, 4], [4, 50], [40, 50], [40, 4]]], shape_type="rectangle", name="shapes")
    panel.refresh()
    panel.inputs.fixed.mask_box.set_current(labels)
    panel.inputs.moving.mask_box.set_current(shapes)
    a, b = panel.inputs.fixed.source().image(), panel.inputs.moving.source().image()
    assert a.mask.all()
    assert b.mask[5:40, 5:50].all()
    assert not b.mask[:3].any()
    panel.start()
    run(panel)
    assert panel.result is not None, panel.status.text()


def test_points_start_the_transform_off(viewer, pair_panel, run):
    fixed = blobs((48, 64))
    panel = pair_panel(fixed, np.roll(fixed, 6, 1))
    points = np.array([[10.0, 10.0], [30.0, 12.0], [20.0, 40.0]])
    a = viewer.add_points(points, name="a")
    b = viewer.add_points(points + (0, 6), name="b")
    panel.refresh()
    panel.inputs.fixed.points_box.set_current(a)
    panel.inputs.moving.points_box.set_current(b)
    panel.start()
    run(panel)
    assert panel.result.scores["after"]["landmark_mean"] < 1
    assert "Landmarks" in panel.scores.text()


def test_landmarks_in_other_units(viewer, pair_panel, run):
    fixed = blobs((48, 64))
    micro, nano = ({"units": (unit, unit), "axis_labels": ("y", "x")} for unit in ("um", "nm"))
    panel = pair_panel(fixed, np.roll(fixed, 6, 1), micro, {**nano, "scale": (1000, 1000)})
    points = np.array([[10.0, 10.0], [30.0, 12.0], [20.0, 40.0]])
    a = viewer.add_points(points, name="a", **micro)
    b = viewer.add_points(1000 * (points + (0, 6)), name="b", **nano)
    panel.refresh()
    panel.inputs.fixed.points_box.set_current(a)
    panel.inputs.moving.points_box.set_current(b)
    panel.start()
    run(panel)
    assert panel.status.text().startswith("Done"), panel.status.text()
    assert panel.result.scores["after"]["landmark_mean"] < 1
    np.testing.assert_allclose(panel.job.moving_landmarks, 1000 * (points + (0, 6)))


def test_the_frame_on_screen_is_registered(viewer, pair_panel, run):
    still = blobs((40, 48))
    series = np.stack([np.roll(still, k, 1) for k in (0, 2, 4)])
    panel = pair_panel(still, series, {}, {"axis_labels": ("t", "y", "x")})
    viewer.dims.set_current_step(0, 2)
    panel.start()
    run(panel)
    assert panel.result is not None, panel.status.text()
    shift = panel.result.transform.map_points([[20.0, 20.0]])[0] - (20, 20)
    np.testing.assert_allclose(shift, (0, 4), atol=0.5)


def test_every_frame_to_the_reference(viewer, open_panel, run):
    still = blobs((40, 48))
    series = np.stack([np.roll(still, k, 1) for k in (0, 2, 4)])
    layer = viewer.add_image(series, name="series", axis_labels=("t", "y", "x"), scale=(5, 1, 1))
    panel = open_panel()
    quick(panel)
    panel.options.kind_boxes["vectors"].setChecked(True)
    panel.options.kind_boxes["grid"].setChecked(True)
    panel.set_fixed(layer)
    panel.set_moving(layer)
    viewer.dims.set_current_step(0, 0)
    panel.inputs.frames_box.setChecked(True)
    panel.start()
    run(panel)
    assert panel.results, panel.status.text()
    shifts = [r.transform.map_points([[20.0, 20.0]])[0, 1] - 20 for r in panel.results]
    np.testing.assert_allclose(shifts, (0, 2, 4), atol=0.5)
    warped = warped_layer(viewer)
    assert warped.data.shape == series.shape
    np.testing.assert_allclose(warped.scale, (5, 1, 1))
    assert np.abs(warped.data[2, 5:-5, 8:-8] - still[5:-5, 8:-8]).mean() < 8
    vectors = next(layer for layer in viewer.layers if layer.name.startswith("displacement · "))
    assert vectors.data.shape[1:] == (2, 3)
    assert set(vectors.data[:, 0, 0]) == {0, 1, 2}


def open_series_panel(viewer, open_panel, n_frames=6):
    still = blobs((48, 56))
    series = np.stack([np.roll(still, k, 1) for k in range(n_frames)])
    layer = viewer.add_image(series, name="series", axis_labels=("t", "y", "x"))
    panel = open_panel()
    quick(panel)
    panel.set_fixed(layer)
    panel.set_moving(layer)
    panel.inputs.frames_box.setChecked(True)
    return panel, series


@pytest.mark.parametrize("reference", ["first", "mean", "previous"])
def test_a_series_is_registered_to_its_own_frames(viewer, open_panel, run, reference):
    panel, series = open_series_panel(viewer, open_panel)
    assert panel.inputs.reference_box.isVisibleTo(panel)
    assert panel.inputs.reference_box.set_current(reference)
    panel.inputs.smoothing_box.setValue(0.5)
    panel.start()
    run(panel)
    assert len(panel.results) == 6, panel.status.text()
    shifts = [r.transform.map_points([[24.0, 24.0]])[0, 1] - 24 for r in panel.results]
    np.testing.assert_allclose(np.diff(shifts)[1:-1], 1, atol=0.2)
    assert panel.motion_plot.isVisibleTo(panel)
    assert not panel.plot.isVisibleTo(panel)
    assert list(panel.motion_plot.curves()) == ["dy", "dx"]
    assert np.ptp(panel.motion_plot.curves()["dx"]) > 3
    assert warped_layer(viewer).data.shape == series.shape
    assert "6 frames" in panel.status.text()


def test_a_blank_frame_is_named_and_placed_between_its_neighbors(viewer, open_panel, run):
    panel, series = open_series_panel(viewer, open_panel, 7)
    panel.options.deformable_box.set_current("")
    layer = viewer.layers["series"]
    noise = np.random.default_rng(0).integers(0, 9, series.shape)
    layer.data = np.where(np.arange(7)[:, None, None] == 3, noise, series)
    assert panel.inputs.reference_box.set_current("first")
    panel.start()
    run(panel)
    shifts = [r.transform.map_points([[24.0, 24.0]])[0, 1] - 24 for r in panel.results]
    np.testing.assert_allclose(np.diff(shifts), 1, atol=0.3)
    assert panel.scores.verdict.label.text().startswith("Doubtful (confidence")
    assert "1 of 6 frames failed: 3." in panel.scores.verdict.label.text()
    assert "frame 3" in panel.status.text()
    np.testing.assert_allclose(np.diff(panel.motion_plot.curves()["dx"][:, 1]), 1, atol=0.3)


def test_stopped_series_reports_its_frames(viewer, open_panel, run, monkeypatch):
    from napari_stnreg.series.frame_fit import FrameFitter
    from napari_stnreg.widgets.register import series_run

    panel, series = open_series_panel(viewer, open_panel)
    panel.options.kind_boxes["jacobian"].setChecked(True)
    monkeypatch.setattr(series_run, "STOPPED_JUDGED_FRAMES", 1)
    monkeypatch.setattr(series_run, "_LEAST_DRAWN_VOXELS", 100)
    monkeypatch.setattr(series_run, "QUICKLY_DRAWN_VOXELS", 200)
    updates = []
    panel._runner.updated.connect(lambda progress: updates.append(progress.message))
    original = FrameFitter.steps

    def stop_after_three(self, frame, image, starts):
        if frame == 2:
            panel._runner.stop()
        return original(self, frame, image, starts)

    monkeypatch.setattr(FrameFitter, "steps", stop_after_three)
    panel.start()
    run(panel)
    assert 0 < len(panel.results) < 6
    assert f"only {len(panel.results)} of 6 frames" in panel.status.text()
    assert panel.results[-1].stop_reason == "stopped"
    assert "all steps done" not in panel.scores.text()
    assert warped_layer(viewer).data.shape == (len(panel.results), *series.shape[1:])
    # one step after Stop: no progress of each frame, one judged frame, a coarse drawing that covers the same place
    assert not any("Making the layers" in message for message in updates)
    assert [bool(result.evidence) for result in panel.results] == [True] + [False] * (len(panel.results) - 1)
    assert "was not judged" not in panel.scores.verdict.label.text()
    jacobian = next(layer for layer in viewer.layers if layer.name.startswith("jacobian"))
    assert np.prod(jacobian.data.shape[1:]) <= 100
    assert np.abs(jacobian.extent.world - warped_layer(viewer).extent.world).max() < 5


def test_color_channels_multiscale_and_dask(viewer, open_panel, run):
    dask = pytest.importorskip("dask.array")
    picture = blobs((64, 64), dtype=np.uint8)
    rgb = viewer.add_image(np.stack([picture] * 3, axis=-1), name="rgb", rgb=True)
    pyramid = viewer.add_image([picture, picture[::2, ::2]], name="pyramid", multiscale=True)
    lazy = viewer.add_image(dask.from_array(picture, chunks=32), name="lazy")
    channels = viewer.add_image(np.stack([picture, picture // 2]), name="channels", axis_labels=("c", "y", "x"))
    panel = open_panel()
    quick(panel)
    for fixed, moving in ((rgb, lazy), (lazy, pyramid), (pyramid, channels), (channels, rgb)):
        panel.set_fixed(fixed)
        panel.set_moving(moving)
        if moving is pyramid:
            panel.inputs.moving.level_box.set_current(1)
        assert panel.start(), panel.status.text()
        run(panel)
        assert panel.status.text().startswith("Done"), panel.status.text()
        warped = viewer.layers[f"warped · {moving.name} -> {fixed.name} (translation)"]
        assert warped.data.shape[-2 - bool(warped.rgb) :][:2] == (64, 64)
        assert warped.rgb == moving.rgb
        assert warped.data.dtype == np.uint8


@pytest.mark.parametrize(
    ("fixed", "moving", "text"),
    [
        (np.zeros((20, 20)), blobs((20, 20)), "constant"),
        (np.full((20, 20), np.nan), blobs((20, 20)), "finite"),
        (blobs((20, 20))[:1], blobs((20, 20)), "one"),
    ],
)
def test_unsuitable_images_are_reported(viewer, pair_panel, run, fixed, moving, text):
    panel = pair_panel(fixed, moving)
    panel.start()
    run(panel)
    assert panel.result is None
    assert panel.state == "idle"
    assert panel.register_button.isEnabled()
    assert len(panel.status.text()) > 15
    assert "failed" not in panel.status.text(), panel.status.text()
    assert [layer.name for layer in viewer.layers] == ["fixed", "moving"]


def test_images_without_overlap_are_reported_or_aligned(viewer, pair_panel, run):
    panel = pair_panel(blobs((30, 30)), blobs((30, 30)), {}, {"translate": (1000, 1000)}, start="none")
    panel.start()
    run(panel)
    assert "failed" not in panel.status.text()
    assert panel.state == "idle"


def test_mask_outside_the_image_is_reported(viewer, pair_panel, run):
    panel = pair_panel(blobs((30, 30)), blobs((30, 30)))
    mask = viewer.add_labels(np.zeros((30, 30), int), name="empty")
    panel.refresh()
    panel.inputs.fixed.mask_box.set_current(mask)
    panel.start()
    run(panel)
    assert "leaves nothing of the image" in panel.status.text()


def test_drawn_grid_follows_the_warped_image():
    """A picture of the lines themselves, warped by the engine, is what the deformed grid draws."""
    from napari_stnreg.visualization.overlays import cells_of, grid_lines
    from tests.widgets.fake_engine import FakeEngine

    moving_grid = sr.Grid.from_spacing((96, 128), (1.0, 0.75), (3, -4))
    fixed_grid = sr.Grid.from_spacing((100, 110), 1.0)
    cells = cells_of(moving_grid)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in moving_grid.shape), indexing="ij"), -1)
    q = (index + 0.5) / moving_grid.shape * cells
    to_line = np.abs(q - np.rint(q)) / (cells / moving_grid.shape)
    ink = sr.Image(np.exp(-(to_line.min(axis=-1) ** 2)), moving_grid)
    transform = FakeEngine(shift=6.0).truth(fixed_grid)
    warped = sr.warp(ink, transform, fixed_grid).data
    mapped = fixed_grid.points() + np.moveaxis(transform.displacement(fixed_grid), 0, -1)
    lines = grid_lines(mapped, moving_grid) / 255.0
    inner = (slice(12, -12), slice(12, -12))
    assert np.corrcoef(lines[inner].ravel(), warped[inner].ravel())[0, 1] > 0.85
    assert warped[inner][lines[inner] > 0.9].mean() > 0.75
    # and a grid that bent the other way would not
    other = grid_lines(2 * fixed_grid.points() - mapped, moving_grid) / 255.0
    assert np.corrcoef(other[inner].ravel(), warped[inner].ravel())[0, 1] < 0.5


@pytest.mark.slow
def test_the_demo_leaves_a_picture_and_scores(tmp_path):
    import json
    import os
    import subprocess
    import sys

    environment = {**os.environ, "STNREG_DEMO_HEADLESS": "1", "NAPARI_CONFIG": str(tmp_path / "napari.yaml")}
    done = subprocess.run(
        [sys.executable, "-m", "napari_stnreg.demo"], cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=170,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "demo-output" / "registered.png").stat().st_size > 10_000
    scores = json.loads((tmp_path / "demo-output" / "scores.json").read_text())["scores"]
    assert scores["after"]["ncc"] > scores["before"]["ncc"]
    assert "Screenshot:" in done.stdout


def organ(seed=4, size=96):
    """An object with inner parts on a dark background."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    image = 0.5 * ((y / 0.8) ** 2 + (x / 0.6) ** 2 < 1)
    for _ in range(14):
        (cy, cx), wide = rng.uniform(-0.45, 0.45, 2), rng.uniform(0.08, 0.25)
        image = np.where(((y - cy) ** 2 + (x - cx) ** 2 < wide**2) & (image > 0), rng.uniform(0.2, 1), image)
    return ndimage.gaussian_filter(image, 0.8) + 0.02 * rng.normal(size=image.shape)


def test_verdict_button_tries_the_suggestion(viewer, pair_panel, run, qtbot):
    fixed = organ()
    panel = pair_panel(fixed, ndimage.shift(fixed, (2, 1), mode="nearest")[::-1].copy(), family="affine",
                       similarity="lncc", iterations=None)  # fmt: skip
    panel.start()
    run(panel, 120_000)
    line = panel.scores.verdict
    assert line.isVisibleTo(panel)
    assert panel.result.verdict != "good"
    assert line.label.text().startswith(panel.result.verdict.capitalize())
    assert panel.result.reasons[0] in line.label.text()
    dark = line.label.styleSheet()
    viewer.theme = "light"
    assert line.label.styleSheet() != dark
    assert line.button.text() == "Search rotations and mirror images"
    record = warped_layer(viewer).metadata["stnreg"]
    assert record["verdict"] == panel.result.verdict
    qtbot.mouseClick(line.button, Qt.MouseButton.LeftButton)
    assert panel.running
    run(panel, 120_000)
    assert panel.result.settings.mirror
    assert panel.result.settings.start == "search"
    assert panel.result.verdict == "good"
    assert line.label.text().startswith("Good")
    assert not line.button.isVisibleTo(panel)


def test_other_suggestions_change_the_form(viewer, pair_panel, run):
    panel = pair_panel(organ(), organ(5))
    panel.try_next("mutual information")
    run(panel, 120_000)
    assert panel.result.settings.similarity == "mi"
