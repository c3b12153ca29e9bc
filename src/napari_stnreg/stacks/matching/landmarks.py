"""Points that a person says belong together, as a match that the coarse pass believes."""

from __future__ import annotations

import numpy as np

from napari_stnreg.core.grid import FloatArray
from napari_stnreg.stacks.matching.coarse import CoarseMatch
from napari_stnreg.stacks.output.canvas import best_affine
from napari_stnreg.stacks.settings import StackSettings

LANDMARK_CONFIDENCE = 30.0
"""Confidence of what a person says: it stands against any number of comparisons, which have at most 1."""


def landmark_match(a: FloatArray, b: FloatArray, found: CoarseMatch | None, settings: StackSettings) -> CoarseMatch:
    """How section ``b`` lies to section ``a``, from points alone.

    Parameters
    ----------
    a, b
        ``(N, 2)`` raw pixels that belong together. One pair shifts what was found (or nothing); two also turn; from
        three on a stretch is fitted where ``settings.motion`` allows it.
    found
        What comparing the images found, if anything.
    settings
        What a whole section may do.
    """
    matrix = np.eye(3)
    if settings.motion == "affine" and len(a) > 2:
        matrix = best_affine(a, b)
    elif settings.motion != "translation" and len(a) > 1:
        matrix[:2, :2] = _rotation(
            a - a.mean(axis=0), b - b.mean(axis=0), mirrored=found is not None and found.mirrored
        )
    elif found is not None:
        matrix[:2, :2] = found.matrix[:2, :2]
    matrix[:2, 2] = b.mean(axis=0) - matrix[:2, :2] @ a.mean(axis=0)
    return CoarseMatch(matrix, LANDMARK_CONFIDENCE, 1.0, bool(np.linalg.det(matrix) < 0))


def _rotation(a: FloatArray, b: FloatArray, *, mirrored: bool) -> FloatArray:
    """The rotation (of a mirrored section: with a reflection) that takes centered points onto others best.

    Kabsch, A solution for the best rotation to relate two sets of vectors, Acta Cryst. 1976.
    """
    u, _, v = np.linalg.svd(b.T @ a)
    sign = np.sign(np.linalg.det(u @ v)) * (-1.0 if mirrored else 1.0)
    return np.asarray(u @ np.diag([1.0, sign]) @ v)
