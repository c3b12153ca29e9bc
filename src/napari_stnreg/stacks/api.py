"""Align a stack of any size, from a script: step by step, resumed, or a range of it again."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from napari_stnreg.core.progress import run_to_completion
from napari_stnreg.stacks.output.ome_zarr import AlignedStack
from napari_stnreg.stacks.runtime.checkpoint import WorkFolder
from napari_stnreg.stacks.runtime.executor import make_executor
from napari_stnreg.stacks.runtime.job import Landmarks, Request, check_output
from napari_stnreg.stacks.runtime.memory import workers_within
from napari_stnreg.stacks.runtime.pipeline import StackRun, Stopped
from napari_stnreg.stacks.runtime.progress import StackProgress, StackResult
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.sources.base import StackSource, open_stack

Steps = Generator[StackProgress, str | None, StackResult]


def work_folder(output: Path | str) -> WorkFolder:
    """Where the alignment written to ``output`` keeps what it has done so far."""
    output = Path(output).absolute()
    return WorkFolder(output.with_name(output.name.removesuffix(".zarr") + ".work"))


def align_stack(stack: Any, output: Path | str | None = None, settings: StackSettings | None = None, **how: Any) -> (
    StackResult
):  # fmt: skip
    """Align a stack of serial sections; :func:`align_stack_steps` run to its end, with the same parameters."""
    return run_to_completion(align_stack_steps(stack, output, settings, **how))


def align_stack_steps(
    stack: Any,
    output: Path | str | None = None,
    settings: StackSettings | None = None,
    *,
    masks: Any = None,
    landmarks: Landmarks | None = None,
    exclude: Sequence[int] = (),
    only: tuple[int, int] | None = None,
    scheduler: str = "threads",
    workers: int | None = None,
    memory: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
    keep_work: bool = False,
    **options: Any,
) -> Steps:
    """Align a stack of serial sections step by step.

    Parameters
    ----------
    stack
        Whatever :func:`~napari_stnreg.stacks.sources.base.open_stack` opens: an array ``(z, y, x)`` in memory or lazy, an
        OME-Zarr, a TIFF, a folder of images. It is never changed.
    output
        The OME-Zarr folder to write, ``OUT.zarr``; a temporary one that goes with the result if not given.
    settings
        What to do; or give the fields by name in ``options``.
    masks
        A stack of the same shape, non-zero where pixels are to be left out: cracks, folds, dirt.
    landmarks
        By section numbers ``(a, b)``: two arrays ``(N, 2)`` of pixels (y, x) in the raw sections that belong together.
    exclude
        Sections that no other is matched with; they are laid between their neighbors.
    only
        First and last section of a range to align again, while all others keep their place. ``output`` is then an
        alignment that was made with ``keep_work``, and is changed.
    scheduler
        ``"threads"``, or the address of a ``dask.distributed`` cluster that sees the same files.
    workers
        Tasks at a time; all cores if not given.
    memory
        Bytes that the tasks together may take; it lowers the number of workers.
    resume
        Go on with what a stopped or killed run left, of the whole stack or of ``only`` a range; the result is the same
        to the last bit.
    overwrite
        Replace ``output``; with ``only``, give up a range that was begun.
    keep_work
        Keep what ``only`` needs in ``OUT.work`` beside the output.

    Yields
    ------
    StackProgress
        After every task. ``send("stop")`` ends the run; what is done stays on disk.

    Raises
    ------
    InputError
        If something given cannot be used, before anything is written.
    """
    settings = StackSettings.merge(settings, options)
    source = open_stack(stack)
    holder = tempfile.TemporaryDirectory(prefix="stnreg-") if output is None else None
    path = Path(output).absolute() if output is not None else Path(holder.name if holder else "") / "aligned.zarr"
    request = Request(source, settings, masks, landmarks, exclude, only)
    check_output(path, source, again=only is not None, replace=resume or overwrite)
    if resume and only is None and _is_finished(path, source):
        return StackResult(path, "finished", settings, warnings=[f"'{path.name}' was finished already."])
    executor = make_executor(scheduler, workers)
    try:
        executor.workers = workers_within(memory, source, settings, executor.workers)
        run = StackRun(request, path, work_folder(path), executor)
        began = time.perf_counter()
        try:
            if only is None:
                run.work.begin(request.identity(), resume=resume, overwrite=overwrite or output is None)
                verdicts, gaps, warnings = yield from run.whole(resume=resume)
            else:
                verdicts, gaps, warnings = yield from run.part(resume=resume, overwrite=overwrite)
        except Stopped:
            return StackResult(path, "stopped", settings, seconds=time.perf_counter() - began, owner=holder)
        if not keep_work and only is None:
            run.work.remove()
        seconds = time.perf_counter() - began
        slant = run.estimate_slopes.report() if run.estimate_slopes is not None else {}
        return StackResult(path, "finished", settings, verdicts, gaps, seconds, warnings, holder, slant)
    finally:
        executor.close()


def _is_finished(path: Path, source: StackSource) -> bool:
    """Whether there is nothing to go on with: the output is whole, and its work was taken away."""
    if not path.exists() or work_folder(path).path.exists():
        return False
    aligned = AlignedStack(path)
    return aligned.finished and aligned.attributes.get("stack") == source.identity()
