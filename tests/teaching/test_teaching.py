"""The explorer's engine: every number that it shows is checked against another way to get it."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import napari_stnreg as sr
from napari_stnreg.core.errors import InputError
from napari_stnreg.ops.interpolation import sample
from napari_stnreg.teaching import (
    AffineParameters,
    ExplorerState,
    GradientDescent,
    Scene,
    Theta,
    interpolation_stencil,
    load_state,
    save_state,
)
from napari_stnreg.teaching.frame_handles import NAMES, drag, handle_positions
from napari_stnreg.teaching.replay import Replay
from napari_stnreg.transforms import AffineTransform
from tests.helpers.drawn_pairs import DrawnPairs

SHAPE = (40, 56)


def picture(shape=SHAPE, sigma=2.0, seed=3):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    return ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)


def scene_of(theta, image=None, **state):
    scene = Scene(picture() if image is None else image, ExplorerState(**state))
    scene.theta = theta
    return scene


# -- theta

numbers = st.floats(-3, 3).filter(lambda v: abs(v) > 1e-3)


@given(st.tuples(st.floats(-179, 179), st.floats(0.05, 4), numbers, st.floats(-2, 2), numbers, numbers))
@settings(max_examples=60, deadline=None)
def test_affine_parameters_round_trip(values):
    parts = AffineParameters(*values)
    again = Theta.from_parameters(parts).parameters()
    assert np.allclose(list(vars(again).values()), values, atol=1e-8)


def test_decomposition_rebuilds_any_matrix_including_mirrors():
    for seed in range(20):
        theta = Theta(np.random.default_rng(seed).normal(size=(2, 3)))
        assert np.allclose(Theta.from_parameters(theta.parameters()).matrix, theta.matrix, atol=1e-12)


def test_rotation_by_90_degrees():
    theta = Theta.from_parameters(AffineParameters(rotation=90, shift_x=3))
    assert np.allclose(theta.matrix, [[0, -1, 3], [1, 0, 0]])
    assert np.allclose(theta([10, 0]), [3, 10])  # right of the middle goes below it: clockwise on screen


def test_normalized_theta_agrees_with_torch_affine_grid():
    theta = Theta.from_parameters(AffineParameters(25, 0.8, 1.2, 0.3, 4, -2))
    values = torch.tensor(theta.normalized(SHAPE), dtype=torch.float64)[None]
    grid = torch.nn.functional.affine_grid(values, (1, 1, *SHAPE), align_corners=False)[0].numpy()
    pixels = (grid[..., ::-1] + 1) * np.array(SHAPE) / 2 - 0.5
    ours = scene_of(theta).transform.map_points(np.argwhere(np.ones(SHAPE))).reshape(*SHAPE, 2)
    assert np.allclose(ours, pixels, atol=1e-10)
    assert np.allclose(Theta.from_normalized(theta.normalized(SHAPE), SHAPE).matrix, theta.matrix)


def test_theta_round_trips_through_family_parameters():
    theta = Theta.from_parameters(AffineParameters(-40, 1.3, 0.7, 0.2, 5, 6))
    scene = scene_of(theta)
    made = scene.family(scene.parameters, scene.grid)
    assert np.allclose(made.as_matrix(), scene.transform.as_matrix(), atol=1e-9)
    scene.theta = Theta.identity()
    scene.parameters = Scene(picture(), scene.state).parameters  # zero
    assert np.allclose(scene.theta.matrix, np.eye(2, 3), atol=1e-9)


@pytest.mark.parametrize("values", [np.zeros((3, 3)), [[1, 0, 0], [0, np.nan, 0]]])
def test_invalid_theta_is_refused(values):
    with pytest.raises(InputError, match="Theta"):
        Theta(values)
    with pytest.raises(InputError, match="rotation is undefined"):
        Theta([[0, 1, 0], [0, 1, 0]]).parameters()


# -- handles

MESSY = Theta.from_parameters(AffineParameters(20, 0.6, 0.8, 0.25, 3, -4))


@pytest.mark.parametrize("handle", NAMES)
def test_dragged_handle_follows_the_pointer(handle):
    index = NAMES.index(handle)
    hand = handle_positions(MESSY, SHAPE)[index] + [2.5, -3.5]
    after = handle_positions(drag(MESSY, SHAPE, handle, hand), SHAPE)
    if handle == "turn":  # the arm keeps its length and points at the hand
        arm, way = after[index] - after[-1], hand - after[-1]
        assert np.isclose(arm[0] * way[1], arm[1] * way[0])
        assert np.isclose(np.linalg.norm(arm), np.linalg.norm(np.diff(handle_positions(MESSY, SHAPE)[-2:], axis=0)))
    else:
        assert np.allclose(after[index], hand)


@pytest.mark.parametrize(("handle", "rest"), [("corner 0", "corner 2"), ("right", "left"), ("top", "bottom")])
def test_opposite_side_stays(handle, rest):
    before = handle_positions(MESSY, SHAPE)
    after = handle_positions(drag(MESSY, SHAPE, handle, before[NAMES.index(handle)] + [4, 1]), SHAPE)
    assert np.allclose(after[NAMES.index(rest)], before[NAMES.index(rest)])
    assert not np.allclose(after[NAMES.index(handle)], before[NAMES.index(handle)])


def test_corner_with_fixed_aspect_scales_both_axes_equally():
    hand = handle_positions(MESSY, SHAPE)[0] + [3, 1]
    parts, before = drag(MESSY, SHAPE, "corner 0", hand, keep_shape=True).parameters(), MESSY.parameters()
    assert np.isclose(parts.scale_x / before.scale_x, parts.scale_y / before.scale_y)
    assert np.isclose(parts.rotation, before.rotation)
    assert np.isclose(parts.shear, before.shear)


# -- sampler


@pytest.mark.parametrize("kernel", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_stencil_sum_equals_the_sampled_value(kernel, padding):
    image = picture().astype(np.float64)
    places_ = np.random.default_rng(1).uniform([-9, -9], [50, 66], (200, 2))
    tensor = torch.from_numpy(image)[None, None]
    engine = sample(tensor, torch.from_numpy(places_)[None], padding=padding, mode=kernel)[0, 0].numpy()
    written = [interpolation_stencil(image, place, kernel, padding).value[0] for place in places_]
    assert np.allclose(written, engine, atol=1e-9)


@pytest.mark.parametrize(("kernel", "order"), [("linear", 1), ("nearest", 0)])
def test_stencil_sum_agrees_with_scipy(kernel, order):
    image = picture().astype(np.float64)
    inside = np.random.default_rng(2).uniform([0, 0], [39, 55], (100, 2))
    scipy = ndimage.map_coordinates(image, inside.T, order=order)
    assert np.allclose([interpolation_stencil(image, place, kernel).value[0] for place in inside], scipy, atol=1e-9)


@pytest.mark.parametrize("place", [(0.5, 2.5), (1.5, 1.5), (2.5, 0.5)])
def test_explorer_engine_and_warp_round_halves_equally(place):
    image = np.arange(20.0).reshape(4, 5)
    expected = image[int(place[0] + 0.5), int(place[1] + 0.5)]
    assert interpolation_stencil(image, place, "nearest").value[0] == expected
    engine = sample(torch.from_numpy(image)[None, None], torch.tensor([[place]]).double(), mode="nearest")
    assert float(engine) == expected
    shift = AffineTransform(np.array([[1, 0, place[0]], [0, 1, place[1]], [0, 0, 1]]))
    moved = sr.warp(image, shift, image, interpolation="nearest")
    assert np.asarray(moved.data)[0, 0] == expected


def test_neighbor_weights_are_opposite_areas():
    image = np.arange(12.0).reshape(3, 4)
    look = interpolation_stencil(image, (1.25, 2.5))
    assert look.cell == (1, 2)
    assert look.fraction == (0.25, 0.5)
    assert [n.index for n in look.neighbors] == [(1, 2), (1, 3), (2, 2), (2, 3)]
    assert np.allclose([n.weight for n in look.neighbors], [0.375, 0.375, 0.125, 0.125])
    assert np.isclose(look.value[0], 0.375 * 6 + 0.375 * 7 + 0.125 * 10 + 0.125 * 11)
    outside = interpolation_stencil(image, (-0.5, 0.0))
    assert [n.inside for n in outside.neighbors] == [False, False, True, True]
    assert np.isclose(outside.value[0], 0)


def test_stencil_of_an_output_pixel_gives_its_value():
    rgb = np.stack([picture(seed=s) for s in range(3)], axis=-1)
    for state in ({}, {"output_shape": (13, 29)}, {"kernel": "cubic", "padding": "reflection"}):
        scene = scene_of(MESSY, rgb, **state)
        output = scene.output()
        for pixel in ((0, 0), (6, 11), (12, 28)):
            assert np.allclose(scene.stencil_at(pixel).value, output[pixel], atol=1e-5)


def test_grid_points_correspond():
    scene = scene_of(MESSY)
    regular, mapped = scene.grid_points(8)
    assert regular.shape == mapped.shape == (6, 8, 2)
    assert np.allclose(scene.transform.map_points(regular[2, 3][None])[0], mapped[2, 3])
    assert np.allclose(regular[0, 0], -0.5)
    assert np.allclose(regular[-1, -1], np.array(SHAPE) - 0.5)


def test_downsampling_aliases_without_averaging():
    stripes = np.tile(np.array([0.0, 1.0]), (48, 32))  # columns 0 1 0 1 ...
    scene = Scene(stripes, ExplorerState(output_shape=(12, 22), kernel="nearest"))
    assert scene.output().std() > 0.3  # stripes that are not there
    smooth = scene.antialiased()
    assert smooth.shape == (12, 22)
    assert np.abs(smooth - 0.5).max() < 0.2
    quarter = Scene(picture((48, 64)), ExplorerState(output_shape=(12, 16), kernel="nearest"))
    blocks = quarter.image.reshape(12, 4, 16, 4).mean(axis=(1, 3))
    assert np.allclose(quarter.antialiased(), blocks, atol=1e-6)


# -- direction


def test_push_forward_by_a_factor_of_two_leaves_three_quarters_holes():
    scene = scene_of(Theta.from_parameters(AffineParameters(scale_x=0.5, scale_y=0.5)), picture((64, 64)))
    pushed = scene.push_forward()
    assert 0.7 < pushed.hole_fraction < 0.78
    assert (scene.output()[pushed.holes] > 0).mean() > 0.9
    assert (pushed.picture[pushed.holes] == 0).all()


def test_push_forward_by_whole_pixels_equals_pull_back():
    scene = scene_of(Theta.from_parameters(AffineParameters(rotation=90, shift_x=5)), picture((48, 48)))
    pushed = scene.push_forward()
    assert not pushed.holes.any()
    assert np.allclose(pushed.picture, scene.output(), atol=1e-5)
    assert pushed.arrivals.max() == 1


def test_push_forward_of_a_rotation_leaves_holes():
    scene = scene_of(Theta.from_parameters(AffineParameters(rotation=30)), picture((64, 64)))
    pushed = scene.push_forward()
    assert 0.02 < pushed.hole_fraction < 0.3
    assert pushed.arrivals.sum() <= 64 * 64
    flat = scene_of(Theta([[1, 1, 0], [1, 1, 0]]))
    with pytest.raises(InputError, match="no inverse"):
        flat.push_forward()


# -- bending


@pytest.mark.parametrize("family", ["tps", "bspline"])
def test_control_points_deform_the_grid(family):
    scene = Scene(picture(), ExplorerState(family=family, lattice=4))
    assert np.allclose(scene.output(), scene.image, atol=1e-5)
    count = len(scene.control_points)
    assert count == {"tps": 16, "bspline": 49}[family]
    displacements = np.zeros((count, 2))
    middle = int(np.linalg.norm(scene.control_points - scene.grid.center, axis=1).argmin())
    displacements[middle] = [3, -2]
    scene.displacements = displacements
    assert np.allclose(scene.displacements, displacements)
    at = scene.control_points[middle]
    moved = scene.transform.map_points(at[None])[0] - at
    assert np.allclose(moved, [3, -2] if family == "tps" else np.array([3, -2]) * (2 / 3) ** 2, atol=1e-6)
    scene.parameters = scene.parameters
    assert np.allclose(scene.displacements, displacements, atol=1e-9)
    pushed = scene.push_forward()
    assert pushed.hole_fraction < 0.2
    scene.state = scene.state.replace(lattice=5)
    assert not scene.displacements.any()


# -- gradient


@pytest.mark.parametrize("state", [{}, {"family": "tps", "lattice": 3}, {"family": "bspline", "lattice": 2}])
def test_gradient_agrees_with_finite_differences(state):
    scene = Scene(picture(sigma=3.0), ExplorerState(**state, padding="border"))
    scene.parameters = scene.parameters + 0.02 * torch.randn(
        scene.parameters.shape, generator=torch.Generator().manual_seed(0)
    )
    descent = GradientDescent(scene, ndimage.shift(scene.image, (1.3, -0.7), order=1, mode="nearest"))
    gradient = descent.gradient()
    here, direction = scene.parameters, gradient.gradient / gradient.gradient.norm()
    size = 2e-3 if not state else 2e-2
    with torch.no_grad():
        ahead, behind = (float(descent.loss(here + s * size * direction)) for s in (1, -1))
    assert np.isclose((ahead - behind) / (2 * size), float(gradient.gradient.norm()), rtol=0.05)


def test_steps_lower_the_loss_and_are_undone():
    image = picture((64, 64), sigma=4.0)
    scene = scene_of(Theta.from_parameters(AffineParameters(rotation=8, shift_x=4)), image, padding="border")
    start = scene.state
    descent = GradientDescent(scene, image)
    losses = [descent.gradient().loss]
    for _ in range(40):
        if not descent.step(2.0):
            break
        losses.append(descent.gradient().loss)
    assert (np.diff(losses) < 0).all()
    assert losses[-1] < 0.02 * losses[0]
    assert np.abs(scene.grid_points()[1] - scene.grid_points()[0]).max() < 1.5
    while descent.undo():
        pass
    assert np.allclose(scene.state.theta, start.theta, atol=1e-9)


def test_arrows_point_against_the_shift():
    image = picture((64, 64), sigma=5.0)
    scene = scene_of(Theta.from_parameters(AffineParameters(shift_x=3)), image, padding="border")
    gradient = GradientDescent(scene, image).gradient()
    assert gradient.arrows[:, 1].mean() < -0.3
    assert np.isclose(np.linalg.norm(gradient.arrows, axis=1).max(), 1)


@pytest.mark.parametrize("family", ["affine", "tps", "bspline"])
def test_no_arrows_at_the_minimum(family):
    image = picture((64, 64), sigma=4.0)
    scene = Scene(image, ExplorerState(family=family, padding="border"))
    # Other gray levels than the input's, so that the loss and its rounded gradient are not exactly zero there.
    target = image + np.random.default_rng(0).normal(0, 0.02 * image.std(), image.shape)
    assert GradientDescent(scene, target).gradient().flat
    moved = ndimage.shift(image, (0.5, 0), order=1, mode="nearest")
    assert not GradientDescent(scene, moved).gradient().flat


def test_integer_kernel_has_no_gradient():
    scene = scene_of(Theta.from_parameters(AffineParameters(shift_x=3)), picture(), kernel="nearest")
    descent = GradientDescent(scene, picture())
    assert descent.gradient().flat
    assert descent.step() == 0.0
    assert not descent.undo()


# -- state


def test_state_round_trip(tmp_path):
    scene = Scene(picture(), ExplorerState(family="tps", lattice=3, kernel="cubic", padding="border"))
    scene.displacements = np.random.default_rng(0).normal(size=(9, 2))
    scene.state = scene.state.replace(output_shape=(16, 20))
    save_state(tmp_path / "state.json", scene.state, {"tab": "Sampler"})
    state, view = load_state(tmp_path / "state.json")
    assert state == scene.state
    assert view == {"tab": "Sampler"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "not a JSON file"),
        ("{}", "not a state"),
        (json.dumps({"format": "napari-stnreg explorer", "version": 2}), "newer version"),
        (
            json.dumps({"format": "napari-stnreg explorer", "version": 1, "state": {"color": 1}}),
            "unknown fields: color",
        ),
        (json.dumps({"format": "napari-stnreg explorer", "version": 1, "state": {"theta": [1, 2]}}), "Theta"),
        (json.dumps({"format": "napari-stnreg explorer", "version": 1, "state": {"kernel": "sinc"}}), "no kernel"),
        (json.dumps({"format": "napari-stnreg explorer", "version": 1, "state": {"lattice": "x"}}), "cannot be read"),
    ],
)
def test_invalid_state_file_is_refused(tmp_path, content, sentence):
    path = tmp_path / "state.json"
    path.write_text(content)
    with pytest.raises(InputError, match=sentence):
        load_state(path)
    with pytest.raises(InputError, match="cannot be opened"):
        load_state(tmp_path / "missing.json")


@pytest.mark.parametrize("image", [np.zeros((3, 30)), np.zeros((8, 8, 8)), np.zeros(9)])
def test_unsupported_image_is_refused(image):
    with pytest.raises(InputError, match="explorer"):
        Scene(image)


class TestReplay:
    """The images of a training, right after it and later."""

    def test_a_checkpoint_holds_what_the_trained_model_holds(self, tmp_path):
        path = tmp_path / "m.safetensors"
        model = sr.train(
            DrawnPairs(8, 4, size=24), network="affine", family="translation", similarity="mse", epochs=2, device="cpu",
            output=path,
        )  # fmt: skip
        whole = Replay.from_model(model)
        for place in (path, tmp_path / "m.checkpoint.safetensors"):
            again = Replay.from_checkpoint(place)
            assert again.name == "m"
            assert again.times.tolist() == whole.times.tolist() == [0, 1, 2]
            assert again.kept == whole.kept
            np.testing.assert_array_equal(again.frames, whole.frames)
            np.testing.assert_array_equal(again.fixed, whole.fixed)
            assert {name: points.tolist() for name, points in again.curves.items()} == {
                name: points.tolist() for name, points in whole.curves.items()
            }
        with pytest.raises(InputError, match=r"loaded from a file.*Replay\.from_checkpoint"):
            Replay.from_model(sr.load(path))
        with pytest.raises(InputError, match=r"other\.checkpoint.*No such file"):
            Replay.from_checkpoint(tmp_path / "other.safetensors")
