"""The scorecard of a whole registration, against SimpleITK and against what is known by construction."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

import napari_stnreg as sr
from napari_stnreg.core.grid import Grid
from napari_stnreg.evaluation.report import COLUMNS, Score, Scorecard
from napari_stnreg.transforms import AffineTransform, DisplacementTransform

SPACING = (2.0, 1.0, 0.5)
SHIFT = np.array([4.0, 3.0, -2.0])


def shifted(by=SHIFT, unit="um") -> AffineTransform:
    matrix = np.eye(4)
    matrix[:3, 3] = by
    return AffineTransform(matrix, unit)


@pytest.fixture(scope="module")
def scene():
    """A fixed and a moving image, shifted by whole voxels, with labels and landmarks."""
    rng = np.random.default_rng(0)
    big = ndimage.gaussian_filter(rng.random((30, 40, 50)), 2)
    labels = np.digitize(big, np.quantile(big, (0.7, 0.8, 0.9))).astype(np.uint8)
    seen = np.zeros(big.shape, bool)
    seen[6:22, 9:28, 15:39] = True  # the part of the scene that both images hold, and not at their borders
    labels[~seen] = 0
    grid = Grid.from_spacing((20, 24, 30), SPACING, unit="um")
    place = [slice(5, 25), slice(8, 32), slice(10, 40)]
    steps = np.rint(SHIFT / SPACING).astype(int)
    moved = [slice(p.start - s, p.stop - s) for p, s in zip(place, steps, strict=True)]

    def image(values, where, name):
        return sr.Image(np.ascontiguousarray(values[tuple(where)]).astype(values.dtype), grid, name=name)

    landmarks = grid.to_world([[8, 9, 10], [12, 12, 20], [9, 14, 15]])
    return {
        "fixed": image(big, place, "fixed"),
        "moving": image(big, moved, "moving"),
        "fixed_labels": image(labels, place, "fixed labels"),
        "moving_labels": image(labels, moved, "moving labels"),
        "fixed_landmarks": landmarks,
        "moving_landmarks": landmarks + SHIFT + [[0, 0, 0], [0, 3, 4], [0, 0, 1]],
    }


@pytest.fixture(scope="module")
def card(scene):
    return sr.evaluate(**scene, transform=shifted())


def test_the_true_shift_makes_everything_better(card):
    for name, item in (("ncc", ""), ("local_ncc", ""), ("mutual_information", ""), ("ssim", ""), ("mse", ""),
                       ("dice", "mean"), ("jaccard", "2"), ("hausdorff95", "mean"), ("mean_surface_distance", "1"),
                       ("landmark", "median")):  # fmt: skip
        row = next(s for s in card if (s.name, s.item) == (name, item))
        assert row.mark == "good", row
    assert card.value("ncc") == pytest.approx(1, abs=1e-6)
    assert card.value("ncc", "before") < 0.6


def test_landmark_errors_are_those_put_in(card, scene):
    assert [card.value("landmark", item=str(i)) for i in range(3)] == pytest.approx([0, 5, 1])
    assert card.value("landmark", item="max") == pytest.approx(5)
    assert card.value("landmark", item="median") == pytest.approx(1)
    assert card.value("landmark", "before", "0") == pytest.approx(np.linalg.norm(SHIFT))
    assert card.value("landmark", item="relative_max") == pytest.approx(5 / scene["fixed"].grid.diagonal)


def test_labels_are_scored_as_by_simpleitk(card, scene):
    pictures = []
    warped = sr.warp(scene["moving_labels"], shifted(), scene["fixed"].grid, "nearest").data
    for values in (scene["fixed_labels"].data, scene["moving_labels"].data, warped):
        pictures.append(sitk.GetImageFromArray(np.asarray(values)))
        pictures[-1].SetSpacing(SPACING[::-1])
    for when, other in (("before", pictures[1]), ("after", pictures[2])):
        theirs = sitk.LabelOverlapMeasuresImageFilter()
        theirs.Execute(pictures[0], other)
        for label in (1, 2, 3):
            assert card.value("dice", when, str(label)) == pytest.approx(theirs.GetDiceCoefficient(label))
            assert card.value("jaccard", when, str(label)) == pytest.approx(theirs.GetJaccardCoefficient(label))
    for label in (1, 2, 3):
        far = []
        for one, two in ((pictures[0], pictures[1]), (pictures[1], pictures[0])):
            edges = [sitk.LabelContour(p == label) for p in (one, two)]
            distance = sitk.Abs(sitk.SignedMaurerDistanceMap(edges[1], squaredDistance=False, useImageSpacing=True))
            far.append(sitk.GetArrayFromImage(distance)[sitk.GetArrayFromImage(edges[0]) > 0])
        inner = max(np.percentile(f, 95) for f in far)
        assert card.value("hausdorff95", "before", str(label)) == pytest.approx(inner, rel=1e-5)
        mean = np.concatenate(far).mean()
        assert card.value("mean_surface_distance", "before", str(label)) == pytest.approx(mean, rel=1e-5)


def test_a_shift_neither_folds_nor_changes_volume_and_its_inverse_is_exact(card):
    assert card.value("jacobian_min") == pytest.approx(1, abs=1e-5)
    assert card.value("jacobian_max") == pytest.approx(1, abs=1e-5)
    assert card.value("folding_fraction") == 0
    assert next(s for s in card if s.name == "folding_fraction").mark == "good"
    assert card.value("inverse_consistency", item="max") < 1e-9
    assert card.warnings == ()


def test_a_reverse_registration_that_disagrees_shows(scene):
    card = sr.evaluate(scene["fixed"], scene["moving"], shifted(), reverse=shifted(-SHIFT + [0, 0.3, 0.4]))
    assert card.value("inverse_consistency", item="mean") == pytest.approx(0.5)
    assert card.value("dice", item="mean") is None


def test_units_of_moving_side_and_transform_are_converted(scene, card):
    moving = {
        "moving": scene["moving"].with_unit("nm"),
        "moving_labels": scene["moving_labels"].with_unit("nm"),
        "moving_landmarks": scene["moving_landmarks"] * 1000,
    }
    other = sr.evaluate(**{**scene, **moving}, transform=shifted(SHIFT / 1000, "mm"))
    for one, two in zip(card, other, strict=True):
        for a, b in ((one.before, two.before), (one.after, two.after)):
            assert (a is None and b is None) or a == pytest.approx(b, rel=1e-4, abs=1e-6), one


def test_results_of_other_programs_are_scored_without_resampling(scene, card):
    result = sr.warp(scene["moving"], shifted(), scene["fixed"].grid)
    labels = sr.warp(scene["moving_labels"], shifted(), scene["fixed"].grid, "nearest")
    points = scene["moving_landmarks"] - SHIFT
    theirs = sr.evaluate(**scene, result=result, result_labels=labels, result_landmarks=points)
    for name, item in (("ncc", ""), ("dice", "mean"), ("hausdorff95", "2"), ("landmark", "max")):
        assert theirs.value(name, item=item) == pytest.approx(card.value(name, item=item))
    assert theirs.value("jacobian_min") is None


def test_folding_is_counted_and_reported():
    grid = Grid.from_spacing((30, 30))
    y = np.arange(30.0)[:, None] * np.ones((1, 30))
    field = np.stack([np.where((y > 10) & (y < 16), -2 * (y - 10), 0), np.zeros((30, 30))])
    fixed = sr.Image(np.random.default_rng(0).random((30, 30)), grid)
    card = sr.evaluate(fixed, fixed, DisplacementTransform(torch.from_numpy(field), grid))
    expected = float((np.gradient(y + field[0], axis=0)[4:-4, 4:-4] <= 0).mean())
    assert card.value("folding_fraction") == pytest.approx(expected)
    assert next(s for s in card if s.name == "folding_fraction").mark == "bad"
    assert any("folded" in sentence for sentence in card.warnings)


def test_masks_decide_where_images_and_deformation_are_scored(scene):
    mask = np.zeros(scene["fixed"].grid.shape, bool)
    mask[6:14, 6:18, 6:24] = True
    dirty = np.where(mask, scene["fixed"].data, 100.0)
    card = sr.evaluate(scene["fixed"].replace(data=dirty, mask=mask), scene["moving"], shifted())
    assert card.value("ncc") == pytest.approx(1, abs=1e-6)


def test_tables_agree_with_files(card):
    rows = list(csv.DictReader(io.StringIO(card.to_csv())))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len(card.scores)
    content = json.loads(card.to_json())
    for row, line, score in zip(rows, content["scores"], card, strict=True):
        assert row["name"] == line["name"] == score.name
        for when in ("before", "after"):
            value = getattr(score, when)
            if value is None or np.isnan(value):
                assert row[when] == ""
                assert line[when] is None
            else:
                assert float(row[when]) == pytest.approx(value, rel=1e-7)
    text = card.to_text(pairs=False)
    assert "Dice, label 2" in text
    assert "pair 1" not in text
    numbers = [word for word in ("pair 0", "pair 1", "pair 3", "pair 4") if word in card.to_text()]
    assert numbers == ["pair 1", "pair 3"]
    row = card.row()
    assert row["dice_mean_after"] == card.value("dice", item="mean")
    assert row["folding_fraction"] == 0
    assert not any(name.endswith("_2_after") for name in row)


def test_marks_need_a_change_worth_the_name():
    assert Score("image", "ncc", before=0.5, after=0.5001, better="higher").mark == ""
    assert Score("image", "ncc", before=0.5, after=0.4, better="higher").mark == "bad"
    assert Score("image", "mse", before=0.5, after=0.4, better="lower").mark == "good"
    assert Score("image", "ncc", before=float("nan"), after=0.4, better="higher").mark == ""
    assert "-" in Scorecard((Score("image", "ncc", before=float("nan"), after=0.4),)).to_text()


def test_unpaired_arguments_are_rejected(scene):
    pair = scene["fixed"], scene["moving"]
    with pytest.raises(sr.InputError, match="The fixed labels are given without the moving ones"):
        sr.evaluate(*pair, fixed_labels=scene["fixed_labels"])
    with pytest.raises(sr.InputError, match="The moving landmarks are given without the fixed ones"):
        sr.evaluate(*pair, moving_landmarks=np.zeros((2, 3)))
    with pytest.raises(sr.InputError, match="paired by order"):
        sr.evaluate(*pair, fixed_landmarks=np.zeros((2, 3)), moving_landmarks=np.zeros((3, 3)))
    with pytest.raises(sr.InputError, match="not a label image"):
        sr.evaluate(*pair, fixed_labels=scene["fixed"], moving_labels=scene["moving_labels"])
    empty = scene["fixed_labels"].replace(data=np.zeros_like(scene["fixed_labels"].data))
    with pytest.raises(sr.InputError, match="label other than 0"):
        sr.evaluate(*pair, fixed_labels=empty, moving_labels=empty)
