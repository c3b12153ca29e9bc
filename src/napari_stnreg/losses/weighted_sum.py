"""Several similarities at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from napari_stnreg.losses.similarity import Similarity


class WeightedSum(Similarity):
    """A weighted sum of similarities; its score is the first one's.

    Parameters
    ----------
    parts
        Similarities with their weights.
    """

    name = "blend"
    description = "A weighted sum of other similarities."

    def __init__(self, parts: Sequence[tuple[Similarity, float]]) -> None:
        self.parts = list(parts)

    def prepare(self, fixed: Tensor, weight: Tensor | None = None) -> None:
        """See :meth:`Similarity.prepare`."""
        for part, _ in self.parts:
            part.prepare(fixed, weight)

    def __call__(self, warped: Tensor, weight: Tensor | None = None) -> Tensor:
        """See :meth:`Similarity.__call__`."""
        return torch.stack([share * part(warped, weight) for part, share in self.parts]).sum()

    def score(self, warped: Tensor, weight: Tensor | None = None) -> float:
        """The score of the first part."""
        return self.parts[0][0].score(warped, weight)
