"""Prepare a section for matching: tissue mask, normalization and a pyramid of features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_stnreg.stacks.preprocessing.artifacts import (
    CRACK,
    DIRT,
    EMPTY,
    Mask,
    Plane,
    detect_artifacts,
    split_fragments,
)
from napari_stnreg.stacks.section_transform import Labels
from napari_stnreg.stacks.settings import StackSettings

Extractor = Callable[[Plane], Plane]
"""Computes features ``(C, h, w)`` of a normalized image ``(h, w)``, for example a trained auto-encoder."""


@dataclass(frozen=True)
class FeatureParameters:
    """Tuning constants of the features. All were set by hand; no tuning is recorded.

    Parameters
    ----------
    min_side_px
        The pyramid ends before its shorter side falls below this.
    min_tissue_fraction
        A section with less tissue is nearly empty and is not matched.
    normalization_sigma_px
        Standard deviation, in pixels of each level, of the window of the local normalization.
    smoothing_sigma_px
        Standard deviation of the smoothing before it. The finest detail differs between sections.
    bandpass_sigmas_px
        Standard deviations of the difference of Gaussians of the bandpass features.
    variance_floor
        Lower limit of the local variance, relative to its median.
    """

    min_side_px: int = 40
    min_tissue_fraction: float = 0.15
    normalization_sigma_px: float = 6.0
    smoothing_sigma_px: float = 1.0
    bandpass_sigmas_px: tuple[float, float] = (1.0, 8.0)
    variance_floor: float = 0.1


PARAMETERS = FeatureParameters()


@dataclass(frozen=True)
class PreparedSection:
    """A section prepared for matching.

    Parameters
    ----------
    image
        ``(h, w)``, float32, normalized gray values from about 0 to 1.
    levels
        Features ``(C, h, w)``, float32, one entry per pyramid level, each half the size of the one before.
    weights
        ``(h, w)`` of each level: 1 on tissue, 0 on empty pixels, dirt, cracks and folds.
    fragment_labels
        ``(h, w)`` fragment of each working pixel; all zero for a section without cracks.
    artifacts
        ``(h, w)`` class of each working pixel by the section alone: 0 tissue, 1 dirt, 2 crack or fold, 3 empty.
    shape
        Size of the section in full-resolution pixels.
    factor
        Full-resolution pixels in a working pixel, along each axis.
    fault
        Empty for a section that can be matched, else the reason.
    figures
        ``tissue``, ``empty`` and ``dirt`` (fractions of the pixels), ``contrast`` (1st to 99th percentile relative to
        the full range), ``fragments``, and ``inverted`` (1 if the contrast was inverted to match the neighbors).
    """

    image: Plane
    levels: tuple[Plane, ...]
    weights: tuple[Plane, ...]
    fragment_labels: Labels
    artifacts: npt.NDArray[np.uint8]
    shape: tuple[int, int]
    factor: int
    fault: str = ""
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def n_fragments(self) -> int:
        """Number of fragments."""
        return int(self.fragment_labels.max()) + 1

    def inverted(self) -> PreparedSection:
        """Return the section with inverted contrast."""
        figures = {**self.figures, "inverted": 1.0 - self.figures.get("inverted", 0.0)}
        return replace(self, image=1 - self.image, levels=tuple(-level for level in self.levels), figures=figures)

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the arrays by name, without fault and figures."""
        found: dict[str, npt.NDArray[np.generic]] = {
            "image": self.image,
            "fragment_labels": self.fragment_labels,
            "artifacts": self.artifacts,
            "shape": np.array([*self.shape, self.factor]),
        }
        for k, (level, weight) in enumerate(zip(self.levels, self.weights, strict=True)):
            found[f"level{k}"], found[f"weight{k}"] = level, weight
        return found

    @classmethod
    def from_arrays(
        cls, arrays: dict[str, npt.NDArray[np.generic]], fault: str, figures: dict[str, float]
    ) -> PreparedSection:
        """Restore a section from :meth:`to_arrays`."""
        height, width, factor = (int(n) for n in np.asarray(arrays["shape"]))
        count = sum(name.startswith("level") for name in arrays)
        levels = tuple(np.asarray(arrays[f"level{k}"], dtype=np.float32) for k in range(count))
        weights = tuple(np.asarray(arrays[f"weight{k}"], dtype=np.float32) for k in range(count))
        labels, artifacts = (np.asarray(arrays[name], dtype=np.uint8) for name in ("fragment_labels", "artifacts"))
        image = np.asarray(arrays["image"], dtype=np.float32)
        return cls(image, levels, weights, labels, artifacts, (height, width), factor, fault, figures)


def prepare(
    working: npt.NDArray[np.generic],
    settings: StackSettings,
    *,
    shape: tuple[int, int] | None = None,
    factor: int = 1,
    mask: npt.NDArray[np.generic] | None = None,
    extractor: Extractor | None = None,
) -> PreparedSection:
    """Mask the tissue of a section, normalize its gray values, and compute its pyramid of features.

    Parameters
    ----------
    working
        ``(h, w)`` section at the working resolution. NaN counts as empty.
    settings
        Type of features, and whether cracks are detected.
    shape
        Size at full resolution. Default: the shape of ``working`` times ``factor``.
    factor
        Full-resolution pixels in a working pixel.
    mask
        ``(h, w)``, non-zero at pixels to exclude (cracks, folds, dirt).
    extractor
        Computes the features of ``features="auto-encoder"``.
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
        fragment_labels, new_cracks = split_fragments(
            image, empty, crack if mask is None else crack | (np.asarray(mask) != 0)
        )
        crack |= new_cracks
    artifacts = np.select([empty, crack, dirt], [EMPTY, CRACK, DIRT], 0).astype(np.uint8)
    tissue = artifacts == 0
    figures = {"tissue": float(tissue.mean()), "empty": float(empty.mean()), "dirt": float((dirt | crack).mean())}
    low, high = np.percentile(image[tissue], [1, 99]) if tissue.any() else (0.0, 0.0)
    span = float(image[known].max() - image[known].min()) if known.any() else 0.0
    figures["contrast"] = float(high - low) / span if span > 0 else 0.0
    fault = ""
    if not tissue.any() or high <= low:
        fault = "missing"
    elif figures["tissue"] < PARAMETERS.min_tissue_fraction:
        fault = "nearly empty"
    if fault:
        fragment_labels[:] = 0
    figures["fragments"] = float(fragment_labels.max()) + 1
    if fault:
        plain = image[None], tissue.astype(np.float32)
        return PreparedSection(image, plain[:1], plain[1:], fragment_labels, artifacts, full, factor, fault, figures)
    image = np.clip((image - low) / (high - low), -0.2, 1.2).astype(np.float32)
    levels, weights = compute_pyramid(image, tissue, settings, extractor)
    return PreparedSection(
        image, tuple(levels), tuple(weights), fragment_labels, artifacts, full, factor, fault, figures
    )


def _flat_extremes(image: Plane, known: Mask) -> Mask:
    """Find connected areas of the lowest or highest value: fill values of a scanner or of resampling."""
    result = np.zeros(image.shape, dtype=bool)
    if not known.any():
        return result
    flat = ndimage.maximum_filter(image, 5) == ndimage.minimum_filter(image, 5)
    for value in (image[known].min(), image[known].max()):
        same = known & (image == value)
        seeds = same & flat
        if seeds.any():
            # only areas connected to a flat patch: single black pixels are membranes
            result |= ndimage.binary_dilation(seeds, iterations=3, mask=same)
    return result


def compute_pyramid(
    image: Plane, tissue: Mask, settings: StackSettings, extractor: Extractor | None
) -> tuple[list[Plane], list[Plane]]:
    """Compute the features and the tissue weights of every pyramid level."""
    weight = tissue.astype(np.float32)
    levels: list[Plane] = []
    weights: list[Plane] = []
    while True:
        use = extractor if not levels else None
        levels.append(compute_features(image, weight, settings, use))
        weights.append(weight)
        if min(image.shape) < 2 * PARAMETERS.min_side_px:
            return levels, weights
        mass = _downsample(weight)
        image = (_downsample(image * weight) / np.maximum(mass, 1e-6)).astype(np.float32)
        weight = (mass > 0.5).astype(np.float32)


def compute_features(image: Plane, weight: Plane, settings: StackSettings, extractor: Extractor | None) -> Plane:
    """Compute features ``(C, h, w)`` with a mean of about 0 and a standard deviation of about 1."""
    if settings.features == "auto-encoder" and extractor is not None:
        found = np.asarray(extractor(image), dtype=np.float32)
    elif settings.features == "intensity":
        found = image[None]
    elif settings.features == "bandpass":
        fine, coarse = (_blur(image, weight, sigma) for sigma in PARAMETERS.bandpass_sigmas_px)
        found = (fine - coarse)[None]
    else:
        image = _blur(image, weight, PARAMETERS.smoothing_sigma_px)
        mean = _blur(image, weight, PARAMETERS.normalization_sigma_px)
        variance = np.maximum(_blur(image * image, weight, PARAMETERS.normalization_sigma_px) - mean**2, 0)
        inside = variance[weight > 0]
        floor = PARAMETERS.variance_floor * float(np.median(inside)) if inside.size else 1.0
        return np.asarray(((image - mean) / np.sqrt(variance + floor + 1e-8) * weight)[None], dtype=np.float32)
    inside_mask = weight > 0
    values = found[:, inside_mask]
    center = values.mean(axis=1)[:, None, None]
    # one scale for all channels, so that channels with little contrast are not amplified
    scale = float(np.sqrt(values.var(axis=1).sum())) + 1e-8
    return np.asarray((found - center) / scale * weight, dtype=np.float32)


def _blur(values: Plane, weight: Plane, sigma: float) -> Plane:
    mass = ndimage.gaussian_filter(weight, sigma, truncate=3.0)
    return np.asarray(ndimage.gaussian_filter(values * weight, sigma, truncate=3.0) / np.maximum(mass, 1e-3))


def _downsample(values: Plane) -> Plane:
    """Average 2 x 2 blocks; an odd last row or column is repeated."""
    height, width = values.shape
    padded = np.pad(values, ((0, height % 2), (0, width % 2)), mode="edge")
    return np.asarray(padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2).mean(axis=(1, 3)))
