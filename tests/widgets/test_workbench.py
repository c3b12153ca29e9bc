"""The transform workbench carries layers: real transforms, real thread, real layers."""

from __future__ import annotations

import numpy as np
import pytest

import napari_stnreg as sr
from napari_stnreg.core.grid import Grid
from napari_stnreg.io.transform_entry import TransformEntry
from napari_stnreg.transforms import AffineTransform
from tests.helpers.napari_user import open_from_menu
from tests.widgets.conftest import blobs
from tests.widgets.known_transforms import SHAPE, bend, choose, make_entry, solved, turn


def test_without_a_transform_a_hint_is_shown(viewer, open_workbench):
    viewer.add_image(blobs(SHAPE), name="a")
    bench = open_workbench()
    assert "register two layers" in bench.choice.maps.text()
    assert not bench.applying.apply_button.isEnabled()
    assert not bench.choice.save_button.isEnabled()
    assert not bench.apply()


def test_results_are_listed_once_and_go_with_their_layers(viewer, panel, engine, run, qtbot):
    bench = open_from_menu(viewer, "workbench")
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
    bench = open_workbench(make_entry(transform))
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
        assert made.name == f"{layer.name} transformed to {'fixed' if side == 'moving' else 'moving'}"
    assert viewer.layers["image transformed to " + ("fixed" if side == "moving" else "moving")].colormap.name == "magma"
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
    bench = open_workbench(make_entry(transform))

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
    bench = open_workbench(make_entry(bend()))
    for layer in (image, points):
        choose(bench, layer)
        bench.apply()
        run(bench)
    warped = viewer.layers["spot transformed to fixed"].data
    center = np.array([(index * warped).sum() / warped.sum() for index in np.indices(SHAPE)])
    np.testing.assert_allclose(viewer.layers["mark transformed to fixed"].data[0], center, atol=0.35)


def test_rectangle_follows_the_map(viewer, open_workbench, run):
    box = np.array([[10, 10], [10, 30], [25, 30], [25, 10]], float)
    shapes = viewer.add_shapes([box], shape_type="rectangle", name="box", edge_color="red")
    bench = open_workbench(make_entry(turn()))
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
    bench = open_workbench(make_entry(bend()))
    choose(bench, first)
    assert bench.applying.also_box.set_current("place")
    assert bench.apply()
    run(bench)
    assert [layer.name for layer in viewer.layers][3:] == ["red transformed to fixed", "green transformed to fixed"]
    points = viewer.add_points([[5, 5]], name="p")
    link_layers([first, points])
    choose(bench, first)
    assert bench.applying.also_box.set_current("linked")
    assert bench.apply()
    run(bench)
    assert [layer.name for layer in viewer.layers][-2:] == ["red transformed to fixed [1]", "p transformed to fixed"]


def test_every_frame_and_channel_of_a_series_is_carried(viewer, open_workbench, run):
    series = np.stack([blobs(SHAPE, seed=s) for s in range(3)])
    layer = viewer.add_image(series, name="series", axis_labels=("t", "y", "x"))
    bench = open_workbench(make_entry(bend()))
    choose(bench, layer)
    assert bench.apply()
    run(bench)
    made = viewer.layers[-1]
    assert made.data.shape == series.shape
    for frame, data in zip(series, made.data, strict=True):
        np.testing.assert_array_equal(data, sr.warp(sr.Image.from_array(frame), bend(), Grid.from_spacing(SHAPE)).data)


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
    bench = open_workbench(TransformEntry.of(transform, "fixed", "moving", "affine", grid=grid, source="made"))
    for layer in (image, labels, points):
        choose(bench, layer)
        assert bench.apply()
        run(bench)
    goal = viewer.layers["mark transformed to fixed"]
    place = np.array(goal.data_to_world(goal.data[0]))
    world = np.array(points.data_to_world(points.data[0])) / 1000
    np.testing.assert_allclose(transform.map_points(place[None] / 1000)[0], world, atol=1e-6)
    # A label is copied from the nearest voxel, which may be half a voxel off.
    for name, tolerance in (("spot transformed to fixed", 0.35), ("label transformed to fixed", 0.6)):
        made = viewer.layers[name]
        index = np.array(
            made.world_to_data(place * np.array([1e-3 if str(u) == "millimeter" else 1 for u in made.units]))
        )
        weight = np.asarray(made.data, float)
        center = np.array([(i * weight).sum() / weight.sum() for i in np.indices(weight.shape)])
        np.testing.assert_allclose(center, index, atol=tolerance)
    assert set(np.unique(viewer.layers["label transformed to fixed"].data)) == {0, 7}
