"""Alignments against the truth: scores that are known beforehand, and the coarse pass on generated sections."""

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.spatial import cKDTree

import napari_stnreg as sr
from napari_stnreg.core.errors import InputError
from napari_stnreg.datasets import SerialSections
from napari_stnreg.stacks.quality.ground_truth import PARAMETERS, maps_of, measure_errors, recovered_slope, score_truth
from napari_stnreg.stacks.settings import StackSettings
from tests.helpers.aligned import align, kept_maps

SHAPE = (8, 224, 224)


def true_maps(made):
    return [made.deformation(z).to_section for z in range(len(made))]


@pytest.fixture(scope="module")
def made():
    return SerialSections(SHAPE, seed=2, slope=3.0)


@pytest.mark.parametrize("faults", [{}, {2: "mirrored", 5: "reversed"}, {4: "fold"}, {4: "crack"}])
def test_true_transforms_score_perfectly(faults):
    made = SerialSections(SHAPE, seed=2, faults=faults)
    found = score_truth(made, true_maps(made))
    # a crack is a gap in the picture: what lies in it belongs to neither side
    assert found.adjacent < (0.6 if "crack" in faults.values() else 1e-6)
    assert found.mean < (0.4 if "crack" in faults.values() else 1e-6)
    assert found.slope == pytest.approx(1.0, abs=0.02)
    assert found.neurites > 10
    assert found.folded < 0.02
    assert found.correlation == found.true_correlation > 0.4
    assert not found.over_straightened
    assert np.isfinite(found.at_fold) == ("fold" in faults.values())


def test_global_rigid_motion_is_no_error(made):
    turn = np.deg2rad(20)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    moved = [lambda p, place=place: place((p - 112) @ rotation + 112 + (4, -7)) for place in true_maps(made)]
    found = score_truth(made, moved)
    assert found.mean < 1e-6
    assert found.slope == pytest.approx(1.0, abs=0.02)


def test_one_section_shifted_by_three_pixels_has_the_expected_scores(made):
    transforms = true_maps(made)
    right = transforms[3]
    transforms[3] = lambda p: right(p + (3.0, 0.0))
    found = score_truth(made, transforms)
    assert found.adjacent == pytest.approx(2 * 3 / 7, abs=1e-6)  # two of seven gaps
    assert found.mean == pytest.approx((2.625 + 7 * 0.375) / 8, abs=1e-3)  # less the mean of the whole stack
    assert found.last == pytest.approx(0.375, abs=1e-3)


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_removed_slope_lowers_the_slope_score(made, fraction):
    """Sections shifted against the mean course of the neurites: by so much of it the slope is too small."""
    paths = made.paths()
    paths = paths[((paths > 45) & (paths < 179)).all(axis=(1, 2))]
    slopes = np.array([np.polyfit(made.heights, path, 1)[0] for path in paths])
    mean = slopes.mean(axis=0)
    height = made.heights - made.heights.mean()
    transforms = [
        lambda p, place=place, h=h: place(p + fraction * h * mean)
        for place, h in zip(true_maps(made), height, strict=True)
    ]
    assert np.linalg.norm(mean) > 1
    slope, neurites = recovered_slope(made, transforms, measure_errors(made, transforms))
    assert neurites == len(slopes)
    assert slope == pytest.approx(1 - fraction, abs=0.1)


def test_missing_section_is_not_scored():
    made = SerialSections(SHAPE, seed=2, faults={3: "missing", 5: "nearly empty"})
    transforms = true_maps(made)
    transforms[3] = lambda p: p + 500
    transforms[4:] = [lambda p, place=place: place(p + (0.0, 6.0)) for place in transforms[4:]]
    found = score_truth(made, transforms)
    assert found.over_missing == pytest.approx(6 / 2, abs=1e-6)  # across one of two gaps
    assert found.adjacent == pytest.approx(6 / 5, abs=1e-6)


def test_identity_transform_leaves_the_crack_open():
    """Half the opening on each side, against both neighbors."""
    made = SerialSections(
        SHAPE, seed=2, faults={4: "crack"}, bend=0, drift=0, shift=0, rotation=0, stretch=0, crack_width=12
    )
    found = score_truth(made, [lambda p: p] * 8)
    assert 4.5 < found.at_crack < 6.2
    assert found.adjacent < found.at_crack


def test_crack_score_uses_distance_in_tissue():
    """An error that grows with the distance from the crack, which is traced here from the picture's two rims."""
    made = SerialSections(
        (8, 256, 256), seed=1, faults={4: "crack"}, crack_width=12, rotation=12.0, shift=30.0, slope=0.2
    )
    deformation = made.deformation(4)
    along = np.linspace(-200, 200, 2000)
    tear = deformation.tear
    across = tear.height * np.sin(2 * np.pi * along / tear.wavelength + tear.phase)
    forwards = np.array([-tear.normal[1], tear.normal[0]])
    line = np.asarray(tear.middle) + along[:, None] * forwards + across[:, None] * tear.normal
    rims = [deformation.to_tissue(line + side * (6 + 1e-6) * tear.normal) for side in (-1, 1)]
    np.testing.assert_allclose(*rims, atol=1e-3)  # the crack closes to one line of the tissue
    distance = cKDTree(rims[0]).query
    # the picture was laid elsewhere: a distance that is taken there is another one
    points = measure_errors(made, true_maps(made)).points
    apart = distance(points)[0]
    assert np.abs(np.abs(tear.across(points)) - apart).mean() > 15
    np.testing.assert_allclose(deformation.from_tear(points), apart, atol=3, rtol=0.05)

    transforms = true_maps(made)
    transforms[4] = lambda p: deformation.to_section(p + np.stack([0.1 * distance(p)[0], 0 * p[..., 0]], axis=-1))
    found = score_truth(made, transforms)
    near = apart < PARAMETERS.tear_distance_px
    assert 0.2 < near.mean() < 0.7
    assert found.at_crack == pytest.approx(0.1 * apart[near].mean(), abs=0.1)
    assert found.adjacent == pytest.approx(2 / 7 * 0.1 * apart.mean(), abs=0.25)  # two of seven gaps


@dataclass
class Doubted:
    """A stack whose truth is worse than it is."""

    made: SerialSections

    def __getattr__(self, name):
        return getattr(self.made, name)

    def __getitem__(self, z):
        return self.made[z]

    def deformation(self, z):
        deformation, off = self.made.deformation(z), 4.0 * (-1) ** z

        class Off:
            to_tissue, hides, from_tear = deformation.to_tissue, deformation.hides, deformation.from_tear

            def to_section(self, points):
                return deformation.to_section(points + off)

        return Off()


def test_correlation_above_truth_gives_over_straightening_warning(made):
    found = score_truth(Doubted(made), true_maps(made))
    assert found.correlation > found.true_correlation + 0.1
    assert "over-straightened" in found.over_straightened
    assert f"{found.true_correlation:.2f}" in found.over_straightened
    assert found.row()["over_straightened"] == found.over_straightened


def test_transforms_of_another_stack_raise(made):
    with pytest.raises(InputError, match="3 transforms for a stack of 8"):
        score_truth(made, true_maps(made)[:3])
    with pytest.raises(InputError, match="another stack"):
        score_truth(made, [lambda p: p + 9999] * 8)


def test_stored_alignment_scores_like_its_transforms(tmp_path):
    made = SerialSections((9, 128, 128), seed=5, rotation=3.0, faults={4: "missing"})
    settings = StackSettings.parse(iterations=1, search_rotations=False)
    result = sr.align_stack(made, tmp_path / "aligned.zarr", settings, keep_work=True, workers=1)
    stored = score_truth(made, maps_of(result.aligned))
    direct = score_truth(made, kept_maps(result.path, len(made)))
    assert stored.mean == pytest.approx(direct.mean, abs=0.05)
    assert stored.adjacent == pytest.approx(direct.adjacent, abs=0.05)
    assert set(result.report()["slope"]) == {"kept", "recorded", "error"}


# -- the coarse pass, error in pixels

QUIET = {"slope": 0.2, "spread": 0.8, "bend": 0.0, "drift": 0.0, "stretch": 0.0}


@pytest.mark.parametrize(
    ("motion", "words", "faults", "options"),
    [
        ("translation", {"rotation": 0.0, "shift": 12.0}, {2: "far"}, {}),
        ("rigid", {"rotation": 4.0, "shift": 12.0}, {1: "turned", 4: "far"}, {}),
        ("rigid", {"rotation": 2.0}, {1: "mirrored", 3: "reversed", 4: "mirrored + turned"}, {"mirror": True}),
        ("affine", {"rotation": 2.0, "stretch": 0.05}, {2: "turned"}, {}),
    ],
    ids=["translation", "rigid", "mirrored", "affine"],
)
def test_coarse_matching_aligns_generated_sections(motion, words, faults, options):
    made = SerialSections((6, 192, 192), seed=7, faults=faults, **{**QUIET, **words})
    settings = StackSettings.parse(motion=motion, deform=False, position_weight=0.01, **options)
    aligned = align(np.stack(list(made)), settings)
    found = score_truth(made, aligned.transforms)
    points = np.full((1, 2), 40.0)
    assert max(np.linalg.norm(made.to_tissue(z, points) - points) for z in faults) > 8  # there is something to find
    assert found.adjacent < 1.5
    assert found.mean < 2.0
    for z, fault in faults.items():
        assert (np.linalg.det(aligned.transforms[z].affines[0, :2, :2]) < 0) == ("mirrored" in fault)


def test_mirrored_sections_require_the_mirror_setting():
    made = SerialSections((7, 160, 160), seed=7, faults={3: "mirrored"}, **QUIET)
    aligned = align(np.stack(list(made)), StackSettings.parse(deform=False))
    assert np.linalg.det(aligned.transforms[3].affines[0, :2, :2]) > 0
    assert aligned.rows[3].verdict in ("failed", "doubtful")


@pytest.mark.parametrize("deform", [False, True])
def test_sections_align_to_the_reference_section(deform):
    made = SerialSections((5, 192, 192), seed=3, **{**QUIET, "rotation": 3.0, "shift": 15.0})
    aligned = align(np.stack(list(made)), StackSettings.parse(reference=3, deform=deform, position_weight=0.0))
    points = np.stack(np.meshgrid(*[np.arange(50.0, 150, 20)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    np.testing.assert_allclose(aligned.transforms[3](points), points, atol=1e-9)
    home = made.to_tissue(3, points)  # the pinned picture is the canvas
    for z, there in enumerate(aligned.transforms):
        # the tissue itself wanders a little, and so do sections far from the pinned one
        assert np.linalg.norm(made.to_tissue(z, there(points)) - home, axis=1).mean() < 2.0 + 1.5 * abs(z - 3)
    assert np.linalg.norm(made.to_tissue(0, points) - home, axis=1).mean() > 15  # as it was recorded


@pytest.mark.parametrize(
    ("faults", "options"),
    [
        ({4: "reversed", 5: "mirrored", 7: "turned + far"}, {"mirror": True}),  # the middle one, where poses begin
        ({4: "reversed"}, {"reference": 4}),  # all others have to come to it
        (dict.fromkeys(range(10), "turned"), {}),
    ],
    ids=["some", "pinned", "all"],
)
def test_strongly_displaced_sections_are_aligned(faults, options):
    made = SerialSections((10, 224, 224), seed=2, faults=faults)
    found = align(made, StackSettings.parse(**options))
    assert [row.status for row in found.rows] == ["aligned"] * 10
    assert score_truth(made, found.transforms).adjacent < 3.5
