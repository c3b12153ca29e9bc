"""Limit the number of concurrent tasks by memory."""

from __future__ import annotations

from dataclasses import dataclass

from napari_stnreg.core.device import free_memory
from napari_stnreg.core.errors import InputError
from napari_stnreg.stacks.output.ome_zarr import CHUNK
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
    """

    matching: int = 300
    channel: int = 100
    channels: int = 48
    rendering: int = 60
    mapping: int = 110
    reading: int = 8


TASK_MEMORY = TaskMemory()


def task_bytes(source: StackSource, settings: StackSettings) -> int:
    """Estimate the peak memory of one task, bytes."""
    from napari_stnreg.transforms.base import SLAB_POINTS  # imports torch

    height, width = source.shape[1:]
    factor = settings.factor((height, width))
    cost = TASK_MEMORY
    each = cost.matching + (cost.channel * (cost.channels - 1) if settings.features == "auto-encoder" else 0)
    matching = each * -(-height // factor) * -(-width // factor)
    reading = source.section_bytes + cost.reading * height * width
    band = min(CHUNK, height) * width
    rendering = cost.rendering * band + cost.mapping * min(band, 2 * SLAB_POINTS) + source.section_bytes
    return int(max(matching, reading, rendering))


def limit_workers(memory: float | None, source: StackSource, settings: StackSettings, workers: int) -> int:
    """Return how many tasks may run at a time.

    Parameters
    ----------
    memory
        Bytes that all tasks together may use; the free memory if not given.
    source, settings
        Stack and settings of the run.
    workers
        Upper limit.

    Raises
    ------
    InputError
        If one task needs more than that.
    """
    each = task_bytes(source, settings)
    if memory is None:
        memory = 0.7 * free_memory("cpu")
    if memory < each:
        raise InputError(
            f"One section needs about {each / 2**20:.0f} MB, but only {memory / 2**20:.0f} MB may be used. Allow more "
            "memory, or choose a smaller working size."
        )
    return max(min(workers, int(memory // each)), 1)
