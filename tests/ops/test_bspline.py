"""The cubic B-spline basis."""

from __future__ import annotations

import numpy as np
import torch
from scipy.interpolate import BSpline

from napari_stnreg.ops.bspline import cubic_bspline, cubic_bspline_matrix, cubic_bspline_weights


def test_values_agree_with_scipy():
    x = np.linspace(-2.5, 2.5, 101)
    expected = np.nan_to_num(BSpline.basis_element(np.arange(-2, 3), extrapolate=False)(x))
    np.testing.assert_allclose(cubic_bspline(torch.from_numpy(x)), expected, atol=1e-15)


def test_cell_weights_agree_with_the_spline():
    fraction = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    distance = fraction[:, None] - torch.arange(-1, 3)
    torch.testing.assert_close(cubic_bspline_weights(fraction), cubic_bspline(distance), atol=1e-15, rtol=0)


def test_a_basis_matrix_reproduces_a_linear_function_inside_the_lattice():
    position = np.linspace(1, 5, 23)
    np.testing.assert_allclose(cubic_bspline_matrix(position, 7) @ np.arange(7), position, atol=1e-12)
    np.testing.assert_allclose(cubic_bspline_matrix(np.array([-3.0, 9.0]), 7) @ np.arange(7), [1, 5], atol=1e-12)
