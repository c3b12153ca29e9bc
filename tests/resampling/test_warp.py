"""Warping: values compared with other programs; borders, dtypes, colors, labels and units."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.ops.pullback import border_value
from napari_stnreg.resampling.warp import warp
from napari_stnreg.transforms import AffineTransform, base, chain, make_family
from napari_stnreg.transforms.linear import rotation

sitk = pytest.importorskip("SimpleITK")


def noise(shape, dtype=np.float32, seed=0) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) * 200).astype(dtype)


def shift(offset, unit="pixel") -> AffineTransform:
    matrix = np.eye(len(offset) + 1)
    matrix[:-1, -1] = offset
    return AffineTransform(matrix, unit)


def oblique(shape, ndim_origin=(40, -30, 25)) -> Grid:
    ndim = len(shape)
    angles = torch.full((1, 1 if ndim == 2 else 3), 0.3, dtype=torch.float64)
    return Grid.from_spacing(shape, (2.0, 0.5, 1.3)[:ndim], ndim_origin[:ndim], rotation(angles)[0].numpy(), unit="mm")


def to_itk(image: Image):
    """The same image for ITK, which speaks x, y, z."""
    theirs = sitk.GetImageFromArray(np.asarray(image.data))
    theirs.SetSpacing(image.grid.spacing[::-1])
    theirs.SetOrigin(image.grid.origin[::-1])
    theirs.SetDirection((image.grid.linear / image.grid.spacing)[::-1, ::-1].ravel())
    return theirs


@pytest.mark.parametrize("interpolation", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("shape", [(5, 8), (4, 6, 7), (1, 5, 4), (3, 1)])
def test_identity_on_the_same_grid_returns_the_image(shape, interpolation):
    image = Image(noise(shape), Grid.from_spacing(shape, 0.7, 3.0), name="mine", metadata={"kept": 1})
    warped = warp(image, None, image.grid, interpolation)
    np.testing.assert_allclose(warped.data, image.data, atol=1e-4)
    assert (warped.mask, warped.name, warped.metadata) == (None, "mine", {"kept": 1})
    assert warped.grid == image.grid


@pytest.mark.parametrize("interpolation", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_unit_translation_shifts_one_axis(axis, interpolation):
    """Pull-back: the transform adds one, so that the content comes from one further and moves back."""
    image = Image.from_array(noise((4, 6, 9)), spacing=(3.0, 1.0, 0.5))
    step = np.zeros(3)
    step[axis] = image.grid.spacing[axis]
    warped = warp(image, shift(step), image.grid, interpolation, fill=-1)
    here = [slice(None)] * 3
    there = [slice(None)] * 3
    last = [slice(None)] * 3
    here[axis], there[axis], last[axis] = slice(None, -1), slice(1, None), slice(-1, None)
    np.testing.assert_allclose(warped.data[tuple(here)], image.data[tuple(there)], atol=1e-4)
    assert (warped.data[tuple(last)] == -1).all()
    assert not warped.mask[tuple(last)].any()
    assert warped.mask[tuple(here)].all()


@pytest.mark.parametrize(("name", "order"), [("linear", 1), ("nearest", 0), ("cubic", 3)])
@pytest.mark.parametrize("shape", [(11, 14), (6, 9, 7)])
def test_values_agree_with_itk_through_a_whole_displacement_field(name, order, shape):
    fixed, moving = oblique(shape), Image(noise(shape), oblique(shape, (41, -30.3, 25.4)))
    theta = 0.7 * torch.randn(1, len(shape), *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    transform = make_family("displacement")(theta, fixed)
    warped = warp(moving, transform, fixed, name, fill=-7)
    vectors = np.moveaxis(transform.field[0].numpy(), 0, -1)[..., ::-1].copy()
    field = sitk.GetImageFromArray(vectors, isVector=True)
    field.CopyInformation(to_itk(Image(noise(shape), fixed)))
    kind = {0: sitk.sitkNearestNeighbor, 1: sitk.sitkLinear, 3: sitk.sitkBSpline}[order]
    itk_image = to_itk(moving)
    expected = sitk.Resample(
        itk_image, to_itk(Image(noise(shape), fixed)), sitk.DisplacementFieldTransform(field), kind, -7.0
    )
    different = ~np.isclose(warped.data, sitk.GetArrayFromImage(expected), atol=2e-3)
    if name == "cubic":  # in the outer half voxel ITK mirrors the spline, and ours stays at the border's value
        index = moving.grid.to_index(transform.map_points(fixed.points())).reshape(*shape, len(shape))
        different &= ((index >= 0) & (index <= np.array(shape) - 1)).all(axis=-1)
    # Points exactly on a face or halfway between two voxels may fall to either side.
    assert different.mean() < 0.005


@given(
    angle=st.floats(-3, 3),
    scale=st.floats(0.5, 2),
    spacing=st.tuples(st.floats(0.2, 4), st.floats(0.2, 4)),
    shape=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    unit=st.sampled_from(["mm", "um"]),
)
@examples(max_examples=30, deadline=None)
def test_warp_onto_a_moved_grid_returns_the_image(angle, scale, spacing, shape, unit):
    """Rotate, scale and shift grid and content alike: the voxels stay, in whatever unit the grid is written."""
    moving = Image(noise(shape), Grid.from_spacing(shape, spacing, (3, -8), unit="mm"))
    matrix = np.eye(3)
    matrix[:2, :2] = scale * rotation(torch.tensor([[angle]], dtype=torch.float64))[0].numpy()
    matrix[:2, 2] = (5, -2)
    fixed = Grid(shape, np.linalg.inv(matrix) @ moving.grid.matrix, "mm").with_unit(unit)
    warped = warp(moving, AffineTransform(matrix, "mm"), fixed)
    np.testing.assert_allclose(warped.data, moving.data, atol=1e-2)
    assert warped.mask is None


def test_warp_is_independent_of_the_grid_axes():
    shape = (5, 7, 6)
    image = Image(noise(shape), oblique(shape))
    transform = make_family("rigid")(torch.full((1, 6), 0.05), image.grid)
    other = Grid(shape[::-1], image.grid.matrix @ np.eye(4)[[2, 1, 0, 3]], "mm")
    np.testing.assert_allclose(
        warp(image, transform, other).data.transpose(2, 1, 0), warp(image, transform, image.grid).data, atol=1e-2
    )


def test_chain_is_resampled_once():
    shape = (9, 12)
    image = Image(noise(shape), Grid.from_spacing(shape, (2, 1)))
    a = make_family("affine")(torch.full((1, 6), 0.05, dtype=torch.float64), image.grid)
    b = make_family("bspline", spacing=4)(torch.full((1, 2, 7, 6), 0.8, dtype=torch.float64), image.grid)
    points = b.map_points(a.map_points(image.grid.points()))
    index = image.grid.to_index(points).reshape(*shape, 2)
    inside = ((index >= 0) & (index <= np.array(shape) - 1)).all(axis=-1)
    expected = map_coordinates(image.data, np.moveaxis(index, -1, 0), order=1)
    warped = warp(image, chain(a, b), image.grid)
    np.testing.assert_allclose(warped.data[inside], expected[inside], atol=1e-3)


@pytest.mark.parametrize("interpolation", ["linear", "nearest", "cubic"])
def test_image_extends_half_a_voxel_beyond_its_outer_centers(interpolation):
    image = Image.from_array(np.array([[10.0, 20.0, 30.0]] * 3, dtype=np.float32), spacing=2.0)
    for offset, value in ((0.98, 30), (1.0, 30), (1.02, -5)):
        warped = warp(image, shift([0.0, offset]), image.grid, interpolation, fill=-5)
        assert warped.data[0, 2] == pytest.approx(value, abs=1e-4)
        assert warped.data[0, 0] != -5
        warped = warp(image, shift([0.0, -offset]), image.grid, interpolation, fill=-5)
        assert warped.data[0, 0] == pytest.approx(10 if value == 30 else -5, abs=1e-4)


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float64"]
)
@pytest.mark.parametrize("interpolation", ["linear", "nearest", "cubic"])
def test_warp_keeps_the_dtype(dtype, interpolation):
    data = np.zeros((6, 8), dtype=dtype)
    data[2:4, 3:6] = 1 if dtype == "bool" else 100
    image = Image.from_array(data)
    warped = warp(image, shift([0.0, 1.0]), image.grid, interpolation)
    assert warped.data.dtype == data.dtype
    atol = 1e-3 if warped.data.dtype.kind == "f" else 0
    np.testing.assert_allclose(warped.data[:, :-1], data[:, 1:], rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64])
def test_integers_are_rounded_and_saturate(dtype):
    top = np.iinfo(dtype).max
    data = np.full((5, 8), 0, dtype=dtype)
    data[:, 4:] = top
    image = Image.from_array(data)
    half = warp(image, shift([0.0, 0.25]), image.grid)
    assert abs(float(half.data[0, 3]) - 0.25 * float(top)) <= 0.5 + 1e-9 * float(top)
    cubic = warp(image, shift([0.0, 0.4]), image.grid, "cubic")  # overshoots beside the edge
    assert (cubic.data[:, 4] == top).all()
    assert (cubic.data[:, 2] <= 0).all()  # below zero if the type is signed, never wrapped to the top


def test_labels_of_any_size_are_copied_exactly():
    labels = np.random.default_rng(0).integers(2**62, 2**63 - 1, (7, 8, 6), dtype=np.int64)
    image = Image.from_array(labels, name="labels")
    transform = make_family("rigid")(torch.full((1, 6), 0.1), image.grid)
    warped = warp(image, transform, image.grid, "nearest")
    assert set(np.unique(warped.data)) <= {0, *labels.ravel().tolist()}
    index = image.grid.to_index(transform.map_points(image.grid.points())).reshape(7, 8, 6, 3)
    nearest = np.floor(index + 0.5).astype(int)
    inside = ((nearest >= 0) & (nearest < labels.shape)).all(axis=-1)
    np.testing.assert_array_equal(warped.data[inside], labels[tuple(nearest[inside].T)])
    assert (warped.data[~inside] == 0).all()


@pytest.mark.parametrize("interpolation", ["linear", "nearest", "cubic"])
def test_channels_are_warped_independently(interpolation):
    color = Image.from_array(noise((9, 11, 3), np.uint8), channels=True)
    transform = make_family("affine")(torch.full((1, 6), 0.06), color.grid)
    warped = warp(color, transform, color.grid, interpolation, fill=(1, 2, 3))
    assert warped.rgb
    assert warped.data.shape == (9, 11, 3)
    for c in range(3):
        alone = Image.from_array(color.data[..., c])
        np.testing.assert_array_equal(
            warped.data[..., c], warp(alone, transform, color.grid, interpolation, fill=c + 1).data
        )


def test_the_fill_can_be_taken_from_the_border():
    slide = np.full((12, 10, 3), 60, dtype=np.uint8)
    slide[0], slide[-1], slide[:, 0], slide[:, -1] = (240, 241, 255), (240, 241, 255), (240, 241, 255), (240, 241, 255)
    image = Image.from_array(slide, channels=True)
    np.testing.assert_array_equal(border_value(image), [240, 241, 255])
    warped = warp(image, shift([8.0, 0.0]), image.grid, fill=None)
    assert (warped.data[-3:] == [240, 241, 255]).all()


def test_mask_is_warped_and_false_outside():
    mask = np.zeros((6, 8), dtype=bool)
    mask[:, 2:] = True
    image = Image.from_array(noise((6, 8)), mask=mask)
    warped = warp(image, shift([0.0, 1.0]), image.grid)
    expected = np.zeros((6, 8), dtype=bool)
    expected[:, 1:7] = True
    np.testing.assert_array_equal(warped.mask, expected)


def test_grid_transform_and_image_may_be_in_different_units():
    image = Image(noise((6, 8)), Grid.from_spacing((6, 8), (2.0, 1.0), unit="um"))
    in_mm = image.grid.with_unit("mm")
    warped = warp(image, shift([0.0, 1000.0], "nm"), in_mm, fill=0)
    np.testing.assert_allclose(warped.data[:, :-1], image.data[:, 1:], atol=1e-4)
    assert warped.grid.unit == "mm"
    with pytest.raises(InputError, match="cannot be converted"):
        warp(image, shift([0.0, 1.0], "pixel"), in_mm)


def test_slabs_agree_with_a_single_pass(monkeypatch):
    image = Image(noise((7, 6, 5)), oblique((7, 6, 5)))
    transform = make_family("diffeomorphic")(0.5 * torch.randn(1, 3, 7, 6, 5), image.grid)
    whole = warp(image, transform, image.grid, "cubic")
    monkeypatch.setattr(base, "SLAB_POINTS", 60)
    pieces = warp(image, transform, image.grid, "cubic")
    np.testing.assert_allclose(pieces.data, whole.data, atol=1e-4)
    np.testing.assert_array_equal(pieces.mask, whole.mask)


def test_the_input_is_not_changed():
    data, mask = noise((6, 7)), np.ones((6, 7), dtype=bool)
    data.flags.writeable = mask.flags.writeable = False
    image = Image(data, Grid.from_spacing((6, 7)), mask)
    before = data.copy()
    for interpolation in ("linear", "nearest", "cubic"):
        warped = warp(image, None, image.grid, interpolation)
        warped.data[:] = -1
        np.testing.assert_array_equal(image.data, before)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"interpolation": "sinc"}, "no interpolation 'sinc'"),
        ({"grid": Grid.from_spacing((3, 3, 3))}, "2D and cannot"),
        ({"transform": AffineTransform.identity(3)}, "2D and cannot"),
        ({"fill": 300}, "cannot hold the fill value"),
        ({"fill": float("nan")}, "cannot hold the fill value"),
        ({"fill": (1, 2)}, "2 fill values"),
    ],
)
def test_incompatible_arguments_are_refused_with_a_reason(changes, sentence):
    image = Image.from_array(noise((5, 5), np.uint8))
    arguments = {"image": image, "transform": None, "grid": image.grid, **changes}
    with pytest.raises(InputError, match=sentence):
        warp(**arguments)
