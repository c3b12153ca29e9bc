"""Vessels and blood cells that continue in the neighbors are tissue; dirt is not, and a crack opens a jump."""

import numpy as np
import pytest

import napari_stnreg as sr
from napari_stnreg.datasets import SerialSections
from napari_stnreg.datasets.serial_sections import DIRT
from napari_stnreg.stacks.matching.coarse import coarse_match
from napari_stnreg.stacks.preprocessing.artifact_continuity import confirm_artifacts
from napari_stnreg.stacks.preprocessing.features import prepare
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.sources.base import reduce_section

SETTINGS = StackSettings()
SIDE = 512
Y, X = np.indices((SIDE, SIDE), dtype=float)


def with_vessel(section, z, width=None, cells=True):
    """A section with a vessel across it, which wanders a little from section to section, and blood cells beside it."""
    out = section.astype(float)
    if width is not None:
        center = 250 + 2 * z + 25 * np.sin(X / 90)
        out[np.abs(Y - center) < width / 2] = 240
    if cells:
        for y, x, radius in ((110, 120, 26), (120, 300, 22), (410, 200, 24), (400, 390, 28)):
            out[np.hypot(Y - y - 2 * z, X - x + z) < radius] = 12
    noise = np.random.default_rng(z).normal(0, 2, section.shape)
    return np.where(section > 0, np.clip(out + noise, 1, 254), 0)


def confirmed(sections, z):
    """The prepared section ``z`` by itself, and confirmed by its neighbors."""
    factor = SETTINGS.factor(sections[z].shape)
    made = {k: prepare(reduce_section(one, factor), SETTINGS, factor=factor) for k, one in sections.items()}
    near = [(made[k], coarse_match(made[z], made[k], SETTINGS)) for k in made if k != z]
    assert all(match.confidence > 0.3 for _, match in near)
    return made[z], confirm_artifacts(made[z], [(one, match.matrix) for one, match in near], SETTINGS)


def working(mask):
    return reduce_section(mask.astype(float), SETTINGS.factor(mask.shape)) > 0.5


@pytest.fixture(scope="module")
def tissue():
    return SerialSections((5, SIDE, SIDE), 4, faults={2: "dirt", 3: "crack"})


def test_blood_cells_are_tissue_and_dirt_is_not(tissue):
    sections = {z: with_vessel(tissue[z], z) for z in (0, 1, 2)}
    alone, found = confirmed(sections, 1)
    cells = working((np.hypot(Y - 112, X - 119) < 24) | (np.hypot(Y - 402, X - 389) < 26))
    assert (alone.weights[0][cells] == 0).mean() > 0.5  # by itself a cell looks like dirt
    assert (found.weights[0][cells] == 0).mean() < 0.05
    assert np.abs(found.levels[0][0][cells]).max() > 0  # and is compared
    alone, found = confirmed({z: np.asarray(tissue[z], dtype=float) for z in (1, 2, 3)}, 2)
    dirt = working(tissue.mask(2) == DIRT)
    assert (found.weights[0][dirt] == 0).mean() > max(0.97 * (alone.weights[0][dirt] == 0).mean(), 0.8)


@pytest.mark.parametrize("width", [12, 60])
def test_vessel_does_not_split_a_section(tissue, width):
    sections = {z: with_vessel(tissue[z], z, width, cells=False) for z in (0, 1, 2)}
    alone, found = confirmed(sections, 1)
    assert width == 60 or alone.n_fragments == 2  # a narrow one looks like a crack
    assert found.n_fragments == 1
    vessel = working(np.abs(Y - 252 - 25 * np.sin(X / 90)) < width / 2 - 2)
    assert (found.weights[0][vessel] == 0).mean() < 0.1


def test_crack_still_splits_a_section(tissue):
    sections = {z: np.asarray(tissue[z], dtype=float) for z in (2, 3, 4)}
    alone, found = confirmed(sections, 3)
    assert alone.n_fragments == found.n_fragments == 2
    assert (found.weights[0] == 0).mean() > 0.8 * (alone.weights[0] == 0).mean()


def test_alignment_compares_blood_cells(tmp_path):
    raw = SerialSections((3, 192, 192), 6, bend=1.0)[:].astype(float)
    y, x = np.indices(raw[0].shape)
    cell = np.hypot(y - 90, x - 100) < 20
    raw[:, cell] = 12 + np.random.default_rng(0).normal(0, 2, (3, int(cell.sum())))
    alone = [prepare(section, SETTINGS) for section in raw]
    assert all((one.weights[0][cell] == 0).mean() > 0.5 for one in alone)
    sr.align_stack(np.uint8(np.clip(raw, 1, 254)), tmp_path / "out.zarr", workers=1, keep_work=True)
    files = sorted((tmp_path / "out.work" / "prepared").glob("*.npz"))
    assert all((np.load(one)["weight0"][cell] == 0).mean() < 0.05 for one in files)
