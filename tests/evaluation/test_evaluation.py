"""The scores, against scikit-image, SimpleITK, scipy and values known by hand."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import metrics

from napari_stnreg import evaluation as ev
from napari_stnreg.core.errors import InputError


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    fixed = ndimage.gaussian_filter(rng.random((30, 28)), 1.5)
    moved = ndimage.gaussian_filter(np.roll(fixed, 1, 0) + 0.05 * rng.random((30, 28)), 0.5)
    return fixed, moved


@pytest.fixture
def blobs():
    """Two label images in 3D with three labels each."""
    rng = np.random.default_rng(1)
    first = np.digitize(ndimage.gaussian_filter(rng.random((14, 16, 12)), 2), (0.47, 0.5, 0.53))
    return first, np.roll(first, (1, 2, 0), (0, 1, 2))


def test_overlaps_are_those_of_simpleitk(blobs):
    first, second = blobs
    found = ev.dice(first, second), ev.jaccard(first, second)
    theirs = sitk.LabelOverlapMeasuresImageFilter()
    theirs.Execute(*(sitk.GetImageFromArray(v.astype(np.uint8)) for v in blobs))
    assert set(found[0]) == {1, 2, 3}
    for label in (1, 2, 3):
        assert found[0][label] == pytest.approx(theirs.GetDiceCoefficient(label))
        assert found[1][label] == pytest.approx(theirs.GetJaccardCoefficient(label))


def test_a_label_that_vanished_counts_zero_and_one_that_never_was_is_unknown():
    first, second = np.array([[1, 1], [2, 0]]), np.array([[1, 1], [0, 0]])
    assert ev.dice(first, second) == {1: 1.0, 2: 0.0}
    assert ev.jaccard(first, second, [2]) == {2: 0.0}
    assert np.isnan(ev.dice(first, second, [7])[7])
    assert ev.dice(first == 1, second == 1) == {1: 1.0}


def test_common_labels_need_enough_voxels_on_both_sides():
    first, second = np.array([0, 1, 1, 2, 2, 3]), np.array([0, 1, 1, 2, 4, 3])
    assert ev.common_labels(first, second) == [1, 2, 3]
    assert ev.common_labels(first, second, minimum=2) == [1]


@pytest.mark.parametrize("spacing", [1.0, (2.0, 0.5, 1.0)])
def test_hausdorff_is_that_of_simpleitk(blobs, spacing):
    first, second = (v == 2 for v in blobs)
    theirs = sitk.HausdorffDistanceImageFilter()
    pictures = []
    for mask in (first, second):
        # SimpleITK measures from the object, not its boundary: give it the boundary.
        edge = mask & ~ndimage.binary_erosion(mask)
        pictures.append(sitk.GetImageFromArray(edge.astype(np.uint8)))
        pictures[-1].SetSpacing(np.broadcast_to(spacing, 3)[::-1].astype(float).tolist())
    theirs.Execute(*pictures)
    assert ev.hausdorff95(first, second, spacing, percentile=100) == pytest.approx(theirs.GetHausdorffDistance())
    assert 0 < ev.hausdorff95(first, second, spacing) <= theirs.GetHausdorffDistance()


def test_surface_distances_of_two_plates_and_of_a_square_in_a_square():
    plates = np.zeros((2, 20, 9, 9), bool)
    plates[0, 4], plates[1, 10] = True, True
    spacing = (0.5, 3.0, 3.0)
    assert ev.hausdorff95(*plates, spacing) == pytest.approx(3.0)
    assert ev.mean_surface_distance(*plates, spacing) == pytest.approx(3.0)
    assert ev.mean_surface_distance(plates[0], plates[0]) == 0
    outer, inner = np.zeros((11, 11), bool), np.zeros((11, 11), bool)
    outer[1:10, 1:10], inner[3:8, 3:8] = True, True
    there, back = ev.surface_distances(outer, inner)
    assert len(there) == 32
    assert len(back) == 16
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (outer, inner)]
    assert metrics.hausdorff_distance(*edges) == pytest.approx(there.max())
    assert back.max() == 2
    assert ev.hausdorff95(outer, inner) == pytest.approx(np.percentile(there, 95))
    assert ev.mean_surface_distance(outer, inner) == pytest.approx((there.sum() + back.sum()) / 48)


def test_distances_to_an_empty_mask_are_unknown():
    mask = np.ones((3, 3), bool)
    assert np.isnan(ev.hausdorff95(mask, ~mask))
    assert np.isnan(ev.mean_surface_distance(~mask, mask))


def test_intensity_scores_are_those_of_scikit_image(images):
    fixed, moved = images
    span = np.ptp(fixed)
    assert ev.mse(fixed, moved) == pytest.approx(metrics.mean_squared_error(fixed, moved))
    expected = metrics.peak_signal_noise_ratio(fixed, moved, data_range=span)
    assert ev.psnr(fixed, moved) == pytest.approx(expected)
    correlation = np.corrcoef(fixed.ravel(), moved.ravel())[0, 1]
    for scale in (1, 1e-6, 1e-12, 1e9):
        assert ev.ncc(fixed * scale, moved * scale) == pytest.approx(correlation)
    assert ev.ssim(fixed, moved) == pytest.approx(metrics.structural_similarity(fixed, moved, data_range=span))
    expected = metrics.normalized_mutual_information(fixed, moved, bins=32)
    assert ev.mutual_information(fixed, moved, normalized=True) == pytest.approx(expected)


def test_ssim_in_three_dimensions_and_in_small_images():
    a, b = np.random.default_rng(3).random((2, 9, 8, 10))
    assert ev.ssim(a, b) == pytest.approx(metrics.structural_similarity(a, b, data_range=np.ptp(a)))
    assert ev.ssim(a[:4], a[:4]) == pytest.approx(1)
    expected = metrics.structural_similarity(a[:4], b[:4], data_range=np.ptp(a[:4]), win_size=3)
    assert ev.ssim(a[:4], b[:4]) == pytest.approx(expected)
    mask = np.zeros(a.shape, bool)
    mask[3:6, 3:5, 3:7] = True
    _, values = metrics.structural_similarity(a, b, data_range=np.ptp(a), full=True)
    assert ev.ssim(a, b, mask) == pytest.approx(values[mask].mean())


def test_mutual_information_of_equal_halves_is_log_two():
    a = np.repeat([0.0, 1.0], 50)
    assert ev.mutual_information(a, 1 - a) == pytest.approx(np.log(2))
    assert ev.mutual_information(a, np.tile([0.0, 1.0], 50)) == pytest.approx(0)


def plain_local_ncc(a, b, known, radius):
    """Window by window."""
    found = []
    for at in np.argwhere(known):
        box = tuple(slice(max(0, i - radius), i + radius + 1) for i in at)
        inside = known[box]
        found.append(np.corrcoef(a[box][inside], b[box][inside])[0, 1] ** 2)
    return np.nanmean(found)


@pytest.mark.parametrize("radius", [1, 3])
def test_local_correlation_matches_its_definition(images, radius):
    fixed, moved = images
    known = ndimage.gaussian_filter(np.random.default_rng(5).random(fixed.shape), 2) > 0.49
    known = ndimage.binary_opening(known, np.ones((3, 3)))
    assert 100 < known.sum() < known.size
    everywhere = np.ones_like(known)
    assert ev.local_ncc(fixed, moved, radius=radius) == pytest.approx(plain_local_ncc(*images, everywhere, radius))
    found = ev.local_ncc(fixed, moved, known, radius)
    assert found == pytest.approx(plain_local_ncc(fixed, moved, known, radius))
    assert ev.local_ncc(fixed, 5 - 2 * fixed) == pytest.approx(1)


@pytest.mark.parametrize("score", [ev.mse, ev.psnr, ev.ncc, ev.local_ncc, ev.mutual_information])
def test_masked_voxels_do_not_count(images, score):
    fixed, moved = images
    mask = np.zeros(fixed.shape, bool)
    mask[5:20, 8:25] = True
    dirty = np.where(mask, moved, 1e6)
    assert score(np.where(mask, fixed, -1e6), dirty, mask) == pytest.approx(score(fixed, moved, mask))
    if score is not ev.local_ncc:  # whose windows change with the mask
        assert score(fixed, moved, mask) == pytest.approx(score(fixed[5:20, 8:25], moved[5:20, 8:25]))


def test_scores_of_constant_or_absent_images_do_not_fail():
    flat, nothing = np.full((9, 9), 2.0), np.zeros((9, 9), bool)
    scores = ev.compare(flat, flat)
    assert scores["mse"] == 0
    assert scores["psnr"] == np.inf
    assert np.isnan(scores["ncc"])
    assert np.isnan(scores["local_ncc"])
    assert scores["ssim"] == pytest.approx(1)
    assert all(np.isnan(v) for v in ev.compare(flat, flat, nothing).values())


def test_compare_leaves_out_values_that_are_not_finite(images):
    fixed, moved = images
    broken = moved.copy()
    broken[:4] = np.nan
    scores = ev.compare(fixed, broken)
    assert scores["ncc"] == pytest.approx(ev.ncc(fixed[4:], moved[4:]))
    assert all(np.isfinite(v) for v in scores.values())
    assert set(scores) >= {"mse", "ncc", "local_ncc", "mutual_information", "ssim"}
    with pytest.raises(InputError, match=r"\(30, 28\) and \(3, 3\)"):
        ev.compare(fixed, np.zeros((3, 3)))


def test_landmark_errors_are_distances_also_relative_to_the_diagonal():
    error = ev.landmark_error([[0, 0], [3, 4], [0, 1]], [[0, 0], [0, 0], [0, 0]], diagonal=50)
    np.testing.assert_allclose(error.each, [0, 5, 1])
    assert (error.mean, error.median, error.max) == (2, 1, 5)
    np.testing.assert_allclose(error.relative, [0, 0.1, 0.02])
    assert error.to_dict()["relative_median"] == pytest.approx(0.02)
    assert "relative_mean" not in ev.landmark_error([[0, 0]], [[0, 1]]).to_dict()
    with pytest.raises(InputError, match="paired"):
        ev.landmark_error(np.zeros((3, 2)), np.zeros((2, 2)))


@settings(max_examples=20, deadline=None)
@given(
    values=st.lists(st.floats(-0.5, 0.5), min_size=9, max_size=9),
    spacing=st.tuples(*[st.floats(0.3, 3)] * 3),
    ndim=st.sampled_from([2, 3]),
)
def test_the_determinant_of_an_affine_field_is_exact(values, spacing, ndim):
    matrix = np.reshape(values, (3, 3))[:ndim, :ndim]
    grid = np.stack(
        np.meshgrid(*(np.arange(n) * s for n, s in zip((4, 5, 6)[:ndim], spacing, strict=False)), indexing="ij")
    )
    u = np.einsum("ij,j...->i...", matrix, grid) - 3
    expected = np.linalg.det(np.eye(ndim) + matrix)
    np.testing.assert_allclose(ev.jacobian_determinant(u, spacing[:ndim]), expected, atol=1e-9)


def test_the_determinant_is_that_of_simpleitk():
    u = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(3, 9, 10, 11)), (0, 2, 2, 2)) * 8
    field = sitk.GetImageFromArray(np.moveaxis(u[::-1], 0, -1), isVector=True)  # their vectors are (x, y, z)
    field.SetSpacing((0.5, 1.0, 2.0))
    theirs = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field))
    inside = (slice(1, -1),) * 3
    np.testing.assert_allclose(ev.jacobian_determinant(u, (2.0, 1.0, 0.5))[inside], theirs[inside], rtol=1e-5)


def test_the_folding_fraction_leaves_out_the_border():
    determinant = np.ones((20, 20))
    determinant[:4] = -1
    determinant[10, 10:13] = (0, -1, 1e-9)
    assert ev.folding_fraction(determinant) == pytest.approx(2 / 144)
    assert ev.folding_fraction(determinant, border=0) == pytest.approx(82 / 400)
    assert ev.folding_fraction(-np.ones((6, 20))) == 0  # a mirrored image
    with pytest.raises(InputError, match="2 components"):
        ev.jacobian_determinant(np.zeros((3, 5, 5)))
