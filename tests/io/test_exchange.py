"""Transforms in other programs' files, checked against SimpleITK: points, and whole images warped by it."""

from __future__ import annotations

import re
import sys
import warnings

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.spatial.transform import Rotation

import napari_stnreg as sr
from napari_stnreg.core.grid import Grid
from napari_stnreg.io.exchange.coordinate_convention import CoordinateConvention
from napari_stnreg.io.exchange.itk import from_itk
from napari_stnreg.transforms import (
    AffineTransform,
    BSplineTransform,
    ChainTransform,
    DisplacementTransform,
    chain,
    make_family,
)
from napari_stnreg.transforms.bspline import BSplineFamily
from tests.helpers.exchange_scenes import bent, inner_points, theirs_of, turn
from tests.resampling.test_applying import FAMILIES, smooth

VOXEL = 0.01
"""Largest accepted distance between points, in voxels."""


def texture(points: np.ndarray) -> np.ndarray:
    """Smooth brightness at world points, so that interpolation hardly matters."""
    z, y, x = np.moveaxis(points, -1, 0) if points.shape[-1] == 3 else (0, *np.moveaxis(points, -1, 0))
    return (np.sin(x / 7) + np.cos(y / 6 + 1) + np.sin(z / 8 + x / 19)).astype(np.float32)


@pytest.fixture(scope="module")
def scanner(tmp_path_factory):
    """Two NIfTI files in different orientations, oblique, of different voxel size; as files and as we read them."""
    folder = tmp_path_factory.mktemp("scanner")
    pairs = {}
    for name, shape, axes, voxel, origin, bend in (
        ("fixed", (22, 26, 24), (1, 2, 0), (2.0, 1.5, 1.8), (-20.0, 12, 30), turn(0, 0.2)),
        ("moving", (30, 28, 32), (0, 1, 2), (1.7, 1.7, 1.4), (20.0, -30, -10), turn(2, -0.15)),
    ):
        affine = np.eye(4)
        flips = (-1, 1, -1) if name == "fixed" else (1, -1, 1)
        affine[:3, :3] = bend @ np.eye(3)[:, axes] @ np.diag(np.array(voxel) * flips)
        middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2)
        affine[:3, 3] = np.array(origin) * 0.1 - middle
        index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
        world = index @ affine[:3, :3].T + affine[:3, 3]
        image = nib.Nifti1Image(texture(world[..., ::-1]), affine)
        image.header.set_xyzt_units("mm")
        nib.save(image, folder / f"{name}.nii.gz")
        pairs[name] = sr.read(folder / f"{name}.nii.gz")
    return folder, pairs["fixed"], pairs["moving"]


def lps(points: np.ndarray) -> np.ndarray:
    return points[..., ::-1] * [-1, -1, 1]


@pytest.mark.parametrize(
    ("name", "ending"),
    [(name, ending) for name in (*FAMILIES, "chain") for ending in (".h5", ".nii.gz")]
    + [("inverse", ".h5"), ("chain", ".tfm"), ("affine", ".txt")],
)
def test_itk_given_the_same_nifti_files_and_our_transform_gets_our_warped_image(scanner, tmp_path, name, ending):
    folder, fixed, moving = scanner
    transform = bent(name, fixed.grid).with_coordinate_systems("scanner", "scanner")
    path = sr.save(transform, tmp_path / f"t{ending}", grid=fixed.grid)
    if ending == ".nii.gz":
        theirs = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    else:
        theirs = sitk.ReadTransform(str(path))
    points = fixed.grid.points().reshape(-1, 3)[:: 37 if name == "inverse" else 7]
    mapped = np.array([theirs.TransformPoint(p) for p in lps(points)])
    away = np.linalg.norm(mapped - lps(transform.map_points(points)), axis=1) / fixed.grid.spacing.min()
    assert away.max() < VOXEL

    still, other = (sitk.ReadImage(str(folder / f"{n}.nii.gz")) for n in ("fixed", "moving"))
    picture = sitk.Resample(other, still, theirs, sitk.sitkLinear, -9.0)
    sitk.WriteImage(picture, str(tmp_path / "theirs.nii.gz"))
    warped = sr.warp(moving, transform, fixed.grid, fill=-9)
    seen = sr.read(tmp_path / "theirs.nii.gz")
    assert seen.grid == warped.grid or np.allclose(seen.grid.matrix, warped.grid.matrix, atol=1e-5)
    # ITK ends half a voxel outside the outer centers as we do; a voxel on that edge may fall to either side.
    both = (seen.data != -9) & (warped.data != -9)
    assert both.mean() > 0.5
    assert (seen.data != -9).mean() == pytest.approx((warped.data != -9).mean(), abs=2e-3)
    steepest = 0.9 * moving.grid.spacing.max() / 6  # brightness a voxel
    assert np.abs(seen.data - warped.data)[both].max() < VOXEL * steepest * 2


@pytest.mark.parametrize("name", [*FAMILIES, "chain"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_other_layers_become_x_y_z_without_a_flip(tmp_path, name, ndim):
    grid = Grid.from_spacing((22, 24, 20)[-ndim:], (1.5, 2.0, 1.0)[-ndim:], (5, -7, 11)[-ndim:], unit="um")
    transform = bent(name, grid)
    theirs = sitk.ReadTransform(str(sr.save(transform, tmp_path / "t.h5", grid=grid)))
    moving = sr.Image(texture(grid.points()), grid)
    pictures = []
    for values in (moving.data, moving.data):
        pictures.append(sitk.GetImageFromArray(values))
        pictures[-1].SetSpacing(grid.spacing[::-1].tolist())
        pictures[-1].SetOrigin(grid.origin[::-1].tolist())
    picture = sitk.GetArrayFromImage(sitk.Resample(*pictures, theirs, sitk.sitkLinear, -9.0))
    warped = sr.warp(moving, transform, grid, fill=-9).data
    both = (picture != -9) & (warped != -9)
    assert both.mean() > 0.5
    assert np.abs(picture - warped)[both].max() < 0.01
    points = grid.points().reshape(-1, ndim)[::5]
    mapped = np.array([theirs.TransformPoint(p) for p in points[:, ::-1]])[:, ::-1]
    assert np.abs(mapped - transform.map_points(points)).max() < VOXEL * grid.spacing.min()
    again = sr.load(tmp_path / "t.h5")
    assert (again.unit, again.coordinate_systems) == ("um", ("world", "world"))
    np.testing.assert_allclose(again.map_points(points), transform.map_points(points), atol=VOXEL)


def test_a_nifti_image_and_a_plain_one_are_each_in_their_own_space(tmp_path):
    matrix = np.eye(4)
    matrix[:3, 3] = (1, 2, 3)
    transform = AffineTransform(matrix, "mm").with_coordinate_systems("scanner", "world")
    theirs = sitk.ReadTransform(str(sr.save(transform, tmp_path / "t.tfm")))
    np.testing.assert_allclose(theirs.TransformPoint([-10.0, -20, 30]), [13, 22, 31])
    again = sr.load(tmp_path / "t.tfm")
    assert again.coordinate_systems == ("scanner", "world")
    np.testing.assert_allclose(again.as_matrix(), matrix, atol=1e-12)


KINDS = (
    "euler", "euler2d", "versor", "similarity", "translation", "scale", "ScaleVersor3D", "ScaleSkewVersor3D",
    "ComposeScaleSkewVersor3D", "affine", "bspline", "field", "composite",
)  # fmt: skip


def test_composites_within_composites_are_unfolded():
    inner = sitk.CompositeTransform([theirs_of("affine"), theirs_of("field")])
    theirs = sitk.CompositeTransform([theirs_of("euler"), inner, theirs_of("bspline")])
    points = inner_points(3)
    expected = np.array([theirs.TransformPoint(p) for p in points])
    np.testing.assert_allclose(from_itk(theirs).map_points(points), expected, atol=1e-6)


@pytest.mark.parametrize("ending", [".tfm", ".h5"])
@pytest.mark.parametrize("kind", KINDS)
def test_itks_transforms_move_points_as_itk_does(tmp_path, kind, ending):
    theirs = theirs_of(kind)
    sitk.WriteTransform(theirs, str(tmp_path / f"t{ending}"))
    ndim = theirs.GetDimension()
    points = inner_points(ndim)
    expected = np.array([theirs.TransformPoint(p) for p in points])
    np.testing.assert_allclose(from_itk(theirs).map_points(points), expected, atol=1e-6)
    plain = sr.load(tmp_path / f"t{ending}", space="world", unit="um")
    assert (plain.unit, plain.ndim) == ("um", ndim)
    np.testing.assert_allclose(plain.map_points(points[:, ::-1])[:, ::-1], expected, atol=1e-6)
    if ndim == 3:
        scanner = sr.load(tmp_path / f"t{ending}")  # what most 3D files are
        assert (scanner.unit, scanner.coordinate_systems) == ("mm", ("scanner", "scanner"))
        ours = scanner.map_points(points[:, ::-1] * [1, -1, -1])
        np.testing.assert_allclose(lps(ours), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["affine", "bspline", "field", "composite"])
def test_our_image_warped_by_their_transform_is_theirs(scanner, tmp_path, kind):
    folder, fixed, moving = scanner
    theirs = theirs_of(kind)
    sitk.WriteTransform(theirs, str(tmp_path / "t.h5"))
    still, other = (sitk.ReadImage(str(folder / f"{n}.nii.gz")) for n in ("fixed", "moving"))
    sitk.WriteImage(sitk.Resample(other, still, theirs, sitk.sitkLinear, -9.0), str(tmp_path / "theirs.nii.gz"))
    seen = sr.read(tmp_path / "theirs.nii.gz").data
    ours = sr.warp(moving, sr.load(tmp_path / "t.h5", fixed=fixed, moving=moving), fixed.grid, fill=-9).data
    # Beyond its border a field of ITK's ends where ours runs on: only the inside is the same.
    middle = (slice(7, -7),) * 3
    seen, ours = seen[middle], ours[middle]
    both = (seen != -9) & (ours != -9)
    assert both.mean() > 0.9
    assert np.abs(seen - ours)[both].max() < 0.01


@pytest.mark.parametrize("ndim", [2, 3])
def test_displacement_fields_go_through_nifti_both_ways(tmp_path, ndim):
    theirs = theirs_of("field", ndim)
    sitk.WriteImage(theirs.GetDisplacementField(), str(tmp_path / "theirs.nii.gz"))
    theirs = theirs_of("field", ndim)  # the first gave its field away
    points = inner_points(ndim)
    expected = np.array([theirs.TransformPoint(p) for p in points])
    loaded = sr.load(tmp_path / "theirs.nii.gz", space="world")
    np.testing.assert_allclose(loaded.map_points(points[:, ::-1])[:, ::-1], expected, atol=1e-4)
    path = sr.save(loaded, tmp_path / "ours.nii")
    again = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    np.testing.assert_allclose([again.TransformPoint(p) for p in points], expected, atol=1e-4)
    header = nib.load(path).header
    assert int(header["intent_code"]) == 1007
    assert header.get_data_shape()[3:] == (1, ndim)
    assert sr.load(path).coordinate_systems == ("world", "world")


def test_field_marked_as_ras_is_read_like_itk(tmp_path):
    sitk.WriteImage(theirs_of("field").GetDisplacementField(), str(tmp_path / "a.nii"))
    image = nib.load(tmp_path / "a.nii")
    image.header.set_intent(1006)
    nib.save(image, tmp_path / "b.nii")
    theirs = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / "b.nii"), sitk.sitkVectorFloat64))
    points = inner_points(3)
    expected = np.array([theirs.TransformPoint(p) for p in points])
    found = sr.load(tmp_path / "b.nii", space="world").map_points(points[:, ::-1])[:, ::-1]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_fields_and_images_in_micrometers_are_converted_to_millimeters(tmp_path):
    """ITK reads every NIfTI file in millimeters; our world of one in micrometers stays in micrometers."""
    rng = np.random.default_rng(0)
    affine = np.diag([3.0, 2, 2, 1])
    image = nib.Nifti1Image(rng.random((9, 10, 11)).astype(np.float32), affine)
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "a.nii.gz")
    ours = sr.read(tmp_path / "a.nii.gz")
    assert ours.grid.unit == "um"
    matrix = np.eye(4)
    matrix[:3, 3] = (2.0, -1, 3)
    transform = AffineTransform(matrix, "um").with_coordinate_systems("scanner", "scanner")
    theirs = sitk.ReadTransform(str(sr.save(transform, tmp_path / "t.tfm")))
    np.testing.assert_allclose(theirs.GetTranslation(), [-0.003, 0.001, 0.002])
    assert sr.load(tmp_path / "t.tfm").unit == "um"
    np.testing.assert_allclose(sr.load(tmp_path / "t.tfm").as_matrix(), matrix, atol=1e-9)


def test_registration_of_nifti_files_records_its_space(scanner, tmp_path):
    _, fixed, moving = scanner
    result = sr.register(fixed, moving, family="translation", preset="fast", iterations=3, start="center", device="cpu")
    assert result.transform.coordinate_systems == ("scanner", "scanner")
    theirs = sitk.ReadTransform(str(sr.save(result, tmp_path / "t.tfm")))
    shift = result.transform.as_matrix()[:3, 3]
    np.testing.assert_allclose(theirs.TransformPoint([0.0, 0, 0]), lps(shift), atol=1e-9)
    own = sr.save(result, tmp_path / "t.safetensors")
    assert sr.load(own).coordinate_systems == ("scanner", "scanner")


def test_points_outside_a_field_are_kept_in_a_chain(tmp_path):
    """ITK's fields end at their border; ours run on, and a chain may ask there."""
    grid = Grid.from_spacing((12, 12))
    field = DisplacementTransform(torch.full((1, 2, 12, 12), 3.0, dtype=torch.float64), grid)
    away = np.eye(3)
    away[:2, 2] = (8, 0)
    transform = chain(AffineTransform(away), field, AffineTransform(np.diag([1.0, 2, 1])), smooth("bspline", grid))
    theirs = sitk.ReadTransform(str(sr.save(transform, tmp_path / "t.h5", grid=grid)))
    points = grid.points().reshape(-1, 2)
    mapped = np.array([theirs.TransformPoint(p[::-1]) for p in points])[:, ::-1]
    assert np.abs(mapped - transform.map_points(points)).max() < 0.05


def test_linear_maps_and_splines_stay_what_they_are(tmp_path):
    grid = Grid.from_spacing((20, 24), unit="um")
    for name, kind in (("affine", AffineTransform), ("bspline", BSplineTransform)):
        again = sr.load(sr.save(smooth(name, grid), tmp_path / "t.tfm"))
        assert isinstance(again, kind)
    both = sr.load(sr.save(chain(smooth("bspline", grid), smooth("affine", grid)), tmp_path / "t.h5"))
    assert isinstance(both, ChainTransform)
    assert [part.family for part in both.parts] == ["bspline", "affine"]
    shear = np.array([[1, 0.3, 0], [0, 1, 0], [0, 0, 1.0]])
    control = smooth("bspline", grid).control_grid
    sheared = BSplineTransform(torch.randn(1, 2, *control.shape).double(), Grid(control.shape, shear @ control.matrix))
    theirs = sitk.ReadTransform(str(sr.save(sheared, tmp_path / "s.h5")))
    inner = control.shape[0] * 3.0, control.shape[1] * 2.0
    expected = sheared.map_points([inner])[0]
    np.testing.assert_allclose(theirs.TransformPoint(inner[::-1])[::-1], expected, atol=0.05)


def test_missing_library_is_reported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nitransforms.io.lta", None)
    (tmp_path / "t.lta").write_text("type = 0")
    with pytest.raises(
        sr.InputError, match=r"nitransforms, which is not installed. Run: pip install 'napari-stnreg\[exch"
    ):
        sr.load(tmp_path / "t.lta")


def test_files_that_are_no_transforms_are_refused(tmp_path):
    (tmp_path / "a.tfm").write_text("Lorem ipsum")
    (tmp_path / "a.txt").write_text("Lorem ipsum")
    (tmp_path / "a.h5").write_bytes(b"\x00" * 100)
    (tmp_path / "a.nii").write_bytes(b"\x00" * 100)
    for name in ("a.tfm", "a.txt", "a.h5", "a.nii"):
        with pytest.raises(sr.InputError, match="cannot be read"):
            sr.load(tmp_path / name)
    with pytest.raises(sr.InputError, match="does not exist"):
        sr.load(tmp_path / "none.tfm")
    with pytest.raises(sr.InputError, match="unsupported extension for a transform"):
        sr.load(tmp_path / "t.jpg")
    with pytest.raises(sr.InputError, match="unsupported extension for a transform"):
        sr.save(AffineTransform.identity(2), tmp_path / "t.lta")
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4)), tmp_path / "i.nii")
    with pytest.raises(sr.InputError, match="Is it an image"):
        sr.load(tmp_path / "i.nii")
    with pytest.raises(sr.InputError, match="no voxels of its own"):
        sr.save(AffineTransform.identity(2), tmp_path / "t.nii")
    with pytest.raises(sr.InputError, match="does not exist"):
        sr.save(AffineTransform.identity(2), tmp_path / "none" / "t.tfm")
    with pytest.raises(sr.InputError, match="no space 'moon'"):
        CoordinateConvention.told(3, space="moon")
    four = sitk.TranslationTransform(2)
    sitk.WriteTransform(four, str(tmp_path / "t.tfm"))
    assert sr.load(tmp_path / "t.tfm").unit == "pixel"


def test_pixels_are_no_millimeters(tmp_path):
    transform = AffineTransform.identity(3).with_coordinate_systems("scanner", "scanner")
    with pytest.raises(sr.InputError, match="cannot be converted"):
        sr.save(transform, tmp_path / "t.tfm")
    assert make_family("affine")


def _bspline_chain(grid, seed, amplitude):
    """Levels of B-splines that move points beyond each other's control lattices, then an affine map."""
    rng = np.random.default_rng(seed)
    parts = []
    for spacing in (16.0, 8.0):
        family = BSplineFamily(spacing, grid)
        theta = torch.from_numpy(rng.normal(0, amplitude, (1, *family.parameter_shape(grid))))
        parts.append(family(theta, grid))
    matrix = np.eye(grid.ndim + 1)
    matrix[:-1, :-1] += rng.normal(0, 0.02, (grid.ndim, grid.ndim))
    matrix[:-1, -1] = 4 * grid.spacing.min()
    return chain(*parts, AffineTransform(matrix, grid.unit))


def _thick_oblique():
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", [12, -20, 8], degrees=True).as_matrix() @ np.diag([5, 0.9, 0.9])
    matrix[:3, 3] = -40, 20, 7
    return Grid((10, 48, 44), matrix, "mm")


@pytest.mark.parametrize(("kind", "ending"), [("flat", "tfm"), ("thick and oblique", "h5")])
def test_chains_of_bsplines_are_right_inside_and_at_the_borders(tmp_path, kind, ending):
    grid = Grid.from_spacing((90, 110), unit="pixel") if kind == "flat" else _thick_oblique()
    transform = _bspline_chain(grid, 3, 4.0 if kind == "flat" else 2.0).with_domain(grid)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        path = sr.save(transform, tmp_path / f"t.{ending}", grid=grid)
    theirs = sitk.ReadTransform(str(path))
    rng = np.random.default_rng(0)
    last = np.asarray(grid.shape) - 1
    inside = rng.uniform(0, last, (1500, grid.ndim))
    borders = np.where(rng.random(inside.shape) < 0.5, np.rint(rng.random(inside.shape)) * last, inside)
    points = grid.to_world(np.concatenate([inside, borders]))
    mapped = np.array([theirs.TransformPoint(p) for p in points[:, ::-1].tolist()])[:, ::-1]
    error = np.linalg.norm(mapped - transform.map_points(points), axis=1).max() / grid.spacing.min()
    assert error < 0.1
    # What is stated is what is found, and it is announced if it is more than a trifle.
    text = path.read_bytes().decode("latin-1")
    stated = float(re.search(r"error=([\d.e-]+)", text)[1])
    assert error < 2 * stated + 0.005
    assert any("up to" in str(one.message) for one in caught) is (stated > 0.02)
