"""Stacks in OME-Zarr images and Zarr arrays."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_stnreg.core.errors import InputError
from napari_stnreg.io.ome_zarr import open_node, read_multiscale
from napari_stnreg.stacks.sources.base import Array, StackSource, Window, check_spacing, check_stack, select_channel

_opened = threading.local()
"""Arrays that this thread has opened; they cannot all be sent to another process."""


@dataclass(frozen=True, eq=False)
class ZarrSource(StackSource):
    """An array of a Zarr group; ``index`` holds for each axis the name z, y or x, or the entry of another axis."""

    array_path: str = ""
    index: tuple[int | str, ...] = ()

    def _load(self, z: int, window: Window) -> Array:
        array = self._array()
        where: dict[int | str, int | slice] = {"z": z, "y": window[0], "x": window[1]}
        data = np.asarray(array[tuple(where.get(n, n) for n in self.index)])
        return data if self.index.index("y") < self.index.index("x") else data.T

    def identity(self) -> dict[str, Any]:
        """As of other stacks, and which array and channel it is."""
        return {**super().identity(), "array": self.array_path, "index": list(self.index)}

    def _array(self) -> Any:
        cache = _opened.__dict__.setdefault("zarr", {})
        key = (self.location, self.array_path)
        if key not in cache:
            cache[key] = open_node(Path(self.location), self.array_path)
        return cache[key]


def open_zarr(path: Path, *, level: int = 0, channel: int | None = None) -> ZarrSource:
    """Open an OME-Zarr image (versions 0.4 to 0.6, both Zarr formats), or a bare Zarr array ``(z, y, x)``.

    See :func:`napari_stnreg.io.ome_zarr.read_multiscale` for the layouts.

    Raises
    ------
    InputError
        If it holds no image, or axes that are no stack's.
    """
    image = read_multiscale(path)
    if not 0 <= level < len(image.resolutions):
        raise InputError(
            f"'{path.name}' has {len(image.resolutions)} resolutions, counted from 0. There is no {level}."
        )
    node = image.array(level)
    names = image.axes
    if not {"z", "y", "x"} <= set(names) or len(names) != node.ndim:
        raise InputError(f"'{path.name}' has the axes {', '.join(names) or 'none'}. A stack of sections has z, y, x.")
    index: list[int | str] = [
        name if name in ("z", "y", "x") else select_channel(channel, int(node.shape[i]), path.name, name)
        for i, name in enumerate(names)
    ]
    spacing, _, unit = image.spatial(level, ("z", "y", "x"))
    shape = tuple(int(node.shape[names.index(name)]) for name in "zyx")
    check_stack(shape, np.dtype(node.dtype), path.name)
    check_spacing(np.asarray(spacing), path.name)
    return ZarrSource(
        (shape[0], shape[1], shape[2]),
        np.dtype(node.dtype),
        (spacing[0], spacing[1], spacing[2]),
        unit,
        path.name.removesuffix(".zarr").removesuffix(".ome"),
        {},
        str(image.location),
        image.resolutions[level].path,
        tuple(index),
    )
