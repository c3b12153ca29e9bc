"""What a running fit tells about itself, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from napari_stnreg.core.image import Grid, Image
    from napari_stnreg.registration.settings import RegistrationSettings
    from napari_stnreg.transforms.base import Transform

Ending = Literal["finished", "converged", "stopped", "not finite"]


@dataclass(frozen=True)
class Progress:
    """One step of a running fit.

    Parameters
    ----------
    stage
        The transform family that is being fitted, or ``"start"``.
    level, levels
        Which pyramid level, from 0 (coarsest), of how many.
    step, total
        Steps done and steps planned, over all stages and levels; ``step / total`` fills a progress bar.
    loss
        The objective at this step, lower is better; comparable within one stage and level only.
    terms
        The parts of the loss by name.
    preview
        Call it to get a snapshot of the transform so far (best called in the thread that runs the fit).
    message
        A few words for a person, such as ``"affine, level 2 of 3"``.
    """

    stage: str
    level: int
    levels: int
    step: int
    total: int
    loss: float
    terms: dict[str, float]
    preview: Callable[[], Transform]
    message: str = ""

    @property
    def fraction(self) -> float:
        """Share of the planned steps that is done, 0 to 1."""
        return min(self.step / max(self.total, 1), 1.0)


@dataclass
class Result:
    """What a registration found.

    Parameters
    ----------
    transform
        Fixed world to moving world, in the fixed image's unit.
    grid
        The output's grid: where :attr:`warped` lies.
    warped
        The moving image sampled once at ``transform(grid)``, in its own dtype and channels.
    scores
        ``{"before": {...}, "after": {...}}``: NCC, local NCC, MI, MSE inside both masks, and landmark errors.
    folding_fraction
        Share of the voxels of the fixed grid whose Jacobian determinant is <= 0.
    losses
        ``(stage, level, step, loss)`` for every step.
    ending
        Why the fit ended.
    seconds
        Wall time of the fit, warping and scoring left out.
    settings, versions, warnings
        The run's settings, the versions of this package, torch and numpy, and sentences a person should read.
    """

    transform: Transform
    grid: Grid
    warped: Image
    scores: dict[str, dict[str, float]]
    folding_fraction: float
    losses: list[tuple[str, int, int, float]]
    ending: Ending
    seconds: float
    settings: RegistrationSettings
    versions: dict[str, str]
    warnings: list[str] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """A JSON-ready summary: scores, seconds, ending, settings, versions, warnings."""
        return {
            "scores": self.scores,
            "folding_fraction": self.folding_fraction,
            "ending": self.ending,
            "seconds": round(self.seconds, 3),
            "settings": self.settings.model_dump(),
            "versions": self.versions,
            "warnings": self.warnings,
        }
