"""A transform family that is defined outside the package registers images like a built-in one."""

import numpy as np
import pytest
import torch
from scipy import ndimage

import napari_stnreg as sr
from napari_stnreg.transforms.linear import LinearFamily


class AxisScaling(LinearFamily):
    """Translation and one scale for each axis."""

    name = "axis-scaling"

    def n_linear(self, ndim):
        return ndim

    def linear(self, theta, ndim):
        return torch.diag_embed(theta.exp())


@pytest.fixture
def pair():
    """A pattern, and the same pattern with its rows stretched by 1.15 and its columns shrunk by 0.9."""
    noise = np.random.default_rng(0).standard_normal((96, 96))
    fixed = ndimage.gaussian_filter(noise, 4)
    scales, center = np.array([1.15, 0.9]), np.full(2, 47.5)
    # moving(y) = fixed(x) with y = center + scales * (x - center)
    moving = ndimage.affine_transform(fixed, 1 / scales, center - center / scales, order=3, mode="nearest")
    points = np.array([[30.0, 30.0], [60.0, 40.0], [47.5, 70.0]])
    return fixed.astype(np.float32), moving.astype(np.float32), points, center + scales * (points - center)


def test_known_transform_is_recovered_and_saved(pair, tmp_path):
    fixed, moving, points, expected = pair
    result = sr.register(fixed, moving, family="axis-scaling", similarity="ncc", device="cpu")
    np.testing.assert_allclose(result.transform.map_points(points), expected, atol=0.3)
    path = sr.save(result, tmp_path / "transform.safetensors")
    np.testing.assert_allclose(sr.load(path).map_points(points), result.transform.map_points(points), atol=1e-5)
    back = result.transform.inverse().map_points(result.transform.map_points(points))
    np.testing.assert_allclose(back, points, atol=1e-3)


def test_model_precedes_only_deformable_families(pair):
    fixed, moving, *_ = pair
    combined = sr.register(fixed, moving, family="axis-scaling+bspline", preset="fast", device="cpu")
    assert combined.scores["after"]["ncc"] > 0.95
    with pytest.raises(sr.InputError, match="has a linear family after a deformable one"):
        sr.register(fixed, moving, family="bspline+axis-scaling")


def test_an_unknown_family_is_refused_with_the_known_ones(pair):
    with pytest.raises(sr.InputError, match=r"no transform family 'axis'.*axis-scaling"):
        sr.register(*pair[:2], family="axis")
