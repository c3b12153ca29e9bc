"""Weighted sum of similarities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from napari_stnreg.losses.base import Similarity


class WeightedSum(Similarity, selectable=False):
    """A weighted sum of similarities; its score is that of the first.

    Parameters
    ----------
    parts
        Similarities with their weights.
    """

    name = "weighted-sum"
    description = "A weighted sum of other similarities."

    def __init__(self, parts: Sequence[tuple[Similarity, float]]) -> None:
        self.parts = list(parts)

    def prepare(self, fixed: Tensor, weight: Tensor | None = None) -> None:
        """See :meth:`Similarity.prepare`."""
        for part, _ in self.parts:
            part.prepare(fixed, weight)

    def __call__(self, warped: Tensor, weight: Tensor | None = None) -> Tensor:
        """See :meth:`Similarity.__call__`."""
        return torch.stack([factor * part(warped, weight) for part, factor in self.parts]).sum()

    def value_and_gradient(self, warped: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """See :meth:`Similarity.value_and_gradient`."""
        total, sum_of_gradients = warped.new_zeros(()), None
        for part, factor in self.parts:
            value, gradient = part.value_and_gradient(warped, weight)
            total = total.add(value, alpha=factor)
            if gradient is not None:
                if sum_of_gradients is None:
                    sum_of_gradients = gradient.mul_(factor)
                else:
                    sum_of_gradients.add_(gradient, alpha=factor)
        return total, sum_of_gradients

    def score(self, warped: Tensor, weight: Tensor | None = None) -> float:
        """Return the score of the first part."""
        return self.parts[0][0].score(warped, weight)
