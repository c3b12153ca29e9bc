"""What a person can choose about the alignment of a stack, shared by panel, script and command line."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from napari_stnreg.core.settings import Settings

Course = Literal["natural", "balanced", "straight"]
Features = Literal["lncc", "bandpass", "intensity", "auto-encoder"]
Motion = Literal["translation", "rigid", "affine"]

COURSE_HELP = {
    "natural": "Keep what changes slowly along the stack: neurites keep their slant. The usual choice.",
    "balanced": "In between.",
    "straight": "Match every section to its neighbors as well as can be; neurites that run obliquely get straighter.",
}
"""One line for a person choosing what happens to slow changes along the stack."""

FEATURES_HELP = {
    "lncc": "Brightness, normalized in a small window: cares for neither contrast nor shading. The usual choice.",
    "bandpass": "Brightness without shading and grain.",
    "intensity": "Plain brightness: for sections of one and the same contrast.",
    "auto-encoder": "What a network trained on this stack sees (ssEMnet).",
}
"""One line for a person choosing what is compared."""


class StackSettings(Settings):
    """Settings of one alignment; every field has a default that needs no tuning.

    Raises
    ------
    InputError
        From :meth:`parse`, with one sentence, if a value is not allowed.
    """

    motion: Motion = Field(default="rigid", description="What the coarse pass may do to a whole section.")
    deform: bool = Field(default=True, description="Follow with the fine pass, a grid of vectors for each section.")
    features: Features = Field(default="lncc", description="What is compared between neighbors.")
    encoder: str | None = Field(
        default=None, description="File of a trained auto-encoder for its features; trained on the stack if not given."
    )
    window: int = Field(
        default=2, ge=1, le=8, description="Neighbors before and after that a section is compared with."
    )
    anchors: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Match each section with the one so many sections farther, too, as far as both share outlines: "
        "errors of matching then add up less along the stack; 0 for none.",
    )
    course: Course = Field(default="natural", description="What happens to slow changes along the stack.")
    reference: int | None = Field(default=None, ge=0, description="A section that stays where it is.")
    mirror: bool = Field(default=False, description="Look for sections that lie upside down, too.")
    turned: bool = Field(default=True, description="Look for sections that lie turned by any angle.")
    cracks: bool = Field(default=True, description="Find cracks and let the sections break there.")
    grid: int | None = Field(
        default=None,
        ge=2,
        le=32,
        description="Cells of the vector grid along the longer side; from the size if not given.",
    )
    rounds: int = Field(default=2, ge=1, le=6, description="How often neighbors are matched and the stack is solved.")
    smoothness: float = Field(default=1.0, gt=0, le=100, description="Stiffness of the vector grid; more is stiffer.")
    tether: float = Field(default=1.0, ge=0, le=100, description="Pull to where a section lay; more moves less.")
    drop: float = Field(
        default=0.3, ge=0, lt=0.9, description="Share of the worst pixels left out at first; it shrinks."
    )
    working_size: int | None = Field(
        default=None, ge=64, le=8192, description="Longest side, in pixels, at which sections are matched."
    )
    crop: bool = Field(
        default=False, description="Cut the result to the canvas of the input instead of holding everything."
    )

    def factor(self, shape: tuple[int, int]) -> int:
        """By how much sections of a shape are reduced for matching (means over blocks of so many pixels a side).

        Unless a working size is set: half the resolution for sections of some hundred pixels, at most 1024 for large
        ones. The vectors are smooth, and what decides about them is not finer.
        """
        side = max(shape)
        size = self.working_size or min(max(side // 2, 256), 1024)
        return max(-(-side // size), 1)

    def cells(self, shape: tuple[int, int]) -> int:
        """Cells of the vector grid along the longer side of a section: more for larger ones."""
        return self.grid or min(max(round(7 * (max(shape) / 512) ** 0.5), 5), 20)
