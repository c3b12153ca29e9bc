"""Fits to landmark pairs: against scipy and scikit-image, against brute force, and the verdict on planted mistakes."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import RBFInterpolator

import napari_stnreg as sr
from napari_stnreg.cli import main
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.linalg import affine_matrix, rotation_2d, rotation_from_vector
from napari_stnreg.io.points import write_landmark_pairs, write_points
from napari_stnreg.landmarks.fit import fit_landmarks
from napari_stnreg.transforms.landmark_fit import LANDMARK_FAMILIES


def pairs_of(ndim, count, seed, noise=1.0):
    """Points all over a box of 100, and where a random affine map with noise takes them."""
    rng = np.random.default_rng(seed)
    fixed = rng.random((count, ndim)) * 100
    linear = np.eye(ndim) + 0.2 * rng.standard_normal((ndim, ndim))
    return fixed, fixed @ linear.T + rng.normal(0, 20, ndim) + noise * rng.standard_normal((count, ndim))


@given(
    ndim=st.sampled_from([2, 3]),
    family=st.sampled_from(LANDMARK_FAMILIES),
    count=st.integers(6, 14),
    seed=st.integers(0, 10**6),
    mirror=st.booleans(),
)
def test_leave_one_out_errors_are_those_of_the_fits_without_each_pair(ndim, family, count, seed, mirror):
    fixed, moving = pairs_of(ndim, count, seed)
    fit = fit_landmarks(fixed, moving, family, mirror=mirror)
    for row in range(count):
        keep = np.arange(count) != row
        other = fit_landmarks(fixed[keep], moving[keep], family, mirror=mirror)
        error = np.linalg.norm(other.predict(fixed[[row]])[0] - moving[row])
        assert fit.leave_one_out[row] == pytest.approx(error, rel=1e-6, abs=1e-6)


@given(ndim=st.sampled_from([2, 3]), seed=st.integers(0, 10**6))
def test_thin_plate_fit_is_that_of_scipy(ndim, seed):
    fixed, moving = pairs_of(ndim, 10, seed)
    kernel = "thin_plate_spline" if ndim == 2 else "linear"
    oracle = RBFInterpolator(fixed, moving, kernel=kernel, degree=1)
    where = np.random.default_rng(seed + 1).random((50, ndim)) * 120 - 10
    np.testing.assert_allclose(fit_landmarks(fixed, moving, "tps").predict(where), oracle(where), rtol=1e-6, atol=1e-5)


@given(seed=st.integers(0, 10**6))
def test_linear_fits_are_those_of_scikit_image(seed):
    transform = pytest.importorskip("skimage.transform")
    fixed, moving = pairs_of(2, 8, seed)
    kinds = {"rigid": "EuclideanTransform", "similarity": "SimilarityTransform"}
    for family, name in kinds.items():
        oracle = getattr(transform, name).from_estimate(fixed, moving)
        np.testing.assert_allclose(fit_landmarks(fixed, moving, family).predict(fixed), oracle(fixed), atol=1e-6)


@pytest.mark.parametrize("ndim", [2, 3])
def test_counterparts_are_predicted_from_both_sides(ndim):
    fixed, moving = pairs_of(ndim, 8, 3)
    for family in LANDMARK_FAMILIES:
        fit = fit_landmarks(fixed, moving, family)
        there = fit.predict(fixed + 3)
        np.testing.assert_allclose(fit.predict(there, "moving"), fixed + 3, atol=1e-2)


def rotated(ndim, fixed):
    turn = rotation_2d(0.3) if ndim == 2 else rotation_from_vector([0.2, -0.3, 0.4])
    return fixed @ affine_matrix(1.2 * turn)[:-1, :-1].T + 5


@pytest.mark.parametrize(("ndim", "family"), list(itertools.product([2, 3], LANDMARK_FAMILIES[1:])))
def test_verdict_names_a_misplaced_pair(ndim, family):
    rng = np.random.default_rng(5)
    fixed = rng.random((14, ndim)) * 100
    moving = rotated(ndim, fixed) / (1.2 if family == "rigid" else 1) + 0.5 * rng.standard_normal((14, ndim))
    clean = fit_landmarks(fixed, moving, family)
    assert (clean.verdict, clean.outlier) == ("good", None)
    moving[9] += 40
    fit = fit_landmarks(fixed, moving, family)
    assert fit.verdict == "doubtful"
    assert (fit.worst, fit.outlier) == (9, 9)
    assert "Pair 10" in " ".join(fit.reasons)


def test_pairs_in_another_order_fail():
    rng = np.random.default_rng(2)
    fixed = rng.random((12, 2)) * 100
    assert fit_landmarks(fixed, np.roll(fixed, 5, axis=0), "similarity").verdict == "failed"


def test_fit_without_spare_pairs_reports_missing_check():
    fixed, moving = pairs_of(2, 3, 0)
    fit = fit_landmarks(fixed, moving, "affine")
    assert fit.verdict == "doubtful"
    assert np.isnan(fit.leave_one_out).all()
    assert "No pair can be checked" in fit.reasons[0]


def test_too_few_pairs_are_fitted_by_a_simpler_family_only_on_request():
    fixed, moving = pairs_of(2, 2, 0)
    with pytest.raises(sr.InputError, match="At least 3"):
        sr.fit_landmarks(fixed, moving, "affine")
    fit = sr.fit_landmarks(fixed, moving, "affine", simplify=True)
    assert fit.family == "similarity"
    assert "needs at least 3" in fit.reasons[0]
    line = np.array([(0, 0), (10, 10), (20, 20), (30, 30.0)])
    assert sr.fit_landmarks(line, line + 4, "tps", simplify=True).family == "similarity"


def test_crossed_points_of_a_spline_fold():
    square = np.array([(0, 0), (0, 30), (30, 0), (30, 30), (14, 15), (16, 15.0)])
    crossed = square.copy()
    crossed[[4, 5]] = crossed[[5, 4]] + [(20, 0), (-20, 0)]
    fit = sr.fit_landmarks(square, crossed, "tps", grid=Grid.from_spacing((31, 31)))
    assert fit.folding_fraction > 0
    assert any("folds" in reason for reason in fit.reasons)


def test_fit_warps_saves_and_loads_like_a_result(tmp_path):
    image = np.zeros((40, 40), np.uint8)
    image[10:20, 12:22] = 200
    points = np.array([(10, 12), (10, 21), (19, 12), (19, 21.0)])
    fit = sr.fit_landmarks(points + 5, points, "translation", grid=sr.as_image(image).grid)
    np.testing.assert_array_equal(sr.warp(image, fit, image).data[15:25, 17:27], 200)
    loaded = sr.load_transform(fit.save(tmp_path / "t.safetensors"))
    np.testing.assert_allclose(loaded.map_points(points + 5), points)
    np.testing.assert_allclose(sr.load_transform(fit.save(tmp_path / "t.tfm")).map_points(points + 5), points)


# -- the command


@pytest.mark.parametrize("form", ["table", "bigwarp", "two csv", "fcsv", "mrk.json"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_command_fits_files_of_every_program(tmp_path, capsys, form, ndim):
    fixed, moving = pairs_of(ndim, 7, 1, noise=0)
    files = [tmp_path / "fixed.csv"]
    if form in ("table", "bigwarp"):
        write_landmark_pairs(files[0], fixed, moving, dialect=form)
    else:
        ending = "csv" if form == "two csv" else form
        files = [tmp_path / f"{side}.{ending}" for side in ("fixed", "moving")]
        for path, points in zip(files, (fixed, moving), strict=True):
            write_points(path, points)
    if form in ("fcsv", "mrk.json") and ndim == 2:
        import imageio.v3 as imageio

        for side in ("fixed", "moving"):
            imageio.imwrite(tmp_path / f"{side}.png", np.zeros((5, 5), np.uint8))
        files += ["--fixed", tmp_path / "fixed.png", "--moving", tmp_path / "moving.png"]
    out, report = tmp_path / "out.safetensors", tmp_path / "report.json"
    words = ["fit-landmarks", *map(str, files), "-o", str(out), "--report", str(report)]
    assert main(words) == 0
    assert "leave-one-out" in capsys.readouterr().out
    np.testing.assert_allclose(sr.load_transform(out).map_points(fixed), moving, atol=1e-5)
    assert len(json.loads(report.read_text())["pairs"]) == 7
    assert main(words) == 2  # nothing is overwritten


def test_command_refuses_what_does_not_pair(tmp_path, capsys):
    write_points(tmp_path / "a.csv", np.zeros((3, 2)))
    write_points(tmp_path / "b.csv", np.zeros((4, 2)))
    words = [str(tmp_path / "a.csv"), str(tmp_path / "b.csv"), "-o", str(tmp_path / "t.safetensors")]
    assert main(["fit-landmarks", *words]) == 2
    assert "3 fixed and 4 moving" in capsys.readouterr().err
    assert not (tmp_path / "t.safetensors").exists()
