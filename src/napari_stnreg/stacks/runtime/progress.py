"""What a running alignment tells, and what it leaves."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from napari_stnreg._version import __version__
from napari_stnreg.core.atomic_io import write_json
from napari_stnreg.core.errors import InputError
from napari_stnreg.stacks.output.ome_zarr import AlignedStack
from napari_stnreg.stacks.quality.sections import SectionQuality, write_table
from napari_stnreg.stacks.quality.slope_preservation import summarize
from napari_stnreg.stacks.settings import StackSettings


@dataclass(frozen=True)
class StackProgress:
    """One task of a running alignment ended.

    Parameters
    ----------
    stage
        ``"encoder"``, ``"prepare"``, ``"coarse"``, ``"fine 1"`` and so on, ``"quality"`` or ``"render"``.
    done, total
        Tasks of this stage.
    fraction
        Share of the whole run.
    message
        What is going on, in a few words.
    section
        The section that is done: read, matched with another, rendered.
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


@dataclass(frozen=True)
class StackResult:
    """What an alignment left on disk, and what is known about it.

    Parameters
    ----------
    path
        The OME-Zarr image with its displacement; see :class:`~napari_stnreg.stacks.output.ome_zarr.AlignedStack`.
    stop_reason
        ``"finished"``, or ``"stopped"`` when a person ended it; the same call with ``resume`` goes on.
    settings
        As they were used.
    verdicts
        A verdict on each section, with its reason and figures.
    gaps
        For each two neighbors that were compared: their numbers, and correlations before and after.
    seconds
        Wall-clock time of this call.
    warnings
        Sentences a person should read.
    slant
        How obliquely the tissue ran as recorded, pixels a section, with its standard error, and the share of that which
        the alignment kept; see :mod:`~napari_stnreg.stacks.quality.slope_preservation`.
    """

    path: Path
    stop_reason: str
    settings: StackSettings
    verdicts: list[SectionQuality] = field(default_factory=list)
    gaps: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)
    owner: Any = None
    slant: dict[str, float | None] = field(default_factory=dict)

    @property
    def aligned(self) -> AlignedStack:
        """The alignment, opened."""
        return AlignedStack(self.path)

    @property
    def counts(self) -> dict[str, int]:
        """How many sections got each verdict."""
        counts: dict[str, int] = {}
        for one in self.verdicts:
            counts[one.verdict] = counts.get(one.verdict, 0) + 1
        return counts

    @property
    def summary(self) -> list[str]:
        """The alignment in a line or two: how many sections got which verdict, and what became of slants."""
        verdicts = ", ".join(f"{number} {verdict}" for verdict, number in self.counts.items())
        return [line for line in (verdicts, summarize(self.slant)) if line]

    def report(self) -> dict[str, Any]:
        """Everything above as JSON-ready values."""
        return {
            "version": __version__,
            "output": self.path.name,
            "stop_reason": self.stop_reason,
            "settings": self.settings.model_dump(),
            "seconds": round(self.seconds, 2),
            "summary": self.summary,
            "verdicts": self.counts,
            "sections": [asdict(one) for one in self.verdicts],
            "gaps": self.gaps,
            "slant": self.slant,
            "warnings": self.warnings,
        }


def write_report(result: StackResult, beside: Path | None = None) -> tuple[Path, Path]:
    """Write ``OUT.report.json`` and ``OUT.quality.csv``, one row a section, beside the result or another OUT.zarr.

    Raises
    ------
    InputError
        If the system refuses.
    """
    path = beside or result.path
    stem = path.name.removesuffix(".zarr")
    report, table = path.with_name(f"{stem}.report.json"), path.with_name(f"{stem}.quality.csv")
    write_json(report, result.report())
    try:
        write_table(result.verdicts, table)
    except OSError as error:
        raise InputError(f"'{table}' cannot be written: {error.strerror or error}.") from error
    return report, table
