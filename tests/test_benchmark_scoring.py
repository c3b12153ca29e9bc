"""The benchmark's measures, on arrays small enough to work out by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

# The benchmark is not part of the installed package: it lies at the top of the repository.
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmark import data, report, scoring


def still(*shape: int) -> np.ndarray:
    """A displacement of nothing."""
    return np.zeros((len(shape), *shape))


def square(low: int, label: int = 1) -> np.ndarray:
    """A labeled 8x8 square in a 24x24 image."""
    labels = np.zeros((24, 24), np.uint8)
    labels[low : low + 8, 8:16] = label
    return labels


def test_dice_of_a_half_shifted_square_is_one_half_and_recovers():
    fixed, moving = square(4), square(8)
    field = still(24, 24)
    assert scoring.dice(fixed, scoring.warp_labels(moving, field), [1]) == 0.5
    field[0] = 4  # a fixed point goes four rows down to find its partner
    assert scoring.dice(fixed, scoring.warp_labels(moving, field), [1]) == 1.0


def test_labels_are_pulled_by_nearest_neighbor_and_nothing_comes_from_outside():
    moving = square(0, label=7)
    field = still(24, 24)
    field[0] = -0.4
    assert np.array_equal(scoring.warp_labels(moving, field), moving)
    field[0] = -3
    assert (scoring.warp_labels(moving, field)[:3] == 0).all()
    field[0] = np.nan
    assert (scoring.warp_labels(moving, field) == 0).all()


def test_label_needs_thirty_voxels_and_scores_zero_when_it_vanishes():
    fixed, moving = square(4), square(4)
    fixed[20, :], moving[20, :] = 2, 2  # 24 voxels: too few
    fixed[22:, :] = 3  # missing on the moving side
    assert scoring.scored_labels(fixed, moving) == [1]
    assert scoring.dice(fixed, np.zeros_like(fixed), [1]) == 0.0


def test_the_jacobian_of_a_scaling_is_its_volume_factor_in_two_and_three_dimensions():
    for shape in ((20, 21), (14, 15, 16)):
        field = 0.5 * np.indices(shape).astype(float)
        assert np.allclose(scoring.jacobian_determinant(field), 1.5 ** len(shape))


def test_a_shear_keeps_volume_and_does_not_fold():
    field = still(20, 20)
    field[0] = 2.0 * np.indices((20, 20))[1]
    assert np.allclose(scoring.jacobian_determinant(field), 1.0)
    assert scoring.folded_percent(field) == 0.0


def test_folds_are_counted_inside_only_and_a_field_that_is_no_number_counts_as_folded():
    field = still(20, 20)
    field[0, 10:] = -5.0  # the lower half jumps up over the upper one: two rows fold by central differences
    assert scoring.folded_percent(field) == pytest.approx(100 * 2 / 12)
    field = still(20, 20)
    field[0, 17:] = -5.0  # within four voxels of the border
    assert scoring.folded_percent(field) == 0.0
    assert scoring.folded_percent(np.full((2, 20, 20), np.nan)) == 100.0


def test_landmarks_go_from_the_fixed_to_the_moving_side():
    field = still(30, 40)
    field[0], field[1] = 3.0, -2.0
    fixed = np.array([[10.0, 12.0], [20.5, 30.25]])
    assert np.allclose(scoring.landmark_errors(field, fixed, fixed + np.array([3.0, -2.0])), 0.0)
    assert np.allclose(scoring.landmark_errors(field, fixed, fixed), np.hypot(3, 2))


def test_a_known_field_is_scored_inside_only():
    truth = data.smooth_field((64, 72), seed=1, rms=3.0)
    assert np.sqrt((truth**2).sum(axis=0).mean()) == pytest.approx(3.0)
    found = truth.copy()
    found[:, :16] += 50.0
    assert scoring.field_errors(found, truth).max() == 0.0
    found[0, 30] += 1.0
    assert scoring.field_errors(found, truth).max() == pytest.approx(1.0)


def test_the_fixed_plane_is_the_moving_one_pulled_back_by_the_truth():
    plane = (127 + 120 * np.sin(np.indices((64, 64)).sum(axis=0) / 6)).astype(np.uint8)
    pair = data._fibsem_pair(plane, seed=2, name="made")
    assert pair.truth is not None
    index = np.indices(plane.shape) + pair.truth
    expected = 127 + 120 * np.sin(index.sum(axis=0) / 6)
    assert np.abs(pair.fixed - expected)[16:-16, 16:-16].max() < 3


def test_a_pair_that_failed_counts_as_left_alone():
    rows = [
        {"set": "cardiac", "method": "ours", "dice_before": 0.6, "dice_after": 0.9, "seconds": 1.0},
        {"set": "cardiac", "method": "ours", "dice_before": 0.5, "failed": "boom"},
    ]
    figures = report.summary(rows)
    assert figures["dice_mean"] == pytest.approx(0.7)
    assert figures["failed"] == 1


def test_no_subject_is_in_the_tuning_and_in_the_test_list():
    for name in ("cardiac", "hippocampus", "brain", "fibsem"):
        subjects = [
            {row[side] for row in data.pair_rows(name, split, 1000) for side in ("fixed_subject", "moving_subject")}
            for split in ("tuning", "test")
        ]
        assert all(subjects)
        assert not subjects[0] & subjects[1]
    patients = [row["fixed_subject"] for row in data.pair_rows("cardiac", "test", 16)]
    assert len(set(patients)) == 16


def test_every_set_has_a_title_in_the_table():
    assert set(report.TITLES) == set(data.FILES)
    assert "middle planes" in report.table([{"set": "brain-slices", "method": "ours", "pair": "a", "seconds": 1.0}], {})
