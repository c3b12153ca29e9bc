"""Breaks of a stack and faults of single sections are found, named, and do not disturb the other sections."""

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates, rotate

import napari_stnreg as sr
from napari_stnreg.cli import main
from napari_stnreg.datasets import SerialSections
from napari_stnreg.stacks.matching.coarse import CoarseMatch, coarse_match
from napari_stnreg.stacks.matching.pair_selection import find_inverted, minority
from napari_stnreg.stacks.preprocessing.features import prepare
from napari_stnreg.stacks.quality.sections import PARAMETERS as QUALITY
from napari_stnreg.stacks.quality.sections import (
    PairQuality,
    chance_limit,
    describe_faults,
    judge_gaps,
    split_into_segments,
)
from napari_stnreg.stacks.section_transform import Lattice, SectionTransform
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.solver.elastic import recorded_poses
from napari_stnreg.stacks.solver.pose_graph import interpolate_pose, solve_poses

SHAPE = (8, 192, 192)


@pytest.fixture(scope="module")
def stacks():
    """Two stacks of different tissue."""
    return SerialSections(SHAPE, 3)[:], SerialSections(SHAPE, 77)[:]


def quality(value):
    return PairQuality(value, value, 10, 1.0)


def test_gaps_are_judged_against_chance_and_not_only_against_each_other():
    chance = [0.08, 0.05, 0.11, 0.07]
    unrelated = judge_gaps({(z, z + 1): quality(0.08) for z in range(7)}, chance)
    assert set(unrelated.values()) == {"failed"}
    related = {(z, z + 1): quality(0.4) for z in range(7)} | {(3, 4): quality(0.06), (5, 6): quality(0.19)}
    verdicts = judge_gaps(related, chance)
    assert [verdicts[z, z + 1] for z in (2, 3, 5)] == ["good", "failed", "doubtful"]
    assert split_into_segments(range(8), verdicts) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_broken_stack_is_named_and_ends_with_its_exit_code(tmp_path, stacks):
    raw, other = stacks
    np.save(tmp_path / "raw.npy", np.concatenate([raw[:4], other[4:]]))
    assert main(["align", str(tmp_path / "raw.npy"), str(tmp_path / "out.zarr"), "--workers", "1"]) == 3
    report = json.loads((tmp_path / "out.report.json").read_text())
    assert report["segments"] == [[0, 3], [4, 7]]
    assert [gap["verdict"] for gap in report["gaps"]] == ["good"] * 3 + ["failed"] + ["good"] * 3
    assert "0-3, 4-7: the stack is broken at 3|4" in " ".join(report["warnings"])
    assert {row["status"] for row in report["sections"]} == {"aligned"}
    assert not any("slope" in sentence for sentence in report["warnings"])  # none is measured across a break
    aligned = sr.AlignedStack(tmp_path / "out.zarr")
    for part in (range(4), range(4, 8)):  # each lies where it was recorded, whatever matched by chance
        there = np.mean([aligned.displacement(z)[:, 8:-8, 8:-8].mean(axis=(1, 2)) for z in part], axis=0)
        assert np.abs(there).max() < 4


def test_unrelated_sections_are_not_aligned(tmp_path, monkeypatch):
    """Chance may match them better in another order; this is no evidence that two were swapped."""
    monkeypatch.setattr("napari_stnreg.stacks.runtime.pipeline.find_swapped", lambda *_: [(2, 3)])
    rng = np.random.default_rng(100)
    noise = gaussian_filter(rng.normal(size=(6, 160, 160)), (0, 2.5, 2.5))
    raw = np.uint8(np.clip(128 + 60 * noise / noise.std(), 1, 255))
    result = sr.align_stack(raw, tmp_path / "out.zarr", workers=1)
    assert {one.status for one in result.verdicts} == {"bridged"}
    assert result.is_broken
    assert "No section fits the next one" in result.warnings[0]
    assert "swapped" not in " ".join(result.warnings)


@pytest.mark.parametrize("fault", ["resin", "unrelated"])
def test_section_without_evidence_stays_between_its_neighbors(stacks, fault, tmp_path):
    raw = stacks[0].copy()
    if fault == "resin":
        grain = gaussian_filter(np.random.default_rng(0).normal(0, 60, raw[0].shape), 1.0)
        raw[3] = np.clip(160 + grain, 1, 255)
    else:
        raw[3] = stacks[1][3]
    result = sr.align_stack(raw, tmp_path / "out.zarr", workers=1)
    one = result.verdicts[3]
    assert (one.status, one.verdict) == ("bridged", "failed")
    assert {row.status for row in result.verdicts if row.section != 3} == {"aligned"}
    assert not result.is_broken
    assert result.summary[0] == "7 aligned, 1 bridged (of these 1 failed)"  # the statuses add up to all sections
    before, own, after = (result.aligned.displacement(z) for z in (2, 3, 4))
    assert np.abs(own - (before + after) / 2).mean() < 0.5


def test_interpolated_pose_is_rotated_and_not_scaled():
    half_turn = np.diag([-1.0, -1.0, 1.0])
    half_turn[:2, 2] = 191.0
    pose = interpolate_pose(np.eye(3), half_turn, 0.4, np.array([95.5, 95.5]))
    np.testing.assert_allclose(np.linalg.svd(pose[:2, :2], compute_uv=False), 1.0, atol=1e-9)
    np.testing.assert_allclose(pose @ [95.5, 95.5, 1], [95.5, 95.5, 1], atol=1e-9)


@pytest.mark.parametrize("first", [3, 4])
def test_inverted_contrast_is_noticed_and_aligned(stacks, first, tmp_path):
    raw = stacks[0].copy()
    last = 4 if first == 3 else 8  # one section, or all from one on
    raw[first:last] = 255 - raw[first:last]
    plain = sr.align_stack(stacks[0], tmp_path / "plain.zarr", workers=1)
    result = sr.align_stack(raw, tmp_path / "out.zarr", workers=1)
    assert {(one.status, one.verdict) for one in result.verdicts} == {("aligned", "good")}
    assert f"Inverted contrast: section {first}" in result.warnings[0] or first == 4
    assert "Inverted contrast" in result.warnings[0]
    change = result.aligned.displacement(3) - plain.aligned.displacement(3)
    assert np.abs(change).mean() < 0.5


def test_swapped_and_duplicate_sections_and_magnification_are_named(stacks, tmp_path):
    raw = stacks[0][[0, 1, 3, 2, 4, 5, 5, 6]]
    text = " ".join(sr.align_stack(raw, tmp_path / "a.zarr", workers=1, trend="remove").warnings)
    assert "Sections 2 and 3 seem to be swapped" in text
    assert "Sections 5 and 6 are the same image" in text
    assert "Magnification" not in text


def test_change_of_magnification_proposes_affine(tmp_path):
    raw = SerialSections((10, 256, 256), 3)[:]
    y, x = np.indices(raw[0].shape)
    where = [127.5 + (y - 127.5) / 1.15, 127.5 + (x - 127.5) / 1.15]
    raw[5:] = [map_coordinates(one.astype(float), where, order=1) for one in raw[5:]]
    text = " ".join(sr.align_stack(raw, tmp_path / "a.zarr", workers=1).warnings)
    assert "from section 4 to 5. Use motion='affine'." in text
    assert "swapped" not in text


def test_weak_match_does_not_decide_the_contrast():
    """Two sections are inverted. A chance match two sections further denies it for one of them."""
    eye = np.eye(3)
    matches = {(z, z + 1): CoarseMatch(eye, 0.4 if z == 4 else 0.6, 1.0, False, z in (1, 3)) for z in range(7)}
    matches[3, 5] = CoarseMatch(eye, 0.31, 1.0, False)
    assert find_inverted(matches) == {2, 3}
    matches[2, 4] = CoarseMatch(eye, 0.31, 1.0, False)
    assert find_inverted(matches) == {2, 3}


def prepared(image):
    return prepare(np.float32(image), StackSettings(), shape=image.shape, factor=1)


def test_weak_match_has_the_same_evidence_in_both_contrasts(stacks):
    """Grain leaves a correlation of 0.4 to 0.5. Neither contrast may need more evidence than the other."""
    rng = np.random.default_rng(1)
    grain = gaussian_filter(rng.normal(size=SHAPE), (0, 3, 3))
    noisy = np.clip(stacks[0] + 20 * grain / grain.std(), 1, 255)
    for z in range(0, 6, 2):
        plain = coarse_match(prepared(noisy[z]), prepared(noisy[z + 1]), StackSettings())
        opposite = coarse_match(prepared(noisy[z]), prepared(256 - noisy[z + 1]), StackSettings())
        assert 0.35 < plain.confidence < 0.55
        assert (plain.inverted, opposite.inverted) == (False, True)
        np.testing.assert_allclose(opposite.matrix, plain.matrix, atol=1.0)


def test_mirrored_section_is_named_and_stays_between_its_neighbors(stacks, tmp_path):
    raw = stacks[0].copy()
    raw[4] = raw[4][:, ::-1]
    result = sr.align_stack(raw, tmp_path / "out.zarr", workers=1)
    told = " ".join(result.warnings)
    assert "sections 3 and 4, 4 and 5 fit only if one of the two is mirrored" in told
    assert "(setting mirror)" in told  # a name that the panel, the command line and Python share
    assert [one.section for one in result.verdicts if one.verdict == "failed"] == [4]
    before, own, after = (result.aligned.displacement(z) for z in (3, 4, 5))
    assert np.abs(own - (before + after) / 2).mean() < 0.5


def test_turned_section_does_not_change_the_magnification(stacks, tmp_path):
    raw = stacks[0].copy()
    raw[4] = rotate(raw[4].astype(float), 40, reshape=False, order=1)
    result = sr.align_stack(raw, tmp_path / "out.zarr", workers=1)
    assert {one.status for one in result.verdicts} == {"aligned"}
    assert "Magnification" not in " ".join(result.warnings)


def test_contrast_is_not_compared_across_a_break():
    assert minority(range(8), {0, 1, 2, 3, 4, 6}) == {5, 7}
    assert minority(range(4), range(4)) == set()


def test_copy_with_little_common_tissue_is_no_evidence_about_chance():
    assert chance_limit([0.1, 0.1, float("nan")]) == pytest.approx(0.14)
    assert chance_limit([float("nan")] * 4) == QUALITY.unknown_chance


@pytest.mark.parametrize("factor", [1.15, 1 / 1.15, 1.0])
def test_magnification_is_measured_from_one_pair(stacks, factor):
    """A rigid match says that an affine one fits far better, and how much larger the second section is."""
    settings = StackSettings()
    y, x = np.indices(SHAPE[1:])
    where = [95.5 + (y - 95.5) / factor, 95.5 + (x - 95.5) / factor]
    images = [stacks[0][3], map_coordinates(stacks[0][4].astype(float), where, order=1)]
    a, b = (prepare(np.float32(one), settings, shape=SHAPE[1:], factor=1) for one in images)
    assert coarse_match(a, b, settings).magnification == pytest.approx(factor, abs=0.03)


def test_change_of_magnification_is_real_only_if_the_deformation_follows_it():
    """Six parameters fit a weak gap by chance; two sections of one size are then measured as different."""
    lattice = Lattice.covering(np.zeros(2), np.array(SHAPE[1:]), 48.0, np.array(SHAPE[1:]) / 2)
    transforms = [SectionTransform.from_affine(np.diag([m, m, 1.0]), lattice, SHAPE[1:]) for m in (1.0, 1.0, 1.04)]
    coarse = {(z, z + 1): CoarseMatch(np.eye(3), 0.4, 1.0, False, magnification=1.12) for z in range(2)}
    rigid = describe_faults(transforms, [0, 1, 2], [], {}, [], "rigid", coarse)
    assert "from section 0 to 1" in rigid
    deformed = describe_faults(transforms, [0, 1, 2], [], {}, [], "rigid", coarse, deformed=True)
    assert "from section 0 to 1" not in deformed
    assert "12 % from section 1 to 2" in deformed


def test_affine_poses_follow_a_change_of_magnification():
    """Sections from 5 on are recorded 15 % larger: the recorded size is no position to return to."""
    shape, step = (192, 192), np.diag([1.15, 1.15, 1.0])
    step[:2, 2] = 95.5 - 1.15 * 95.5
    matches = {(z, z + 1): CoarseMatch(step if z == 4 else np.eye(3), 0.6, 1.0, False) for z in range(9)}
    poses = solve_poses(10, matches, [shape] * 10, StackSettings(motion="affine"))
    sizes = [np.sqrt(np.linalg.det(pose[:2, :2])) for pose in poses]
    np.testing.assert_allclose(np.divide(sizes[5:], sizes[4]), 1.15, rtol=0.01)
    np.testing.assert_allclose(
        recorded_poses(poses, shape)[9][0, 0] / recorded_poses(poses, shape)[0][0, 0], 1.15, rtol=0.01
    )


def test_two_unrelated_sections_are_broken_and_two_neighbors_are_not(stacks, tmp_path):
    """There is one gap only: chance is measured in several directions."""
    raw, other = stacks
    for name, second, code in (("same", raw[4], 0), ("other", other[4], 3)):
        np.save(tmp_path / f"{name}.npy", np.stack([raw[3], second]))
        assert main(["align", str(tmp_path / f"{name}.npy"), str(tmp_path / f"{name}.zarr"), "--workers", "1"]) == code


def test_gap_of_a_short_stack_that_hardly_exceeds_chance_is_doubtful():
    chance = [0.08, 0.05, 0.11, 0.07]  # limit 0.13
    assert judge_gaps({(0, 1): quality(0.2)}, chance) == {(0, 1): "doubtful"}
    assert judge_gaps({(0, 1): quality(0.3)}, chance) == {(0, 1): "good"}
    assert set(judge_gaps({(z, z + 1): quality(0.2) for z in range(4)}, chance).values()) == {"good"}


def test_stack_of_which_most_sections_fit_nowhere_is_broken(stacks, tmp_path):
    """A single section may be bridged, but most cannot be the exception."""
    rng = np.random.default_rng(3)
    noise = gaussian_filter(rng.normal(size=(4, *SHAPE[1:])), (0, 2.5, 2.5))
    raw = np.concatenate([stacks[0][:2], np.uint8(np.clip(128 + 60 * noise / noise.std(), 1, 255))])
    result = sr.align_stack(raw, tmp_path / "out.zarr", workers=1)
    assert result.is_broken
    assert {one.verdict for one in result.verdicts[2:]} == {"failed"}
