"""A section as the matching sees it: what of it is tissue, and what is compared, from fine to coarse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_stnreg.stacks.preprocessing.artifacts import Mask, Plane, detect_artifacts, split_fragments
from napari_stnreg.stacks.section_transform import Labels
from napari_stnreg.stacks.settings import StackSettings

Extractor = Callable[[Plane], Plane]
"""Makes features ``(C, h, w)`` of a normalized image ``(h, w)``: a trained auto-encoder, for instance."""

COARSEST = 40
"""A pyramid goes on until its shorter side would fall below this many pixels."""
NEARLY_EMPTY = 0.15
"""With less tissue than this share a section cannot be matched."""
WINDOW = 6.0
"""Standard deviation, in pixels of each level, of the window in which brightness is normalized."""
GRAIN = 1.0
"""The same of the smoothing before: the finest detail is another in every section, and only disturbs."""


@dataclass(frozen=True)
class PreparedSection:
    """What is kept of a section for matching.

    Parameters
    ----------
    image
        ``(h, w)``, float32, brightness from about 0 to 1.
    levels
        Features ``(C, h, w)``, float32, from the working resolution down by halves.
    weights
        ``(h, w)`` of each level: 1 on tissue, 0 on empty pixels, dirt, cracks and folds.
    parts
        ``(h, w)`` which piece each working pixel belongs to; all zero for a section in one piece.
    shape
        Full-resolution pixels.
    factor
        Full-resolution pixels in a working pixel, along each axis.
    fault
        Empty for a section that can be matched, else a few words.
    figures
        ``tissue``, ``empty``, ``dirt`` (shares of the pixels), ``contrast`` (robust spread over the full range of what
        was given), ``pieces``.
    """

    image: Plane
    levels: tuple[Plane, ...]
    weights: tuple[Plane, ...]
    fragment_labels: Labels
    shape: tuple[int, int]
    factor: int
    fault: str = ""
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def n_fragments(self) -> int:
        """Into how many pieces the section fell."""
        return int(self.fragment_labels.max()) + 1

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """What there is to keep of it, by name; figures and fault are not among them."""
        found: dict[str, npt.NDArray[np.generic]] = {
            "image": self.image,
            "fragment_labels": self.fragment_labels,
            "shape": np.array([*self.shape, self.factor]),
        }
        for k, (level, weight) in enumerate(zip(self.levels, self.weights, strict=True)):
            found[f"level{k}"], found[f"weight{k}"] = level, weight
        return found

    @classmethod
    def from_arrays(
        cls, arrays: dict[str, npt.NDArray[np.generic]], fault: str, figures: dict[str, float]
    ) -> PreparedSection:
        """The section that :meth:`to_arrays` was taken of."""
        height, width, factor = (int(n) for n in np.asarray(arrays["shape"]))
        count = sum(name.startswith("level") for name in arrays)
        levels = tuple(np.asarray(arrays[f"level{k}"], dtype=np.float32) for k in range(count))
        weights = tuple(np.asarray(arrays[f"weight{k}"], dtype=np.float32) for k in range(count))
        fragment_labels = np.asarray(arrays["fragment_labels"], dtype=np.uint8)
        image = np.asarray(arrays["image"], dtype=np.float32)
        return cls(image, levels, weights, fragment_labels, (height, width), factor, fault, figures)


def prepare(
    working: npt.NDArray[np.generic],
    settings: StackSettings,
    *,
    shape: tuple[int, int] | None = None,
    factor: int = 1,
    mask: npt.NDArray[np.generic] | None = None,
    extractor: Extractor | None = None,
) -> PreparedSection:
    """Normalize a section, find what of it is tissue, and make its pyramid of features.

    Parameters
    ----------
    working
        ``(h, w)``, the section at its working resolution; NaN counts as empty.
    settings
        What is compared, and whether cracks are looked for.
    shape
        Of the section at full resolution; that of ``working`` times ``factor`` if not given.
    factor
        Full-resolution pixels in a working pixel.
    mask
        ``(h, w)``, non-zero where a person knows better: those pixels are left out (cracks, folds, dirt).
    extractor
        Makes the features of ``features="auto-encoder"``.
    """
    image = np.array(working, dtype=np.float32)
    known = np.isfinite(image)
    image[~known] = 0
    full = shape or (image.shape[0] * factor, image.shape[1] * factor)
    if mask is not None:
        known &= np.asarray(mask) == 0
    empty = ~known | _flat_extremes(image, known)
    dirt, crack = detect_artifacts(image, ~empty)
    fragment_labels = np.zeros(image.shape, dtype=np.uint8)
    if settings.split_at_cracks:
        fragment_labels, through = split_fragments(
            image, empty, crack if mask is None else crack | (np.asarray(mask) != 0)
        )
        crack |= through
    tissue = ~(empty | dirt | crack)
    figures = {"tissue": float(tissue.mean()), "empty": float(empty.mean()), "dirt": float((dirt | crack).mean())}
    low, high = np.percentile(image[tissue], [1, 99]) if tissue.any() else (0.0, 0.0)
    span = float(image[known].max() - image[known].min()) if known.any() else 0.0
    figures["contrast"] = float(high - low) / span if span > 0 else 0.0
    fault = ""
    if not tissue.any() or high <= low:
        fault = "missing"
    elif figures["tissue"] < NEARLY_EMPTY:
        fault = "nearly empty"
    if fault:
        fragment_labels[:] = 0
    figures["fragments"] = float(fragment_labels.max()) + 1
    if fault:
        plain = image[None], tissue.astype(np.float32)
        return PreparedSection(image, plain[:1], plain[1:], fragment_labels, full, factor, fault, figures)
    image = np.clip((image - low) / (high - low), -0.2, 1.2).astype(np.float32)
    levels, weights = _pyramid(image, tissue, settings, extractor)
    return PreparedSection(image, tuple(levels), tuple(weights), fragment_labels, full, factor, fault, figures)


def _flat_extremes(image: Plane, known: Mask) -> Mask:
    """Pixels of the very lowest or highest value that lie together: what a scanner or a warp fills in."""
    result = np.zeros(image.shape, dtype=bool)
    if not known.any():
        return result
    flat = ndimage.maximum_filter(image, 5) == ndimage.minimum_filter(image, 5)
    for value in (image[known].min(), image[known].max()):
        same = known & (image == value)
        seeds = same & flat
        if seeds.any():
            # only what hangs together with a flat piece: single black pixels are membranes
            result |= ndimage.binary_dilation(seeds, iterations=3, mask=same)
    return result


def _pyramid(
    image: Plane, tissue: Mask, settings: StackSettings, extractor: Extractor | None
) -> tuple[list[Plane], list[Plane]]:
    weight = tissue.astype(np.float32)
    levels: list[Plane] = []
    weights: list[Plane] = []
    while True:
        use = extractor if not levels else None
        levels.append(describe(image, weight, settings, use))
        weights.append(weight)
        if min(image.shape) < 2 * COARSEST:
            return levels, weights
        mass = _halved(weight)
        image = (_halved(image * weight) / np.maximum(mass, 1e-6)).astype(np.float32)
        weight = (mass > 0.5).astype(np.float32)


def describe(image: Plane, weight: Plane, settings: StackSettings, extractor: Extractor | None) -> Plane:
    """The features ``(C, h, w)`` by which neighbors are compared, about zero in the mean and one in spread."""
    if settings.features == "auto-encoder" and extractor is not None:
        found = np.asarray(extractor(image), dtype=np.float32)
    elif settings.features == "intensity":
        found = image[None]
    elif settings.features == "bandpass":
        found = (_blur(image, weight, 1.0) - _blur(image, weight, 8.0))[None]
    else:
        image = _blur(image, weight, GRAIN)
        mean = _blur(image, weight, WINDOW)
        variance = np.maximum(_blur(image * image, weight, WINDOW) - mean**2, 0)
        inside = variance[weight > 0]
        floor = 0.1 * float(np.median(inside)) if inside.size else 1.0
        return np.asarray(((image - mean) / np.sqrt(variance + floor + 1e-8) * weight)[None], dtype=np.float32)
    held = weight > 0
    values = found[:, held]
    middle = values.mean(axis=1)[:, None, None]
    # one scale for all channels: a channel that says little must not be blown up
    scale = float(np.sqrt(values.var(axis=1).sum())) + 1e-8
    return np.asarray((found - middle) / scale * weight, dtype=np.float32)


def _blur(values: Plane, weight: Plane, sigma: float) -> Plane:
    mass = ndimage.gaussian_filter(weight, sigma, truncate=3.0)
    return np.asarray(ndimage.gaussian_filter(values * weight, sigma, truncate=3.0) / np.maximum(mass, 1e-3))


def _halved(values: Plane) -> Plane:
    """Means of blocks of 2 x 2; a last odd row or column is averaged with itself."""
    height, width = values.shape
    padded = np.pad(values, ((0, height % 2), (0, width % 2)), mode="edge")
    return np.asarray(padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2).mean(axis=(1, 3)))
