"""What else the workbench does with a transform: layer transforms, inverse, chain, pictures, files."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt

import napari_stnreg as sr
from napari_stnreg.core.grid import Grid
from napari_stnreg.widgets.transforms.tasks import PICTURES
from tests.widgets.conftest import blobs
from tests.widgets.known_transforms import SHAPE, bend, choose, make_entry, turn


def test_set_as_layer_transform_moves_without_resampling_and_can_be_undone(viewer, open_workbench, run):
    transform = turn(unit="um")
    layer = viewer.add_image(
        blobs(SHAPE), name="image", scale=(0.5, 2.0), translate=(1, 2), rotate=20, units=("um", "um")
    )
    data, before = layer.data, layer.affine.affine_matrix.copy()
    index = np.array([[0.0, 0.0], [10.0, 20.0], [47.0, 63.0]])
    world = np.array([layer.data_to_world(i) for i in index])
    bench = open_workbench(make_entry(transform))
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
    bench = open_workbench(make_entry(transform))
    choose(bench, layer)
    assert bench.set_as_layer_transform()
    np.testing.assert_allclose(layer.data_to_world((0, 0)), (-1000, -2000))


def test_resampling_a_moved_layer_shows_the_same_as_applying_the_transform(viewer, open_workbench, run):
    transform = turn()
    layer = viewer.add_image(blobs(SHAPE), name="image")
    still = viewer.add_image(blobs(SHAPE, seed=1), name="still")
    bench = open_workbench(make_entry(transform))
    choose(bench, layer)
    expected = sr.warp(sr.Image.from_array(layer.data), transform, Grid.from_spacing(SHAPE)).data
    bench.set_as_layer_transform()
    bench.applying.onto_box.set_current(still)
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
    bench = open_workbench(make_entry(bend()))
    choose(bench, layer)
    assert not bench.applying.set_button.isEnabled()
    assert not bench.set_as_layer_transform()
    assert "is not linear" in bench.status.text()
    np.testing.assert_array_equal(layer.affine.affine_matrix, np.eye(3))


def test_inverting_adds_the_inverse_and_shows_the_round_trip(viewer, open_workbench, run):
    transform = bend()
    bench = open_workbench(make_entry(transform))
    assert bench.invert()
    run(bench)
    assert bench.chosen.name == "fixed -> moving (inverse of diffeomorphic)".replace("diffeomorphic", transform.family)
    points = np.random.default_rng(0).uniform(5, 40, (20, 2))
    np.testing.assert_allclose(bench.chosen.transform.map_points(transform.map_points(points)), points, atol=0.05)
    assert "round-trip error" in bench.combining.round_trip.text()
    assert "'moving' go to 'fixed'" in bench.choice.maps.text()
    bench.select(bench.transforms[0])
    bench.remove()
    assert len(bench.transforms) == 1


def test_a_chain_maps_in_the_stated_order(viewer, open_workbench, run):
    a, b = make_entry(turn(), "A", "B"), make_entry(bend(), "B", "C")
    bench = open_workbench(a, b)
    bench.select(a)
    bench.combining.then_box.set_current(b)
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
    bench.select(b)
    bench.combining.then_box.set_current(a)
    assert "check the order" in bench.combining.sentence.text()


@pytest.mark.parametrize("what", list(PICTURES))
def test_transform_layers_carry_the_transform(viewer, open_workbench, run, qtbot, what):
    bench = open_workbench(make_entry(bend()))
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


def test_loss_save_load_round_trip(viewer, open_workbench, run, tmp_path):
    bench = open_workbench(make_entry(bend(), "atlas", "subject"))
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


def test_a_file_of_another_program_belongs_to_the_images_that_are_chosen(viewer, open_workbench, run, tmp_path):
    pytest.importorskip("SimpleITK")
    transform = turn(unit="um")
    sr.save(transform, tmp_path / "t.tfm")
    text = (tmp_path / "t.tfm").read_text()
    (tmp_path / "t.tfm").write_text("\n".join(line for line in text.splitlines() if "napari-stnreg" not in line))
    layers = [viewer.add_image(blobs(SHAPE), name=name, units=("um", "um")) for name in ("still", "other")]
    bench = open_workbench()
    bench.choice.fixed_box.set_current(layers[0])
    bench.choice.moving_box.set_current(layers[1])
    assert bench.load(tmp_path / "t.tfm")
    run(bench)
    back = bench.chosen
    assert (back.fixed, back.moving, back.transform.unit, back.grid.shape) == ("still", "other", "um", SHAPE)
    points = np.random.default_rng(0).uniform(5, 40, (9, 2))
    np.testing.assert_allclose(back.transform.map_points(points), transform.map_points(points), atol=1e-5)
