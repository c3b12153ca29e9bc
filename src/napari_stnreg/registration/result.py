"""The result of a registration: the transform, the warped image, its scores and a JSON-ready report."""

from __future__ import annotations

import base64
import html
import math
import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import imageio.v3 as imageio
import numpy as np
import numpy.typing as npt
import torch

from napari_stnreg.core.device import free_memory, single_thread
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.labels import choose_interpolation
from napari_stnreg.core.progress import StopRequested, interruptible
from napari_stnreg.core.provenance import package_versions
from napari_stnreg.evaluation.evidence import collect_evidence
from napari_stnreg.evaluation.report import Scorecard
from napari_stnreg.evaluation.scorecard import (
    QUICKLY_SCORED_VOXELS,
    SCORED_VOXELS,
    evaluate,
    image_scores,
    landmark_scores,
    score_stride,
)
from napari_stnreg.evaluation.verdict import UNKNOWN, Judged, Verdict, judge
from napari_stnreg.io.conversion import ImageLike, as_image
from napari_stnreg.io.transform_io import save
from napari_stnreg.registration.memory import require_memory
from napari_stnreg.registration.settings import Extent, RegistrationSettings
from napari_stnreg.registration.similarity_choice import SimilarityChoice
from napari_stnreg.resampling.warp import Interpolation, warp
from napari_stnreg.transforms import Transform, invert
from napari_stnreg.visualization.slices import registration_pictures

Value = TypeVar("Value")

StopReason = Literal["finished", "stopped", "diverged"]
"""Why a registration ended: all steps done, stopped by the caller, or the loss became non-finite."""

QUICKLY_CHECKED_VOXELS = 2**19
"""Voxels at which the folding of a stopped run is measured, so that it takes less than 0.1 s of CPU time."""

QUICK_SINGLE_THREAD_VOXELS = 2**21
"""Voxels up to which a stopped run is finished by one thread: 0.4 s of CPU time at most, also on a busy machine."""

INVERSE_POINTS = 4096
"""Voxels of the moving image at which the round-trip error of the inverse is measured."""

LossHistory = list[tuple[str, int, int, float]]
"""Stage, level, step and loss of every step."""


@dataclass(frozen=True)
class Progress:
    """One step of a running registration.

    Parameters
    ----------
    stage
        The transform family that is being fitted, or ``"start"`` during the initialization.
    level, levels
        Index of the pyramid level, from 0 (coarsest), and the number of levels.
    step, total
        Steps done and steps planned, over all stages and levels.
    loss
        The loss at this step; lower is better. Comparable within one stage and level only.
    preview
        Return a snapshot of the transform so far. Call it in the thread that runs the registration.
    message
        Short text for a status bar, such as ``"affine, level 2 of 3"``.
    """

    stage: str
    level: int
    levels: int
    step: int
    total: int
    loss: float
    preview: Callable[[], Transform]
    message: str = ""

    @property
    def fraction(self) -> float:
        """Fraction of the planned steps that is done, 0 to 1."""
        return min(self.step / max(self.total, 1), 1.0)


@dataclass(repr=False)
class Result(Judged):
    """The result of a registration.

    Parameters
    ----------
    transform
        Maps points of the fixed world to points of the moving world, in the fixed image's unit.
    grid
        The grid of :attr:`warped`.
    warped
        The moving image sampled once at ``transform(grid)``, with its own dtype and channels.
    scores
        ``{"before": {...}, "after": {...}}``: NCC, local NCC, mutual information, MSE inside both masks, and landmark
        errors.
    folding_fraction
        Fraction of the fixed grid's voxels whose Jacobian determinant is not positive.
    losses
        ``(stage, level, step, loss)`` of every step.
    stop_reason
        Why the optimization ended.
    seconds
        Wall time of the optimization, without warping and scoring.
    settings, versions, warnings
        The settings of the run; the versions of this package, torch and numpy; warnings as sentences.
    inverse
        Round trip through the inverse transform: ``method``, ``mean_error``, ``max_error`` (world units),
        ``max_voxels`` and ``unsolved_fraction``, see :class:`~napari_stnreg.transforms.Inversion`.
    judgment
        Whether the result can be trusted, see :class:`~napari_stnreg.evaluation.verdict.Verdict`; :attr:`verdict`,
        :attr:`confidence` and :attr:`reasons` are its parts.
    evidence
        What the judgment is based on, see :class:`~napari_stnreg.evaluation.evidence.Evidence`.
    similarity_choice
        What the similarity ``"auto"`` chose and why, or ``None`` if it was named.
    score_stride
        The scores compare every n-th voxel along each axis. It is 1 except in large images and in runs that were
        stopped, which are scored quickly.
    fixed, moving, landmarks
        The input of :func:`~napari_stnreg.register`, which :meth:`warp` and :meth:`scorecard` use; ``None`` for results
        of ``register_steps``.
    uncertainty
        Standard deviation of the displacement at each voxel of the fixed image in its unit, as a probabilistic model
        predicts it; ``None`` for other models and fits.
    """

    transform: Transform
    grid: Grid
    warped: Image
    scores: dict[str, dict[str, float]]
    folding_fraction: float
    losses: LossHistory
    stop_reason: StopReason
    seconds: float
    settings: RegistrationSettings
    versions: dict[str, str]
    warnings: list[str] = field(default_factory=list)
    inverse: dict[str, Any] = field(default_factory=dict)
    judgment: Verdict = UNKNOWN
    evidence: dict[str, Any] = field(default_factory=dict)
    similarity_choice: SimilarityChoice | None = None
    score_stride: int = 1
    fixed: Image | None = None
    moving: Image | None = None
    landmarks: tuple[npt.ArrayLike | None, npt.ArrayLike | None] = (None, None)
    uncertainty: Image | None = None

    def warp(
        self,
        image: ImageLike,
        interpolation: Interpolation | None = None,
        fill: float | Sequence[float] | None = 0,
        *,
        spacing: float | Sequence[float] | None = None,
        unit: str | None = None,
    ) -> Image:
        """Warp another image of the moving side, such as its labels or a second channel, onto the same grid.

        Parameters
        ----------
        image
            See :func:`~napari_stnreg.as_image`. An array without a position of its own that has the moving image's
            shape is on the moving image's voxels.
        interpolation
            ``"linear"``, ``"cubic"`` or ``"nearest"``; by default nearest for labels, see :func:`~napari_stnreg.warp`.
        fill
            Value outside the image, see :func:`~napari_stnreg.warp`.
        spacing, unit
            Voxel size and unit of ``image``.
        """
        image = as_image(image, spacing=spacing, unit=unit, like=self.moving)
        return warp(image, self.transform, self.grid, interpolation, fill)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Save the transform, in ``.safetensors`` together with the report; see :func:`~napari_stnreg.save`."""
        return save(self, path)

    def scorecard(
        self,
        *,
        fixed_labels: ImageLike | None = None,
        moving_labels: ImageLike | None = None,
        fixed_landmarks: npt.ArrayLike | None = None,
        moving_landmarks: npt.ArrayLike | None = None,
        reverse: Transform | None = None,
    ) -> Scorecard:
        """Score images, labels, landmarks and deformation before and after; see :func:`~napari_stnreg.evaluate`.

        Parameters
        ----------
        fixed_labels, moving_labels
            Label images of both sides.
        fixed_landmarks, moving_landmarks
            World points ``(N, D)``; by default those that the registration used.
        reverse
            The transform of an independent registration in the other direction, for the inverse consistency.

        Raises
        ------
        InputError
            If the result does not hold its images; call :func:`~napari_stnreg.evaluate` with them instead.
        """
        if self.fixed is None or self.moving is None:
            raise InputError("This result does not hold its images. Call evaluate(fixed, moving, result) instead.")
        return evaluate(
            self.fixed,
            self.moving,
            self.transform,
            fixed_labels=fixed_labels,
            moving_labels=moving_labels,
            fixed_landmarks=self.landmarks[0] if fixed_landmarks is None else fixed_landmarks,
            moving_landmarks=self.landmarks[1] if moving_landmarks is None else moving_landmarks,
            reverse=reverse,
            fixed_channel=self.settings.fixed_channel,
            moving_channel=self.settings.moving_channel,
        )

    def __repr__(self) -> str:
        lines = [
            f"<Result: {self.settings.family}, {self.grid.ndim}D, {self.stop_reason} after {self.seconds:.1f} s>",
            f"  {self.judgment}",
            *([f"  similarity: {self.similarity_choice}"] if self.similarity_choice else []),
            *(f"  {name}: {before} -> {after}" for name, before, after in self._score_rows()),
            *([f"  scores: from 1 of {self.score_stride**self.grid.ndim} voxels"] if self.score_stride > 1 else []),
            f"  folded voxels: {100 * self.folding_fraction:.2g} %",
            *([f"  inverse: round-trip error {self.inverse['max_voxels']:.2g} voxels"] if self.inverse else []),
            *(f"  warning: {text}" for text in self.warnings),
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return a small table with the overlay of both images, for notebooks."""
        rows = "".join(
            f"<tr><td>{name}</td><td>{before}</td><td>{after}</td></tr>" for name, before, after in self._score_rows()
        )
        notes = "".join(f"<p>{html.escape(text)}</p>" for text in self.warnings)
        head = f"{html.escape(self.settings.family)}, {self.stop_reason} after {self.seconds:.1f} s"
        pictures = ""
        if self.fixed is not None and self.moving is not None:
            channels = {name: getattr(self.settings, name) for name in ("fixed_channel", "moving_channel")}
            drawn = registration_pictures(self.fixed, self.moving, self.transform, max_side=160, **channels)
            pictures = "".join(f"<td>{_png_tag(drawn[name], name)}</td>" for name in ("before", "after"))
            pictures = f"<table><tr>{pictures}</tr></table>"
        return (
            f"<div><b>{head}</b>{_verdict_html(self.judgment)}{pictures}<table><tr><th></th><th>before</th><th>after</th></tr>{rows}</table>"
            f"<p>Folded voxels: {100 * self.folding_fraction:.2g} %</p>{notes}</div>"
        )

    def _score_rows(self) -> list[tuple[str, str, str]]:
        before, after = self.scores["before"], self.scores["after"]
        shown = {"ncc": "NCC", "local_ncc": "local NCC", "landmark_median": "landmark error, median"}
        return [(t, f"{before.get(k, math.nan):.4g}", f"{after[k]:.4g}") for k, t in shown.items() if k in after]

    def report(self) -> dict[str, Any]:
        """Return a JSON-ready summary: verdict, scores, seconds, stop reason, settings, versions, warnings."""
        return {
            "verdict": self.verdict,
            "confidence": self.confidence,
            "reasons": list(self.reasons),
            "evidence": self.evidence,
            "similarity_choice": None if self.similarity_choice is None else asdict(self.similarity_choice),
            "scores": self.scores,
            "score_stride": self.score_stride,
            "folding_fraction": self.folding_fraction,
            "inverse": self.inverse,
            "stop_reason": self.stop_reason,
            "seconds": round(self.seconds, 3),
            "settings": self.settings.model_dump(),
            "versions": self.versions,
            "warnings": self.warnings,
        }


def _verdict_html(judgment: Verdict) -> str:
    color = {"good": "#1a7f37", "doubtful": "#9a6700", "failed": "#cf222e"}[judgment.verdict]
    return f"<p style='color:{color}'>{html.escape(str(judgment))}</p>"


def _png_tag(picture: npt.NDArray[np.uint8], name: str) -> str:
    data = base64.b64encode(imageio.imwrite("<bytes>", picture, extension=".png")).decode()
    return f"<img alt='{name}' src='data:image/png;base64,{data}'>"


def _folding_warning(fraction: float, settings: RegistrationSettings, *, has_landmarks: bool) -> str:
    """Return the warning about folding, with advice that the settings have not followed yet."""
    amount = f"{100 * fraction:.2f} %" if fraction >= 1e-4 else "Less than 0.01 %"
    advice = ["increase the smoothness"]
    if has_landmarks:
        advice.append("lower the landmark weight")
    if "diffeomorphic" not in settings.stages:
        advice.append("use the diffeomorphic family")
    text = f"{', '.join(advice[:-1])} or {advice[-1]}" if len(advice) > 1 else advice[0]
    return f"{amount} of the voxels are folded. {text[:1].upper()}{text[1:]}."


def result_steps(
    fixed: Image,
    moving: Image,
    settings: RegistrationSettings,
    transform: Transform,
    losses: LossHistory,
    stop_reason: StopReason,
    seconds: float,
    warnings: list[str],
    landmarks: tuple[npt.ArrayLike | None, npt.ArrayLike | None],
    device: torch.device | str = "cpu",
    similarity_choice: SimilarityChoice | None = None,
    *,
    judged: bool = True,
) -> Generator[str, str | None, Result]:
    """Warp the moving image and score the registration; a generator that yields what is done next.

    A run that was stopped is finished quickly, also if ``"stop"`` arrives here: folding and scores are measured on a
    coarser lattice. The transform, the warped image and the verdict are the same.

    Parameters
    ----------
    fixed, moving, settings, transform, losses, stop_reason, seconds
        See :class:`Result`.
    warnings
        Warnings so far; others may be added.
    landmarks
        Fixed and moving landmarks, or ``None``.
    device
        Device on which images are warped.
    similarity_choice
        What the similarity ``"auto"`` chose.
    judged
        Whether to collect evidence and judge the alignment.
    """
    quick = stop_reason == "stopped"

    def finish(operation: Callable[[], Value]) -> Value:
        nonlocal quick
        small = fixed.grid.size <= QUICK_SINGLE_THREAD_VOXELS
        try:
            with interruptible(), single_thread(quick and small):
                return operation()
        except StopRequested:  # a stop does not discard the fit; it is passed on once, a cancellation again
            quick = True
            with interruptible(), single_thread(small):
                return operation()

    def thinned(voxels: int) -> Grid:
        return fixed.grid.resized([-(-n // score_stride(fixed.grid, voxels)) for n in fixed.grid.shape])

    quick |= (yield "warping") == "stop"
    grid = output_grid(fixed.grid, moving, transform, settings.extent)
    if grid is not fixed.grid:
        voxel = np.asarray(moving.data).dtype.itemsize * moving.channels + 2
        require_memory(grid.size * voxel, free_memory("cpu"), f"Warping '{moving.name}' onto a grid of {grid.shape}")
    on_device = transform.to(device)
    interpolation, note = choose_interpolation(moving)
    warnings += [note] if note else []
    warped = finish(lambda: warp(moving, on_device, grid, interpolation, settings.fill, device=device))
    warped = warped.replace(name=f"{moving.name} -> {fixed.name} ({settings.family})")
    quick |= (yield "measuring the deformation") == "stop"
    folded = finish(lambda: on_device.folding_fraction(thinned(QUICKLY_CHECKED_VOXELS) if quick else fixed.grid))
    if folded > 0:
        warnings.append(_folding_warning(folded, settings, has_landmarks=landmarks[0] is not None))
    inverse = finish(lambda: invert(on_device, moving.grid, max_points=INVERSE_POINTS))
    if inverse.warning and not folded:
        warnings.append(inverse.warning)
    quick |= (yield "scoring") == "stop"

    def stride() -> int:
        return score_stride(fixed.grid, QUICKLY_SCORED_VOXELS if quick else SCORED_VOXELS)

    scores = finish(lambda: _scores(fixed, moving, settings, on_device, landmarks, device, stride()))
    judgment, seen = UNKNOWN, {}
    if judged:
        yield "judging"
        with single_thread():  # the lattices are small
            evidence = collect_evidence(
                fixed, moving, transform, fixed_channel=settings.fixed_channel, moving_channel=settings.moving_channel,
                landmark_error=scores["after"].get("landmark_median"),
            )  # fmt: skip
        used = settings.similarity if similarity_choice is None else similarity_choice.similarity
        judgment = judge(
            evidence, similarity=used, mirror=settings.mirror, oriented=fixed.is_oriented and moving.is_oriented,
            stop_reason=stop_reason, correlation=scores["after"].get("ncc"),
        )  # fmt: skip
        seen = evidence.to_dict()
    if judgment.verdict == "failed":
        warnings.append(f"The registration failed. {judgment.reasons[0]}")
    elif judgment.verdict == "doubtful" and judgment.suggestion == "search":
        warnings.append(f"The result is doubtful. {judgment.reasons[0]}")
    return Result(
        transform,
        grid,
        warped,
        scores,
        folded,
        losses,
        stop_reason,
        seconds,
        settings,
        package_versions(),
        list(dict.fromkeys(warnings)),
        inverse.to_dict(),
        judgment,
        seen,
        similarity_choice,
        stride(),
    )


def output_grid(fixed: Grid, moving: Image, transform: Transform, extent: Extent) -> Grid:
    """Return the grid of the warped image: the fixed grid, or its lattice over the moving image or over both."""
    if extent == "fixed":
        return fixed
    corners = moving.with_unit(fixed.unit).grid
    edge = corners.resized([min(n, 9) for n in corners.shape]).points().reshape(-1, fixed.ndim)
    mapped = transform.inverse().map_points(np.concatenate([edge, corners.corners()]))
    if extent == "union":
        return fixed.extended_to(mapped)
    index = fixed.to_index(mapped)
    start = np.floor(index.min(axis=0) + 0.5).astype(int)
    stop = np.maximum(np.ceil(index.max(axis=0) + 0.5).astype(int), start + 1)
    return fixed.cropped(start.tolist(), stop.tolist())


def _scores(
    fixed: Image,
    moving: Image,
    settings: RegistrationSettings,
    transform: Transform,
    landmarks: tuple[npt.ArrayLike | None, npt.ArrayLike | None],
    device: torch.device | str,
    stride: int,
) -> dict[str, dict[str, float]]:
    """Score the images before and after, where both are defined, and the landmarks."""
    scores = image_scores(
        fixed, moving, transform, fixed_channel=settings.fixed_channel, moving_channel=settings.moving_channel,
        device=device, stride=stride,
    )  # fmt: skip
    fixed_landmarks, moving_landmarks = landmarks
    if fixed_landmarks is not None and moving_landmarks is not None and len(np.asarray(fixed_landmarks)):
        for when, applied in (("before", None), ("after", transform)):
            error = landmark_scores(fixed, moving, applied, fixed_landmarks, moving_landmarks)
            scores[when] |= {f"landmark_{name}": value for name, value in error.to_dict().items()}
    return scores
