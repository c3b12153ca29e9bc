"""From rows, one for each pair, to a table, a JSON file and a CSV file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.peers import describe

Row = dict[str, Any]

TITLES = {
    "cardiac": "cardiac_cine, end-systole to end-diastole",
    "brain-slices": "brain_t1_2mm, middle planes, all regions",
    "hippocampus": "hippocampus, pairs of cases",
    "brain": "brain_t1_2mm, all regions",
    "histology": "histology_landmarks, annotator PS, errors in pixels",
    "fibsem": "fibsem planes warped smoothly by 8 px rms, errors of the displacement in pixels",
    "gpu": "a brain pair upsampled to 160x192x160, on the GPU",
}
DICE_COLUMNS = ("Dice before", "after: mean", "median", "10th pct.")
ERROR_COLUMNS = ("median before", "after: median", "mean", "90th pct.", "median / diagonal")
COMMON = ("folded %", "s / pair", "CPU s / pair")


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """The figures of one method on one set.

    Dice: each pair counts by the mean over its labels; mean, median and tenth percentile are over pairs. Errors: each
    pair counts by its median (mean, 90th percentile) over points, and these are averaged over pairs. A pair that
    failed counts as if nothing had been done to it, so that failing never pays.
    """

    def column(key: str, instead: str | None = None) -> list[float]:
        values = [row.get(key, row.get(instead) if instead else None) for row in rows]
        return [v for v in values if v is not None]

    figures: dict[str, float] = {"pairs": len(rows), "failed": sum("failed" in row for row in rows)}
    for key in ("folded_percent", "seconds", "cpu_seconds"):
        if column(key):
            figures[key] = float(np.mean(column(key)))
    if column("dice_after"):
        after = column("dice_after", "dice_before")
        figures["dice_before"] = float(np.mean(column("dice_before")))
        figures["dice_mean"], figures["dice_median"] = float(np.mean(after)), float(np.median(after))
        figures["dice_p10"] = float(np.percentile(after, 10))
    for key in ("median", "mean", "p90"):
        if column(f"error_{key}_after"):
            figures[f"error_{key}_before"] = float(np.mean(column(f"error_{key}_before")))
            figures[f"error_{key}"] = float(np.mean(column(f"error_{key}_after", f"error_{key}_before")))
    if column("error_median_after_relative"):
        relative = column("error_median_after_relative", "error_median_before_relative")
        figures["error_median_relative"] = float(np.mean(relative))
    return figures


def table(rows: Iterable[Row], notes: dict[tuple[str, str], str]) -> str:
    """Markdown: one table for each set, one line for each method.

    Parameters
    ----------
    rows
        One for each set, method and pair.
    notes
        What to write instead of figures, for a set and a method that was not run.
    """
    groups: dict[str, dict[str, list[Row]]] = {}
    for key in notes:
        groups.setdefault(key[0], {}).setdefault(key[1], [])
    for row in rows:
        groups.setdefault(row["set"], {}).setdefault(row["method"], []).append(row)
    parts = []
    for name in sorted(groups, key=list(TITLES).index):
        columns = ERROR_COLUMNS if name in ("histology", "fibsem") else DICE_COLUMNS
        header = ("method", "pairs", *columns, *COMMON)
        lines = [f"**{TITLES[name]}**", "", _line(header), _line("---" for _ in header)]
        for method, members in groups[name].items():
            if members:
                cells = [describe(method), *_cells(summary(members), name)]
            else:
                cells = [describe(method), notes[name, method], *[""] * (len(header) - 2)]
            lines.append(_line(cells))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cells(figures: dict[str, float], name: str) -> list[str]:
    """The figures in the order of the header."""
    failed = f" ({figures['failed']:.0f} failed)" if figures["failed"] else ""
    keys = ["dice_before", "dice_mean", "dice_median", "dice_p10"]
    digits = 3
    if name in ("histology", "fibsem"):
        keys, digits = ["error_median_before", "error_median", "error_mean", "error_p90"], 2
    cells = [f"{figures['pairs']:.0f}{failed}"] + [f"{figures[k]:.{digits}f}" if k in figures else "-" for k in keys]
    if name in ("histology", "fibsem"):
        relative = figures.get("error_median_relative")
        cells.append("" if relative is None else f"{100 * relative:.2f} %")
    cells.append(f"{figures['folded_percent']:.3g}" if "folded_percent" in figures else "-")
    cells += [f"{figures[key]:.2f}" if key in figures else "-" for key in ("seconds", "cpu_seconds")]
    return cells


def _line(cells: Iterable[str]) -> str:
    """A line of a markdown table."""
    return "| " + " | ".join(cells) + " |"


def write_files(folder: Path, rows: Sequence[Row], run: dict[str, Any], markdown: str) -> None:
    """Write ``benchmark.json`` (the run and every row), ``benchmark.csv`` (rows) and ``benchmark.md`` (the table)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmark.json").write_text(json.dumps({"run": run, "rows": list(rows)}, indent=1) + "\n")
    (folder / "benchmark.md").write_text(markdown + "\n")
    fields = list(dict.fromkeys(key for row in rows for key in row))
    with (folder / "benchmark.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
