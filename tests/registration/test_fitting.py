"""The fit finds known transforms, whatever the family, the similarity and the grids: errors in fixed voxels."""

import numpy as np
import pytest
import torch
from scipy import ndimage

import napari_stnreg as sr
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.intensity import normalize
from napari_stnreg.registration.optimizers import dense
from napari_stnreg.registration.optimizers.parametric import Adam
from napari_stnreg.registration.pyramid import Pyramid, shrink_factors
from tests.helpers.scenes import affine_map, bent_map, grid, pair, turn_3d


def fit(images, **options):
    return sr.register(images.fixed, images.moving, device="cpu", **options)


def error(images, **options):
    return images.error(fit(images, **options).transform)


LINEAR = {
    "translation": {"shift": (4.0, -6.5, 3.2)},
    "rigid": {"degrees": 8, "shift": (3.0, -4.0, 2.0)},
    "similarity": {"degrees": 8, "scale": 1.12, "shift": (3.0, -2.0, 1.0)},
    "affine": {"degrees": 6, "scale": (1.08, 0.94, 1.05), "shear": 0.08, "shift": (2.0, 3.0, -1.0)},
}


def linear_map(family, ndim):
    options = dict(LINEAR[family])
    options["shift"] = options["shift"][:ndim]
    if np.ndim(options.get("scale", 1.0)):
        options["scale"] = options["scale"][:ndim]
    return affine_map(ndim, **options)


@pytest.mark.parametrize("family", LINEAR)
@pytest.mark.parametrize(("ndim", "size"), [(2, 96), (3, 28)])
def test_linear_families_recover_a_known_transform(family, ndim, size):
    images = pair(linear_map(family, ndim), grid(size, ndim))
    assert error(images, family=family) < (0.06 if ndim == 2 else 0.16)


@pytest.mark.parametrize("family", ["bspline", "tps", "displacement", "diffeomorphic", "velocity"])
@pytest.mark.parametrize(("ndim", "size"), [(2, 96), (3, 28)])
def test_deformable_families_recover_a_known_bending(family, ndim, size):
    linear = affine_map(ndim, degrees=5, shift=2.0)
    images = pair(bent_map(ndim, height=4.0, linear=linear), grid(size, ndim))
    unbent = images.error(fit(images, family="affine").transform)
    result = fit(images, family=f"affine+{family}")
    limit = {"bspline": 0.5, "tps": 0.3, "displacement": 0.25, "diffeomorphic": 0.25, "velocity": 0.25}[family]
    assert images.error(result.transform) < (limit if ndim == 2 else 0.4)
    assert images.error(result.transform) < (0.5 if ndim == 2 else 0.8) * unbent
    assert result.folding_fraction == 0


def test_a_large_bending_is_followed_without_folds():
    images = pair(bent_map(2, height=9.0, wavelength=80.0), grid(128, 2))
    result = fit(images, family="affine+diffeomorphic")
    assert images.error(result.transform) < 0.4
    assert result.folding_fraction == 0


@pytest.mark.parametrize(
    ("fixed_grid", "moving_grid"),
    [
        pytest.param(grid((18, 36, 36)), None, id="anisotropic"),
        pytest.param(grid((36, 36, 18)), grid((24, 30, 36)), id="both anisotropic, other axes"),
        pytest.param(grid(96, 2, offset=4e5), grid(96, 2, offset=4e5), id="far from the origin"),
        pytest.param(grid((97, 83)), grid((75, 131)), id="odd sizes"),
        pytest.param(
            grid(96, 2), grid((140, 120), extent=(146.0, 125.0), offset=(8.0, -9.0)), id="a larger moving image"
        ),
        pytest.param(grid((70, 96), extent=(73.0, 100.0)), grid(96, 2), id="a smaller fixed image"),
        pytest.param(grid(96, 2, turn=[[0.8, -0.6], [0.6, 0.8]]), grid(96, 2), id="fixed grid turned"),
        pytest.param(grid(96, 2), grid(96, 2, turn=[[0.8, 0.6], [-0.6, 0.8]]), id="moving grid turned"),
        pytest.param(grid(96, 2, turn=[[0.0, -1.0], [-1.0, 0.0]]), grid(96, 2), id="axes exchanged and flipped"),
        pytest.param(grid(96, 2, shear=0.2), grid(96, 2, shear=-0.15), id="sheared"),
        pytest.param(grid(28, 3, turn=turn_3d(0, 30) @ turn_3d(2, 20)), grid(32, 3), id="turned in 3D"),
    ],
)
def test_any_two_grids(fixed_grid, moving_grid):
    ndim = fixed_grid.ndim
    center = fixed_grid.center if abs(fixed_grid.center).max() > 1e5 else np.zeros(ndim)
    bend = bent_map(ndim, height=3.0, linear=affine_map(ndim, degrees=4, shift=2.0))
    images = pair(lambda points: bend(points - center) + center, fixed_grid, moving_grid, center=center)
    coarse = fixed_grid.spacing.max() / fixed_grid.spacing.min()
    for family in ("affine+bspline", "affine+diffeomorphic") if ndim == 2 else ("affine+diffeomorphic",):
        assert images.error(fit(images, family=family).transform, 0.28) < 0.4 * max(coarse, 1.0), family


def test_units_are_converted():
    truth = bent_map(2, height=3.0, linear=affine_map(2, degrees=4, shift=2.0))
    images = pair(truth, grid(96, 2, unit="um"))
    nano = sr.Image(images.moving.data, images.moving.grid.with_unit("nm"))
    plain = fit(images, preset="fast")
    other = sr.register(images.fixed, nano, preset="fast", device="cpu")
    assert other.transform.unit == "um"
    assert np.allclose(other.transform.displacement(images.fixed.grid), plain.transform.displacement(images.fixed.grid))
    assert other.scores == plain.scores
    assert images.error(other.transform) < 0.3


@pytest.mark.parametrize("family", ["affine", "affine+diffeomorphic"])
def test_the_way_the_world_is_sampled_does_not_matter(family):
    truth = bent_map(2, height=3.0, linear=affine_map(2, degrees=5, shift=2.0))
    turned = grid(96, 2, turn=[[0.0, 1.0], [-1.0, 0.0]])
    grids = [(grid(96, 2), grid(96, 2)), (grid((120, 84)), grid(80, 2)), (turned, turned.resized((90, 80)))]
    found = []
    for fixed_grid, moving_grid in grids:
        images = pair(truth, fixed_grid, moving_grid)
        found.append(fit(images, family=family).transform.map_points(images.points(0.28)))
    for other in found[1:]:
        assert np.linalg.norm(other - found[0], axis=1).mean() < 0.25  # world units; a voxel is about 1


def test_voxel_size_scales_out():
    truth = bent_map(2, height=3.0, linear=affine_map(2, degrees=5, shift=2.0))
    images = pair(truth, grid(96, 2))
    tiny = [
        sr.Image(i.data, sr.Grid(i.grid.shape, np.diag([1e-6, 1e-6, 1]) @ i.grid.matrix))
        for i in (images.fixed, images.moving)
    ]
    points = images.fixed.grid.points().reshape(-1, 2)
    here = fit(images, preset="fast").transform.map_points(points)
    there = sr.register(*tiny, preset="fast", device="cpu").transform.map_points(points * 1e-6) * 1e6
    # rounding decides between fits that are equally good, which differ most where the image is flat
    errors = [np.linalg.norm(found - truth(points), axis=1) for found in (here, there)]
    assert np.median(errors, axis=1).max() < 0.6
    np.testing.assert_allclose(*np.median(errors, axis=1), atol=0.1)
    # by a power of two nothing is rounded
    double = [
        sr.Image(i.data, sr.Grid(i.grid.shape, np.diag([2, 2, 1]) @ i.grid.matrix))
        for i in (images.fixed, images.moving)
    ]
    np.testing.assert_array_equal(
        sr.register(*double, preset="fast", device="cpu").transform.map_points(points * 2) / 2, here
    )


def invert(values):
    return 1.3 - values


def like_another_modality(values):
    """Brightness that neither rises nor falls with the scene's, as of PD beside T1."""
    return np.sin(2.2 * values) + 0.3 * (values < 0.05)


@pytest.mark.parametrize(
    ("similarity", "remap", "limit"),
    [
        ("mse", None, 0.4),
        ("ncc", lambda v: 40 + 7 * v, 0.3),
        ("lncc", lambda v: 40 + 7 * v, 0.4),
        ("mi", None, 0.4),
        ("mi", invert, 0.4),
        ("mi", like_another_modality, 0.7),
        ("mind", None, 0.25),
        ("mind", invert, 0.25),
    ],
)
def test_each_similarity_solves_its_use_case(similarity, remap, limit):
    truth = bent_map(2, height=3.0, linear=affine_map(2, degrees=5, shift=(3.0, -4.0)))
    images = pair(truth, grid(96, 2), remap=remap, noise=0.01)
    assert error(images, similarity=similarity) < limit


@pytest.mark.parametrize(("similarity", "remap"), [("lncc", None), ("mi", like_another_modality), ("mind", invert)])
def test_similarities_in_3d(similarity, remap):
    truth = bent_map(3, height=3.0, linear=affine_map(3, degrees=5, shift=(3.0, -4.0, 2.0)))
    images = pair(truth, grid(28, 3), remap=remap, noise=0.01)
    assert error(images, similarity=similarity) < (0.7 if similarity == "mi" else 0.4)


def test_a_pair_that_fits_already_is_left_alone():
    for ndim, size in ((2, 96), (3, 28)):
        images = pair(lambda points: points, grid(size, ndim), noise=0.02)
        assert error(images, preset="fast") < 0.25


def test_stiffness_regularizers_and_control_spacing_have_effect():
    images = pair(bent_map(2, height=4.0, wavelength=50.0), grid(96, 2), noise=0.05)

    def roughness(**options):
        field = fit(images, preset="fast", **options).transform.displacement(images.fixed.grid)
        return sum(float((np.diff(field, 2, axis=a) ** 2).mean()) for a in (1, 2))

    plain = roughness()
    assert roughness(smoothness=6.0) < 0.5 * plain
    assert roughness(bending=1.0) < plain
    assert roughness(diffusion=1.0) < plain
    assert roughness(family="affine+bspline", control_spacing=24.0) < roughness(
        family="affine+bspline", control_spacing=5.0
    )


def test_more_levels_catch_more():
    images = pair(bent_map(2, height=8.0, wavelength=90.0), grid(128, 2))
    options = {"family": "diffeomorphic", "start": "none", "iterations": 30}
    assert error(images, levels=3, **options) < 0.5 * error(images, levels=1, **options)


def test_level_covers_the_same_place_and_masks_keep_what_is_outside_out():
    images = pair(lambda points: points, grid((50, 77)))
    mask = np.linalg.norm(images.fixed.grid.points(), axis=-1) < 30
    spoiled = np.where(mask, images.fixed.data, 1e6).astype(np.float32)
    clean = Pyramid(
        images.fixed.data, mask, images.fixed.grid, images.fixed.data, None, images.fixed.grid, torch.device("cpu")
    )
    dirty = Pyramid(
        normalize(spoiled, mask, "x"),
        mask,
        images.fixed.grid,
        normalize(np.where(mask, images.fixed.data, np.nan), mask, "x"),
        mask,
        images.fixed.grid,
        torch.device("cpu"),
    )
    for shrink in (1.0, 2.0, 3.7):
        level = clean.level(shrink)
        assert np.allclose(level.fixed_grid.corners(), images.fixed.grid.corners())
        other = dirty.level(shrink)
        assert torch.equal(other.fixed, other.moving)
        assert float(other.fixed.max()) < 1.2


def test_shrink_factors_end_at_the_finest_and_stop_in_time():
    assert shrink_factors(grid(128, 2), None) == [4.0, 2.0, 1.0]
    assert shrink_factors(grid(128, 2), 2) == [2.0, 1.0]
    assert shrink_factors(grid(128, 2), None, 2.0) == [4.0, 2.0]
    assert shrink_factors(grid(20, 3), None) == [1.0]


@pytest.mark.slow  # torch takes its time to import what its own needs
def test_adam_is_adam():
    generator = torch.Generator().manual_seed(0)
    theirs = torch.zeros(7, requires_grad=True)
    optimizer = torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.95), eps=1e-12)
    ours = theirs.detach().clone()
    mine = Adam(ours)
    for step_size in (0.1, 0.05, 0.2, 0.1):
        gradient = torch.randn(7, generator=generator)
        optimizer.param_groups[0]["lr"] = step_size
        theirs.grad = gradient
        optimizer.step()
        ours = mine.step(ours, gradient, step_size)
    assert torch.allclose(ours, theirs.detach(), atol=1e-6)


def test_the_force_takes_the_gradient_of_the_fixed_image_in_the_brightness_of_the_moving_one():
    rng = np.random.default_rng(0)
    lattice = Grid.from_spacing((40, 44))
    fixed, other = (ndimage.gaussian_filter(rng.normal(size=lattice.shape), 3).astype(np.float32) for _ in range(2))
    level = Pyramid(fixed, None, lattice, fixed, None, lattice, torch.device("cpu")).level(1.0)
    slope = dense.spatial_gradient(level.fixed)
    for factor in (0.5, -2.0):
        found = dense._fixed_gradient(level, factor * level.fixed + 0.3)
        torch.testing.assert_close(found, factor * slope, atol=1e-6, rtol=1e-4)
    assert dense._fixed_gradient(level, torch.as_tensor(other)[None, None]) is None


def test_only_local_correlation_takes_the_gradient_of_both_images(monkeypatch):
    asked = []
    monkeypatch.setattr(dense, "_fixed_gradient", lambda level, warped: asked.append(level) or None)
    y, x = np.mgrid[:48, :48]
    blobs = [np.exp(-((y - 24) ** 2 + (x - place) ** 2) / 60) for place in (22, 25)]
    for similarity, count in (("mse", 0), ("lncc", 1)):
        asked.clear()
        sr.register(*blobs, family="diffeomorphic", similarity=similarity, preset="fast", levels=1, iterations=2)
        assert len(asked) == count


@pytest.mark.parametrize("shape", [(40, 33), (22, 24, 20)])
def test_small_steps_are_composed_as_by_sampling(shape):
    random = np.random.default_rng(2)
    ndim = len(shape)
    outer, inner = (
        np.stack([ndimage.gaussian_filter(random.standard_normal(shape), 3) for _ in range(ndim)]) for _ in range(2)
    )
    outer, inner = 3 * outer / np.abs(outer).max(), 0.6 * inner / np.abs(inner).max()
    points = np.indices(shape) + inner
    exact, linear = (
        inner + np.stack([ndimage.map_coordinates(one, points, order=order, mode="nearest") for one in outer])
        for order in (3, 1)
    )
    found = dense.compose_small(*(torch.from_numpy(field).float()[None] for field in (outer, inner)))[0].numpy()
    assert np.abs(found - exact).max() < 0.1  # the sum of the two misses by 0.2 to 0.3
    assert np.abs(found - exact).mean() < np.abs(linear - exact).mean()
