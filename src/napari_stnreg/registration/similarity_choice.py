"""The similarity `auto`: look at a pair where the start has placed it, and choose what compares it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from napari_stnreg.core.grid import FloatArray
from napari_stnreg.core.image import Image
from napari_stnreg.registration.pyramid import Level
from napari_stnreg.registration.settings import SIMILARITY_TITLES

SAME_CONTRAST = 0.3
"""Correlation from which start and linear stages take the sign of the contrast as known."""


@dataclass(frozen=True)
class ChoiceParameters:
    """Constants of the choice, set by hand on `benchmark/pairs`: stains up to 0.09 apart need no other similarity.

    Parameters
    ----------
    color_difference
        Difference of the mean colors of the tissue, in shares of the channels, from which two stains differ.
    correlation
        Absolute correlation below which the contrasts of two images count as unrelated.
    nonlinear
        Correlation ratio beyond the squared correlation from which the relation of the two contrasts is not a line.
    bins
        Bins of the joint histogram.
    """

    color_difference: float = 0.12
    correlation: float = 0.3
    nonlinear: float = 0.2
    bins: int = 12


PARAMETERS = ChoiceParameters()


@dataclass(frozen=True)
class SimilarityChoice:
    """The similarity that was used, and why.

    Parameters
    ----------
    similarity
        Its name.
    reason
        One sentence.
    """

    similarity: str
    reason: str

    def __str__(self) -> str:
        return f"{SIMILARITY_TITLES.get(self.similarity, self.similarity)}: {self.reason}"


def choose_similarity(
    level: Level, affine: FloatArray, color_difference: float | None, parameters: ChoiceParameters = PARAMETERS
) -> SimilarityChoice:
    """Choose between local NCC and mutual information.

    Parameters
    ----------
    level
        Both images, small.
    affine
        ``(D + 1, D + 1)``, where the start has placed them.
    color_difference
        See :func:`color_difference`.
    """
    if color_difference is not None and color_difference > parameters.color_difference:
        return SimilarityChoice("mi", "The two images are stained in different colors.")
    linear, ratio = contrast_relation(level, affine, parameters.bins)
    if abs(linear) < parameters.correlation:
        return SimilarityChoice("mi", f"The contrasts of the two images hardly correlate ({linear:.2f}).")
    if ratio - linear**2 > parameters.nonlinear:
        return SimilarityChoice("mi", "The relation of the two contrasts is not a line.")
    if linear < 0:
        return SimilarityChoice("lncc", f"The contrast of one image is inverted (correlation {linear:.2f}).")
    return SimilarityChoice("lncc", f"The two images have the same contrast (correlation {linear:.2f}).")


def contrast_correlation(level: Level, affine: FloatArray) -> float:
    """Return the correlation of the two images in common places; 0 if one is constant or too little is common."""
    values = _common_values(level, affine, PARAMETERS.bins)
    return 0.0 if values is None else _correlation(values)


def contrast_relation(level: Level, affine: FloatArray, bins: int = PARAMETERS.bins) -> tuple[float, float]:
    """Return :func:`contrast_correlation`, and the correlation ratio of the moving image given the fixed one."""
    values = _common_values(level, affine, bins)
    if values is None:
        return 0.0, 0.0
    a, b = values
    group = torch.bucketize(
        a, torch.linspace(float(a.min()), float(a.max()), bins + 1, dtype=a.dtype)[1:-1].to(a.device)
    )
    count = torch.bincount(group, minlength=bins).clamp_min(1)
    mean = torch.bincount(group, weights=b, minlength=bins) / count
    return _correlation(values), 1 - float((b - mean[group]).square().mean()) / float(b.var(correction=0))


def _common_values(level: Level, affine: FloatArray, bins: int) -> Tensor | None:
    """Return the values of both images where both are known, ``(2, N)``; ``None`` if they cannot be compared."""
    moved, weight = level.warp_moving(affine)
    keep = (weight > 0.5).flatten()
    values = torch.stack([level.fixed.flatten()[keep], moved.flatten()[keep]]).double()
    if values.shape[1] < 4 * bins or float(values.std(dim=1).min()) < 1e-6:
        return None
    return values


def _correlation(values: Tensor) -> float:
    return float(torch.corrcoef(values)[0, 1])


def color_difference(fixed: Image, moving: Image) -> float | None:
    """Return how much the mean colors of two stained sections differ, or ``None`` if one is not RGB.

    The color of a voxel is its optical density, as shares of the three channels; dense voxels count most.
    """
    shares = []
    for image in (fixed, moving):
        if not image.rgb:
            return None
        step = tuple(slice(None, None, max(n // 64, 1)) for n in image.grid.shape)
        values = np.asarray(image.data[step], dtype=np.float64)[..., :3].reshape(-1, 3)
        top = max(float(values.max()), 1e-9)
        density = -np.log(np.clip(values / top, 1 / 255, 1))
        total = density.sum(axis=0)
        shares.append(total / max(float(total.sum()), 1e-9))
    return float(np.abs(shares[0] - shares[1]).max())
