"""Limit the number of concurrent tasks by memory."""

from __future__ import annotations

from dataclasses import dataclass

from napari_stnreg.core.device import free_memory
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.memory import format_bytes
from napari_stnreg.stacks.output.ome_zarr import CHUNK
from napari_stnreg.stacks.runtime.executor import Cluster, Executor
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.sources.base import StackSource


@dataclass(frozen=True)
class TaskMemory:
    """Peak memory of tasks, measured by ``benchmark.task_memory`` and rounded up.

    Parameters
    ----------
    matching
        Bytes of a matching task for each pixel of the working image: two sections, and two more in the cache.
    channel
        Additional bytes of a matching task for each pixel and each feature channel of an auto-encoder after the first.
    channels
        Feature channels of an auto-encoder that is trained on a stack.
    rendering
        Bytes for each pixel of a band that is rendered.
    mapping
        Additional bytes for each pixel that is mapped at a time; transforms map large bands in slabs.
    reading
        Bytes for each pixel of a section that is read as a whole.
    solving
        Numbers for each control point and match that the solver holds.
    later
        Bytes that libraries take after they are imported, and that the memory allocator does not give back.
    """

    matching: int = 300
    channel: int = 100
    channels: int = 48
    rendering: int = 60
    mapping: int = 110
    reading: int = 8
    solving: int = 40
    later: int = 100 * 2**20


TASK_MEMORY = TaskMemory()


def task_bytes(source: StackSource, settings: StackSettings) -> int:
    """Estimate the peak memory of one task of an alignment, bytes."""
    height, width = source.shape[1:]
    factor = settings.factor((height, width))
    cost = TASK_MEMORY
    each = cost.matching + (cost.channel * (cost.channels - 1) if settings.features == "auto-encoder" else 0)
    matching = each * -(-height // factor) * -(-width // factor)
    reading = source.section_bytes + cost.reading * height * width
    return int(max(matching, reading, rendering_bytes(source)))


def rendering_bytes(source: StackSource, shape: tuple[int, int] | None = None) -> int:
    """Estimate the peak memory of rendering one section to a canvas of a shape, by default its own, bytes."""
    from napari_stnreg.transforms.base import SLAB_POINTS  # imports torch

    height, width = shape or source.shape[1:]
    band = min(CHUNK, height) * width
    return int(TASK_MEMORY.rendering * band + TASK_MEMORY.mapping * min(band, 2 * SLAB_POINTS) + source.section_bytes)


def solver_bytes(source: StackSource, settings: StackSettings) -> int:
    """Estimate the memory of the solve with the transforms of all sections, bytes."""
    from napari_stnreg.stacks.solver.windowed import MAX_WINDOW, OVERLAP  # imports torch

    cells = settings.cells((source.shape[1], source.shape[2])) + 4
    matches = min(source.shape[0], MAX_WINDOW + 2 * OVERLAP) * settings.neighbors
    return int(8 * cells**2 * (TASK_MEMORY.solving * matches + 4 * source.shape[0]))


def process_bytes() -> int:
    """Memory that this process holds once everything that a run needs is imported, bytes."""
    import psutil

    from napari_stnreg.stacks.runtime import pipeline  # noqa: F401  # imports torch, zarr and all stages

    return int(psutil.Process().memory_info().rss) + TASK_MEMORY.later


def limit_executor(executor: Executor, memory: float | None, each: int, extra: int = 0) -> None:
    """Limit the concurrent tasks of an executor by memory; see :func:`limit_workers`.

    Tasks of a cluster run in other processes, so the free memory of this machine is irrelevant.

    Parameters
    ----------
    executor
        The executor, whose number of workers is reduced.
    memory, each
        As in :func:`limit_workers`.
    extra
        Memory that this process takes beside its tasks later, bytes.
    """
    is_local = not isinstance(executor, Cluster)
    if is_local or memory is not None:
        own = process_bytes() + extra if is_local and memory is not None else 0
        executor.workers = limit_workers(memory, each, executor.workers, own=own)


def limit_workers(memory: float | None, each: int, workers: int, *, own: int = 0) -> int:
    """Return how many tasks may run at a time.

    Parameters
    ----------
    memory
        Bytes that the whole process may use; the free memory, for the tasks alone, if not given.
    each
        Peak memory of one task, bytes.
    workers
        Upper limit.
    own
        Memory of the process without its tasks, bytes; 0 on a cluster, where tasks run in other processes.

    Raises
    ------
    InputError
        If not even one task fits.
    """
    room = 0.7 * free_memory("cpu") if memory is None else memory - own
    if room < each:
        needed = each if memory is None else own + each
        given = room if memory is None else memory
        raise InputError(
            f"At least {format_bytes(needed, round_up=True)} are needed, but only {format_bytes(given)} may be used: "
            f"{format_bytes(own)} for the program, {format_bytes(each)} for one section. "
            "Allow more memory, or choose a smaller working size."
        )
    return max(min(workers, int(room // each)), 1)
