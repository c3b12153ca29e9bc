"""How much memory one task of an alignment takes at its peak: ``python -m benchmark.task_memory --sides 512 1024 4096``

Every task of two generated sections is run once, after the same task has been run on small sections, so that what
libraries load and keep is not counted; every size in a process of its own. A peak is the most that the system saw, in
MB, less what the process held before. ``estimate`` is what ``--memory`` reckons with. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmark.memory import resident_mb

TASKS = ("prepare", "coarse", "fine", "quality", "render")


def forget_peak() -> None:
    """Let the system count the peak from here."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """The most that this process held since :func:`forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def prepared(folder: Path, side: int, features: str) -> dict[str, tuple]:
    """The calls of one pair of sections, each with what it needs already on disk but what it makes itself."""
    import tifffile

    from napari_stnreg.datasets import SerialSections
    from napari_stnreg.stacks.output.canvas import OutputCanvas
    from napari_stnreg.stacks.output.ome_zarr import CHUNK, create
    from napari_stnreg.stacks.runtime import tasks
    from napari_stnreg.stacks.runtime.checkpoint import WorkFolder
    from napari_stnreg.stacks.section_transform import Lattice, SectionTransform
    from napari_stnreg.stacks.settings import StackSettings
    from napari_stnreg.stacks.sources.open import open_stack

    made, images = SerialSections((2, side, side), seed=5), folder / "sections"
    images.mkdir(parents=True)
    for z in range(2):
        tifffile.imwrite(images / f"{z}.tif", made.section(z))
    source, settings = open_stack(images), StackSettings.parse(features=features)
    work = WorkFolder(folder / "work")
    work.begin({}, resume=False)
    factor = settings.factor((side, side))
    lattice = Lattice.covering((0, 0), (side, side), side / settings.cells((side, side)))
    there = SectionTransform.from_affine(np.eye(3), lattice, (side, side), None, factor)
    there = there.with_vectors(np.random.default_rng(0).normal(0, 1, there.vectors.shape))
    canvas = OutputCanvas((-20, -20), (side + 40, side + 40), (side, side), max(4, factor))
    writer = create(folder / "out.zarr", source, canvas, canvas.shape)
    encoder = None
    if features == "auto-encoder":
        from napari_stnreg.core.progress import run_to_completion
        from napari_stnreg.stacks.preprocessing.encoder import training_steps

        seen = [tasks.training_section(source, None, z, settings) for z in (0, 1, 0, 1)]
        encoder = folder / "encoder.safetensors"
        run_to_completion(training_steps([section for section in seen if section is not None], epochs=1)).save(encoder)
    for z in range(2):
        tasks.prepare_section(work, source, None, z, settings, encoder)
    return {
        "prepare": (tasks.prepare_section, work, source, None, 0, settings, encoder),
        "coarse": (tasks.match_coarse, work, (0, 1), settings),
        "fine": (tasks.match_fine, work, "fine 1", (0, 1), (there, there), settings, 0, False),
        "quality": (tasks.measure_pair, work, "quality", (0, 1), (there, there)),
        "render": (tasks.render_section, work, source, writer, 0, there, canvas, CHUNK, False),
        "estimate": (source, settings),
    }


def measure(side: int, tasks: Sequence[str], features: str = "lncc") -> dict[str, float]:
    """Run the tasks in this process; how many MB each takes at its peak, and ``estimate``."""
    import gc

    import torch

    from napari_stnreg.datasets import serial_sections
    from napari_stnreg.stacks.runtime.memory import task_bytes

    torch.set_num_threads(1)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        small, large = (prepared(Path(folder) / str(n), n, features) for n in (160, side))
        serial_sections._cached_section.cache_clear()
        for task in tasks:
            for calls in (small, large):
                gc.collect()
                _trim()
                before = resident_mb()
                forget_peak()
                function, *words = calls[task]
                function(*words)
                found[task] = round(peak_mb() - before, 1)
        found["estimate"] = round(task_bytes(*large["estimate"]) / 2**20, 1)
    return found


def _trim() -> None:
    """Give what was freed back to the system, so that the peak does not hide in it."""
    import ctypes

    ctypes.CDLL("libc.so.6").malloc_trim(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024, 4096])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--features", default="lncc", help="what is compared")
    parser.add_argument("--here", action="store_true", help="measure the first of the sides in this process")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.sides[0], options.tasks, options.features)))
        return
    for side in options.sides:
        command = [sys.executable, "-m", "benchmark.task_memory", "--here", "--sides", str(side)]
        command += ["--features", options.features, "--tasks", *options.tasks]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        print(side, found.strip(), flush=True)


if __name__ == "__main__":
    main()
