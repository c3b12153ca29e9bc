"""Whether an alignment took the tissue's own course out of a stack, judged without knowing the truth.

Where a section is matched with the next, a neurite is seen to step sideways. What is left of that step after the
alignment is *kept*; with what the alignment moved the two sections apart it is the step as *recorded*. Steps that a
section makes by itself go there and back; the slant of a neurite goes on from section to section. A line fitted through
the steps of many sections therefore tells slants from shaking, and the slant that was kept over the slant that was
recorded is what an alignment made of it: 1 if it is as oblique as it was, less if it was straightened.
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

WINDOW = 20
"""Sections over which slants are fitted."""
LEAST = 8
"""With fewer sections in a row, slants cannot be told from shaking."""
SEEN = 0.3
"""Weight of a match at a control point above which it counts."""
ELSEWHERE = 6.0
"""A section off the lines by so many times what others are is left out of them."""
DISTINCT = 3.0
"""Slants below so many of their standard errors are not told from sections that lie off."""
STRAIGHTENED = 0.8
"""Share of the slants below which an alignment is said to straighten."""


@dataclass(frozen=True)
class SlopeEstimates:
    """Slants of the tissue on the lattice of control points, over windows of sections.

    Parameters
    ----------
    recorded, kept
        ``(N, 2)`` pixels a section, before and after the alignment; those of one place and window in the same row.
    doubt
        ``(N,)`` standard error of the recorded ones, from how the sections scatter about the line.
    """

    recorded: FloatArray
    kept: FloatArray
    doubt: FloatArray

    @property
    def size(self) -> float:
        """Root mean square of the recorded slants, pixels a section."""
        return float(np.sqrt((self.recorded**2).sum() / max(len(self.recorded), 1)))

    @property
    def error(self) -> float:
        """The same of their standard errors."""
        return float(np.sqrt(2 * (self.doubt**2).sum() / max(len(self.doubt), 1)))

    @property
    def share(self) -> float:
        """What was kept over what was recorded, by least squares: 1 is right. NaN where no slant can be told."""
        if self.size <= DISTINCT * self.error or not self.recorded.any():
            return float("nan")
        return float((self.recorded * self.kept).sum() / (self.recorded**2).sum())

    def warning(self, trend: str) -> str:
        """What a person should know who aligned with a course; empty if nothing speaks for straightening."""
        if not self.share < STRAIGHTENED:  # not said when it is not known, either
            return ""
        more = "A larger position_weight keeps more." if trend == "keep" else "trend='keep' keeps more."
        return (
            f"What runs obliquely keeps only {100 * self.share:.0f} % of the slant that the sections show: "
            f"neurites may have been straightened. {more}"
        )

    def report(self) -> dict[str, float | None]:
        """Figures for a report; ``None`` where nothing can be said."""
        share = None if np.isnan(self.share) else round(self.share, 3)
        return {"kept": share, "recorded": round(self.size, 3), "error": round(self.error, 3)}


def summarize(report: Mapping[str, float | None]) -> str:
    """The figures of :meth:`SlopeEstimates.report` in a line; empty where there are none."""
    if not report:
        return ""
    kept, recorded, error = (report.get(name) for name in ("kept", "recorded", "error"))
    if not recorded:
        return "too few sections in a row to tell slants"
    size = f"{recorded:.2f} ± {error:.2f} pixels a section"
    if kept is None:
        return f"slants cannot be told from sections that lie off ({size})"
    return f"kept {kept:.2f} of the slant recorded ({size})"


def estimate_slopes(transforms: Sequence[SectionTransform], matches: Mapping[Pair, FineMatch]) -> SlopeEstimates:
    """Slants before and after an alignment; without any if there are too few sections in a row.

    Parameters
    ----------
    maps
        Canvas to section, as aligned.
    matches
        The last round of the fine pass, by section numbers.
    """
    nodes = transforms[0].lattice.points()
    chain = _chain(matches)
    recorded, kept, doubt = [], [], []
    for run in chain:
        for begin in _windows(len(run)):
            part = run[begin : begin + WINDOW]
            steps, seen = zip(
                *(_step(transforms, matches[pair], pair) for pair in itertools.pairwise(part)), strict=True
            )
            good = np.all(seen, axis=0)
            if not good.any():
                continue
            left = np.concatenate([np.zeros((1, *nodes.shape)), np.cumsum(steps, axis=0)])[:, good]
            laid = np.stack([_moved(transforms[z], nodes[good]) for z in part])
            number, path = np.array(part, dtype=np.float64), left + laid
            told = _lying_alike(number, path)
            if told.sum() < LEAST:
                continue
            z = number[told] - number[told].mean()
            k, (r, off) = _line(z, left[told])[0], _line(z, path[told])
            recorded.append(r)
            kept.append(k)
            doubt.append(np.sqrt((off**2).sum(axis=(0, 2)) / (2 * len(z) - 4) / (z @ z)))
    if not recorded:
        return SlopeEstimates(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
    return SlopeEstimates(np.concatenate(recorded), np.concatenate(kept), np.concatenate(doubt))


def _chain(matches: Mapping[Pair, FineMatch]) -> list[list[int]]:
    """Runs of sections each of which was matched with the next usable one."""
    after: dict[int, int] = {}
    for a, b in matches:
        after[a] = min(b, after.get(a, b))
    runs: list[list[int]] = []
    for a in sorted(after):
        if runs and runs[-1][-1] == a:
            runs[-1].append(after[a])
        else:
            runs.append([a, after[a]])
    return [run for run in runs if len(run) >= LEAST]


def _windows(count: int) -> list[int]:
    if count <= WINDOW:
        return [0]
    return [*range(0, count - WINDOW, WINDOW // 2), count - WINDOW]


def _step(transforms: Sequence[SectionTransform], match: FineMatch, pair: Pair) -> tuple[FloatArray, FloatArray]:
    """How far a neurite steps ``(gy, gx, 2)`` on the canvas from one section to the next, and where that is seen."""
    a, b = pair
    weight = 0.5 * (match.weight[:, :, 0] + match.weight[:, :, 2])
    flat = weight.reshape(-1, *weight.shape[2:])
    best = flat.argmax(axis=0)
    steps = np.stack([
        match.shift[p, q] - (transforms[b].vectors[q] - transforms[a].vectors[p])
        for p in range(weight.shape[0]) for q in range(weight.shape[1])
    ])  # fmt: skip
    chosen = np.take_along_axis(steps, best[None, None], axis=0)[0]
    return np.moveaxis(chosen, 0, -1), flat.max(axis=0) > SEEN


def _line(z: FloatArray, path: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Slope ``(N, 2)`` of the lines through paths ``(Z, N, 2)`` at the centered numbers ``z``, and what is off them."""
    slope = np.tensordot(z, path, axes=1) / (z @ z)
    return slope, path - path.mean(axis=0) - z[:, None, None] * slope


def _lying_alike(number: FloatArray, path: FloatArray) -> npt.NDArray[np.bool_]:
    """Which sections tell slants: not those that lay upside down, turned round or far off when they were recorded."""
    alike = np.ones(len(number), dtype=bool)
    for _ in range(3):  # lines are first bent by what they are to tell
        z = number - number[alike].mean()
        slope = np.tensordot(z[alike], path[alike], axes=1) / (z[alike] @ z[alike])
        off = np.sqrt(((path - path[alike].mean(axis=0) - z[:, None, None] * slope) ** 2).mean(axis=(1, 2)))
        alike = off <= ELSEWHERE * max(float(np.median(off)), 0.5)
    return alike


def _moved(section_map: SectionTransform, points: FloatArray) -> FloatArray:
    return np.asarray(section_map(points) - points)
