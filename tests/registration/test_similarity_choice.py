"""The similarity `auto`, inverted contrast, and linear fits that must not collapse."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

import napari_stnreg as sr
from napari_stnreg.registration.stages import LINEAR_PRIOR, _is_sound


def tissue(seed, size=120):
    """A section with texture, light on dark."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    texture = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(size, size)), 3)
    texture = (texture - texture.min()) / np.ptp(texture)
    inside = (y / 0.38) ** 2 + (x / 0.3) ** 2 < 1 + 0.15 * np.sin(3 * np.arctan2(y, x))
    return ndimage.gaussian_filter(np.where(inside, 0.25 + 0.7 * texture, 0.0), 1).astype(np.float32)


POINTS = np.array([[50.0, 50], [50, 75], [80, 55], [70, 70]])


@pytest.mark.parametrize("shift", [(0, 0), (5, -4)])
@pytest.mark.parametrize("seed", [0, 1])
def test_inverted_contrast_is_not_turned_over(seed, shift):
    image = tissue(seed)
    moving = 1 - ndimage.shift(image, shift, order=1)
    result = sr.register(image, moving, family="rigid", preset="fast", device="cpu")
    error = np.linalg.norm(result.transform.map_points(POINTS) - POINTS - shift, axis=1).max()
    assert error < 1.5


@pytest.mark.parametrize("seed", [7, 8])
def test_inverted_contrast_is_found_when_turned(seed):
    image = tissue(seed)
    result = sr.register(image, 1 - np.rot90(image), family="rigid", preset="fast", device="cpu")
    truth = np.column_stack([len(image) - 1 - POINTS[:, 1], POINTS[:, 0]])
    assert np.linalg.norm(result.transform.map_points(POINTS) - truth, axis=1).max() < 1.5


def test_the_choice_is_reported():
    image = tissue(2)
    result = sr.register(image, ndimage.shift(image, (3, 2), order=1), family="translation", preset="fast")
    assert result.settings.similarity == "auto"
    assert result.report()["similarity_choice"]["similarity"] == "lncc"
    assert "same contrast" in str(result.similarity_choice)
    named = sr.register(image, image + 0.01, family="translation", preset="fast", similarity="mi")
    assert named.similarity_choice is None


def folded_contrast(image):
    """The same tissue with a relation of the brightness that rises and falls."""
    inside = image > 0.05
    folded = np.abs(image - np.median(image[inside]))
    return np.where(inside, folded, folded[inside].mean()).astype(np.float32)


def test_another_contrast_inside_a_bright_head_is_not_the_same_contrast():
    """Head and background alone correlate by 0.7; inside, tissue is dark where it was light."""
    y, x = np.mgrid[:128, :128] - 63.5
    radius = np.hypot(y / 56, x / 46)
    texture = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((128, 128)), 4)
    texture = (0.55 + 0.18 * texture / texture.std()).clip(0.2, 1)
    head = ndimage.gaussian_filter(np.where(radius < 0.88, texture, np.where(radius < 1, 0.3, 0)), 0.7)
    moved = np.stack([3 * np.sin(x / 20), 3 * np.cos(y / 24)])
    fixed = ndimage.map_coordinates(head, np.indices(head.shape) + moved, order=1)
    moving = np.where(head > 0.15, 1.1 - 0.7 * head, head)
    assert np.corrcoef(fixed.ravel(), moving.ravel())[0, 1] > 0.7
    result = sr.register(fixed, moving, device="cpu")
    assert result.similarity_choice.similarity == "mi"
    error = np.linalg.norm(result.transform.displacement(result.grid) - moved, axis=0)
    assert np.median(error[fixed > 0.15]) < 0.3


def test_unrelated_contrasts_choose_mutual_information():
    image = tissue(3)
    result = sr.register(image, folded_contrast(image), family="translation", preset="fast")
    assert result.similarity_choice.similarity == "mi"
    assert result.similarity_choice.linear_similarity == "mi"


def bent(image, angle=0.06, amplitude=2.5):
    """Warp an image by a known map; return it and the map of fixed to moving points."""
    n = len(image)
    center = (n - 1) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def forward(points):
        wave = amplitude * np.sin(2 * np.pi * points[..., ::-1] / n)
        return (points - center) @ turn.T + center + wave

    grid = np.stack(np.mgrid[:n, :n], -1).astype(float)
    return ndimage.map_coordinates(image, np.moveaxis(forward(grid), -1, 0), order=1), forward


@pytest.mark.parametrize("seed", [11, 12])
def test_a_deformation_between_unrelated_contrasts_is_fitted_by_mutual_information(seed):
    moving = tissue(seed)
    fixed, truth = bent(moving)
    result = sr.register(fixed, folded_contrast(moving), preset="fast", device="cpu")
    assert result.similarity_choice.similarity == "mi"
    assert np.median(np.linalg.norm(result.transform.map_points(POINTS) - truth(POINTS), axis=1)) < 1.0


def stained(density, marker, background, counter):
    """A section in color: a counterstain everywhere, a second stain in places."""
    optical = density[..., None] * np.array(counter) + marker[..., None] * np.array([0.4, 0.9, 1.6])
    return (np.array(background) * np.exp(-optical)).astype(np.uint8)


@pytest.mark.parametrize("seed", [21, 22])
def test_stained_sections_are_tried_with_both_similarities(seed):
    density = tissue(seed)
    other = ndimage.gaussian_filter(np.random.default_rng(seed + 100).normal(size=density.shape), 3)
    marker = np.where((density > 0.2) & (other > other.std()), 0.4, 0.0)
    fixed_density, truth = bent(density)
    fixed = stained(fixed_density, 0 * fixed_density, (250, 245, 250), (0.5, 1.3, 0.6))
    moving = stained(0.4 * density, marker, (235, 235, 240), (1.0, 0.8, 0.3))
    result = sr.register(fixed, moving, preset="fast", device="cpu")
    assert "trial" in result.similarity_choice.reason
    before = np.median(np.linalg.norm(POINTS - truth(POINTS), axis=1))
    after = np.median(np.linalg.norm(result.transform.map_points(POINTS) - truth(POINTS), axis=1))
    assert after < 0.75 * before


def test_a_collapsed_fit_is_not_sound():
    import torch

    from napari_stnreg.registration.initialization import start_level
    from napari_stnreg.registration.preprocessing import prepare
    from napari_stnreg.registration.settings import RegistrationSettings

    pair = [sr.Image.from_array(tissue(s)) for s in (5, 6)]
    level = start_level(prepare(*pair, RegistrationSettings.parse(), torch.device("cpu")).pyramid)
    begin = np.eye(3)
    limit = LINEAR_PRIOR.largest_scale
    assert _is_sound(level, begin, np.diag([1.1, 0.9, 1.0]))
    assert not _is_sound(level, begin, np.diag([1.0, 0.9 / limit, 1.0]))
    assert not _is_sound(level, begin, np.diag([1.1 * limit, 1.0, 1.0]))
    away = np.eye(3)
    away[0, 2] = 100
    assert not _is_sound(level, begin, away)
