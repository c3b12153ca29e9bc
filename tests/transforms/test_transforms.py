"""Every transform and family, against other programs, against each other, and as properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RBFInterpolator
from scipy.linalg import expm
from scipy.ndimage import affine_transform

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.transforms import (
    AffineTransform,
    BSplineFamily,
    BSplineTransform,
    ChainTransform,
    DisplacementTransform,
    InverseTransform,
    ThinPlateTransform,
    VelocityTransform,
    chain,
    from_landmarks,
    make_family,
    transform_class,
)
from napari_stnreg.transforms.bspline import NO_FOLDING_LIMIT
from napari_stnreg.transforms.linear import radius, rotation

sitk = pytest.importorskip("SimpleITK")

LINEAR = ("translation", "rigid", "similarity", "affine")
BENDING = ("bspline", "tps", "displacement", "diffeomorphic", "velocity")
FAMILIES = LINEAR + BENDING


def turned(ndim: int, angle: float = 0.4) -> np.ndarray:
    """A rotation that mixes all axes."""
    vector = torch.full((1, 1 if ndim == 2 else 3), angle, dtype=torch.float64)
    return rotation(vector)[0].numpy()


def oblique(ndim: int) -> Grid:
    """An anisotropic grid of odd size, turned and far from the origin."""
    return Grid.from_spacing((7, 9, 12)[:ndim], (2.0, 0.5, 1.3)[:ndim], (40, -30, 25)[:ndim], turned(ndim), unit="mm")


def some(name: str, grid: Grid, size: float = 0.2, batch: int = 1, dtype: torch.dtype = torch.float64):
    """A family, parameters and their transform; the same at each call."""
    family = make_family(name)
    generator = torch.Generator().manual_seed(3)
    theta = size * torch.randn(batch, *family.parameter_shape(grid), generator=generator, dtype=dtype)
    return family, theta, family(theta, grid)


def xyz(points: np.ndarray) -> np.ndarray:
    """Points of ours, (z, y, x), as ITK writes them."""
    return np.ascontiguousarray(points[..., ::-1])


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", FAMILIES)
def test_zero_parameters_are_the_identity(name, ndim):
    grid = oblique(ndim)
    family = make_family(name)
    theta = family.identity(grid, batch=2)
    assert theta.shape == (2, *family.parameter_shape(grid))
    mapped = family(theta, grid).map_points(grid.corners())
    np.testing.assert_allclose(mapped, grid.corners(), atol=1e-6)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", FAMILIES)
def test_grid_mapping_agrees_with_point_mapping(name, ndim):
    grid = oblique(ndim)
    _, _, transform = some(name, grid)
    part = grid.cropped((1, 2, -3)[:ndim], (5, 12, 8)[:ndim])
    upright = Grid.covering(grid.corners(), [1.1] * ndim, unit="mm")
    for where in (grid, part, grid.resized([5, 4, 6][:ndim]), upright, grid.with_unit("um")):
        mapped = transform.on_grid(where)[0].numpy()
        expected = transform.map_points(where.with_unit("mm").points()).reshape(mapped.shape)
        np.testing.assert_allclose(mapped, expected, atol=1e-9)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", FAMILIES)
def test_batch_agrees_with_single_pairs(name, ndim):
    grid = oblique(ndim)
    family, theta, transform = some(name, grid, batch=3)
    points = torch.from_numpy(grid.corners())
    for b in range(3):
        alone = family(theta[b : b + 1], grid)
        torch.testing.assert_close(transform(points[None])[b], alone(points[None])[0])
        torch.testing.assert_close(transform(points.expand(3, -1, -1))[b], alone(points[None])[0])
        torch.testing.assert_close(transform.on_grid(grid)[b], alone.on_grid(grid)[0])


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", FAMILIES)
def test_parameter_gradient_is_correct(name, ndim):
    grid = Grid.from_spacing((3, 4, 3)[:ndim], (2.0, 0.5, 1.0)[:ndim], 5.0, turned(ndim))
    options = {"bspline": {"spacing": 3.0}, "tps": {"points": 2}}.get(name, {})
    family = make_family(name, **options)
    shape = family.parameter_shape(grid)
    for size in (0.0, 0.11):  # zero is where a careless rotation has no gradient
        if size == 0.0 and name == "velocity":
            continue  # at zero every point is on a voxel, where linear interpolation has a kink
        theta = (size * torch.randn(1, *shape, dtype=torch.float64)).requires_grad_()
        assert torch.autograd.gradcheck(lambda t: family(t, grid).on_grid(grid), theta, eps=1e-6, fast_mode=True)
        points = torch.from_numpy(grid.points() + 0.13)[None]
        assert torch.autograd.gradcheck(lambda t, p=points: family(t, grid)(p), theta, eps=1e-6, fast_mode=True)


@pytest.mark.parametrize("name", LINEAR)
def test_linear_parameters_are_scaled_to_the_radius(name):
    grid = oblique(3)
    family = make_family(name)
    for k in range(family.parameter_shape(grid)[0]):
        theta = torch.zeros(1, *family.parameter_shape(grid), dtype=torch.float64)
        theta[0, k] = 1e-3
        moved = family(theta, grid).map_points(grid.points()) - grid.points().reshape(-1, 3)
        rms = np.sqrt((moved**2).sum(axis=1).mean())
        assert 0.1 < rms / (1e-3 * radius(grid)) < 1.3


@given(vector=st.lists(st.floats(-3, 3), min_size=3, max_size=3), tiny=st.sampled_from([1.0, 1e-2, 1e-3, 1e-6, 0.0]))
@settings(max_examples=40, deadline=None)
def test_rotations_are_matrix_exponentials(vector, tiny):
    w = torch.tensor([vector], dtype=torch.float64) * tiny
    z, y, x = w[0]
    expected = expm(np.array([[0, -x, y], [x, 0, -z], [-y, z, 0]]))
    np.testing.assert_allclose(rotation(w)[0].numpy(), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", [*LINEAR, "tps", "bspline"])
def test_parameters_convert_between_levels(name, ndim):
    grid = oblique(ndim)
    options = {"bspline": {"spacing": (3.0, 2.0, 4.0)[:ndim], "finest": grid.resized([2 * n for n in grid.shape])}}
    family = make_family(name, **options.get(name, {}))
    theta = 0.2 * torch.randn(2, *family.parameter_shape(grid), dtype=torch.float64)
    points = torch.from_numpy(grid.points())[None]
    for other in (grid.resized([4, 6, 5][:ndim]), grid.resized([2 * n for n in grid.shape])):
        again = family(family.resample(theta, grid, other), other)
        torch.testing.assert_close(again(points), family(theta, grid)(points), atol=1e-9, rtol=0)


def test_linear_parameters_convert_to_a_subdomain():
    grid = oblique(3)
    family, theta, transform = some("affine", grid)
    part = grid.cropped((0, 2, 3), (4, 7, 9))
    moved = family(family.resample(theta, grid, part), part)
    np.testing.assert_allclose(moved.as_matrix(), transform.as_matrix(), atol=1e-12)


@pytest.mark.parametrize("ndim", [2, 3])
def test_bspline_refinement_is_exact(ndim):
    coarse = Grid.from_spacing((8, 12, 16)[:ndim], 2.0, 3.0)
    fine = coarse.resized([2 * n for n in coarse.shape])
    family = BSplineFamily(spacing=4)
    theta = torch.randn(1, *family.parameter_shape(coarse), dtype=torch.float64)
    points = torch.from_numpy(fine.points())[None]
    finer = family.resample(theta, coarse, fine)
    assert finer.shape[2:] != theta.shape[2:]
    torch.testing.assert_close(family(finer, fine)(points), family(theta, coarse)(points), atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", ["displacement", "diffeomorphic", "velocity"])
def test_smooth_field_converts_between_levels(name):
    grid = Grid.from_spacing((32, 40), (1.0, 2.0), 7.0)
    y, x = torch.meshgrid(torch.linspace(0, 3, 32), torch.linspace(0, 3, 40), indexing="ij")
    theta = torch.stack([torch.sin(x + y), torch.cos(x)])[None].double()
    family = make_family(name)
    level = grid.resized((16, 20))
    down = family.resample(theta, grid, level)
    inner = torch.from_numpy(grid.points()[4:-4, 4:-4])[None]
    torch.testing.assert_close(family(down, level)(inner), family(theta, grid)(inner), atol=0.05, rtol=0)
    up = family.resample(down, level, grid)
    torch.testing.assert_close(up[..., 4:-4, 4:-4], theta[..., 4:-4, 4:-4], atol=0.02, rtol=0)


@pytest.mark.parametrize("ndim", [2, 3])
def test_affine_points_agree_with_itk(ndim):
    _, _, transform = some("affine", oblique(ndim), 0.3)
    matrix = transform.as_matrix()
    theirs = sitk.AffineTransform(ndim)
    theirs.SetMatrix(matrix[:-1, :-1][::-1, ::-1].ravel())
    theirs.SetTranslation(matrix[:-1, -1][::-1])
    points = oblique(ndim).corners()
    expected = np.array([theirs.TransformPoint(p) for p in xyz(points)])
    np.testing.assert_allclose(xyz(transform.map_points(points)), expected, atol=1e-9)


@pytest.mark.parametrize("ndim", [2, 3])
def test_bspline_agrees_with_itk_given_the_same_coefficients(ndim):
    domain = oblique(ndim)
    family = BSplineFamily(spacing=(3.0, 2.5, 4.0)[:ndim])
    control = family.control_grid(domain)
    cells = family.cells(domain)
    theirs = sitk.BSplineTransform(ndim, 3)
    theirs.SetTransformDomainMeshSize(cells[::-1])
    faces = domain.to_world(np.full(ndim, -0.5))
    theirs.SetTransformDomainOrigin(faces[::-1])
    theirs.SetTransformDomainPhysicalDimensions((np.asarray(domain.shape) * domain.spacing)[::-1])
    theirs.SetTransformDomainDirection(turned(ndim)[::-1, ::-1].ravel())
    rng = np.random.default_rng(0)
    coefficients = rng.normal(size=(ndim, *control.shape))
    theirs.SetParameters(coefficients[::-1].ravel())
    ours = BSplineTransform(torch.from_numpy(coefficients), control)
    points = domain.to_world(rng.uniform(-0.4, np.asarray(domain.shape) - 0.6, size=(50, ndim)))
    expected = np.array([theirs.TransformPoint(p) for p in xyz(points)])
    np.testing.assert_allclose(xyz(ours.map_points(points)), expected, atol=1e-9)


@pytest.mark.parametrize(("ndim", "kernel"), [(2, "thin_plate_spline"), (3, "linear")])
@pytest.mark.parametrize("stiffness", [0.0, 0.3])
def test_thin_plate_spline_agrees_with_scipy(ndim, kernel, stiffness):
    rng = np.random.default_rng(1)
    fixed = rng.uniform(100, 150, size=(12, ndim))
    moving = fixed + rng.normal(size=fixed.shape)
    ours = ThinPlateTransform(fixed, torch.from_numpy(moving), stiffness)
    scale = ours.basis.scale
    theirs = RBFInterpolator(fixed / scale, moving, kernel=kernel, degree=1, smoothing=stiffness)
    points = rng.uniform(90, 160, size=(40, ndim))
    np.testing.assert_allclose(ours.map_points(points), theirs(points / scale), atol=1e-7)
    if stiffness == 0:
        np.testing.assert_allclose(ours.map_points(fixed), moving, atol=1e-8)


def test_thin_plate_spline_reproduces_an_affine():
    _, _, affine = some("affine", oblique(3), 0.3)
    fixed = np.random.default_rng(2).uniform(-10, 10, size=(9, 3))
    spline = ThinPlateTransform(fixed, torch.from_numpy(affine.map_points(fixed)), unit="mm")
    far = 100 * np.eye(3)
    np.testing.assert_allclose(spline.map_points(far), affine.map_points(far), atol=1e-7)


def test_thin_plate_spline_gradient_is_independent_of_chunking(monkeypatch):
    from napari_stnreg.transforms import thin_plate

    grid = oblique(2)
    family, theta, _ = some("tps", grid)

    def gradient():
        mine = theta.clone().requires_grad_()
        family(mine, grid).on_grid(grid).square().sum().backward()
        return mine.grad

    whole = gradient()
    monkeypatch.setattr(thin_plate, "_CACHED_ENTRIES", 0)
    monkeypatch.setattr(thin_plate, "_CHUNK_ENTRIES", 200)
    torch.testing.assert_close(gradient(), whole)


@pytest.mark.parametrize("ndim", [2, 3])
def test_displacement_field_agrees_with_itk_on_an_oblique_grid(ndim):
    grid = oblique(ndim)
    _, _, transform = some("displacement", grid)
    vectors = transform.field[0].numpy()
    image = sitk.GetImageFromArray(np.moveaxis(vectors, 0, -1)[..., ::-1].copy(), isVector=True)
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin[::-1])
    image.SetDirection(turned(ndim)[::-1, ::-1].ravel())
    theirs = sitk.DisplacementFieldTransform(image)
    points = grid.to_world(np.random.default_rng(0).uniform(0, np.asarray(grid.shape) - 1.001, size=(50, ndim)))
    expected = np.array([theirs.TransformPoint(p) for p in xyz(points)])
    np.testing.assert_allclose(xyz(transform.map_points(points)), expected, atol=1e-9)
    np.testing.assert_allclose(transform.displacement(grid), vectors, atol=1e-6)


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_flow_of_a_linear_velocity_is_a_matrix_exponential(ndim):
    grid = Grid.from_spacing((33, 31, 35)[:ndim], (1.0, 2.0, 0.5)[:ndim], 4.0, turned(ndim))
    rate = 0.15 * np.random.default_rng(0).normal(size=(ndim, ndim))
    velocity = torch.from_numpy(np.moveaxis((grid.points() - grid.center) @ rate.T, -1, 0).copy())
    inner = (slice(8, -8),) * ndim
    points = grid.points()[inner].reshape(-1, ndim)
    expected = (points - grid.center) @ torch.linalg.matrix_exp(torch.from_numpy(rate)).numpy().T + grid.center
    moved = VelocityTransform(velocity, grid).map_points(points)
    assert np.abs(moved - expected).max() < 0.02 * np.abs(expected - points).max()


def test_smooth_flow_does_not_fold_and_inverts():
    grid = Grid.from_spacing((40, 44), (1.0, 0.5), unit="um")
    coarse = 3 * torch.randn(1, 2, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theta = torch.nn.functional.interpolate(coarse, size=grid.shape, mode="bicubic", align_corners=True)
    transform = make_family("velocity")(theta, grid)
    assert np.abs(transform.displacement(grid)).max() > 2
    assert transform.jacobian_determinant(grid)[3:-3, 3:-3].min() > 0
    inner = grid.points()[12:-12, 12:-12].reshape(-1, 2)
    there = transform.inverse().map_points(transform.map_points(inner))
    assert np.abs(there - inner).max() < 0.1


@given(shift=st.lists(st.floats(-20, 20), min_size=3, max_size=3), ndim=st.sampled_from([2, 3]))
@settings(max_examples=15, deadline=None)
def test_chains_are_associative_and_apply_their_parts_in_order(shift, ndim):
    grid = oblique(ndim)
    a = AffineTransform(np.block([[2 * np.eye(ndim), np.array(shift[:ndim])[:, None]], [np.eye(ndim + 1)[-1:]]]), "mm")
    b, c = some("displacement", grid)[2], some("bspline", grid)[2]
    points = grid.corners()
    expected = c.map_points(b.map_points(a.map_points(points)))
    for joined in (chain(a, b, c), chain(chain(a, b), c), chain(a, chain(b, c))):
        assert isinstance(joined, ChainTransform)
        assert len(joined.parts) == 3
        np.testing.assert_allclose(joined.map_points(points), expected, atol=1e-9)
        np.testing.assert_allclose(joined.on_grid(grid)[0], chain(a, b, c)(torch.from_numpy(grid.points())[None])[0])


def test_adjacent_affines_of_a_chain_are_merged():
    grid = oblique(3)
    a, b = some("rigid", grid)[2], some("affine", grid, 0.1)[2]
    joined = chain(a, b)
    assert isinstance(joined, AffineTransform)
    np.testing.assert_allclose(joined.map_points(grid.corners()), b.map_points(a.map_points(grid.corners())))


@pytest.mark.parametrize("name", BENDING)
def test_displacement_is_independent_of_the_sampling_grid(name):
    """A field in millimeters does not depend on the voxel size or orientation of the sampling grid."""
    grid = oblique(3)
    _, _, transform = some(name, grid)
    turned_grid = Grid(grid.shape[::-1], grid.matrix @ np.eye(4)[[2, 1, 0, 3]], "mm")
    there = np.transpose(transform.on_grid(turned_grid)[0].numpy(), (2, 1, 0, 3))
    np.testing.assert_allclose(there, transform.on_grid(grid)[0].numpy(), atol=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_relocated_transform(name):
    grid = oblique(3)
    _, _, transform = some(name, grid)
    by = np.array([1000.0, -20.0, 3.0])
    points = grid.corners()
    for kind in (transform, chain(some("rigid", grid)[2], transform), InverseTransform(transform)):
        expected = kind.map_points(points) + by
        np.testing.assert_allclose(kind.translated_frame(by).map_points(points + by), expected, atol=1e-3)


@pytest.mark.parametrize("ndim", [2, 3])
def test_affine_jacobian_is_its_determinant_on_any_grid(ndim):
    _, _, transform = some("affine", oblique(ndim))
    expected = np.linalg.det(transform.as_matrix()[:-1, :-1])
    np.testing.assert_allclose(transform.jacobian_determinant(oblique(ndim)), expected, rtol=1e-4)


def test_bounded_bspline_coefficients_do_not_fold():
    grid = Grid.from_spacing((24, 20, 22), (1.0, 2.0, 1.0))
    family = BSplineFamily(spacing=(4, 4, 4), limit=NO_FOLDING_LIMIT)
    theta = 100 * torch.randn(1, *family.parameter_shape(grid), generator=torch.Generator().manual_seed(0))
    assert family(theta, grid).jacobian_determinant(grid).min() > 0
    free = BSplineFamily(spacing=(4, 4, 4))(0.05 * theta, grid)
    assert free.jacobian_determinant(grid).min() < 0
    back = family.resample(0.01 * theta, grid, grid)
    torch.testing.assert_close(back, 0.01 * theta, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", LINEAR)
def test_landmark_fit_recovers_a_known_transform(name, ndim):
    _, _, truth = some(name, oblique(ndim), 0.4)
    fixed = np.random.default_rng(4).uniform(-20, 30, size=(7, ndim))
    found = from_landmarks(fixed, truth.map_points(fixed), name, unit="mm")
    np.testing.assert_allclose(found.as_matrix(), truth.as_matrix(), atol=1e-9)


@pytest.mark.parametrize("ndim", [2, 3])
def test_landmark_fit_reflects_only_if_allowed(ndim):
    fixed = np.random.default_rng(5).uniform(-20, 30, size=(8, ndim))
    mirrored = (fixed * ([-1] + [1] * (ndim - 1))) @ turned(ndim).T + 3
    with_mirror = from_landmarks(fixed, mirrored, "similarity", mirror=True)
    np.testing.assert_allclose(with_mirror.map_points(fixed), mirrored, atol=1e-9)
    assert np.linalg.det(from_landmarks(fixed, mirrored, "rigid").as_matrix()) == pytest.approx(1)


def test_landmark_rotation_is_a_least_squares_minimum():
    rng = np.random.default_rng(6)
    fixed = rng.uniform(-10, 10, size=(9, 3))
    moving = fixed @ turned(3).T + rng.normal(size=fixed.shape)
    for name in ("rigid", "similarity"):
        best = from_landmarks(fixed, moving, name)
        error = ((best.map_points(fixed) - moving) ** 2).sum()
        for k in range(make_family(name).parameter_shape(oblique(3))[0]):
            for step in (-1e-3, 1e-3):
                theta = torch.zeros(1, 6 if name == "rigid" else 7, dtype=torch.float64)
                theta[0, k] = step
                near = chain(best, make_family(name)(theta, Grid.from_spacing((20, 20, 20), origin=-10)))
                assert ((near.map_points(fixed) - moving) ** 2).sum() > error


@pytest.mark.parametrize(
    ("fixed", "moving", "family", "sentence"),
    [
        (np.eye(3), np.eye(3)[:2], "affine", "3 fixed and 2 moving"),
        (np.eye(3)[:, :2], np.eye(3), "affine", "2D and the moving ones 3D"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "rigid", "no landmarks"),
        (np.eye(2), np.eye(2), "affine", "2 pairs of landmarks do not determine"),
        (np.arange(10.0).reshape(5, 2), np.ones((5, 2)), "affine", "on one line"),
        (np.arange(15.0).reshape(5, 3), np.ones((5, 3)), "rigid", "on one line"),
        (np.ones((5, 2)), np.ones((5, 2)), "similarity", "at one place"),
        (np.arange(10.0).reshape(5, 2), np.arange(10.0).reshape(5, 2), "tps", "on one line"),
        (np.array([[0, 0], [0, 1], [1, 0], [0, 0]]), np.zeros((4, 2)), "tps", "same place"),
        (np.array([[0, 0], [0, np.nan], [1, 0]]), np.zeros((3, 2)), "affine", "NaN or infinite"),
        (np.zeros(4), np.zeros(4), "affine", "array of shape"),
        (np.eye(3), np.eye(3), "bspline", "cannot fit 'bspline'"),
    ],
)
def test_degenerate_landmarks_are_refused_with_a_reason(fixed, moving, family, sentence):
    with pytest.raises(InputError, match=sentence):
        from_landmarks(fixed, moving, family)


def test_invalid_names_options_and_shapes_are_refused():
    grid = oblique(3)
    with pytest.raises(InputError, match="no transform family 'elastic'"):
        make_family("elastic")
    with pytest.raises(InputError, match="does not take"):
        make_family("rigid", spacing=3)
    with pytest.raises(InputError, match="no transform of family"):
        transform_class("nothing")
    with pytest.raises(InputError, match="does not fit"):
        DisplacementTransform(torch.zeros(1, 3, 4, 4, 4), grid)
    with pytest.raises(InputError, match="four control points"):
        BSplineTransform(torch.zeros(1, 2, 3, 5), Grid.from_spacing((3, 5)))
    with pytest.raises(InputError, match="2D grid"):
        AffineTransform.identity(3).on_grid(Grid.from_spacing((3, 3)))
    with pytest.raises(InputError, match="same unit"):
        chain(AffineTransform.identity(3, "mm"), AffineTransform.identity(3, "um"))
    with pytest.raises(InputError, match="holds 2 pairs"):
        some("affine", grid, batch=2)[2].displacement(grid)


def test_an_affine_resamples_like_scipy():
    """The lattice of mapped points, read as indices, is what scipy calls matrix and offset."""
    image = np.random.default_rng(0).normal(size=(6, 7, 9))
    _, _, transform = some("affine", Grid.from_spacing(image.shape), 0.1)
    matrix = transform.as_matrix()
    expected = affine_transform(image, matrix[:-1, :-1], matrix[:-1, -1], order=1, mode="nearest")
    from napari_stnreg.ops.interpolation import sample

    mapped = transform.on_grid(Grid.from_spacing(image.shape))
    ours = sample(torch.from_numpy(image)[None, None], mapped, padding="border")[0, 0].numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-9)
