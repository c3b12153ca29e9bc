"""Train and judge the networks: ``python -m benchmark.networks --data DIR [--only NAMES]`` from the repository root.

Every model and its judgment are kept in the output folder; a training that was interrupted goes on, a finished one is
only judged again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import napari_stnreg as sr
from benchmark.recipes import Recipe, Row, all_recipes
from napari_stnreg.models.model_file import find_model

FIGURES = (("dice", "Dice", 3), ("ncc", "NCC", 3), ("error", "error", 2), ("folded_percent", "folded %", 3),
           ("cpu_ms", "CPU ms a pair", 0))  # fmt: skip


def parse() -> argparse.Namespace:
    """The command line."""
    recipes = all_recipes()
    parser = argparse.ArgumentParser(prog="python -m benchmark.networks", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--only", default=",".join(recipes), help="of: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("benchmark-networks"), help="folder for models and table")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the training; give each its own --out")
    parser.add_argument("--judge", action="store_true", help="train nothing: judge what is there")
    options = parser.parse_args()
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(recipes):
        parser.error(f"there is no recipe {', '.join(sorted(unknown))}; choose from {', '.join(recipes)}")
    if not options.data.is_dir():
        parser.error(f"the data folder {options.data} is missing")
    return options


def trained(name: str, recipe: Recipe, options: argparse.Namespace) -> Path:
    """The recipe's model, trained if it is not there yet; what it cost is written beside it."""
    path: Path = options.out / f"{name}.safetensors"
    if recipe.data is None:
        return find_model(recipe.bundled or name)
    if path.exists() or options.judge:
        return path
    start = None if recipe.warm_start is None else trained(recipe.warm_start, all_recipes()[recipe.warm_start], options)
    cost_file = options.out / f"{name}.cost.json"
    spent = json.loads(cost_file.read_text())["cpu_seconds"] if cost_file.exists() else 0.0
    start_time = time.process_time()

    def told(step: sr.TrainingProgress) -> None:
        if step.state == "validated":
            cost = {"cpu_seconds": round(spent + time.process_time() - start_time, 1), "epochs": step.epoch}
            cost_file.write_text(json.dumps(cost) + "\n")
            last = step.curve[-1] if step.curve else None
            print(name, cost, "" if last is None else (last.loss, last.validation_loss, last.scores), file=sys.stderr,
                  flush=True)  # fmt: skip

    settings = {**recipe.settings, "seed": options.seed}
    sr.train(recipe.data(options.data), output=path, resume=True, warm_start=start, progress=told, **settings)
    return path


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Means over pairs of every figure."""
    keys = {key for row in rows for key, value in row.items() if isinstance(value, int | float)}
    return {key: float(np.mean([row[key] for row in rows if key in row])) for key in sorted(keys)}


def line(name: str, recipe: Recipe, figures: dict[str, float], cost: dict[str, Any], size: int) -> str:
    """A row of the table."""
    cells = [name, recipe.title, f"{figures['pairs']:.0f}"]
    for key, _, digits in FIGURES[:3]:
        shown = [figures.get(k) for k in (f"{key}_before", key, f"refined_{key}")]
        cells.append(" / ".join("-" if v is None else f"{v:.{digits}f}" for v in shown) if shown[1] is not None else "")
    cells.append(f"{figures['folded_percent']:.3g}" if "folded_percent" in figures else "")
    cells.append(f"{figures['cpu_ms']:.0f}" if "cpu_ms" in figures else "")
    minutes = cost["cpu_seconds"] / 60
    cells += [f"{minutes:.1f}" if np.isfinite(minutes) else "-", f"{size / 2**20:.2f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Train, judge, write the table."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    header = ("recipe", "what", "pairs", "Dice before / one pass / refined", "NCC", "error", "folded %",
              "CPU ms a pair", "training, CPU min", "MB")  # fmt: skip
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for name in options.only:
        recipe = all_recipes()[name]
        if not (options.data / recipe.needs).exists():
            print(f"{name}: not run, {recipe.needs} is missing", file=sys.stderr)
            continue
        path = trained(name, recipe, options)
        if not path.exists():
            print(f"{name}: there is no model to judge", file=sys.stderr)
            continue
        model = sr.load(path)
        rows = list(recipe.judge(model, options.data, recipe.refine))
        figures = {"pairs": len(rows), **summary(rows)}
        cost_file = options.out / f"{name}.cost.json"
        cost = {"cpu_seconds": model.summary.get("cpu_seconds", float("nan"))}
        if cost_file.exists():
            cost = json.loads(cost_file.read_text())
        written = {"recipe": name, "goal": recipe.goal, "figures": figures, "cost": cost, "rows": rows}
        (options.out / f"{name}.json").write_text(json.dumps(written, indent=1) + "\n")
        print(json.dumps({"recipe": name, **figures}), file=sys.stderr, flush=True)
        lines.append(line(name, recipe, figures, cost, path.stat().st_size))
    (options.out / "networks.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
