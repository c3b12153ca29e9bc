"""Box and Gaussian filters against scipy, by shifted additions and by matrix products."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from napari_stnreg.ops import filters
from napari_stnreg.ops.filters import box_sum, gaussian, gaussian_kernel


@pytest.fixture(params=["additions", "matrices"])
def way(request, monkeypatch):
    if request.param == "additions":
        monkeypatch.setattr(filters, "PARAMETERS", replace(filters.PARAMETERS, matrix_voxels=0))


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("shape", [(17, 21), (9, 12, 10)])
def test_smoothing_agrees_with_scipy(shape, way):
    sigma = [1.5, 0.0, 0.8][: len(shape)]
    image = noise(2, 2, *shape)
    for edge, mode in (("nearest", "nearest"), ("zero", "constant")):
        for truncate in (4.0, 2.0):
            radii = [0, 0] + [int(np.ceil(truncate * s)) for s in sigma]
            expected = ndimage.gaussian_filter(image.numpy(), [0, 0, *sigma], mode=mode, radius=radii)
            np.testing.assert_allclose(gaussian(image, sigma, edge, truncate).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize(("shape", "radius"), [((17, 21), 2), ((9, 12, 10), 1), ((6, 5), 5), ((7, 9, 8), [0, 4, 2])])
def test_box_sums_agree_with_scipy(shape, radius, way):
    image = noise(1, 3, *shape)
    size = [2 * r + 1 for r in np.broadcast_to(radius, len(shape))]
    expected = ndimage.uniform_filter(image.numpy(), [1, 1, *size], mode="constant") * np.prod(size)
    np.testing.assert_allclose(box_sum(image, radius).numpy(), expected, atol=1e-9)


def test_filter_gradients_are_correct(way):
    image = noise(1, 2, 6, 7).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: box_sum(x, [1, 2]), (image,))
    assert torch.autograd.gradcheck(lambda x: gaussian(x, [0.8, 1.3], "nearest"), (image,))
    assert torch.autograd.gradcheck(lambda x: gaussian(x, 0.9, "zero"), (image,))


def test_a_gaussian_sums_to_one():
    weights = gaussian_kernel(2.3)
    assert weights[0] + 2 * sum(weights[1:]) == pytest.approx(1)
