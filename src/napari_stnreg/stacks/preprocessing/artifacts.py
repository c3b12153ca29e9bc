"""What of a section is no tissue (dirt, cracks, folds), and into which pieces cracks cut it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_stnreg.stacks.section_transform import Labels

Plane = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

SEARCHED = 256
"""Pixels of the shorter side, about, at which lines right through a section are looked for."""
LEVELS = 8
"""Thresholds, from the brightest and from the darkest pixels toward the middle, at which they are."""
JOIN = 2
"""Pixels: grain cuts a line into bits; those that lie nearer than twice as much to each other are one."""
LONG, NARROW = 0.6, 12.0
"""A line is longer than this share of the section's side, and takes less than so many pixels on its length."""
SHADING = 6.0
"""Shading is what is left of a section that is blurred by this part of its side."""


def detect_artifacts(image: Plane, known: Mask) -> tuple[Mask, Mask]:
    """Saturated dirt, and long gaps or folds: far from the tissue's brightness, and without its texture."""
    nothing = np.zeros(image.shape, dtype=bool)
    if known.sum() < 64:
        return nothing, nothing
    size = 5
    share = np.maximum(ndimage.uniform_filter(known.astype(np.float32), size), 1e-6)
    held = np.where(known, image, 0).astype(np.float32)
    mean = ndimage.uniform_filter(held, size) / share
    square = ndimage.uniform_filter(held * held, size) / share
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    typical = float(np.median(spread[known]))
    middle = float(np.median(mean[known]))
    away = np.abs(mean - middle)
    scale = 1.4826 * float(np.median(away[known])) + 1e-6
    smooth, bare = spread < 0.45 * typical, spread < 0.2 * typical
    core = known & ((away > 3.0 * scale) & smooth | (away > 1.5 * scale) & bare | (away > 6.0 * scale))
    core = ndimage.binary_opening(core, iterations=1)
    if not core.any():
        return nothing, nothing
    # From the core outwards over what is as bright or dark as it, the rim that a window blurs away included.
    near = known & (np.abs(image - middle) > 1.5 * scale)
    grown = core | ndimage.binary_dilation(core, iterations=4, mask=near)
    labels, count = ndimage.label(grown, structure=np.ones((3, 3)))
    boxes = ndimage.find_objects(labels)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    crack = np.zeros(image.shape, dtype=bool)
    for k, box in enumerate(boxes, start=1):
        extent = float(np.hypot(*(s.stop - s.start for s in box)))
        if extent > 0.2 * min(image.shape) and areas[k] < 0.35 * extent**2:
            crack[box] |= labels[box] == k
    rim = ndimage.binary_dilation(grown & ~crack, iterations=1), ndimage.binary_dilation(crack, iterations=2)
    return rim[0] & known, rim[1] & known


def split_fragments(image: Plane, empty: Mask, tears: Mask) -> tuple[Labels, Mask]:
    """Into which pieces a section fell, ``(h, w)``, and the line that parts them, if it was not known yet.

    Parameters
    ----------
    image
        ``(h, w)``, brightness.
    empty, tears
        Pixels of no section at all, and of cracks and folds that are known.

    Notes
    -----
    A crack need not be darker or brighter than everything else, nor more even; but it is a line. So the brightness,
    freed of shading, is cut off at one level after the other, and wherever what lies beyond the level hangs together
    over most of the section while it covers little of it, that is a line. It only counts if it cuts the section apart:
    chains of membranes or vessels that do not are left alone.
    """
    step = max(min(image.shape) // SEARCHED, 1)
    share = _thinned((~empty).astype(np.float32), step)
    seen, through = share > 0.5, np.zeros(image.shape, dtype=bool)
    for line in _lines(_thinned(np.where(empty, 0, image).astype(np.float32), step), share) if seen.any() else ():
        if label_fragments(line, ~seen).any():
            through |= np.kron(line, np.ones((step, step), dtype=bool))[: image.shape[0], : image.shape[1]] & ~empty
    return label_fragments(tears | through, empty), through


def _lines(image: Plane, share: Plane) -> Iterator[Mask]:
    """All that looks like a line, often the same one several times; ``share`` says how much of each pixel is known."""
    seen, flat = share > 0.5, _unshaded(image, share)
    side, middle = min(seen.shape), float(np.median(flat[seen]))
    scale = 1.4826 * float(np.median(np.abs(flat[seen] - middle)))
    for away in (flat - middle, middle - flat):
        for level in np.linspace(max(float(np.percentile(away[seen], 99.7)), scale), scale, LEVELS):
            # filters of bytes, which take a fifth of the time of binary openings and closings
            thick = ndimage.minimum_filter((seen & (away > level)).view(np.uint8), 3, mode="constant")
            joined = ndimage.maximum_filter(thick, 3 + 2 * JOIN, mode="constant")
            labels, _ = ndimage.label(joined)
            boxes = ndimage.find_objects(labels)
            extents = np.array([np.hypot(*(s.stop - s.start - 2 * JOIN for s in box)) for box in boxes])
            long = np.flatnonzero(extents > LONG * side)
            if len(long):
                closed = ndimage.minimum_filter(joined, 1 + 2 * JOIN, mode="nearest")
            for k in long:
                line = (closed > 0) & (labels == k + 1)
                if line.sum() < NARROW * extents[k]:
                    yield ndimage.binary_dilation(line, iterations=2)


def _thinned(image: Plane, step: int) -> Plane:
    """Means over blocks; a last one that is not whole counts as if the rest of it were nothing."""
    if step == 1:
        return image
    padded = np.pad(image, [(0, -n % step) for n in image.shape])
    return np.asarray(padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step).mean(axis=(1, 3)))


def _unshaded(image: Plane, share: Plane) -> Plane:
    """Brightness freed of grain and shading."""
    fine = ndimage.uniform_filter(image, 3) / np.maximum(ndimage.uniform_filter(share, 3), 1e-3)
    sigma = min(image.shape) / SHADING / 4
    coarse = ndimage.gaussian_filter(_thinned(image, 4), sigma) / np.maximum(
        ndimage.gaussian_filter(_thinned(share, 4), sigma), 1e-3
    )
    return np.asarray(fine - np.kron(coarse, np.ones((4, 4)))[: image.shape[0], : image.shape[1]], dtype=np.float32)


def label_fragments(crack: Mask, empty: Mask, least: float = 0.04) -> Labels:
    """Which piece of the section each pixel belongs to, ``(h, w)``, when cracks cut it right through.

    Parameters
    ----------
    crack, empty
        ``(h, w)`` pixels of cracks and of no section at all.
    least
        Share of the section below which a piece is too small to be matched by itself.
    """
    whole = np.zeros(crack.shape, dtype=np.uint8)
    if not (crack | empty).any():
        return whole
    # a crack that ends just short of the border, or is bridged by a thread, still lets its sides move apart
    closed = _closed(crack | empty) | crack
    labels, count = ndimage.label(~closed)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    keep = [k + 1 for k in np.argsort(-areas, kind="stable") if areas[k] >= least * crack.size][:4]
    if len(keep) < 2:
        return whole
    chosen = np.zeros(count + 1, dtype=np.uint8)
    chosen[keep] = np.arange(1, len(keep) + 1)
    seeds = chosen[labels]
    nearest = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    return np.asarray(seeds[tuple(nearest)] - 1, dtype=np.uint8)


def _closed(mask: Mask) -> Mask:
    """A mask whose gaps of a few pixels are closed, those to the border too."""
    return np.asarray(ndimage.binary_closing(np.pad(mask, 4, mode="edge"), iterations=3)[4:-4, 4:-4])
