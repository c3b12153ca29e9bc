"""Removal of folds, and the families that promise none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import napari_stnreg as sr
from napari_stnreg.core.grid import Grid
from napari_stnreg.networks import make_network
from napari_stnreg.ops.filters import gaussian
from napari_stnreg.ops.folding import FoldRemoval, remove_folds
from napari_stnreg.ops.jacobian import jacobian_determinant, smallest_cell_determinant
from napari_stnreg.transforms import VelocityTransform, invert, make_family
from napari_stnreg.transforms.dense import exponential


def rough(shape: tuple[int, ...], largest: float, width: float = 2.5, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """A random field with displacements of up to `largest` voxels, which folds if they are large."""
    noise = torch.randn(batch, len(shape), *shape, generator=torch.Generator().manual_seed(seed))
    field = gaussian(noise, width, "nearest")
    return field * (largest / field.abs().amax())


def folded(displacement: torch.Tensor) -> float:
    return float((jacobian_determinant(displacement) <= 0).float().mean())


@pytest.mark.parametrize("largest", [3.0, 12.0, 30.0])
@pytest.mark.parametrize("shape", [(48, 40), (24, 20, 28), (33, 2), (40, 1)])
def test_fold_removal_of_large_displacements(shape, largest):
    field = rough(shape, largest)
    if largest > 3 and min(shape) > 2:
        assert folded(field) > 0.01
    flat = remove_folds(field)
    assert folded(flat) == 0
    assert float(smallest_cell_determinant(flat).min()) > 0
    assert float(flat.abs().max()) > 0


def test_fold_removal_is_local():
    smooth = rough((64, 64), 2.0, width=6.0)
    assert remove_folds(smooth) is smooth
    spoiled = smooth.clone()
    spoiled[0, :, 10:13, 10:13] += 4 * torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(1))
    assert folded(spoiled) > 0
    flat = remove_folds(spoiled)
    assert folded(flat) == 0
    assert torch.equal(flat[..., 40:, 40:], smooth[..., 40:, 40:])


def test_fold_removal_is_independent_per_batch_item():
    field = torch.cat([rough((40, 40), 1.0, 5.0), rough((40, 40), 15.0)])
    flat = remove_folds(field)
    assert torch.equal(flat[0], field[0])
    assert torch.allclose(flat[1:], remove_folds(field[1:]), atol=1e-5)


def test_fold_removal_scales_down_as_a_last_resort():
    field = rough((32, 32), 40.0, width=1.0)
    flat = remove_folds(field, options=FoldRemoval(iterations=1))
    assert folded(flat) == 0


@pytest.mark.parametrize("ndim", [2, 3])
def test_central_determinant_is_the_mean_of_one_sided_ones(ndim):
    field = rough((20, 18, 16)[:ndim], 3.0).double()
    inner = (slice(1, -1),) * ndim
    central, smallest = jacobian_determinant(field)[0][inner], smallest_cell_determinant(field)[0][inner]
    assert bool((smallest <= central + 1e-12).all())
    linear = torch.from_numpy(Grid.from_spacing((20, 18, 16)[:ndim]).points()).movedim(-1, 0)[None] * 0.25
    torch.testing.assert_close(smallest_cell_determinant(linear)[0][inner], torch.full_like(smallest, 1.25**ndim))
    assert float(smallest_cell_determinant(linear)[0].min()) == 1.0  # beyond a corner nothing changes


@pytest.mark.parametrize("shape", [(40, 44), (20, 22, 18)])
def test_diffeomorphic_has_no_folds_and_reports_its_inverse_error(shape):
    grid = Grid.from_spacing(shape, 0.5, unit="um")
    transform = make_family("diffeomorphic")(rough(shape, 10.0), grid)
    assert make_family("displacement")(rough(shape, 10.0), grid).jacobian_determinant(grid).min() < 0
    assert transform.family == "diffeomorphic"
    assert (transform.jacobian_determinant(grid) > 0).all()
    found = invert(transform, grid, max_points=500)
    assert found.method == "iterative"
    assert found.to_dict()["max_voxels"] == found.max_voxels
    if len(shape) == 2:
        assert found.unsolved_fraction == 0
        assert found.max_voxels < 1e-3
    theta = rough(shape, 10.0).requires_grad_()
    make_family("diffeomorphic")(theta, grid).on_grid(grid).square().sum().backward()
    assert bool(theta.grad.abs().sum() > 0)


def test_velocity_folds_are_removed_in_a_registration():
    velocity = rough((48, 48), 25.0, width=1.5)
    assert folded(exponential(velocity)) > 0.01
    assert folded(exponential(remove_folds(velocity, exponential))) == 0


def test_velocity_file_of_an_earlier_version_loads(tmp_path):
    grid = Grid.from_spacing((20, 24), unit="um")
    old = VelocityTransform(rough((20, 24), 3.0), grid)
    old.family = "diffeomorphic"  # as it was written until now
    path = old.save(tmp_path / "old.safetensors")
    again = sr.load(path)
    assert type(again) is VelocityTransform
    assert again.family == "velocity"
    assert np.array_equal(again.displacement(grid), VelocityTransform(old.velocity, grid).displacement(grid))


def test_network_of_an_earlier_version_predicts_velocity():
    network = make_network({"name": "voxelmorph", "ndim": 2, "channels": 1, "family": "diffeomorphic"})
    assert network.config()["family"] == "velocity"
    settings = sr.TrainingSettings(network="voxelmorph", family="diffeomorphic")
    assert settings.options_of_networks() == {"family": "velocity"}


def test_large_deformation_is_fitted_without_folds_and_reports_the_inverse_error():
    y, x = np.mgrid[:72, :72].astype(np.float32)
    ring = np.abs(np.hypot(y - 36, x - 36) - 24) < 6
    fixed = sr.Image.from_array(ring.astype(np.float32))
    moving = sr.Image.from_array((np.hypot((y - 44) / 2, x - 30) < 12).astype(np.float32))
    for family in ("diffeomorphic", "velocity"):
        result = sr.register(
            fixed, moving, family=family, similarity="mse", smoothness=0.2, start="none", iterations=60, device="cpu"
        )
        assert result.folding_fraction == 0
        assert (result.transform.jacobian_determinant(fixed.grid) > 0).all()
        report = result.report()["inverse"]
        assert report["method"] in ("iterative", "velocity")
        assert 0 <= report["mean_error"] <= report["max_error"]
        assert report["unsolved_fraction"] < 0.005
    assert "round-trip error" in repr(result)
