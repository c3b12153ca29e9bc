"""Grids, images and units, as properties that hold for all of them."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.units import canonical, conversion_factor


@st.composite
def grids(draw, ndim=None, unit="mm"):
    ndim = ndim or draw(st.sampled_from([2, 3]))
    shape = draw(st.tuples(*[st.integers(2, 12)] * ndim))
    spacing = np.array(draw(st.tuples(*[st.floats(0.1, 10)] * ndim)))
    origin = np.array(draw(st.tuples(*[st.floats(-100, 100)] * ndim)))
    turn = Rotation.from_euler("xyz", draw(st.tuples(*[st.floats(-3, 3)] * 3))).as_matrix()
    if ndim == 2:
        turn = Rotation.from_euler("z", draw(st.floats(-3, 3))).as_matrix()[:2, :2]
    return Grid.from_spacing(shape, spacing, origin, turn, unit=unit)


@given(grids(), st.integers(0, 10_000))
def test_world_to_index_inverts_index_to_world(grid, seed):
    index = np.random.default_rng(seed).uniform(-20, 20, (7, grid.ndim))
    np.testing.assert_allclose(grid.to_index(grid.to_world(index)), index, atol=1e-8)


@given(grids())
def test_points_are_the_voxel_centers(grid):
    points = grid.points()
    assert points.shape == (*grid.shape, grid.ndim)
    last = tuple(n - 1 for n in grid.shape)
    np.testing.assert_allclose(points[(0,) * grid.ndim], grid.origin)
    np.testing.assert_allclose(points[last], grid.matrix[:-1, :-1] @ last + grid.matrix[:-1, -1], atol=1e-9)
    np.testing.assert_allclose(points.reshape(-1, grid.ndim).mean(axis=0), grid.center, atol=1e-8)
    assert grid.size == points[..., 0].size


@given(grids())
def test_spacing_is_the_distance_between_voxels(grid):
    points = grid.points()
    for axis in range(grid.ndim):
        gaps = np.linalg.norm(np.diff(points, axis=axis), axis=-1)
        np.testing.assert_allclose(gaps, grid.spacing[axis], rtol=1e-7)
    assert grid.is_orthogonal()


@given(grids(), st.floats(0.4, 3))
def test_grid_resize_keeps_the_outer_faces(grid, factor):
    other = grid.resized([max(1, round(n * factor)) for n in grid.shape])
    np.testing.assert_allclose(other.corners(), grid.corners(), atol=1e-7)
    np.testing.assert_allclose(other.center, grid.center, atol=1e-7)
    assert other.diagonal == pytest.approx(grid.diagonal)


@given(grids(), st.data())
def test_crop_keeps_voxel_positions(grid, data):
    start = [data.draw(st.integers(-3, n - 1)) for n in grid.shape]
    stop = [data.draw(st.integers(a + 1, n + 3)) for a, n in zip(start, grid.shape, strict=True)]
    part = grid.cropped(start, stop)
    assert part.shape == tuple(np.subtract(stop, start))
    np.testing.assert_allclose(part.to_world([0] * grid.ndim), grid.to_world(start), atol=1e-8)
    np.testing.assert_allclose(part.linear, grid.linear)


@given(grids(), grids())
def test_union_covers_both_on_the_lattice_of_the_first(a, b):
    if a.ndim != b.ndim:
        return
    union = a.extended_to(b.corners())
    for grid in (a, b):
        index = union.to_index(grid.corners())
        assert (index > -0.5 - 1e-5).all()
        assert (index < np.array(union.shape) - 0.5 + 1e-5).all()
    shift = union.to_index(a.origin)
    np.testing.assert_allclose(shift, np.rint(shift), atol=1e-5)


@given(grids())
def test_covering_grid_is_axis_aligned_and_tight(grid):
    cover = Grid.covering(grid.corners(), grid.spacing, unit="mm")
    index = cover.to_index(grid.corners())
    assert (index > -0.5 - 1e-5).all()
    assert (index < np.array(cover.shape) - 0.5 + 1e-5).all()
    np.testing.assert_allclose(cover.linear, np.diag(grid.spacing), atol=1e-9)
    low, high = grid.corners().min(axis=0), grid.corners().max(axis=0)
    assert (cover.spacing * cover.shape - (high - low) < cover.spacing * (1 + 1e-5)).all()


def test_sheared_grid_gets_an_axis_aligned_cover():
    sheared = Grid((4, 5), [[1, 0.5, 0], [0, 1, 0], [0, 0, 1]])
    assert not sheared.is_orthogonal()
    upright = sheared.orthogonal()
    assert upright.is_orthogonal()
    assert (np.abs(upright.to_index(sheared.corners()) - (np.array(upright.shape) - 1) / 2)
            <= np.array(upright.shape) / 2 + 1e-5).all()  # fmt: skip
    straight = Grid.from_spacing((4, 5), 2)
    assert straight.orthogonal() is straight


@given(grids(), st.sampled_from(["um", "nm", "m", "cm", "micron", "Å"]))
def test_unit_conversion_keeps_world_positions(grid, unit):
    other = grid.with_unit(unit)
    np.testing.assert_allclose(other.to_world([1] * grid.ndim) / conversion_factor("mm", unit),
                               grid.to_world([1] * grid.ndim), rtol=1e-9, atol=1e-9)  # fmt: skip
    assert other.with_unit("mm").same_lattice(grid)


@given(grids())
def test_grid_json_round_trip(grid):
    import json

    again = Grid.from_dict(json.loads(json.dumps(grid.to_dict())))
    assert again == grid
    assert hash(again) == hash(grid)


def test_grids_compare_by_value_and_are_immutable():
    a, b = Grid.from_spacing((3, 4), 2, 1, unit="mm"), Grid.from_spacing((3, 4), 2, 1, unit="mm")
    assert a == b
    assert a != Grid.from_spacing((3, 4), 2, 1, unit="um")
    assert a != Grid.from_spacing((3, 5), 2, 1, unit="mm")
    assert a != "a grid"
    with pytest.raises(ValueError, match="read-only"):
        a.matrix[0, 0] = 5
    source = np.eye(3)
    grid = Grid((3, 4), source)
    source[0, 0] = 9
    assert grid.matrix[0, 0] == 1


@pytest.mark.parametrize("matrix", [np.eye(4), np.zeros((3, 3)), np.diag([1, np.nan, 1]), np.diag([1, np.inf, 1])])
def test_singular_grid_is_refused(matrix):
    with pytest.raises(InputError):
        Grid((3, 4), matrix)


@pytest.mark.parametrize(("a", "b", "factor"), [
    ("mm", "um", 1000), ("nanometer", "Å", 10), ("inch", "mm", 25.4), ("pixel", "px", 1), ("furlong", "furlong", 1),
    ("µm", "um", 1),
])  # fmt: skip
def test_units_convert(a, b, factor):
    assert conversion_factor(a, b) == pytest.approx(factor)


@pytest.mark.parametrize("pair", [("pixel", "mm"), ("furlong", "mm"), ("s", "mm")])
def test_incompatible_units_are_refused(pair):
    for a, b in itertools.permutations(pair):
        with pytest.raises(InputError, match="cannot be converted"):
            conversion_factor(a, b)


def test_unit_aliases():
    assert {canonical(u) for u in ("µm", "μm", "micron", "Micrometer", "um", " um ")} == {"um"}
    assert canonical("") == "pixel"
    assert canonical("furlong") == "furlong"


def test_image_does_not_copy_its_array():
    array = np.arange(12, dtype=np.int16).reshape(3, 4)
    image = Image.from_array(array, spacing=(2, 3), origin=(5, 6), unit="um", name="thing")
    assert image.data is array
    assert (image.ndim, image.channels, image.has_channel_axis) == (2, 1, False)
    np.testing.assert_allclose(image.grid.to_world([1, 1]), [7, 9])
    assert image.intensity().dtype == np.float32
    renamed = image.replace(name="other")
    assert (image.name, renamed.name) == ("thing", "other")
    assert image.with_unit("nm").grid.spacing == pytest.approx([2000, 3000])


def test_intensity_is_luminance_or_a_channel_or_their_mean():
    colors = np.zeros((2, 2, 3), dtype=np.uint8)
    colors[..., 1] = 100
    assert Image.from_array(colors, channels=True).intensity() == pytest.approx(71.54, abs=0.01)
    channels = np.stack([np.full((2, 2), 1.0), np.full((2, 2), 5.0)], axis=-1)
    image = Image.from_array(channels, channels=True)
    assert (image.intensity() == 3).all()
    assert (image.intensity(1) == 5).all()
    for wrong in (2, -1):
        with pytest.raises(InputError, match="does not exist"):
            image.intensity(wrong)


def test_invalid_images_are_refused():
    grid = Grid.from_spacing((3, 4))
    with pytest.raises(InputError, match="data of shape"):
        Image(np.zeros((4, 3)), grid)
    with pytest.raises(InputError, match="mask"):
        Image(np.zeros((3, 4)), grid, mask=np.ones((4, 3), dtype=bool))
    with pytest.raises(InputError, match="empty"):
        Image.from_array(np.zeros((0, 4)))
    with pytest.raises(InputError, match="4D without its channels"):
        Image.from_array(np.zeros((2, 2, 2, 2)))
    with pytest.raises(InputError, match="complex"):
        Image.from_array(np.ones((3, 4), dtype=complex)).intensity()


@pytest.mark.parametrize("digits", [3, 4, 5])
def test_near_orthogonal_axes_keep_their_lattice(digits):
    turn = np.round(Rotation.from_euler("xyz", (0.4, 0.2, -0.3)).as_matrix(), digits)
    grid = Grid.from_spacing((6, 40, 40), (5.0, 0.5, 0.5), (3.0, -20.0, 7.0), turn, unit="mm")
    straight = grid.orthogonal()
    assert straight.is_orthogonal()
    assert straight.shape == grid.shape
    np.testing.assert_allclose(straight.spacing, grid.spacing)
    np.testing.assert_allclose(straight.points(), grid.points(), atol=0.1)
    sheared = grid.matrix.copy()
    sheared[:-1, 0] += 0.01 * 5.0 * grid.linear[:, 1] / 0.5
    assert Grid(grid.shape, sheared, "mm").orthogonal().shape != grid.shape
