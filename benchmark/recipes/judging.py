"""Measuring a model on a pair: overlap, correlation, folds, and how long a pass takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import napari_stnreg as sr
from benchmark.data import Pair
from benchmark.scoring import score

Array = np.ndarray[Any, Any]


def judged(
    model: Any, pair: Pair, refine: int, spacing: float | tuple[float, ...] = 1.0, unit: str = "pixel"
) -> dict[str, Any]:
    """A row for one pair in voxels: every measure its truth allows, for one pass and after refinement."""
    fixed = sr.Image.from_array(pair.fixed, spacing, unit=unit, name="fixed")
    moving = sr.Image.from_array(pair.moving, spacing, unit=unit, name="moving")
    start_time, cpu = time.perf_counter(), time.process_time()
    transform = model.predict(fixed, moving, device="cpu")
    seconds, cpu = time.perf_counter() - start_time, time.process_time() - cpu
    row: dict[str, Any] = {"pair": pair.name, "ms": 1000 * seconds, "cpu_ms": 1000 * cpu}
    row |= measured(pair, transform, fixed)
    if refine:
        cpu = time.process_time()
        result = model(fixed, moving, refine=refine, device="cpu")
        row["refined_cpu_ms"] = 1000 * (time.process_time() - cpu)
        found = measured(pair, result.transform, fixed)
        row |= {f"refined_{key}": value for key, value in found.items() if "before" not in key}
    return row


def measured(pair: Pair, transform: Any, fixed: sr.Image) -> dict[str, float]:
    """Dice or errors and folds as the benchmark scores everyone; correlation of the warped image."""
    steps = fixed.grid.spacing.reshape(-1, *[1] * fixed.ndim)
    displacement = transform.displacement(fixed.grid) / steps
    row = score(pair, displacement)
    moving = sr.Image.from_array(pair.moving, fixed.grid.spacing.tolist(), unit=fixed.grid.unit)
    still, warped = moving, sr.warp(moving, transform, fixed.grid)
    row["ncc_before"] = correlation(pair.fixed, still.data)
    row["ncc"] = correlation(pair.fixed, warped.data)
    return {key.replace("_after", ""): value for key, value in row.items()}


def correlation(one: Array, other: Array) -> float:
    """Pearson's, over the whole image."""
    a, b = (np.asarray(x, dtype=np.float64).ravel() for x in (one, other))
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / max(np.sqrt((a @ a) * (b @ b)), 1e-12))


def label_pairs(images: Array, labels: Array, subjects: Array, chosen: list[str]) -> Iterator[Pair]:
    """Subjects paired in a ring, in the order of their names."""
    places = {str(s): i for i, s in enumerate(subjects)}
    ring = [places[s] for s in sorted(chosen)]
    for fixed, moving in zip(ring, [*ring[1:], ring[0]], strict=True):
        name = f"{subjects[fixed]}<-{subjects[moving]}"
        yield Pair(name, images[fixed], images[moving], labels=(labels[fixed], labels[moving]))
