"""What an alignment leaves on disk says exactly where every pixel came from, and applies to everything else."""

import numpy as np
import pytest
import zarr
from scipy.ndimage import map_coordinates

from napari_stnreg.core.errors import InputError
from napari_stnreg.stacks.aligned_stack import AlignedStack
from napari_stnreg.stacks.output.canvas import OutputCanvas, displacement_transform
from napari_stnreg.stacks.output.ome_zarr import create
from napari_stnreg.stacks.output.render import relative_scale, render_bands
from napari_stnreg.stacks.section_transform import Lattice, SectionTransform
from napari_stnreg.stacks.sources.open import open_stack

HEIGHT, WIDTH = 90, 110
CANVAS = OutputCanvas((-13, 7), (120, 131), (HEIGHT, WIDTH), 4)


def turned(points, degrees, bend=1.5):
    """A rotation about a point, and a gentle bend."""
    points = np.asarray(points, dtype=float)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    moved = (points - (40, 60)) @ np.array([[c, s], [-s, c]]) + (47, 52)
    return moved + bend * np.sin(points[..., ::-1] / 23)


ANGLES = (0, 8, 175)


@pytest.fixture(scope="module")
def smooth():
    """Sections with nothing finer than a few pixels, so that an interpolation is no matter of taste."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([(100 + 50 * np.sin(y / 9 + z) + 40 * np.cos(x / 7 - z)).astype(np.float32) for z in range(3)])


@pytest.fixture(scope="module")
def aligned(smooth, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "out.zarr"
    source = open_stack(smooth, spacing=(40, 8, 8), unit="nm")
    writer = create(path, source, CANVAS, CANVAS.shape, attributes={"finished": True})
    for z, angle in enumerate(ANGLES):
        nodes = CANVAS.field_grid.points()
        field = np.moveaxis(turned(nodes, angle) - nodes, -1, 0).astype(np.float32)
        writer.write_displacement(z, field)
        writer.write(z, render_bands(source, z, displacement_transform(field, CANVAS), CANVAS.grid, 32, step=4))
    return AlignedStack(path)


def test_rendered_pixels_equal_raw_pixels_at_true_positions(aligned, smooth):
    image = np.asarray(aligned.levels[0])
    assert image.shape == (3, *CANVAS.shape)
    for z, angle in enumerate(ANGLES):
        raw = np.moveaxis(turned(CANVAS.grid.points(), angle), -1, 0)
        expected = map_coordinates(smooth[z], raw, order=3)
        inside = ((raw > 2) & (raw < np.array([HEIGHT - 3, WIDTH - 3])[:, None, None])).all(axis=0)
        assert inside.mean() > 0.3
        assert np.abs(image[z] - expected)[inside].max() < 0.9  # of 180; linear interpolation of the waves
        outside = ((raw < -1) | (raw > np.array([HEIGHT, WIDTH])[:, None, None])).any(axis=0)
        assert not image[z][outside].any()


def test_exported_field_reproduces_the_aligned_stack(aligned, smooth, tmp_path):
    field = np.load(aligned.export_displacement(tmp_path / "f.npy"))
    assert field.shape == (3, 2, HEIGHT, WIDTH)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    top, left = CANVAS.origin
    for z in range(3):
        d = field[z]
        again = map_coordinates(smooth[z], [y + d[0], x + d[1]], order=1)
        shown = np.zeros((HEIGHT, WIDTH), dtype=np.float32)  # the canvas begins below and right of the input's corner
        part = np.asarray(aligned.levels[0])[z, -top : -top + HEIGHT, : WIDTH - left]
        shown[:, left:] = part
        inside = (y + d[0] > 0) & (y + d[0] < HEIGHT - 1) & (x + d[1] > 0) & (x + d[1] < WIDTH - 1) & (x >= left)
        assert inside.mean() > 0.3
        np.testing.assert_allclose(again[inside], shown[inside], atol=2e-3)


def test_points_round_trip(aligned):
    rng = np.random.default_rng(3)
    points = np.column_stack([rng.integers(0, 3, 40), rng.uniform(5, 80, 40), rng.uniform(5, 100, 40)])
    moved = aligned.map_points(points)
    for (z, y, x), (_, v, u) in zip(points, moved, strict=True):
        there = turned(np.array([v, u]) + CANVAS.origin, ANGLES[int(z)])
        np.testing.assert_allclose(there, (y, x), atol=0.03)  # the nodes are 4 pixels apart
    np.testing.assert_allclose(aligned.map_points(moved, inverse=True), points, atol=1e-3)
    with pytest.raises(InputError, match="sections 0 to 2"):
        aligned.map_points([[3, 1, 1]])


def test_the_image_is_ome_zarr_with_pyramid_axes_and_scale(aligned):
    group = zarr.open_group(str(aligned.path), mode="r")
    assert group.metadata.zarr_format == 3
    ome = dict(group.attrs["ome"])
    assert ome["version"] == "0.5"
    (multiscales,) = ome["multiscales"]
    assert [(a["name"], a["type"], a["unit"]) for a in multiscales["axes"]] == [
        (name, "space", "nanometer") for name in "zyx"
    ]
    scale, translation = multiscales["datasets"][0]["coordinateTransformations"]
    assert scale == {"type": "scale", "scale": [40.0, 8.0, 8.0]}
    assert translation == {"type": "translation", "translation": [0.0, -13 * 8.0, 7 * 8.0]}
    field = group["displacement"]
    assert field.shape == (3, 2, *CANVAS.field_shape)
    assert field.attrs["canvas_origin"] == [-13, 7]
    assert field.attrs["canvas_shape"] == [120, 131]
    assert field.attrs["scale"] == [4, 4]
    assert field.attrs["order"] == ["y", "x"]


def test_a_larger_image_has_levels_that_are_means(tmp_path):
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 255, (2, 301, 600), dtype=np.uint8)
    canvas = OutputCanvas((0, 0), (301, 600), (301, 600), 16)
    source = open_stack(stack)
    writer = create(tmp_path / "a.zarr", source, canvas, canvas.shape)
    field = np.zeros((2, *canvas.field_shape), dtype=np.float32)
    writer.write(1, render_bands(source, 1, displacement_transform(field, canvas), canvas.grid, 64, step=16))
    levels = [zarr.open_array(str(tmp_path / "a.zarr" / str(n)), mode="r") for n in range(3)]
    assert [level.shape for level in levels] == [(2, 301, 600), (2, 151, 300), (2, 76, 150)]
    np.testing.assert_array_equal(levels[0][1], stack[1])
    means = stack[1, :300].reshape(150, 2, 300, 2).mean(axis=(1, 3))
    assert np.abs(np.asarray(levels[1][1])[:150] - means).max() <= 0.5
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="r")
    second = group.attrs["ome"]["multiscales"][0]["datasets"][1]["coordinateTransformations"]
    assert second[1]["translation"] == [0.0, 0.5, 0.5]


def test_labels_keep_their_values_and_match_the_image(aligned, smooth, tmp_path):
    labels = np.where(smooth > 110, 7_000_001, 3).astype(np.uint32)
    aligned.apply(labels, tmp_path / "labels.zarr", interpolation="nearest")
    found = np.asarray(zarr.open_array(str(tmp_path / "labels.zarr" / "0"), mode="r"))
    assert set(np.unique(found)) == {0, 3, 7_000_001}
    image = np.asarray(aligned.levels[0])
    sure = (found > 0) & (np.abs(image - 110) > 15)
    assert ((found == 7_000_001) == (image > 110))[sure].mean() > 0.999


@pytest.mark.parametrize("factor", [2, 3])
def test_apply_to_higher_resolution_stack(aligned, tmp_path, factor):
    y, x = ((np.arange(n * factor) + 0.5) / factor - 0.5 for n in (HEIGHT, WIDTH))
    fine = np.stack([100 + 50 * np.sin(y[:, None] / 9 + z) + 40 * np.cos(x[None] / 7 - z) for z in range(3)])
    aligned.apply(fine.astype(np.float32), tmp_path / "fine.zarr")
    found = np.asarray(zarr.open_array(str(tmp_path / "fine.zarr" / "0"), mode="r"))
    means = found.reshape(3, CANVAS.shape[0], factor, CANVAS.shape[1], factor).mean(axis=(2, 4))
    image = np.asarray(aligned.levels[0])
    inner = (found > 0).reshape(3, CANVAS.shape[0], factor, CANVAS.shape[1], factor).all(axis=(2, 4)) & (image > 0)
    inner[:, 2:-2, 2:-2] &= inner[:, :-4, :-4] & inner[:, 4:, 4:]
    assert inner.mean() > 0.3
    assert np.abs(means - image)[inner].max() < 1.0


def test_relative_scale_is_integer_despite_dropped_pixels():
    assert relative_scale((5, 250, 250), (1001, 1003)) == 4
    assert relative_scale((5, 2003, 3000), (1001, 1500)) == 0.5
    assert relative_scale((5, 64, 64), (64, 64)) == 1
    assert relative_scale((5, 100, 200), (150, 300)) == pytest.approx(1.5)
    with pytest.raises(InputError, match="must cover the same extent"):
        relative_scale((5, 100, 100), (200, 300))


def test_apply_with_invalid_input_raises(aligned, smooth, tmp_path):
    with pytest.raises(InputError, match="2 sections and the alignment 3"):
        aligned.apply(smooth[:2], tmp_path / "a.zarr")
    with pytest.raises(InputError, match=r"ends in \.zarr"):
        aligned.apply(smooth, tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"ends in \.npy"):
        aligned.export_displacement(tmp_path / "a.tif")
    zarr.open_group(str(tmp_path / "other.zarr"), mode="w")
    with pytest.raises(InputError, match="not an aligned stack"):
        AlignedStack(tmp_path / "other.zarr")


def test_on_axes_equals_call():
    numbers = np.random.default_rng(3)
    fragment_labels = np.zeros((64, 64), np.uint8)
    fragment_labels[:, 25:] = 1
    lattice = Lattice.covering((-10, -20), (260, 270), 40)
    affine = np.array([[0.99, 0.05, -6.0], [-0.05, 0.99, 2.0], [0, 0, 1]])
    torn = SectionTransform.from_affine(affine, lattice, (256, 256), fragment_labels, 4)
    torn = torn.with_vectors(numbers.normal(0, 5, torn.vectors.shape))
    y, x = np.arange(-80, 360, 7.5), np.arange(-60, 330, 9.0)  # beyond the control points, too
    expected = torn(np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1))
    np.testing.assert_allclose(torn.on_axes(y, x), expected, atol=1e-9)
    np.testing.assert_allclose(torn(torn.inverse(np.array([[60.0, 60.0], [60.0, 200.0]]))), [[60, 60], [60, 200]],
                               atol=1e-3)  # fmt: skip
