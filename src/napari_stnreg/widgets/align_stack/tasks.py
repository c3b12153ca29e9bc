"""What the alignment panel lets run in the background: aligning, reslicing, saving."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_stnreg.core.errors import InputError
from napari_stnreg.widgets.common.task_runner import TaskControl, TaskProgress, relay_progress

MOST_ROWS = 400
"""A reslice shows at most so many sections, evenly chosen."""


@dataclass(frozen=True)
class AlignJob:
    """A run, taken down when Align is pressed."""

    stack: Any
    output: Path
    settings: Any
    exclude: tuple[int, ...] = ()
    landmarks: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    only: tuple[int, int] | None = None
    resume: bool = False
    workers: int | None = None
    memory: float | None = None

    def same_as(self, begun: AlignJob) -> bool:
        """Whether what another run left half done is this run's; landmarks may have been moved since."""
        return (
            self.settings == begun.settings
            and self.exclude == begun.exclude
            and self.only == begun.only
            and not (self.landmarks or begun.landmarks)
            and getattr(self.stack, "array", None) is getattr(begun.stack, "array", None)
        )


def align(job: AlignJob, control: TaskControl) -> Generator[TaskProgress, None, Any]:
    """Align a stack; what is handed over on the way is the folder that fills with sections."""
    import napari_stnreg as sr

    yield TaskProgress(0.0, "Starting …")
    steps = sr.align_stack_steps(
        job.stack,
        job.output,
        job.settings,
        exclude=job.exclude,
        landmarks=job.landmarks,
        only=job.only,
        workers=job.workers,
        memory=job.memory,
        resume=job.resume,
        overwrite=not job.resume,
        keep_work=True,
    )

    def show(progress: Any) -> TaskProgress:
        where = f"{progress.message}, {progress.done} of {progress.total}"
        return TaskProgress(progress.fraction, where[:1].upper() + where[1:], progress.output)

    return (yield from relay_progress(steps, control, show))


@dataclass(frozen=True)
class Reslices:
    """Cuts across the sections, before and after, each ``(z, n)``."""

    xz: tuple[np.ndarray, np.ndarray]
    yz: tuple[np.ndarray, np.ndarray]
    place: tuple[int, int]


def reslice(
    before: Any, after: Any, origin: tuple[int, int], place: tuple[int, int], control: TaskControl
) -> Generator[TaskProgress, None, Reslices | None]:
    """Cut both stacks at row and column ``place`` (of the raw stack).

    Parameters
    ----------
    before, after
        Arrays ``(z, y, x)``, in memory or lazy.
    origin
        Where the second begins in pixels of the first.
    place
        Row and column of the first.
    """
    count = before.shape[0]
    chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_ROWS)).astype(int))
    row, column = (int(np.clip(p, 0, n - 1)) for p, n in zip(place, before.shape[1:], strict=True))
    height, width = before.shape[1:]
    cuts: list[list[np.ndarray]] = [[], [], [], []]
    for number, z in enumerate(chosen):
        if control.cancel.is_set() or control.stop.is_set():
            return None
        first = np.asarray(before[int(z)])
        second = _on_canvas(after, int(z), origin, (height, width))
        for cut, values in zip(cuts, (first[row], second[row], first[:, column], second[:, column]), strict=True):
            cut.append(np.asarray(values))
        if number % 20 == 0 and control.update_shown.is_set():
            control.update_shown.clear()
            yield TaskProgress(number / len(chosen), f"Cutting section {z} of {count} …")
    a, b, c, d = (np.stack(cut) for cut in cuts)
    return Reslices((a, b), (c, d), (row, column))


def _on_canvas(after: Any, z: int, origin: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """A section of the aligned stack on the raw one's canvas."""
    section = np.asarray(after[z])
    out = np.zeros(shape, dtype=section.dtype)
    from_y, from_x = max(-origin[0], 0), max(-origin[1], 0)
    to_y, to_x = max(origin[0], 0), max(origin[1], 0)
    part = section[from_y : from_y + shape[0] - to_y, from_x : from_x + shape[1] - to_x]
    out[to_y : to_y + part.shape[0], to_x : to_x + part.shape[1]] = part
    return out


def save(path: Path, target: Path, result: Any, control: TaskControl) -> Generator[TaskProgress, None, Path | None]:
    """Copy an alignment to where the person wants it, with its report."""
    if target.exists():
        if not (target / "zarr.json").exists():
            raise InputError(f"'{target.name}' is there already and is no Zarr folder; choose another name.")
        shutil.rmtree(target)
    files = [file for file in path.rglob("*") if file.is_file()]
    for number, file in enumerate(files):
        if control.cancel.is_set() or control.stop.is_set():
            shutil.rmtree(target, ignore_errors=True)
            return None
        to = target / file.relative_to(path)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, to)
        if number % 50 == 0 and control.update_shown.is_set():
            control.update_shown.clear()
            yield TaskProgress(number / len(files), f"Writing {number} of {len(files)} files …")
    from napari_stnreg.stacks.runtime.progress import write_report

    write_report(result, target)
    return target
