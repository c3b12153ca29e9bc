"""The sample data: what it says of itself is true."""

import functools
import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

import napari_stnreg.datasets
from napari_stnreg.datasets import digit_pair, head_pair, section_stack, shapes_pair
from napari_stnreg.io import read_image
from napari_stnreg.napari_plugin import sample_data as sample_layers

SAMPLES = {"shapes": shapes_pair, "digit": digit_pair, "head": head_pair, "sections": section_stack}
FOLDER = Path(__file__).parents[2] / "sample_data"


@pytest.fixture(scope="module")
def samples():
    return functools.cache(lambda name: SAMPLES[name]())


def pulled_back(sample, image, order=1):
    """The moving image at the true places, and where these lie inside it; by scipy, not by the sampler under test."""
    index = image.grid.to_index(sample.true_map(sample.fixed.grid.points()))
    inside = ((index >= 0) & (index <= np.array(image.grid.shape) - 1)).all(axis=-1)
    values = map_coordinates(image.data.astype(float), np.moveaxis(index, -1, 0), order=order)
    return values, inside


@pytest.mark.parametrize("name", ["shapes", "digit", "head"])
def test_true_map_aligns_the_pair(samples, name):
    sample = samples(name)
    warped, inside = pulled_back(sample, sample.moving)
    fixed = sample.fixed.data.astype(float)
    apart = np.abs(fixed - sample.moving.data)[inside].mean() if fixed.shape == sample.moving.data.shape else None
    error = np.abs(fixed - warped)[inside].mean()
    assert np.corrcoef(fixed[inside], warped[inside])[0, 1] > 0.97
    assert apart is None or error < apart / 4


def test_true_map_aligns_sections_of_different_contrast(samples):
    sample = samples("sections")
    warped, inside = pulled_back(sample, sample.moving)
    for reference_section, section, covered in zip(sample.fixed.data, warped, inside, strict=True):
        assert np.corrcoef(reference_section[covered], section[covered])[0, 1] > 0.93


@pytest.mark.parametrize("name", SAMPLES)
def test_true_map_check_detects_small_errors(samples, name):
    """Guards the two tests above: half a voxel off in each axis is worse than the truth."""
    sample = samples(name)
    right, inside = pulled_back(sample, sample.moving)
    off = sample.moving.grid.linear @ np.full(sample.fixed.ndim, 0.5) * (np.arange(sample.fixed.ndim) > 0)
    index = sample.moving.grid.to_index(sample.true_map(sample.fixed.grid.points()) + off)
    wrong = map_coordinates(sample.moving.data.astype(float), np.moveaxis(index, -1, 0), order=1)
    fixed = sample.fixed.data.astype(float)
    assert np.corrcoef(fixed[inside], right[inside])[0, 1] > np.corrcoef(fixed[inside], wrong[inside])[0, 1] + 1e-3


@pytest.mark.parametrize("name", SAMPLES)
def test_the_true_map_does_not_fold(samples, name):
    sample = samples(name)
    field = sample.true_displacement() + np.moveaxis(sample.fixed.grid.points(), -1, 0)
    axes = range(1, 3) if name == "sections" else range(sample.fixed.ndim)  # sections are separate sheets
    jacobian = np.stack([np.stack(np.gradient(field[a], *sample.fixed.grid.spacing))[list(axes)] for a in axes])
    determinant = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)))
    assert determinant.min() > 0.3


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_misaligned_and_have_landmarks(samples, name):
    sample = samples(name)
    moved = np.linalg.norm(sample.moving_points - sample.fixed_points, axis=1) / sample.fixed.grid.spacing.min()
    assert np.median(moved) > 2
    for points, image in zip(sample.landmarks, (sample.fixed, sample.moving), strict=True):
        index = image.grid.to_index(points)
        assert (index >= 0).all()
        assert (index <= np.array(image.grid.shape) - 1).all()


def test_labels_of_the_heads_agree_under_the_true_map(samples):
    sample = samples("head")
    fixed, moving = sample.labels
    warped, inside = pulled_back(sample, moving, order=0)
    for label in range(1, 8):
        a, b = (fixed.data == label)[inside], (warped == label)[inside]
        assert a.sum() > 100
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.7, label


def test_t2_inverts_the_contrast_of_fluid(samples):
    t1, t2 = samples("head").moving.data, head_pair("t2").moving.data
    fluid = samples("head").labels[1].data == 3
    assert t1[fluid].mean() < 80
    assert t2[fluid].mean() > 180


def test_committed_files_match_the_code(samples):
    for name, ending in (("shapes", ".tif"), ("digit", ".png"), ("head", ".nii.gz"), ("sections", ".tif")):
        sample = samples(name)
        for image in (sample.fixed, sample.moving, *(sample.labels or ())):
            committed = read_image(FOLDER / f"{image.name}{ending}")
            # Other processors round otherwise: one gray level here and there, and a label at the very border.
            different = np.abs(committed.data.astype(int) - image.data)
            assert (different > 1).mean() < 1e-4
            if ending != ".png":
                np.testing.assert_allclose(committed.grid.corners(), image.grid.corners(), atol=1e-4)
        table = np.loadtxt(FOLDER / f"{sample.name}_landmarks.csv", delimiter=",", skiprows=1)
        np.testing.assert_allclose(table, np.hstack(sample.landmarks), atol=1e-5)


class OtherProcessor:
    """Stands in for numpy: transcendental functions return a neighboring float for two thirds of the values.

    Vectorized libraries are accurate to a few units in the last place, and differ by as much between instruction sets.
    """

    FUNCTIONS = ("sin", "cos", "tanh", "exp", "log", "hypot", "arctan2", "deg2rad")

    def __init__(self):
        self.nudges = np.random.default_rng(0)

    def __getattr__(self, name):
        exact = getattr(np, name)
        if name not in self.FUNCTIONS:
            return exact

        def nudged(*args, **keywords):
            result = np.asarray(exact(*args, **keywords))
            toward = np.array([-np.inf, 0.0, np.inf])[self.nudges.integers(0, 3, result.shape)]
            neighbor = np.nextafter(result, toward.astype(result.dtype))
            return np.where(toward == 0, result, neighbor)[()]

        return nudged


def sample_modules():
    names = [info.name for info in pkgutil.iter_modules(napari_stnreg.datasets.__path__) if info.name != "__main__"]
    return [importlib.import_module(f"napari_stnreg.datasets.{name}") for name in names]


def clear_caches():
    for module in sample_modules():
        for value in vars(module).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()


@pytest.fixture
def other_processor(monkeypatch):
    """The samples as another processor makes them; nothing of them stays in a cache."""

    def make(name):
        clear_caches()
        for module in sample_modules():
            if hasattr(module, "np"):
                monkeypatch.setattr(module, "np", OtherProcessor())
        return SAMPLES[name]()

    yield make
    clear_caches()


@pytest.mark.parametrize("name", SAMPLES)
def test_rounding_differences_do_not_change_the_samples(samples, name, other_processor):
    usual, other = samples(name), other_processor(name)
    for a, b in zip((usual.fixed, usual.moving, *(usual.labels or ())),
                    (other.fixed, other.moving, *(other.labels or ())), strict=True):  # fmt: skip
        different = np.abs(a.data.astype(int) - b.data)
        # A value next to the middle between two gray levels rounds either way; no decision changes, though.
        assert different.max() <= 1
        assert (different > 0).mean() < 1e-4
    np.testing.assert_allclose(np.hstack(other.landmarks), np.hstack(usual.landmarks), atol=1e-9)


def test_head_files_have_non_canonical_orientations():
    import nibabel as nib

    codes = [nib.aff2axcodes(nib.load(FOLDER / f"head_{side}.nii.gz").affine) for side in ("fixed", "moving")]
    assert codes == [("R", "A", "S"), ("P", "S", "R")]


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_open_as_layers(samples, name, monkeypatch):
    from napari.layers import Layer

    # What is drawn is known by now; here only the layers are looked at.
    for function in ("shapes_pair", "digit_pair", "head_pair", "section_stack"):
        monkeypatch.setattr(sample_layers, function, lambda: samples(name))
    for data, keywords, kind in getattr(sample_layers, f"napari_sample_{name}")():
        layer = Layer.create(data, keywords, kind)
        assert layer.name == keywords["name"]
        assert layer.axis_labels == ("z", "y", "x")[-layer.ndim :]


def test_landmarks_become_points_layers(samples):
    from napari.layers import Layer

    fixed, moving = (Layer.create(*item) for item in sample_layers.landmark_layers(samples("shapes")))
    np.testing.assert_array_equal(fixed.data, samples("shapes").fixed_points)
    assert len(moving.data) == len(fixed.data)
