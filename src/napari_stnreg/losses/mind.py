"""MIND: modality independent neighborhood descriptor with self-similarity context (SSC)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from napari_stnreg.core.errors import InputError
from napari_stnreg.losses.base import (
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
    """Offset between two orthogonal neighbors, and the two positions around a voxel where it starts."""

    step: tuple[int, ...]
    starts: tuple[tuple[int, ...], tuple[int, ...]]


@dataclass
class _Support:
    """Quantities that depend on the weights alone."""

    mask: Tensor | None
    """The weight."""
    pairs: list[Tensor | None]
    """Weight of each difference, ``(B, 1, *overlap)``; ``None`` where every weight is 1."""
    inverses: list[Tensor]
    """One over the window's sum of weights, 0 where the window is empty, ``(B, 1, *padded)``."""
    weight: Tensor
    """``(B, 1, *shape)``: 0 also where any of a voxel's patch distances is unknown."""
    inverse_total: Tensor
    """One over the sum of the weight, ``(B, 1)``; 0 where the weight is empty."""


class MIND(Similarity):
    """Modality independent neighborhood descriptor, in its self-similarity context (SSC) form.

    Each voxel has four (2D) or six (3D) neighboring patches. The descriptor is ``exp(-d / mean(d))`` of the squared
    distances ``d`` between orthogonal neighbors, 4 in 2D and 12 in 3D. Two images are compared by the distance between
    their descriptors, averaged over voxels and components.

    Parameters
    ----------
    radius
        Half width of a patch in voxels.
    dilation
        Distance of the neighbors from the voxel.
    distance
        ``"l2"``: squared differences of the descriptors, ``"l1"``: absolute ones.

    Notes
    -----
    Heinrich et al., *Toward realtime multimodal fusion for image-guided interventions using self-similarities*,
    MICCAI 2013. Twelve distances need only six filtered volumes, since pairs with the same offset are shifted copies.
    Masked voxels and the outside of the image are excluded from patches, as are voxels with an undefined distance.
    The mean distance is clamped to 0.001 to 1000 times its average over the image, as in the authors' program; the
    gradient treats that average as a constant.
    """

    name = "mind"
    description = "Self-similarity descriptor: for very different modalities with shared edges and texture."

    def __init__(self, radius: int = 1, dilation: int = 2, distance: Literal["l1", "l2"] = "l2") -> None:
        if radius < 0 or dilation < 1:
            raise InputError("MIND needs a patch radius of 0 or more and a dilation of 1 or more.")
        if distance not in ("l1", "l2"):
            raise InputError(f"The distance of MIND is 'l1' or 'l2', not '{distance}'.")
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
        """Return the descriptor of an image, ``(B, C, K, *shape)`` with K = 4 in 2D and 12 in 3D; no gradient."""
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
        inverse_total = torch.where(total > 0, 1 / total.clamp_min(torch.finfo(total.dtype).tiny), 0.0)
        return _Support(weight, pairs, inverses, valid, inverse_total)

    def _window(self, values: Tensor, inside: Slices, shape: tuple[int, ...]) -> Tensor:
        """Sum over the patch, on the image domain extended by the dilation."""
        padded = values.new_zeros((*values.shape[:2], *(n + 2 * self.dilation for n in shape)))
        padded[inside] = values
        return box_sum(padded, self.radius)

    # -- descriptors --------------------------------------------------------------------------------------------------

    def _differences(self, image: Tensor) -> list[Tensor]:
        shape = tuple(image.shape[2:])
        overlaps = (_overlap(shape, d.step, self.dilation) for d in self._directions)
        return [image[far] - image[near] for near, far, _ in overlaps]

    def _distances(self, differences: list[Tensor], shape: tuple[int, ...], support: _Support) -> list[Tensor]:
        """Return the patch distances, K views ``(B, C, *shape)`` of half as many volumes."""
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
        """Return the smallest distance, one over the mean distance, and where that mean is not clamped."""
        smallest = torch.minimum(distances[0], distances[1])
        mean = distances[0] + distances[1]
        for distance in distances[2:]:
            torch.minimum(smallest, distance, out=smallest)
            mean.add_(distance)
        mean.div_(len(distances))
        average = spatial_sum(mean * support.weight) * support.inverse_total
        low = expand((0.001 * average).clamp_min(1e-20), mean)
        high = expand((1000 * average).clamp_min(1e-20), mean)
        free = ((mean >= low) & (mean <= high)).to(mean.dtype)
        return smallest, torch.maximum(torch.minimum(mean, high), low).reciprocal_(), free

    def _describe(self, image: Tensor, support: _Support) -> list[Tensor]:
        differences = self._differences(fill_masked(image, support.mask))
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
            differences = self._differences(fill_masked(warped, support.mask))
            distances = self._distances(differences, shape, support)
            smallest, inverse, free = self._normalizers(distances, support)
            voxel_weight = support.weight * expand(support.inverse_total, warped)
            voxel_weight = voxel_weight / (len(distances) * warped.shape[0] * warped.shape[1])

            # Twelve components of a volume exceed the cache: each is processed in the same buffers.
            exponent, component, difference = (torch.empty_like(warped) for _ in range(3))
            total, mean_gradient, smallest_gradient, ties = (torch.zeros_like(warped) for _ in range(4))
            distance_gradients = self._zero_gradients(warped) if gradient else []
            views = self._views(distance_gradients, shape)
            factor = inverse * voxel_weight
            for i, (distance, fixed) in enumerate(zip(distances, self._fixed, strict=True)):
                torch.sub(smallest, distance, out=exponent).mul_(inverse)
                torch.exp(exponent, out=component)
                torch.sub(component, fixed, out=difference)
                if self.distance == "l2":  # the factor 2 of the gradient is applied at the end
                    total.addcmul_(difference, difference)
                else:
                    total.add_(difference.abs())
                    difference.sign_()
                if gradient:
                    # With respect to the distance, for constant smallest and mean distance.
                    gradient_term = difference.mul_(component).mul_(factor)
                    views[i].sub_(gradient_term)
                    smallest_gradient.add_(gradient_term)
                    mean_gradient.addcmul_(gradient_term, exponent, value=-1)
                    ties.add_(torch.eq(exponent, 0, out=component))
            value = total.mul_(voxel_weight).sum()
            if not gradient:
                return value, None
            mean_gradient.mul_(free).div_(len(distances))
            smallest_gradient.div_(ties)
            for distance, view in zip(distances, views, strict=True):
                view.add_(mean_gradient).addcmul_(smallest_gradient, torch.eq(distance, smallest, out=component))
            result = self._pull_back(distance_gradients, differences, support, warped)
            return value, result.mul_(2) if self.distance == "l2" else result

    def _zero_gradients(self, like: Tensor) -> list[Tensor]:
        """Return one extended volume per direction for the gradient with respect to the patch distances."""
        shape = (*like.shape[:2], *(n + 2 * self.dilation for n in like.shape[2:]))
        return [like.new_zeros(shape) for _ in self._directions]

    def _views(self, volumes: list[Tensor], shape: tuple[int, ...]) -> list[Tensor]:
        """Return the view of each component into the extended volumes, two per direction."""
        return [
            volume[_seen_from(shape, start, self.dilation)]
            for direction, volume in zip(self._directions, volumes, strict=False)
            for start in direction.starts
        ]

    def _pull_back(
        self, distance_gradients: list[Tensor], differences: list[Tensor], support: _Support, like: Tensor
    ) -> Tensor:
        """Map the gradient with respect to the patch distances to the image: the adjoint of :meth:`_distances`."""
        total = torch.zeros_like(like)
        for direction, distance_gradient, difference, pair, inverse in zip(
            self._directions, distance_gradients, differences, support.pairs, support.inverses, strict=True
        ):
            near, far, inside = _overlap(tuple(like.shape[2:]), direction.step, self.dilation)
            by_square = box_sum(distance_gradient.mul_(inverse), self.radius)[inside]
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
        """Return the mean distance of the descriptors, between 0 (equal structure) and 1."""
        return float(self._evaluate(warped, weight, False)[0])


def _directions(ndim: int, dilation: int) -> list[_Direction]:
    """Return the offsets between orthogonal neighbors, 2 in 2D and 6 in 3D, each at two positions around a voxel."""

    def place(**parts: int) -> tuple[int, ...]:
        return tuple(dilation * parts.get(f"axis{a}", 0) for a in range(ndim))

    found = []
    for (i, j), sign in itertools.product(itertools.combinations(range(ndim), 2), (1, -1)):
        first, second = f"axis{i}", f"axis{j}"
        starts = place(**{first: -1}), place(**{second: -sign})
        found.append(_Direction(place(**{first: 1, second: sign}), starts))
    return found


def _overlap(shape: tuple[int, ...], step: tuple[int, ...], margin: int) -> tuple[Slices, Slices, Slices]:
    """Return slices of the starts and ends of an offset inside the image, and of the starts in the extended domain.

    The slices include batch and channel.
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
    """Return the slices of the extended domain at the offset ``start`` from each voxel of the image."""
    at = (slice(margin + s, margin + s + n) for s, n in zip(start, shape, strict=True))
    return (slice(None), slice(None), *at)
