"""The start is found with little overlap and at other pixel sizes, and a given position is left for evidence only."""

import numpy as np
import pytest
from scipy import interpolate, ndimage

import napari_stnreg as sr


def texture(seed, size):
    """Cells of many sizes that fill the image."""
    rng = np.random.default_rng(seed)
    image = sum(ndimage.gaussian_filter(rng.normal(size=(size, size)), s) * s for s in (3, 6))
    return ((image - image.min()) / np.ptp(image)).astype(np.float32)


def section(seed, size=160):
    """An asymmetric piece of tissue on a dark background."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    inside = (y / 0.4) ** 2 + (x / 0.3) ** 2 < 1 + 0.2 * np.sin(3 * np.arctan2(y, x) + seed)
    return ndimage.gaussian_filter(np.where(inside, 0.3 + 0.7 * texture(seed, size), 0), 1).astype(np.float32)


@pytest.mark.parametrize(("seed", "shift"), [(0, (88, 102)), (1, (-100, 92))])
@pytest.mark.parametrize("options", [{"family": "translation"}, {"family": "rigid"}, {}])
def test_an_overlap_of_a_fifth_is_found(seed, shift, options):
    big, n = texture(seed, 320), 180
    corner = np.where(np.array(shift) > 0, 0, 320 - n)
    first = big[corner[0] : corner[0] + n, corner[1] : corner[1] + n]
    other = corner + shift
    second = big[other[0] : other[0] + n, other[1] : other[1] + n]
    assert np.prod(1 - np.abs(shift) / n) < 0.24
    result = sr.register(first, second, preset="fast", device="cpu", **options)
    low = np.maximum(shift, 0) + 10
    points = low + np.array([[10.0, 10], [40, 20], [20, 45]])
    assert np.linalg.norm(result.transform.map_points(points) - points + shift, axis=1).max() < 3


@pytest.mark.parametrize("factor", [1 / 4, 1 / 3, 3, 6])
def test_other_pixel_sizes_are_found_without_calibration(factor):
    image = section(3)
    moving = ndimage.zoom(np.roll(image, (6, -4), (0, 1)), factor, order=1, mode="nearest", grid_mode=True)
    result = sr.register(image, moving, family="similarity", preset="fast", device="cpu")
    points = np.array([[60.0, 70], [100, 60], [80, 100], [50, 90]])
    truth = (points + (6, -4) + 0.5) * factor - 0.5
    assert np.linalg.norm(result.transform.map_points(points) - truth, axis=1).max() < 3 * factor
    assert result.verdict == "good"


@pytest.mark.parametrize("seed", [4, 5])
def test_a_mirrored_section_is_not_called_good(seed):
    image = section(seed)
    moving = ndimage.rotate(image[:, ::-1], 15, reshape=False, order=1)
    assert sr.register(image, moving, preset="fast", device="cpu").verdict != "good"
    found = sr.register(image, moving, preset="fast", device="cpu", mirror=True)
    assert found.verdict == "good"


@pytest.mark.parametrize("seed", [0, 1])
def test_a_thin_structure_in_scanner_coordinates_stays_where_it_is(seed):
    """A column of vertebrae in another contrast and field of view; each looks like its neighbor."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(np.arange(72), np.arange(40), np.arange(16), indexing="ij")
    axis = 20 + 4 * np.sin(z / 20)
    disk = np.abs(y - axis) < 8
    bone = disk & (z % 12 < 9)
    cord = np.abs(y - axis - 12) < 3
    first = ndimage.gaussian_filter(1.0 * bone + 0.4 * (disk & ~bone) + 0.6 * cord, 0.7)
    second = ndimage.gaussian_filter(0.3 * bone + 0.9 * (disk & ~bone) + 1.0 * cord + 0.15 * (x % 5 == 0), 0.7)
    first, second = (v + 0.03 * rng.normal(size=v.shape) for v in (first, second))
    fixed = sr.Image.from_array(first.astype(np.float32), (2, 1, 3), unit="mm")
    moving = sr.Image.from_array(second[14:66, 4:].astype(np.float32), (2, 1, 3), (28.5, 4.5, 0.5), unit="mm")
    result = sr.register(fixed, moving, preset="fast", device="cpu")
    points = np.array([[z, 20 + 4 * np.sin(z / 20) + d, 8] for z in range(20, 62, 6) for d in (0, 12)]) * (2, 1, 3)
    error = np.linalg.norm(result.transform.map_points(points) - points - 0.5, axis=1)
    assert np.median(error) < 2


def pen_stroke(seed, size=28):
    """The same figure of two arcs, written differently for each seed; few of the pixels hold anything."""
    rng = np.random.default_rng(seed)
    knots = np.array([[5, 8], [4, 18], [12, 18], [13, 12], [16, 20], [24, 16], [23, 7]]) + 1.8 * rng.normal(size=(7, 2))
    path = interpolate.CubicSpline(np.linspace(0, 1, 7), knots)(np.linspace(0, 1, 200))
    image = np.zeros((size, size))
    image[tuple(np.clip(np.round(path).astype(int), 0, size - 1).T)] = 1
    image = ndimage.gaussian_filter(image, rng.uniform(0.8, 1.3))
    return np.clip(1.5 * image / image.max(), 0, 1).astype(np.float32)


@pytest.mark.parametrize(("similarity", "seed"), [("ncc", 14), ("ncc", 17), ("ncc", 26), ("auto", 17), ("auto", 26)])
def test_small_images_are_not_rotated_on_weak_evidence(similarity, seed):
    options = {"family": "affine", "similarity": similarity, "device": "cpu"}
    fixed, moving = pen_stroke(0), pen_stroke(seed)
    found, given = (sr.register(fixed, moving, start=start, **options).warped.data for start in ("auto", "none"))
    reached, expected = (np.corrcoef(fixed.ravel(), image.ravel())[0, 1] for image in (found, given))
    assert reached > expected - 0.03
