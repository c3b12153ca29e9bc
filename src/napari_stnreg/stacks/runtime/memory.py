"""How many tasks may run at a time within a given memory."""

from __future__ import annotations

from napari_stnreg.core.device import free_memory
from napari_stnreg.core.errors import InputError
from napari_stnreg.stacks.output.ome_zarr import CHUNK
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.sources.base import StackSource

_WORKING = 300
"""Bytes that matching takes for each pixel of the working image, two sections together and two held besides."""
_CHANNEL = 100
"""The same for each channel of an auto-encoder's features beyond the first."""
_CHANNELS = 48
"""Channels that are compared of the auto-encoder that is trained on a stack."""
_RENDERED = 60
"""Bytes for each pixel of a band that is rendered."""
_MAPPED = 110
"""Bytes besides for each pixel that is mapped at a time; transforms take large bands in pieces."""
_READ = 8
"""Bytes for each pixel of a section that is read as a whole: once as numbers to compute with, and its sums."""


def task_bytes(source: StackSource, settings: StackSettings) -> int:
    """About how much one task takes at its peak, in bytes: measured by ``benchmark.task_memory``, and some more."""
    from napari_stnreg.transforms.base import SLAB_POINTS  # it knows torch

    height, width = source.shape[1:]
    factor = settings.factor((height, width))
    each = _WORKING + (_CHANNEL * (_CHANNELS - 1) if settings.features == "auto-encoder" else 0)
    matching = each * -(-height // factor) * -(-width // factor)
    reading = source.section_bytes + _READ * height * width
    band = min(CHUNK, height) * width
    rendering = _RENDERED * band + _MAPPED * min(band, 2 * SLAB_POINTS) + source.section_bytes
    return int(max(matching, reading, rendering))


def workers_within(memory: float | None, source: StackSource, settings: StackSettings, workers: int) -> int:
    """How many tasks may run at a time.

    Parameters
    ----------
    memory
        Bytes that all tasks together may take; as much as there is, if not given.
    source, settings
        What they work on.
    workers
        At most so many.

    Raises
    ------
    InputError
        If not even one task fits.
    """
    each = task_bytes(source, settings)
    if memory is None:
        memory = 0.7 * free_memory("cpu")
    if memory < each:
        raise InputError(
            f"One section needs about {each / 2**20:.0f} MB and {memory / 2**20:.0f} MB may be used; allow more "
            "memory, or choose a smaller working size."
        )
    return max(min(workers, int(memory // each)), 1)
