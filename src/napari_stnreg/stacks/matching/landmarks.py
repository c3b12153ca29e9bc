"""Rigid and affine matches of two sections from user landmarks."""

from __future__ import annotations

import numpy as np

from napari_stnreg.core.grid import FloatArray
from napari_stnreg.core.linalg import fit_rigid
from napari_stnreg.stacks.matching.coarse import CoarseMatch
from napari_stnreg.stacks.section_transform import fit_affine_matrix
from napari_stnreg.stacks.settings import StackSettings

LANDMARK_CONFIDENCE = 30.0
"""Weight of a user landmark relative to image matches, whose confidence is at most 1. Not tuned."""


def landmark_match(a: FloatArray, b: FloatArray, found: CoarseMatch | None, settings: StackSettings) -> CoarseMatch:
    """Estimate the transform from section ``a`` to section ``b`` from landmarks only.

    Parameters
    ----------
    a, b
        ``(N, 2)`` corresponding points in raw pixels. One pair fits a translation and keeps the linear part of
        ``found``; two also fit a rotation; three or more fit an affine map if ``settings.motion`` allows it.
    found
        Match of the images, if there is one.
    settings
        Motion model of a section.
    """
    matrix = np.eye(3)
    if settings.motion == "affine" and len(a) > 2:
        matrix = fit_affine_matrix(a, b)
    elif settings.motion != "translation" and len(a) > 1:
        mirrored = found is not None and found.mirrored
        matrix[:2, :2] = fit_rigid(a, b, reflection="required" if mirrored else "never")[:2, :2]
    elif found is not None:
        matrix[:2, :2] = found.matrix[:2, :2]
    matrix[:2, 2] = b.mean(axis=0) - matrix[:2, :2] @ a.mean(axis=0)
    return CoarseMatch(matrix, LANDMARK_CONFIDENCE, 1.0, bool(np.linalg.det(matrix) < 0))
