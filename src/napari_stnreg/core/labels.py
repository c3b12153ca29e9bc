"""Which images hold labels: whole numbers that name regions and must not be mixed by interpolation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.image import Image

_WORDS = {"label", "labels", "seg", "segmentation", "aseg", "dseg", "parc", "parcellation", "mask", "masks",
          "annotation", "annotations"}  # fmt: skip
_NOT_LABELS = re.compile(r"label[\W_]*free|un[\W_]*label|mask[\W_]*(ed|ing)")


@dataclass(frozen=True)
class LabelParameters:
    """Numbers that distinguish labels from gray values.

    Set on segmentations of brains, hippocampi, cells and neurites (equal neighbors 0.64 to 0.97) and on microscopy,
    scanner and camera images of 8 and 16 bits (0.00 to 0.45, or smooth with steps of one gray value).

    Parameters
    ----------
    sample
        Voxels that are looked at, in whole rows spread over the image.
    smallest
        Voxels below which nothing is concluded.
    few_values
        Number of different values up to which neighbors of the next value do not contradict labels (tissue classes).
    equal_fraction
        Neighbors of equal value, of all pairs that are not background on both sides.
    region_fraction
        Fraction of the values other than the background whose neighbors are mostly equal.
    steps, small_step_fraction
        Largest fraction of borders between values that nearly follow each other, one of ``steps`` of all values apart:
        a smooth image has nearly only such.
    """

    sample: int = 1_000_000
    smallest: int = 256
    few_values: int = 16
    equal_fraction: float = 0.5
    region_fraction: float = 0.8
    steps: int = 32
    small_step_fraction: float = 0.5


def choose_interpolation(image: Image) -> tuple[Literal["linear", "nearest"], str]:
    """Return the interpolation of an image when none is given, and a sentence where it is not the usual one.

    Parameters
    ----------
    image
        An image with its name.

    Returns
    -------
    str, str
        ``"nearest"`` for labels, else ``"linear"``; and why labels were recognized, empty for other images.
    """
    reason = label_reason(image)
    if not reason:
        return "linear", ""
    return "nearest", f"'{image.name}' holds labels ({reason}): nearest interpolation. Set another one if it does not."


def label_reason(image: Image, parameters: LabelParameters = LabelParameters()) -> str:
    """Return why an image is treated as labels; empty if it is not.

    A statement of the file or layer decides. Otherwise whole numbers are labels if the name suggests it, or if they are
    integers of a few values in connected regions.
    """
    data = np.asarray(image.data)
    if image.is_labels is False or image.has_channel_axis or data.dtype.kind not in "iubf":
        return ""
    if image.is_labels:
        return "its file or layer is marked as labels"
    is_named = has_label_name(image.name)
    if data.dtype.kind == "f" and not (is_named and _is_whole(data)):
        return ""
    if is_named:
        return "by its name"
    return "few values in connected regions" if _has_regions(data, parameters) else ""


def has_label_name(name: str) -> bool:
    """Return whether a word of a name is such as label, seg or mask."""
    name = name.lower()
    return _NOT_LABELS.search(name) is None and bool(_WORDS & set(re.split(r"[^a-z]+", name)))


def _is_whole(data: npt.NDArray[Any]) -> bool:
    return bool(np.isfinite(data).all() and (data == np.rint(data)).all())


def _rows(data: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Planes of two axes ``(n, y, x)`` spread over the image, or bands of rows, of about ``count`` voxels in all."""
    planes = data.reshape(-1, *data.shape[-2:])
    size = planes.shape[1] * planes.shape[2]
    wanted = max(min(len(planes), count // max(size, 1)), 1)
    planes = planes[np.linspace(0, len(planes) - 1, wanted).round().astype(int)] if wanted < len(planes) else planes
    if planes.size <= 2 * count:
        return planes
    height = max(count // (8 * planes.shape[2]), 2)
    tops = np.linspace(0, planes.shape[1] - height, 8).astype(int)
    return np.concatenate([planes[:, top : top + height] for top in tops])


def _has_regions(data: npt.NDArray[Any], parameters: LabelParameters) -> bool:
    if data.dtype == np.bool_ or min(data.shape[-2:]) < 2 or data.size < parameters.smallest:
        return False  # interpolation does not invent values between true and false
    planes = _rows(data, parameters.sample)
    if float(np.mean(planes[:, :, 1:] == planes[:, :, :-1])) < parameters.equal_fraction / 2:
        return False  # gray values of a camera or a scanner rarely repeat
    values, ranks, counts = np.unique(planes, return_inverse=True, return_counts=True)
    if len(values) < 2:
        return False
    background = int(counts.argmax())
    ranks = ranks.reshape(planes.shape)
    first = np.concatenate([ranks[:, :, 1:].ravel(), ranks[:, 1:].ravel()])
    second = np.concatenate([ranks[:, :, :-1].ravel(), ranks[:, :-1].ravel()])
    counted = (first != background) | (second != background)
    first, second = first[counted], second[counted]
    if not len(first):
        return False
    equal = first == second
    if equal.mean() < parameters.equal_fraction:
        return False
    inside = np.bincount(first[equal], minlength=len(values)) * 2.0
    touched = np.bincount(first, minlength=len(values)) + np.bincount(second, minlength=len(values))
    foreground = np.arange(len(values)) != background
    regions = inside[foreground] >= parameters.equal_fraction * touched[foreground]
    if regions.mean() < parameters.region_fraction:
        return False
    borders = np.abs(first[~equal] - second[~equal])
    step = max(len(values) // parameters.steps, 1)
    is_smooth = len(borders) > 0 and float(np.mean(borders <= step)) > parameters.small_step_fraction
    return len(values) <= parameters.few_values or not is_smooth
