"""Detect artifacts of a section (dirt, cracks, folds) and split it into fragments at cracks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_stnreg.stacks.section_transform import Labels

Plane = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ArtifactParameters:
    """Tuning constants of the artifact detection. All were set by hand; no tuning is recorded.

    Parameters
    ----------
    search_side
        Approximate number of pixels along the shorter side at which cracks are searched.
    thresholds
        Number of thresholds, from the extreme gray values toward the median.
    closing_radius_px
        Radius of the closing that joins the parts of a line that noise interrupts.
    min_length_fraction
        Smallest length of a crack, relative to the shorter side of the section.
    max_width_px
        Largest mean width of a crack or fold at the resolution of the search. Wider ones are dirt, lumina or vessels.
    shading_scale
        The shading is the section smoothed by a Gaussian of its shorter side divided by this.
    min_fragment_fraction
        Smallest fragment that is matched separately, relative to the section.
    max_fragments
        Largest number of fragments.
    texture_window_px
        Side of the window of the local mean and standard deviation.
    smooth_fraction
        A pixel is smooth if its local standard deviation is below this fraction of the median.
    flat_fraction
        A pixel is flat if its local standard deviation is below this fraction of the median.
    smooth_deviation
        Deviation of a smooth artifact from the median gray value, in robust standard deviations.
    flat_deviation
        The same of a flat artifact, and of the rim of any artifact.
    extreme_deviation
        The same of an artifact of any texture.
    rim_px
        Width over which an artifact grows into its rim.
    min_tear_fraction
        Smallest length of a crack or fold, relative to the shorter side of the section.
    max_tear_fill
        Largest area of a crack or fold, relative to the square of its length.
    crack_rim_px
        Width around a crack or fold that is masked with it.
    """

    search_side: int = 256
    thresholds: int = 8
    closing_radius_px: int = 2
    min_length_fraction: float = 0.6
    max_width_px: float = 12.0
    shading_scale: float = 6.0
    min_fragment_fraction: float = 0.04
    max_fragments: int = 4
    texture_window_px: int = 5
    smooth_fraction: float = 0.45
    flat_fraction: float = 0.2
    smooth_deviation: float = 3.0
    flat_deviation: float = 1.5
    extreme_deviation: float = 6.0
    rim_px: int = 4
    min_tear_fraction: float = 0.2
    max_tear_fill: float = 0.35
    crack_rim_px: int = 2


PARAMETERS = ArtifactParameters()
DIRT, CRACK, EMPTY = 1, 2, 3
"""Classes of pixels that are not tissue, which is 0. A crack may be a fold."""


def detect_artifacts(image: Plane, known: Mask) -> tuple[Mask, Mask]:
    """Detect dirt, and cracks and folds: pixels far from the gray value of tissue and without its texture.

    Returns
    -------
    dirt, cracks
        Masks ``(h, w)``.
    """
    no_pixels = np.zeros(image.shape, dtype=bool)
    if known.sum() < 64:
        return no_pixels, no_pixels
    size = PARAMETERS.texture_window_px
    fraction = np.maximum(ndimage.uniform_filter(known.astype(np.float32), size), 1e-6)
    masked = np.where(known, image, 0).astype(np.float32)
    mean = ndimage.uniform_filter(masked, size) / fraction
    mean_square = ndimage.uniform_filter(masked * masked, size) / fraction
    spread = np.sqrt(np.maximum(mean_square - mean**2, 0))
    typical = float(np.median(spread[known]))
    center = float(np.median(mean[known]))
    deviation = np.abs(mean - center)
    scale = 1.4826 * float(np.median(deviation[known])) + 1e-6
    smooth, flat = spread < PARAMETERS.smooth_fraction * typical, spread < PARAMETERS.flat_fraction * typical
    core = known & (
        (deviation > PARAMETERS.smooth_deviation * scale) & smooth
        | (deviation > PARAMETERS.flat_deviation * scale) & flat
        | (deviation > PARAMETERS.extreme_deviation * scale)
    )
    core = ndimage.binary_opening(core, iterations=1)
    if not core.any():
        return no_pixels, no_pixels
    # Grow from the core over pixels of similar gray value, including the rim that the filter window blurs.
    near = known & (np.abs(image - center) > PARAMETERS.flat_deviation * scale)
    grown = core | ndimage.binary_dilation(core, iterations=PARAMETERS.rim_px, mask=near)
    labels, count = ndimage.label(grown, structure=np.ones((3, 3)))
    boxes = ndimage.find_objects(labels)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    crack = np.zeros(image.shape, dtype=bool)
    widest = PARAMETERS.max_width_px * max(min(image.shape) / PARAMETERS.search_side, 1.0)
    for k, box in enumerate(boxes, start=1):
        extent = float(np.hypot(*(s.stop - s.start for s in box)))
        largest = min(PARAMETERS.max_tear_fill * extent, widest) * extent
        if extent > PARAMETERS.min_tear_fraction * min(image.shape) and areas[k] < largest:
            crack[box] |= labels[box] == k
    dirt = ndimage.binary_dilation(grown & ~crack, iterations=1)
    return dirt & known, ndimage.binary_dilation(crack, iterations=PARAMETERS.crack_rim_px) & known


def split_fragments(image: Plane, empty: Mask, tears: Mask) -> tuple[Labels, Mask]:
    """Split a section into fragments; return their labels ``(h, w)`` and a mask of newly found cracks.

    Parameters
    ----------
    image
        ``(h, w)`` gray values.
    empty, tears
        Masks of pixels outside the section, and of known cracks and folds.

    Notes
    -----
    A crack need not be darker, brighter or smoother than tissue, but it is a line. The image is corrected for shading
    and thresholded at several levels. A connected component that is long and narrow is a line. It counts as a crack
    only if it splits the section, so chains of membranes or vessels are ignored.
    """
    step = max(min(image.shape) // PARAMETERS.search_side, 1)
    fraction = _block_means((~empty).astype(np.float32), step)
    seen, through = fraction > 0.5, np.zeros(image.shape, dtype=bool)
    for line in (
        _find_lines(_block_means(np.where(empty, 0, image).astype(np.float32), step), fraction) if seen.any() else ()
    ):
        if label_fragments(line, ~seen).any():
            through |= np.kron(line, np.ones((step, step), dtype=bool))[: image.shape[0], : image.shape[1]] & ~empty
    return label_fragments(tears | through, empty), through


def _find_lines(image: Plane, fraction: Plane) -> Iterator[Mask]:
    """Yield masks of line-like components, possibly the same line several times; ``fraction`` is the known part."""
    seen, flat = fraction > 0.5, _correct_shading(image, fraction)
    side, center = min(seen.shape), float(np.median(flat[seen]))
    scale = 1.4826 * float(np.median(np.abs(flat[seen] - center)))
    for deviation in (flat - center, center - flat):
        for level in np.linspace(max(float(np.percentile(deviation[seen], 99.7)), scale), scale, PARAMETERS.thresholds):
            # rank filters of bytes take a fifth of the time of binary openings and closings
            thick = ndimage.minimum_filter((seen & (deviation > level)).view(np.uint8), 3, mode="constant")
            joined = ndimage.maximum_filter(thick, 3 + 2 * PARAMETERS.closing_radius_px, mode="constant")
            labels, _ = ndimage.label(joined)
            boxes = ndimage.find_objects(labels)
            extents = np.array(
                [np.hypot(*(s.stop - s.start - 2 * PARAMETERS.closing_radius_px for s in box)) for box in boxes]
            )
            long = np.flatnonzero(extents > PARAMETERS.min_length_fraction * side)
            if len(long):
                closed = ndimage.minimum_filter(joined, 1 + 2 * PARAMETERS.closing_radius_px, mode="nearest")
            for k in long:
                line = (closed > 0) & (labels == k + 1)
                if line.sum() < PARAMETERS.max_width_px * extents[k]:
                    yield ndimage.binary_dilation(line, iterations=PARAMETERS.crack_rim_px)


def _block_means(image: Plane, step: int) -> Plane:
    """Average over blocks; an incomplete last block is padded with zeros."""
    if step == 1:
        return image
    padded = np.pad(image, [(0, -n % step) for n in image.shape])
    return np.asarray(padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step).mean(axis=(1, 3)))


def _correct_shading(image: Plane, fraction: Plane) -> Plane:
    """Smooth noise and subtract the shading."""
    fine = ndimage.uniform_filter(image, 3) / np.maximum(ndimage.uniform_filter(fraction, 3), 1e-3)
    sigma = min(image.shape) / PARAMETERS.shading_scale / 4
    coarse = ndimage.gaussian_filter(_block_means(image, 4), sigma) / np.maximum(
        ndimage.gaussian_filter(_block_means(fraction, 4), sigma), 1e-3
    )
    return np.asarray(fine - np.kron(coarse, np.ones((4, 4)))[: image.shape[0], : image.shape[1]], dtype=np.float32)


def label_fragments(crack: Mask, empty: Mask, min_fraction: float = PARAMETERS.min_fragment_fraction) -> Labels:
    """Label the fragments ``(h, w)`` of a section that cracks split completely.

    Parameters
    ----------
    crack, empty
        ``(h, w)`` masks of cracks and of pixels outside the section.
    min_fraction
        Smallest fragment that is matched separately, relative to the section.
    """
    whole = np.zeros(crack.shape, dtype=np.uint8)
    if not (crack | empty).any():
        return whole
    # the sides of a crack move apart even if it ends just before the border or a thread bridges it
    closed = _close_gaps(crack | empty) | crack
    labels, count = ndimage.label(~closed)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    keep = [k + 1 for k in np.argsort(-areas, kind="stable") if areas[k] >= min_fraction * crack.size][
        : PARAMETERS.max_fragments
    ]
    if len(keep) < 2:
        return whole
    chosen = np.zeros(count + 1, dtype=np.uint8)
    chosen[keep] = np.arange(1, len(keep) + 1)
    seeds = chosen[labels]
    nearest = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    return np.asarray(seeds[tuple(nearest)] - 1, dtype=np.uint8)


def _close_gaps(mask: Mask) -> Mask:
    """Close gaps of a few pixels in a mask, also those to the border."""
    return np.asarray(ndimage.binary_closing(np.pad(mask, 4, mode="edge"), iterations=3)[4:-4, 4:-4])
