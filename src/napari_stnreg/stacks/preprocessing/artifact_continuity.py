"""Confirm the artifacts of a section by its neighbors: vessels continue there, and a crack opens a jump.

A single section cannot distinguish a vessel or a blood cell from dirt, or a long vessel from a crack. The neighbors
can: a structure of the tissue is found again in one of them, and dirt is not. The sides of a crack have moved apart, so
they match a neighbor at different shifts; the sides of a vessel match at the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.signal import fftconvolve

from napari_stnreg.core.grid import FloatArray
from napari_stnreg.stacks.preprocessing.artifacts import CRACK, EMPTY, Mask, Plane
from napari_stnreg.stacks.preprocessing.artifacts import PARAMETERS as ARTIFACT_PARAMETERS
from napari_stnreg.stacks.preprocessing.features import Extractor, PreparedSection, compute_pyramid
from napari_stnreg.stacks.section_transform import Labels
from napari_stnreg.stacks.settings import StackSettings


@dataclass(frozen=True)
class ContinuityParameters:
    """Thresholds of the comparison with the neighbors, set on generated vessels, dirt and cracks and on lung sections.

    Parameters
    ----------
    max_shift_fraction
        Largest shift of a structure to the next section, relative to the shorter side of the section.
    min_deviation_fraction
        A pixel of the neighbor continues a structure if its deviation from the median gray value is at least this
        fraction of that of the structure.
    min_continued_fraction
        Smallest fraction of a structure that must continue.
    rim_px
        Width around the continued pixels that is restored with them.
    band_fraction
        Width of the bands beside a crack that are matched, relative to the shorter side of the section.
    min_jump_fraction
        A crack opens by at least this fraction of its width.
    min_jump_px
        A crack opens by at least this many working pixels.
    min_correlation
        Smallest correlation of a matched band.
    """

    max_shift_fraction: float = 0.03
    min_deviation_fraction: float = 0.6
    min_continued_fraction: float = 0.6
    rim_px: int = 6
    band_fraction: float = 0.15
    min_jump_fraction: float = 0.5
    min_jump_px: float = 1.5
    min_correlation: float = 0.15


PARAMETERS = ContinuityParameters()


def confirm_artifacts(
    section: PreparedSection,
    neighbors: Sequence[tuple[PreparedSection, FloatArray]],
    settings: StackSettings,
    extractor: Extractor | None = None,
) -> PreparedSection:
    """Restore pixels that are tissue, and merge fragments that no crack separates.

    Parameters
    ----------
    section
        The prepared section.
    neighbors
        Prepared neighbors with the coarse match ``(3, 3)``, full-resolution pixels of the section to those of the
        neighbor. The sections have one reduction factor.
    settings, extractor
        As in :func:`~napari_stnreg.stacks.preprocessing.features.prepare`.
    """
    seen = [_Seen.of(one, matrix, section) for one, matrix in neighbors]
    if not seen:
        return section
    tissue = section.artifacts == 0
    restored = _continued(section, seen)
    labels = _merge_fragments(section, seen, restored) if section.n_fragments > 1 else section.fragment_labels
    if not restored.any() and labels is section.fragment_labels:
        return section
    levels, weights = compute_pyramid(section.image, tissue | restored, settings, extractor)
    figures = {**section.figures, "tissue": float((tissue | restored).mean()), "fragments": float(labels.max()) + 1}
    figures["dirt"] = float((~(tissue | restored) & (section.artifacts != EMPTY)).mean())
    return replace(section, levels=tuple(levels), weights=tuple(weights), fragment_labels=labels, figures=figures)


@dataclass(frozen=True)
class _Seen:
    """A neighbor in the working pixels of a section: deviation from its median, its features, and where it is known."""

    deviation: Plane
    feature: Plane
    known: Mask

    @classmethod
    def of(cls, neighbor: PreparedSection, matrix: FloatArray, section: PreparedSection) -> _Seen:
        linear, factor = matrix[:2, :2], section.factor
        half = 0.5 * factor - 0.5
        offset = (linear @ np.full(2, half) + matrix[:2, 2] + 0.5) / factor - 0.5

        def warp(values: Plane) -> Plane:
            return np.asarray(
                ndimage.affine_transform(values, linear, offset, output_shape=section.image.shape, order=1, cval=0.0)
            )

        known = warp((neighbor.artifacts != EMPTY).astype(np.float32)) > 0.99
        return cls(warp(_deviation(neighbor)), warp(neighbor.levels[0][0] * neighbor.weights[0]), known)


def _deviation(section: PreparedSection) -> Plane:
    """Local mean minus the median of the tissue."""
    tissue = section.artifacts == 0
    center = float(np.median(section.image[tissue])) if tissue.any() else 0.5
    return np.asarray(ndimage.uniform_filter(section.image, ARTIFACT_PARAMETERS.texture_window_px) - center)


def _continued(section: PreparedSection, neighbors: Sequence[_Seen]) -> Mask:
    """Return the masked pixels of structures that continue in a neighbor."""
    restored, deviation = np.zeros(section.image.shape, dtype=bool), _deviation(section)
    reach = max(round(PARAMETERS.max_shift_fraction * min(section.image.shape)), 3)
    size = 2 * PARAMETERS.rim_px + 1
    padded = [(np.pad(one.deviation, reach), np.pad(one.known, reach)) for one in neighbors]
    for kind in set(np.unique(section.artifacts)) - {0, EMPTY}:
        masked = section.artifacts == kind
        labels, _ = ndimage.label(masked, structure=np.ones((3, 3)))
        for k, box in enumerate(ndimage.find_objects(labels), start=1):
            part = labels[box] == k
            own = deviation[box][part]
            sign = 1.0 if np.median(own) > 0 else -1.0
            core = part & (sign * deviation[box] > 0.5 * float(np.quantile(sign * own, 0.9)))
            if not core.any():
                continue
            least = PARAMETERS.min_deviation_fraction * float(np.median(sign * deviation[box][core]))
            place = tuple(slice(side.start, side.stop + 2 * reach) for side in box)
            for values, known in padded:
                alike = (sign * values[place] > least) & known[place]
                fraction, (dy, dx) = _best_shift(alike, core)
                if fraction < PARAMETERS.min_continued_fraction:
                    continue
                there = alike[dy : dy + part.shape[0], dx : dx + part.shape[1]]
                restored[box] |= part & (ndimage.maximum_filter(there.view(np.uint8), size, mode="constant") > 0)
    return restored


def _best_shift(alike: Mask, core: Mask) -> tuple[float, tuple[int, int]]:
    """Return the largest fraction of ``core`` that ``alike`` covers at any shift, and the shift."""
    counts = fftconvolve(alike.astype(np.float32), core[::-1, ::-1].astype(np.float32), mode="valid")
    dy, dx = np.unravel_index(int(counts.argmax()), counts.shape)
    return float(counts[dy, dx]) / float(core.sum()), (int(dy), int(dx))


def _merge_fragments(section: PreparedSection, neighbors: Sequence[_Seen], restored: Mask) -> Labels:
    """Merge fragments if what separates them continues, or if their sides match the neighbors at the same shift."""
    labels, count = section.fragment_labels, section.n_fragments
    parent = list(range(count))
    for p in range(count):
        for q in range(p + 1, count):
            if not _is_torn(section, (p, q), neighbors, restored):
                root = parent[p]
                parent = [root if one == parent[q] else one for one in parent]
    if len(set(parent)) == count:
        return labels
    order = {root: k for k, root in enumerate(dict.fromkeys(parent))}
    return np.array([order[root] for root in parent], dtype=np.uint8)[labels]


def _is_torn(section: PreparedSection, pair: tuple[int, int], neighbors: Sequence[_Seen], restored: Mask) -> bool:
    """Whether the sides of two fragments have moved apart; true where no neighbor shows it, or they do not touch."""
    labels = section.fragment_labels
    one, other = (labels == k for k in pair)
    border = one & ndimage.binary_dilation(other)
    if not border.any():
        return True
    crack = section.artifacts == CRACK
    if restored[border & crack].sum() > PARAMETERS.min_continued_fraction * border.sum():
        return False
    inside = ndimage.distance_transform_edt(np.pad(crack, 1))[1:-1, 1:-1]
    width = max(2 * float(np.median(inside[border])) - 2 * ARTIFACT_PARAMETERS.crack_rim_px, 1.0)
    side = min(labels.shape)
    near = ndimage.distance_transform_edt(~border) < PARAMETERS.band_fraction * side
    reach = int(np.ceil(2 * width + max(PARAMETERS.max_shift_fraction * side, 4)))
    tissue, measured = section.weights[0] > 0, False
    for there in neighbors:
        shifts = [_feature_shift(section.levels[0][0], part & near & tissue, there, reach) for part in (one, other)]
        if shifts[0] is None or shifts[1] is None:
            continue
        measured = True
        jump = float(np.hypot(*(shifts[0] - shifts[1])))
        if jump >= max(PARAMETERS.min_jump_fraction * width, PARAMETERS.min_jump_px):
            return True
    return not measured


def _feature_shift(feature: Plane, mask: Mask, there: _Seen, reach: int) -> FloatArray | None:
    """Shift ``(2,)`` at which a masked part of a section correlates best with a neighbor, ``None`` if it does not."""
    rows, columns = (np.flatnonzero(mask.any(axis=k)) for k in (1, 0))
    if not len(rows):
        return None
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inside = mask[box].astype(np.float32)
    own = feature[box] * inside
    place = tuple(slice(side.start, side.stop + 2 * reach) for side in box)
    theirs = np.pad(there.feature * there.known, reach)[place]
    known = np.pad(there.known, reach)[place].astype(np.float32)

    def correlate(a: Plane, b: Plane) -> FloatArray:
        return np.asarray(fftconvolve(a, b[::-1, ::-1], mode="valid"), dtype=np.float64)

    scale = np.maximum(correlate(known, own * own), 0) * np.maximum(correlate(theirs * theirs, inside), 0)
    enough = correlate(known, inside) > 0.5 * inside.sum()
    score = np.where(enough, correlate(theirs, own) / np.sqrt(np.maximum(scale, 1e-6)), -1.0)
    best = np.unravel_index(int(score.argmax()), score.shape)
    return np.array(best, dtype=np.float64) - reach if score[best] > PARAMETERS.min_correlation else None
