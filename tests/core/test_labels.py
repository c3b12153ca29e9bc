"""Labels are recognized and keep their values, gray values are interpolated, by one rule for every way in."""

import warnings

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

import napari_stnreg as sr
from napari_stnreg.core.errors import RegistrationWarning
from napari_stnreg.core.labels import choose_interpolation, has_label_name
from napari_stnreg.transforms import AffineTransform

HALF = np.array([[1, 0, 0.4], [0, 1, -0.3], [0, 0, 1]])


def _smooth(sigma, shape=(120, 130), seed=0):
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)


def _gray(values, top=255):
    return np.rint((values - values.min()) / np.ptp(values) * top)


def _cells(seed=0, shape=(120, 130), count=25):
    rng = np.random.default_rng(seed)
    marks = np.zeros(shape, int)
    marks[tuple(rng.integers(0, n, count) for n in shape)] = rng.permutation(4000)[:count] + 1
    distance, index = ndimage.distance_transform_edt(marks == 0, return_indices=True)
    return np.where(distance < 9, marks[tuple(index)], 0)


LABELS = {
    "cells": _cells().astype(np.uint16),
    "volume of cells": np.repeat(_cells(1)[None], 5, axis=0).astype(np.int32),
    "binary": (_smooth(4) > 0).astype(np.uint8) * 255,
    "tissue classes": np.digitize(_smooth(6), [-0.02, 0.0, 0.02]).astype(np.uint8) * 40,
}
GRAY = {
    "noise": np.random.default_rng(0).integers(0, 255, (90, 80)).astype(np.uint8),
    "binary noise": np.random.default_rng(0).integers(0, 2, (90, 80)).astype(np.uint8),
    "texture": _gray(_smooth(2)).astype(np.uint8),
    "very smooth": _gray(_smooth(30)).astype(np.uint8),
    "few gray levels": _gray(_smooth(20), 40).astype(np.uint16),
    "slide": np.where(_smooth(20) > 0, 255, _gray(_smooth(1.5, seed=3), 200)).astype(np.uint8),
    "drawing with soft edges": _gray(ndimage.gaussian_filter((_smooth(6) > 0).astype(float), 1.2)).astype(np.uint8),
    "constant": np.full((40, 40), 7, np.uint8),
    "float": _cells().astype(np.float32),
    "bool": _smooth(4) > 0,
    "channels": np.stack([_cells()] * 2, axis=-1).astype(np.uint16),
}


def _image(data, **more):
    return sr.Image.from_array(data, channels=data.shape[-1] == 2).replace(**more)


@pytest.mark.parametrize("kind", LABELS)
def test_labels_keep_their_values_and_the_choice_is_announced(kind):
    data = LABELS[kind]
    matrix = np.eye(data.ndim + 1)
    matrix[-3:, -3:] = HALF
    transform = AffineTransform(matrix, "pixel")
    with pytest.warns(RegistrationWarning, match="few values in connected regions.*nearest"):
        warped = sr.warp(_image(data), transform, _image(data))
    assert set(np.unique(warped.data)) <= set(np.unique(data)) | {0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linear = sr.warp(_image(data), transform, _image(data), "linear")
        told = sr.warp(_image(data, is_labels=False), transform, _image(data))
    assert not set(np.unique(linear.data)) <= set(np.unique(data))
    np.testing.assert_array_equal(told.data, linear.data)


@pytest.mark.parametrize("kind", GRAY)
def test_gray_values_are_interpolated(kind):
    assert choose_interpolation(_image(GRAY[kind])) == ("linear", "")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("scan_seg", True), ("Labels", True), ("ch1-mask.tif", True), ("label-free", False), ("segment_7", False),
     ("unlabeled", False), ("brain_masked", False), ("slabs", False)],
)  # fmt: skip
def test_names_of_labels(name, expected):
    assert has_label_name(name) is expected
    whole = _image(GRAY["float"], name=name)
    assert choose_interpolation(whole)[0] == ("nearest" if expected else "linear")
    assert choose_interpolation(whole.replace(data=whole.data + 0.5))[0] == "linear"


def test_label_mark_of_layer_or_file_decides_and_is_kept(tmp_path):
    from napari.layers import Labels

    noise = GRAY["noise"]
    layer = sr.as_image(Labels(noise.astype(np.int32)))
    assert layer.is_labels
    image = nib.Nifti1Image(np.repeat(noise[..., None], 4, axis=2), np.eye(4))
    image.header.set_intent("label")
    nib.save(image, tmp_path / "a.nii")
    read = sr.read_image(tmp_path / "a.nii")
    warped = sr.warp(read, None, read.grid.translated(np.full(3, 0.4)))
    assert warped.is_labels
    assert set(np.unique(warped.data)) <= set(np.unique(noise)) | {0}
    sr.write_image(tmp_path / "b.nii", warped)
    assert sr.read_image(tmp_path / "b.nii").is_labels
    assert not sr.warp(read, None, read.grid, "linear").is_labels


def test_a_registration_of_labels_returns_labels(tmp_path):
    fixed, moving = (np.pad(LABELS["cells"], 8)[d : d + 110, 5 : 5 + 120] for d in (8, 11))
    with pytest.warns(RegistrationWarning, match="holds labels"):
        result = sr.register(fixed.copy(), moving.copy(), family="translation", preset="fast")
    assert set(np.unique(result.warped.data)) <= set(np.unique(moving))
    assert any("holds labels" in one for one in result.warnings)
