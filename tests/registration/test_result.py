"""Result: warp, save, scorecard, text and HTML; what register leaves untouched."""

import random

import numpy as np
import pytest
import torch

import napari_stnreg as sr
from tests.helpers.scenes import FAST, affine_map, grid, pair


@pytest.fixture(scope="module")
def images():
    return pair(affine_map(2, degrees=4, shift=2.0), grid(64, 2))


@pytest.fixture(scope="module")
def result(images):
    points = [[20.0, 20.0], [40.0, 30.0], [30.0, 45.0], [25.0, 40.0]]
    landmarks = {"fixed_landmarks": points, "moving_landmarks": affine_map(2, degrees=4, shift=2.0)(np.array(points))}
    return sr.register(images.fixed, images.moving, family="affine", **landmarks, **FAST)


def test_a_result_warps_other_images_of_the_moving_side(images, result):
    np.testing.assert_array_equal(result.warp(images.moving, fill=None).data, result.warped.data)
    labels = images.moving.data > np.median(images.moving.data)
    warped = result.warp(labels, "nearest")
    expected = sr.warp(images.moving.replace(data=labels), result.transform, result.grid, interpolation="nearest")
    np.testing.assert_array_equal(warped.data, expected.data)


def test_a_result_saves_its_transform_and_report(result, tmp_path):
    path = result.save(tmp_path / "transform.safetensors")
    again = sr.load_transform(path)
    np.testing.assert_array_equal(again.displacement(result.grid), result.transform.displacement(result.grid))


def test_the_scorecard_of_a_result_is_that_of_its_images(images, result):
    card = result.scorecard()
    direct = sr.evaluate(
        images.fixed,
        images.moving,
        result,
        fixed_landmarks=result.landmarks[0],
        moving_landmarks=result.landmarks[1],
    )
    assert card.to_json() == direct.to_json()
    assert card.value("landmark", item="mean") < card.value("landmark", "before", item="mean")
    assert card.value("folding_fraction") == result.folding_fraction
    steps = sr.register_steps(images.fixed, images.moving, family="translation", iterations=1, device="cpu")
    bare = sr.core.progress.run_to_completion(steps)
    with pytest.raises(sr.InputError, match="evaluate"):
        bare.scorecard()


def test_text_and_html_are_short(result):
    text = repr(result)
    assert len(text.splitlines()) <= 8 + len(result.warnings)
    assert "affine" in text
    assert "NCC" in text
    page = result._repr_html_()
    assert page.count("data:image/png;base64,") == 2
    assert len(page) < 200_000
    card = result.scorecard()
    assert "NCC" in repr(card)
    assert card._repr_html_().startswith("<table>")


def test_register_touches_no_global_random_state(images):
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    for options in ({}, {"similarity": "mi"}, {"family": "rigid", "start": "search"}, {"model": "box-2d", "refine": 2}):
        sr.register(images.fixed, images.moving, seed=3, **options, **FAST)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


def test_warnings_are_issued_and_stored_in_the_result():
    points = np.random.default_rng(0).random((64, 64))
    image = sr.Image.from_array(points)
    with pytest.warns(sr.RegistrationWarning) as caught:
        result = sr.register(
            image,
            sr.Image.from_array(points[::-1].copy()),
            family="displacement",
            smoothness=0.01,
            start="none",
            iterations=30,
            similarity="mse",
            device="cpu",
        )
    assert result.warnings
    assert [str(one.message) for one in caught] == result.warnings
