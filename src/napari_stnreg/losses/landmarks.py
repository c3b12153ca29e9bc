"""How far mapped landmarks lie from where they belong."""

from __future__ import annotations

import torch
from torch import Tensor

from napari_stnreg.core.errors import InputError


class LandmarkDistance:
    """Squared distance between landmark pairs, in units of their uncertainty.

    A transform takes points of the fixed world to the moving world, so it is the *fixed* landmarks that are mapped:
    ``loss = distance(transform(distance.fixed_points))``.

    Parameters
    ----------
    fixed_points, moving_points
        World coordinates ``(N, D)`` in axis order, paired by row.
    sigma
        How well the landmarks are known, in world units, one value or ``(N,)``: a distance of ``sigma`` costs about 1.
    robust
        Let the cost grow only linearly for pairs farther apart than ``threshold * sigma`` (pseudo-Huber), so that a
        mistaken pair does not pull the whole transform.
    threshold
        Where that sets in.

    Raises
    ------
    InputError
        If the points do not pair up or ``sigma`` is not positive.
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
        if fixed_points.ndim != 2 or fixed_points.shape != moving_points.shape:
            raise InputError(
                f"Landmarks are paired by order: {len(fixed_points)} on the fixed and {len(moving_points)} on the "
                "moving side cannot be."
            )
        spread = torch.as_tensor(sigma, dtype=fixed_points.dtype, device=fixed_points.device)
        if not bool((spread > 0).all()) or not threshold > 0:
            raise InputError("The uncertainty of landmarks must be greater than zero.")
        self.fixed_points = fixed_points
        self.moving_points = moving_points
        self._inverse_square = 1 / spread.square()
        self._limit = threshold**2 if robust else None

    def __call__(self, mapped: Tensor) -> Tensor:
        """The loss for the fixed landmarks mapped into the moving world, ``(N, D)``; a scalar, 0 without landmarks."""
        if not len(mapped):
            return mapped.sum()
        squares = (mapped - self.moving_points).square().sum(-1) * self._inverse_square
        if self._limit is not None:
            squares = 2 * self._limit * ((1 + squares / self._limit).sqrt() - 1)
        return squares.mean()

    def distances(self, mapped: Tensor) -> Tensor:
        """Distance of each mapped fixed landmark from its partner in world units, ``(N,)``."""
        distances: Tensor = torch.linalg.vector_norm(mapped.detach() - self.moving_points, dim=-1)
        return distances
