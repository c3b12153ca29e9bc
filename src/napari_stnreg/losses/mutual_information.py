"""Mutual information with Parzen windows."""

from __future__ import annotations

import torch
from torch import Tensor

from napari_stnreg.core.errors import InputError
from napari_stnreg.losses.base import Similarity, attach_gradient, combine_weights, wants_gradient
from napari_stnreg.ops.bspline import cubic_bspline

# A cubic B-spline reaches two bins to either side, so two bins at either end stay free of samples.
_MARGIN = 2
# The Parzen window is tabulated at this many places per bin and linear in between.
_STEPS = 16


class MutualInformation(Similarity):
    """Mutual information of the intensities (Mattes et al. 2003).

    Parameters
    ----------
    bins
        Histogram bins of each image.
    normalized
        Use ``(H(f) + H(m)) / H(f, m)``, which depends less on how much the images overlap (Studholme 1999); the loss
        is then 2 minus it, between 0 and 1. Otherwise the loss is minus the mutual information in nats.
    samples
        Number of voxels, drawn at random in :meth:`prepare`; ``None`` for all.
    seed
        Seed of the sampling.

    Notes
    -----
    As in Mattes et al. 2003 the window is a box for the fixed image and a cubic B-spline for the moving one. Samples
    are added to a histogram of 16 times finer bins by linear interpolation, and that table is multiplied with the
    tabulated spline. The gradient of a voxel is the difference of two neighbors in the table of derivatives: one
    look-up, and exactly the derivative of the returned value.

    The range of the warped image is that of the calls since :meth:`prepare` and only grows, so that the loss remains
    the same function from step to step.
    """

    name = "mi"
    description = "Mutual information: for different modalities or stains, such as T1 with PD, or CT with MR."

    def __init__(self, bins: int = 32, normalized: bool = False, samples: int | None = None, seed: int = 0) -> None:
        if bins < 2 * _MARGIN + 4:
            raise InputError(f"Mutual information needs at least {2 * _MARGIN + 4} bins, not {bins}.")
        if samples is not None and samples < 1:
            raise InputError(f"Mutual information needs at least one sample, not {samples}. Use None for every voxel.")
        self.bins = bins
        self.normalized = normalized
        self.samples = samples
        self.seed = seed

    def prepare(self, fixed: Tensor, weight: Tensor | None = None) -> None:
        """See :meth:`Similarity.prepare`."""
        with torch.no_grad():
            values = fixed.detach().flatten(2)
            self._subset = self._draw(values)
            self._weight = None if weight is None else self._pick(weight.detach())
            values = self._pick(fixed.detach())
            low, high = _value_range(values, self._weight)
            bins = ((values - low) * _inverse(high - low) * self.bins).to(torch.int32).clamp_(0, self.bins - 1)
            fine = (self.bins - 1) * _STEPS + 1
            self._rows = values.shape[0] * values.shape[1]
            row = torch.arange(self._rows, device=fixed.device).reshape(*values.shape[:2], 1)
            self._offset = (row * self.bins + bins) * fine
            # MPS has no double precision; elsewhere sums of a million counts need it.
            self._table = torch.float32 if fixed.device.type == "mps" else torch.float64
            place = torch.arange(fine, dtype=self._table, device=fixed.device)[:, None] / _STEPS
            self._kernel = cubic_bspline(place - torch.arange(self.bins, dtype=self._table, device=fixed.device))
            self._range: tuple[Tensor, Tensor] | None = None

    def _draw(self, values: Tensor) -> Tensor | None:
        count = values.shape[-1]
        if self.samples is None or self.samples >= count:
            return None
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(count, generator=generator)[: self.samples].sort().values.to(values.device)

    def _pick(self, image: Tensor) -> Tensor:
        flat = image.flatten(2)
        return flat if self._subset is None else flat.index_select(-1, self._subset)

    def _scale(self, values: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """Extend the range, and return its lowest value and the fine bins per unit of intensity, each ``(B, C, 1)``."""
        low, high = _value_range(values, weight)
        if self._range is not None:
            low, high = torch.minimum(low, self._range[0]), torch.maximum(high, self._range[1])
        if bool((torch.isfinite(low) & torch.isfinite(high)).all()):
            self._range = low, high
        return low, (self.bins - 1 - 2 * _MARGIN) * _STEPS * _inverse(high - low)

    def _histogram(self, index: Tensor, part: Tensor, weight: Tensor | None) -> Tensor:
        """Return the histogram ``(rows, bins, fine)``; ``part`` is the linear weight of the next fine bin."""
        size = self._rows * self.bins * self._kernel.shape[0]
        flat = index.reshape(-1)
        part = part.to(self._table)
        if weight is None:
            # Counting whole voxels is faster than adding ones, and exact.
            total = torch.bincount(flat, minlength=size).to(self._table)
        else:
            weight = weight.to(self._table).expand_as(part)
            part = part * weight
            total = part.new_zeros(size).scatter_add_(0, flat, weight.reshape(-1))
        upper = part.new_zeros(size).scatter_add_(0, flat, part.reshape(-1))
        total -= upper
        total[1:] += upper[:-1]
        return total.reshape(self._rows, self.bins, -1)

    def _entropies(self, joint: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the entropies in nats of the fixed image, the warped image and both jointly."""
        return _entropy(joint.sum(2)), _entropy(joint.sum(1)), _entropy(joint.flatten(1))

    def _evaluate(
        self, warped: Tensor, weight: Tensor | None, normalized: bool, gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the mean information over batch and channels, and its gradient."""
        with torch.no_grad():
            values = self._pick(warped.detach())
            total = combine_weights(self._weight, None if weight is None else self._pick(weight.detach()))
            low, scale = self._scale(values, total)
            position = (values - low).mul_(scale).add_(_MARGIN * _STEPS)
            if total is not None:
                position = torch.where(total > 0, position, 0.0)
            # Clamped, so that a non-finite value makes the loss non-finite instead of an index out of bounds.
            cell = position.to(torch.int32).clamp_(0, self._kernel.shape[0] - 2)
            index = self._offset + cell
            histogram = self._histogram(index, position.sub_(cell), total)
            joint = histogram @ self._kernel
            count = joint.sum((1, 2), keepdim=True)
            per_count = _inverse(count)
            joint *= per_count
            of_fixed, of_warped, of_both = self._entropies(joint)
            # Derivatives of the entropies; terms that are constant along the warped axis drop out.
            joint_gradient, warped_gradient = -_log(joint), -_log(joint.sum(1, keepdim=True))
            if normalized:
                known = of_both > 1e-9
                ratio = torch.where(known, (of_fixed + of_warped) / of_both.clamp_min(1e-9), 1.0)
                ratio = torch.where(torch.isnan(of_both), of_both, ratio)
                inverse = torch.where(known, 1 / of_both.clamp_min(1e-9), 0.0)[:, None, None]
                value, entropy_gradient = ratio, (warped_gradient - ratio[:, None, None] * joint_gradient) * inverse
            else:
                value, entropy_gradient = of_fixed + of_warped - of_both, warped_gradient - joint_gradient
            value = value.mean().to(warped.dtype)
            if not gradient:
                return value, None
            table = (entropy_gradient * (per_count / self._rows)) @ self._kernel.T
            table = torch.diff(table, dim=-1, append=table[..., -1:]).to(warped.dtype)
            found = table.reshape(-1).index_select(0, index.reshape(-1)).reshape(values.shape).mul_(scale)
            return value, self._put(found if total is None else found.mul_(total), warped)

    def _put(self, gradient: Tensor, warped: Tensor) -> Tensor:
        """Scatter the gradient at the samples to their voxels."""
        if self._subset is not None:
            whole = gradient.new_zeros(*gradient.shape[:2], warped[0, 0].numel())
            gradient = whole.index_copy_(-1, self._subset, gradient)
        return gradient.reshape(warped.shape)

    def __call__(self, warped: Tensor, weight: Tensor | None = None) -> Tensor:
        """See :meth:`Similarity.__call__`."""
        value, gradient = self._evaluate(warped, weight, self.normalized, wants_gradient(warped))
        loss = 2 - value if self.normalized else -value
        return attach_gradient(warped, loss, None if gradient is None else gradient.neg_())

    def score(self, warped: Tensor, weight: Tensor | None = None) -> float:
        """Return the mutual information in nats, or its normalized form between 1 and 2."""
        return float(self._evaluate(warped, weight, self.normalized, False)[0])


def _value_range(values: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the range of values of nonzero weight, each ``(B, C, 1)``; (0, 0) if there are none."""
    if weight is None:
        low, high = torch.aminmax(values, dim=-1, keepdim=True)
        return low, high
    counts = weight > 0
    low = torch.where(counts, values, torch.inf).amin(-1, keepdim=True)
    high = torch.where(counts, values, -torch.inf).amax(-1, keepdim=True)
    empty = ~counts.any(-1, keepdim=True)
    return torch.where(empty, 0.0, low), torch.where(empty, 0.0, high)


def _inverse(x: Tensor) -> Tensor:
    """Return ``1 / x``; 0 where ``x`` is 0 or tiny; NaN is kept."""
    tiny = 1e-30
    return torch.where(x.abs() <= tiny, 0.0, 1 / torch.where(x.abs() <= tiny, 1.0, x))


def _log(x: Tensor) -> Tensor:
    return x.clamp_min(1e-30).log()


def _entropy(probability: Tensor) -> Tensor:
    return -(probability * _log(probability)).sum(-1)
