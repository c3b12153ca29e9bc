"""What one section costs on a Dask cluster: ``python -m benchmark.scaling --sides 2048 4096 --workers 1 2``

Generated sections are written as a Zarr array and aligned with ``scheduler=ADDRESS``, as ``stnreg align --scheduler``
does. Every worker is a process with one thread on this machine, so more workers than free cores measure nothing. A tiny
stack is aligned first, so that imports are not counted. CPU seconds and bytes are what the system counted for the
workers (bytes passed to read and write calls, from the disk or its cache); *serial* is the time between stages, in
which only the main process works. Linux only.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmark.memory import peak_mb


def counters() -> tuple[float, int, int]:
    """CPU seconds and bytes read and written by this process so far."""
    import psutil

    me = psutil.Process()
    cpu, moved = me.cpu_times(), me.io_counters()
    return cpu.user + cpu.system, moved.read_chars, moved.write_chars


def write_sections(path: Path, count: int, side: int) -> None:
    """Write generated sections as a Zarr array with chunks of 512 pixels."""
    import zarr

    from napari_stnreg.datasets import SerialSections

    made = SerialSections((count, side, side), seed=1)
    stored: Any = zarr.create_array(str(path), shape=(count, side, side), chunks=(1, 512, 512), dtype="uint8")
    for z in range(count):
        stored[z] = made.section(z)


def size_of(path: Path) -> tuple[int, int]:
    """Bytes and number of the files of a folder."""
    sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
    return sum(sizes), len(sizes)


def measure(folder: Path, count: int, side: int, workers: int) -> dict[str, Any]:
    """Align one stack on a cluster of local processes."""
    import distributed

    import napari_stnreg as sr

    output = folder / f"out-{side}-{workers}.zarr"
    local = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": ":0"}
    with (
        distributed.LocalCluster(local_directory=str(folder), **local) as cluster,
        distributed.Client(cluster) as client,
    ):
        address = cluster.scheduler_address
        for _ in sr.align_stack_steps(folder / "tiny.zarr", folder / "warm.zarr", scheduler=address, overwrite=True):
            pass

        def total() -> list[float]:
            return [sum(numbers) for numbers in zip(*client.run(counters).values(), strict=True)]

        stages: dict[str, dict[str, float]] = defaultdict(
            lambda: dict.fromkeys(("tasks", "s", "cpu_s", "read", "written"), 0)
        )
        began, serial = time.perf_counter(), 0.0
        start, ended, before, left = began, began, total(), 0
        for now in sr.align_stack_steps(folder / f"{side}.zarr", output, scheduler=address, keep_work=True):
            if now.section is None:  # a stage begins
                start, before, left = time.perf_counter(), total(), now.total - now.done
                serial += start - ended
            if now.done == now.total:
                ended = time.perf_counter()
                row = stages[now.stage]
                row["tasks"] += left
                row["s"] += ended - start
                for name, one, other in zip(("cpu_s", "read", "written"), before, total(), strict=True):
                    row[name] += other - one
        finished = time.perf_counter()
        serial += finished - ended
        peak = max(client.run(peak_mb).values())
    image, work = size_of(output), size_of(output.with_suffix(".work"))
    shutil.rmtree(output)
    shutil.rmtree(output.with_suffix(".work"))
    return {
        "sections": count,
        "side": side,
        "workers": workers,
        "seconds": finished - began,
        "serial_s": serial,
        "tasks": sum(row["tasks"] for row in stages.values()),
        "stages": stages,
        "peak_mb": peak,
        "output_bytes": image[0],
        "output_files": image[1],
        "work_bytes": work[0],
        "work_files": work[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sections", type=int, default=6)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sections(folder / "tiny.zarr", 3, 256)
        for side in options.sides:
            write_sections(folder / f"{side}.zarr", options.sections, side)
            for workers in options.workers:
                found = measure(folder, options.sections, side, workers)
                print(json.dumps(found), flush=True)
                count = options.sections
                print(
                    f"{side} px, {workers} workers: {count / found['seconds']:.3f} sections a second, "
                    f"{found['tasks'] / count:.1f} tasks a section, serial {found['serial_s'] / count:.2f} s a section",
                    file=sys.stderr,
                )
                for stage, row in found["stages"].items():
                    tasks = max(row["tasks"], 1)
                    print(
                        f"  {stage:10} {row['tasks']:4.0f} tasks, each {row['cpu_s'] / tasks:.2f} CPU s, "
                        f"{row['read'] / tasks / 1e6:.2f} MB read, {row['written'] / tasks / 1e6:.2f} MB written",
                        file=sys.stderr,
                        flush=True,
                    )


if __name__ == "__main__":
    main()
