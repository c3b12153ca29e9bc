"""The table of the stacks as Markdown, from the rows that ``benchmark.stacks`` wrote.

Run ``python -m benchmark.stack_table ROWS.csv [MORE.csv]``. Every figure is the mean over the seeds that were run; the
last lines say by how many times ours is more than each peer's.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

TITLES = {"nothing": "doing nothing", "sofima": "SOFIMA 0.1", "feabas": "feabas 3.0.6", "natural": "**ours**"}
COLUMNS = {
    "CPU s a section": ("warped", "s/section"),
    "adjacent": ("warped", "adjacent"),
    "mean": ("warped", "mean"),
    "last": ("warped", "last"),
    "correlation less truth": ("warped", "less"),
    "still: mean": ("still", "mean"),
    "last ": ("still", "last"),
    "over a missing section": ("missing", "over_missing"),
    "at a crack": ("crack", "at_crack"),
    "folded": ("warped", "folded"),
    "slope": ("warped", "slope"),
}


def read(paths: list[Path]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Values by program, case and column."""
    found: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for path in paths:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                values = {name: float(text) for name, text in row.items() if _is_number(text)}
                if "correlation" in values:
                    values["less"] = values["correlation"] - values["true_correlation"]
                for name, value in values.items():
                    found[row["program"]][row["case"]][name].append(value)
    return found


def table(rows: dict[str, dict[str, dict[str, list[float]]]], tissue: str) -> list[str]:
    """Lines of the table of one kind of tissue: ``"fibsem "``, or nothing for the generator's."""
    columns = {t: c for t, c in COLUMNS.items() if tissue == "" or c[1] != "slope"}
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    means: dict[str, dict[str, float]] = {}
    for program in sorted(rows, key=lambda p: list(TITLES).index(p) if p in TITLES else len(TITLES)):
        cases = rows[program]
        means[program] = {
            title: float(np.mean(cases[tissue + case][name])) if cases[tissue + case][name] else float("nan")
            for title, (case, name) in columns.items()
        }
        if all(np.isnan(value) for value in means[program].values()):
            continue
        cells = [_cell(title, value) for title, value in means[program].items()]
        lines.append(f"| {TITLES.get(program, program)} | " + " | ".join(cells) + " |")
    for peer in ("sofima", "feabas"):
        if peer in means and "natural" in means:
            cells = []
            for title in columns:
                ours, theirs = means["natural"][title], means[peer][title]
                plain = title not in ("correlation less truth", "folded", "slope") and theirs > 0 and ours > 0
                cells.append(f"{ours / theirs:.2f}" if plain else "")
            lines.append(f"| ours / {TITLES[peer]} | " + " | ".join(cells) + " |")
    return lines


def _cell(title: str, value: float) -> str:
    if np.isnan(value):
        return ""
    return f"{value:+.3f}" if title.startswith("correlation") else f"{value:.2f}" if value else "0"


def _is_number(text: str | None) -> bool:
    try:
        float(text or "")
    except ValueError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path, nargs="+")
    rows = read(parser.parse_args().rows)
    for tissue, title in (("fibsem ", "FIB-SEM"), ("", "Generated")):
        print(f"\n{title}\n")
        print("\n".join(table(rows, tissue)))


if __name__ == "__main__":
    main()
