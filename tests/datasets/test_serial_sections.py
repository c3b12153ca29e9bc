"""The generator of serial sections: what it says of its sections is true of their pixels."""

import pickle
import time
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from napari_stnreg.core.errors import InputError
from napari_stnreg.datasets import SerialSections
from napari_stnreg.datasets.bspline_evaluation import evaluate_on_pixels
from napari_stnreg.datasets.serial_sections import CRACK, DIRT, EMPTY, FAULTS, FOLD, TISSUE
from napari_stnreg.datasets.tissue import Tissue

SIDE = 192
FAULTY = dict(enumerate(FAULTS, start=1))
NAMES = [None, *FAULTS]


@pytest.fixture(scope="module")
def stack():
    """One good section, and one with each fault."""
    return SerialSections((len(NAMES), SIDE, SIDE), seed=4, faults=FAULTY, crack_width=12, fold_width=14)


def grid(step=1, margin=0.0):
    axis = np.arange(margin * SIDE, (1 - margin) * SIDE, step, dtype=float)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)


def read(picture, points):
    return map_coordinates(np.asarray(picture, dtype=float), np.moveaxis(points, -1, 0), order=1, cval=np.nan)


@pytest.mark.parametrize("z", range(len(NAMES)), ids=lambda z: NAMES[z] or "good")
def test_picture_to_tissue_round_trip(stack, z):
    tissue = np.random.default_rng(z).uniform(0, SIDE - 1, (300, 2))
    hidden = stack.deformation(z).hides(tissue)
    np.testing.assert_allclose(stack.to_tissue(z, stack.to_section(z, tissue))[~hidden], tissue[~hidden], atol=1e-7)
    assert hidden.any() == (NAMES[z] == "fold")
    seen = stack.to_section(z, tissue)[~hidden]
    np.testing.assert_allclose(stack.to_section(z, stack.to_tissue(z, seen)), seen, atol=1e-7)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("missing", "nearly empty")])
def test_sections_agree_with_the_true_positions(stack, name):
    z = NAMES.index(name)
    points = grid(margin=0.1)
    raw = stack.to_section(z, points)
    shown = (read(stack.mask(z), raw) == TISSUE) & ~stack.deformation(z).hides(points)
    reference_section = read(stack.reference_section(z), points)

    def alike(offset):
        seen = read(stack[z], raw + offset)
        good = shown & np.isfinite(seen)
        assert good.sum() > 3000
        return np.corrcoef(seen[good], reference_section[good])[0, 1]

    right = alike((0, 0))
    assert right > 0.75
    for offset in ((1.5, 0), (-1.5, 0), (0, 1.5), (0, -1.5)):
        assert alike(offset) < right - 0.04


def test_mask_excludes_everything_but_tissue(stack):
    empty, scrap, crack, fold, dirt = (
        (stack[z], stack.mask(z))
        for z in map(NAMES.index, ("missing", "nearly empty", "crack", "fold", "dirt"))
    )  # fmt: skip
    assert (empty[0] == 0).all()
    assert (empty[1] == EMPTY).all()
    assert 0.02 < (scrap[1] == TISSUE).mean() < 0.15
    assert (scrap[0][scrap[1] == EMPTY] == 0).all()
    assert (scrap[0][scrap[1] == TISSUE] > 0).all()
    typical = {name: np.median(found[0][found[1] == TISSUE]) for name, found in (("crack", crack), ("fold", fold))}
    assert np.median(crack[0][crack[1] == CRACK]) > typical["crack"] + 30
    assert np.median(fold[0][fold[1] == FOLD]) < typical["fold"] - 60
    assert set(np.unique(dirt[0][dirt[1] == DIRT])) == {0, 255}
    assert not {0, 255} & set(np.unique(dirt[0][dirt[1] == TISSUE]))
    assert np.ptp(stack[NAMES.index("low contrast")].astype(int)) < 0.6 * np.ptp(stack[0].astype(int))


def test_crack_width_and_fold_width_are_as_specified(stack):
    for name, width in (("crack", 12), ("fold", -14)):
        deformation = stack.deformation(NAMES.index(name))
        middle, across = deformation.to_tissue([deformation.tear.middle]), deformation.linear @ deformation.tear.normal
        sides = np.concatenate([middle - 20 * across, middle + 20 * across])
        torn, whole = (np.subtract(*s.to_section(sides)[::-1]) for s in (deformation, replace(deformation, tear=None)))
        np.testing.assert_allclose(torn - whole, width * deformation.tear.normal, atol=1e-6)


def test_mirrored_and_reversed_sections(stack):
    linear = {name: stack.deformation(NAMES.index(name)).linear for name in ("mirrored", "reversed")}
    assert np.linalg.det(linear["mirrored"]) < 0
    assert np.linalg.det(linear["reversed"]) > 0
    assert np.trace(linear["reversed"]) == pytest.approx(-2, abs=0.02)
    far = stack.deformation(NAMES.index("far")).shift
    assert np.linalg.norm(far) == pytest.approx(SIDE / 3, abs=12)


def test_neurites_follow_their_center_lines():
    """Around a center line sections look alike; around a straight line they soon do not."""
    made = SerialSections((7, 320, 320), seed=2, slope=3.0, spread=0.5, thickness_sd=0.1)
    paths = made.paths()
    reference_section = [made.reference_section(z) for z in (0, 6)]
    patch = np.stack(np.meshgrid(*[np.arange(-12.0, 13)] * 2, indexing="ij"), axis=-1)
    inside = ((paths > 20) & (paths < 299)).all(axis=(1, 2))
    assert inside.sum() > 15
    moved = np.linalg.norm(paths[:, 6] - paths[:, 0], axis=-1)
    assert np.median(moved) > 6

    def alike(first, last):
        a, b = (read(picture, patch + at) for picture, at in zip(reference_section, (first, last), strict=True))
        return np.corrcoef(a.ravel(), b.ravel())[0, 1]

    along = np.mean([alike(p[0], p[6]) for p in paths[inside]])
    upright = np.mean([alike(p[0], p[0]) for p in paths[inside]])
    assert along > upright + 0.15
    assert along > 0.2


def test_rendered_positions_agree_with_the_closed_form():
    """Places are worked out on nodes and interpolated; that must not cost accuracy."""
    tissue = Tissue(400, seed=1, slope=2.0)
    drawn = np.stack(evaluate_on_pixels(lambda p: tissue.straightened(p, 7.3), (150, 90)), axis=-1)[:150, :90]
    exact = tissue.straightened(np.stack(np.mgrid[:150.0, :90.0], axis=-1), 7.3)
    assert np.abs(drawn - exact).max() < 0.01


def test_walls_are_between_the_nearest_surfaces():
    """Against every neurite of the tissue, not only those looked up for a block."""
    tissue = Tissue(300, seed=3, slope=0.0, spread=0.0, cell=30.0)
    from napari_stnreg.datasets.tissue import _neurites

    neurites, points = _neurites(tissue), np.stack(np.mgrid[:96.0, :96.0], axis=-1)
    rest = tissue.straightened(points, 0.0)
    away = (rest[..., None, :] - neurites.base + 150) % 300 - 150
    surface = np.sort(np.linalg.norm(away, axis=-1) - neurites.radius, axis=-1)
    gap = surface[..., 1] - surface[..., 0]
    picture = tissue.draw((96, 96), 0.0, 0.2)
    assert picture[gap < 0.4].mean() < 0.25
    assert picture[gap > 14].mean() > 0.5


def test_thick_sections_blur_oblique_structures():
    made = SerialSections((40, 64, 64), seed=1, thickness_sd=0.2)
    assert made.thickness.std() > 0.1
    np.testing.assert_allclose(np.diff(made.heights), (made.thickness[1:] + made.thickness[:-1]) / 2)

    def sharp(slope, thickness):
        drawn = Tissue(300, seed=5, slope=0.0, spread=slope).draw((128, 128), 0.0, thickness)
        return np.mean(drawn < 0.25)  # walls that are cut straight are dark

    assert sharp(3.0, 2.5) < 0.75 * sharp(3.0, 0.3)
    assert sharp(0.0, 2.5) > 0.9 * sharp(0.0, 0.3)


def test_sections_depend_only_on_seed_and_index(stack):
    again = pickle.loads(pickle.dumps(stack))
    for z in (7, 0, 3):
        assert np.array_equal(again[z], stack[z])
    assert not np.array_equal(SerialSections(stack.shape, seed=5)[0], stack[0])
    np.testing.assert_array_equal(stack[2:5, 10:20, 5:9], np.stack(list(stack))[2:5, 10:20, 5:9])
    assert stack[3, 4:9].shape == (5, SIDE)
    longer = SerialSections((5000, SIDE, SIDE), seed=4)
    assert longer[4999].shape == (SIDE, SIDE)


def test_a_large_section_costs_a_fraction_of_a_second():
    made = SerialSections((2000, 1024, 1024))
    made[0]
    began = time.process_time()
    made[1234]
    assert time.process_time() - began < 0.7  # 0.2 on a machine of its own


def test_generated_stack_can_be_aligned(stack):
    from napari_stnreg.stacks.sources.open import open_stack

    source = open_stack(stack)
    assert source.shape == stack.shape
    np.testing.assert_array_equal(source.read(3, (slice(5, 50), slice(0, 9))), stack[3, 5:50, 0:9])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"shape": (3, 64)}, r"\(z, y, x\)"),
        ({"shape": (3, 64, 64), "faults": {3: "crack"}}, "A fault is set for section 3"),
        ({"shape": (3, 64, 64), "faults": {1: "crack + fire"}}, "no fault 'fire'"),
    ],
)
def test_invalid_specifications_are_refused(words, sentence):
    with pytest.raises(InputError, match=sentence):
        SerialSections(**words)
