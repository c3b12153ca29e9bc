"""Background tasks of the alignment panel: align, reslice, save."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_stnreg.core.errors import InputError
from napari_stnreg.io.formats import is_url
from napari_stnreg.widgets.common.task_runner import TaskControl, TaskProgress, relay_progress

MAX_ROWS = 400
"""Largest number of sections in a reslice, evenly spaced."""


@dataclass(frozen=True)
class AlignJob:
    """A run, taken down when Align is pressed."""

    stack: Any
    output: Path
    settings: Any
    exclude: tuple[int, ...] = ()
    landmarks: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    section_range: tuple[int, int] | None = None
    resume: bool = False
    workers: int | None = None
    memory: float | None = None

    def same_as(self, begun: AlignJob) -> bool:
        """Return whether an unfinished run can be continued by this one; landmarks may have moved since."""
        return (
            self.settings == begun.settings
            and self.exclude == begun.exclude
            and self.section_range == begun.section_range
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
        section_range=job.section_range,
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
    """Cuts across the sections, raw and aligned, each ``(z, n)``."""

    xz: tuple[np.ndarray, np.ndarray]
    yz: tuple[np.ndarray, np.ndarray]
    place: tuple[int, int]


def cut_stack(raw: Any, output: Path | None, place: tuple[int, int]) -> Reslices:
    """Cut the raw and the aligned stack at a row and column.

    Parameters
    ----------
    raw
        Array ``(z, y, x)``, in memory or lazy.
    output
        The aligned stack, which may still be filling with sections; black if not given.
    place
        Row and column of the raw stack.
    """
    from napari_stnreg.stacks.aligned_stack import AlignedStack

    aligned = None if output is None else AlignedStack(output)
    count = raw.shape[0]
    chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_ROWS)).astype(int)).tolist()
    row, column = (int(np.clip(p, 0, n - 1)) for p, n in zip(place, raw.shape[1:], strict=True))
    before = (
        np.stack([np.asarray(raw[z, row]) for z in chosen]),
        np.stack([np.asarray(raw[z, :, column]) for z in chosen]),
    )
    if aligned is None:
        after = np.zeros_like(before[0]), np.zeros_like(before[1])
    else:
        after = aligned.reslice("y", row, chosen), aligned.reslice("x", column, chosen)
    return Reslices((before[0], after[0]), (before[1], after[1]), (row, column))


def save(path: Path, target: Path, result: Any, control: TaskControl) -> Generator[TaskProgress, None, Path | None]:
    """Copy an alignment with its report to the folder that the user chose."""
    from napari_stnreg.stacks.aligned_stack import AlignedStack

    steps = AlignedStack(path).save_steps(target, overwrite=True)

    def progress(now: Any) -> TaskProgress:
        return TaskProgress(now.fraction, f"Writing {now.done} of {now.total} files …")

    saved = yield from relay_progress(steps, control, progress)
    if control.cancel.is_set() or control.stop.is_set():
        return None
    result.write_report(saved)
    return saved


def open_url(url: str, control: TaskControl) -> Generator[TaskProgress, None, tuple[list[Any], dict[str, Any]]]:
    """Open a Zarr store at a URL; return the levels ``(z, y, x)`` of its image and the keywords of a layer.

    Raises
    ------
    InputError
        If it is no URL, or the store holds no stack.
    """
    import dask.array

    from napari_stnreg.io.ome_zarr import read_multiscale
    from napari_stnreg.stacks.sources.zarr import open_zarr

    yield TaskProgress(0.0, "Opening …")
    if not is_url(url):
        raise InputError(f"'{url}' is not a URL. Give one such as s3://bucket/stack.zarr.")
    image, finest = read_multiscale(url), open_zarr(url)
    spatial = [name for name in finest.index if isinstance(name, str)]
    levels = []
    for level in range(len(image.resolutions)):
        array = dask.array.from_zarr(image.array(level))
        array = array[tuple(slice(None) if isinstance(name, str) else name for name in finest.index)]
        levels.append(array.transpose([spatial.index(name) for name in "zyx"]))
    yield TaskProgress(0.5, "Reading the brightness …")
    middle = levels[-1][levels[-1].shape[0] // 2].compute(scheduler="synchronous")
    low, high = float(middle.min()), float(middle.max())
    keywords = {
        "name": finest.name, "scale": finest.spacing, "translate": finest.origin, "units": (finest.unit,) * 3,
        "axis_labels": ("z", "y", "x"), "contrast_limits": (low, high if high > low else low + 1),
        "metadata": {"path": url},
    }  # fmt: skip
    return levels, keywords


def write_url(path: Path, url: str, control: TaskControl) -> Generator[TaskProgress, None, str | None]:
    """Write an alignment to a Zarr store at a URL; return the URL, or nothing if it was stopped.

    Raises
    ------
    InputError
        If it is no URL, or the store cannot be written or exists.
    """
    from napari_stnreg.stacks.aligned_stack import AlignedStack

    if not is_url(url):
        raise InputError(f"'{url}' is not a URL. Give one such as s3://bucket/aligned.zarr.")
    steps = AlignedStack(path).export_steps(url.rstrip("/"), "zarr")

    def progress(now: Any) -> TaskProgress:
        return TaskProgress(now.fraction, f"Writing {now.done} of {now.total} sections of all levels …")

    yield from relay_progress(steps, control, progress)
    return None if control.cancel.is_set() or control.stop.is_set() else url
