"""Result of an alignment: verdicts, quality figures and warnings."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from napari_stnreg._version import __version__
from napari_stnreg.core.atomic_io import write_json
from napari_stnreg.core.errors import InputError
from napari_stnreg.stacks.aligned_stack import AlignedStack
from napari_stnreg.stacks.quality.sections import SectionQuality, write_table
from napari_stnreg.stacks.quality.slope_preservation import summarize
from napari_stnreg.stacks.runtime.job import report_paths
from napari_stnreg.stacks.settings import StackSettings


@dataclass(frozen=True)
class StackResult:
    """Result of :func:`~napari_stnreg.align_stack`.

    Parameters
    ----------
    path
        The OME-Zarr folder with image and displacement.
    stop_reason
        ``"finished"``, or ``"stopped"`` if the run was stopped; the same call with ``resume=True`` continues it.
    settings
        The settings of the run.
    verdicts
        Status and verdict of each section, with the reason and figures.
    gaps
        Verdict and correlations before and after for each pair of neighbors that was compared.
    segments
        Runs of sections that fit each other. More than one: the stack is broken between them.
    seconds
        Wall-clock time of this call.
    warnings
        Sentences for the user.
    owner
        Keeps a temporary ``path`` alive as long as the result.
    slope
        Slope of the tissue as recorded, pixels per section, its standard error, and the fraction that the alignment
        kept; see :mod:`~napari_stnreg.stacks.quality.slope_preservation`.
    """

    path: Path
    stop_reason: str
    settings: StackSettings
    verdicts: list[SectionQuality] = field(default_factory=list)
    gaps: list[dict[str, Any]] = field(default_factory=list)
    segments: list[list[int]] = field(default_factory=list)
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)
    owner: Any = field(default=None, repr=False)
    slope: dict[str, float | None] = field(default_factory=dict)

    @property
    def aligned(self) -> AlignedStack:
        """The alignment on disk: image, displacement, and what can be done with them."""
        return AlignedStack(self.path)

    @property
    def counts(self) -> dict[str, int]:
        """Number of sections for each status, of aligned ones that are doubtful, and of failed ones."""
        names: list[str] = [one.status for one in self.verdicts]
        names += [
            one.verdict
            for one in self.verdicts
            if one.verdict == "failed" or (one.verdict == "doubtful" and one.status == "aligned")
        ]
        return {name: names.count(name) for name in dict.fromkeys(names)}

    @property
    def is_broken(self) -> bool:
        """Whether the stack falls into segments that do not fit each other."""
        return len(self.segments) > 1

    @property
    def summary(self) -> list[str]:
        """One or two lines: number of sections for each status and, of these, verdict; and the slope that was kept."""
        verdicts = ("doubtful", "failed")
        parts = [
            ", ".join(f"{number} {name}" for name, number in self.counts.items() if (name in verdicts) is judged)
            for judged in (False, True)
        ]
        sections = f"{parts[0]} (of these {parts[1]})" if parts[1] else parts[0]
        return [line for line in (sections, summarize(self.slope)) if line]

    def report(self) -> dict[str, Any]:
        """Return the result as JSON-ready values."""
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
            "segments": [[one[0], one[-1]] for one in self.segments],
            "slope": self.slope,
            "warnings": self.warnings,
        }

    def write_report(self, output: Path | None = None) -> tuple[Path, Path]:
        """Write ``OUT.report.json`` and ``OUT.quality.csv`` (one row per section) beside the result.

        Parameters
        ----------
        output
            Another ``OUT.zarr`` to write them beside.

        Returns
        -------
        tuple of Path
            Report and table.

        Raises
        ------
        InputError
            If the system refuses.
        """
        report, table = report_paths(output or self.path)
        write_json(report, self.report())
        write_table(self.verdicts, table)
        return report, table


def read_result(path: Path | str) -> StackResult:
    """Read the result of an alignment from its folder and the report beside it.

    Parameters
    ----------
    path
        The folder ``OUT.zarr``; ``OUT.report.json`` is beside it.

    Raises
    ------
    InputError
        If the folder is not an alignment, or its report is missing or not readable.
    """
    aligned = AlignedStack(path)
    report = aligned.report
    try:
        return StackResult(
            path=aligned.path,
            stop_reason=str(report["stop_reason"]),
            settings=StackSettings.parse(**report["settings"]),
            verdicts=[SectionQuality(**one) for one in report["sections"]],
            gaps=list(report["gaps"]),
            segments=[list(range(first, last + 1)) for first, last in report["segments"]],
            seconds=float(report["seconds"]),
            warnings=list(report["warnings"]),
            slope=dict(report["slope"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"The report of '{aligned.path.name}' is not readable or of another version.") from error
