"""Render the sections of a stack by transforms that are known: one task for each section, with resume."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_stnreg.core.errors import InputError, announce
from napari_stnreg.core.output_guard import OutputLock, check_output
from napari_stnreg.stacks.output.ome_zarr import SectionWriter, is_aligned_stack, read_attributes, update_attributes
from napari_stnreg.stacks.runtime.checkpoint import RENDERED, WorkFolder, work_folder
from napari_stnreg.stacks.runtime.executor import Task, make_executor
from napari_stnreg.stacks.runtime.memory import limit_executor
from napari_stnreg.stacks.runtime.progress import StackProgress
from napari_stnreg.stacks.sources.base import SectionError

_RUN = "rendering"
"""Attribute of a finished output that identifies the run."""


@dataclass(frozen=True)
class RenderingJob:
    """Sections to render.

    Parameters
    ----------
    output
        OME-Zarr folder to write.
    inputs
        Files and folders that are read; none of them is replaced.
    identity
        What makes this the same run when it is resumed, JSON-ready.
    count
        Number of sections.
    task_bytes
        Peak memory of one section, bytes.
    create
        Creates the empty output.
    task
        Makes the call that renders a section; it raises :class:`SectionError` if the section cannot be read.
    labels
        Whether the values are labels.
    """

    output: str | Path
    inputs: Sequence[str | Path]
    identity: Mapping[str, Any]
    count: int
    task_bytes: int
    create: Callable[[Path], SectionWriter]
    task: Callable[[SectionWriter, int], Callable[[], None]]
    labels: bool = False


def render_steps(
    job: RenderingJob, *, scheduler: str, workers: int | None, memory: float | None, resume: bool, overwrite: bool
) -> Generator[StackProgress, str | None, Path]:
    """Render all sections; ``send("stop")`` ends the run, and ``resume`` continues it.

    Sections that cannot be read stay empty; a warning names them.

    Raises
    ------
    InputError
        If the output cannot be written, or the memory does not suffice.
    """
    work = work_folder(job.output)
    check_output(work.path, list(job.inputs), overwrite=True, folder=True, is_ours=lambda _: True)
    is_begun = work.check(job.identity, resume=resume, overwrite=overwrite)
    path = check_output(
        job.output, list(job.inputs), overwrite=overwrite or resume, folder=True, is_ours=is_aligned_stack
    )
    if resume and path.exists() and not is_begun:
        if read_attributes(path).get(_RUN) == json.loads(json.dumps(job.identity)):
            return path
        if not overwrite:
            raise InputError(f"'{path.name}' is not an unfinished run of this. Replace it with --overwrite.")
    executor = make_executor(scheduler, workers)
    try:
        limit_executor(executor, memory, job.task_bytes)
        with OutputLock(path):
            work.begin(job.identity, resume=resume, overwrite=overwrite)
            left = [z for z in range(job.count) if not (path.exists() and work.has(RENDERED, z))]
            writer = job.create(path) if len(left) == job.count else SectionWriter(path, labels=job.labels)
            done = job.count - len(left)
            plan = (Task(f"apply {z}", _render_section, (job.task(writer, z), writer, work, z)) for z in left)
            with closing(executor.run(plan)) as ended:  # type: ignore[type-var]
                for name, _ in ended:
                    done, z = done + 1, int(name.rsplit(" ", 1)[1])
                    message = "warping sections"
                    if (yield StackProgress("render", done, job.count, done / job.count, message, z, path)) == "stop":
                        break
            if done == job.count:
                empty = [z for z in range(job.count) if work.facts(RENDERED, z).get("empty")]
                update_attributes(path, finished=True, **{_RUN: job.identity})
                work.remove()
                if empty:
                    announce(f"Sections that cannot be read stay empty: {', '.join(map(str, empty))}.")
    finally:
        executor.close()
    return path


def _render_section(render: Callable[[], None], writer: SectionWriter, work: WorkFolder, z: int) -> None:
    empty = False
    try:
        render()
    except SectionError:
        empty = True
    writer.sync(z)
    work.put(RENDERED, z, empty=empty)
