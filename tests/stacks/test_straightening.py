"""Whether an alignment straightened what runs obliquely: told without the truth, checked against it."""

from dataclasses import replace

import numpy as np
import pytest

from napari_stnreg.stacks.matching.fine import FineMatch
from napari_stnreg.stacks.quality.slope_preservation import estimate_slopes, summarize
from napari_stnreg.stacks.section_transform import Lattice, SectionTransform
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.solver.elastic import solve_elastic

SIDE, COUNT = 400, 24
LATTICE = Lattice.covering((0, 0), (SIDE, SIDE), 80)
NODES = np.stack(np.meshgrid(LATTICE.axis(0), LATTICE.axis(1), indexing="ij"))
INSIDE = ((NODES > -1) & (NODES < SIDE + 1)).all(axis=0)


def matches_of(slope, shake=3.0, seed=0, count=COUNT, lost=()):
    """What perfect matching finds in tissue that leans, its sections lying off by chance; and the true slants.

    Neurites lean by ``slope`` pixels a section, up in one half of the section and down in the other.
    """
    rng = np.random.default_rng(seed)
    lean = slope * np.stack([0 * NODES[0], np.sin(np.pi * NODES[1] / SIDE) * (NODES[0] / SIDE)])
    off = rng.normal(0, shake, (count, 2, 1, 1)) + rng.normal(0, 0.3 * shake, (count, *NODES.shape))
    weight = np.zeros((1, 1, 3, *LATTICE.shape))
    weight[:, :, ::2] = INSIDE
    kept = [z for z in range(count) if z not in lost]
    found = {}
    for k, a in enumerate(kept):
        for b in kept[k + 1 : k + 3]:
            shift = (off[b] - off[a] + (b - a) * lean + rng.normal(0, 0.4, lean.shape))[None, None]
            found[a, b] = FineMatch(shift, weight, np.full((1, 1), 0.6 / (b - a) ** 0.5), np.ones((1, 1)))
    return found, off, lean


def aligned(found, course, count=COUNT):
    still = [SectionTransform.from_affine(np.eye(3), LATTICE, (SIDE, SIDE)) for _ in range(count)]
    return solve_elastic(still, found, StackSettings.parse(trend=course))


def true_share(transforms, off, lean):
    """Slope of the neurites as the maps lay them over their true slope."""
    z = np.arange(len(transforms)) - (len(transforms) - 1) / 2
    laid = np.stack([zz * lean + o - there.vectors[0] for zz, o, there in zip(z, off, transforms, strict=True)])
    slope = np.tensordot(z, laid, axes=1) / (z @ z)
    return (slope * lean * INSIDE).sum() / (lean**2 * INSIDE).sum()


@pytest.mark.parametrize("course", ["keep", "reduce", "remove"])
def test_the_share_that_is_kept_is_that_of_the_truth(course):
    found, off, lean = matches_of(2.5)
    transforms = aligned(found, course)
    assert estimate_slopes(transforms, found).kept_fraction == pytest.approx(
        true_share(transforms, off, lean), abs=0.12
    )


def test_only_straightening_is_said_to_be_straightening():
    found, _, _ = matches_of(2.5)
    natural, straight = (estimate_slopes(aligned(found, course), found) for course in ("keep", "remove"))
    assert natural.warning("keep") == ""
    assert straight.kept_fraction < 0.5 < natural.kept_fraction
    assert f"{100 * straight.kept_fraction:.0f} %" in straight.warning("remove")
    assert "over-straightened. trend='keep' keeps more." in straight.warning("remove")
    assert "A larger position_weight keeps more." in straight.warning("keep")
    assert straight.report()["kept"] == pytest.approx(straight.kept_fraction, abs=1e-3)


def test_shaking_is_no_slant():
    """Sections that lie off, tissue that stands upright: nothing can be straightened, and nothing is said."""
    for seed in (0, 1, 2):
        found, _, _ = matches_of(0.0, shake=5.0, seed=seed)
        told = estimate_slopes(aligned(found, "remove"), found)
        assert told.warning("remove") == ""
        assert told.report()["kept"] is None


def test_a_missing_section_does_not_hide_the_slant():
    found, _, _ = matches_of(2.5, lost=(7, 8))
    whole, _, _ = matches_of(2.5)
    assert estimate_slopes(aligned(found, "remove"), found).kept_fraction < 0.5
    assert estimate_slopes(aligned(found, "remove"), found).size == pytest.approx(
        estimate_slopes(aligned(whole, "remove"), whole).size, rel=0.1
    )


def test_of_a_few_sections_nothing_is_said():
    found, _, _ = matches_of(2.5, count=6)
    told = estimate_slopes(aligned(found, "remove", count=6), found)
    assert told.warning("remove") == ""
    assert len(told.recorded) == 0
    assert summarize(told.report()) == "too few consecutive sections to estimate slopes"


@pytest.mark.parametrize(
    "pose",
    [np.diag([1.0, -1.0, 1.0]), np.diag([-1.0, -1.0, 1.0]), np.array([[1.0, 0, 130], [0, 1, -90], [0, 0, 1]])],
    ids=["upside down", "turned round", "far off"],
)
def test_a_section_that_lay_quite_differently_does_not_hide_the_slant(pose):
    found, _, _ = matches_of(2.5)
    transforms = aligned(found, "remove")
    usual = estimate_slopes(transforms, found).report()
    middle = np.array([[1.0, 0, SIDE / 2], [0, 1, SIDE / 2], [0, 0, 1]])
    transforms[9] = replace(transforms[9], affines=(middle @ pose @ np.linalg.inv(middle))[None])
    told = estimate_slopes(transforms, found).report()
    assert told["kept"] == pytest.approx(usual["kept"], abs=0.05)
    assert told["recorded"] == pytest.approx(usual["recorded"], rel=0.05)
    assert summarize(told).startswith(f"kept {told['kept']:.2f} of the recorded slope ({told['recorded']:.2f} ± ")
