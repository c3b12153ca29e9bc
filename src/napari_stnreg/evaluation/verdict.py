"""The verdict on a registration: good, doubtful or failed, with a confidence and reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from napari_stnreg.evaluation.chance import Chance
from napari_stnreg.evaluation.evidence import Evidence

VerdictName = Literal["good", "doubtful", "failed"]
Suggestion = Literal["", "mutual information", "search", "landmarks"]


@dataclass(frozen=True)
class VerdictParameters:
    """Logistic model of the evidence, its thresholds, and limits that hold regardless of the model.

    The coefficients were fitted by ``python -m benchmark.verdict --fit`` on the calibration subjects; the ROC of
    subjects that were kept out is in the documentation of the verdict.

    Parameters
    ----------
    intercept, coefficients
        Of the logistic model; the features are those of :func:`features`.
    good, failed
        Confidence from which a result is good, and below which it failed.
    max_scale
        Linear scales beyond this factor, or its inverse, are doubtful.
    max_shear
        The same for the ratio of the linear scales.
    min_overlap
        Results whose overlap is less are doubtful.
    max_landmark_error, doubtful_landmark_error
        Median landmark error, as a fraction of the diagonal, above which a result failed or is doubtful.
    max_folded
        Folded fraction above which a result is doubtful.
    mirror_margin, turn_margin
        Standard deviations by which a mirrored or turned copy may fit better before the result is doubtful.
    oriented_mirror_margin
        The same for a mirrored copy where the files of both images state their orientation. Heads are nearly symmetric:
        the copy fits -0.3 to 0.4 better in right and -0.1 to 0.3 in mirrored pairs of six subjects, so that only the
        files distinguish left from right.
    chance
        Scores against chance below this are chance.
    min_match_fraction
        Fraction of matching edges below which the edges do not match.
    near_identity
        Correlation of the result from which it is doubtful at worst, if nothing but the model speaks against it: thin
        or smooth images have too few edges on the coarse lattice.
    max_log_jacobian
        Spread of the logarithm of the Jacobian determinant above which the deformation is implausible.
    """

    intercept: float = -7.75
    coefficients: Mapping[str, float] = field(
        default_factory=lambda: {
            "linear_z": 0.26,
            "linear_edges_z": 0.54,
            "after_z": 0.23,
            "linear_match_fraction": 3.69,
            "match_fraction": 2.85,
            "deformation": -0.63,
            "alternative": -0.28,
            "mirrored": -0.4,
            "log_scale": -2.39,
            "log_shear": -4.03,
        }
    )
    good: float = 0.7
    failed: float = 0.1
    max_scale: float = 4.0
    max_shear: float = 2.0
    min_overlap: float = 0.25
    max_landmark_error: float = 0.05
    doubtful_landmark_error: float = 0.02
    max_folded: float = 0.05
    mirror_margin: float = -0.2
    oriented_mirror_margin: float = 1.0
    turn_margin: float = 0.0
    chance: float = 4.0
    min_match_fraction: float = 0.35
    near_identity: float = 0.95
    max_log_jacobian: float = 0.7


PARAMETERS = VerdictParameters()


@dataclass(frozen=True)
class Verdict:
    """Whether a registration can be trusted.

    Parameters
    ----------
    verdict
        ``"good"``, ``"doubtful"`` or ``"failed"``. A result that cannot be judged is doubtful.
    confidence
        Estimated probability that the alignment is right, 0 to 1.
    reasons
        Short sentences.
    suggestion
        What to try next: ``"mutual information"``, ``"search"`` (rotations and mirror images), ``"landmarks"``, or
        empty.
    """

    verdict: VerdictName
    confidence: float
    reasons: tuple[str, ...]
    suggestion: Suggestion = ""

    def __str__(self) -> str:
        return f"{self.verdict} (confidence {self.confidence:.2f}): {' '.join(self.reasons)}"


class Judged:
    """A result with a verdict, whose parts are attributes of the result as well."""

    judgment: Verdict

    @property
    def verdict(self) -> VerdictName:
        """``"good"``, ``"doubtful"`` or ``"failed"``; a result that cannot be judged is doubtful."""
        return self.judgment.verdict

    @property
    def confidence(self) -> float:
        """Estimated probability that the alignment is right, 0 to 1."""
        return self.judgment.confidence

    @property
    def reasons(self) -> tuple[str, ...]:
        """Reasons of the verdict as short sentences."""
        return self.judgment.reasons


UNKNOWN = Verdict("doubtful", 0.5, ("The result was not judged.",))


def features(evidence: Evidence) -> dict[str, float]:
    """Return the features of the logistic model, each bounded; their order is that of the documentation."""

    def z(chance: Chance | None, name: str = "z") -> float:
        return 0.0 if chance is None else math.log1p(min(max(float(getattr(chance, name)), 0.0), 50.0))

    scale = max(abs(math.log(evidence.min_scale)), abs(math.log(max(evidence.max_scale, 1e-6))))
    return {
        "linear_z": z(evidence.linear),
        "linear_edges_z": z(evidence.linear, "edges_z"),
        "after_z": z(evidence.after),
        "linear_match_fraction": evidence.linear_match_fraction,
        "match_fraction": evidence.match_fraction,
        "deformation": min(evidence.deformation, 0.15),
        "alternative": min(max(evidence.alternative, -4.0), 4.0),
        "mirrored": min(max(evidence.mirrored, -4.0), 4.0),
        "log_scale": min(scale, 2.0),
        "log_shear": min(math.log(max(evidence.shear, 1.0)), 2.0),
    }


def features_of_dict(evidence: Mapping[str, Any]) -> dict[str, float]:
    """Return the features of an evidence's plain values, as a report holds them."""
    chances = {
        name: None if evidence[name] is None else Chance(**evidence[name]) for name in ("after", "linear", "before")
    }
    return features(Evidence(**{**evidence, **chances}))


def judge(
    evidence: Evidence,
    *,
    similarity: str = "",
    mirror: bool = False,
    oriented: bool = False,
    stop_reason: str = "finished",
    correlation: float | None = None,
    parameters: VerdictParameters = PARAMETERS,
) -> Verdict:
    """Judge a registration from its evidence.

    Parameters
    ----------
    evidence
        See :func:`~napari_stnreg.evaluation.evidence.collect_evidence`.
    similarity
        The similarity that was optimized; one that is suggested is another.
    mirror
        Whether mirror images were allowed.
    oriented
        Whether the files of both images state an anatomical orientation.
    stop_reason
        Why the optimization ended; one that diverged is at most doubtful.
    correlation
        Correlation (NCC) of the warped and the fixed image at full resolution, where it is known.
    """
    p = parameters
    if evidence.after is None or evidence.linear is None:
        if evidence.overlap < 0.05:
            return Verdict("failed", 0.0, ("The images hardly overlap after the registration.",), "search")
        return Verdict("doubtful", 0.5, ("The images share too few voxels to judge the result.",), "landmarks")
    values = features(evidence)
    logit = p.intercept + sum(weight * values[name] for name, weight in p.coefficients.items())
    confidence = 1 / (1 + math.exp(-min(max(logit, -30.0), 30.0)))
    if oriented:
        p = replace(p, mirror_margin=p.oriented_mirror_margin)
    reasons, limits = _limits(evidence, mirror, stop_reason, p)
    verdict: VerdictName = "good" if confidence >= p.good else "failed" if confidence < p.failed else "doubtful"
    if verdict == "failed" and not limits and correlation is not None and correlation > p.near_identity:
        verdict, confidence = "doubtful", p.failed
    order: tuple[VerdictName, ...] = ("failed", "doubtful", "good")
    verdict = min([verdict, *limits], key=order.index)
    if limits:
        ceiling = p.failed if verdict == "failed" else p.good
        confidence = min(confidence, ceiling - 0.01)
    against, support = _observations(evidence, p)
    if verdict == "good":
        if evidence.mirrored > parameters.mirror_margin:
            support.append("A mirror image fits as well. Left and right are those of the files.")
        return Verdict(verdict, round(confidence, 3), tuple(support))
    reasons = list(dict.fromkeys([*reasons, *against])) or ["The evidence for the alignment is weak."]
    return Verdict(verdict, round(confidence, 3), tuple(reasons), _suggest(evidence, similarity, mirror, p))


def _limits(
    evidence: Evidence, mirror: bool, stop_reason: str, p: VerdictParameters
) -> tuple[list[str], list[VerdictName]]:
    """Return findings that limit the verdict regardless of the model, each with the best verdict it allows."""
    found: list[tuple[str, VerdictName]] = []
    if stop_reason == "diverged":
        found.append(("The loss became non-finite.", "doubtful"))
    if evidence.landmark_error is not None and evidence.landmark_error > p.doubtful_landmark_error:
        worst: VerdictName = "failed" if evidence.landmark_error > p.max_landmark_error else "doubtful"
        found.append((f"The landmarks are {100 * evidence.landmark_error:.1f} % of the diagonal apart.", worst))
    if evidence.flipped and not mirror:
        found.append(("The transform mirrors the image, which was not allowed.", "doubtful"))
    if evidence.max_scale > p.max_scale or evidence.min_scale < 1 / p.max_scale:
        found.append((f"The scale is {evidence.min_scale:.2g} to {evidence.max_scale:.2g}.", "doubtful"))
    if evidence.shear > p.max_shear:
        found.append((f"The linear scales differ by a factor of {evidence.shear:.1f}.", "doubtful"))
    if evidence.overlap < p.min_overlap:
        found.append((f"The images overlap by {100 * evidence.overlap:.0f} % only.", "doubtful"))
    if evidence.folded > p.max_folded:
        found.append((f"{100 * evidence.folded:.0f} % of the volume is folded.", "doubtful"))
    if evidence.mirrored > p.mirror_margin:
        found.append(("A mirror image fits as well or better.", "doubtful"))
    if evidence.alternative > p.turn_margin:
        found.append(("Another rotation fits as well or better.", "doubtful"))
    return [sentence for sentence, _ in found], [limit for _, limit in found]


def _observations(evidence: Evidence, p: VerdictParameters) -> tuple[list[str], list[str]]:
    """Return sentences against and for the alignment."""
    assert evidence.after is not None
    assert evidence.linear is not None
    against, support = [], []
    linear, after = evidence.linear.z, evidence.after.z
    if linear < p.chance:
        against.append("Without the deformation, the images are as similar as at wrong places.")
    else:
        support.append(f"The similarity is {after:z.0f} standard deviations above chance.")
    if evidence.linear_match_fraction < p.min_match_fraction:
        against.append(
            f"Only {100 * evidence.linear_match_fraction:.0f} % of the edges match where the linear part puts them."
        )
    else:
        support.append(f"{100 * evidence.match_fraction:.0f} % of the edges match in place.")
    if evidence.log_jacobian_spread > p.max_log_jacobian:
        against.append("The deformation shrinks and stretches the volume to an implausible degree.")
    if evidence.before is not None and after < 0.9 * evidence.before.z:
        against.append("The images were more similar before the registration.")
    return against, support


def _suggest(evidence: Evidence, similarity: str, mirror: bool, p: VerdictParameters) -> Suggestion:
    """Return what to try next."""
    better = evidence.mirrored > p.mirror_margin or evidence.alternative > p.turn_margin
    aligned = evidence.linear is not None and evidence.linear.z >= p.chance
    if better and not mirror:
        return "search"
    if aligned and similarity not in ("mi", "auto", ""):
        return "mutual information"
    return "landmarks" if mirror else "search"
