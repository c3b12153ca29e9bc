"""Do memory and speed stay the same as a stack gets longer? ``python -m benchmark.large_stack --sections 100 300 2000``

The sections are made one at a time by the package's generator, when the alignment asks for them. Every length runs in a
process of its own; its peak memory is what the system counted for that process. Times are CPU seconds of that process,
as others may use the machine.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from napari_stnreg.samples import SerialSections


def measure(count: int, side: int, folder: Path, words: dict[str, str]) -> dict[str, object]:
    """Align one stack in this process."""
    import napari_stnreg as sr

    made = SerialSections((count, side, side), seed=1)
    generating = time.process_time()
    for z in range(min(count, 8)):
        made.section(z)
    generating = (time.process_time() - generating) / min(count, 8)
    settings = sr.StackSettings.parse(**words)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    output, began, cpu = folder / f"large-{count}.zarr", time.perf_counter(), time.process_time()
    stages: dict[str, float] = {}
    last = cpu
    for progress in sr.align_stack_steps(made, output, settings, overwrite=True):
        now = time.process_time()
        stages[progress.stage] = stages.get(progress.stage, 0.0) + now - last
        last = now
    cpu = time.process_time() - cpu
    return {
        "sections": count,
        "side": side,
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "before_mb": round(before),
        "cpu_seconds": round(cpu, 1),
        "cpu_seconds_a_section": round(cpu / count, 3),
        "of_which_generating": round(2 * generating, 3),
        "seconds": round(time.perf_counter() - began, 1),
        "stages": {name: round(seconds, 1) for name, seconds in stages.items()},
        "jump_before_px": round(jump(made, None), 2),
        "jump_px": round(jump(made, output), 3),
    }


def jump(made: SerialSections, output: Path | None) -> float:
    """Median distance of the same tissue in neighbouring sections, over a few dozen neighbours."""
    import napari_stnreg as sr

    count, side = made.shape[:2]
    places = np.stack(np.meshgrid(*[np.linspace(0.2, 0.8, 4) * side] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    found = []
    for first in np.linspace(0, count - 2, min(count - 1, 24)).astype(int):
        pair = []
        for z in (int(first), int(first) + 1):
            raw = made.place(z, places)
            rows = np.column_stack([np.full(len(raw), z), raw])
            pair.append(raw if output is None else sr.apply_points(output, rows)[:, 1:])
        found += [np.linalg.norm(b - a, axis=1) for a, b in pairwise(pair)]
    return float(np.median(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sections", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--folder", type=Path, default=Path("benchmark-output"))
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings, such as working_size=256")
    parser.add_argument("--here", action="store_true", help="run one length in this process")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.here:
        words = dict(word.split("=", 1) for word in options.set)
        print(json.dumps(measure(options.sections[0], options.side, options.folder, words)))
        return
    for count in options.sections:
        command = [sys.executable, "-m", "benchmark.large_stack", "--here", "--sections", str(count)]
        command += ["--side", str(options.side), "--folder", str(options.folder), "--set", *options.set]
        line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1]
        print(line, flush=True)
        with (options.folder / "large_stack.jsonl").open("a") as table:
            table.write(line + "\n")
        shutil.rmtree(options.folder / f"large-{count}.zarr", ignore_errors=True)


if __name__ == "__main__":
    main()
