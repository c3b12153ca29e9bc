"""Content of an image file, in the form that the module of every format returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import CoordinateSystem, Grid
from napari_stnreg.core.image import coordinate_system_of
from napari_stnreg.core.memory import format_bytes, free_system_memory


@dataclass(frozen=True)
class FileContent:
    """One image, or the frames of a time series, on one grid.

    Parameters
    ----------
    load
        Gives the voxels of frame ``i``: ``(*grid.shape)``, with ``channels`` one axis more at the end.
    grid
        Where the voxels of every frame lie.
    frames
        Number of frames; 1 unless it is a time series.
    channels
        Whether the last axis of a frame holds channels.
    rgb
        Whether these channels are red, green, blue (and alpha).
    labels
        Whether the file itself states that its whole numbers are labels.
    interval
        Time between frames, as the file gives it.
    metadata
        What writing needs to restore the file's own form.
    levels
        Returns the voxels as Dask arrays, finest resolution first: axes (channel, time, z, y, x) as far as they exist,
        colors last. ``None`` if the format is not read lazily.
    """

    load: Callable[[int], npt.NDArray[Any]]
    grid: Grid
    frames: int = 1
    channels: bool = False
    rgb: bool = False
    labels: bool = False
    interval: float = 1.0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    levels: Callable[[], list[Any]] | None = None

    @property
    def coordinate_system(self) -> CoordinateSystem:
        """What its world is for other programs; see :attr:`napari_stnreg.core.image.Image.coordinate_system`."""
        return coordinate_system_of(self.metadata)

    @classmethod
    def of_array(cls, array: npt.NDArray[Any], *, first_is_time: bool = False, **fields: Any) -> FileContent:
        """Content that is in memory already; with ``first_is_time`` the first axis counts frames."""
        frames = array if first_is_time else array[None]
        return cls(load=lambda frame: np.asarray(frames[frame]), frames=len(frames), **fields)


def check_memory(name: str, size: int, coarser: str = "") -> None:
    """Refuse an image that does not fit into the free memory, before it is taken.

    Parameters
    ----------
    name
        Name of the image in the message.
    size
        Bytes of one frame.
    coarser
        How a coarser resolution is named, for the message.

    Raises
    ------
    InputError
        If it does not fit.
    """
    free = free_system_memory()
    if size > free:
        raise InputError(
            f"'{name}' needs {format_bytes(size, round_up=True)} of memory, and {format_bytes(free)} are free. "
            f"Use a coarser resolution{', ' * bool(coarser)}{coarser}, or crop the image."
        )
