"""Similarity against chance: an alignment compared with the same images at wrong positions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from scipy.fft import next_fast_len
from scipy.special import ndtri, stdtr
from torch import Tensor

from napari_stnreg.losses.base import fill_masked
from napari_stnreg.ops.filters import gaussian, sparse_box_sum


@dataclass(frozen=True)
class ChanceParameters:
    """Constants of the null distribution. Set by hand on generated pairs of shapes, tissue and heads.

    Parameters
    ----------
    edge_smoothing
        Standard deviation of the Gaussian before the gradient, in voxels of the coarse lattice.
    edge_level
        Multiple of the mean squared gradient at which the strength of an edge is half.
    excluded_radius
        Shifts up to this fraction of the longest side count as the same place.
    max_shift
        Largest shift of the null distribution, as a fraction of each side.
    min_overlap
        Shifts that leave less than this fraction of the edges in common are not used.
    min_sample
        Shifts of the edges' null distribution at least, as a fraction of the number within the excluded radius.
    min_common
        Shifts that leave less than this fraction of the common voxels are not part of the null distribution. Zeros from
        them made a small image at any place stand 80 and more deviations above chance.
    window
        Radius of the window of the local correlation, in voxels.
    window_step
        Distance of the windows in voxels; they overlap, so that every second one is enough.
    bins
        Bins of the joint histogram.
    n_shifts
        Shifts at which local correlation and mutual information are computed.
    few_shifts
        With fewer shifts than this, deviations from their mean follow Student's distribution.
    min_spread
        Lower bound of the null distribution's standard deviation, so that constant images do not score high.
    """

    edge_smoothing: float = 0.8
    edge_level: float = 1.0
    excluded_radius: float = 0.12
    max_shift: float = 0.5
    min_overlap: float = 0.3
    min_sample: float = 0.25
    min_common: float = 0.1
    window: int = 3
    window_step: int = 2
    bins: int = 16
    n_shifts: int = 16
    few_shifts: int = 5
    min_spread: float = 0.01


PARAMETERS = ChanceParameters()


@dataclass(frozen=True)
class Chance:
    """Similarity of two images on one lattice, relative to the same images at wrong places.

    Parameters
    ----------
    edges, local_ncc, mutual_information
        Value of each measure: agreement of edges in place and direction (-1 to 1), squared local correlation (0 to 1),
        mutual information (nats). None depends on the sign of the contrast.
    edges_z, local_ncc_z, mutual_information_z
        The same in standard deviations above the mean of shifted copies.
    mirrored_z
        Best agreement of edges of a mirrored or turned copy at any shift, in the same standard deviations as
        :attr:`edges_z`.
    shifted_z
        Best agreement of edges of a shifted copy, in the same standard deviations.
    """

    edges: float
    local_ncc: float
    mutual_information: float
    edges_z: float
    local_ncc_z: float
    mutual_information_z: float
    mirrored_z: float
    shifted_z: float

    @property
    def z(self) -> float:
        """Mean of the three scores; below 2 is chance, above 4 alignment."""
        return (self.edges_z + self.local_ncc_z + self.mutual_information_z) / 3


def compare_with_chance(
    fixed: Tensor,
    moved: Tensor,
    weight: Tensor | None = None,
    parameters: ChanceParameters = PARAMETERS,
    *,
    mirror: bool = True,
) -> Chance:
    """Compare two aligned images with shifted, mirrored and turned copies of themselves.

    Parameters
    ----------
    fixed, moved
        Intensities ``(1, 1, *shape)`` on the same coarse lattice, 2D or 3D, of any contrast; about 64 voxels along the
        longest side in 2D and 32 in 3D.
    weight
        ``(1, 1, *shape)``, where both are defined; ``None`` for everywhere.
    mirror
        Whether mirrored and turned copies are compared; without them :attr:`Chance.mirrored_z` is 0.

    Notes
    -----
    The agreement of edges is evaluated at all shifts by Fourier transform, the other measures at a fixed set of shifts.
    """
    weight = torch.ones_like(fixed) if weight is None else weight.to(fixed.dtype)
    fixed, moved = (_standardized(fill_masked(image, weight), weight) for image in (fixed, moved))
    shape = tuple(fixed.shape[2:])
    first, second = (edge_features(image, weight, parameters) for image in (fixed, moved))
    copies = [second, *(_flipped(second, axes) for axes in _flips(len(shape)) if mirror)]
    surface, *flipped = edge_agreement(first, torch.cat(copies), parameters)
    distance, allowed = _shift_distance(shape, fixed), _within(shape, parameters.max_shift, fixed)
    far = distance > parameters.excluded_radius * max(shape)
    elsewhere = _finite(surface[allowed & far & _is_common(weight, parameters)])
    # a few shifts next to each other are no sample of wrong places
    mean, spread = _moments(elsewhere, parameters.min_spread, parameters.min_sample * int((~far).sum()))
    edges = _largest(surface[distance <= 1.5], mean)
    near = _within(shape, parameters.max_shift / 2, fixed)
    mirrored = max((_largest(other[near], mean) for other in flipped), default=mean)
    *values, common = _values_at(fixed, moved, weight, _shifts(shape, parameters), parameters)
    known = common[1:] >= parameters.min_common * common[0]
    z = []
    for value in values:
        middle, wide = _moments(value[1:][known], 0.1 * parameters.min_spread)
        z.append(_deviations((float(value[0]) - middle) / wide, int(known.sum()), parameters.few_shifts))
    return Chance(
        edges,
        float(values[0][0]),
        float(values[1][0]),
        (edges - mean) / spread,
        z[0],
        z[1],
        (mirrored - mean) / spread,
        (_largest(elsewhere, mean) - mean) / spread,
    )


def edge_features(image: Tensor, weight: Tensor, parameters: ChanceParameters = PARAMETERS) -> Tensor:
    """Return edge strength and direction without sign, ``(B, D * (D + 1) / 2, *shape)``.

    The components are those of the gradient's outer product, scaled so that the inner product of two voxels is the
    squared cosine of the angle between their edges times both strengths, minus what random directions would give.
    """
    ndim = image.ndim - 2
    smooth = gaussian(image, parameters.edge_smoothing, edge="nearest")
    gradients = torch.cat([_central_difference(smooth, axis) for axis in range(2, image.ndim)], 1)
    inside = weight
    for axis in range(2, image.ndim):  # a difference across the border of the mask is not an edge
        inside = torch.minimum(inside, torch.minimum(_neighbor(weight, axis, 1), _neighbor(weight, axis, -1)))
    magnitude = gradients.square().sum(1, keepdim=True).sqrt()
    known = (inside > 0.5).to(image.dtype)
    square = magnitude.square() * known
    axes = tuple(range(1, image.ndim))
    mean = square.sum(axes, keepdim=True) / known.sum(axes, keepdim=True).clamp_min(1)
    strength = square / (square + parameters.edge_level * mean.clamp_min(1e-6))
    direction = gradients / magnitude.clamp_min(1e-12)
    parts = []
    for i, j in itertools.combinations_with_replacement(range(ndim), 2):
        product = direction[:, i : i + 1] * direction[:, j : j + 1]
        parts.append((product - 1 / ndim) if i == j else math.sqrt(2) * product)
    return torch.cat(parts, 1) * strength


def edge_agreement(
    first: Tensor, second: Tensor, parameters: ChanceParameters = PARAMETERS, *, reach: int | None = None
) -> Tensor:
    """Return the normalized agreement of feature images at every shift, ``(B, *padded)``.

    Parameters
    ----------
    first
        ``(1, C, *shape)``, see :func:`edge_features`.
    second
        ``(B, C, *shape)``.
    reach
        Largest shift along each axis that is used; half a side by default. Few shifts need little padding.

    Returns
    -------
    Tensor
        Entry ``s`` is for ``second(x + s)``, negative shifts at the end as in a Fourier transform; NaN where too few
        edges are in common. The padding keeps shifts up to the reach from wrapping around.
    """
    shape = tuple(first.shape[2:])
    axes = tuple(range(2, first.ndim))
    padded = _padded(shape, reach)

    def spectrum(x: Tensor) -> Tensor:
        transformed: Tensor = torch.fft.rfftn(x, s=padded, dim=axes)
        return transformed

    def correlation(a: Tensor, b: Tensor) -> Tensor:
        product: Tensor = torch.fft.irfftn((a.conj() * b).sum(1, keepdim=True), s=padded, dim=axes)
        return product[:, 0]

    squares = [x.square().sum(1, keepdim=True) for x in (first, second)]
    total = [square.flatten(1).sum(1).clamp_min(1e-12).reshape(-1, *[1] * len(shape)) for square in squares]
    inside = spectrum(torch.ones_like(squares[0]))
    seen = [correlation(spectrum(squares[0]), inside), correlation(inside, spectrum(squares[1]))]
    common = torch.minimum(seen[0] / total[0], seen[1] / total[1])
    value = correlation(spectrum(first), spectrum(second))
    value = value / (seen[0].clamp_min(0) * seen[1].clamp_min(0)).sqrt().clamp_min(1e-9)
    return torch.where(common >= parameters.min_overlap, value, torch.nan)


def _padded(shape: Sequence[int], reach: int | None = None) -> list[int]:
    return [int(next_fast_len(n + (n // 2 if reach is None else reach) + 1, real=True)) for n in shape]


def _flipped(features: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Mirror feature images along spatial axes; mixed components of the outer product change their sign."""
    ndim = features.ndim - 2
    pairs = itertools.combinations_with_replacement(range(ndim), 2)
    signs = [(-1.0 if (i in axes) != (j in axes) else 1.0) for i, j in pairs]
    factor = features.new_tensor(signs).reshape(1, -1, *[1] * ndim)
    return features.flip([a + 2 for a in axes]) * factor


def _flips(ndim: int) -> list[tuple[int, ...]]:
    return [axes for n in range(1, ndim + 1) for axes in itertools.combinations(range(ndim), n)]


def _standardized(image: Tensor, weight: Tensor) -> Tensor:
    total = weight.sum().clamp_min(1e-6)
    centered = (image - (image * weight).sum() / total) * weight
    return centered / (centered.square().sum() / total).sqrt().clamp_min(1e-9)


def _neighbor(x: Tensor, axis: int, step: int) -> Tensor:
    """Return the values one voxel further along an axis; the outermost are repeated."""
    n = x.shape[axis]
    index = (torch.arange(n, device=x.device) + step).clamp(0, n - 1)
    return x.index_select(axis, index)


def _central_difference(x: Tensor, axis: int) -> Tensor:
    return (_neighbor(x, axis, 1) - _neighbor(x, axis, -1)) / 2


def _axis_shifts(shape: Sequence[int], axis: int, like: Tensor) -> Tensor:
    """Return the shifts along an axis of an agreement surface, shaped to broadcast over it."""
    n = _padded(shape)[axis]
    steps: Tensor = torch.fft.fftfreq(n, 1 / n, device=like.device).to(like.dtype)
    return steps.reshape([-1 if other == axis else 1 for other in range(len(shape))])


def _shift_distance(shape: Sequence[int], like: Tensor) -> Tensor:
    return sum((_axis_shifts(shape, axis, like).square() for axis in range(len(shape))), like.new_zeros(())).sqrt()


def _within(shape: Sequence[int], fraction: float, like: Tensor) -> Tensor:
    inside = torch.ones(_padded(shape), dtype=torch.bool, device=like.device)
    for axis, n in enumerate(shape):
        inside &= _axis_shifts(shape, axis, like).abs() <= max(fraction * n, 1)
    return inside


def _finite(values: Tensor) -> Tensor:
    return values[values.isfinite()]


def _largest(values: Tensor, otherwise: float) -> float:
    values = _finite(values)
    return float(values.max()) if values.numel() else otherwise


def _is_common(weight: Tensor, parameters: ChanceParameters) -> Tensor:
    """Return the shifts that leave enough of the common voxels for the null distribution, ``(*padded)``."""
    shape = tuple(weight.shape[2:])
    padded, axes = _padded(shape), tuple(range(2, weight.ndim))
    if bool((weight == 1).all()):
        return torch.ones(padded, dtype=torch.bool, device=weight.device)
    spectrum = torch.fft.rfftn(weight, s=padded, dim=axes)
    common: Tensor = torch.fft.irfftn(spectrum.abs().square(), s=padded, dim=axes)[0, 0]
    return common >= parameters.min_common * common.flatten()[0]


def _moments(values: Tensor, least: float, count: float = 3) -> tuple[float, float]:
    """Return mean and standard deviation of a null distribution; 0 and 1 if it has too few values."""
    if values.numel() < count:
        return 0.0, 1.0
    return float(values.mean()), max(float(values.std()), least)


def _shifts(shape: Sequence[int], parameters: ChanceParameters) -> list[tuple[int, ...]]:
    """Return no shift first, then shifts spread evenly beyond the excluded radius."""
    ndim, count = len(shape), parameters.n_shifts
    golden = (1.32471795724, 1.2207440846)[ndim - 2]  # the R2 and R3 low-discrepancy sequences
    found: list[tuple[int, ...]] = [(0,) * ndim]
    number = 0
    while len(found) <= count and number < 50 * count:
        number += 1
        unit = [(0.5 + number / golden ** (axis + 1)) % 1.0 for axis in range(ndim)]
        shift = tuple(round((u - 0.5) * 2 * parameters.max_shift * n) for u, n in zip(unit, shape, strict=True))
        if math.dist(shift, found[0]) > parameters.excluded_radius * max(shape):
            found.append(shift)
    return found


def _values_at(
    fixed: Tensor,
    moved: Tensor,
    weight: Tensor,
    shifts: Sequence[tuple[int, ...]],
    parameters: ChanceParameters,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return squared local correlation, mutual information and common voxels at each shift; the image wraps around."""
    index = _shifted_index(tuple(fixed.shape[2:]), tuple(shifts)).to(fixed.device)

    def shifted(x: Tensor) -> Tensor:
        return x.flatten()[index].reshape(-1, 1, *x.shape[2:])

    seen = shifted(moved)
    both = weight if bool((weight == 1).all()) else weight * shifted(weight)

    def windows(first: Tensor, *others: Tensor) -> list[Tensor]:
        stacked = torch.cat([first, *others])
        return list(sparse_box_sum(stacked, parameters.window, parameters.window_step).split(len(first)))

    masked_fixed, masked_seen = fixed * both, seen * both
    count, fixed_mean, fixed_square = windows(both, masked_fixed, masked_fixed * fixed)
    count.clamp_min_(1e-6)
    seen_mean, seen_square, product = (x / count for x in windows(masked_seen, masked_seen * seen, masked_seen * fixed))
    fixed_mean = fixed_mean / count
    fixed_variance = (fixed_square / count - fixed_mean.square()).clamp_min_(0)
    seen_variance = seen_square.addcmul_(seen_mean, seen_mean, value=-1).clamp_min_(0)
    cross = product.addcmul_(fixed_mean, seen_mean, value=-1)
    # flat windows of the standardized images say nothing
    local = cross.square_().div_((fixed_variance + 0.01) * (seen_variance + 0.01))
    every = slice(None, None, parameters.window_step)
    matter = both[(slice(None), slice(None), *[every] * (fixed.ndim - 2))] * (fixed_variance > 0.02)
    correlation = (local * matter).flatten(1).sum(1) / matter.flatten(1).sum(1).clamp_min(1e-6)
    bins = parameters.bins
    common = both.flatten(1).sum(1).expand(len(shifts))
    return correlation, _information(_binned(fixed, bins), shifted(_binned(moved, bins)), both, bins), common


def _deviations(ratio: float, count: int, few: int) -> float:
    """Return a ratio to the spread of few shifts as the equally unlikely standard deviations.

    The spread of three shifts that happen to be similar is uncertain: the ratio follows Student's distribution.
    """
    if not 3 <= count < few:
        return ratio
    tail = float(stdtr(count - 1, -abs(ratio) / math.sqrt(1 + 1 / count)))
    return math.copysign(-float(ndtri(max(tail, 1e-300))), ratio)


@lru_cache(maxsize=8)
def _shifted_index(shape: tuple[int, ...], shifts: tuple[tuple[int, ...], ...]) -> Tensor:
    """Return the flat index of the voxel that each shift moves to each voxel, ``(len(shifts), N)``."""
    flat = torch.zeros((len(shifts), *[1] * len(shape)), dtype=torch.int64)
    for axis, n in enumerate(shape):
        steps = torch.tensor([shift[axis] for shift in shifts])
        along = (steps[:, None] + torch.arange(n)).remainder(n)
        flat = flat * n + along.reshape(len(shifts), *[-1 if other == axis else 1 for other in range(len(shape))])
    return flat.flatten(1)


def _binned(image: Tensor, bins: int) -> Tensor:
    """Return the number of each voxel's bin; bins have equal counts, as far as values differ."""
    values = image.flatten()
    some = values[:: max(values.numel() // 20_000, 1)].sort().values
    place = torch.linspace(0, len(some) - 1, bins + 1, device=image.device)[1:-1].round().long()
    return torch.bucketize(image, some[place].unique())


def _information(a: Tensor, b: Tensor, weight: Tensor, bins: int) -> Tensor:
    """Return the mutual information of each binned image ``b`` of a batch with the binned fixed one."""
    number = torch.arange(len(b), device=b.device).reshape(-1, *[1] * (b.ndim - 1))
    index = (number * bins + a) * bins + b
    joint = weight.new_zeros(len(b) * bins * bins)
    joint.index_add_(0, index.flatten(), weight.expand(b.shape).flatten())
    joint = joint.reshape(-1, bins, bins)
    joint = joint / joint.sum((1, 2), keepdim=True).clamp_min(1e-6)

    def entropy(p: Tensor) -> Tensor:
        return -(p * p.clamp_min(1e-12).log()).flatten(1).sum(1)

    return entropy(joint.sum(1)) + entropy(joint.sum(2)) - entropy(joint)
