"""MIND with self-similarity context: comparing what a place looks like to itself rather than its intensity."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from napari_stnreg.core.errors import InputError
from napari_stnreg.losses.similarity import (
    Similarity,
    attach_gradient,
    combine_weights,
    expand,
    fill_masked,
    spatial_sum,
    wants_gradient,
)
from napari_stnreg.ops.filters import box_sum

Slices = tuple[slice, ...]


@dataclass(frozen=True)
class _Direction:
    """A step between two neighbors at right angles, and the two places around a voxel where such a step starts."""

    step: tuple[int, ...]
    starts: tuple[tuple[int, ...], tuple[int, ...]]


@dataclass
class _Support:
    """What the weights alone decide."""

    known: Tensor | None
    """The weight as it was given."""
    pairs: list[Tensor | None]
    """Weight of each difference, ``(B, 1, *overlap)``; ``None`` where every weight is 1."""
    inverses: list[Tensor]
    """One over the window's sum of weights, 0 where the window is empty, ``(B, 1, *padded)``."""
    weight: Tensor
    """``(B, 1, *shape)``: 0 also where any of a voxel's patch distances is unknown."""
    share: Tensor
    """One over the sum of the weight, ``(B, 1)``; 0 where it is empty."""


class MIND(Similarity):
    """Modality independent neighborhood descriptor, in its self-similarity context (SSC) form.

    Around each voxel stand four (2D) or six (3D) neighboring patches. The squared distances between those that lie at
    right angles to each other, 4 in 2D and 12 in 3D, divided by their mean and put through ``exp(-d)``, describe the
    place by its own structure. Two images are compared by the distance between their descriptors, averaged over
    voxels and components.

    Parameters
    ----------
    radius
        Half width of a patch in voxels.
    dilation
        How far the neighbors lie from the voxel.
    distance
        ``"l2"``: squared differences of the descriptors, ``"l1"``: absolute ones.

    Notes
    -----
    Heinrich et al., *Toward realtime multimodal fusion for image-guided interventions using self-similarities*,
    MICCAI 2013. Twelve distances need only six filtered volumes, since pairs with the same step between them are the
    same distance seen from two places. A masked voxel counts in no patch, and neither does what lies outside the
    image; a voxel with an unknown distance is left out. The mean distance is held between 0.001 and 1000 times its
    average over the image, as in the authors' own program; that average is taken as a constant by the gradient.
    """

    name = "mind"
    description = "Self-similarity descriptor: for very different modalities with shared edges and texture."

    def __init__(self, radius: int = 1, dilation: int = 2, distance: Literal["l1", "l2"] = "l2") -> None:
        if radius < 0 or dilation < 1:
            raise InputError("MIND needs a patch radius of 0 or more and a dilation of 1 or more.")
        if distance not in ("l1", "l2"):
            raise InputError(f"MIND compares by 'l1' or 'l2', not by '{distance}'.")
        self.radius = radius
        self.dilation = dilation
        self.distance = distance

    def prepare(self, fixed: Tensor, weight: Tensor | None = None) -> None:
        """See :meth:`Similarity.prepare`."""
        with torch.no_grad():
            self._directions = _directions(fixed.ndim - 2, self.dilation)
            self._weight = None if weight is None else weight.detach()
            self._support = self._make_support(fixed, self._weight)
            self._fixed = self._describe(fixed.detach(), self._support)

    def descriptor(self, image: Tensor, weight: Tensor | None = None) -> Tensor:
        """The descriptor of an image, ``(B, C, K, *shape)`` with K = 4 in 2D and 12 in 3D; without gradient."""
        with torch.no_grad():
            self._directions = _directions(image.ndim - 2, self.dilation)
            return torch.stack(self._describe(image, self._make_support(image, weight)), dim=2)

    # -- supports -----------------------------------------------------------------------------------------------------

    def _make_support(self, image: Tensor, weight: Tensor | None) -> _Support:
        shape = tuple(image.shape[2:])
        known = image.new_ones((1, 1, *shape)) if weight is None else weight.to(image.dtype)
        pairs: list[Tensor | None] = []
        inverses = []
        valid = known
        for direction in self._directions:
            near, far, inside = _overlap(shape, direction.step, self.dilation)
            pair = known[near] * known[far]
            count = self._window(pair, inside, shape)
            inverses.append(torch.where(count > 0, 1 / count.clamp_min(torch.finfo(count.dtype).tiny), 0.0))
            pairs.append(None if weight is None else pair)
            for start in direction.starts:
                valid = torch.where(count[_seen_from(shape, start, self.dilation)] > 0, valid, 0.0)
        total = spatial_sum(valid)
        share = torch.where(total > 0, 1 / total.clamp_min(torch.finfo(total.dtype).tiny), 0.0)
        return _Support(weight, pairs, inverses, valid, share)

    def _window(self, values: Tensor, inside: Slices, shape: tuple[int, ...]) -> Tensor:
        """Sum over the patch, on the image's domain widened by the dilation."""
        padded = values.new_zeros((*values.shape[:2], *(n + 2 * self.dilation for n in shape)))
        padded[inside] = values
        return box_sum(padded, self.radius)

    # -- descriptors --------------------------------------------------------------------------------------------------

    def _differences(self, image: Tensor) -> list[Tensor]:
        shape = tuple(image.shape[2:])
        overlaps = (_overlap(shape, d.step, self.dilation) for d in self._directions)
        return [image[far] - image[near] for near, far, _ in overlaps]

    def _distances(self, differences: list[Tensor], shape: tuple[int, ...], support: _Support) -> list[Tensor]:
        """The patch distances, K views ``(B, C, *shape)`` of half as many volumes."""
        means = []
        for direction, difference, pair, inverse in zip(
            self._directions, differences, support.pairs, support.inverses, strict=True
        ):
            squares = difference.square() if pair is None else difference.square().mul_(pair)
            inside = _overlap(shape, direction.step, self.dilation)[2]
            means.append(self._window(squares, inside, shape).mul_(inverse))
        return self._views(means, shape)

    @staticmethod
    def _normalizers(distances: list[Tensor], support: _Support) -> tuple[Tensor, Tensor, Tensor]:
        """The smallest distance, one over the mean distance, and where that mean is not held at a limit."""
        smallest = torch.minimum(distances[0], distances[1])
        mean = distances[0] + distances[1]
        for distance in distances[2:]:
            torch.minimum(smallest, distance, out=smallest)
            mean.add_(distance)
        mean.div_(len(distances))
        average = spatial_sum(mean * support.weight) * support.share
        low = expand((0.001 * average).clamp_min(1e-20), mean)
        high = expand((1000 * average).clamp_min(1e-20), mean)
        free = ((mean >= low) & (mean <= high)).to(mean.dtype)
        return smallest, torch.maximum(torch.minimum(mean, high), low).reciprocal_(), free

    def _describe(self, image: Tensor, support: _Support) -> list[Tensor]:
        differences = self._differences(fill_masked(image, support.known))
        distances = self._distances(differences, tuple(image.shape[2:]), support)
        smallest, inverse, _ = self._normalizers(distances, support)
        return [(smallest - distance).mul_(inverse).exp_() for distance in distances]

    # -- value and gradient -------------------------------------------------------------------------------------------

    def _evaluate(self, warped: Tensor, weight: Tensor | None, gradient: bool) -> tuple[Tensor, Tensor | None]:
        with torch.no_grad():
            support = self._support
            if weight is not None:
                support = self._make_support(warped, combine_weights(self._weight, weight))
            shape = tuple(warped.shape[2:])
            differences = self._differences(fill_masked(warped, support.known))
            distances = self._distances(differences, shape, support)
            smallest, inverse, free = self._normalizers(distances, support)
            share = support.weight * expand(support.share, warped)
            share = share / (len(distances) * warped.shape[0] * warped.shape[1])

            # Twelve components of a volume are more than the cache holds: each is worked off in the same few buffers.
            exponent, component, apart = (torch.empty_like(warped) for _ in range(3))
            total, mean_slope, smallest_slope, ties = (torch.zeros_like(warped) for _ in range(4))
            slopes = self._zero_slopes(warped) if gradient else []
            views = self._views(slopes, shape)
            factor = inverse * share
            for i, (distance, fixed) in enumerate(zip(distances, self._fixed, strict=True)):
                torch.sub(smallest, distance, out=exponent).mul_(inverse)
                torch.exp(exponent, out=component)
                torch.sub(component, fixed, out=apart)
                if self.distance == "l2":  # its slope is twice this; the two comes last
                    total.addcmul_(apart, apart)
                else:
                    total.add_(apart.abs())
                    apart.sign_()
                if gradient:
                    # By the distance, were the smallest and the mean distance constants.
                    pull = apart.mul_(component).mul_(factor)
                    views[i].sub_(pull)
                    smallest_slope.add_(pull)
                    mean_slope.addcmul_(pull, exponent, value=-1)
                    ties.add_(torch.eq(exponent, 0, out=component))
            value = total.mul_(share).sum()
            if not gradient:
                return value, None
            mean_slope.mul_(free).div_(len(distances))
            smallest_slope.div_(ties)
            for distance, view in zip(distances, views, strict=True):
                view.add_(mean_slope).addcmul_(smallest_slope, torch.eq(distance, smallest, out=component))
            result = self._pull_back(slopes, differences, support, warped)
            return value, result.mul_(2) if self.distance == "l2" else result

    def _zero_slopes(self, like: Tensor) -> list[Tensor]:
        """One widened volume for each direction, for the derivative by the patch distances."""
        shape = (*like.shape[:2], *(n + 2 * self.dilation for n in like.shape[2:]))
        return [like.new_zeros(shape) for _ in self._directions]

    def _views(self, volumes: list[Tensor], shape: tuple[int, ...]) -> list[Tensor]:
        """What each component sees of the widened volumes, two for each direction."""
        return [
            volume[_seen_from(shape, start, self.dilation)]
            for direction, volume in zip(self._directions, volumes, strict=False)
            for start in direction.starts
        ]

    def _pull_back(self, slopes: list[Tensor], differences: list[Tensor], support: _Support, like: Tensor) -> Tensor:
        """From the derivative by the patch distances to that by the image: the adjoint of :meth:`_distances`."""
        total = torch.zeros_like(like)
        for direction, slope, difference, pair, inverse in zip(
            self._directions, slopes, differences, support.pairs, support.inverses, strict=True
        ):
            near, far, inside = _overlap(tuple(like.shape[2:]), direction.step, self.dilation)
            by_square = box_sum(slope.mul_(inverse), self.radius)[inside]
            by_difference = difference.mul_(by_square)
            if pair is not None:
                by_difference.mul_(pair)
            total[far].add_(by_difference, alpha=2)
            total[near].sub_(by_difference, alpha=2)
        return total

    def __call__(self, warped: Tensor, weight: Tensor | None = None) -> Tensor:
        """See :meth:`Similarity.__call__`."""
        return attach_gradient(warped, *self._evaluate(warped, weight, wants_gradient(warped)))

    def score(self, warped: Tensor, weight: Tensor | None = None) -> float:
        """The mean distance of the descriptors, between 0 (the same structure) and 1."""
        return float(self._evaluate(warped, weight, False)[0])


def _directions(ndim: int, dilation: int) -> list[_Direction]:
    """The steps between neighbors at right angles, 2 in 2D and 6 in 3D, each found at two places around a voxel."""

    def place(**parts: int) -> tuple[int, ...]:
        return tuple(dilation * parts.get(f"axis{a}", 0) for a in range(ndim))

    found = []
    for (i, j), sign in itertools.product(itertools.combinations(range(ndim), 2), (1, -1)):
        first, second = f"axis{i}", f"axis{j}"
        starts = place(**{first: -1}), place(**{second: -sign})
        found.append(_Direction(place(**{first: 1, second: sign}), starts))
    return found


def _overlap(shape: tuple[int, ...], step: tuple[int, ...], margin: int) -> tuple[Slices, Slices, Slices]:
    """Where a step starts and where it ends, if both are in the image, and its starts in a domain wider by ``margin``.

    The slices reach over batch and channel too.
    """
    both = (slice(None), slice(None))
    near, far, inside = [], [], []
    for size, move in zip(shape, step, strict=True):
        start, stop = max(0, -move), max(0, -move, size - max(0, move))
        near.append(slice(start, max(start, min(size, stop))))
        far.append(slice(near[-1].start + move, near[-1].stop + move))
        inside.append(slice(near[-1].start + margin, near[-1].stop + margin))
    return (*both, *near), (*both, *far), (*both, *inside)


def _seen_from(shape: tuple[int, ...], start: tuple[int, ...], margin: int) -> Slices:
    """The part of a domain wider by ``margin`` that lies ``start`` away from each voxel of the image."""
    at = (slice(margin + s, margin + s + n) for s, n in zip(start, shape, strict=True))
    return (slice(None), slice(None), *at)
