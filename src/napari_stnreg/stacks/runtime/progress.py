"""Progress of a running alignment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StackProgress:
    """One task of a running alignment ended.

    Parameters
    ----------
    stage
        ``"encoder"``, ``"prepare"``, ``"coarse"``, ``"gaps"``, ``"fine 1"`` and so on, ``"quality"`` or ``"render"``.
    done, total
        Tasks of this stage.
    fraction
        Progress of the whole run, 0 to 1.
    message
        Short description of the stage.
    section
        Section that is done: read, matched with another, or rendered.
    output
        The result on disk, once sections are rendered into it.
    """

    stage: str
    done: int
    total: int
    fraction: float
    message: str
    section: int | None = None
    output: Path | None = None
