"""Transforms and their inverses, there and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_stnreg.core.grid import Grid
from napari_stnreg.transforms import DisplacementTransform, InverseTransform, chain, make_family
from napari_stnreg.transforms import inverse as inverse_module

FAMILIES = ("translation", "rigid", "similarity", "affine", "bspline", "tps", "displacement")


def domain(ndim: int) -> Grid:
    return Grid.from_spacing((7, 9, 12)[:ndim], (2.0, 0.5, 1.3)[:ndim], (40, -30, 25)[:ndim], unit="mm")


def some(name: str, grid: Grid, size: float = 0.15, batch: int = 1):
    family = make_family(name)
    theta = size * torch.randn(
        batch, *family.parameter_shape(grid), generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    return family(theta, grid)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", FAMILIES)
def test_inverse_composes_to_the_identity(name, ndim):
    grid = domain(ndim)
    transform = some(name, grid, 0.05 if name == "displacement" else 0.15)  # noise any larger would fold
    points = grid.points().reshape(-1, ndim)
    back = transform.inverse()
    tolerance = 1.01e-4 * transform.length_scale
    assert np.linalg.norm(transform.map_points(back.map_points(points)) - points, axis=1).max() < tolerance
    assert np.linalg.norm(back.map_points(transform.map_points(points)) - points, axis=1).max() < 5 * tolerance


def test_inverse_of_a_chain_reverses_the_inverses():
    grid = domain(3)
    transform = chain(some("affine", grid), some("displacement", grid))
    points = grid.points().reshape(-1, 3)
    there = transform.inverse().map_points(transform.map_points(points))
    np.testing.assert_allclose(there, points, atol=1e-3)
    # The whole chain in one solve, too: preconditioned with its affine part.
    np.testing.assert_allclose(InverseTransform(transform).map_points(transform.map_points(points)), points, atol=1e-3)


def test_inversion_is_independent_per_batch_item():
    grid = domain(2)
    transform = chain(some("affine", grid, batch=3), some("bspline", grid, batch=3))
    points = torch.from_numpy(grid.points())[None]
    solved = InverseTransform(transform)(points)
    assert solved.shape == (3, *grid.shape, 2)
    assert (transform(solved) - points).norm(dim=-1).max() < 1e-3


def test_steep_invertible_field_is_inverted():
    """A slope of 0.97 makes fixed points creep; Newton's steps settle it."""
    grid = Grid.from_spacing((5, 64))
    field = torch.zeros(1, 2, 5, 64, dtype=torch.float64)
    field[0, 1] = -0.97 * (torch.arange(64.0) - 32).clamp(-12, 12)
    inverse = DisplacementTransform(field, grid).inverse()
    assert isinstance(inverse, InverseTransform)
    mean, worst = inverse.residual(Grid.from_spacing((5, 30), origin=(0, 17)))
    assert mean <= worst < 1.01e-4
    assert inverse.warning is None


def test_points_without_a_solution_are_counted_and_reported(monkeypatch):
    grid = Grid.from_spacing((8, 32))
    wave = 9 * torch.sin(torch.arange(32.0, dtype=torch.float64))  # folds all over
    folded = InverseTransform(DisplacementTransform(wave.expand(1, 2, 8, 32), grid))
    assert np.isfinite(folded.map_points(grid.points())).all()
    monkeypatch.setattr(inverse_module, "_FIXED_POINT_STEPS", 1)
    monkeypatch.setattr(inverse_module, "_NEWTON_STEPS", 0)
    folded = InverseTransform(DisplacementTransform(wave.expand(1, 2, 8, 32), grid))
    assert folded.warning is None
    assert np.isfinite(folded.map_points(grid.points())).all()
    assert folded.unsolved > 0
    assert "folds" in str(folded.warning)


def test_inversion_residual_is_in_world_units():
    grid = domain(3)
    inverse = some("bspline", grid).inverse()
    mean, worst = inverse.residual(grid.with_unit("um"))
    assert 0 <= mean <= worst < 1.01e-4 * inverse.length_scale
    assert inverse.inverse() is inverse.forward
