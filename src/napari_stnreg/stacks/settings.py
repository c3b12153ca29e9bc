"""Settings of a stack alignment, shared by panel, script and command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from napari_stnreg.core.settings import Settings

Trend = Literal["keep", "reduce", "remove"]
Features = Literal["lncc", "bandpass", "intensity", "auto-encoder"]
Motion = Literal["translation", "rigid", "affine"]
CanvasExtent = Literal["union", "input"]

TREND_HELP = {
    "keep": "Keep slow changes along the stack: oblique neurites keep their slope. Recommended.",
    "reduce": "Keep part of the slow changes.",
    "remove": "Fit every section to its neighbors as closely as possible. Oblique neurites become straighter.",
}
"""One line for each value of ``trend``."""

FEATURES_HELP = {
    "lncc": "Intensity normalized in a small window, insensitive to contrast and shading. Recommended.",
    "bandpass": "Intensity without shading and noise.",
    "intensity": "Plain intensity, for sections of equal contrast.",
    "auto-encoder": "Features of a network trained on this stack (ssEMnet).",
}
"""One line for each value of ``features``."""


class StackSettings(Settings):
    """Settings of one alignment; the defaults suit most stacks.

    Raises
    ------
    InputError
        From :meth:`parse`, if a value is not allowed.
    """

    choice_help: ClassVar[Mapping[str, Mapping[str, str]]] = {"trend": TREND_HELP, "features": FEATURES_HELP}
    choice_titles: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "motion": {"translation": "shift", "rigid": "shift and rotation", "affine": "affine"},
        "features": {
            "lncc": "local contrast",
            "bandpass": "intensity without shading",
            "intensity": "intensity",
            "auto-encoder": "trained auto-encoder",
        },
    }

    motion: Motion = Field(default="rigid", description="Transform of a whole section in the coarse pass.")
    deform: bool = Field(default=True, description="Run the fine pass, a B-spline deformation of each section.")
    features: Features = Field(default="lncc", description="Image features that are compared between sections.")
    encoder: str | None = Field(
        default=None, description="File of a trained auto-encoder. Default: trained on the stack."
    )
    neighbors: int = Field(
        default=2, ge=1, le=8, description="Number of sections before and after that a section is matched with."
    )
    long_range_stride: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Also match each section with the section this many places ahead, if both share outlines. Matching "
        "errors then accumulate less along the stack. 0: off.",
    )
    trend: Trend = Field(default="keep", description="Treatment of slow changes along the stack.")
    reference: int | None = Field(default=None, ge=0, description="Section that stays where it was recorded.")
    mirror: bool = Field(default=False, description="Search for mirrored sections, too.")
    search_rotations: bool = Field(default=True, description="Search for sections rotated by any angle.")
    reorder: bool = Field(
        default=False,
        description="Exchange swapped neighbors, and do not match exact copies of the section before.",
    )
    split_at_cracks: bool = Field(default=True, description="Detect cracks and move the fragments independently.")
    grid_cells: int | None = Field(
        default=None,
        ge=2,
        le=32,
        description="Cells of the control grid along the longer side. Default: derived from the size.",
    )
    iterations: int = Field(default=2, ge=1, le=6, description="Rounds of fine matching and solving.")
    smoothness: float = Field(
        default=1.0, gt=0, le=100, description="Stiffness of the control grid. Higher is stiffer."
    )
    position_weight: float = Field(
        default=1.0, ge=0, le=100, description="Weight of the recorded positions. Higher moves sections less."
    )
    trim_fraction: float = Field(
        default=0.3,
        ge=0,
        lt=0.9,
        description="Fraction of the worst pixels that is ignored at first. It decreases during the fit.",
    )
    working_size: int | None = Field(
        default=None, ge=64, le=8192, description="Longest side, in pixels, at which sections are matched."
    )
    canvas: CanvasExtent = Field(
        default="union", description="Extent of the result: all sections completely, or the input's own canvas."
    )

    def factor(self, shape: tuple[int, int]) -> int:
        """Reduction factor of sections of shape ``(y, x)`` for matching (means over square blocks of pixels).

        Without a working size: half the resolution for sections of some hundred pixels, at most 1024 pixels for large
        ones. The deformation is smooth and gains nothing from a finer resolution.
        """
        side = max(shape)
        size = self.working_size or min(max(side // 2, 256), 1024)
        return max(-(-side // size), 1)

    def cells(self, shape: tuple[int, int]) -> int:
        """Cells of the control grid along the longer side of sections of shape ``(y, x)``."""
        return self.grid_cells or min(max(round(7 * (max(shape) / 512) ** 0.5), 5), 20)
