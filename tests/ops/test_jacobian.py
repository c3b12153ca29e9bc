"""The Jacobian determinant and the definition of folding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from benchmark import scoring
from napari_stnreg import evaluation
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.linalg import affine_matrix, rotation_2d
from napari_stnreg.ops.jacobian import (
    FOLDING_BORDER,
    folding_fraction,
    jacobian_determinant,
    jacobian_determinant_array,
)
from napari_stnreg.transforms import AffineTransform, ChainTransform, DisplacementTransform


def folded_field(shape, seed=0, strength=60.0):
    noise = np.random.default_rng(seed).normal(size=(len(shape), *shape))
    return (strength * ndimage.gaussian_filter(noise, (0, *[2.5] * len(shape)))).astype(np.float32)


@pytest.mark.parametrize("shape", [(30, 26), (20, 18, 22)])
def test_array_and_tensor_forms_agree_with_central_differences(shape):
    field, spacing = folded_field(shape), (2.0, 0.5, 1.5)[: len(shape)]
    gradients = np.stack([np.stack(np.gradient(part, *spacing), axis=-1) for part in field.astype(float)], axis=-2)
    expected = np.linalg.det(gradients + np.eye(len(shape)))
    array = jacobian_determinant_array(field.astype(np.float64), spacing)
    np.testing.assert_allclose(array, expected, atol=1e-9)
    tensor = jacobian_determinant(torch.from_numpy(field.astype(np.float64))[None], spacing)[0]
    np.testing.assert_array_equal(array, tensor.numpy())
    assert jacobian_determinant_array(field, spacing).dtype == np.float32


@pytest.mark.parametrize("shape", [(40, 36), (22, 24, 20)])
def test_folding_agrees_in_transform_evaluation_and_benchmark(shape):
    grid, field = Grid.from_spacing(shape, 2.0, 5.0), folded_field(shape)
    transform = DisplacementTransform(torch.from_numpy(2 * field), grid)
    expected = scoring.folded_percent(field) / 100
    assert 0.01 < expected < 0.6
    assert transform.folding_fraction(grid) == pytest.approx(expected, abs=1e-9)
    assert evaluation.folding_fraction(evaluation.jacobian_determinant(field)) == pytest.approx(expected, abs=1e-9)
    assert scoring.BORDER == FOLDING_BORDER


def test_determinant_is_independent_of_grid_orientation():
    shape = (40, 36)
    field, turn = folded_field(shape), rotation_2d(0.5)
    upright = Grid.from_spacing(shape, (1.0, 3.0))
    oblique = Grid(shape, affine_matrix(turn, [3, 4]) @ upright.matrix)
    turned = np.tensordot(turn, field, axes=1).astype(np.float32)
    straight = DisplacementTransform(torch.from_numpy(field), upright).jacobian_determinant(upright)
    found = DisplacementTransform(torch.from_numpy(turned), oblique).jacobian_determinant(oblique)
    np.testing.assert_allclose(found, straight, atol=1e-4)


def test_mirror_image_is_not_folded():
    grid, field = Grid.from_spacing((40, 36)), folded_field((40, 36))
    mirror = AffineTransform(affine_matrix(np.diag([-1.0, 1.0]), center=grid.center))
    bend = DisplacementTransform(torch.from_numpy(field), grid)
    assert mirror.folding_fraction(grid) == 0
    assert ChainTransform([bend, mirror]).folding_fraction(grid) == pytest.approx(bend.folding_fraction(grid), abs=2e-3)


def test_nan_determinant_counts_as_folded():
    assert folding_fraction(np.full((20, 20), np.nan)) == 1
    values = np.ones((12, 12))
    values[5, 5] = np.nan
    assert folding_fraction(values) == pytest.approx(1 / 16)


def test_folds_outside_the_mask_do_not_count():
    values, mask = np.ones((20, 20)), np.zeros((20, 20), bool)
    values[:10] = -0.5
    mask[10:] = True
    assert folding_fraction(values, mask) == 0
    assert folding_fraction(values) == pytest.approx(0.5)
