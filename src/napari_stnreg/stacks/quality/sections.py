"""How good an alignment is, section by section, without knowing the truth."""

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

CHUNKS = 8
"""Chunks along the longer side in which neighbors are correlated."""
LEAST_SHARE = 0.25
"""A chunk with less common tissue than this share does not count."""
WEAK = 0.5
"""A correlation below this share of the stack's median makes a section weak."""
FAILED = 0.35
"""The same for a section that lies nowhere near its neighbors."""
FOLDED = 0.002
"""Share of folded canvas above which a section is weak."""
STRAIN = 0.5
"""Strain, from its median, above which a section is weak: no cutting stretches tissue by so much."""
STRAIGHTENED = 0.02
"""By how much neighbors may correlate better than where the truth would have them."""


@dataclass(frozen=True)
class PairQuality:
    """How well two neighboring sections fit where their maps put them.

    Parameters
    ----------
    correlation
        Mean over chunks of Pearson's correlation, pixels that are not tissue in both left out of the means too; NaN
        if no chunk holds enough.
    worst
        The lowest chunk but a tenth.
    chunks
        How many chunks counted.
    overlap
        Common tissue as a share of the common canvas.
    """

    correlation: float
    worst: float
    chunks: int
    overlap: float


def chunk_correlation(
    a: npt.NDArray[np.floating], b: npt.NDArray[np.floating], known: npt.NDArray[np.bool_], chunks: int = CHUNKS
) -> PairQuality:
    """Correlate two images ``(h, w)`` on one canvas chunk by chunk, over the pixels where both are known."""
    size = max(max(a.shape) // chunks, 8)
    found = []
    for y in range(0, a.shape[0], size):
        for x in range(0, a.shape[1], size):
            place = slice(y, y + size), slice(x, x + size)
            inside = known[place]
            if inside.sum() < LEAST_SHARE * size * size:
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
    chunks: int = CHUNKS,
) -> PairQuality:
    """Correlate two sections where their maps put them.

    Parameters
    ----------
    images
        ``(h, w)`` at the working resolution of the maps.
    weights
        ``(h, w)``, 1 on tissue.
    maps
        Canvas to section.
    """
    from scipy.ndimage import map_coordinates

    from napari_stnreg.stacks.matching.pair_frame import PairFrame, common_box  # they know torch

    step = float(transforms[0].factor)
    canvas = PairFrame.over(*common_box(transforms), step)
    seen, known = [], np.ones(canvas.shape, dtype=bool)
    for image, weight, there in zip(images, weights, transforms, strict=True):
        where = ((there.on_axes(canvas.y, canvas.x) + 0.5) / step - 0.5).transpose(2, 0, 1)
        held = np.where(weight > 0, image, 0)
        seen.append(map_coordinates(np.asarray(held, dtype=np.float32), where, order=1, cval=0.0))
        known &= map_coordinates(np.asarray(weight, dtype=np.float32), where, order=1, cval=0.0) > 0.99
    return chunk_correlation(seen[0], seen[1], known, chunks)


def measure(
    a: PreparedSection, b: PreparedSection, map_a: SectionTransform, map_b: SectionTransform
) -> tuple[PairQuality, PairQuality]:
    """How well two neighbors fit as they were recorded, and where their maps put them."""
    images, weights = (a.image, b.image), (a.weights[0], b.weights[0])
    before = chunk_correlation(*images, (weights[0] > 0) & (weights[1] > 0))
    return before, warped_correlation(images, weights, (map_a, map_b))


def canvas_points(transforms: Sequence[SectionTransform], count: int = 15) -> FloatArray:
    """Points ``(count, count, 2)`` of the canvas that nearly all sections reach, at which fields are compared."""
    middles = np.array([_middle(m) for m in transforms])
    size = np.asarray(transforms[0].shape)
    low, high = np.median(middles, axis=0) - 0.4 * size, np.median(middles, axis=0) + 0.4 * size
    y, x = (np.linspace(low[a], high[a], count) for a in (0, 1))
    return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)


def _middle(there: SectionTransform) -> FloatArray:
    back = np.linalg.inv(there.affines[0])
    edges = corners(there.shape)
    return np.asarray((edges @ back[:2, :2].T + back[:2, 2]).mean(axis=0))


@dataclass(frozen=True)
class SectionQuality:
    """One row of the table of an alignment.

    Parameters
    ----------
    section
        Its number.
    verdict, reason
        In a word, and why.
    correlation_before, correlation_after
        With its neighbors, mean of those it has; pixels that are not tissue left out.
    residual
        What the neighbors' last match would still have it move, median, pixels.
    jump
        Mean difference of its displacement from that of the section before, pixels.
    displacement
        Mean length of its vectors and shift against the recorded position, pixels.
    drift
        Mean length of the displacement's slow part along the stack (a Gaussian of three sections), pixels.
    folded
        Share of the canvas where its map folds.
    strain
        99th percentile of the relative change of length over the section, against its own median.
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


def deformation(there: SectionTransform, points: FloatArray) -> tuple[float, float]:
    """Share of canvas points where a map folds, and the 99th percentile of its strain against its own median.

    A torn section is measured piece by piece: the tear itself is no strain.
    """
    from napari_stnreg.ops.jacobian import folding_fraction

    step = 0.5 * np.eye(2) * max(there.factor, 1)
    folded, strains = [], []
    for k in range(there.n_fragments):
        columns = [there.map_fragment(k, points + s) - there.map_fragment(k, points - s) for s in step]
        jacobian = np.stack(columns, axis=-1) / max(there.factor, 1)
        folded.append(folding_fraction(np.linalg.det(jacobian), border=0))
        values = np.linalg.svd(jacobian, compute_uv=False)
        strains.append(float(np.quantile(np.abs(values / np.median(values) - 1), 0.99)))
    return max(folded), max(strains)


def residuals(matches: Mapping[Pair, FineMatch], transforms: Sequence[SectionTransform]) -> dict[int, float]:
    """For each matched section by how many pixels its neighbors would still have it move, median over its vectors."""
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


def judge(
    transforms: Sequence[SectionTransform],
    faults: Sequence[str],
    before: Mapping[Pair, PairQuality],
    after: Mapping[Pair, PairQuality],
    matches: Mapping[Pair, FineMatch] | None = None,
) -> list[SectionQuality]:
    """A verdict on every section, with figures.

    Parameters
    ----------
    maps
        Canvas to section.
    faults
        Why a section could not be matched; empty for all others.
    before, after
        Correlations of neighboring usable sections as recorded and as aligned.
    matches
        The last round of the fine pass, for the residual.
    """
    points = canvas_points(transforms)
    moved = np.stack([_displacement(m, points) for m in transforms])
    slow = gaussian_filter1d(moved, 3.0, axis=0, mode="nearest") if len(transforms) > 1 else moved
    left = residuals(matches or {}, transforms)
    typical = float(np.nanmedian([q.correlation for q in after.values()])) if after else float("nan")
    rows = []
    for z, there in enumerate(transforms):
        folded, strain = deformation(there, points)
        figures = (_mean(before, z), _mean(after, z))
        verdict, reason = _verdict(faults[z], figures, typical, folded, strain)
        jump = float(np.linalg.norm(moved[z] - moved[z - 1], axis=-1).mean()) if z else 0.0
        rows.append(
            SectionQuality(
                z, verdict, reason, *figures, left.get(z, float("nan")), jump,
                float(np.linalg.norm(moved[z], axis=-1).mean()), float(np.linalg.norm(slow[z], axis=-1).mean()),
                folded, strain,
            )
        )  # fmt: skip
    return rows


def _displacement(there: SectionTransform, points: FloatArray) -> FloatArray:
    return np.asarray(there(points) - points)


def _mean(pairs: Mapping[Pair, PairQuality], section: int) -> float:
    values = [q.correlation for pair, q in pairs.items() if section in pair and np.isfinite(q.correlation)]
    return float(np.mean(values)) if values else float("nan")


def _verdict(
    fault: str, figures: tuple[float, float], typical: float, folded: float, strain: float
) -> tuple[Verdict, str]:
    if fault:
        return "bridged", f"{fault}: placed between its neighbors"
    before, after = figures
    if not np.isfinite(after):
        return "failed", "shares too little tissue with its neighbors"
    if after < FAILED * typical or after <= 0:
        return "failed", f"does not resemble its neighbors (correlation {after:.2f}, the stack's median {typical:.2f})"
    if after < WEAK * typical:
        return "weak", f"correlation {after:.2f}, the stack's median {typical:.2f}"
    if after < before - 0.05:
        return "weak", f"correlation fell from {before:.2f} to {after:.2f}"
    if folded > FOLDED:
        return "weak", f"{100 * folded:.1f} % of it is folded"
    if strain > STRAIN:
        return "weak", f"strained by {100 * strain:.0f} %"
    return "aligned", ""


def straightened(after: Mapping[Pair, PairQuality], expected: float | None = None) -> str:
    """A sentence if neighbors correlate better than tissue can, else nothing.

    Parameters
    ----------
    after
        Correlations by section numbers; pairs two apart as well where they were measured.
    expected
        The true correlation of neighbors where it is known (generated stacks). Otherwise nothing is said: real
        sections do not tell how alike they ought to be.
    """
    near = [q.correlation for (a, b), q in after.items() if b - a == 1 and np.isfinite(q.correlation)]
    if expected is None or not near or np.mean(near) <= expected + STRAIGHTENED:
        return ""
    return (
        f"Neighbors correlate by {np.mean(near):.2f} where the tissue itself gives {expected:.2f}: what runs "
        "obliquely has been straightened. A softer course or a stiffer grid follows the tissue."
    )


def write_table(rows: Sequence[SectionQuality], path: str | Path) -> None:
    """Write the rows as CSV with a line of names; figures that do not exist are left empty."""
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
