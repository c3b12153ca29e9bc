"""Align a stack of serial sections of any size from Python."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, TypedDict

from typing_extensions import Unpack

from napari_stnreg.core.device import single_blas_thread
from napari_stnreg.core.output_guard import OutputLock
from napari_stnreg.core.progress import run_to_completion
from napari_stnreg.stacks.result import StackResult
from napari_stnreg.stacks.runtime.checkpoint import work_folder
from napari_stnreg.stacks.runtime.executor import make_executor
from napari_stnreg.stacks.runtime.job import AlignmentJob, Landmarks
from napari_stnreg.stacks.runtime.memory import limit_executor, solver_bytes, task_bytes
from napari_stnreg.stacks.runtime.pipeline import AlignmentPipeline, Stopped
from napari_stnreg.stacks.runtime.progress import StackProgress
from napari_stnreg.stacks.settings import CanvasExtent, Features, Motion, StackSettings, Trend
from napari_stnreg.stacks.sources.open import open_stack

Steps = Generator[StackProgress, str | None, StackResult]


class StackOptions(TypedDict, total=False):
    """Fields of :class:`~napari_stnreg.StackSettings` as keyword arguments."""

    motion: Motion
    deform: bool
    features: Features
    encoder: str | None
    neighbors: int
    long_range_stride: int
    trend: Trend
    reference: int | None
    mirror: bool
    search_rotations: bool
    reorder: bool
    split_at_cracks: bool
    grid_cells: int | None
    iterations: int
    smoothness: float
    position_weight: float
    trim_fraction: float
    working_size: int | None
    canvas: CanvasExtent


def align_stack(
    stack: Any,
    output: Path | str | None = None,
    settings: StackSettings | None = None,
    *,
    spacing: float | Sequence[float] | None = None,
    unit: str | None = None,
    masks: Any = None,
    landmarks: Landmarks | None = None,
    exclude: Sequence[int] = (),
    section_range: tuple[int, int] | None = None,
    scheduler: str = "threads",
    workers: int | None = None,
    memory: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
    keep_work: bool = False,
    **options: Unpack[StackOptions],
) -> StackResult:
    """Align a stack of serial sections; :func:`align_stack_steps` run to its end, with the same parameters."""
    return run_to_completion(
        align_stack_steps(
            stack, output, settings, spacing=spacing, unit=unit, masks=masks, landmarks=landmarks,
            exclude=exclude, section_range=section_range,
            scheduler=scheduler, workers=workers, memory=memory, resume=resume, overwrite=overwrite,
            keep_work=keep_work, **options,
        )
    )  # fmt: skip


def align_stack_steps(
    stack: Any,
    output: Path | str | None = None,
    settings: StackSettings | None = None,
    *,
    spacing: float | Sequence[float] | None = None,
    unit: str | None = None,
    masks: Any = None,
    landmarks: Landmarks | None = None,
    exclude: Sequence[int] = (),
    section_range: tuple[int, int] | None = None,
    scheduler: str = "threads",
    workers: int | None = None,
    memory: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
    keep_work: bool = False,
    **options: Unpack[StackOptions],
) -> Steps:
    """Align a stack of serial sections step by step, for progress reporting and cancellation.

    Parameters
    ----------
    stack
        An array ``(z, y, x)`` in memory or lazy, an image, or a path: OME-Zarr, TIFF, ``.npy`` or a folder of images;
        anything that :func:`~napari_stnreg.open_stack` opens. It is never changed.
    output
        The OME-Zarr folder to write, ``OUT.zarr``; ``OUT.report.json`` and ``OUT.quality.csv`` appear beside it. If
        not given, a temporary folder that is deleted with the result.
    settings
        Settings of the alignment; single fields may be given by name in ``options``.
    spacing, unit
        Voxel size (z, y, x) and unit that replace those of the stack.
    masks
        A stack of the same shape, non-zero at pixels to ignore: cracks, folds, dirt.
    landmarks
        By section numbers ``(a, b)``: two arrays ``(N, 2)`` of corresponding pixels (y, x) in the raw sections.
    exclude
        Sections that are not matched; they are interpolated between their neighbors. Like those of landmarks and
        ``reference``, their numbers are those of ``stack``, also if ``reorder`` exchanges sections.
    section_range
        First and last section of a range to align again while all others stay. ``output`` must then be an alignment
        that was made with ``keep_work``; it is changed in place. Its numbers are those of the aligned stack, whose
        order stays.
    scheduler
        ``"threads"``, or the address of a ``dask.distributed`` cluster that sees the same files.
    workers
        Number of concurrent tasks; all cores if not given.
    memory
        Bytes that the whole process may use; limits the number of workers. On a cluster, bytes of all tasks together.
    resume
        Continue a stopped or killed run, of the whole stack or of ``section_range``; the result is bit-identical to
        that of an uninterrupted run.
    overwrite
        Replace ``output`` if this program wrote it; with ``section_range``, abandon an interrupted range.
    keep_work
        Keep the intermediate results in ``OUT.work``, which ``section_range`` needs.
    **options
        Fields of :class:`~napari_stnreg.StackSettings`.

    Yields
    ------
    StackProgress
        After every task. ``send("stop")`` ends the run; finished tasks stay on disk.

    Returns
    -------
    StackResult
        Verdicts, quality figures and warnings; ``result.aligned`` is the alignment on disk.

    Raises
    ------
    InputError
        If an input or the output cannot be used; raised before anything is written.
    FitError
        If fewer than two sections can be used.
    """
    settings = StackSettings.merge(settings, dict(options))
    source = open_stack(stack, spacing=spacing, unit=unit)
    job = AlignmentJob(source, settings, masks, landmarks, exclude, section_range)
    holder = tempfile.TemporaryDirectory(prefix="stnreg-") if output is None else None
    path = Path(output).absolute() if output is not None else Path(holder.name if holder else "") / "aligned.zarr"
    work = work_folder(path)
    if job.check_output(path, work, resume=resume, overwrite=overwrite or output is None):
        return StackResult(path, "finished", settings, warnings=[f"'{path.name}' was already finished."])
    executor = make_executor(scheduler, workers)
    try:
        limit_executor(executor, memory, task_bytes(source, settings), solver_bytes(source, settings))
        start = time.perf_counter()
        with OutputLock(path), single_blas_thread():
            pipeline = AlignmentPipeline(job, path, work, executor)
            try:
                if section_range is None:
                    work.begin(job.identity(), resume=resume, overwrite=overwrite or output is None)
                    found = yield from pipeline.align_all(resume=resume)
                else:
                    found = yield from pipeline.align_range(resume=resume, overwrite=overwrite)
            except Stopped:
                seconds = time.perf_counter() - start
                return StackResult(path, "stopped", settings, seconds=seconds, owner=holder)
            verdicts, gaps, warnings, segments = found
            slope = pipeline.slopes.report() if pipeline.slopes is not None else {}
            seconds = time.perf_counter() - start
            result = StackResult(path, "finished", settings, verdicts, gaps, segments, seconds, warnings, holder, slope)
            result.write_report()
            if not keep_work and section_range is None:
                work.remove()
            return result
    finally:
        executor.close()
