"""Penalties on a deformation, landmarks, label overlap and the filters beneath, against known values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from napari_stnreg import evaluation
from napari_stnreg.core.errors import InputError
from napari_stnreg.losses import (
    LabelOverlap,
    LandmarkDistance,
    bending_energy,
    diffusion,
    folding_penalty,
    one_hot,
    soft_dice,
)
from napari_stnreg.ops.filters import box_sum, gaussian
from napari_stnreg.ops.jacobian import jacobian_determinant

PENALTIES = {
    "diffusion": diffusion,
    "bending": bending_energy,
    "folding": lambda u, spacing: folding_penalty(u, spacing, margin=0.6),
    "jacobian": lambda u, spacing: jacobian_determinant(u, spacing).sin().mean(),
}


def world(shape: tuple[int, ...], spacing: tuple[float, ...]) -> Tensor:
    """Coordinates ``(D, *shape)`` along the grid's axes."""
    axes = [torch.arange(n, dtype=torch.float64) * s for n, s in zip(shape, spacing, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def linear_field(matrix: Tensor, shape: tuple[int, ...], spacing: tuple[float, ...]) -> Tensor:
    return torch.einsum("ij,j...->i...", matrix, world(shape, spacing))[None]


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("shape", [(2, 2, 5, 6), (1, 3, 4, 5, 3), (1, 2, 1, 7), (1, 2, 2, 2)])
def test_penalty_gradients_agree_with_finite_differences(name, shape):
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    spacing = (0.7, 1.3, 2.0)[: len(shape) - 2]
    assert torch.autograd.gradcheck(lambda field: PENALTIES[name](field, spacing), u)


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(st.floats(-0.6, 0.6), min_size=9, max_size=9),
    spacing=st.tuples(*[st.floats(0.2, 4)] * 3),
    ndim=st.sampled_from([2, 3]),
)
def test_penalties_of_an_affine_field(values, spacing, ndim):
    matrix = torch.tensor(values, dtype=torch.float64).reshape(3, 3)[:ndim, :ndim]
    u = linear_field(matrix, (4, 5, 6)[:ndim], spacing[:ndim]) + 7.0
    expected = torch.linalg.det(torch.eye(ndim, dtype=torch.float64) + matrix)
    found = jacobian_determinant(u, spacing[:ndim])
    torch.testing.assert_close(found, expected.expand_as(found), atol=1e-9, rtol=0)
    assert float(diffusion(u, spacing[:ndim])) == pytest.approx(float(matrix.square().sum()), abs=1e-9)
    assert float(bending_energy(u, spacing[:ndim])) == pytest.approx(0, abs=1e-9)
    assert float(folding_penalty(u, spacing[:ndim])) == pytest.approx(max(0.0, -float(expected)), abs=1e-9)


def test_bending_energy_of_a_quadratic_field():
    spacing = (0.5, 2.0, 1.5)
    z, y, x = world((6, 5, 7), spacing)
    u = torch.stack([3 * z * z + z * y, y * x, 0 * x])[None]
    # By hand: u_zz = 6, u_zy = u_yz = 1 in the first component, v_yx = v_xy = 1 in the second.
    assert float(bending_energy(u, spacing)) == pytest.approx(36 + 2 + 2)


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_are_independent_of_voxel_size(name):
    costs = []
    for factor in (1, 2, 4):
        shape, spacing = (32 * factor, 24 * factor), (1.5 / factor, 2.0 / factor)
        y, x = world(shape, spacing) + torch.tensor(spacing, dtype=torch.float64)[:, None, None] / 2
        u = torch.stack([6 * torch.sin(y / 8) * torch.cos(x / 9), 5 * torch.cos(y / 7 + x / 11)])[None]
        costs.append(float(PENALTIES[name](u, spacing)))
    assert costs[0] != 0
    np.testing.assert_allclose(costs, costs[-1], rtol=0.06)
    assert abs(costs[1] - costs[2]) < abs(costs[0] - costs[2])


def test_determinant_agrees_with_evaluation():
    u = torch.randn(1, 3, 6, 5, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    spacing = (2.0, 1.0, 0.5)
    np.testing.assert_allclose(
        jacobian_determinant(u, spacing)[0].numpy(), evaluation.jacobian_determinant(u[0].numpy(), spacing)
    )


def test_landmark_loss_is_the_squared_distance_over_sigma():
    fixed = torch.zeros(2, 3, dtype=torch.float64)
    moving = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    distance = LandmarkDistance(fixed, moving, sigma=2.0, robust=False)
    assert float(distance(distance.fixed_points)) == pytest.approx((25 / 4 + 1 / 4) / 2)
    torch.testing.assert_close(distance.distances(fixed), torch.tensor([5.0, 1.0], dtype=torch.float64))
    weighted = LandmarkDistance(fixed, moving, sigma=torch.tensor([5.0, 1.0]), robust=False)
    assert float(weighted(fixed)) == pytest.approx(1)


def test_robust_landmark_loss_has_a_bounded_smooth_gradient():
    targets = torch.zeros(1, 2, dtype=torch.float64)
    distance = LandmarkDistance(targets, targets, sigma=1.0, threshold=3.0)
    pulls = []
    for away in (0.0, 0.01, 100.0, 1000.0):
        mapped = torch.tensor([[away, 0.0]], dtype=torch.float64, requires_grad=True)
        pulls.append(float(torch.autograd.grad(distance(mapped), mapped)[0][0, 0]))
    assert pulls[0] == 0
    assert pulls[1] == pytest.approx(0.02, rel=1e-3)
    assert pulls[2] == pytest.approx(pulls[3], rel=1e-2)
    mapped = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    many = LandmarkDistance(torch.zeros(4, 2, dtype=torch.float64), torch.ones(4, 2, dtype=torch.float64))
    assert torch.autograd.gradcheck(many, mapped)


def test_unpaired_landmarks_are_refused_and_no_landmarks_cost_zero():
    with pytest.raises(InputError, match="3 fixed and 2 moving landmarks"):
        LandmarkDistance(torch.zeros(3, 2), torch.zeros(2, 2))
    with pytest.raises(InputError, match="sigma and threshold"):
        LandmarkDistance(torch.zeros(3, 2), torch.zeros(3, 2), sigma=0.0)
    assert float(LandmarkDistance(torch.zeros(0, 2), torch.zeros(0, 2))(torch.zeros(0, 2))) == 0


def test_soft_dice_of_hard_labels_agrees_with_evaluation():
    generator = torch.Generator().manual_seed(3)
    first, second = (torch.randint(0, 4, (1, 1, 9, 8), generator=generator) for _ in range(2))
    weight = torch.rand(1, 1, 9, 8, generator=generator) > 0.3
    values = [1, 2, 3, 9]
    for counts in (None, weight):
        found = soft_dice(one_hot(first, values), one_hot(second, values), None if counts is None else counts.float())
        keep = torch.ones_like(weight) if counts is None else counts
        expected = evaluation.dice((first * keep).numpy(), (second * keep).numpy(), [1, 2, 3])
        if counts is None:
            np.testing.assert_allclose(found[0, :3], [expected[v] for v in (1, 2, 3)], rtol=1e-5)
        assert torch.isnan(found[0, 3])
    inside = weight[0, 0].numpy()
    masked = evaluation.dice(first[0, 0].numpy()[inside], second[0, 0].numpy()[inside], [1, 2, 3])
    np.testing.assert_allclose(found[0, :3], [masked[v] for v in (1, 2, 3)], rtol=1e-5)


def test_soft_dice_respects_weights():
    fixed, warped = torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]])
    weight = torch.tensor([[[1.0, 0.5]]])
    assert float(soft_dice(fixed, warped, weight)) == pytest.approx(2 / (1.5 + 1))


def test_label_overlap_loss_skips_absent_labels():
    labels = torch.randint(0, 3, (2, 1, 6, 7), generator=torch.Generator().manual_seed(4))
    fixed = one_hot(labels, [1, 2, 8], torch.float64)
    loss = LabelOverlap(fixed)
    assert float(loss(fixed)) == pytest.approx(0)
    soft = (0.2 + 0.6 * fixed).requires_grad_()
    assert torch.autograd.gradcheck(loss, soft)
    assert float(LabelOverlap(torch.zeros(1, 1, 4, 4))(torch.zeros(1, 1, 4, 4))) == 0


@pytest.mark.parametrize("shape", [(2, 3, 11, 8), (1, 2, 5, 9, 7)])
@pytest.mark.parametrize("radius", [0, 1, 2, 3, 4, 5, 7, 12])
def test_the_box_filter_sums_its_window(shape, radius):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = x.numpy()
    for axis in range(2, len(shape)):
        expected = ndimage.convolve1d(expected, np.ones(2 * radius + 1), axis, mode="constant")
    np.testing.assert_allclose(box_sum(x, radius).numpy(), expected, atol=1e-9)


def test_box_filter_supports_anisotropic_sizes_and_large_batches():
    x = torch.randn(2, 2, 260, 270, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.conv2d(x.reshape(4, 1, 260, 270), torch.ones(1, 1, 3, 11), padding=(1, 5))
    torch.testing.assert_close(box_sum(x, (1, 5)), expected.reshape(x.shape), atol=1e-4, rtol=0)
    torch.testing.assert_close(box_sum(x.transpose(2, 3), (5, 1)), box_sum(x, (1, 5)).transpose(2, 3))


@pytest.mark.parametrize("edge", ["zero", "nearest"])
@pytest.mark.parametrize("sigma", [(0.6, 1.7), (0.0, 2.5), (4.0, 0.3)])
def test_gaussian_agrees_with_scipy(edge, sigma):
    x = torch.randn(2, 3, 9, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = x.numpy()
    for axis, s in enumerate(sigma, start=2):
        if s:
            radius = max(1, int(np.ceil(4 * s)))
            mode = "constant" if edge == "zero" else "nearest"
            expected = ndimage.gaussian_filter1d(expected, s, axis, mode=mode, radius=radius)
    np.testing.assert_allclose(gaussian(x, sigma, edge).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 2, 6, 5), (1, 1, 3, 4, 5)])
def test_filters_provide_adjoints(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    for apply in (
        lambda v: box_sum(v, 2),
        lambda v: box_sum(v, 4),
        lambda v: gaussian(v, 0.8),
        lambda v: gaussian(v, 1.5, "nearest"),
    ):
        assert torch.autograd.gradcheck(apply, x)
