"""How good a displacement is, measured without any code of the package under test.

Convention: a displacement ``u`` of shape ``(D, *shape)`` is in voxels and axis order (z, y, x); it takes the point
``x`` of the fixed image to ``x + u(x)`` of the moving image, so ``warped(x) = moving(x + u(x))``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from benchmark.data import Pair

Array = npt.NDArray[Any]

LEAST_VOXELS = 30
BORDER = 4
INSIDE = 16


def scored_labels(fixed: Array, moving: Array) -> list[int]:
    """The labels with at least 30 voxels in both images before any warp."""
    counts = [np.bincount(labels.ravel(), minlength=256) for labels in (fixed, moving)]
    length = min(len(c) for c in counts)
    enough = (counts[0][:length] >= LEAST_VOXELS) & (counts[1][:length] >= LEAST_VOXELS)
    return [int(label) for label in np.flatnonzero(enough) if label != 0]


def warp_labels(labels: Array, displacement: Array) -> Array:
    """Labels moved by nearest neighbor; what comes from outside the moving image is background."""
    index = np.indices(displacement.shape[1:]) + np.nan_to_num(displacement, nan=1e6)
    nearest = np.rint(np.clip(index, -10, 1e6)).astype(np.intp)
    extent = np.reshape(labels.shape, (-1,) + (1,) * labels.ndim)
    inside = ((nearest >= 0) & (nearest < extent)).all(axis=0)
    return np.where(inside, labels[tuple(np.clip(nearest, 0, extent - 1))], 0)


def dice(fixed: Array, warped: Array, labels: list[int]) -> float:
    """Mean over labels of twice the overlap over the sum of both sizes; a label that vanished counts 0."""
    scores = []
    for label in labels:
        a, b = fixed == label, warped == label
        scores.append(2.0 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))
    return float(np.mean(scores))


def jacobian_determinant(displacement: Array) -> Array:
    """Determinant of the Jacobian of ``x -> x + u(x)`` by central differences, ``(*shape)``."""
    ndim = len(displacement)
    jacobian = np.stack([np.stack(np.gradient(part.astype(np.float64)), axis=-1) for part in displacement], axis=-2)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.linalg.det(jacobian + np.eye(ndim)))


def folded_percent(displacement: Array) -> float:
    """Percentage of voxels, 4 from the border left out, at which the mapping does not keep its orientation."""
    inner = tuple(slice(BORDER, -BORDER) for _ in displacement)
    # Written as "not positive" so that a field that is not a number counts as folded, not as good.
    return float(100.0 * np.mean(~(jacobian_determinant(displacement)[inner] > 0)))


def landmark_errors(displacement: Array, fixed: Array, moving: Array) -> Array:
    """Distances in voxels between fixed landmarks ``(N, D)`` taken to the moving side by T and their partners there."""
    step = [ndimage.map_coordinates(part, fixed.T, order=1, mode="nearest") for part in displacement]
    return np.asarray(np.linalg.norm(fixed + np.stack(step, axis=1) - moving, axis=1))


def field_errors(displacement: Array, truth: Array) -> Array:
    """Lengths of the difference from a known field, at voxels well inside both images.

    Sixteen voxels from the border are left out, and points that the truth takes to within two voxels of it: there the
    fixed image was rendered from values that the moving image does not have.
    """
    shape = np.reshape(truth.shape[1:], (-1,) + (1,) * len(truth))
    index = np.indices(truth.shape[1:])
    target = index + truth
    inside = (index >= INSIDE) & (index < shape - INSIDE) & (target >= 2) & (target <= shape - 3)
    return np.asarray(np.linalg.norm(displacement - truth, axis=0)[inside.all(axis=0)])


def score(pair: Pair, displacement: Array) -> dict[str, float]:
    """Every measure that the pair's truth allows, before and after.

    Raises
    ------
    ValueError
        If the displacement does not have the fixed image's shape, or the pair has no label to be scored.
    """
    if displacement.shape != (len(pair.shape), *pair.shape):
        raise ValueError(f"displacement of shape {displacement.shape} for a fixed image of shape {pair.shape}")
    still = np.zeros_like(displacement)
    row = {"folded_percent": folded_percent(displacement)}
    if pair.labels is not None:
        fixed, moving = pair.labels
        labels = scored_labels(fixed, moving)
        if not labels:
            raise ValueError(f"no label of {pair.name} has {LEAST_VOXELS} voxels in both images")
        row["labels"] = len(labels)
        row["dice_before"] = dice(fixed, warp_labels(moving, still), labels)
        row["dice_after"] = dice(fixed, warp_labels(moving, displacement), labels)
    if pair.points is not None:
        diagonal = float(np.linalg.norm(pair.shape))
        for when, field in (("before", still), ("after", displacement)):
            errors = landmark_errors(field, *pair.points)
            row[f"error_median_{when}"] = float(np.median(errors))
            row[f"error_mean_{when}"] = float(errors.mean())
            row[f"error_p90_{when}"] = float(np.percentile(errors, 90))
            row[f"error_median_{when}_relative"] = float(np.median(errors)) / diagonal
    if pair.truth is not None:
        for when, field in (("before", still), ("after", displacement)):
            errors = field_errors(field, pair.truth)
            row[f"error_median_{when}"] = float(np.median(errors))
            row[f"error_mean_{when}"] = float(errors.mean())
            row[f"error_p90_{when}"] = float(np.percentile(errors, 90))
    return row
