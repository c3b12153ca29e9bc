"""The bundled model for volumes: it loads, resamples any volume to its lattice, and registers unseen images."""

import numpy as np
import pytest

import napari_stnreg as sr
from napari_stnreg.models.model_file import pretrained_models
from napari_stnreg.training.synthetic.heads import generated_head
from tests.helpers.scenes import affine_map, bent_map, grid, pair


@pytest.fixture(scope="module")
def model():
    return sr.load("box-3d")


def dice(fixed, moving, labels):
    overlaps = [2 * np.sum((fixed == n) & (moving == n)) / (np.sum(fixed == n) + np.sum(moving == n)) for n in labels]
    return np.mean(overlaps)


def test_file_is_small_and_describes_the_training(model):
    assert pretrained_models()["box-3d"].stat().st_size < 20e6
    assert model.ndim == 3
    assert model.input_spec.size_mode == "extent"
    assert model.family == "affine+velocity+velocity+velocity"
    assert model.summary["kind"] == "generated shapes and heads"
    assert model.summary["steps"] > 0
    assert all(p.dtype.is_floating_point and p.element_size() == 4 for p in model.network.parameters())


@pytest.mark.parametrize(
    ("shape", "spacing", "lattice"),
    [((48, 64, 48), 1.0, (72, 96, 72)), ((80, 96, 80), 2.0, (80, 96, 80)), ((20, 200, 150), 0.1, (10, 96, 72))],
)
def test_lattice_scales_every_volume_to_96_voxels(model, shape, spacing, lattice):
    found = model.input_spec.lattice(sr.Grid.from_spacing(shape, spacing, unit="mm"))
    assert found.shape == lattice
    extent = np.asarray(shape) * spacing
    assert np.all(np.asarray(found.shape) * found.spacing >= 0.98 * extent)


@pytest.mark.slow
@pytest.mark.parametrize("spacing", [1.0, 0.002])
def test_one_pass_recovers_most_of_a_rotation_and_a_deformation(model, spacing):
    truth = bent_map(3, height=4.0, linear=affine_map(3, degrees=8, scale=1.06, shift=5.0))
    images = pair(truth, grid(64, 3))
    center = images.fixed.grid.center
    points = images.points()
    before = np.linalg.norm(images.truth(points) - points, axis=1).mean()
    scaled = [sr.Image.from_array(x.data, spacing * 100 / 64, unit="mm") for x in (images.fixed, images.moving)]
    found = model.predict(*scaled, device="cpu")
    middle = scaled[0].grid.center
    mapped = (found.map_points((points - center) * spacing + middle) - middle) / spacing + center
    after = np.linalg.norm(mapped - images.truth(points), axis=1).mean()
    assert after < 0.3 * before
    assert found.folding_fraction(scaled[0].grid) == 0


@pytest.mark.slow
def test_generated_heads_of_other_contrast_come_together(model):
    head_grid = sr.Grid.from_spacing((48, 56, 48), 3.9, unit="mm")
    before, after = [], []
    for seed in (901, 902, 903):
        (fixed, fixed_labels), (moving, moving_labels) = (
            generated_head(head_grid, np.random.default_rng(seed + 50 * k), stripped=True) for k in range(2)
        )
        found = model.predict(fixed, moving, device="cpu")
        warped = sr.warp(moving_labels, found, head_grid, "nearest")
        labels = range(1, 7)
        before.append(dice(fixed_labels.data, moving_labels.data, labels))
        after.append(dice(fixed_labels.data, warped.data, labels))
        assert found.folding_fraction(head_grid) < 1e-3
    assert np.mean(after) > np.mean(before) + 0.15


@pytest.mark.slow
def test_refinement_starts_at_the_prediction(model):
    images = pair(bent_map(3, height=4.0, linear=affine_map(3, degrees=6, shift=4.0)), grid(40, 3))
    passed = model.predict(images.fixed, images.moving, device="cpu")
    result = sr.register(images.fixed, images.moving, model="box-3d", refine=20, device="cpu")
    assert images.error(result.transform) < images.error(passed)
    assert result.settings.model == "box-3d"
