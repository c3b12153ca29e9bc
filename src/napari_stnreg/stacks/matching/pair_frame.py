"""Sample two sections on a common frame and compare their features, with gradients for Gauss-Newton steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_stnreg.core.grid import FloatArray
from napari_stnreg.ops.filters import box_sum
from napari_stnreg.ops.interpolation import sample
from napari_stnreg.stacks.preprocessing.features import PreparedSection
from napari_stnreg.stacks.section_transform import SectionTransform, corners

MIN_COMMON_PIXELS = 64
"""Pairs with fewer common pixels are not compared. Set by hand; no tuning is recorded."""


@dataclass(frozen=True)
class PairFrame:
    """Pixel grid on the canvas on which two sections are compared.

    Parameters
    ----------
    y, x
        ``(h,)`` and ``(w,)`` canvas coordinates of the pixel centers, in full-resolution pixels.
    step
        Pixel size, in full-resolution pixels.
    """

    y: FloatArray
    x: FloatArray
    step: float

    @classmethod
    def over(cls, low: FloatArray, high: FloatArray, step: float) -> PairFrame:
        """Create the frame of pixels of size ``step`` between two corners of a box."""
        count = np.maximum(np.ceil((high - low) / step - 1e-6), 1).astype(int)
        y, x = (low[a] + step * (np.arange(count[a]) + 0.5) for a in (0, 1))
        return cls(y, x, step)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of pixels along y and x."""
        return len(self.y), len(self.x)

    def points(self) -> Tensor:
        """Return the pixel centers ``(h, w, 2)``."""
        y, x = (torch.as_tensor(a, dtype=torch.float32) for a in (self.y, self.x))
        return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)


class FeatureSampler:
    """Interpolates the features of a section, or of one fragment, at one pyramid level."""

    def __init__(self, section: PreparedSection, level: int, affine: FloatArray, fragment: int | None = None) -> None:
        features, weight = section.levels[level], section.weights[level]
        if fragment is not None:
            weight = weight * fragment_mask(section, level, fragment)
        self.image = torch.from_numpy(np.concatenate([features, weight[None]]))[None]
        self.step = section.factor * 2.0**level
        # canvas pixels to this level's indices: (raw + 0.5) / step - 0.5
        self.linear = torch.as_tensor(affine[:2, :2].T / self.step, dtype=torch.float32)
        self.shift = torch.as_tensor((affine[:2, 2] + 0.5) / self.step - 0.5, dtype=torch.float32)

    def sample_features(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Sample features ``(C, h, w)`` and the tissue mask ``(h, w)`` at canvas positions ``(h, w, 2)``."""
        values = sample(self.image, (points @ self.linear + self.shift)[None])[0]
        return values[:-1], (values[-1] > 0.99).float()


def fragment_mask(
    section: PreparedSection, level: int, fragment: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return the mask of a fragment at a pyramid level, 1 inside and 0 outside."""
    shape, stride = section.weights[level].shape, 2**level
    rows = np.minimum(np.arange(shape[0]) * stride + stride // 2, section.fragment_labels.shape[0] - 1)
    columns = np.minimum(np.arange(shape[1]) * stride + stride // 2, section.fragment_labels.shape[1] - 1)
    return np.asarray(section.fragment_labels[np.ix_(rows, columns)] == fragment, dtype=np.float32)


def common_box(transforms: tuple[SectionTransform, ...]) -> tuple[FloatArray, FloatArray]:
    """Return the common bounding box of several sections on the canvas, by their affine parts alone."""
    lows, highs = [], []
    for one in transforms:
        back = np.linalg.inv(one.affines)
        edges = np.concatenate([corners(one.shape) @ m[:2, :2].T + m[:2, 2] for m in back])
        lows.append(edges.min(axis=0))
        highs.append(edges.max(axis=0))
    low, high = np.max(lows, axis=0), np.min(highs, axis=0)
    return low, np.maximum(high, low + 1)


@dataclass(frozen=True)
class Comparison:
    """Difference of two warped sections and its gradient with respect to the second one.

    Parameters
    ----------
    difference
        ``(C, h, w)`` second minus first.
    gradients
        ``(2, C, h, w)`` of the features along y and x, per full-resolution pixel.
    weight
        ``(h, w)`` 1 where both are tissue and the error is not trimmed.
    score
        Correlation of the features over the common tissue, -1 to 1.
    overlap
        Common tissue as a fraction of the frame.
    """

    difference: Tensor
    gradients: Tensor
    weight: Tensor
    score: float
    overlap: float


def compare(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], step: float, trim_fraction: float
) -> Comparison:
    """Compare two warped sections; the ``trim_fraction`` largest errors get no weight (as in ssEMnet)."""
    (a, mask_a), (b, mask_b) = first, second
    known = mask_a * mask_b
    difference = b - a
    gradients = torch.zeros((2, *a.shape), dtype=a.dtype)
    # mean of both gradients: efficient second-order minimization (Malis 2004)
    both = a + b
    gradients[0, :, 1:-1] = (both[:, 2:] - both[:, :-2]) * (0.25 / step)
    gradients[1, :, :, 1:-1] = (both[:, :, 2:] - both[:, :, :-2]) * (0.25 / step)
    inside = -F.max_pool2d(-known[None, None], 3, 1, 1)[0, 0]
    inside[[0, -1]], inside[:, [0, -1]] = 0, 0
    count = float(inside.sum())
    score = correlation(a, b, known)
    weight = inside
    if trim_fraction > 0 and count > MIN_COMMON_PIXELS:
        error = box_sum((difference.square().sum(0) * inside)[None, None], 2)[0, 0]
        subsampled, kept = error[::2, ::2], inside[::2, ::2] > 0
        values = subsampled[kept]
        if values.numel() > MIN_COMMON_PIXELS:
            threshold = values.kthvalue(max(int(values.numel() * (1 - trim_fraction)), 1)).values
            weight = inside * (error <= threshold)
    return Comparison(difference, gradients, weight, score, float(known.mean()))


def correlation(a: Tensor, b: Tensor, known: Tensor) -> float:
    """Return Pearson's correlation of features ``(C, h, w)`` over ``known``, centered per channel; 0 if constant."""
    total = float(known.sum())
    if total < MIN_COMMON_PIXELS:
        return 0.0
    a = (a - (a * known).sum((1, 2), keepdim=True) / total) * known
    b = (b - (b * known).sum((1, 2), keepdim=True) / total) * known
    scale = float((a.square().sum() * b.square().sum()).sqrt())
    return float((a * b).sum()) / scale if scale > 0 else 0.0
