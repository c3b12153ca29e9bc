"""Calibrate and test the verdict: right and deliberately broken registrations with known error.

``python -m benchmark.verdict --data DIR`` registers pairs of subjects that were kept out of the calibration and prints
the table and the ROC. ``--part calibration --fit`` registers the calibration subjects and prints the coefficients of
the logistic model.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

import napari_stnreg as sr
from napari_stnreg.evaluation.verdict import features_of_dict
from napari_stnreg.transforms import AffineTransform, Transform

Array = np.ndarray

WRONG, RIGHT = 0.05, 0.01
"""Median error as a fraction of the diagonal above which a fit is wrong, and below which it is right."""

FAMILIES = (
    "affine+diffeomorphic", "affine+diffeomorphic", "affine", "similarity", "affine+bspline", "affine+displacement",
    "affine+velocity", "affine+tps", "rigid",
)  # fmt: skip
KEPT = 0.5
"""Fraction of the cases that are run for each image: more images rather than more cases of one."""


@dataclass
class Pair:
    """A pair of arrays and the points of the fixed image that correspond to points of the moving image."""

    kind: str
    fixed: Array
    moving: Array
    fixed_points: Array
    moving_points: Array
    modality: str = "same"
    mirrored: bool = False


@dataclass(frozen=True)
class Row:
    """One registration: what was done, how far off it is, and its verdict."""

    kind: str
    ndim: int
    case: str
    family: str
    similarity: str
    error: float
    before: float
    verdict: str
    confidence: float
    seconds: float
    evidence: dict[str, Any]

    @property
    def truth(self) -> str:
        """``"right"``, ``"wrong"``, or ``"between"``, for which any verdict is fair."""
        if self.error > WRONG or self.error > max(1.5 * self.before, RIGHT):
            return "wrong"
        return "right" if self.error < RIGHT else "between"


# -- images


def shapes(rng: np.random.Generator, size: int, ndim: int) -> Array:
    """Draw an object with inner parts on a dark background, like an organ."""
    index = np.stack(np.meshgrid(*[np.linspace(-1, 1, size)] * ndim, indexing="ij"))
    image = np.zeros((size,) * ndim)
    for number in range(14):
        wide = 0.75 if number == 0 else rng.uniform(0.08, 0.35)
        center = np.zeros(ndim) if number == 0 else rng.uniform(-0.5, 0.5, ndim)
        axes = wide * rng.uniform(0.7, 1.2, ndim)
        distance = sum(((index[a] - center[a]) / axes[a]) ** 2 for a in range(ndim))
        image = np.where((distance < 1) & ((number == 0) | (image > 0)), rng.uniform(0.2, 1), image)
    image = ndimage.gaussian_filter(image, 1.0)
    return image + 0.03 * rng.normal(size=image.shape)


def texture(rng: np.random.Generator, size: int, ndim: int) -> Array:
    """Draw cell-like texture that fills the image."""
    coarse = ndimage.gaussian_filter(rng.normal(size=(size,) * ndim), size / 24)
    fine = ndimage.gaussian_filter(rng.normal(size=(size,) * ndim), size / 60)
    return np.tanh(2 * coarse / coarse.std()) + 0.5 * fine / fine.std() + 0.1 * rng.normal(size=coarse.shape)


def images(data: Path | None, part: str, rng: np.random.Generator) -> Iterator[tuple[str, Array, str]]:
    """Yield kind, image and subject; the subjects of the two parts are different."""
    odd = part != "calibration"
    for number in range(8):
        yield "shapes", shapes(rng, 128, 2), f"{part}{number}"
        yield "texture", texture(rng, 128, 2), f"{part}{number}"
    for number in range(3):
        yield "shapes", shapes(rng, 48, 3), f"{part}{number}"
        yield "texture", texture(rng, 48, 3), f"{part}{number}"
    if data is None:
        return
    cardiac = np.load(data / "cardiac_cine/cardiac_cine.npz")
    patients = sorted(set(cardiac["patient"].tolist()))
    for name in patients[odd::2][:12]:
        yield "cardiac", cardiac["ed"][cardiac["patient"].tolist().index(name)], str(name)
    brains = np.load(data / "brain_2d/ants2d.npz")
    for name in ("r62", "r64", "r85") if odd else ("r16", "r27", "r30"):
        yield "brain slice", brains[name][::2, ::2], name
    volumes = np.load(data / "brain_t1_2mm/brain_t1_2mm.npz")
    for number in range(int(odd), 12, 2):
        yield "brain slice", volumes["image"][number, 40], f"volume {number}"
    for number in range(int(odd), 6, 2):
        yield "brain", volumes["image"][number][::2, ::2, ::2], f"volume {number}"
    hippocampus = np.load(data / "hippocampus/hippocampus.npz")
    for number in range(int(odd), 8, 2):
        yield "hippocampus", hippocampus["image"][number], str(number)
    from imageio.v3 import imread

    for path in sorted((data / "histology_landmarks/lung-lesion_3").glob("*.jpg"))[odd::2]:
        picture = imread(path)
        step = max(max(picture.shape) // 200, 1)
        gray = picture[..., :3].mean(-1)
        rows, columns = (n // step * step for n in gray.shape)
        blocks = gray[:rows, :columns].reshape(rows // step, step, columns // step, step)
        yield "histology", blocks.mean((1, 3)), path.stem
    from tifffile import imread as read_tiff

    sections = read_tiff(data / "lung_sem/lung_sem.tif")
    for number in range(int(odd), len(sections), 4):
        yield "electron", sections[number][::5, ::5].astype(float), str(number)


# -- pairs with known truth


def warped_pair(
    rng: np.random.Generator, kind: str, image: Array, *, strength: float, angle: float, shift: float, modality: str
) -> Pair:
    """Make a moving image from an image by a known map, and change its contrast."""
    image = np.asarray(image, dtype=np.float64)
    ndim, shape = image.ndim, np.asarray(image.shape)
    longest = shape.max()
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1).astype(float)
    center = (shape - 1) / 2
    matrix = (
        _rotation(rng, ndim, angle)
        * np.exp(rng.uniform(-0.06, 0.06))
        @ (np.eye(ndim) + rng.uniform(-0.04, 0.04, (ndim, ndim)))
    )
    bend = np.stack(
        [ndimage.gaussian_filter(rng.normal(size=shape), longest / 10, mode="nearest") for _ in shape], axis=-1
    )
    bend *= strength * longest / max(np.abs(bend).max(), 1e-9)
    direction = rng.normal(size=ndim)
    offset = shift * longest * direction / np.linalg.norm(direction)
    source = (grid - center) @ matrix.T + center + bend + offset
    border = float(np.median(np.concatenate([np.take(image, (0, -1), axis=a).ravel() for a in range(ndim)])))
    moving = ndimage.map_coordinates(image, np.moveaxis(source, -1, 0), order=1, cval=border)
    low, high = np.percentile(image, [1, 99])
    unit = np.clip((moving - low) / max(high - low, 1e-9), 0, 1)
    if modality == "inverted":
        moving = 1 - unit
    elif modality == "other":
        moving = np.sin(rng.uniform(3.5, 5.5) * unit + rng.uniform(0, 1)) + 0.4 * unit
    scale = moving.std()
    bias = ndimage.gaussian_filter(rng.normal(size=shape), longest / 4)
    moving = moving * (1 + 0.15 * bias / np.abs(bias).max()) + 0.05 * scale * rng.normal(size=shape)
    fixed = image + 0.05 * image.std() * rng.normal(size=shape)
    # points with structure around them, inside both images
    detail = ndimage.gaussian_gradient_magnitude(image, 1.5)
    where = ndimage.map_coordinates(detail, np.moveaxis(source, -1, 0), order=1, cval=0.0)
    inside = ((source >= 0) & (source <= shape - 1)).all(-1) & (where > np.quantile(detail, 0.6))
    candidates = np.argwhere(inside)
    chosen = candidates[rng.permutation(len(candidates))[:400]]
    return Pair(kind, fixed, moving, source[tuple(chosen.T)], chosen.astype(float), modality)


def _rotation(rng: np.random.Generator, ndim: int, angle: float) -> Array:
    t = rng.choice([-1, 1]) * angle
    matrix = np.eye(ndim)
    a, b = rng.choice(ndim, 2, replace=False)
    matrix[a, a] = matrix[b, b] = math.cos(t)
    matrix[a, b], matrix[b, a] = -math.sin(t), math.sin(t)
    return matrix


def mirrored(pair: Pair, axis: int = 0) -> Pair:
    """Mirror the moving image."""
    points = pair.moving_points.copy()
    points[:, axis] = pair.moving.shape[axis] - 1 - points[:, axis]
    return Pair(
        pair.kind, pair.fixed, np.flip(pair.moving, axis).copy(), pair.fixed_points, points, pair.modality, True
    )


def rescaled(pair: Pair, factor: float) -> Pair:
    """Resample the moving image to another, unknown pixel size."""
    moving = ndimage.zoom(pair.moving, factor, order=1)
    ratio = (np.asarray(moving.shape) - 1) / (np.asarray(pair.moving.shape) - 1)
    return Pair(pair.kind, pair.fixed, moving, pair.fixed_points, pair.moving_points * ratio, pair.modality)


def cropped(pair: Pair, overlap: float) -> Pair:
    """Crop both images at opposite sides, so that only a part is in common."""
    n = pair.fixed.shape[0]
    keep = round(n / (2 - overlap))
    start = n - keep
    fixed, moving = pair.fixed[:keep], pair.moving[start:]
    inside = (pair.fixed_points[:, 0] < keep) & (pair.moving_points[:, 0] >= start)
    if inside.sum() < 10:
        inside = np.ones(len(inside), bool)
    return Pair(
        pair.kind, fixed, moving, pair.fixed_points[inside],
        pair.moving_points[inside] - np.eye(fixed.ndim)[0] * start, pair.modality,
    )  # fmt: skip


def start_at(pair: Pair, matrix: Array, shift: Array) -> Transform:
    """Return an affine start about the center of the fixed image."""
    center = (np.asarray(pair.fixed.shape) - 1) / 2
    whole = np.eye(pair.fixed.ndim + 1)
    whole[:-1, :-1] = matrix
    whole[:-1, -1] = center + shift - matrix @ center
    return AffineTransform(whole)


# -- registrations


def run_pair(pair: Pair, case: str, options: dict[str, Any]) -> Row:
    """Register a pair and measure its error."""
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = sr.register(pair.fixed.astype(np.float32), pair.moving.astype(np.float32), **options)
    seconds = time.perf_counter() - began
    diagonal = math.dist((0,) * pair.fixed.ndim, pair.fixed.shape)

    def error(mapped: Array) -> float:
        return float(np.median(np.linalg.norm(mapped - pair.moving_points, axis=1)) / diagonal)

    found = error(result.transform.map_points(pair.fixed_points))
    before = error(pair.fixed_points)
    if case == "unrelated":
        found = before = 1.0
    settings = result.settings
    return Row(
        pair.kind, pair.fixed.ndim, case, settings.family, settings.similarity, found, before, result.verdict,
        result.confidence, seconds, result.evidence,
    )  # fmt: skip


def cases(
    rng: np.random.Generator, kind: str, image: Array, others: list[Array]
) -> Iterator[tuple[str, Pair, dict[str, Any]]]:
    """Yield right and broken registrations of one image."""
    ndim = image.ndim
    big = ndim == 3

    def pair(modality: str = "same", *, angle: float = 0.1, shift: float = 0.04, strength: float = 0.025) -> Pair:
        return warped_pair(rng, kind, image, strength=strength, angle=angle, shift=shift, modality=modality)

    def options(modality: str, **more: Any) -> dict[str, Any]:
        fair = {"same": ("lncc", "ncc", "mi", "mind"), "inverted": ("lncc", "mi", "mind"), "other": ("mi", "mind")}
        chosen = {"similarity": str(rng.choice(fair[modality])), "family": str(rng.choice(FAMILIES))}
        return {**chosen, "preset": "fast", **more}

    yield "default", pair(), {}
    for modality in ("same", "inverted", "other") if not big else ("same", "other"):
        yield "right", pair(modality), options(modality)
        yield "right, small", pair(modality, angle=0.03, shift=0.01, strength=0.01), options(modality)
        yield "right, start none", pair(modality, angle=0.05, shift=0.02), options(modality, start="none")
    wrong = pair(str(rng.choice(["inverted", "other"])), angle=0.15, shift=0.1)
    yield "wrong similarity", wrong, {"similarity": str(rng.choice(["mse", "ncc", "lncc"])), "preset": "fast"}
    eye = np.eye(ndim)
    for _ in range(1 if big else 2):
        modality = str(rng.choice(["same", "other"]))
        p = pair(modality)
        turn = _rotation(rng, ndim, rng.uniform(0.7, math.pi))
        yield "start rotated", p, options(modality, start_transform=start_at(p, turn, np.zeros(ndim)))
        direction = rng.normal(size=ndim)
        far = direction / np.linalg.norm(direction) * rng.uniform(0.25, 0.6) * min(image.shape)
        yield "start shifted", p, options(modality, start_transform=start_at(p, eye, far))
        near = direction / np.linalg.norm(direction) * rng.uniform(0.11, 0.25) * max(image.shape)
        few = {"start_transform": start_at(p, eye, near), "iterations": 2, "family": "affine"}
        yield "shifted, not fitted", p, options(modality, **few)
        factor = float(rng.choice([0.2, 0.35, 2.5, 4.0]))
        few = {"start_transform": start_at(p, factor * eye, np.zeros(ndim)), "iterations": int(rng.choice([2, 20]))}
        yield "scale collapsed", p, options(modality, **few)
        yield "mirrored", mirrored(p, int(rng.integers(ndim))), options(modality)
        other = np.asarray(others[int(rng.integers(len(others)))], dtype=float)
        unrelated = Pair(kind, p.fixed, other, p.fixed_points, p.fixed_points)
        yield "unrelated", unrelated, options("same")
        yield "overlap", cropped(pair("same", angle=0.02, shift=0.0), rng.uniform(0.2, 0.35)), options("same")
        if not big:
            yield "rescaled", rescaled(pair("same"), float(rng.choice([1 / 3, 3.0, 4.0]))), options("same")
            yield "mirror allowed", mirrored(pair(modality)), options(modality, mirror=True)
            yield "rotated", pair(modality, angle=rng.uniform(1, 3)), options(modality)


def run(data: Path | None, part: str, limit: int | None, output: Path | None) -> list[Row]:
    """Register all cases of one part."""
    rng = np.random.default_rng(1 if part == "calibration" else 2)
    everything = _by_turns(list(images(data, part, rng)))
    rows: list[Row] = []
    for number, (kind, image, subject) in enumerate(everything):
        others = [
            x for k, x, s in everything
            if x.ndim == image.ndim and (k, s) != (kind, subject)
            and (k != kind or k in ("texture", "shapes", "electron"))
        ]  # fmt: skip
        for case, pair, options in cases(rng, kind, image, others):
            if rng.random() > KEPT:
                continue
            try:
                rows.append(run_pair(pair, case, options))
            except sr.InputError as error:
                print(f"{kind} {subject} {case}: {error}", flush=True)
        if output is not None:
            write_rows(output, rows)
        print(f"{number + 1} of {len(everything)}: {kind} {subject}, {len(rows)} registrations", flush=True)
        if limit is not None and len(rows) >= limit:
            break
    return rows


def _by_turns(everything: list[tuple[str, Array, str]]) -> list[tuple[str, Array, str]]:
    """Order images so that every kind comes early, for runs with a limit."""
    groups: dict[tuple[str, int], list[tuple[str, Array, str]]] = {}
    for item in everything:
        groups.setdefault((item[0], item[1].ndim), []).append(item)
    longest = max(len(group) for group in groups.values())
    return [group[i] for i in range(longest) for group in groups.values() if i < len(group)]


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write all rows with their evidence as CSV."""
    names = [name for name in Row.__dataclass_fields__ if name != "evidence"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "truth", "evidence"])
        for row in rows:
            writer.writerow([*(getattr(row, name) for name in names), row.truth, json.dumps(row.evidence)])


def read_rows(path: Path) -> list[Row]:
    """Read rows that were written before."""
    with path.open(newline="") as file:
        return [
            Row(
                r["kind"], int(r["ndim"]), r["case"], r["family"], r["similarity"], float(r["error"]),
                float(r["before"]), r["verdict"], float(r["confidence"]), float(r["seconds"]),
                json.loads(r["evidence"]),
            )
            for r in csv.DictReader(file)
        ]  # fmt: skip


# -- the tables


def table(rows: list[Row]) -> str:
    """Return the verdicts by case and truth as a Markdown table."""
    lines = ["| case | truth | fits | good | doubtful | failed |", "|---|---|---:|---:|---:|---:|"]
    groups = sorted({(row.case, row.truth) for row in rows}) + [("all", t) for t in ("right", "between", "wrong")]
    for case, truth in groups:
        some = [row for row in rows if case in ("all", row.case) and row.truth == truth]
        counts = [sum(row.verdict == name for row in some) for name in ("good", "doubtful", "failed")]
        lines.append(f"| {case} | {truth} | {len(some)} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines)


def roc(rows: list[Row]) -> tuple[float, list[tuple[float, float, float]]]:
    """Return the area under the curve and (threshold, wrong called good, right called good) of the confidence."""
    right = np.array([row.confidence for row in rows if row.truth == "right"])
    wrong = np.array([row.confidence for row in rows if row.truth == "wrong"])
    if not len(right) or not len(wrong):
        return math.nan, []
    area = float(((right[:, None] > wrong) + 0.5 * (right[:, None] == wrong)).mean())
    thresholds = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    return area, [(t, float((wrong >= t).mean()), float((right >= t).mean())) for t in thresholds]


def summary(rows: list[Row]) -> str:
    """Return the table, the two rates of the bar, and the ROC."""
    wrong = [row for row in rows if row.truth == "wrong"]
    right = [row for row in rows if row.truth == "right"]
    caught = sum(row.verdict != "good" for row in wrong) / max(len(wrong), 1)
    lost = sum(row.verdict == "failed" for row in right) / max(len(right), 1)
    trusted = sum(row.verdict == "good" for row in right) / max(len(right), 1)
    area, curve = roc(rows)
    lines = [
        table(rows), "",
        f"Wrong fits not called good: {100 * caught:.1f} % of {len(wrong)}. "
        f"Right fits called failed: {100 * lost:.1f} % of {len(right)}; called good: {100 * trusted:.1f} %. "
        f"Area under the ROC: {area:.4f}.", "",
        "| confidence from | wrong fits | right fits |", "|---:|---:|---:|",
        *(f"| {t:.1f} | {100 * false:.1f} % | {100 * true:.1f} % |" for t, false, true in curve),
    ]  # fmt: skip
    return "\n".join(lines)


def fit(rows: list[Row], penalty: float = 0.005) -> tuple[float, dict[str, float]]:
    """Fit the logistic model to right and wrong rows, with a ridge penalty on standardized coefficients."""
    used = [row for row in rows if row.truth != "between"]
    features = [features_of_dict(row.evidence) for row in used]
    names = list(features[0])
    x = torch.tensor([list(values.values()) for values in features], dtype=torch.float64)
    y = torch.tensor([float(row.truth == "right") for row in used], dtype=torch.float64)
    mean, deviation = x.mean(0), x.std(0).clamp_min(1e-6)
    weight = torch.where(y > 0, 0.5 / y.mean(), 0.5 / (1 - y.mean()))
    theta = torch.zeros(len(names) + 1, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([theta], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        logits = ((x - mean) / deviation) @ theta[1:] + theta[0]
        loss = (torch.nn.functional.binary_cross_entropy_with_logits(logits, y, weight=weight)
                + penalty * theta[1:].square().sum())  # fmt: skip
        loss.backward()
        return loss

    solver.step(closure)
    slopes = (theta[1:] / deviation).detach()
    intercept = float(theta.detach()[0] - (slopes * mean).sum())
    return intercept, {name: round(float(s), 3) for name, s in zip(names, slopes, strict=True)}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with the images; without it generated images only")
    parser.add_argument("--part", choices=("held-out", "calibration"), default="held-out")
    parser.add_argument("--fit", action="store_true", help="print the coefficients of the logistic model")
    parser.add_argument("--limit", type=int, help="stop after this many registrations")
    parser.add_argument("--output", type=Path, help="write all rows to this CSV file")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = run(arguments.data, arguments.part, arguments.limit, arguments.output)
    print(summary(rows))
    if arguments.fit:
        print(*fit(rows), sep="\n")


if __name__ == "__main__":
    main()
