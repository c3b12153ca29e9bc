"""Two prepared sections laid on one canvas, and the sums that Gauss-Newton steps are made of."""

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

LEAST_PIXELS = 64
"""With fewer common pixels nothing is said about a pair."""


@dataclass(frozen=True)
class PairFrame:
    """Pixels of the canvas on which two sections are compared.

    Parameters
    ----------
    y, x
        ``(h,)`` and ``(w,)`` canvas coordinates of their centers, full-resolution pixels.
    step
        Their distance.
    """

    y: FloatArray
    x: FloatArray
    step: float

    @classmethod
    def over(cls, low: FloatArray, high: FloatArray, step: float) -> PairFrame:
        """Pixels of a size from the low face to the high one."""
        count = np.maximum(np.ceil((high - low) / step - 1e-6), 1).astype(int)
        y, x = (low[a] + step * (np.arange(count[a]) + 0.5) for a in (0, 1))
        return cls(y, x, step)

    @property
    def shape(self) -> tuple[int, int]:
        """Pixels along y and x."""
        return len(self.y), len(self.x)

    def points(self) -> Tensor:
        """Their centers ``(h, w, 2)``."""
        y, x = (torch.as_tensor(a, dtype=torch.float32) for a in (self.y, self.x))
        return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)


class FeatureSampler:
    """A prepared section (or one piece of it) at one level, to be read at canvas positions."""

    def __init__(self, section: PreparedSection, level: int, affine: FloatArray, part: int | None = None) -> None:
        features, weight = section.levels[level], section.weights[level]
        if part is not None:
            weight = weight * part_mask(section, level, part)
        self.image = torch.from_numpy(np.concatenate([features, weight[None]]))[None]
        self.step = section.factor * 2.0**level
        # canvas pixels to this level's indices: (raw + 0.5) / step - 0.5
        self.linear = torch.as_tensor(affine[:2, :2].T / self.step, dtype=torch.float32)
        self.shift = torch.as_tensor((affine[:2, 2] + 0.5) / self.step - 0.5, dtype=torch.float32)

    def read(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(C, h, w)`` and whether they are tissue ``(h, w)`` at canvas positions ``(h, w, 2)``."""
        values = sample(self.image, (points @ self.linear + self.shift)[None])[0]
        return values[:-1], (values[-1] > 0.99).float()


def part_mask(section: PreparedSection, level: int, part: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """1 where a level's pixels belong to a piece, 0 elsewhere."""
    shape, stride = section.weights[level].shape, 2**level
    rows = np.minimum(np.arange(shape[0]) * stride + stride // 2, section.fragment_labels.shape[0] - 1)
    columns = np.minimum(np.arange(shape[1]) * stride + stride // 2, section.fragment_labels.shape[1] - 1)
    return np.asarray(section.fragment_labels[np.ix_(rows, columns)] == part, dtype=np.float32)


def common_box(transforms: tuple[SectionTransform, ...]) -> tuple[FloatArray, FloatArray]:
    """The box of canvas positions that several sections reach, their vectors left aside."""
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
    """Where two warped sections differ, and how a shift of the second one would change that.

    Parameters
    ----------
    difference
        ``(C, h, w)`` second minus first.
    slopes
        ``(2, C, h, w)`` of the features along y and x, per full-resolution pixel.
    weight
        ``(h, w)`` 1 where both are tissue and not among the worst.
    score
        Correlation of the features over the common tissue, -1 to 1.
    overlap
        Common tissue, as a share of the canvas pixels.
    """

    difference: Tensor
    slopes: Tensor
    weight: Tensor
    score: float
    overlap: float


def compare(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], step: float, drop: float) -> Comparison:
    """Compare two warped sections; ``drop`` is the share of the worst errors that is left out (ssEMnet's trick)."""
    (a, held_a), (b, held_b) = first, second
    known = held_a * held_b
    difference = b - a
    mean = torch.zeros((2, *a.shape), dtype=a.dtype)
    # mean of both slopes: the second-order step (Malis 2004), twice as far as that of one image alone
    both = a + b
    mean[0, :, 1:-1] = (both[:, 2:] - both[:, :-2]) * (0.25 / step)
    mean[1, :, :, 1:-1] = (both[:, :, 2:] - both[:, :, :-2]) * (0.25 / step)
    inside = -F.max_pool2d(-known[None, None], 3, 1, 1)[0, 0]
    inside[[0, -1]], inside[:, [0, -1]] = 0, 0
    count = float(inside.sum())
    score = correlation(a, b, known)
    weight = inside
    if drop > 0 and count > LEAST_PIXELS:
        error = box_sum((difference.square().sum(0) * inside)[None, None], 2)[0, 0]
        thinned, kept = error[::2, ::2], inside[::2, ::2] > 0
        values = thinned[kept]
        if values.numel() > LEAST_PIXELS:
            worst = values.kthvalue(max(int(values.numel() * (1 - drop)), 1)).values
            weight = inside * (error <= worst)
    return Comparison(difference, mean, weight, score, float(known.mean()))


def correlation(a: Tensor, b: Tensor, known: Tensor) -> float:
    """Pearson's correlation of features ``(C, h, w)`` over ``known``, channel means taken off; 0 if nothing varies."""
    total = float(known.sum())
    if total < LEAST_PIXELS:
        return 0.0
    a = (a - (a * known).sum((1, 2), keepdim=True) / total) * known
    b = (b - (b * known).sum((1, 2), keepdim=True) / total) * known
    scale = float((a.square().sum() * b.square().sum()).sqrt())
    return float((a * b).sum()) / scale if scale > 0 else 0.0
