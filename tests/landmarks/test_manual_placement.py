"""Places by hand: numbers and matrices, mirror images and quarter turns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.linalg import affine_matrix
from napari_stnreg.landmarks.manual_placement import Placement


@given(ndim=st.sampled_from([2, 3]), seed=st.integers(0, 10**6))
def test_every_affine_map_is_split_and_restored(ndim, seed):
    rng = np.random.default_rng(seed)
    linear = rng.standard_normal((ndim, ndim)) + 2 * np.diag(rng.choice([-1, 1], ndim))
    matrix = affine_matrix(linear, rng.standard_normal(ndim) * 50)
    placement = Placement.from_matrix(matrix, rng.random(ndim) * 100)
    np.testing.assert_allclose(placement.matrix, matrix, atol=1e-8)
    assert placement.mirrors == (np.linalg.det(linear) < 0)


@pytest.mark.parametrize("ndim", [2, 3])
def test_numbers_have_the_documented_meaning(ndim):
    center = np.array([5.0, 20, 30])[-ndim:]
    angles = np.zeros(1 if ndim == 2 else 3)
    angles[0] = 90
    placement = Placement(center, np.arange(ndim) + 1.0, angles, 2.0)
    moved = placement.matrix[:-1, :-1] @ (np.eye(ndim)[-2] * 3) * 1.0
    np.testing.assert_allclose(moved, np.eye(ndim)[-1] * 6, atol=1e-12)  # from y toward x, twice as large
    at_center = placement.matrix[:-1, :-1] @ center + placement.matrix[:-1, -1]
    np.testing.assert_allclose(at_center, center + np.arange(ndim) + 1)
    again = Placement.from_matrix(placement.matrix, center)
    np.testing.assert_allclose([*again.angles, again.scale, *again.shift], [*angles, 2, *(np.arange(ndim) + 1)])


def test_four_quarter_turns_and_two_flips_are_the_identity():
    start = Placement(np.array([5.0, 20, 30]), np.array([1.0, 2, 3]), np.array([10.0, -20, 30]), 1.3)
    turned = start
    for _ in range(4):
        turned = turned.rotated(90)
    flipped = start.flipped(-1)
    assert flipped.mirrors
    np.testing.assert_allclose(flipped.shift, start.shift)
    for same in (turned, flipped.flipped(-1)):
        np.testing.assert_allclose(same.matrix, start.matrix, atol=1e-9)
    np.testing.assert_allclose(start.centered_on((7, 8, 9)).shift, (2, -12, -21))


def test_a_flat_placement_is_refused():
    with pytest.raises(InputError, match="flat"):
        Placement.from_matrix(np.diag([1.0, 0, 1]), (0, 0))
