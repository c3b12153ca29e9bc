"""Do memory and speed stay the same as a stack gets longer? ``python -m benchmark.large_stack --sections 100 500``

The sections are made by the package's generator and written to a folder of TIFF files first, one a section; what is
measured is reading them from there, aligning, and writing the aligned stack with its pyramid. Every length runs in a
process of its own; its peak memory is what the system counted for that process and its children. Times are CPU seconds
of that process, as others may use the machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmark.memory import peak_mb
from napari_stnreg.datasets import SerialSections

PARTS = 4
"""A stage is timed in so many parts, to see whether the later sections take longer than the first."""


def written(made: SerialSections, folder: Path) -> Path:
    """The folder that holds the sections as TIFF files; those that are there already are left."""
    import tifffile

    folder.mkdir(parents=True, exist_ok=True)
    for z in range(len(made)):
        path = folder / f"section-{z:05d}.tif"
        if not path.exists():
            part = path.with_suffix(".part")
            tifffile.imwrite(part, made.section(z))
            part.rename(path)
    return folder


def largest_mb() -> int:
    """Most memory that this process, or any of its children, took so far."""
    return round(max(peak_mb(), peak_mb(children=True)))


def measure(count: int, side: int, folder: Path, workers: int, words: dict[str, str]) -> dict[str, object]:
    """Align one stack in this process."""
    import napari_stnreg as sr

    made = SerialSections((count, side, side), seed=1)
    sections = written(made, folder / f"sections-{count}")
    settings = sr.StackSettings.parse(**words)
    before = largest_mb()
    output, began, cpu = folder / f"large-{count}.zarr", time.perf_counter(), time.process_time()
    stages: dict[str, float] = {}
    parts, peaks = [0.0] * PARTS, {}
    last, stage = cpu, ""
    for progress in sr.align_stack_steps(sections, output, settings, overwrite=True, workers=workers):
        now = time.process_time()
        if progress.stage == stage:  # the first report of a stage ends the solve before it
            stages[stage] = stages.get(stage, 0.0) + now - last
            parts[min((progress.done - 1) * PARTS // progress.total, PARTS - 1)] += now - last
        else:
            print(
                f"{count} sections, {stage or 'start'}: {now - cpu:.0f} s, {largest_mb()} MB",
                file=sys.stderr,
                flush=True,
            )
        last, stage = now, progress.stage
        peaks[stage] = largest_mb()
    cpu = time.process_time() - cpu
    return {
        "sections": count,
        "side": side,
        "workers": workers,
        "peak_mb": largest_mb(),
        "before_mb": before,
        "peaks_mb": peaks,
        "cpu_seconds": round(cpu, 1),
        "cpu_seconds_a_section": round(cpu / count, 3),
        "by_part": [round(PARTS * seconds / count, 3) for seconds in parts],
        "solving_a_section": round((cpu - sum(stages.values())) / count, 3),
        "seconds": round(time.perf_counter() - began, 1),
        "stages": {name: round(seconds / count, 3) for name, seconds in stages.items()},
        "jump_before_px": round(jump(made, None), 2),
        "jump_px": round(jump(made, output), 3),
    }


def jump(made: SerialSections, output: Path | None) -> float:
    """Median distance of the same tissue in neighboring sections, over a few dozen neighbors."""
    import napari_stnreg as sr

    count, side = made.shape[:2]
    places = np.stack(np.meshgrid(*[np.linspace(0.2, 0.8, 4) * side] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    found = []
    for first in np.linspace(0, count - 2, min(count - 1, 24)).astype(int):
        pair = []
        for z in (int(first), int(first) + 1):
            raw = made.to_section(z, places)
            rows = np.column_stack([np.full(len(raw), z), raw])
            pair.append(raw if output is None else sr.AlignedStack(output).map_points(rows)[:, 1:])
        found += [np.linalg.norm(b - a, axis=1) for a, b in pairwise(pair)]
    return float(np.median(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sections", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--folder", type=Path, default=Path("benchmark-output"))
    parser.add_argument("--workers", type=int, default=1, help="sections at a time")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings, such as working_size=256")
    parser.add_argument("--here", action="store_true", help="run one length in this process")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.here:
        words = dict(word.split("=", 1) for word in options.set)
        print(json.dumps(measure(options.sections[0], options.side, options.folder, options.workers, words)))
        return
    for count in options.sections:
        command = [sys.executable, "-m", "benchmark.large_stack", "--here", "--sections", str(count)]
        command += ["--side", str(options.side), "--folder", str(options.folder), "--workers", str(options.workers)]
        done = subprocess.run([*command, "--set", *options.set], check=True, stdout=subprocess.PIPE, text=True)
        line = done.stdout.strip().splitlines()[-1]
        print(line, flush=True)
        with (options.folder / "large_stack.jsonl").open("a") as table:
            table.write(line + "\n")
        for name in (f"large-{count}.zarr", f"sections-{count}"):
            shutil.rmtree(options.folder / name, ignore_errors=True)


if __name__ == "__main__":
    main()
