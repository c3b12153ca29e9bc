"""Target registration error of landmarks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.landmarks import check_landmarks
from napari_stnreg.evaluation.validation import FloatArray


@dataclass(frozen=True)
class LandmarkError:
    """Target registration error of landmark pairs in world units, and relative to the image's diagonal if known."""

    each: FloatArray
    diagonal: float | None = None

    @property
    def mean(self) -> float:
        """Mean distance."""
        return float(self.each.mean())

    @property
    def median(self) -> float:
        """Median distance."""
        return float(np.median(self.each))

    @property
    def max(self) -> float:
        """Largest distance."""
        return float(self.each.max())

    @property
    def relative(self) -> FloatArray:
        """Each distance over the diagonal (NaN without one); its median is the rTRE of the histology challenges."""
        return self.each / (self.diagonal if self.diagonal else np.nan)

    def to_dict(self) -> dict[str, float]:
        """Return the summary as a dictionary of numbers."""
        summary = {"mean": self.mean, "median": self.median, "max": self.max}
        if self.diagonal:
            summary |= {f"relative_{k}": v / self.diagonal for k, v in summary.items()}
        return summary


def landmark_error(mapped: npt.ArrayLike, target: npt.ArrayLike, diagonal: float | None = None) -> LandmarkError:
    """Return the distances of mapped landmarks from their targets, both ``(N, D)`` in world units, paired by row.

    The transform maps fixed landmarks to the moving side, its inverse maps moving landmarks to the fixed side.
    """
    a, b = check_landmarks(mapped, target)
    return LandmarkError(np.linalg.norm(a - b, axis=1), diagonal)
