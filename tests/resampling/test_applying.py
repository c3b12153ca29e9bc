"""Layers other than images follow the image in the right direction, for all axes and units."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.resampling.geometry import GeometryTransformer, ellipse_outline, subdivide
from napari_stnreg.resampling.warp import warp
from napari_stnreg.transforms import (
    AffineTransform,
    DisplacementTransform,
    InverseTransform,
    VelocityTransform,
    chain,
    compose,
    invert,
    make_family,
)
from tests.helpers.families import FAMILIES


def smooth(name: str, grid: Grid, size: float = 0.1, seed: int = 0):
    """A transform of a family that moves points by some voxels, smoothly."""
    family = make_family(name)
    shape = family.parameter_shape(grid)
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(1, *shape, generator=generator, dtype=torch.float64)
    if name in ("displacement", "diffeomorphic", "velocity"):
        coarse = torch.randn(1, grid.ndim, *[4] * grid.ndim, generator=generator, dtype=torch.float64)
        mode = "bicubic" if grid.ndim == 2 else "trilinear"
        theta = 1.5 * torch.nn.functional.interpolate(coarse, size=grid.shape, mode=mode, align_corners=True)
        return family(theta, grid)
    return family({"bspline": 1.5, "tps": 1.5}.get(name, size) * theta, grid)


def blob(grid: Grid, center, width: float) -> Image:
    value = np.exp(-((grid.points() - center) ** 2).sum(-1) / (2 * width**2))
    return Image(value.astype(np.float32), grid)


def center_of(image: Image) -> np.ndarray:
    weight = np.asarray(image.data, dtype=float)
    weight = np.where(weight > 0.05 * weight.max(), weight, 0)
    return (image.grid.points() * weight[..., None]).reshape(-1, image.ndim).sum(0) / weight.sum()


@pytest.mark.parametrize("name", FAMILIES)
def test_warped_points_agree_with_the_warped_image(name):
    fixed = Grid.from_spacing((60, 50), (1.0, 1.2), (5, -7), unit="um")
    moving = Grid.from_spacing((90, 70), (0.8, 1.0), (0, -9), unit="um")
    transform = smooth(name, fixed)
    spot = transform.map_points([fixed.center + [2.0, -1.5]])[0]  # so that it is seen on the fixed side
    warped = warp(blob(moving, spot, 2.0), transform, fixed)
    landed = GeometryTransformer(transform, "moving").transform_points([spot])[0]
    assert np.linalg.norm(landed - center_of(warped)) < 0.35
    assert np.linalg.norm(landed - (fixed.center + [2.0, -1.5])) < 0.05
    back = GeometryTransformer(transform, "fixed").transform_points([landed])[0]
    np.testing.assert_allclose(back, spot, atol=0.05)


def test_points_keep_time_and_units():
    matrix = np.eye(3)
    matrix[:2, 2] = (10.0, -4.0)
    transform = AffineTransform(matrix, "um")
    layer = np.diag([2.0, 500.0, 250.0, 1.0])  # time in seconds, pixels in nm
    carrier = GeometryTransformer(transform, "fixed", matrix=layer, unit="nm", target_unit="mm")
    placed = carrier.transform_points([[3, 4, 8]])
    np.testing.assert_allclose(placed, [[6.0, (4 * 0.5 + 10) / 1000, (8 * 0.25 - 4) / 1000]])
    tracks = carrier.transform_tracks([[7, 3, 4, 8], [7, 4, 4, 8]])
    np.testing.assert_allclose(tracks[:, 0], 7)
    np.testing.assert_allclose(tracks[:, 1], [6, 8])
    np.testing.assert_allclose(tracks[0, 2:], placed[0, 1:])


def test_vectors_follow_the_jacobian():
    turn = np.array([[0.0, -2, 0], [2, 0, 0], [0, 0, 1]])
    vectors = np.array([[[1.0, 2], [3, 0]], [[0, 0], [0, 1]]])
    np.testing.assert_allclose(
        GeometryTransformer(AffineTransform(turn), "fixed").transform_vectors(vectors),
        [[[-4, 2], [0, 6]], [[0, 0], [-2, 0]]],
        atol=1e-12,
    )


def test_shapes_keep_their_type_under_affines_and_become_polygons_else():
    box = np.array([[0.0, 0], [0, 10], [6, 10], [6, 0]])
    line = np.array([[0.0, 0], [3, 4]])
    shift = np.eye(3)
    shift[:2, 2] = 5
    kept = GeometryTransformer(AffineTransform(shift)).transform_shapes(
        [box, box, line], ["rectangle", "ellipse", "line"]
    )
    assert [kind for _, kind in kept] == ["rectangle", "ellipse", "line"]
    np.testing.assert_allclose(kept[0][0], box - 5)
    turned = make_family("rigid")(torch.tensor([[0.0, 0.0, 0.5]], dtype=torch.float64), Grid.from_spacing((8, 8)))
    polygon = GeometryTransformer(turned).transform_shapes([box, box, line], ["rectangle", "ellipse", "line"])
    assert [(len(v), kind) for v, kind in polygon] == [(4, "polygon"), (64, "polygon"), (2, "line")]
    bent = GeometryTransformer(smooth("bspline", Grid.from_spacing((20, 20))), "fixed").transform_shapes(
        [box, line], ["polygon", "line"]
    )
    assert [kind for _, kind in bent] == ["polygon", "path"]
    np.testing.assert_allclose(
        bent[0][0], smooth("bspline", Grid.from_spacing((20, 20))).map_points(subdivide(box, closed=True))
    )
    assert any(np.allclose(subdivide(box, closed=True)[i], box[2]) for i in range(len(subdivide(box, closed=True))))
    outline = ellipse_outline(box) - [3, 5]
    np.testing.assert_allclose((outline[:, 0] / 3) ** 2 + (outline[:, 1] / 5) ** 2, 1)


def test_layer_affine_agrees_with_resampling():
    grid = Grid.from_spacing((20, 24, 22), (2.0, 1.0, 1.5), (3, 4, 5), unit="um")
    transform = smooth("affine", grid)
    place = GeometryTransformer(transform, "moving", matrix=np.diag([3.0, 2, 2, 2, 1]), unit="um").layer_affine()
    assert place.shape == (5, 5)
    assert place[0, 0] == 3
    index = np.array([[4.0, 1, 2, 3, 1]])
    world = (place @ index.T)[1:4, 0]
    np.testing.assert_allclose(transform.map_points([world])[0], [2, 4, 6])
    with pytest.raises(InputError, match="Resample the layer"):
        GeometryTransformer(smooth("bspline", grid)).layer_affine(np.eye(4))
    mirror = AffineTransform(np.diag([-1.0, 1, 1, 1]))
    assert GeometryTransformer(mirror).is_reflection
    assert not GeometryTransformer(transform).is_reflection


def test_direction_is_described_in_text():
    transform = AffineTransform.identity(2)
    assert (
        GeometryTransformer(transform).direction_text
        == "Points of the moving side are mapped to the fixed side by the inverse of the transform."
    )
    assert "the moving side by the transform." in GeometryTransformer(transform, "fixed").direction_text
    assert "point by point" in GeometryTransformer(smooth("tps", Grid.from_spacing((9, 9)))).direction_text


def test_incompatible_geometry_is_refused():
    transform = AffineTransform.identity(3)
    with pytest.raises(InputError, match="2 axes cannot be transformed by a 3D"):
        GeometryTransformer(transform).transform_points(np.zeros((4, 2)))
    with pytest.raises(InputError, match="cannot be converted"):
        GeometryTransformer(transform, unit="um")
    with pytest.raises(InputError, match="moving or the fixed side"):
        GeometryTransformer(transform, "left")
    with pytest.raises(InputError, match="start and direction"):
        GeometryTransformer(transform).transform_vectors(np.zeros((4, 3)))
    with pytest.raises(InputError, match="2 shape types"):
        GeometryTransformer(transform).transform_shapes([np.zeros((4, 3))], ["path", "path"])
    assert GeometryTransformer(transform).transform_points(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_round_trip_of_an_inverse_is_measured(name):
    grid = Grid.from_spacing((40, 44), (1.0, 0.5), unit="um")
    found = invert(smooth(name, grid), grid)
    assert found.method == ("iterative" if name in FAMILIES[4:] else "exact")
    assert found.warning is None
    assert found.max_voxels < {"exact": 1e-9, "iterative": 1e-3}[found.method]
    points = grid.points().reshape(-1, 2)
    again = smooth(name, grid).map_points(found.transform.map_points(points))
    assert np.linalg.norm(again - points, axis=1).max() / 0.5 == pytest.approx(found.max_voxels, abs=1e-9)


def test_smooth_flow_is_integrated_backwards_and_rough_one_solved():
    grid = Grid.from_spacing((40, 44), (1.0, 0.5), unit="um")
    velocity = smooth("velocity", grid).velocity
    gentle = invert(VelocityTransform(0.2 * velocity, grid), grid)
    assert (gentle.method, gentle.max_voxels < 0.1) == ("velocity", True)
    rough = VelocityTransform(1.5 * velocity, grid)
    back, points = rough.inverse(), grid.points()[8:-8, 8:-8].reshape(-1, 2)
    missed = np.linalg.norm(rough.map_points(back.map_points(points)) - points, axis=1).max() / 0.5
    assert missed > 0.1
    assert invert(rough, grid).max_voxels < 1e-3
    assert "round-trip error" in invert(rough, grid).summary


def test_inverse_of_a_folded_transform_warns():
    grid = Grid.from_spacing((40, 40))
    y, x = np.meshgrid(np.arange(40.0), np.arange(40.0), indexing="ij")
    folded = DisplacementTransform(torch.from_numpy(np.stack([12 * np.sin(y / 2), np.zeros_like(x)])), grid)
    found = invert(folded, grid)
    assert "no exact inverse" in found.warning
    assert found.unsolved_fraction > 0.05
    back = folded.inverse()
    warp(blob(grid, [20, 20], 5.0), chain(AffineTransform.identity(2), back), grid)
    assert "no exact inverse" in back.warning
    carrier = GeometryTransformer(folded, "fixed")
    carrier.warp_image(blob(grid, [20, 20], 5.0), grid)
    assert "no exact inverse" in carrier.warning


@pytest.mark.parametrize("name", FAMILIES)
def test_unit_conversion_keeps_the_map(name):
    grid = Grid.from_spacing((20, 18, 16), (2.0, 1.0, 1.5), (3, 4, 5), unit="um")
    transform = smooth(name, grid)
    for one in (transform, transform.inverse(), chain(smooth("affine", grid), transform)):
        points = grid.points()[4:-4:4, 4:-4:4, 4:-4:4].reshape(-1, 3)
        expected = one.map_points(points)
        other = one.with_unit("nm")
        assert other.unit == "nm"
        np.testing.assert_allclose(other.map_points(points * 1000) / 1000, expected, atol=2e-3)
    joined = compose(transform, transform.with_unit("nm"))
    np.testing.assert_allclose(joined.map_points(points), transform.map_points(transform.map_points(points)), atol=1e-6)


def test_linear_matrix_of_any_linear_transform():
    affine = AffineTransform(np.diag([2.0, 4.0, 1.0]))
    np.testing.assert_allclose(InverseTransform(affine).as_matrix(), np.diag([0.5, 0.25, 1]))
    assert VelocityTransform(torch.zeros(2, 4, 4), Grid.from_spacing((4, 4))).as_matrix() is None


def test_coordinate_spaces_follow_inverses_chains_and_copies():
    grid = Grid.from_spacing((8, 8))
    for name in FAMILIES:
        told = smooth(name, grid).with_coordinate_systems("scanner", "world")
        assert told.coordinate_systems == ("scanner", "world")
        assert told.inverse().coordinate_systems == ("world", "scanner")
        assert told.inverse().inverse().coordinate_systems == ("scanner", "world")
        assert told.to("cpu").coordinate_systems == ("scanner", "world")
        assert chain(told, smooth("rigid", grid)).with_unit("pixel").coordinate_systems == ("scanner", "world")
        assert compose(told.inverse(), told).coordinate_systems == ("world", "world")
        assert told.inverse().to("cpu").coordinate_systems == ("world", "scanner")
    assert smooth("rigid", grid).coordinate_systems == ("world", "world")
