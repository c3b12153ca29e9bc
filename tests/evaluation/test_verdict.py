"""The verdict tells right registrations from wrong ones, in Python, on the command line and in a batch."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path

import imageio.v3 as imageio
import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

import napari_stnreg as sr
from napari_stnreg.cli import main
from napari_stnreg.evaluation.chance import Chance
from napari_stnreg.evaluation.evidence import Evidence
from napari_stnreg.evaluation.verdict import judge
from napari_stnreg.transforms import AffineTransform

FAST = {"preset": "fast", "device": "cpu"}


def organ(seed: int, size: int = 96, ndim: int = 2) -> np.ndarray:
    """Draw an object with inner parts and texture on a dark background."""
    rng = np.random.default_rng(seed)
    index = np.stack(np.meshgrid(*[np.linspace(-1, 1, size)] * ndim, indexing="ij"))
    image = ((index / np.array([0.8, 0.6, 0.7])[:ndim].reshape(-1, *[1] * ndim)) ** 2).sum(0) < 1
    image = 0.5 * image
    for _ in range(14):
        center, wide = rng.uniform(-0.45, 0.45, ndim), rng.uniform(0.08, 0.25)
        inside = ((index - center.reshape(-1, *[1] * ndim)) ** 2).sum(0) < wide**2
        image = np.where(inside & (image > 0), rng.uniform(0.2, 1), image)
    return ndimage.gaussian_filter(image, 0.8) + 0.02 * rng.normal(size=image.shape)


def moved(image: np.ndarray, inverted: bool = False) -> np.ndarray:
    """Turn, shift and bend an image a little."""
    rng = np.random.default_rng(9)
    grid = np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in image.shape], indexing="ij"))
    bend = np.stack([ndimage.gaussian_filter(rng.normal(size=image.shape), image.shape[0] / 9) for _ in image.shape])
    source = grid + 2.0 + 1.5 * bend / np.abs(bend).max()
    moving = ndimage.map_coordinates(image, source, order=1, mode="nearest")
    return 1 - moving if inverted else moving


def register(fixed: np.ndarray, moving: np.ndarray, **options: object) -> sr.Result:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sr.register(fixed, moving, **{**FAST, **options})


@pytest.mark.parametrize("family", ["affine+diffeomorphic", "affine", "affine+bspline"])
def test_a_right_fit_is_good(family: str) -> None:
    fixed = organ(0)
    result = register(fixed, moved(fixed), family=family)
    assert result.verdict == "good", result
    assert result.confidence > 0.6
    assert result.reasons
    report = json.loads(json.dumps(result.report()))
    assert (report["verdict"], report["confidence"]) == ("good", result.confidence)
    assert "good (confidence" in repr(result)
    assert "good (confidence" in result._repr_html_()


def test_a_right_fit_of_volumes_and_of_inverted_contrast_is_good() -> None:
    volume = organ(1, 36, 3)
    assert register(volume, moved(volume), family="affine").verdict == "good"
    fixed = organ(2)
    assert register(fixed, moved(fixed, inverted=True), similarity="mi").verdict == "good"


def wrong_start(shift: tuple[float, float], angle: float = 0.0, scale: float = 1.0) -> AffineTransform:
    matrix, center = np.eye(3), np.array([47.5, 47.5])
    matrix[:2, :2] = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix[:2, 2] = center + shift - matrix[:2, :2] @ center
    return AffineTransform(matrix)


@pytest.mark.parametrize(
    ("case", "start"),
    [
        ("shifted", wrong_start((17.0, 9.0))),
        ("turned", wrong_start((0, 0), angle=2.0)),
        ("too large", wrong_start((0, 0), scale=3.0)),
        ("too small", wrong_start((0, 0), scale=0.25)),
    ],
)
@pytest.mark.parametrize("family", ["affine+diffeomorphic", "affine"])
def test_a_wrong_start_is_not_good(case: str, start: AffineTransform, family: str) -> None:
    fixed = organ(3)
    result = register(fixed, moved(fixed), start_transform=start, family=family, iterations=4)
    assert result.verdict != "good", (case, result)
    assert result.reasons


def test_unrelated_and_mirrored_images_are_not_good() -> None:
    fixed = organ(4)
    unrelated = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(96, 96)), 3)
    assert register(fixed, unrelated).verdict != "good"
    mirrored = register(fixed, moved(fixed)[::-1].copy())
    assert mirrored.verdict != "good"
    assert mirrored.judgment.suggestion == "search"
    allowed = register(fixed, moved(fixed)[::-1].copy(), mirror=True, start="search")
    assert allowed.verdict == "good"


def test_images_that_do_not_overlap_have_failed() -> None:
    fixed = organ(5)
    result = register(fixed, moved(fixed), start_transform=wrong_start((400.0, 0.0)), family="rigid", iterations=1)
    assert (result.verdict, result.confidence) == ("failed", 0.0)
    assert any("failed" in text for text in result.warnings)


def evidence(**changes: object) -> Evidence:
    chance = Chance(0.6, 0.5, 0.5, 12.0, 12.0, 12.0, 2.0, 3.0)
    values: dict[str, object] = {
        "after": chance, "linear": chance, "before": chance, "match_fraction": 0.95, "linear_match_fraction": 0.95,
        "alternative": -2.0,
        "mirrored": -2.0, "overlap": 0.9, "min_scale": 0.97, "max_scale": 1.03, "shear": 1.06, "flipped": False,
        "log_jacobian_spread": 0.2, "folded": 0.0, "deformation": 0.01, "landmark_error": None,
    }  # fmt: skip
    return Evidence(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        ({}, "good", "above chance"),
        ({"landmark_error": 0.03}, "doubtful", "landmarks"),
        ({"landmark_error": 0.08}, "failed", "landmarks"),
        ({"flipped": True}, "doubtful", "mirrors the image"),
        ({"min_scale": 0.2}, "doubtful", "scale"),
        ({"overlap": 0.1}, "doubtful", "overlap"),
        ({"mirrored": 1.0}, "doubtful", "mirror image fits"),
        ({"folded": 0.2}, "doubtful", "folded"),
        ({"after": None, "linear": None, "overlap": 0.01}, "failed", "hardly overlap"),
        ({"after": None, "linear": None, "overlap": 0.5}, "doubtful", "too few voxels"),
    ],
)
def test_limits_hold_regardless_of_the_model(changes: dict[str, object], verdict: str, reason: str) -> None:
    judged = judge(evidence(**changes))
    assert judged.verdict == verdict
    assert any(reason in sentence for sentence in judged.reasons)


@pytest.mark.parametrize(("mirrored", "verdict"), [(-1.0, "good"), (0.4, "good"), (1.5, "doubtful")])
def test_files_with_an_orientation_distinguish_left_from_right(mirrored: float, verdict: str) -> None:
    judged = judge(evidence(mirrored=mirrored), oriented=True)
    assert judged.verdict == verdict
    assert ("Left and right are those of the files" in " ".join(judged.reasons)) == (mirrored == 0.4)


def test_a_symmetric_head_is_good_if_its_files_state_their_orientation() -> None:
    rng = np.random.default_rng(2)
    half = ndimage.gaussian_filter(rng.normal(size=(24, 40, 36)), 2)
    z, y, x = np.mgrid[-1:1:48j, -1:1:40j, -1:1:36j]
    head = (z**2 + y**2 + x**2 < 0.8) * (1 + 4 * np.concatenate([half, half[::-1]]))  # symmetric
    other = ndimage.affine_transform(head, np.diag([1.03, 0.98, 1.02]), (-1.5, 2.0, -1.0), order=1)
    verdicts = {}
    for code in (1, 0):
        files = [nib.Nifti1Image(one.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0])) for one in (head, other)]
        for file in files:
            file.set_sform(file.affine, code)
            file.set_qform(file.affine, code)
        result = sr.register(*files, family="affine", preset="fast", device="cpu")
        verdicts[code] = (result.verdict, result.reasons[-1])
    assert verdicts[1] == ("good", "A mirror image fits as well. Left and right are those of the files.")
    assert verdicts[0] == ("doubtful", "A mirror image fits as well or better.")


def test_a_failed_verdict_exits_3_unless_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        values = ndimage.gaussian_filter(rng.normal(size=(80, 80)), 2)
        imageio.imwrite(f"{name}.png", np.clip(128 + 60 * values / values.std(), 0, 255).astype(np.uint8))
    fixed = organ(6)
    for name, image in (("fixed", fixed), ("moving", moved(fixed))):
        imageio.imwrite(f"{name}.png", np.clip(220 * image, 0, 255).astype(np.uint8))
    quick = ["--preset", "fast", "--device", "cpu", "--family", "rigid"]
    assert main(["register", "a.png", "b.png", "-o", "one", *quick]) == 3
    assert "verdict: failed" in capsys.readouterr().out
    assert json.loads((tmp_path / "one/report.json").read_text())["verdict"] == "failed"
    assert (tmp_path / "one/warped.png").is_file()
    assert main(["register", "a.png", "b.png", "-o", "two", "--accept", *quick]) == 0
    (tmp_path / "jobs.csv").write_text("fixed,moving,name\na.png,b.png,bad\nfixed.png,moving.png,fine\n")
    assert main(["batch", "jobs.csv", "-o", "all", *quick]) == 3
    with (tmp_path / "all/scores.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert (rows["bad"]["verdict"], rows["fine"]["verdict"]) == ("failed", "good")
    page = (tmp_path / "all/summary.html").read_text()
    assert "1 good, 0 doubtful, 1 failed" in page
    assert main(["batch", "jobs.csv", "-o", "all", "--accept", *quick]) == 0
    (tmp_path / "jobs.csv").write_text("fixed,moving,name\na.png,b.png,bad\nfixed.png,missing.png,gone\n")
    assert main(["batch", "jobs.csv", "-o", "all", *quick]) == 1


def test_a_thin_volume_that_fits_is_not_called_failed():
    y, x = np.mgrid[:64, :60]
    plane = np.sin(y / 5) + np.cos(x / 4) + np.exp(-((y - 30) ** 2 + (x - 25) ** 2) / 60)
    fixed = np.stack([plane] * 9)
    moving = np.stack([ndimage.shift(plane, (3, -4), mode="nearest")] * 9)
    result = sr.register(fixed, moving, family="translation", preset="fast", device="cpu")
    assert result.scores["after"]["ncc"] > 0.98
    assert result.evidence["linear_match_fraction"] > 0.5
    assert result.verdict != "failed"
