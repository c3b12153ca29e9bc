"""Slope preservation: the estimate without ground truth against the true slopes."""

from dataclasses import replace

import numpy as np
import pytest

from napari_stnreg.stacks.matching.fine import FineMatch
from napari_stnreg.stacks.quality.slope_preservation import SlopeEstimates, estimate_slopes, summarize
from napari_stnreg.stacks.section_transform import Lattice, SectionTransform
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.solver.elastic import solve_elastic

SIDE, COUNT = 400, 24
LATTICE = Lattice.covering((0, 0), (SIDE, SIDE), 80)
NODES = np.stack(np.meshgrid(LATTICE.axis(0), LATTICE.axis(1), indexing="ij"))
INSIDE = ((NODES > -1) & (NODES < SIDE + 1)).all(axis=0)


def matches_of(slope, jitter=3.0, seed=0, count=COUNT, lost=()):
    """Return perfect matches of tissue with a slope and random jitter, the jitter, and the true slopes.

    Neurites have a slope of ``slope`` pixels per section, up in one half of the section and down in the other.
    """
    rng = np.random.default_rng(seed)
    true_slope = slope * np.stack([0 * NODES[0], np.sin(np.pi * NODES[1] / SIDE) * (NODES[0] / SIDE)])
    off = rng.normal(0, jitter, (count, 2, 1, 1)) + rng.normal(0, 0.3 * jitter, (count, *NODES.shape))
    weight = np.zeros((1, 1, 3, *LATTICE.shape))
    weight[:, :, ::2] = INSIDE
    kept = [z for z in range(count) if z not in lost]
    found = {}
    for k, a in enumerate(kept):
        for b in kept[k + 1 : k + 3]:
            shift = (off[b] - off[a] + (b - a) * true_slope + rng.normal(0, 0.4, true_slope.shape))[None, None]
            found[a, b] = FineMatch(shift, weight, np.full((1, 1), 0.6 / (b - a) ** 0.5), np.ones((1, 1)))
    return found, off, true_slope


def aligned(found, course, count=COUNT):
    still = [SectionTransform.from_affine(np.eye(3), LATTICE, (SIDE, SIDE)) for _ in range(count)]
    return solve_elastic(still, found, StackSettings.parse(trend=course))


def true_fraction(transforms, off, true_slope):
    """Return the slope of the neurites after alignment relative to their true slope."""
    z = np.arange(len(transforms)) - (len(transforms) - 1) / 2
    laid = np.stack([zz * true_slope + o - there.vectors[0] for zz, o, there in zip(z, off, transforms, strict=True)])
    slope = np.tensordot(z, laid, axes=1) / (z @ z)
    return (slope * true_slope * INSIDE).sum() / (true_slope**2 * INSIDE).sum()


@pytest.mark.parametrize("course", ["keep", "reduce", "remove"])
def test_kept_fraction_equals_the_truth(course):
    found, off, true_slope = matches_of(2.5)
    transforms = aligned(found, course)
    assert estimate_slopes(transforms, found).kept_fraction == pytest.approx(
        true_fraction(transforms, off, true_slope), abs=0.12
    )


def test_only_over_straightening_gives_a_warning():
    found, _, _ = matches_of(2.5)
    kept, removed = (estimate_slopes(aligned(found, course), found) for course in ("keep", "remove"))
    assert kept.warning("keep") == ""
    assert removed.kept_fraction < 0.5 < kept.kept_fraction
    assert f"{100 * removed.kept_fraction:.0f} %" in removed.warning("remove")
    assert "over-straightened. trend='keep' keeps more." in removed.warning("remove")
    assert "A larger position_weight keeps more." in removed.warning("keep")
    assert removed.report()["kept"] == pytest.approx(removed.kept_fraction, abs=1e-3)


def test_jitter_is_no_slope():
    """Jitter without slope gives no estimate and no warning."""
    for seed in (0, 1, 2):
        found, _, _ = matches_of(0.0, jitter=5.0, seed=seed)
        estimate = estimate_slopes(aligned(found, "remove"), found)
        assert estimate.warning("remove") == ""
        assert estimate.report()["kept"] is None


def test_jump_of_the_stack_is_no_slope():
    """The second half was recorded elsewhere; a line through such a step has a slope of 5 pixels per section."""
    found, _, _ = matches_of(0.0, jitter=1.0)
    for (a, b), match in found.items():
        match.shift[0, 0] += 75.0 * (a < COUNT // 2 <= b)
    estimate = estimate_slopes(aligned(found, "remove"), found)
    assert estimate.size > 3.0
    assert estimate.warning("remove") == ""


def test_uncertain_loss_of_slope_is_no_warning():
    report = {"kept": 0.65, "recorded": 1.4, "error": 0.3}
    assert "too uncertain to judge" in summarize(report)
    assert "uncertain" not in summarize({**report, "error": 0.05}) + summarize({**report, "kept": 0.9})
    slopes = np.tile([1.0, 0.0], (4, 1))
    for error, warned in ((0.2, False), (0.02, True)):
        assert bool(SlopeEstimates(slopes, 0.65 * slopes, np.full(4, error / 2**0.5)).warning("keep")) == warned


def test_missing_sections_do_not_change_the_slope():
    found, _, _ = matches_of(2.5, lost=(7, 8))
    whole, _, _ = matches_of(2.5)
    assert estimate_slopes(aligned(found, "remove"), found).kept_fraction < 0.5
    assert estimate_slopes(aligned(found, "remove"), found).size == pytest.approx(
        estimate_slopes(aligned(whole, "remove"), whole).size, rel=0.1
    )


def test_few_sections_give_no_estimate():
    found, _, _ = matches_of(2.5, count=6)
    estimate = estimate_slopes(aligned(found, "remove", count=6), found)
    assert estimate.warning("remove") == ""
    assert len(estimate.recorded) == 0
    assert summarize(estimate.report()) == "too few consecutive sections to estimate slopes"


@pytest.mark.parametrize(
    "pose",
    [np.diag([1.0, -1.0, 1.0]), np.diag([-1.0, -1.0, 1.0]), np.array([[1.0, 0, 130], [0, 1, -90], [0, 0, 1]])],
    ids=["upside down", "turned round", "far off"],
)
def test_outlier_section_does_not_change_the_slope(pose):
    found, _, _ = matches_of(2.5)
    transforms = aligned(found, "remove")
    usual = estimate_slopes(transforms, found).report()
    middle = np.array([[1.0, 0, SIDE / 2], [0, 1, SIDE / 2], [0, 0, 1]])
    transforms[9] = replace(transforms[9], affines=(middle @ pose @ np.linalg.inv(middle))[None])
    estimate = estimate_slopes(transforms, found).report()
    assert estimate["kept"] == pytest.approx(usual["kept"], abs=0.05)
    assert estimate["recorded"] == pytest.approx(usual["recorded"], rel=0.05)
    assert summarize(estimate).startswith(
        f"kept {estimate['kept']:.2f} of the recorded slope ({estimate['recorded']:.2f} ± "
    )
