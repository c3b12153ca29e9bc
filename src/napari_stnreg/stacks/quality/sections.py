"""Measure the quality of an alignment per section, without ground truth."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d

from napari_stnreg.core.grid import FloatArray
from napari_stnreg.stacks.matching.coarse import CoarseMatch
from napari_stnreg.stacks.matching.fine import FineMatch
from napari_stnreg.stacks.matching.pair_selection import Pair
from napari_stnreg.stacks.preprocessing.features import PreparedSection
from napari_stnreg.stacks.section_transform import SectionTransform, corners, fit_affine_matrix
from napari_stnreg.stacks.settings import StackSettings

Status = Literal["aligned", "bridged", "excluded"]
Verdict = Literal["good", "doubtful", "failed"]


@dataclass(frozen=True)
class QualityParameters:
    """Thresholds of the quality measures. All were set by hand; no tuning is recorded.

    Parameters
    ----------
    chunks
        Number of chunks along the longer side in which neighbors are correlated.
    min_chunk_fraction
        A chunk with a smaller fraction of common tissue is ignored.
    doubtful_fraction
        A gap is doubtful if its correlation is below this fraction of the median of the stack.
    consensus_gaps
        With fewer gaps above chance, their median is not reliable. A gap is then doubtful below twice that limit.
    failed_fraction
        A gap has failed if its correlation is below this fraction of the median of the stack.
    chance_deviations
        A gap has failed if its correlation exceeds the mean of chance by fewer standard deviations.
    min_chance_sd
        Lower limit of that standard deviation, which few samples estimate.
    chance_samples
        Number of pairs in which chance is measured. A stack of fewer pairs is shifted in several directions.
    min_chance_chunks
        A shifted copy with fewer common chunks is no evidence of chance.
    unknown_chance
        Level of chance where no shifted copy shares enough tissue.
    chance_shift
        Shift of the copies for which chance is measured, relative to the longer side of a section.
    duplicate_correlation
        Neighbors that correlate better than this as recorded are the same image.
    swap_margin
        Neighbors are swapped if each matches the neighbor of the other one better, in the mean by this Fisher z.
    magnification_change
        Relative change of size between neighbors above which an affine motion is proposed.
    magnification_followed
        Fraction of a change, measured by the affine match of a pair, that the deformation must follow: six parameters
        also fit chance. FIB-SEM slices 80 nm apart: 0.35 at a change of 15 %, 0.05 and 0.08 at two weak gaps without.
    max_correlation_drop
        A section is doubtful if its correlation drops by more than this.
    max_folding_fraction
        A section is doubtful if a larger fraction of the canvas is folded.
    max_strain
        A section is doubtful if its strain exceeds this. Cutting does not stretch tissue by as much.
    over_straightening_margin
        Neighbors that correlate better than the ground truth by more than this are over-straightened.
    """

    chunks: int = 8
    min_chunk_fraction: float = 0.25
    doubtful_fraction: float = 0.5
    consensus_gaps: int = 3
    failed_fraction: float = 0.35
    chance_deviations: float = 2.0
    min_chance_sd: float = 0.02
    chance_samples: int = 6
    min_chance_chunks: int = 8
    unknown_chance: float = 0.2
    chance_shift: float = 0.2
    duplicate_correlation: float = 0.99
    swap_margin: float = 0.05
    magnification_change: float = 0.07
    magnification_followed: float = 0.2
    max_correlation_drop: float = 0.05
    max_folding_fraction: float = 0.002
    max_strain: float = 0.5
    over_straightening_margin: float = 0.02


PARAMETERS = QualityParameters()
CHANCE_DIRECTIONS = ((1, 1), (-1, -1), (1, -1), (-1, 1))
"""Directions (y, x) in which a copy is shifted to measure chance."""
UNMATCHED = "fits neither neighbor"
"""Fault of a section whose matches are not above chance."""
REPEATED = "shows the same image as section"
"""Begin of the fault of a copy of another section, whose number follows."""


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


def correlate_match(
    a: PreparedSection,
    b: PreparedSection,
    map_a: SectionTransform,
    map_b: SectionTransform,
    settings: StackSettings,
    direction: int | None = None,
) -> float:
    """Match two sections and correlate them at that match; with a shifted copy of the second, this is chance.

    ``direction``, 0 to 3, selects one of the four diagonals along which the copy is shifted; without it there is no
    shift. NaN if the two share too little tissue.
    """
    from napari_stnreg.stacks.matching.fine import fine_match  # imports torch

    affines = map_b.affines.copy()
    signs = (0, 0) if direction is None else CHANCE_DIRECTIONS[direction]
    affines[:, :2, 2] += PARAMETERS.chance_shift * max(map_b.shape) / np.sqrt(2) * np.array(signs)
    shifted = replace(map_b, affines=affines)
    if settings.deform:
        found = fine_match(a, b, map_a, shifted, settings)
        shifted = shifted.with_vectors(map_a.vectors[:1] + found.shift[0])
    images, weights = (a.image, b.image), (a.weights[0], b.weights[0])
    quality = warped_correlation(images, weights, (map_a, shifted))
    return quality.correlation if quality.chunks >= PARAMETERS.min_chance_chunks else float("nan")


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
    status
        ``"aligned"`` to its neighbors, ``"bridged"`` (placed between them without a match) or ``"excluded"``.
    verdict, reason
        ``"good"``, ``"doubtful"`` or ``"failed"``, and why.
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
    raw_section
        Number of the section in the input. It differs from ``section`` where ``reorder`` exchanged two sections.
    """

    section: int
    status: Status
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
    raw_section: int | None = None


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
    matches: Mapping[Pair, FineMatch],
    gaps: Mapping[Pair, Verdict],
    order: Sequence[int] | None = None,
) -> list[SectionQuality]:
    """Assess every section: status, verdict, reason and quality measures.

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
    gaps
        Verdicts of the gaps, by :func:`judge_gaps`.
    order
        Section of the input at each position; the position itself if not given.
    """
    points = canvas_points(transforms)
    moved = np.stack([_displacement(m, points) for m in transforms])
    slow = gaussian_filter1d(moved, 3.0, axis=0, mode="nearest") if len(transforms) > 1 else moved
    remaining = section_residuals(matches, transforms)
    rows = []
    for z, transform in enumerate(transforms):
        folded, strain = measure_deformation(transform, points)
        figures = (_mean(before, z), _mean(after, z))
        status, verdict, reason = _judge_section(z, faults[z], figures, gaps, folded, strain)
        jump = float(np.linalg.norm(moved[z] - moved[z - 1], axis=-1).mean()) if z else 0.0
        rows.append(
            SectionQuality(
                z, status, verdict, reason, *figures, remaining.get(z, float("nan")), jump,
                float(np.linalg.norm(moved[z], axis=-1).mean()), float(np.linalg.norm(slow[z], axis=-1).mean()),
                folded, strain, z if order is None else order[z],
            )
        )  # fmt: skip
    return rows


def _displacement(transform: SectionTransform, points: FloatArray) -> FloatArray:
    return np.asarray(transform(points) - points)


def _mean(pairs: Mapping[Pair, PairQuality], section: int) -> float:
    values = [q.correlation for pair, q in pairs.items() if section in pair and np.isfinite(q.correlation)]
    return float(np.mean(values)) if values else float("nan")


def judge_gaps(after: Mapping[Pair, PairQuality], chance: Sequence[float] = ()) -> dict[Pair, Verdict]:
    """Judge every gap by its correlation: against chance, and against the median of the gaps above chance.

    Parameters
    ----------
    after
        Correlations of neighboring sections after alignment.
    chance
        Correlations of sections with shifted copies of their neighbors, matched in the same way.
    """
    known = {pair: q.correlation for pair, q in after.items() if np.isfinite(q.correlation)}
    limit = chance_limit(chance)
    above = [value for value in known.values() if value > limit]
    typical = float(np.median(above)) if above else 0.0
    least = 2 * limit if len(above) < PARAMETERS.consensus_gaps else 0.0
    found: dict[Pair, Verdict] = {}
    for pair in after:
        value = known.get(pair, float("-inf"))
        scale = 1.0 if pair[1] - pair[0] == 1 else 0.0  # across missing sections less detail is shared
        if value <= max(limit, scale * PARAMETERS.failed_fraction * typical):
            found[pair] = "failed"
        else:
            found[pair] = "doubtful" if value < max(scale * PARAMETERS.doubtful_fraction * typical, least) else "good"
    return found


def chance_limit(chance: Sequence[float]) -> float:
    """Correlation that chance rarely exceeds; 0 if chance was not measured."""
    values = np.asarray(chance, dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return PARAMETERS.unknown_chance if len(chance) else 0.0
    sd = max(float(values.std(ddof=1)), PARAMETERS.min_chance_sd)
    return float(values.mean()) + PARAMETERS.chance_deviations * sd


def split_into_segments(sections: Sequence[int], gaps: Mapping[Pair, Verdict]) -> list[list[int]]:
    """Split the usable sections wherever the gap to the next one has failed."""
    found: list[list[int]] = []
    for a in sections:
        if found and gaps.get((found[-1][-1], a), "failed") != "failed":
            found[-1].append(a)
        else:
            found.append([a])
    return found


def describe_breaks(segments: Sequence[Sequence[int]], after: Mapping[Pair, PairQuality]) -> str:
    """Describe where a stack is broken, in one sentence; empty for a single segment."""
    if len(segments) < 2:
        return ""
    places = [(one[-1], other[0]) for one, other in pairwise(segments)]
    if max(map(len, segments)) < 2:
        return "No section fits the next one: these sections are not neighbors, or they need landmarks."
    inside = [after[pair].correlation for one in segments for pair in pairwise(one)]
    named = ", ".join(str(one[0]) if len(one) == 1 else f"{one[0]}-{one[-1]}" for one in segments)
    breaks = [
        f"{a}|{b} (correlation {after[a, b].correlation:.2f})"
        if (a, b) in after and np.isfinite(after[a, b].correlation)
        else f"{a}|{b} (no common tissue)"
        for a, b in places
    ]
    return (
        f"{named}: the stack is broken at {', '.join(breaks)}. Other neighbors have {float(np.median(inside)):.2f}. "
        "Set landmarks there, or align the parts separately."
    )


def describe_faults(
    transforms: Sequence[SectionTransform],
    sections: Sequence[int],
    inverted: Sequence[int],
    before: Mapping[Pair, PairQuality],
    swapped: Sequence[Pair],
    motion: str,
    coarse: Mapping[Pair, CoarseMatch] | None = None,
    *,
    deformed: bool = False,
) -> str:
    """Describe faults of the recording: inverted contrast, mirror images, duplicates, swapped neighbors, magnification.

    ``coarse`` are the coarse matches of neighbors, for mirror images and changes of size. ``deformed`` states whether
    sections could be deformed, and so follow a change of size.
    """
    coarse = coarse or {}
    found = []
    if inverted:
        found.append(f"Inverted contrast: section {', '.join(map(str, inverted))}. Matched with the contrast inverted.")
    if reflected := [pair for pair in sorted(coarse) if coarse[pair].needs_mirror]:
        named = ", ".join(f"{a} and {b}" for a, b in reflected)
        found.append(
            f"Mirror image: sections {named} fit only if one of the two is mirrored. Turn on the search for mirrored "
            "sections (setting mirror)."
        )
    for (a, b), quality in before.items():
        if quality.correlation > PARAMETERS.duplicate_correlation:
            found.append(f"Sections {a} and {b} are the same image. Exclude one of them.")
    for a, b in swapped:
        found.append(f"Sections {a} and {b} seem to be swapped: each fits the neighbor of the other one better.")
    if motion != "affine" and len(sections) > 1:
        points = canvas_points(transforms, 2)
        flat = points.reshape(-1, 2)
        size = {
            z: abs(float(np.linalg.det(fit_affine_matrix(flat, transforms[z](flat))[:2, :2]))) ** 0.5 for z in sections
        }
        for a, b in pairwise(sections):
            measured = coarse[a, b].magnification if (a, b) in coarse else 1.0
            followed = np.log(size[b] / size[a]) * np.sign(np.log(measured))
            if deformed and followed < PARAMETERS.magnification_followed * abs(np.log(measured)):
                measured = 1.0
            change = max(size[b] / size[a], measured, key=lambda n: abs(np.log(n))) - 1
            if abs(change) > PARAMETERS.magnification_change:
                found.append(
                    f"Magnification changes by {100 * change:.0f} % from section {a} to {b}. Use motion='affine'."
                )
    return " ".join(found)


def _judge_section(
    section: int,
    fault: str,
    figures: tuple[float, float],
    gaps: Mapping[Pair, Verdict],
    folded: float,
    strain: float,
) -> tuple[Status, Verdict, str]:
    if fault == "excluded":
        return "excluded", "doubtful", "excluded: placed between its neighbors"
    if fault.startswith(REPEATED):
        return "bridged", "doubtful", f"{fault}: placed like it, nothing to do"
    if fault == UNMATCHED:
        return "bridged", "failed", f"{fault} and was placed between them: exclude it or set landmarks"
    if fault:
        advice = "replace its file" if fault == "unreadable" else "nothing to do"
        return "bridged", "doubtful", f"{fault}: placed between its neighbors, {advice}"
    before, after = figures
    own = {pair: verdict for pair, verdict in gaps.items() if section in pair}
    if not own or set(own.values()) == {"failed"}:
        return "bridged", "failed", f"{UNMATCHED} (correlation {after:.2f}): exclude it or set landmarks"
    doubt = ""
    if "failed" in own.values():
        a, b = next(pair for pair, verdict in own.items() if verdict == "failed")
        doubt = f"the stack is broken between {a} and {b}: set landmarks in both, or align the parts separately"
    elif "doubtful" in own.values():
        doubt = f"fits its neighbors badly (correlation {after:.2f}): compare them, and set landmarks if it is off"
    elif after < before - PARAMETERS.max_correlation_drop:
        doubt = f"fits worse than as recorded ({before:.2f} to {after:.2f}): set landmarks or exclude it"
    elif folded > PARAMETERS.max_folding_fraction:
        doubt = f"{100 * folded:.1f} % of the section is folded: raise the smoothness or exclude it"
    elif strain > PARAMETERS.max_strain:
        doubt = f"stretched by {100 * strain:.0f} %: raise the smoothness or exclude it"
    return "aligned", "doubtful" if doubt else "good", doubt


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
