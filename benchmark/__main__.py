"""Run the benchmark: ``python -m benchmark --data DIR`` from the repository root."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.data import FILES, MissingDataError, pair_rows
from benchmark.peers import METHODS, make_method
from benchmark.report import table, write_files
from benchmark.threads import environment

DEFAULT_PAIRS = {"cardiac": 16, "brain-slices": 8, "hippocampus": 8, "brain": 4, "histology": 4, "fibsem": 4, "gpu": 1}
MODULES = {
    "ours": "napari_stnreg",
    "elastix": "itk",
    "ants-syn": "ants",
    "ants-syn-cc": "ants",
    "dipy": "dipy",
    "fireants": "fireants",
}
PACKAGES = ("napari-stnreg", "torch", "numpy", "scipy", "itk-elastix", "antspyx", "dipy", "fireants")
HEADER = """Made by `{command}` with {threads} threads for each method, {cpu}.
Seconds are those of the registration alone, in its own process, after one untimed call on a small made pair; reading,
the dense field and scoring are not in them. CPU seconds are what all threads of the process took, which a busy machine
changes little. Pairs: the `{split}` lists in `benchmark/pairs`."""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmark", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--sets", default=",".join(FILES), help="of: %(default)s")
    parser.add_argument("--methods", default=",".join(METHODS), help="of: %(default)s")
    parser.add_argument("--pairs", type=int, help="pairs of each set (default: a few, for about half an hour in all)")
    parser.add_argument("--split", choices=("test", "tuning"), default="test", help="choose settings on tuning only")
    parser.add_argument("--threads", type=int, default=2, help="for each method (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"), help="folder for JSON, CSV and table")
    options = parser.parse_args()
    options.sets, options.methods = options.sets.split(","), options.methods.split(",")
    for chosen, known, what in ((options.sets, FILES, "set"), (options.methods, METHODS, "method")):
        if unknown := set(chosen) - set(known):
            parser.error(f"there is no {what} {', '.join(sorted(unknown))}; choose from {', '.join(known)}")
    if not options.data.is_dir():
        parser.error(f"the data folder {options.data} is missing; give the one that holds {', '.join(FILES.values())}")
    return options


def why_not(name: str, method: str, data: Path) -> str | None:
    """Why a method is not run on a set, or ``None``."""
    if importlib.util.find_spec(MODULES[method]) is None:
        return f"not run: {MODULES[method]} is not installed"
    if not (data / FILES[name]).exists():
        return f"not run: {FILES[name]} is missing"
    if name == "gpu" and not has_gpu():
        return "not run: no CUDA device here"
    return None


def has_gpu() -> bool:
    """Whether torch finds a CUDA device; asked in a process of its own, so that this one holds no memory there."""
    question = "import torch; print(torch.cuda.is_available())"
    answer = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=False)
    return answer.stdout.strip() == "True"


def run_worker(name: str, method: str, count: int, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run a method on a set in a worker process and pass its rows on as they come."""
    command = [sys.executable, "-m", "benchmark.worker", "--method", method, "--set", name, "--split", options.split]
    command += ["--data", str(options.data), "--pairs", str(count), "--threads", str(options.threads)]
    options.out.mkdir(parents=True, exist_ok=True)
    missing = [f"{row['fixed_subject']}<-{row['moving_subject']}" for row in pair_rows(name, options.split, count)]
    with (options.out / "worker.log").open("a") as log:
        log.write(f"\n== {method} on {name}\n")
        log.flush()
        environ = environment(options.threads)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                yield json.loads(line)
                missing.pop(0)
    for pair in missing:
        yield {"set": name, "method": method, "pair": pair, "failed": f"the process ended with {process.returncode}"}


def cpu_name() -> str:
    """What the processor calls itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions() -> dict[str, str]:
    """Versions of what takes part."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def main() -> None:
    """Run every method on every set and print the table."""
    options = parse()
    rows: list[dict[str, Any]] = []
    notes: dict[tuple[str, str], str] = {}
    settings: dict[str, dict[str, Any]] = {}
    for name in options.sets:
        count = options.pairs or DEFAULT_PAIRS[name]
        for method in options.methods:
            if name == "gpu" and method != "ours":
                continue  # the peers have no GPU
            if reason := why_not(name, method, options.data):
                notes[name, method] = reason
                continue
            settings.setdefault(name, {})[method] = make_method(method, name, options.threads).settings
            for row in run_worker(name, method, 1 if name == "gpu" else count, options):
                rows.append(row)
                figure = row.get("dice_after", row.get("error_median_after", float("nan")))
                outcome = row.get("failed") or f"{figure:.3f} in {row['seconds']:.2f} s"
                print(f"{name} {method} {row['pair']}: {outcome}", file=sys.stderr, flush=True)
    command = "python -m benchmark " + " ".join(a for a in sys.argv[1:])
    header = HEADER.format(command=command, threads=options.threads, cpu=cpu_name(), split=options.split)
    run = {"threads": options.threads, "split": options.split, "versions": versions(), "cpu": cpu_name()}
    run |= {"settings": settings, "not_run": [[*key, reason] for key, reason in notes.items()]}
    markdown = f"{header}\n\n{table(rows, notes)}"
    write_files(options.out, rows, run, markdown)
    print(markdown)


if __name__ == "__main__":
    try:
        main()
    except MissingDataError as error:
        sys.exit(str(error))
