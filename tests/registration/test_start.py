"""Where a registration begins: turned, scaled, mirrored, shifted and far images are found, aligned ones left alone."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import napari_stnreg as sr
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.progress import run_to_completion
from napari_stnreg.registration import initialization
from napari_stnreg.registration.preprocessing import prepare
from napari_stnreg.registration.settings import RegistrationSettings
from napari_stnreg.registration.translation_search import best_translations, phase_shift
from napari_stnreg.transforms import AffineTransform
from tests.helpers.scenes import affine_map, grid, pair, turn_3d


def begin(images, landmarks=(None, None), given=None, **options):
    """The start's transform, and the seconds of processor time it took."""
    settings = RegistrationSettings.parse(device="cpu", **options)
    problem = prepare(images.fixed, images.moving, settings, torch.device("cpu"), *landmarks)
    before = time.process_time()
    with torch.no_grad():
        matrix = run_to_completion(initialization.find_start(problem, settings, given))
    seconds = time.process_time() - before
    return AffineTransform(matrix, problem.unit).translated_frame(problem.center), seconds


def start_error(images, **options):
    return images.error(begin(images, **options)[0])


def moved_away(images, by):
    """The same pair with the moving image somewhere else in the world."""
    moving = images.moving.replace(grid=images.moving.grid.translated(by))
    return replace(images, moving=moving, truth=lambda points: images.truth(points) + np.asarray(by))


@pytest.mark.parametrize("similarity", ["lncc", "mse", "mi", "mind"])
@pytest.mark.parametrize("degrees", [0, 37, 90, 180, 232])
def test_turned_images_are_found_without_asking(degrees, similarity):
    images = pair(affine_map(2, degrees=degrees, shift=(5.0, -3.0)), grid(96, 2))
    assert start_error(images, similarity=similarity) < 2.0


@pytest.mark.parametrize("family", ["rigid", "similarity", "affine", "affine+diffeomorphic"])
def test_every_family_that_turns_finds_a_turn(family):
    images = pair(affine_map(2, degrees=90, shift=4.0), grid(96, 2))
    result = sr.register(images.fixed, images.moving, family=family, preset="fast", device="cpu")
    assert images.error(result.transform) < 0.4


@pytest.mark.parametrize("scale", [1.5, 1 / 1.5, 1.25])
@pytest.mark.parametrize("degrees", [0, 90, 150])
def test_larger_and_smaller_images_are_found(scale, degrees):
    images = pair(affine_map(2, degrees=degrees, scale=scale, shift=3.0), grid(96, 2))
    assert start_error(images) < 5.0
    result = sr.register(images.fixed, images.moving, family="affine", device="cpu")
    assert images.error(result.transform) < 0.3


def test_mirror_images_are_found_on_request_only():
    images = pair(affine_map(2, degrees=100, mirror=True), grid(96, 2))
    assert start_error(images, mirror=True) < 1.5
    assert start_error(images) > 5.0
    result = sr.register(images.fixed, images.moving, mirror=True, preset="fast", device="cpu")
    assert images.error(result.transform) < 0.5
    assert result.folding_fraction == 0
    assert result.warnings == []
    again = sr.register(
        images.fixed, images.moving, start_transform=result.transform, preset="fast", family="affine", device="cpu"
    )
    assert again.folding_fraction == 0


def test_asking_for_mirror_images_does_not_mirror():
    images = pair(affine_map(2, degrees=10, shift=2.0), grid(96, 2))
    assert start_error(images, mirror=True) < 1.5


@pytest.mark.parametrize("shift", [(33.0, 0.0), (-30.0, 28.0)])
@pytest.mark.parametrize("family", ["translation", "affine"])
def test_a_shift_by_a_third_of_the_image_is_found(shift, family):
    images = pair(affine_map(2, shift=shift), grid(96, 2))
    assert start_error(images, family=family) < 1.5


@pytest.mark.parametrize("kind", ["auto", "center", "moments", "search"])
def test_images_far_apart(kind):
    images = moved_away(pair(affine_map(2, shift=(2.0, -3.0)), grid(96, 2)), (5e3, -900.0))
    assert start_error(images, start=kind) < 4.0
    result = sr.register(images.fixed, images.moving, start=kind, family="affine", device="cpu")
    assert images.error(result.transform) < 0.3


def test_a_deformation_alone_still_finds_an_image_far_away():
    images = moved_away(pair(affine_map(2), grid(96, 2)), (700.0, 0.0))
    assert start_error(images, family="diffeomorphic") < 1.0
    near = pair(affine_map(2, shift=3.0), grid(96, 2))
    assert np.allclose(
        begin(near, family="diffeomorphic")[0].as_matrix(), np.eye(3)
    )  # nothing but the deformation moves


@pytest.mark.parametrize(("axis", "degrees"), [(0, 90), (1, 90), (2, -90), (0, 180), (1, 40)])
def test_turns_in_3d_are_found_without_asking(axis, degrees):
    turn = turn_3d(axis, degrees)
    images = pair(lambda points: points @ turn.T + 3.0, grid(28, 3))
    assert start_error(images) < (1.5 if degrees % 90 == 0 else 3.0)
    result = sr.register(images.fixed, images.moving, family="rigid", device="cpu")
    assert images.error(result.transform) < 0.4


def test_the_search_finds_an_odd_turn_and_size_in_3d():
    turn = turn_3d(0, 70) @ turn_3d(1, 50) @ turn_3d(2, -130)
    images = pair(lambda points: 1.25 * points @ turn.T + 3.0, grid(28, 3))
    assert start_error(images, start="search") < 2.5


def test_named_starts():
    images = pair(
        affine_map(2, shift=(7.0, -4.0)), grid(64, 2), grid((64, 48), extent=(100.0, 75.0), offset=(3.0, 9.0))
    )
    assert np.allclose(begin(images, start="none")[0].as_matrix(), np.eye(3))
    center = begin(images, start="center")[0]
    assert np.allclose(center.map_points([images.fixed.grid.center]), [images.moving.grid.center])
    assert np.allclose(center.as_matrix()[:2, :2], np.eye(2))
    for kind in ("moments", "phase"):
        found = begin(images, start=kind)[0]
        assert np.allclose(found.as_matrix()[:2, :2], np.eye(2))
        assert images.error(found) < 1.5
    assert start_error(images, start="search") < 1.5


def test_brightness_offset_and_white_background_do_not_move_the_moments():
    images = pair(affine_map(2, shift=(7.0, -4.0)), grid(64, 2), remap=lambda values: 250 - 20 * values)
    assert start_error(images, start="moments") < 2.0


def test_a_small_part_of_a_large_image_is_found():
    images = pair(affine_map(2, shift=(14.0, -9.0)), grid(48, 2, extent=50.0), grid(144, 2, extent=150.0))
    assert images.error(begin(images)[0], 0.2) < 2.0


def test_masks_decide_where_the_images_are_compared():
    images = pair(affine_map(2, degrees=20, shift=5.0), grid(96, 2))
    small = np.linalg.norm(images.moving.grid.points(), axis=-1) < 22  # less than a quarter of the image
    masked = replace(images, moving=images.moving.replace(mask=small))
    assert start_error(masked) < 3.0
    spoiled = images.moving.data.copy()
    spoiled[:, :30] = 50.0
    keep = np.ones(spoiled.shape, bool)
    keep[:, :30] = False
    assert start_error(replace(images, moving=images.moving.replace(data=spoiled, mask=keep))) < 2.0


def test_landmarks_decide_and_few_of_them_fix_a_simpler_family():
    images = pair(affine_map(2, degrees=75, scale=1.3, shift=9.0), grid(64, 2))
    points = np.array([[-20.0, 3.0], [14.0, -22.0], [5.0, 25.0], [-8.0, -16.0], [20.0, 12.0]])
    for count, limit in ((5, 1e-6), (2, 1e-6), (1, 30.0)):
        chosen = points[:count]
        found = begin(images, (chosen, images.truth(chosen)), family="affine")[0]
        assert images.error(found) < limit
    on_a_line = np.array([[0.0, 0.0], [5.0, 5.0], [10.0, 10.0], [20.0, 20.0]])
    assert images.error(begin(images, (on_a_line, images.truth(on_a_line)), family="affine")[0]) < 1e-6


def test_a_given_start_has_priority_over_landmarks():
    images = pair(affine_map(2, shift=3.0), grid(64, 2))
    given = np.array([[1.0, 0, 1.5], [0, 1, -2.0], [0, 0, 1]])
    points = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    assert np.allclose(begin(images, (points, points), given)[0].as_matrix(), given)


def test_no_overlap_without_a_start_is_refused_and_turned_boxes_are_not_boxes():
    images = pair(affine_map(2), grid(48, 2))
    away = moved_away(images, (200.0, 0.0))
    with pytest.raises(InputError, match="do not overlap in the world"):
        sr.register(away.fixed, away.moving, start="none")
    askew = grid(48, 2, turn=[[np.sqrt(0.5), -np.sqrt(0.5)], [np.sqrt(0.5), np.sqrt(0.5)]])
    # the corner of a box around the turned image lies on the other one, the image itself does not
    corner = images.moving.replace(grid=askew.translated((110.0, 110.0)))
    with pytest.raises(InputError, match="do not overlap"):
        sr.register(images.fixed, corner, start="none")
    points = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [4.0, 5.0]])
    sr.register(
        away.fixed,
        away.moving,
        start="none",
        family="translation",
        iterations=1,
        fixed_landmarks=points,
        moving_landmarks=points + [200.0, 0.0],
    )


def test_correlation_finds_each_shift_to_half_a_voxel():
    images = pair(
        affine_map(2, shift=(11.0, -7.0)), grid(50, 2), grid((40, 61), extent=(80.0, 122.0), offset=(4.0, -3.0))
    )
    problem = prepare(images.fixed, images.moving, RegistrationSettings.parse(), torch.device("cpu"))
    level = problem.pyramid.level(1.0)
    (value, matrix), (other, _) = best_translations(level, [np.eye(2), np.diag([1.0, -1.0])])
    assert np.allclose(matrix[:2, 2], (11.0, -7.0), atol=1.01)
    assert value > 0.8 > other + 0.1
    assert best_translations(level, [np.eye(2)], by_edges=True)[0][1][:2, 2] == pytest.approx((11.0, -7.0), abs=1.01)
    assert phase_shift(level, np.eye(3))[:2, 2] == pytest.approx((11.0, -7.0), abs=1.01)


def test_turns_cover_all_rotations():
    for count, reach in ((24, 63.0), (96, 46.0)):
        chosen = np.stack(initialization._candidate_rotations_3d(count))
        assert np.allclose(np.linalg.det(chosen), 1)
        assert np.allclose(chosen[0], np.eye(3))
        any_turn = np.linalg.qr(np.random.default_rng(0).normal(size=(500, 3, 3)))[0]
        any_turn *= np.sign(np.linalg.det(any_turn))[:, None, None]
        trace = np.einsum("aij,bij->ab", any_turn, chosen).max(axis=1)
        assert np.degrees(np.arccos(np.clip((trace.max() - 1) / 2, -1, 1))) < reach
        assert np.degrees(np.arccos((trace.min() - 1) / 2)) < reach


@pytest.mark.slow
def test_cost_of_scoring():
    """Processor time, ten times what it takes on an idle machine, so that a loaded one does not fail."""
    near = pair(affine_map(2, degrees=3, shift=2.0), grid(128, 2))
    begin(near)
    assert min(begin(near)[1] for _ in range(3)) < 0.5
    assert begin(near, start="search")[1] < 4.0
    far = pair(lambda points: points @ turn_3d(0, 90).T, grid(64, 3))
    assert begin(far, start="search")[1] < 15.0


def test_the_search_can_be_stopped():
    images = pair(lambda points: points @ turn_3d(0, 90).T, grid(24, 3))
    steps = sr.register_steps(images.fixed, images.moving, start="search", device="cpu")
    first = next(steps)
    assert first.stage == "start"
    assert first.preview().ndim == 3
    with pytest.raises(StopIteration) as end:
        steps.send("stop")
    assert end.value.value.stop_reason == "stopped"


def test_start_prefers_the_exact_of_two_similar_shifts():
    """Phase correlation finds a shift of whole voxels exactly, the refinement of the given position about."""
    y, x = np.mgrid[:48, :52]
    fixed, moving = (np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 60) for cy, cx in ((24, 26), (27, 24)))
    result = sr.register(fixed, moving, family="translation", device="cpu")
    np.testing.assert_allclose(result.transform.map_points([[24.0, 26.0]])[0], (27, 24), atol=0.01)
