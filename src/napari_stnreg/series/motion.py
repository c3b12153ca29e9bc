"""The motion of a series: its table, its smoothing over time, its plot, and the frames that failed."""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d

from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.transforms import Transform


@dataclass(frozen=True)
class FailureParameters:
    """When a frame counts as failed. Set by hand, checked on generated movies with unrelated frames.

    Parameters
    ----------
    relative_ncc
        A frame fails if its correlation is below this fraction of the median of all frames.
    deviations
        It also fails if it is this many robust standard deviations below the median, and below
        ``deviation_ncc`` of it.
    deviation_ncc
        See ``deviations``.
    min_ncc
        A correlation below this never counts as a match.
    min_overlap
        Fraction of the reference that the frame must cover.
    max_scale
        Largest change of scale along any direction that a linear fit may find, and its inverse the smallest.
    """

    relative_ncc: float = 0.5
    deviations: float = 10.0
    deviation_ncc: float = 0.85
    min_ncc: float = 0.05
    min_overlap: float = 0.25
    max_scale: float = 2.0


PARAMETERS = FailureParameters()


@dataclass
class FrameFit:
    """What is known of one fitted frame.

    Parameters
    ----------
    frame
        Index of the frame.
    ncc
        Correlation with the reference after the registration.
    overlap
        Fraction of the reference that the frame covers.
    matrix
        ``(D + 1, D + 1)``, reference world to the frame's world; of a deformation its linear part.
    shift
        Mean displacement ``(D,)`` over the reference, in world units.
    distance
        Root-mean-square displacement over the reference, in world units.
    deformed
        Whether a deformation belongs to the frame as well.
    reason
        Why the frame could not be registered; empty if it was.
    report
        The report of the registration if the frame was registered like a pair.
    """

    frame: int
    ncc: float
    overlap: float
    matrix: FloatArray
    shift: FloatArray
    distance: float
    deformed: bool = False
    reason: str = ""
    report: Mapping[str, Any] | None = None


def describe(
    frame: int, ncc: float, overlap: float, matrix: FloatArray, transform: Transform, grid: Grid, reason: str = ""
) -> FrameFit:
    """Summarize a fitted frame; the displacement is sampled on a small grid over the reference."""
    probe = grid.resized([min(n, 24 if grid.ndim == 2 else 12) for n in grid.shape])
    displacement = transform.displacement(probe).reshape(grid.ndim, -1).astype(np.float64)
    distance = float(np.sqrt((displacement**2).sum(axis=0).mean()))
    deformed = transform.as_matrix() is None
    return FrameFit(frame, float(ncc), float(overlap), matrix, displacement.mean(axis=1), distance, deformed, reason)


def find_failures(fits: Sequence[FrameFit], reference: int | None) -> dict[int, str]:
    """Return the frames whose registration failed, each with the reason.

    Parameters
    ----------
    fits
        All fitted frames.
    reference
        The frame that is the reference, which cannot fail.
    """
    others = [fit for fit in fits if fit.frame != reference]
    low, median = _lowest_ncc(others)
    failed: dict[int, str] = {}
    for fit in others:
        stretch = np.linalg.svd(fit.matrix[:-1, :-1], compute_uv=False)
        if fit.reason:
            failed[fit.frame] = fit.reason
        elif fit.overlap < PARAMETERS.min_overlap:
            failed[fit.frame] = f"covers only {100 * fit.overlap:.0f} % of the reference"
        elif not fit.ncc >= low:
            failed[fit.frame] = f"correlation {fit.ncc:.2f}, while the median of all frames is {median:.2f}"
        elif stretch.max() > PARAMETERS.max_scale or stretch.min() < 1 / PARAMETERS.max_scale:
            failed[fit.frame] = f"scaled by {stretch.min():.2f} to {stretch.max():.2f}"
    return failed


def frames_to_bridge(fits: Sequence[FrameFit], failed: dict[int, str], reference: int | None) -> list[int]:
    """Return the failed frames that are placed between their neighbors, since their own fit is not to be trusted.

    A frame that failed by its small overlap alone matches where its fit puts it, so it keeps its fit. If every frame
    failed, none has a neighbor to go by.
    """
    low, _ = _lowest_ncc([fit for fit in fits if fit.frame != reference])
    if len(failed) == len(fits):
        return []
    return [
        fit.frame
        for fit in fits
        if fit.frame in failed and (fit.reason or fit.overlap >= PARAMETERS.min_overlap or not fit.ncc >= low)
    ]


def _lowest_ncc(fits: Sequence[FrameFit]) -> tuple[float, float]:
    """Return the correlation below which a frame fails, and the median correlation."""
    finite = np.array([fit.ncc for fit in fits if math.isfinite(fit.ncc)])
    median = float(np.median(finite)) if finite.size else 0.0
    spread = 1.4826 * float(np.median(np.abs(finite - median))) if finite.size else 0.0
    low = min(median - PARAMETERS.deviations * spread, PARAMETERS.deviation_ncc * median)
    return max(low, PARAMETERS.relative_ncc * median, PARAMETERS.min_ncc), median


def neighbor_weights(frames: Sequence[int], frame: int) -> list[tuple[int, float]]:
    """Return the frames before and after a frame, in order of time, with their weights of linear interpolation."""
    before = max((one for one in frames if one < frame), default=None)
    after = min((one for one in frames if one > frame), default=None)
    if before is None or after is None:
        only = after if before is None else before
        return [] if only is None else [(only, 1.0)]
    fraction = (frame - before) / (after - before)
    return [(before, 1 - fraction), (after, fraction)]


def smoothed_matrices(matrices: FloatArray, weights: FloatArray, sigma: float, center: FloatArray) -> FloatArray:
    """Smooth matrices ``(n, D + 1, D + 1)`` over time by a Gaussian; frames of weight 0 are interpolated.

    Rotations stay rotations: the linear parts are averaged and those that were rotations, up to one scale, are
    projected to the nearest one.
    """
    to_center, back = _about(center)
    local = to_center @ matrices @ back
    flat = local.reshape(len(local), -1) * weights[:, None]
    total = gaussian_filter1d(weights.astype(np.float64), sigma, mode="nearest")
    smooth = gaussian_filter1d(flat, sigma, axis=0, mode="nearest") / np.maximum(total, 1e-12)[:, None]
    smooth = np.where(total[:, None] > 1e-6, smooth, local.reshape(len(local), -1)).reshape(local.shape)
    return np.asarray(back @ _rotations_kept(smooth, local) @ to_center)


def mean_matrix(matrices: FloatArray, weights: FloatArray, center: FloatArray) -> FloatArray:
    """Average matrices ``(n, D + 1, D + 1)`` about a center; the mean of rotations is a rotation."""
    to_center, back = _about(center)
    local = to_center @ matrices @ back
    mean = np.tensordot(weights / weights.sum(), local, axes=1)
    return np.asarray(back @ _rotations_kept(mean[None], local)[0] @ to_center)


def _about(center: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the matrices that move a center to the origin and back."""
    to_center, back = np.eye(len(center) + 1), np.eye(len(center) + 1)
    to_center[:-1, -1], back[:-1, -1] = -center, center
    return to_center, back


def _rotations_kept(averaged: FloatArray, matrices: FloatArray) -> FloatArray:
    """Project averaged linear parts to the nearest rotations if those of all matrices were, up to one scale."""
    ndim = matrices.shape[-1] - 1
    linear = matrices[:, :-1, :-1]
    scales = np.abs(np.linalg.det(linear)) ** (1 / ndim)
    plain = linear / scales[:, None, None]
    if np.allclose(plain.transpose(0, 2, 1) @ plain, np.eye(ndim), atol=1e-6):
        left, values, right = np.linalg.svd(averaged[:, :-1, :-1])
        size = values.mean(axis=1) if not np.allclose(scales, 1, atol=1e-6) else np.ones(len(values))
        averaged[:, :-1, :-1] = (left @ right) * size[:, None, None]
    return averaged


def motion_table(fits: Sequence[FrameFit], failed: dict[int, str], grid: Grid, interval: float) -> npt.NDArray[np.void]:
    """Return the motion as a structured array with one row per frame.

    The columns are ``frame``, ``time``, the mean displacement (``dz``, ``dy``, ``dx``) and the root-mean-square
    displacement ``distance`` in world units, ``rotation`` in degrees, ``scale``, ``ncc``, ``overlap`` and ``failed``.
    """
    shifts = [f"d{axis}" for axis in "zyx"[-grid.ndim :]]
    names = ["frame", "time", *shifts, "distance", "rotation", "scale", "ncc", "overlap", "failed"]
    kinds = [np.int64, *[np.float64] * (len(names) - 2), np.bool_]
    table = np.zeros(len(fits), dtype=list(zip(names, kinds, strict=True)))
    for row, fit in zip(table, fits, strict=True):
        linear = fit.matrix[:-1, :-1]
        left, _, right = np.linalg.svd(linear)
        turn = left @ right
        cosine = (np.trace(turn) - (grid.ndim - 2)) / 2
        angle = math.degrees(math.acos(float(np.clip(cosine, -1, 1))))
        if grid.ndim == 2:
            angle = math.degrees(math.atan2(turn[1, 0], turn[0, 0]))
        scale = float(abs(np.linalg.det(linear)) ** (1 / grid.ndim))
        values = (fit.frame, fit.frame * interval, *fit.shift, fit.distance, angle, scale, fit.ncc, fit.overlap)
        for name, value in zip(names, (*values, fit.frame in failed), strict=True):
            row[name] = value
    return table


def motion_csv(table: npt.NDArray[np.void]) -> str:
    """Return the motion table as CSV text."""
    assert table.dtype.names is not None
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.dtype.names)
    for row in table:
        writer.writerow([_text(row[name]) for name in table.dtype.names])
    return out.getvalue()


def _text(value: np.generic) -> str:
    return f"{float(value):.6g}" if isinstance(value, np.floating) else str(int(value))


def motion_svg(table: npt.NDArray[np.void], unit: str, title: str) -> str:
    """Return a plot of the motion as SVG: shift, rotation and correlation over time; failed frames are marked."""
    assert table.dtype.names is not None
    shifts = [name for name in table.dtype.names if name in ("dz", "dy", "dx")]
    panels: list[tuple[str, list[str]]] = [
        (f"shift ({unit})", shifts), ("rotation (degrees)", ["rotation"]), ("correlation", ["ncc"])
    ]  # fmt: skip
    width, height, left, gap = 720, 130, 64, 34
    colors = {"dz": "#7f7f7f", "dy": "#1f77b4", "dx": "#d62728"}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{len(panels) * (height + gap) + 44}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="{left}" y="20" font-size="14">{html.escape(title, quote=False)}</text>'
    ]
    frames = table["frame"].astype(np.float64)
    first, last = (frames.min(), max(frames.max(), frames.min() + 1)) if len(frames) else (0.0, 1.0)
    for k, (label, names) in enumerate(panels):
        top = 34 + k * (height + gap)
        values = np.concatenate([table[name] for name in names]) if len(table) else np.zeros(1)
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
        if high - low < 1e-9:
            low, high = low - 0.5, high + 0.5

        def x_of(frame: float) -> float:
            return left + (width - left - 16) * (frame - first) / (last - first)

        def y_of(value: float, top: int = top, low: float = low, high: float = high) -> float:
            return top + height - height * (value - low) / (high - low)

        parts.append(
            f'<rect x="{left}" y="{top}" width="{width - left - 16}" height="{height}" fill="none" stroke="#999"/>'
            f'<text x="{left}" y="{top - 4}">{label}</text>'
            f'<text x="{left - 6}" y="{top + 10}" text-anchor="end">{high:.3g}</text>'
            f'<text x="{left - 6}" y="{top + height}" text-anchor="end">{low:.3g}</text>'
        )
        for frame in table["frame"][table["failed"]]:
            x = x_of(float(frame))
            parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{top + height}" stroke="#e8a000"/>')
        for n, name in enumerate(names):
            color = colors.get(name, "#333")
            points = " ".join(
                f"{x_of(float(f)):.1f},{y_of(float(v)):.1f}"
                for f, v in zip(table["frame"], table[name], strict=True)
                if math.isfinite(float(v))
            )
            parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.2"/>')
            if len(names) > 1:
                parts.append(f'<text x="{left + 120 + 40 * n}" y="{top - 4}" fill="{color}">{name}</text>')
    bottom = 34 + len(panels) * (height + gap) - gap + 16
    parts.append(f'<text x="{left}" y="{bottom}">frame {int(first)}</text>')
    parts.append(f'<text x="{width - 16}" y="{bottom}" text-anchor="end">{int(last)}</text></svg>')
    return "".join(parts)
