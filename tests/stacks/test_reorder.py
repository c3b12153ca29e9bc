"""``reorder``: swapped neighbors are exchanged, copies keep their place, and everything on disk agrees on the order."""

import csv
import json
import shutil

import numpy as np
import pytest

import napari_stnreg as sr
from napari_stnreg.cli import main
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.progress import run_to_completion
from napari_stnreg.datasets import SerialSections
from napari_stnreg.stacks.matching.pair_selection import find_swapped
from tests.helpers.aligned import contents, same_result

MIXED = [0, 1, 3, 2, 4, 5, 5, 6]
"""Tissue at each section of the input: 2 and 3 are swapped, and 5 was recorded twice."""
ORDER = [0, 1, 3, 2, 4, 5, 6, 7]
"""Section of the input at each section of the aligned stack."""
QUICK = {"search_rotations": False, "iterations": 1, "workers": 1}
FLAGS = ["--no-search-rotations", "--iterations", "1", "--workers", "1", "--keep-work"]


@pytest.fixture(scope="module")
def tissue():
    return SerialSections((8, 192, 192), 3)[:]


@pytest.fixture(scope="module")
def mixed(tissue, tmp_path_factory):
    """The command line on the mixed stack; its folder."""
    folder = tmp_path_factory.mktemp("mixed")
    np.save(folder / "raw.npy", tissue[MIXED])
    assert main(["align", str(folder / "raw.npy"), str(folder / "out.zarr"), "--reorder", *FLAGS]) == 0
    np.testing.assert_array_equal(np.load(folder / "raw.npy"), tissue[MIXED])
    return folder


def test_only_pairs_that_both_sides_contradict_are_swapped():
    line = [0, 1, 2, 3, 4, 5]
    true = {(a, b): 0.9 - 0.2 * (b - a) for a in line for b in line if 0 < b - a <= 2}
    assert find_swapped(line, true, 0.03) == []
    place = [0, 1, 3, 2, 4, 5]
    swapped = {(a, b): 0.9 - 0.2 * abs(place[a] - place[b]) for a, b in true}
    assert find_swapped(line, swapped, 0.03) == [(2, 3)]
    twice = {pair: value - (0.4 if pair == (2, 3) else 0) for pair, value in true.items()}
    assert find_swapped(line, twice, 0.03) == []
    damaged = {pair: value - (0.5 if 2 in pair else 0) for pair, value in true.items()}
    assert find_swapped(line, damaged, 0.03) == []


def test_scores_are_compared_at_a_level_that_all_pairs_used():
    """A pair that stops at a coarse level has a higher score there than one that goes on to a finer level."""
    nan = float("nan")
    scores = {(0, 1): (0.24, 0.7), (1, 2): (0.27, 0.6), (2, 3): (0.22, 0.65), (0, 2): (nan, 0.4), (1, 3): (nan, 0.35)}
    assert find_swapped(range(4), scores, 0.05) == []
    swapped = {**scores, (0, 1): (nan, 0.31), (2, 3): (nan, 0.45), (0, 2): (0.24, 0.54), (1, 3): (0.3, 0.72)}
    assert find_swapped(range(4), swapped, 0.05) == [(1, 2)]
    alike = {(0, 1): 0.94, (1, 2): 0.95, (2, 3): 0.942, (0, 2): 0.961, (1, 3): 0.96}  # close to 1, little says much
    assert find_swapped(range(4), alike, 0.05) == [(1, 2)]


def test_swapped_stack_is_aligned_like_the_right_order(mixed, tissue):
    report = json.loads((mixed / "out.report.json").read_text())
    assert [row["raw_section"] for row in report["sections"]] == ORDER
    text = " ".join(report["warnings"])
    assert "Sections 2 and 3 were swapped" in text
    assert "Section 6 is the same image as section 5" in text
    assert "seem to be swapped" not in text
    with (mixed / "out.quality.csv").open() as table:
        assert [int(row["raw_section"]) for row in csv.DictReader(table)] == ORDER
    right = sr.align_stack(tissue[np.array(MIXED)[ORDER]], mixed / "right.zarr", exclude=[6], **QUICK)
    aligned = sr.AlignedStack(mixed / "out.zarr")
    assert aligned.order == ORDER
    assert right.aligned.order == list(range(8))
    mine, theirs = contents(mixed / "out.zarr"), contents(mixed / "right.zarr")
    for z in (0, 1, 2, 3, 4, 5, 7):
        np.testing.assert_array_equal(mine["displacement"][z], theirs["displacement"][z])
        np.testing.assert_array_equal(mine["0"][z], theirs["0"][z])
    np.testing.assert_array_equal(mine["0"][6], mine["0"][5])  # the copy lies like the first one
    assert (report["sections"][6]["status"], report["sections"][6]["verdict"]) == ("bridged", "doubtful")


def test_other_stacks_points_and_exports_follow_the_order(mixed):
    out = mixed / "out.zarr"
    assert main(["apply-stack", str(out), str(mixed / "raw.npy"), "-o", str(mixed / "again.zarr")]) == 0
    np.testing.assert_array_equal(contents(mixed / "again.zarr")["0"], contents(out)["0"])
    aligned = sr.AlignedStack(out)
    points = np.array([[2, 90.0, 80.0], [3, 90.0, 80.0], [4, 90.0, 80.0]])
    there = aligned.map_points(points)
    assert there[:, 0].tolist() == [3, 2, 4]
    np.testing.assert_allclose(aligned.map_points(there, inverse=True), points, atol=0.05)
    raw = np.load(mixed / "raw.npy")
    found = contents(out)["0"]
    for (z, y, x), (k, v, u) in zip(points.astype(int), there, strict=True):
        patch = found[int(k), round(v) - 2 : round(v) + 3, round(u) - 2 : round(u) + 3].astype(float)
        assert abs(patch.mean() - raw[z, y - 2 : y + 3, x - 2 : x + 3].mean()) < 12
    aligned.export(mixed / "a.csv", "affine-csv")
    with (mixed / "a.csv").open() as table:
        assert [int(row["raw_section"]) for row in csv.DictReader(table)] == ORDER
    aligned.export(mixed / "t.json", "render")
    tiles = json.loads((mixed / "t.json").read_text())
    assert [(tile["z"], tile["layout"]["sectionId"]) for tile in tiles][2:4] == [(2.0, "3"), (3.0, "2")]


def test_stopped_run_resumes_bit_identically(mixed, tmp_path):
    def steps(**more):
        return sr.align_stack_steps(mixed / "raw.npy", tmp_path / "b.zarr", reorder=True, **QUICK, **more)

    run = steps()
    seen = [next(run)]
    while seen[-1].stage != "order" or seen[-1].done < 2:
        seen.append(next(run))
    assert [one.fraction for one in seen] == sorted(one.fraction for one in seen)
    with pytest.raises(StopIteration) as stopped:
        run.send("stop")
    assert stopped.value.value.stop_reason == "stopped"
    with pytest.raises(InputError, match="reorder was True, is False"):
        sr.align_stack(mixed / "raw.npy", tmp_path / "b.zarr", resume=True, **QUICK)
    run_to_completion(steps(resume=True))
    same_result(mixed / "out.zarr", tmp_path / "b.zarr")


def test_range_keeps_the_order(mixed, tmp_path):
    for name in ("out.zarr", "out.work"):
        shutil.copytree(mixed / name, tmp_path / name)
    before = contents(tmp_path / "out.zarr")
    result = sr.align_stack(
        mixed / "raw.npy", tmp_path / "out.zarr", reorder=True, section_range=(2, 2), keep_work=True, **QUICK
    )
    after = contents(tmp_path / "out.zarr")
    assert [row.raw_section for row in result.verdicts] == ORDER
    for z in (0, 1, 3, 4, 5, 6, 7):
        np.testing.assert_array_equal(after["0"][z], before["0"][z])
    both = np.corrcoef(after["0"][2].ravel(), before["0"][2].ravel())[0, 1]
    assert both > 0.95


def test_numbers_of_the_input_are_those_of_the_raw_stack(tissue, tmp_path):
    raw = tissue[[0, 1, 3, 2, 4, 5, 6, 7]]
    result = sr.align_stack(raw, tmp_path / "a.zarr", reorder=True, reference=3, exclude=[5], deform=False, **QUICK)
    assert [row.raw_section for row in result.verdicts] == [0, 1, 3, 2, 4, 5, 6, 7]
    assert np.abs(result.aligned.displacement(2)).max() < 0.01
    assert result.verdicts[5].status == "excluded"


def test_files_that_are_left_out_are_reported_in_any_order(tissue, tmp_path):
    (tmp_path / "raw").mkdir()
    for z, tissue_z in enumerate(MIXED[:6]):
        sr.write_image(tmp_path / "raw" / f"s{z}.tif", sr.Image.from_array(tissue[tissue_z]))
    sr.write_image(tmp_path / "raw" / "overview.tif", sr.Image.from_array(tissue[0]))
    result = sr.align_stack(tmp_path / "raw", tmp_path / "a.zarr", reorder=True, deform=False, **QUICK)
    assert result.aligned.order == [0, 1, 3, 2, 4, 5]
    assert any("'overview.tif'" in sentence for sentence in result.warnings)


def test_right_order_is_unchanged(tissue, tmp_path):
    plain = sr.align_stack(tissue, tmp_path / "a.zarr", deform=False, **QUICK)
    asked = sr.align_stack(tissue, tmp_path / "b.zarr", reorder=True, deform=False, **QUICK)
    assert asked.warnings == plain.warnings
    assert "order" not in asked.aligned.attributes
    same_result(tmp_path / "a.zarr", tmp_path / "b.zarr")
