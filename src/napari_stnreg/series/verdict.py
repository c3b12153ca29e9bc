"""The verdict on a series, from some of its frames.

The correlations of the frames are compared with each other to find single frames that failed. That does not show when
all frames failed in the same way, so a few are judged like a pair, against chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from napari_stnreg.evaluation.verdict import UNKNOWN, Verdict, VerdictName
from napari_stnreg.series.motion import FrameFit


@dataclass(frozen=True)
class SeriesVerdictParameters:
    """How a series is judged. Set by hand, checked on generated movies and on frames of unrelated images.

    Parameters
    ----------
    judged_frames
        Number of frames that are judged like pairs.
    max_failed
        Fraction of frames that may fail before the whole series has.
    """

    judged_frames: int = 5
    max_failed: float = 0.5


PARAMETERS = SeriesVerdictParameters()


def frames_to_judge(fits: Sequence[FrameFit], failed: Mapping[int, str], reference: int | None) -> list[int]:
    """Return the frames to judge: spread over those that did not fail by comparison, the least similar among them."""
    sound = [fit for fit in fits if fit.frame not in failed and fit.frame != reference]
    if not sound:
        return []
    count = min(len(sound), PARAMETERS.judged_frames)
    chosen = {sound[i].frame for i in np.linspace(0, len(sound) - 1, count).round().astype(int)}
    chosen.add(min(sound, key=lambda fit: fit.ncc).frame)
    return sorted(chosen)


def series_verdict(
    judged: Mapping[int, Verdict], failed: Mapping[int, str], count: int, reference: int | None
) -> Verdict:
    """Combine the verdicts of the judged frames to one on the series.

    Parameters
    ----------
    judged
        Verdicts by frame.
    failed
        Frames that failed by comparison with the others.
    count
        Number of registered frames.
    reference
        The frame that is the reference itself, which is not counted.
    """
    others = count - (reference is not None)
    if others < 1:
        return Verdict("good", 1.0, ("The series has no frame but the reference.",))
    failed_fraction = len(failed) / others
    if not judged and not failed:
        return UNKNOWN
    by_name: dict[VerdictName, list[int]] = {"good": [], "doubtful": [], "failed": []}
    for frame, verdict in judged.items():
        by_name[verdict.verdict].append(frame)
    confidence = (1 - failed_fraction) * (
        float(np.median([one.confidence for one in judged.values()])) if judged else 0.0
    )
    reasons: list[str] = []
    for name in ("failed", "doubtful"):
        frames = by_name[name]
        if frames:
            verb = "failed" if name == "failed" else "is doubtful" if len(frames) == 1 else "are doubtful"
            because = judged[frames[0]].reasons[0]
            reasons.append(f"Of {len(judged)} frames that were judged, {len(frames)} {verb}: {because}")
    if failed:
        named = ", ".join(str(frame) for frame in sorted(failed)[:5]) + (", ..." if len(failed) > 5 else "")
        reasons.append(f"{len(failed)} of {others} frames failed: {named}.")
    if failed_fraction > PARAMETERS.max_failed or len(by_name["failed"]) > PARAMETERS.max_failed * len(judged):
        return Verdict("failed", min(round(confidence, 3), 0.09), tuple(reasons), "search")
    if by_name["failed"] or failed or 2 * len(by_name["doubtful"]) > len(judged):
        return Verdict("doubtful", min(round(confidence, 3), 0.69), tuple(reasons))
    support = f"{len(by_name['good'])} of {len(judged)} frames that were judged are good."
    return Verdict("good", round(confidence, 3), (support, *reasons))
