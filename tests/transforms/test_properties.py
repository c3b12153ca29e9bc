"""Properties of every transform of every family, for random parameters and grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import napari_stnreg as sr
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.resampling.geometry import GeometryTransformer
from napari_stnreg.transforms import (
    AffineTransform,
    InverseTransform,
    Transform,
    as_displacement,
    chain,
    compose,
    invert,
    make_family,
)
from tests.helpers.families import FAMILIES, LINEAR
from tests.transforms.test_transforms import turned

KINDS = (*FAMILIES, "chain", "inverse")
FEW = settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


def random_grid(ndim: int, seed: int) -> Grid:
    """A lattice of any voxel size, orientation and place, of about 30 units across."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(14, 22, ndim)
    spacing = 30 / shape * rng.uniform(0.8, 1.25, ndim)
    flips = np.diag(rng.choice([-1.0, 1.0], ndim))
    direction = turned(ndim, float(rng.uniform(-1, 1)))[:, rng.permutation(ndim)] @ flips
    corner = rng.uniform(-50, 50, ndim)
    return Grid.from_spacing(shape.tolist(), spacing.tolist(), corner.tolist(), direction, unit="um")


def random_transform(kind: str, grid: Grid, seed: int) -> Transform:
    """One of a kind that bends by some voxels and does not fold."""
    if kind == "chain":
        return chain(random_transform("displacement", grid, seed), random_transform("affine", grid, seed + 1))
    if kind == "inverse":
        return InverseTransform(random_transform("bspline", grid, seed))
    family = make_family(kind)
    generator = torch.Generator().manual_seed(seed)
    if kind in ("displacement", "diffeomorphic", "velocity"):
        coarse = torch.rand(1, grid.ndim, *[4] * grid.ndim, generator=generator, dtype=torch.float64) * 2 - 1
        mode = "bicubic" if grid.ndim == 2 else "trilinear"
        return family(0.8 * torch.nn.functional.interpolate(coarse, grid.shape, mode=mode, align_corners=True), grid)
    theta = 2 * torch.rand(1, *family.parameter_shape(grid), generator=generator, dtype=torch.float64) - 1
    return family({"bspline": 1.2, "tps": 0.4}.get(kind, 0.1) * theta, grid)


def inside(grid: Grid, margin: float = 0.2, count: int = 60) -> np.ndarray:
    """Points of the grid away from its border."""
    share = np.random.default_rng(0).uniform(margin, 1 - margin, (count, grid.ndim))
    return grid.to_world(share * (np.asarray(grid.shape) - 1))


cases = given(seed=st.integers(0, 10_000), ndim=st.sampled_from([2, 3]))


@pytest.mark.parametrize("kind", KINDS)
@FEW
@cases
def test_inverse_round_trip(kind, seed, ndim):
    """To 1e-9 of a voxel for linear maps and to 1e-3 where points are solved for.

    The flow of the negative velocity is limited by the sampling of the field; `invert` guarantees a tenth of a voxel.
    """
    grid = random_grid(ndim, seed)
    transform = random_transform(kind, grid, seed)
    points = inside(grid)
    voxel = grid.spacing.min()
    limit = 1e-9 if kind in LINEAR else 1e-3
    solved = transform.solved_inverse()
    assert np.abs(transform.map_points(solved.map_points(points)) - points).max() < limit * voxel
    assert np.abs(solved.map_points(transform.map_points(points)) - points).max() < 10 * limit * voxel
    if kind == "velocity":
        back = transform.inverse()
        assert np.abs(back.map_points(transform.map_points(points)) - points).max() < 0.2 * voxel
        assert invert(transform, grid.cropped([2] * ndim, [n - 2 for n in grid.shape])).max_voxels < 0.1


@FEW
@given(seed=st.integers(0, 10_000), kinds=st.lists(st.sampled_from(KINDS), min_size=3, max_size=3))
def test_composition_is_associative(seed, kinds):
    grid = random_grid(2, seed)
    a, b, c = (random_transform(kind, grid, seed + i) for i, kind in enumerate(kinds))
    points = inside(grid)
    expected = c.map_points(b.map_points(a.map_points(points)))
    for joined in (chain(a, b, c), chain(chain(a, b), c), chain(a, chain(b, c)), compose(a, b.with_unit("nm"), c)):
        np.testing.assert_allclose(joined.map_points(points), expected, atol=2e-3 * grid.spacing.min())


@pytest.mark.parametrize("kind", ["bspline", "tps", "displacement", "diffeomorphic", "velocity"])
@FEW
@cases
def test_chain_warps_like_the_composed_map(kind, seed, ndim):
    """Sampled once through the chain, or through one field that holds the composed map: the same image."""
    grid = random_grid(ndim, seed)
    whole = chain(random_transform(kind, grid, seed), random_transform("affine", grid, seed + 1))
    moving = Image(np.random.default_rng(seed).random(grid.shape), grid)
    once = sr.warp(moving, whole, grid, fill=-1).data
    np.testing.assert_allclose(sr.warp(moving, as_displacement(whole, grid), grid, fill=-1).data, once, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", [".safetensors", ".h5", ".zarr"])
def test_save_load_round_trip(kind, ending, tmp_path_factory):
    for seed in (1, 2):
        grid = random_grid(2, seed)
        transform = random_transform(kind, grid, seed)
        path = tmp_path_factory.mktemp("saved") / f"t{ending}"
        again = sr.load(sr.save(transform, path, grid=grid))
        points = grid.points().reshape(-1, 2)
        exact = ending == ".safetensors"
        limit = 0 if exact else 1e-5 * grid.spacing.min()
        assert np.abs(again.map_points(points) - transform.map_points(points)).max() <= limit
        assert again.unit == transform.unit


@pytest.mark.parametrize("kind", KINDS)
@FEW
@cases
def test_inverse_maps_points_to_the_warped_image(kind, seed, ndim):
    grid = random_grid(ndim, seed)
    transform = random_transform(kind, grid, seed)
    spot = transform.map_points([grid.center])[0]
    finer = 1 if kind == "inverse" else 3 if ndim == 2 else 2
    fine = grid.resized([finer * n for n in grid.shape])
    seen = grid.with_unit("um").resized([4 * n for n in grid.shape])
    blob = np.exp(-((seen.points() - spot) ** 2).sum(-1) / (2 * 1.5**2)).astype(np.float32)
    warped = sr.warp(Image(blob, seen), transform, fine).data.astype(float)
    brightest = fine.points()[np.unravel_index(warped.argmax(), fine.shape)]
    landed = GeometryTransformer(transform, "moving").transform_points([spot])[0]
    assert np.linalg.norm(landed - grid.center) < 0.01 * grid.spacing.min()
    assert np.linalg.norm(landed - brightest) < np.linalg.norm(fine.spacing)  # half that, were the map not to stretch


@pytest.mark.parametrize("kind", KINDS)
@FEW
@cases
def test_mapped_points_are_independent_of_the_grid(kind, seed, ndim):
    """World points map to the same places for every voxel size and orientation of the sampling grid."""
    grid = random_grid(ndim, seed)
    transform = random_transform(kind, grid, seed)
    flipped = np.eye(ndim + 1)
    flipped[0, 0], flipped[0, -1] = -1, grid.shape[0] - 1
    other = Grid(grid.shape, grid.matrix @ flipped, "um")
    for asking in (other, grid.with_unit("nm"), grid.resized([n // 2 for n in grid.shape])):
        mapped = transform.on_grid(asking)[0].numpy()
        expected = transform.map_points(asking.with_unit("um").points().reshape(-1, ndim)).reshape(mapped.shape)
        np.testing.assert_allclose(mapped, expected, atol=2e-3 * grid.spacing.min())


@FEW
@given(seed=st.integers(0, 10_000))
def test_warp_is_independent_of_storage_orientation(seed):
    grid = random_grid(3, seed)
    transform = random_transform("chain", grid, seed)
    moving = Image(np.random.default_rng(seed).random(grid.shape), grid)
    turned_matrix = grid.matrix @ np.eye(4)[[2, 1, 0, 3]]
    other = Image(moving.data.transpose(2, 1, 0), Grid(grid.shape[::-1], turned_matrix, "um"))
    expected = sr.warp(moving, transform, grid).data
    np.testing.assert_allclose(sr.warp(other, transform, grid).data, expected, atol=1e-5)
    turned_target = sr.warp(moving, transform, other.grid).data.transpose(2, 1, 0)
    np.testing.assert_allclose(turned_target, expected, atol=1e-5)


def test_a_chain_of_linear_maps_is_their_product():
    a, b = (random_transform("affine", random_grid(3, 5), seed) for seed in (1, 2))
    assert isinstance(chain(a, b), AffineTransform)
    np.testing.assert_allclose(chain(a, b).as_matrix(), b.as_matrix() @ a.as_matrix(), atol=1e-12)
