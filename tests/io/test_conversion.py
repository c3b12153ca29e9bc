"""as_image: every supported kind of object becomes an image at the same position in the world."""

import sys
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

import napari_stnreg as sr

RNG = np.random.default_rng(0)
VOLUME = RNG.random((5, 6, 7)).astype(np.float32)
PLANE = RNG.random((40, 50)).astype(np.float32)


def same(image, data, matrix, unit):
    np.testing.assert_array_equal(image.data, data)
    np.testing.assert_allclose(image.grid.matrix, matrix, atol=1e-6)
    assert image.grid.unit == unit


def affine(spacing, origin):
    matrix = np.diag([*spacing, 1.0])
    matrix[:-1, -1] = origin
    return matrix


def test_numpy_arrays_have_pixels_unless_spacing_and_unit_are_given():
    same(sr.as_image(VOLUME), VOLUME, np.eye(4), "pixel")
    same(sr.as_image(VOLUME, spacing=2), VOLUME, affine((2, 2, 2), 0), "pixel")
    same(sr.as_image(VOLUME, spacing=(3, 2, 1), unit="micrometer"), VOLUME, affine((3, 2, 1), 0), "um")
    same(sr.as_image(PLANE.tolist()), PLANE, np.eye(3), "pixel")
    assert sr.as_image(VOLUME).data is VOLUME
    mask = PLANE > 0.5
    np.testing.assert_array_equal(sr.as_image(PLANE, mask=mask, name="plane").mask, mask)


def test_a_last_axis_of_three_long_after_two_long_axes_holds_colors():
    rgb = (RNG.random((40, 50, 3)) * 255).astype(np.uint8)
    image = sr.as_image(rgb)
    assert (image.ndim, image.channels, image.rgb) == (2, 3, True)
    assert sr.as_image(rgb, channels=False).grid.shape == (40, 50, 3)
    assert sr.as_image(rgb[:5, :6]).ndim == 3
    assert sr.as_image(rgb[:5, :6], channels=True).channels == 3


def test_torch_tensors():
    same(sr.as_image(torch.from_numpy(VOLUME).requires_grad_()), VOLUME, np.eye(4), "pixel")
    half = sr.as_image(torch.ones(4, 5, dtype=torch.bfloat16), spacing=2)
    same(half, np.ones((4, 5), np.float32), affine((2, 2), 0), "pixel")


@pytest.mark.parametrize("axes", [((3, 0, 0), (0, 2, 0), (0, 0, 1)), ((0, -2, 0), (1, 0, 0), (0, 0, 4))])
def test_a_nibabel_image_is_what_its_file_is(tmp_path, axes):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = axes, (5, 6, 7)
    theirs = nib.Nifti1Image(VOLUME, matrix)
    nib.save(theirs, tmp_path / "a.nii.gz")
    for obj in (theirs, nib.load(tmp_path / "a.nii.gz"), tmp_path / "a.nii.gz", str(tmp_path / "a.nii.gz")):
        image, read = sr.as_image(obj), sr.read_image(tmp_path / "a.nii.gz")
        same(image, read.data, read.grid.matrix, "mm")
        assert image.coordinate_system == "scanner"
    assert sr.as_image(nib.load(tmp_path / "a.nii.gz")).name == "a"
    same(sr.as_image(nib.MGHImage(VOLUME, matrix)), read.data, read.grid.matrix, "mm")
    series = nib.Nifti1Image(np.stack([VOLUME, VOLUME], axis=-1), matrix)
    with pytest.raises(sr.InputError, match="2 frames"):
        sr.as_image(series)
    same(sr.as_image(series.slicer[..., 0]), read.data, read.grid.matrix, "mm")


def test_a_simpleitk_image_is_at_the_same_position_as_its_nifti_file(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    theirs = sitk.GetImageFromArray(VOLUME)
    theirs.SetSpacing((1.0, 2.0, 3.0))
    theirs.SetOrigin((4.0, 5.0, 6.0))
    angle = np.deg2rad(30)
    theirs.SetDirection((np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle), 0, 0, 0, 1))
    image = sr.as_image(theirs)
    np.testing.assert_array_equal(image.data, VOLUME)
    assert (image.coordinate_system, image.grid.unit) == ("scanner", "mm")
    sitk.WriteImage(theirs, str(tmp_path / "a.nii"))
    read = sr.read_image(tmp_path / "a.nii")
    voxel = np.argwhere(read.data == VOLUME[1, 2, 3])[0]
    np.testing.assert_allclose(image.grid.to_world([1, 2, 3]), read.grid.to_world(voxel), atol=1e-4)
    flat = sitk.GetImageFromArray(PLANE)
    flat.SetSpacing((0.5, 2.0))
    flat.SetOrigin((7.0, 8.0))
    same(sr.as_image(flat), PLANE, affine((2, 0.5), (8, 7)), "mm")
    assert sr.as_image(flat).coordinate_system == "world"
    colors = sitk.GetImageFromArray((RNG.random((8, 9, 3)) * 255).astype(np.uint8), isVector=True)
    assert (sr.as_image(colors).channels, sr.as_image(colors).rgb) == (3, True)


def test_xarray_coordinates_give_spacing_origin_and_unit():
    xarray = pytest.importorskip("xarray")
    x = xarray.DataArray(10 + 0.5 * np.arange(7), dims="x", attrs={"units": "um"})
    y = xarray.DataArray(20 - 2.0 * np.arange(6), dims="y", attrs={"units": "um"})
    z = xarray.DataArray(0.003 * np.arange(5), dims="z", attrs={"units": "mm"})
    theirs = xarray.DataArray(VOLUME, coords={"z": z, "y": y, "x": x}, dims=("z", "y", "x"), name="cells")
    image = sr.as_image(theirs)
    same(image, VOLUME, affine((3, -2, 0.5), (0, 20, 10)), "um")
    assert image.name == "cells"
    same(sr.as_image(theirs.transpose("x", "z", "y")), VOLUME, image.grid.matrix, "um")
    frame = sr.as_image(theirs.expand_dims("time"))
    same(frame, VOLUME, image.grid.matrix, "um")
    colors = xarray.DataArray(RNG.random((2, 8, 9)), dims=("channel", "y", "x"))
    assert (sr.as_image(colors).channels, sr.as_image(colors).grid.shape) == (2, (8, 9))
    with pytest.raises(sr.InputError, match="not evenly spaced"):
        sr.as_image(theirs.assign_coords(x=np.arange(7.0) ** 2))
    with pytest.raises(sr.InputError, match="at most one channel axis"):
        sr.as_image(xarray.DataArray(np.zeros((2, 3, 4, 5)), dims=("time", "z", "y", "x")))


def test_napari_layers_keep_their_position():
    layers = pytest.importorskip("napari.layers")
    layer = layers.Image(
        VOLUME, scale=(3, 2, 1), translate=(4, 5, 6), rotate=(0, 0, 90), units=("um", "um", "um"), name="cells"
    )
    image = sr.as_image(layer)
    np.testing.assert_allclose(image.grid.to_world([1, 2, 3]), layer.data_to_world((1, 2, 3)), atol=1e-6)
    assert (image.name, image.grid.unit) == ("cells", "um")
    labels = layers.Labels((VOLUME > 0.5).astype(np.uint8), affine=affine((2, 2, 2), (1, 2, 3)))
    same(sr.as_image(labels), labels.data, affine((2, 2, 2), (1, 2, 3)), "pixel")
    levels = layers.Image([PLANE, PLANE[::2, ::2]], multiscale=True, scale=(0.5, 0.5))
    same(sr.as_image(levels), PLANE, affine((0.5, 0.5), 0), "pixel")
    rgb = layers.Image((RNG.random((8, 9, 3)) * 255).astype(np.uint8), rgb=True)
    assert (sr.as_image(rgb).rgb, sr.as_image(rgb).ndim) == (True, 2)
    with pytest.raises(sr.InputError, match="Choose one frame"):
        sr.as_image(layers.Image(np.zeros((2, 3, 4, 5))))


def test_as_image_keeps_an_image_or_overrides_its_spacing():
    image = sr.Image.from_array(VOLUME, spacing=(3, 2, 1), origin=(4, 5, 6), unit="mm")
    assert sr.as_image(image) is image
    same(sr.as_image(image, spacing=2, unit="um"), VOLUME, affine((2, 2, 2), (4, 5, 6)), "um")


def test_an_object_that_is_not_an_image_is_rejected():
    for obj in (None, object(), "nowhere.tif", SimpleNamespace(data=VOLUME), np.array(["a"])):
        with pytest.raises(sr.InputError, match=r"cannot be used as an image|does not exist"):
            sr.as_image(obj)
    with pytest.raises(sr.InputError, match="2 voxel sizes"):
        sr.as_image(VOLUME, spacing=(1, 2))
    with pytest.raises(sr.InputError, match="must be positive"):
        sr.as_image(VOLUME, spacing=0)


def shifted_pair():
    y, x = np.mgrid[:48, :52]
    first, second = (np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 60) for cy, cx in ((24, 26), (27, 24)))
    return first.astype(np.float32), second.astype(np.float32)


def as_numpy(data):
    return data


def as_tensor(data):
    return torch.from_numpy(data)


def as_nibabel(data):
    return nib.Nifti1Image(data.T, np.diag([1.5, 1.5, 1.5, 1]))


def as_itk(data):
    image = pytest.importorskip("SimpleITK").GetImageFromArray(data)
    image.SetSpacing((1.5, 1.5))
    return image


def as_xarray(data):
    xarray = pytest.importorskip("xarray")
    coords = {"y": 1.5 * np.arange(data.shape[0]), "x": 1.5 * np.arange(data.shape[1])}
    return xarray.DataArray(data, coords=coords, dims=("y", "x"))


def as_layer(data):
    return pytest.importorskip("napari.layers").Image(data, scale=(1.5, 1.5))


@pytest.mark.parametrize("make", [as_numpy, as_tensor, as_nibabel, as_itk, as_xarray, as_layer])
def test_register_warp_and_evaluate_accept_every_kind(make):
    first, second = shifted_pair()
    before = second.copy()
    fixed, moving = make(first), make(second)
    spacing = 1.5 if make in (as_numpy, as_tensor) else None
    result = sr.register(fixed, moving, family="translation", spacing=spacing, unit="um", device="cpu")
    center = result.transform.map_points([[36.0, 39.0]])[0] - (36, 39)
    np.testing.assert_allclose(np.abs(center), (4.5, 3.0), atol=0.05)
    warped = sr.warp(moving, result, fixed, spacing=spacing, unit="um")
    np.testing.assert_allclose(warped.data[8:-8, 8:-8], sr.as_image(fixed).data[8:-8, 8:-8], atol=0.02)
    card = sr.evaluate(fixed, moving, result, spacing=spacing, unit="um")
    assert card.value("ncc") > 0.999 > card.value("ncc", "before")
    assert result.warp(moving, spacing=spacing, unit="um").grid == result.grid
    np.testing.assert_array_equal(second, before)


def test_moving_spacing_and_unit_override_those_of_both():
    first, second = shifted_pair()
    result = sr.register(
        first, second[::2, ::2], family="translation", spacing=1, unit="mm", moving_spacing=2000, moving_unit="um"
    )
    np.testing.assert_allclose(result.transform.map_points([[24.0, 26.0]])[0], (27, 24), atol=0.1)
    assert result.warped.data.shape == first.shape


def test_as_image_imports_no_library():
    import subprocess

    code = "import sys, numpy as np, napari_stnreg as sr; sr.as_image(np.ones((4, 5))); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "SimpleITK", "xarray", "napari"} & set(loaded)
