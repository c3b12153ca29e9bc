"""What ``train`` accepts as images."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import xarray as xr

import napari_stnreg as sr
from tests.helpers.scenes import Blobs, grid

QUICK = {"network": "affine", "epochs": 1, "batch_size": 4, "device": "cpu"}


@pytest.fixture
def arrays():
    points = grid(24, 2).points()
    return [(200 * Blobs.random(2, i)(points)).astype(np.float32) for i in range(8)]


def as_xarray(array):
    return xr.DataArray(array, dims=("y", "x"))


def as_itk(array):
    return sitk.GetImageFromArray(array)


@pytest.mark.parametrize("convert", [np.asarray, as_xarray, as_itk])
def test_a_list_of_any_kind_of_image_trains_the_same_model(arrays, convert):
    reference = sr.train([sr.Image.from_array(array) for array in arrays], **QUICK)
    model = sr.train([convert(array) for array in arrays], **QUICK)
    assert model.summary["curve"][-1]["loss"] == reference.summary["curve"][-1]["loss"]


def test_an_array_is_a_series_of_images_and_takes_a_spacing(arrays):
    model = sr.train(np.stack(arrays), spacing=2.0, unit="um", **QUICK)
    assert model.input_spec.unit == "um"
    np.testing.assert_allclose(model.input_spec.spacing, (2.0, 2.0))


def test_a_folder_of_files_is_opened(arrays, tmp_path):
    for i, array in enumerate(arrays):
        sr.write_image(tmp_path / f"{i}.tif", sr.Image.from_array(array))
    assert sr.train(tmp_path, **QUICK).summary["pairs"] > 0


def test_volumes_of_nibabel_keep_their_spacing():
    points = grid(16, 3).points()
    volumes = [(200 * Blobs.random(3, i)(points)).astype(np.float32) for i in range(4)]
    images = [nib.Nifti1Image(volume, np.diag([2.0, 2.0, 2.0, 1.0])) for volume in volumes]
    model = sr.train(images, **QUICK)
    np.testing.assert_allclose(model.input_spec.spacing, (2.0, 2.0, 2.0))
