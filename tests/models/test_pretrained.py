"""The bundled model: it loads, says what it is, and registers what it has never seen."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import data as pictures
from sklearn.datasets import load_digits

import napari_stnreg as sr
from napari_stnreg.datasets.primitives import PlaneWaves
from napari_stnreg.models.model_file import pretrained_models
from napari_stnreg.networks import warp_batch
from napari_stnreg.training.data.pair_sampler import collate
from napari_stnreg.training.synthetic.shapes import GeneratedShapes


@pytest.fixture(scope="module")
def model():
    return sr.load("box-2d")


def bent(image, height, seed):
    """The image through a smooth known map, by scipy; and the map's displacement ``(2, y, x)``."""
    index = np.stack(np.indices(image.shape), axis=-1).astype(float)
    waves = PlaneWaves.random(seed, 2, wavelength=0.8 * max(image.shape), height=height)
    move = np.moveaxis(waves(index), -1, 0)
    return ndimage.map_coordinates(image.astype(float), np.moveaxis(index, -1, 0) + move, order=3, mode="nearest"), move


def test_file_is_small_and_its_header_describes_the_training(model):
    assert pretrained_models()["box-2d"].stat().st_size < 2 * 2**20
    assert model.ndim == 2
    assert model.input_spec.size_mode == "extent"
    assert {phase["side"] for phase in model.summary["phases"]} == {64, 128}
    assert model.summary["cpu_seconds"] > 0


def test_bundled_model_aligns_unseen_generated_shapes(model):
    source = GeneratedShapes(sr.Grid.from_spacing((128, 128)))
    batch = collate([source.draw_pair("train", 0, place, seed=991) for place in range(8)])
    before, after = [], []
    for i in range(8):
        fixed, moving = (sr.Image.from_array(x[i, 0].numpy()) for x in (batch.fixed, batch.moving))
        found = model.predict(fixed, moving, device="cpu")
        moved = warp_batch(batch.moving_labels[i : i + 1], found, fixed.grid)
        before.append(float((batch.moving_labels[i] != batch.fixed_labels[i]).float().mean()))
        after.append(float((moved[0] != batch.fixed_labels[i]).float().mean()))
    assert np.mean(after) < 0.7 * np.mean(before)


@pytest.mark.parametrize("height", [7.0, 14.0])
def test_bundled_model_recovers_most_of_a_known_deformation(model, height):
    moving = pictures.coins()[:256, :256].astype(np.float32)
    fixed, truth = bent(moving, height, seed=5)
    one, other = sr.Image.from_array(fixed, (2.0, 2.0), unit="um"), sr.Image.from_array(moving, (2.0, 2.0), unit="um")
    found = model.predict(one, other, device="cpu").displacement(one.grid) / 2.0
    inner = (slice(None), slice(24, -24), slice(24, -24))
    before = np.linalg.norm(truth[inner], axis=0).mean()
    after = np.linalg.norm((found - truth)[inner], axis=0).mean()
    assert after < 0.5 * before


def test_bundled_model_aligns_digits_without_folds(model):
    digits = load_digits()
    threes = digits.images[digits.target == 3][:12]
    template = sr.Image.from_array(threes[0])
    before, after = [], []
    for image in threes[1:]:
        other = sr.Image.from_array(image)
        found = model.predict(template, other, device="cpu")
        assert float((found.jacobian_determinant(template.grid) <= 0).mean()) == 0
        before.append(np.corrcoef(threes[0].ravel(), image.ravel())[0, 1])
        after.append(np.corrcoef(threes[0].ravel(), sr.warp(other, found, template.grid).data.ravel())[0, 1])
    assert np.mean(after) > np.mean(before) + 0.05


def test_small_images_are_predicted_by_one_thread(model):
    images = [pictures.coins()[:128, place : place + 128].astype(np.float32) for place in (0, 6)]
    before, seen = torch.get_num_threads(), []
    hook = model.network.networks()[0].register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    try:
        torch.set_num_threads(2)
        model.predict(*images, device="cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
        hook.remove()
    assert set(seen) == {1}


def test_prediction_takes_arrays(model):
    images = [pictures.coins()[:96, place : place + 128] for place in (0, 6)]
    one, other = (sr.Image.from_array(image) for image in images)
    found = model.predict(*images, device="cpu").displacement(one.grid)
    assert np.array_equal(found, model.predict(one, other, device="cpu").displacement(one.grid))


def test_loading_does_not_import_the_compiler_of_torch():
    code = "import sys, napari_stnreg as sr; sr.load_model('box-2d'); sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0, "importing it takes a second"
