"""The transform workbench, driven as a person would: real transforms, real thread, real layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from qtpy.QtCore import Qt

import napari_stnreg as sr
from napari_stnreg.images import Grid
from napari_stnreg.transforms import AffineTransform, VelocityTransform
from napari_stnreg.widgets.held import Held, shelf_of
from napari_stnreg.widgets.transform_tasks import PICTURES
from tests.gui.conftest import blobs

SHAPE = (48, 64)


def bend(unit="pixel", spacing=1.0, shape=(12, 16)):
    """A smooth flow over the fixed image, up to a few voxels long."""
    step = spacing * 4
    grid = Grid.from_spacing(shape, step, spacing * 1.5, unit=unit)
    y, x = np.meshgrid(*(np.linspace(0, np.pi, n) for n in shape), indexing="ij")
    field = np.stack([3 * np.sin(y) * np.sin(2 * x), -2 * np.sin(2 * y) * np.sin(x)]) * spacing
    return VelocityTransform(torch.from_numpy(field.astype(np.float32)), grid)


def turn(angle=0.2, shift=(3.0, -2.0), unit="pixel"):
    c, s = np.cos(angle), np.sin(angle)
    return AffineTransform(np.array([[c, -s, shift[0]], [s, c, shift[1]], [0, 0, 1]]), unit)


def held(transform, fixed="fixed", moving="moving", grid=None):
    grid = grid or Grid.from_spacing(SHAPE, unit=transform.unit)
    return Held.of(transform, fixed, moving, transform.family, grid=grid, moving_grid=grid, source="made")


def solved(transform, points):
    """Where the transform takes to these points, by fixed-point steps in plain numpy."""
    guess = points.copy()
    for _ in range(200):
        guess = guess - (transform.map_points(guess) - points)
    return guess


@pytest.fixture
def open_workbench(viewer, qtbot):
    from napari_stnreg.widgets.workbench import WorkbenchWidget

    def make(*transforms):
        shelf_of(viewer).extra.extend(transforms)
        bench = WorkbenchWidget(viewer)
        viewer.window.add_dock_widget(bench, name="Transform workbench")
        return bench

    return make


def choose(bench, layer, side="moving"):
    bench.refresh()
    assert bench.applying.layer_box.choose(layer)
    assert bench.applying.side_box.choose(side)
    bench.show_state()


def test_without_a_transform_it_says_how_to_get_one(viewer, open_workbench):
    viewer.add_image(blobs(SHAPE), name="a")
    bench = open_workbench()
    assert "register two layers" in bench.choice.maps.text()
    assert not bench.applying.apply_button.isEnabled()
    assert not bench.choice.save_button.isEnabled()
    assert not bench.apply()


def test_results_are_listed_once_and_go_with_their_layers(viewer, panel, engine, run, qtbot):
    from napari_stnreg.widgets.workbench import WorkbenchWidget

    bench = WorkbenchWidget(viewer)
    viewer.window.add_dock_widget(bench)
    for key, box in panel.options.kind_boxes.items():
        box.setChecked(key in ("warped", "jacobian"))
    panel.start()
    run(panel)
    qtbot.waitUntil(lambda: len(bench.transforms) == 1)
    one = bench.transforms[0]
    assert one.name == "moving -> fixed (affine+diffeomorphic)"
    assert one.grid.shape == one.moving_grid.shape == SHAPE
    assert "'fixed' go to 'moving'" in bench.choice.maps.text()
    assert "48 x 64" in bench.choice.maps.text()
    points = np.array([[3.0, 4.0], [30.0, 20.0]])
    np.testing.assert_allclose(one.transform.map_points(points), panel.result.transform.map_points(points))
    viewer.layers.remove(viewer.layers[-1])
    qtbot.wait(20)
    assert len(bench.transforms) == 1
    viewer.layers.remove(viewer.layers[-1])
    qtbot.waitUntil(lambda: not bench.transforms)


@pytest.mark.parametrize("side", ["moving", "fixed"])
def test_images_and_labels_are_read_through_the_right_direction(viewer, open_workbench, run, side):
    transform = bend()
    image = viewer.add_image(blobs(SHAPE), name="image", colormap="magma")
    labels = viewer.add_labels((blobs(SHAPE, seed=1) // 60).astype(np.int32), name="labels")
    bench = open_workbench(held(transform))
    before = image.data.copy()
    through = transform if side == "moving" else transform.inverse()
    for layer, interpolation in ((image, "linear"), (labels, "nearest")):
        choose(bench, layer, side)
        assert ("inverse" in bench.applying.sentence.text()) == (side == "fixed")
        assert bench.apply()
        run(bench)
        made = viewer.layers[-1]
        expected = sr.warp(sr.Image.from_array(layer.data), through, Grid.from_spacing(SHAPE), interpolation).data
        np.testing.assert_array_equal(made.data, expected)
        assert type(made) is type(layer)
        assert made.name == f"{layer.name} carried to {'fixed' if side == 'moving' else 'moving'}"
    assert viewer.layers["image carried to " + ("fixed" if side == "moving" else "moving")].colormap.name == "magma"
    np.testing.assert_array_equal(image.data, before)


def test_lists_of_points_go_by_the_inverse_from_the_moving_side(viewer, open_workbench, run):
    transform = bend("um", 0.5)
    where = {"scale": (0.25, 0.5), "translate": (1, -2), "units": ("um", "um")}
    data = np.random.default_rng(0).uniform(5, 40, (6, 2))
    world = data * (0.25, 0.5) + (1, -2)
    goal = solved(transform, world)
    points = viewer.add_points(data, name="points", size=3, **where)
    vectors = viewer.add_vectors(np.stack([data, np.ones_like(data)], axis=1), name="vectors", **where)
    tracks = viewer.add_tracks(
        np.column_stack([[0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2], data]), name="tracks",
        scale=(1, 0.25, 0.5), translate=(0, 1, -2), units=("pixel", "um", "um"),
    )  # fmt: skip
    surface = viewer.add_surface((data, np.array([[0, 1, 2], [3, 4, 5]])), name="surface", **where)
    bench = open_workbench(held(transform))

    def carried(layer):
        choose(bench, layer)
        assert "by the inverse of the transform" in bench.applying.sentence.text()
        assert bench.apply()
        run(bench)
        return viewer.layers[-1]

    made = carried(points)
    np.testing.assert_allclose(made.data * (0.25, 0.5) + (1, -2), goal, atol=5e-4)
    np.testing.assert_array_equal(made.size, points.size)
    np.testing.assert_array_equal(made.scale, points.scale)
    np.testing.assert_array_equal(points.data, data)
    made = carried(vectors)
    np.testing.assert_allclose(made.data[:, 0] * (0.25, 0.5) + (1, -2), goal, atol=5e-4)
    ends = solved(transform, world + (0.25, 0.5))
    np.testing.assert_allclose(made.data[:, 1] * (0.25, 0.5), ends - goal, atol=5e-4)
    made = carried(tracks)
    np.testing.assert_array_equal(made.data[:, :2], tracks.data[:, :2])
    np.testing.assert_allclose(made.data[:, 2:] * (0.25, 0.5) + (1, -2), goal, atol=5e-4)
    made = carried(surface)
    np.testing.assert_allclose(made.vertices * (0.25, 0.5) + (1, -2), goal, atol=5e-4)
    choose(bench, points, "fixed")
    assert bench.applying.sentence.text().endswith("by the transform.")
    assert bench.apply()
    run(bench)
    np.testing.assert_allclose(viewer.layers[-1].data * (0.25, 0.5) + (1, -2), transform.map_points(world), atol=5e-4)


def test_points_land_where_the_warped_image_shows_them(viewer, open_workbench, run):
    """A bright spot of the moving image and a point on it stay together."""
    picture = np.zeros(SHAPE, np.float32)
    picture[20, 30] = 1
    image = viewer.add_image(picture, name="spot")
    points = viewer.add_points([[20, 30]], name="mark")
    bench = open_workbench(held(bend()))
    for layer in (image, points):
        choose(bench, layer)
        bench.apply()
        run(bench)
    warped = viewer.layers["spot carried to fixed"].data
    centre = np.array([(index * warped).sum() / warped.sum() for index in np.indices(SHAPE)])
    np.testing.assert_allclose(viewer.layers["mark carried to fixed"].data[0], centre, atol=0.35)


def test_a_rectangle_becomes_what_the_map_makes_of_it(viewer, open_workbench, run):
    box = np.array([[10, 10], [10, 30], [25, 30], [25, 10]], float)
    shapes = viewer.add_shapes([box], shape_type="rectangle", name="box", edge_color="red")
    bench = open_workbench(held(turn()))
    choose(bench, shapes)
    assert bench.apply()
    run(bench)
    made = viewer.layers[-1]
    assert made.shape_type == ["polygon"]
    np.testing.assert_allclose(made.data[0], turn().inverse().map_points(box), atol=5e-4)
    np.testing.assert_array_equal(made.edge_color, shapes.edge_color)


def test_channels_and_linked_layers_go_along(viewer, open_workbench, run):
    from napari.layers.utils._link_layers import link_layers

    first = viewer.add_image(blobs(SHAPE), name="red")
    viewer.add_image(blobs(SHAPE, seed=1), name="green")
    viewer.add_image(blobs((20, 20)), name="elsewhere")
    bench = open_workbench(held(bend()))
    choose(bench, first)
    assert bench.applying.also_box.choose("place")
    assert bench.apply()
    run(bench)
    assert [layer.name for layer in viewer.layers][3:] == ["red carried to fixed", "green carried to fixed"]
    points = viewer.add_points([[5, 5]], name="p")
    link_layers([first, points])
    choose(bench, first)
    assert bench.applying.also_box.choose("linked")
    assert bench.apply()
    run(bench)
    assert [layer.name for layer in viewer.layers][-2:] == ["red carried to fixed [1]", "p carried to fixed"]


def test_every_frame_and_channel_of_a_series_is_carried(viewer, open_workbench, run):
    series = np.stack([blobs(SHAPE, seed=s) for s in range(3)])
    layer = viewer.add_image(series, name="series", axis_labels=("t", "y", "x"))
    bench = open_workbench(held(bend()))
    choose(bench, layer)
    assert bench.apply()
    run(bench)
    made = viewer.layers[-1]
    assert made.data.shape == series.shape
    for frame, data in zip(series, made.data, strict=True):
        np.testing.assert_array_equal(data, sr.warp(sr.Image.from_array(frame), bend(), Grid.from_spacing(SHAPE)).data)


def test_set_as_layer_transform_moves_without_resampling_and_can_be_undone(viewer, open_workbench, run):
    transform = turn(unit="um")
    layer = viewer.add_image(
        blobs(SHAPE), name="image", scale=(0.5, 2.0), translate=(1, 2), rotate=20, units=("um", "um")
    )
    data, before = layer.data, layer.affine.affine_matrix.copy()
    index = np.array([[0.0, 0.0], [10.0, 20.0], [47.0, 63.0]])
    world = np.array([layer.data_to_world(i) for i in index])
    bench = open_workbench(held(transform))
    choose(bench, layer)
    assert bench.set_as_layer_transform()
    assert layer.data is data
    goal = transform.inverse().map_points(world)
    np.testing.assert_allclose([layer.data_to_world(i) for i in index], goal, atol=1e-6)
    np.testing.assert_allclose(layer.scale, (0.5, 2.0))
    bench.undo()
    np.testing.assert_allclose(layer.affine.affine_matrix, before)
    assert not bench.applying.undo_button.isEnabled()


def test_a_layer_in_another_unit_is_moved_by_the_same_distance(viewer, open_workbench):
    transform = turn(0.0, (1.0, 2.0), "um")
    layer = viewer.add_points([[0, 0], [100, 200]], units=("nm", "nm"), name="p")
    bench = open_workbench(held(transform))
    choose(bench, layer)
    assert bench.set_as_layer_transform()
    np.testing.assert_allclose(layer.data_to_world((0, 0)), (-1000, -2000))


def test_resampling_a_moved_layer_shows_the_same_as_applying_the_transform(viewer, open_workbench, run):
    transform = turn()
    layer = viewer.add_image(blobs(SHAPE), name="image")
    still = viewer.add_image(blobs(SHAPE, seed=1), name="still")
    bench = open_workbench(held(transform))
    choose(bench, layer)
    expected = sr.warp(sr.Image.from_array(layer.data), transform, Grid.from_spacing(SHAPE)).data
    bench.set_as_layer_transform()
    bench.applying.onto_box.choose(still)
    assert bench.resample()
    run(bench)
    np.testing.assert_allclose(viewer.layers["image resampled"].data, expected, atol=1e-3)
    bench.applying.onto_box.setCurrentIndex(0)
    assert bench.resample()
    run(bench)
    upright = viewer.layers[-1]
    assert min(upright.data.shape) > min(SHAPE)
    np.testing.assert_allclose(upright.affine.affine_matrix, np.eye(3))


def test_a_bending_transform_cannot_be_a_layers_own(viewer, open_workbench):
    layer = viewer.add_image(blobs(SHAPE))
    bench = open_workbench(held(bend()))
    choose(bench, layer)
    assert not bench.applying.set_button.isEnabled()
    assert not bench.set_as_layer_transform()
    assert "bends" in bench.status.text()
    np.testing.assert_array_equal(layer.affine.affine_matrix, np.eye(3))


def test_inverting_adds_the_inverse_and_shows_the_round_trip(viewer, open_workbench, run):
    transform = bend()
    bench = open_workbench(held(transform))
    assert bench.invert()
    run(bench)
    assert bench.chosen.name == "fixed -> moving (inverse of diffeomorphic)".replace("diffeomorphic", transform.family)
    points = np.random.default_rng(0).uniform(5, 40, (20, 2))
    np.testing.assert_allclose(bench.chosen.transform.map_points(transform.map_points(points)), points, atol=0.05)
    assert "misses by" in bench.combining.round_trip.text()
    assert "'moving' go to 'fixed'" in bench.choice.maps.text()
    bench.choose(bench.transforms[0])
    bench.remove()
    assert len(bench.transforms) == 1


def test_a_chain_maps_in_the_order_that_is_said(viewer, open_workbench, run):
    a, b = held(turn(), "A", "B"), held(bend(), "B", "C")
    bench = open_workbench(a, b)
    bench.choose(a)
    bench.combining.then_box.choose(b)
    text = bench.combining.sentence.text()
    assert "points of 'A' go to 'B' and on to 'C'" in text
    assert "⚠" not in text
    assert bench.chain()
    made = bench.chosen
    assert (made.fixed, made.moving) == ("A", "C")
    points = np.random.default_rng(0).uniform(5, 40, (9, 2))
    np.testing.assert_allclose(
        made.transform.map_points(points), b.transform.map_points(a.transform.map_points(points)), atol=1e-5
    )
    bench.choose(b)
    bench.combining.then_box.choose(a)
    assert "check the order" in bench.combining.sentence.text()


@pytest.mark.parametrize("what", list(PICTURES))
def test_pictures_of_a_transform_are_layers_that_carry_it(viewer, open_workbench, run, qtbot, what):
    bench = open_workbench(held(bend()))
    bench.resize(320, 900)
    qtbot.mouseClick(bench.showing.buttons[what], Qt.MouseButton.LeftButton)
    run(bench)
    made = viewer.layers[-1]
    assert made.metadata["stnreg"]["what"] == what
    assert len(bench.transforms) == 1
    if what == "log_jacobian":
        np.testing.assert_allclose(made.data, np.log(bend().jacobian_determinant(Grid.from_spacing(SHAPE))), atol=1e-6)
    if what == "magnitude":
        displacement = bend().displacement(Grid.from_spacing(SHAPE))
        np.testing.assert_allclose(made.data, np.linalg.norm(displacement, axis=0), atol=1e-6)


def test_saved_and_loaded_again_it_is_the_same(viewer, open_workbench, run, tmp_path):
    bench = open_workbench(held(bend(), "atlas", "subject"))
    path = tmp_path / "one.safetensors"
    assert bench.save(path)
    run(bench)
    assert bench.load(path)
    run(bench)
    back = bench.chosen
    assert (back.fixed, back.moving, back.source) == ("atlas", "subject", "file")
    assert back.grid == Grid.from_spacing(SHAPE)
    points = np.random.default_rng(0).uniform(5, 40, (9, 2))
    np.testing.assert_array_equal(back.transform.map_points(points), bend().map_points(points))
    assert bench.load(tmp_path / "missing.safetensors")
    run(bench)
    assert "cannot be read" in bench.status.text()
    assert len(bench.transforms) == 2


def test_layers_deleted_during_the_work_change_nothing_for_it(viewer, open_workbench, run):
    layer = viewer.add_image(blobs((600, 800)), name="image")
    bench = open_workbench(held(bend(), grid=Grid.from_spacing((600, 800))))
    choose(bench, layer)
    assert bench.apply()
    viewer.layers.clear()
    assert not bench.apply()
    run(bench)
    assert [layer.name for layer in viewer.layers] == ["image carried to fixed"]


def test_stopping_leaves_the_viewer_as_it_was(viewer, open_workbench, run):
    volume = np.zeros((64, 256, 256), np.float32)
    layer = viewer.add_image(volume, name="volume")
    matrix = np.eye(4)
    matrix[0, 3] = 2.5
    grid = Grid.from_spacing((64, 256, 256))
    bench = open_workbench(Held.of(AffineTransform(matrix), "fixed", "moving", "affine", grid=grid, source="made"))
    choose(bench, layer)
    assert bench.apply()
    bench.stop()
    run(bench)
    assert len(viewer.layers) == 1
    assert "Stopped" in bench.status.text()
    assert bench.applying.apply_button.isEnabled()


def test_closing_the_dock_in_the_middle_ends_the_work(viewer, open_workbench, qtbot):
    layer = viewer.add_image(blobs((600, 800)), name="image")
    bench = open_workbench(held(bend(), grid=Grid.from_spacing((600, 800))))
    choose(bench, layer)
    assert bench.apply()
    viewer.window.remove_dock_widget(bench)
    qtbot.waitUntil(lambda: not bench.running, timeout=30_000)
    assert len(viewer.layers) == 1
    viewer.add_image(blobs(SHAPE), name="later")
    qtbot.wait(20)
    assert bench.applying.layer_box.count() == 1


def test_what_does_not_fit_is_said_in_a_sentence(viewer, open_workbench):
    layer = viewer.add_image(np.zeros((8, 9, 10), np.float32), name="volume")
    bench = open_workbench(held(bend()))
    choose(bench, layer)
    assert not bench.apply()
    assert "3D" in bench.status.text()
    assert not bench.running


def test_the_registration_leads_on_to_views_scorecard_and_workbench(viewer, panel, engine, run, qtbot):
    from qtpy.QtWidgets import QPushButton

    buttons = {b.text(): b for b in panel.report.findChildren(QPushButton)}
    assert not buttons["Compare"].isVisibleTo(panel)
    panel.start()
    run(panel)
    fixed, warped = viewer.layers["fixed"], viewer.layers[-1]
    for text in ("Compare", "Scorecard", "Workbench"):
        assert buttons[text].isVisibleTo(panel)
        buttons[text].click()
    docks = viewer.window.dock_widgets
    assert docks["Compare views"].first_box.currentData() is fixed
    assert docks["Compare views"].second_box.currentData() is warped
    assert docks["Registration scorecard"].transform_box.currentData().moving == "moving"
    assert docks["Transform workbench"].chosen.fixed == "fixed"
    count = len(docks)
    buttons["Compare"].click()
    assert len(viewer.window.dock_widgets) == count


def test_a_file_of_another_program_belongs_to_the_images_that_are_chosen(viewer, open_workbench, run, tmp_path):
    pytest.importorskip("SimpleITK")
    transform = turn(unit="um")
    sr.save(transform, tmp_path / "t.tfm")
    text = (tmp_path / "t.tfm").read_text()
    (tmp_path / "t.tfm").write_text("\n".join(line for line in text.splitlines() if "napari-stnreg" not in line))
    layers = [viewer.add_image(blobs(SHAPE), name=name, units=("um", "um")) for name in ("still", "other")]
    bench = open_workbench()
    bench.choice.fixed_box.choose(layers[0])
    bench.choice.moving_box.choose(layers[1])
    assert bench.load(tmp_path / "t.tfm")
    run(bench)
    back = bench.chosen
    assert (back.fixed, back.moving, back.transform.unit, back.grid.shape) == ("still", "other", "um", SHAPE)
    points = np.random.default_rng(0).uniform(5, 40, (9, 2))
    np.testing.assert_allclose(back.transform.map_points(points), transform.map_points(points), atol=1e-5)


def test_a_volume_with_its_own_axes_is_carried_with_its_labels_and_points(viewer, open_workbench, run):
    """Uneven voxels, a turned affine, another unit than the transform's: all three kinds stay together."""
    matrix = np.eye(4)
    c, s = np.cos(0.15), np.sin(0.15)
    matrix[1:3, 1:3] = [[c, -s], [s, c]]
    matrix[:3, 3] = (0.002, -0.003, 0.001)
    transform = AffineTransform(matrix, "mm")
    grid = Grid.from_spacing((12, 30, 40), (0.002, 0.001, 0.001), unit="mm")
    where = {"scale": (2.0, 1.0, 1.0), "translate": (1.0, 0.0, 2.0), "rotate": (0, 0, 5), "units": ("um",) * 3}
    spot = np.zeros((12, 30, 40), np.float32)
    spot[5:8, 13:16, 18:21] = 1
    image = viewer.add_image(spot, name="spot", **where)
    labels = viewer.add_labels(spot.astype(np.uint8) * 7, name="label", **where)
    points = viewer.add_points([[6, 14, 19]], name="mark", **where)
    bench = open_workbench(Held.of(transform, "fixed", "moving", "affine", grid=grid, source="made"))
    for layer in (image, labels, points):
        choose(bench, layer)
        assert bench.apply()
        run(bench)
    goal = viewer.layers["mark carried to fixed"]
    place = np.array(goal.data_to_world(goal.data[0]))
    world = np.array(points.data_to_world(points.data[0])) / 1000
    np.testing.assert_allclose(transform.map_points(place[None] / 1000)[0], world, atol=1e-6)
    # A label is copied from the nearest voxel, which may be half a voxel off.
    for name, tolerance in (("spot carried to fixed", 0.35), ("label carried to fixed", 0.6)):
        made = viewer.layers[name]
        index = np.array(
            made.world_to_data(place * np.array([1e-3 if str(u) == "millimeter" else 1 for u in made.units]))
        )
        weight = np.asarray(made.data, float)
        centre = np.array([(i * weight).sum() / weight.sum() for i in np.indices(weight.shape)])
        np.testing.assert_allclose(centre, index, atol=tolerance)
    assert set(np.unique(viewer.layers["label carried to fixed"].data)) == {0, 7}
