"""Rotations and least-squares fits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_stnreg.core.linalg import (
    affine_matrix,
    fit_affine,
    fit_rigid,
    rotation_2d,
    rotation_from_euler,
    rotation_from_quaternion,
    rotation_from_vector,
)
from napari_stnreg.transforms.linear import rotation


def mapped(matrix, points):
    return points @ matrix[:-1, :-1].T + matrix[:-1, -1]


def test_rotations_agree_with_those_of_the_rigid_family():
    vector = [0.3, -0.5, 0.2]
    np.testing.assert_allclose(rotation_from_vector(vector), rotation(torch.tensor([vector]).double())[0], atol=1e-12)
    np.testing.assert_allclose(rotation_2d(0.4), rotation(torch.tensor([[0.4]]).double())[0], atol=1e-15)


def test_quaternion_and_euler_rotations_agree():
    half = np.deg2rad(35) / 2
    about_first = rotation_from_quaternion([np.cos(half), np.sin(half), 0, 0])
    np.testing.assert_allclose(about_first, rotation_from_euler("X", 35, degrees=True), atol=1e-12)
    np.testing.assert_allclose(about_first[1:, 1:], rotation_2d(2 * half), atol=1e-12)


def test_affine_matrix_maps_its_center_by_the_translation():
    matrix = affine_matrix(rotation_2d(0.7), [1.0, -2.0], center=[4.0, 5.0])
    np.testing.assert_allclose(mapped(matrix, np.array([[4.0, 5.0]])), [[5.0, 3.0]])


@pytest.mark.parametrize("ndim", [2, 3])
def test_fit_affine_recovers_a_known_map(ndim):
    random = np.random.default_rng(0)
    points = random.normal(size=(9, ndim)) * 10
    matrix = affine_matrix(random.normal(size=(ndim, ndim)), random.normal(size=ndim) * 50)
    np.testing.assert_allclose(fit_affine(points, mapped(matrix, points)), matrix, atol=1e-9)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("scale", [1.0, 1.7])
def test_fit_rigid_recovers_rotation_scale_and_reflection(ndim, scale):
    random = np.random.default_rng(1)
    points = random.normal(size=(9, ndim)) * 10
    turn = rotation_2d(0.6) if ndim == 2 else rotation_from_vector([0.3, -0.5, 0.2])
    flip = np.diag([-1.0] + [1.0] * (ndim - 1))
    for linear, reflection in [(turn, "never"), (turn, "allowed"), (turn @ flip, "allowed"), (turn @ flip, "required")]:
        matrix = affine_matrix(scale * linear, np.arange(ndim))
        found = fit_rigid(points, mapped(matrix, points), scale=scale != 1, reflection=reflection)
        np.testing.assert_allclose(found, matrix, atol=1e-9)
    assert np.linalg.det(fit_rigid(points, points @ flip)) > 0
    assert np.linalg.det(fit_rigid(points, points, reflection="required")) < 0
