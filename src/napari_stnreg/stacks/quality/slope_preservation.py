"""Measure whether an alignment preserves the slope of oblique structures, without ground truth.

The match of two neighbors measures the lateral step of the tissue between them. The step after alignment is *kept*; the
same step without the displacement of the alignment is *recorded*. Jitter of single sections steps back and forth, while
the slope of a neurite continues over many sections. A line fit through the steps of many sections therefore separates
slope from jitter. The ratio of the kept to the recorded slope is 1 if the slope is preserved and less if the stack is
over-straightened.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.grid import FloatArray
from napari_stnreg.stacks.matching.fine import FineMatch
from napari_stnreg.stacks.matching.pair_selection import Pair
from napari_stnreg.stacks.section_transform import SectionTransform

SLOPE_WARNING = "Oblique structures keep only"
"""Beginning of the warning about over-straightening."""


@dataclass(frozen=True)
class SlopeParameters:
    """Tuning constants of the slope estimate.

    ``warning_fraction`` was set after the measured alignments of ``docs/explanation/stacks.md``. The others
    were set by hand; no tuning is recorded.

    Parameters
    ----------
    window
        Number of sections over which slopes are fitted.
    min_sections
        With fewer consecutive sections, slope and jitter cannot be separated.
    min_weight
        Weight of a match at a control point above which the point is used.
    outlier_factor
        A section is an outlier if its distance from the lines exceeds the median distance by this factor.
    min_spread_px
        Lower limit of that median distance.
    significance
        Slopes below this multiple of their standard error are not significant.
    warning_fraction
        Kept fraction of the slopes below which a warning is given.
    warning_deviations
        The kept fraction has to be this many standard errors below it. Set by hand; no tuning is recorded.
    """

    window: int = 20
    min_sections: int = 8
    min_weight: float = 0.3
    outlier_factor: float = 6.0
    min_spread_px: float = 0.5
    significance: float = 3.0
    warning_fraction: float = 0.8
    warning_deviations: float = 2.0


PARAMETERS = SlopeParameters()


@dataclass(frozen=True)
class SlopeEstimates:
    """Slopes of the tissue at control points, fitted over windows of sections.

    Parameters
    ----------
    recorded, kept
        ``(N, 2)`` pixels per section, before and after alignment. A row is one control point in one window.
    standard_error
        ``(N,)`` of the recorded slopes, from the scatter of the sections around the line and its correlation from
        section to section: a single jump of the stack, or a random walk, is no slope.
    """

    recorded: FloatArray
    kept: FloatArray
    standard_error: FloatArray

    @property
    def size(self) -> float:
        """Root mean square of the recorded slopes, pixels per section."""
        return float(np.sqrt((self.recorded**2).sum() / max(len(self.recorded), 1)))

    @property
    def error(self) -> float:
        """Root mean square of the standard errors, pixels per section."""
        return float(np.sqrt(2 * (self.standard_error**2).sum() / max(len(self.standard_error), 1)))

    @property
    def kept_fraction(self) -> float:
        """Ratio of kept to recorded slopes by least squares: 1 is ideal, NaN if the slopes are not significant."""
        if self.size <= PARAMETERS.significance * self.error or not self.recorded.any():
            return float("nan")
        return float((self.recorded * self.kept).sum() / (self.recorded**2).sum())

    def warning(self, trend: str) -> str:
        """Return a warning if the stack is clearly over-straightened, else an empty string."""
        if not self.kept_fraction < _warning_limit(self.size, self.error):  # also for NaN
            return ""
        more = "A larger position_weight keeps more." if trend == "keep" else "trend='keep' keeps more."
        return (
            f"{SLOPE_WARNING} {100 * self.kept_fraction:.0f} % of their recorded slope: "
            f"neurites may be over-straightened. {more}"
        )

    def report(self) -> dict[str, float | None]:
        """Return the values for the report; ``kept`` is ``None`` if the slopes are not significant."""
        kept = None if np.isnan(self.kept_fraction) else round(self.kept_fraction, 3)
        return {"kept": kept, "recorded": round(self.size, 3), "error": round(self.error, 3)}


def summarize(report: Mapping[str, float | None]) -> str:
    """Summarize :meth:`SlopeEstimates.report` in one line; empty for an empty report."""
    if not report:
        return ""
    kept, recorded, error = (report.get(name) for name in ("kept", "recorded", "error"))
    if not recorded:
        return "too few consecutive sections to estimate slopes"
    size = f"{recorded:.2f} ± {error or 0.0:.2f} pixels per section"
    if kept is None:
        return f"slopes are not significant ({size})"
    unclear = _warning_limit(recorded, error or 0.0) <= kept < PARAMETERS.warning_fraction
    return f"kept {kept:.2f} of the recorded slope ({size}{'; too uncertain to judge' if unclear else ''})"


def _warning_limit(recorded: float, error: float) -> float:
    """Kept fraction below which a stack is clearly over-straightened."""
    return PARAMETERS.warning_fraction - PARAMETERS.warning_deviations * error / max(recorded, 1e-9)


def estimate_slopes(transforms: Sequence[SectionTransform], matches: Mapping[Pair, FineMatch]) -> SlopeEstimates:
    """Estimate the slopes before and after alignment; empty if there are too few consecutive sections.

    Parameters
    ----------
    transforms
        Canvas to section, as aligned.
    matches
        Matches of the last fine iteration, by section numbers.
    """
    nodes = transforms[0].lattice.points()
    chain = _matched_runs(matches)
    recorded, kept, standard_error = [], [], []
    for run in chain:
        for begin in _windows(len(run)):
            part = run[begin : begin + PARAMETERS.window]
            steps, seen = zip(
                *(_step(transforms, matches[pair], pair) for pair in itertools.pairwise(part)), strict=True
            )
            good = np.all(seen, axis=0)
            if not good.any():
                continue
            left = np.concatenate([np.zeros((1, *nodes.shape)), np.cumsum(steps, axis=0)])[:, good]
            moved = np.stack([_displacement(transforms[z], nodes[good]) for z in part])
            number, path = np.array(part, dtype=np.float64), left + moved
            inlier = _inliers(number, path)
            if inlier.sum() < PARAMETERS.min_sections:
                continue
            z = number[inlier] - number[inlier].mean()
            k, (r, off) = _fit_lines(z, left[inlier])[0], _fit_lines(z, path[inlier])
            recorded.append(r)
            kept.append(k)
            scatter = np.sqrt((off**2).sum(axis=(0, 2)) / (2 * len(z) - 4) / (z @ z))
            standard_error.append(scatter * _inflation(off))
    if not recorded:
        return SlopeEstimates(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
    return SlopeEstimates(np.concatenate(recorded), np.concatenate(kept), np.concatenate(standard_error))


def _matched_runs(matches: Mapping[Pair, FineMatch]) -> list[list[int]]:
    """Return runs of sections in which each section is matched with the next usable one."""
    after: dict[int, int] = {}
    for a, b in matches:
        after[a] = min(b, after.get(a, b))
    runs: list[list[int]] = []
    for a in sorted(after):
        if runs and runs[-1][-1] == a:
            runs[-1].append(after[a])
        else:
            runs.append([a, after[a]])
    return [run for run in runs if len(run) >= PARAMETERS.min_sections]


def _windows(count: int) -> list[int]:
    if count <= PARAMETERS.window:
        return [0]
    return [*range(0, count - PARAMETERS.window, PARAMETERS.window // 2), count - PARAMETERS.window]


def _step(transforms: Sequence[SectionTransform], match: FineMatch, pair: Pair) -> tuple[FloatArray, FloatArray]:
    """Return the lateral step ``(gy, gx, 2)`` of the tissue between two sections and the mask of valid points."""
    a, b = pair
    weight = 0.5 * (match.weight[:, :, 0] + match.weight[:, :, 2])
    flat = weight.reshape(-1, *weight.shape[2:])
    best = flat.argmax(axis=0)
    steps = np.stack([
        match.shift[p, q] - (transforms[b].vectors[q] - transforms[a].vectors[p])
        for p in range(weight.shape[0]) for q in range(weight.shape[1])
    ])  # fmt: skip
    chosen = np.take_along_axis(steps, best[None, None], axis=0)[0]
    return np.moveaxis(chosen, 0, -1), flat.max(axis=0) > PARAMETERS.min_weight


def _fit_lines(z: FloatArray, path: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Fit lines to paths ``(Z, N, 2)`` at centered section numbers; return slopes ``(N, 2)`` and residuals."""
    slope = np.tensordot(z, path, axes=1) / (z @ z)
    return slope, path - path.mean(axis=0) - z[:, None, None] * slope


def _inflation(off: FloatArray) -> FloatArray:
    """Return the factor ``(N,)`` of the standard error of a slope whose residuals ``(Z, N, 2)`` are correlated."""
    power = np.maximum((off**2).sum(axis=(0, 2)), 1e-12)
    correlation = (off[1:] * off[:-1]).sum(axis=(0, 2)) / power
    # the fitted line lowers the correlation of a short window
    correlation = np.clip(correlation + (2 + 4 * correlation) / len(off), 0.0, 0.9)
    return np.asarray(np.sqrt((1 + correlation) / (1 - correlation)))


def _inliers(number: FloatArray, path: FloatArray) -> npt.NDArray[np.bool_]:
    """Mask the inlier sections: not those recorded upside down, rotated or far off."""
    inlier = np.ones(len(number), dtype=bool)
    for _ in range(3):  # the first fits include the outliers
        z = number - number[inlier].mean()
        slope = np.tensordot(z[inlier], path[inlier], axes=1) / (z[inlier] @ z[inlier])
        off = np.sqrt(((path - path[inlier].mean(axis=0) - z[:, None, None] * slope) ** 2).mean(axis=(1, 2)))
        inlier = off <= PARAMETERS.outlier_factor * max(float(np.median(off)), PARAMETERS.min_spread_px)
    return inlier


def _displacement(section_map: SectionTransform, points: FloatArray) -> FloatArray:
    return np.asarray(section_map(points) - points)
