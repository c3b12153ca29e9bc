"""Landmark distance as a loss."""

from __future__ import annotations

import torch
from torch import Tensor

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.landmarks import check_landmarks


class LandmarkDistance:
    """Squared distance between landmark pairs, in units of their standard deviation.

    A transform maps the fixed world to the moving world, so the fixed landmarks are mapped:
    ``loss = distance(transform(distance.fixed_points))``.

    Parameters
    ----------
    fixed_points, moving_points
        World coordinates ``(N, D)`` in axis order, paired by row.
    sigma
        Standard deviation of the landmarks in world units, one value or ``(N,)``; the loss of ``sigma`` is about 1.
    robust
        Use a pseudo-Huber loss, linear beyond ``threshold * sigma``, which limits the influence of outliers.
    threshold
        Start of the linear part, in units of ``sigma``.

    Raises
    ------
    InputError
        If the shapes differ or ``sigma`` is not positive.
    """

    def __init__(
        self,
        fixed_points: Tensor,
        moving_points: Tensor,
        sigma: float | Tensor = 1.0,
        *,
        robust: bool = True,
        threshold: float = 3.0,
    ) -> None:
        check_landmarks(fixed_points.detach().cpu(), moving_points.detach().cpu(), allow_empty=True)
        deviation = torch.as_tensor(sigma, dtype=fixed_points.dtype, device=fixed_points.device)
        if not bool((deviation > 0).all()) or not threshold > 0:
            raise InputError("sigma and threshold of landmarks must be greater than zero.")
        self.fixed_points = fixed_points
        self.moving_points = moving_points
        self._inverse_square = 1 / deviation.square()
        self._limit = threshold**2 if robust else None

    def __call__(self, mapped: Tensor) -> Tensor:
        """Return the loss of the mapped fixed landmarks ``(N, D)``, a scalar; 0 without landmarks."""
        if not len(mapped):
            return mapped.sum()
        squares = (mapped - self.moving_points).square().sum(-1) * self._inverse_square
        if self._limit is not None:
            squares = 2 * self._limit * ((1 + squares / self._limit).sqrt() - 1)
        return squares.mean()

    def distances(self, mapped: Tensor) -> Tensor:
        """Return the distance of each mapped fixed landmark from its partner in world units, ``(N,)``."""
        distances: Tensor = torch.linalg.vector_norm(mapped.detach() - self.moving_points, dim=-1)
        return distances
