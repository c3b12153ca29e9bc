"""Measure the quality of an alignment per section, without ground truth."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d

from napari_stnreg.core.grid import FloatArray
from napari_stnreg.stacks.matching.fine import FineMatch
from napari_stnreg.stacks.matching.pair_selection import Pair
from napari_stnreg.stacks.preprocessing.features import PreparedSection
from napari_stnreg.stacks.section_transform import SectionTransform, corners

Verdict = Literal["aligned", "weak", "bridged", "failed"]


@dataclass(frozen=True)
class QualityParameters:
    """Thresholds of the quality measures. All were set by hand; no tuning is recorded.

    Parameters
    ----------
    chunks
        Number of chunks along the longer side in which neighbors are correlated.
    min_chunk_fraction
        A chunk with a smaller fraction of common tissue is ignored.
    weak_fraction
        A section is weak if its correlation is below this fraction of the median of the stack.
    failed_fraction
        A section has failed if its correlation is below this fraction of the median of the stack.
    max_correlation_drop
        A section is weak if its correlation drops by more than this.
    max_folding_fraction
        A section is weak if a larger fraction of the canvas is folded.
    max_strain
        A section is weak if its strain exceeds this. Cutting does not stretch tissue by as much.
    over_straightening_margin
        Neighbors that correlate better than the ground truth by more than this are over-straightened.
    """

    chunks: int = 8
    min_chunk_fraction: float = 0.25
    weak_fraction: float = 0.5
    failed_fraction: float = 0.35
    max_correlation_drop: float = 0.05
    max_folding_fraction: float = 0.002
    max_strain: float = 0.5
    over_straightening_margin: float = 0.02


PARAMETERS = QualityParameters()


@dataclass(frozen=True)
class PairQuality:
    """Correlation of two neighboring sections after alignment.

    Parameters
    ----------
    correlation
        Mean over chunks of Pearson's correlation over the common tissue; NaN if no chunk has enough tissue.
    worst
        10th percentile of the chunks.
    chunks
        Number of chunks with enough tissue.
    overlap
        Common tissue as a fraction of the common canvas.
    """

    correlation: float
    worst: float
    chunks: int
    overlap: float


def chunk_correlation(
    a: npt.NDArray[np.floating],
    b: npt.NDArray[np.floating],
    known: npt.NDArray[np.bool_],
    chunks: int = PARAMETERS.chunks,
) -> PairQuality:
    """Correlate two images ``(h, w)`` chunk by chunk over the pixels that both have."""
    size = max(max(a.shape) // chunks, 8)
    found = []
    for y in range(0, a.shape[0], size):
        for x in range(0, a.shape[1], size):
            place = slice(y, y + size), slice(x, x + size)
            inside = known[place]
            if inside.sum() < PARAMETERS.min_chunk_fraction * size * size:
                continue
            p, q = (np.asarray(image[place][inside], dtype=np.float64) for image in (a, b))
            p, q = p - p.mean(), q - q.mean()
            scale = np.sqrt((p @ p) * (q @ q))
            if scale > 0:
                found.append(float(p @ q / scale))
    if not found:
        return PairQuality(float("nan"), float("nan"), 0, float(known.mean()))
    return PairQuality(float(np.mean(found)), float(np.quantile(found, 0.1)), len(found), float(known.mean()))


def warped_correlation(
    images: tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]],
    weights: tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]],
    transforms: tuple[SectionTransform, SectionTransform],
    chunks: int = PARAMETERS.chunks,
) -> PairQuality:
    """Correlate two sections after warping them to the canvas.

    Parameters
    ----------
    images
        ``(h, w)`` at the working resolution of the transforms.
    weights
        ``(h, w)``, 1 on tissue.
    transforms
        Canvas to section.
    """
    from scipy.ndimage import map_coordinates

    from napari_stnreg.stacks.matching.pair_frame import PairFrame, common_box  # imports torch

    step = float(transforms[0].factor)
    canvas = PairFrame.over(*common_box(transforms), step)
    seen, known = [], np.ones(canvas.shape, dtype=bool)
    for image, weight, transform in zip(images, weights, transforms, strict=True):
        where = ((transform.on_axes(canvas.y, canvas.x) + 0.5) / step - 0.5).transpose(2, 0, 1)
        masked = np.where(weight > 0, image, 0)
        seen.append(map_coordinates(np.asarray(masked, dtype=np.float32), where, order=1, cval=0.0))
        known &= map_coordinates(np.asarray(weight, dtype=np.float32), where, order=1, cval=0.0) > 0.99
    return chunk_correlation(seen[0], seen[1], known, chunks)


def correlate_pair(
    a: PreparedSection, b: PreparedSection, map_a: SectionTransform, map_b: SectionTransform
) -> tuple[PairQuality, PairQuality]:
    """Correlate two neighbors before and after alignment."""
    images, weights = (a.image, b.image), (a.weights[0], b.weights[0])
    before = chunk_correlation(*images, (weights[0] > 0) & (weights[1] > 0))
    return before, warped_correlation(images, weights, (map_a, map_b))


def canvas_points(transforms: Sequence[SectionTransform], count: int = 15) -> FloatArray:
    """Return points ``(count, count, 2)`` of the canvas that nearly all sections cover."""
    centers = np.array([_section_center(m) for m in transforms])
    size = np.asarray(transforms[0].shape)
    low, high = np.median(centers, axis=0) - 0.4 * size, np.median(centers, axis=0) + 0.4 * size
    y, x = (np.linspace(low[a], high[a], count) for a in (0, 1))
    return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)


def _section_center(transform: SectionTransform) -> FloatArray:
    back = np.linalg.inv(transform.affines[0])
    edges = corners(transform.shape)
    return np.asarray((edges @ back[:2, :2].T + back[:2, 2]).mean(axis=0))


@dataclass(frozen=True)
class SectionQuality:
    """Quality of one section: a row of the quality table.

    Parameters
    ----------
    section
        Section number.
    verdict, reason
        Verdict and its reason.
    correlation_before, correlation_after
        Mean correlation with its neighbors over the common tissue.
    residual
        Median remaining displacement to the neighbors by the last match, pixels.
    jump
        Mean difference between its displacement and that of the section before, pixels.
    displacement
        Mean displacement from the recorded position, pixels.
    drift
        Mean length of the displacement smoothed along the stack (Gaussian of three sections), pixels.
    folded
        Fraction of the canvas where its transform folds.
    strain
        99th percentile of the relative change of length over the section, relative to its median.
    """

    section: int
    verdict: Verdict
    reason: str
    correlation_before: float
    correlation_after: float
    residual: float
    jump: float
    displacement: float
    drift: float
    folded: float
    strain: float


def measure_deformation(transform: SectionTransform, points: FloatArray) -> tuple[float, float]:
    """Return the folding fraction of a transform and the 99th percentile of its strain relative to the median.

    Fragments are measured separately, so a crack itself causes no strain.
    """
    from napari_stnreg.ops.jacobian import folding_fraction

    step = 0.5 * np.eye(2) * max(transform.factor, 1)
    folded, strains = [], []
    for k in range(transform.n_fragments):
        columns = [transform.map_fragment(k, points + s) - transform.map_fragment(k, points - s) for s in step]
        jacobian = np.stack(columns, axis=-1) / max(transform.factor, 1)
        folded.append(folding_fraction(np.linalg.det(jacobian), border=0))
        values = np.linalg.svd(jacobian, compute_uv=False)
        strains.append(float(np.quantile(np.abs(values / np.median(values) - 1), 0.99)))
    return max(folded), max(strains)


def section_residuals(matches: Mapping[Pair, FineMatch], transforms: Sequence[SectionTransform]) -> dict[int, float]:
    """Return the median remaining displacement of each matched section to its neighbors, in pixels."""
    found: dict[int, list[float]] = {}
    for (a, b), match in matches.items():
        for p in range(transforms[a].n_fragments):
            for q in range(transforms[b].n_fragments):
                seen = match.weight[p, q, 0] + match.weight[p, q, 2] > 0.5
                if seen.any():
                    off = transforms[b].vectors[q] - transforms[a].vectors[p] - match.shift[p, q]
                    size = float(np.median(np.hypot(*off)[seen]))
                    for z in (a, b):
                        found.setdefault(z, []).append(size)
    return {z: min(values) for z, values in found.items()}


def assess_sections(
    transforms: Sequence[SectionTransform],
    faults: Sequence[str],
    before: Mapping[Pair, PairQuality],
    after: Mapping[Pair, PairQuality],
    matches: Mapping[Pair, FineMatch] | None = None,
) -> list[SectionQuality]:
    """Assess every section: verdict, reason and quality measures.

    Parameters
    ----------
    transforms
        Canvas to section.
    faults
        Reason why a section cannot be matched, or an empty string.
    before, after
        Correlations of neighboring usable sections before and after alignment.
    matches
        Matches of the last fine iteration, for the residual.
    """
    points = canvas_points(transforms)
    moved = np.stack([_displacement(m, points) for m in transforms])
    slow = gaussian_filter1d(moved, 3.0, axis=0, mode="nearest") if len(transforms) > 1 else moved
    remaining = section_residuals(matches or {}, transforms)
    typical = float(np.nanmedian([q.correlation for q in after.values()])) if after else float("nan")
    rows = []
    for z, transform in enumerate(transforms):
        folded, strain = measure_deformation(transform, points)
        figures = (_mean(before, z), _mean(after, z))
        verdict, reason = _verdict(faults[z], figures, typical, folded, strain)
        jump = float(np.linalg.norm(moved[z] - moved[z - 1], axis=-1).mean()) if z else 0.0
        rows.append(
            SectionQuality(
                z, verdict, reason, *figures, remaining.get(z, float("nan")), jump,
                float(np.linalg.norm(moved[z], axis=-1).mean()), float(np.linalg.norm(slow[z], axis=-1).mean()),
                folded, strain,
            )
        )  # fmt: skip
    return rows


def _displacement(transform: SectionTransform, points: FloatArray) -> FloatArray:
    return np.asarray(transform(points) - points)


def _mean(pairs: Mapping[Pair, PairQuality], section: int) -> float:
    values = [q.correlation for pair, q in pairs.items() if section in pair and np.isfinite(q.correlation)]
    return float(np.mean(values)) if values else float("nan")


def _verdict(
    fault: str, figures: tuple[float, float], typical: float, folded: float, strain: float
) -> tuple[Verdict, str]:
    if fault:
        return "bridged", f"{fault}: interpolated between its neighbors"
    before, after = figures
    if not np.isfinite(after):
        return "failed", "too little common tissue with its neighbors"
    if after < PARAMETERS.failed_fraction * typical or after <= 0:
        return "failed", f"does not match its neighbors (correlation {after:.2f}, median of the stack {typical:.2f})"
    if after < PARAMETERS.weak_fraction * typical:
        return "weak", f"low correlation {after:.2f}, median of the stack {typical:.2f}"
    if after < before - PARAMETERS.max_correlation_drop:
        return "weak", f"correlation dropped from {before:.2f} to {after:.2f}"
    if folded > PARAMETERS.max_folding_fraction:
        return "weak", f"{100 * folded:.1f} % of the section is folded"
    if strain > PARAMETERS.max_strain:
        return "weak", f"strain of {100 * strain:.0f} %"
    return "aligned", ""


def over_straightening_warning(after: Mapping[Pair, PairQuality], expected: float | None = None) -> str:
    """Return a warning if neighbors correlate better than the ground truth does, else an empty string.

    Parameters
    ----------
    after
        Correlations by section numbers. Only pairs of adjacent sections count.
    expected
        Correlation of neighbors under the true transforms. Without it transform is no warning, because real sections
        have no known correlation.
    """
    near = [q.correlation for (a, b), q in after.items() if b - a == 1 and np.isfinite(q.correlation)]
    if expected is None or not near or np.mean(near) <= expected + PARAMETERS.over_straightening_margin:
        return ""
    return (
        f"Neighbors correlate by {np.mean(near):.2f}, above {expected:.2f} of the ground truth: oblique structures "
        "are over-straightened. Use trend='keep', a larger position_weight or a stiffer grid."
    )


def write_table(rows: Sequence[SectionQuality], path: str | Path) -> None:
    """Write the quality table as CSV with a header; NaN is an empty cell."""
    names = list(SectionQuality.__dataclass_fields__)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for row in rows:
            writer.writerow([_cell(getattr(row, name)) for name in names])


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.5g}"
    return value
