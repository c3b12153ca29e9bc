"""The similarity `auto`: look at a pair where the start has placed it, and choose what compares it.

Images of clearly the same contrast, everywhere, are compared by local NCC. For all others both candidates are tried on
coarse levels. The affine fit further above chance decides on the linear stages. Local NCC deforms the image if its
trial raises mutual information more than the trial of mutual information itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from napari_stnreg.core.grid import FloatArray
from napari_stnreg.evaluation.chance import Chance, compare_with_chance
from napari_stnreg.ops.filters import box_sums
from napari_stnreg.registration.pyramid import Level, Pyramid
from napari_stnreg.registration.settings import SIMILARITY_TITLES

STRUCTURED = 0.02
"""Fraction of the mean variance of windows from which one holds structure."""
SAME_CONTRAST = 0.3
"""Correlation from which start and linear stages take the sign of the contrast as known."""


@dataclass(frozen=True)
class ChoiceParameters:
    """Constants of the choice. Figures and their command are in decision 0026.

    Parameters
    ----------
    same_contrast
        Correlation of two grayscale images at the start from which local NCC is taken without a trial; hearts, brains
        and hippocampi correlate by 0.74 and more.
    inverted_windows
        Fraction of the windows with structure that correlate inversely, from which a trial decides all the same: bright
        heads on a dark background correlate by 0.9 even where the contrast inside is another one. Figures are in
        decision 0068.
    trial_size
        Voxels along the side of a square or cubic level on which trials are judged, by number of dimensions. With 48
        the evidence ranked 65 of 75 pairs of affine fits of stained sections by their landmark error, with 80 it
        ranked 73.
    weak, weak_margin
        Standard deviations above chance below which a linear trial must exceed the start by a margin to replace it.
    linear_levels
        Levels of the linear trial, from the coarsest.
    dense_steps
        Steps of the deformable trial on each of its two levels.
    information_margin
        Fraction by which the mutual information after the deformable trial of local NCC must exceed that after its own
        trial. Between stains it was 10 % and more, and negative where the relation of brightness rises and falls.
    """

    same_contrast: float = 0.6
    inverted_windows: float = 0.15
    trial_size: Mapping[int, int] = field(default_factory=lambda: {2: 80, 3: 24})
    weak: float = 6.0
    weak_margin: float = 1.0
    linear_levels: int = 2
    dense_steps: int = 20
    information_margin: float = 0.02


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
    linear_similarity
        Name of the similarity of the linear stages.
    """

    similarity: str
    reason: str
    linear_similarity: str = "lncc"

    def __str__(self) -> str:
        return f"{SIMILARITY_TITLES.get(self.similarity, self.similarity)}: {self.reason}"


def trial_level(pyramid: Pyramid, scale: float = 1.0, parameters: ChoiceParameters = PARAMETERS) -> Level:
    """Return the level on which trials are judged; for ``scale``, see :meth:`Pyramid.level`."""
    grid = pyramid.fixed_grid
    # a thin image gets as many voxels as a square or a cube, or nothing would be left of its short sides
    volume = float(np.prod(grid.extent / grid.spacing.min()))
    return pyramid.level(max(volume ** (1 / grid.ndim) / parameters.trial_size[grid.ndim], 1.0), scale)


def compare_at(level: Level, affine: FloatArray) -> Chance:
    """Compare the images under an affine map with chance, for any optimized similarity."""
    return compare_with_chance(level.fixed, *level.warp_moving(affine), mirror=False)


def choose_by_contrast(
    level: Level, affine: FloatArray, *, color: bool, parameters: ChoiceParameters = PARAMETERS
) -> SimilarityChoice | None:
    """Choose local NCC for two images of clearly the same contrast; ``None`` if a trial must decide.

    Parameters
    ----------
    level
        Both images, small.
    affine
        ``(D + 1, D + 1)``, where the start has placed them.
    color
        Whether both images are in color: in stained sections, equal luminance need not mean equal tissue.
    """
    correlation = contrast_correlation(level, affine)
    if color or correlation < parameters.same_contrast:
        return None
    if inverted_fraction(level, affine) > parameters.inverted_windows:
        return None
    return SimilarityChoice("lncc", f"The two images have the same contrast (correlation {correlation:.2f}).")


def contrast_correlation(level: Level, affine: FloatArray) -> float:
    """Return the correlation of the two images in common places; 0 if one is constant or too little is common."""
    values = _common_values(level, affine)
    return 0.0 if values is None else float(torch.corrcoef(values)[0, 1])


def inverted_fraction(level: Level, affine: FloatArray) -> float:
    """Return the fraction of the windows of three voxels a side, flat ones aside, that correlate below -0.5."""
    moved, weight = level.warp_moving(affine)
    weight = (weight > 0.5).to(moved.dtype)
    fixed = level.fixed * weight
    moved = moved * weight
    sums = box_sums((weight, fixed, moved, fixed * fixed, moved * moved, fixed * moved), 1)
    count = sums[0].clamp_min(1e-6)
    mean, moved_mean, square, moved_square, product = (one / count for one in sums[1:])
    variance, moved_variance = square - mean.square(), moved_square - moved_mean.square()
    structured = weight > 0
    for one in (variance, moved_variance):
        structured &= one > STRUCTURED * one[weight > 0].mean().clamp_min(1e-9)
    if int(structured.sum()) < 48:
        return 0.0
    inverse = product - mean * moved_mean < -0.5 * (variance.clamp_min(0) * moved_variance.clamp_min(0)).sqrt()
    return float((inverse & structured).sum() / structured.sum())


def _common_values(level: Level, affine: FloatArray) -> Tensor | None:
    """Return the values of both images where both are known, ``(2, N)``; ``None`` if they cannot be compared."""
    moved, weight = level.warp_moving(affine)
    keep = (weight > 0.5).flatten()
    values = torch.stack([level.fixed.flatten()[keep], moved.flatten()[keep]]).double()
    if values.shape[1] < 48 or float(values.std(dim=1).min()) < 1e-6:
        return None
    return values
