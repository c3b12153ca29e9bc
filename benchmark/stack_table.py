"""The table of the stacks as Markdown, from the rows that ``benchmark.stacks`` wrote.

Run ``python -m benchmark.stack_table ROWS.csv [MORE.csv]``. Every figure is the mean over the seeds that were run; the
last lines say by how many times ours is more than each peer's, over the seeds that both ran.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

Rows = dict[str, dict[str, dict[str, dict[str, float]]]]
TITLES = {"nothing": "doing nothing", "sofima": "SOFIMA 0.1", "feabas": "feabas 3.0.6", "keep": "**ours**"}
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


def read(paths: list[Path]) -> Rows:
    """Values by program, case, column and seed."""
    found: Rows = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for path in paths:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                values = {name: float(text) for name, text in row.items() if _is_number(text)}
                if "correlation" in values:
                    values["less"] = values["correlation"] - values["true_correlation"]
                for name, value in values.items():
                    found[row["program"]][row["case"]][name][row["seed"]] = value
    return found


def table(rows: Rows, tissue: str) -> list[str]:
    """Lines of the table of one kind of tissue: ``"fibsem "``, or nothing for the generator's."""
    columns = {t: c for t, c in COLUMNS.items() if tissue == "" or c[1] != "slope"}
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    means: dict[str, dict[str, float]] = {}
    for program in sorted(rows, key=lambda p: list(TITLES).index(p) if p in TITLES else len(TITLES)):
        cases = rows[program]
        means[program] = {
            title: float(np.mean(list(cases[tissue + case][name].values())))
            if cases[tissue + case][name]
            else float("nan")
            for title, (case, name) in columns.items()
        }
        if all(np.isnan(value) for value in means[program].values()):
            continue
        cells = [_cell(title, value) for title, value in means[program].items()]
        lines.append(f"| {TITLES.get(program, program)} | " + " | ".join(cells) + " |")
    for peer in ("sofima", "feabas"):
        cells = []
        for title, (case, name) in columns.items():
            ours, theirs = (rows[p][tissue + case][name] for p in ("keep", peer))
            shared = ours.keys() & theirs.keys()  # of the same seeds
            sums = sum(ours[seed] for seed in shared), sum(theirs[seed] for seed in shared)
            plain = title not in ("correlation less truth", "folded", "slope") and min(sums) > 0
            cells.append(f"{sums[0] / sums[1]:.2f}" if plain else "")
        if any(cells):
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
