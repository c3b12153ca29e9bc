"""Stacks in OME-Zarr images and Zarr arrays."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray
from napari_stnreg.io.ome_zarr import Multiscale, Resolution, open_node, read_multiscale
from napari_stnreg.stacks.sources.base import (
    Array,
    StackSource,
    Window,
    channel_notes,
    check_spacing,
    check_stack,
    select_channel,
)

_COMPARED = 128
"""Side, in pixels of the coarser level, of the part by which two levels are compared."""

_MAX_OPENED = 16
"""Number of arrays that a thread keeps open."""

_opened = threading.local()
"""Arrays that this thread has opened; they cannot all be sent to another process."""


@dataclass(frozen=True, eq=False)
class ZarrSource(StackSource):
    """An array of a Zarr group; ``index`` holds for each axis the name z, y or x, or the entry of another axis."""

    array_path: str = ""
    index: tuple[int | str, ...] = ()
    opening: str = ""
    """Identifies the call that opened the stack: the store may be replaced between two of them."""

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
        key = (self.opening, self.location, self.array_path)
        if key not in cache:
            if len(cache) >= _MAX_OPENED:
                cache.clear()
            cache[key] = open_node(self.location, self.array_path)
        return cache[key]


def open_zarr(path: Path | str, *, level: int = 0, channel: int | None = None) -> ZarrSource:
    """Open an OME-Zarr image (versions 0.4 to 0.6, both Zarr formats), or a bare Zarr array ``(z, y, x)``.

    See :func:`napari_stnreg.io.ome_zarr.read_multiscale` for the layouts.

    Raises
    ------
    InputError
        If it holds no image, or axes that are no stack's.
    """
    image = read_multiscale(path)
    title = Path(path).name
    if not 0 <= level < len(image.resolutions):
        raise InputError(f"'{title}' has {len(image.resolutions)} resolutions, counted from 0. There is no {level}.")
    node = image.array(level)
    names = image.axes
    if not {"z", "y", "x"} <= set(names) or len(names) != node.ndim:
        raise InputError(f"'{title}' has the axes {', '.join(names) or 'none'}. A stack of sections has z, y, x.")
    index: list[int | str] = [
        name if name in ("z", "y", "x") else select_channel(channel, int(node.shape[i]), title, name)
        for i, name in enumerate(names)
    ]
    spacing, origin, unit = image.spatial(level, ("z", "y", "x"))
    shape = tuple(int(node.shape[names.index(name)]) for name in "zyx")
    check_stack(shape, np.dtype(node.dtype), title)
    check_spacing(np.asarray(spacing), title)
    source = ZarrSource(
        (shape[0], shape[1], shape[2]),
        np.dtype(node.dtype),
        (spacing[0], spacing[1], spacing[2]),
        unit,
        title.removesuffix(".zarr").removesuffix(".ome"),
        {},
        str(image.location),
        image.resolutions[level].path,
        tuple(index),
        uuid4().hex,
        origin=(origin[0], origin[1], origin[2]),
        notes=channel_notes(channel, int(node.shape[names.index("c")]) if "c" in names else 1, title),
    )
    finest = image.finest or image.resolutions[0]
    return source if finest.path == source.array_path else _place_level(source, image, finest)


def _place_level(source: ZarrSource, image: Multiscale, finest: Resolution) -> ZarrSource:
    """Return the source of a coarser level with its place relative to the finest one.

    Translations of the levels are used. Writers that average pixels and leave translations out are common; without
    translations, the pixels show whether the level was averaged or subsampled.
    """
    whole = replace(image, resolutions=(finest,))
    scale, start, _ = whole.spatial(0, ("y", "x"))
    ratio = np.asarray(source.spacing[1:]) / scale
    offset = (np.asarray(source.origin[1:]) - start) / scale  # of the first pixel, in pixels of the finest level
    if (ratio < 1.01).all():  # the levels do not say how large their pixels are
        return source
    if not offset.any():
        fine = replace(source, array_path=finest.path, shape=_shape(whole, source))
        offset = (ratio - 1) / 2 * _is_averaged(fine, source, ratio)
    inset, corner = (offset + 0.5) / ratio, np.asarray(start) + offset * scale
    return replace(
        source,
        origin=(source.origin[0], float(corner[0]), float(corner[1])),
        inset=(float(inset[0]), float(inset[1])),
    )


def _shape(image: Multiscale, source: ZarrSource) -> tuple[int, int, int]:
    node = image.array(0)
    z, y, x = (int(node.shape[source.index.index(name)]) for name in "zyx")
    return z, y, x


def _is_averaged(fine: ZarrSource, coarse: ZarrSource, ratio: FloatArray) -> bool:
    """Return whether the pixels of a level fit means over blocks better than the first pixel of each block."""
    middle = [n // 2 for n in coarse.shape]
    near = [slice(max(m - _COMPARED // 2, 0), m + _COMPARED // 2) for m in middle[1:]]
    z = min(round(middle[0] * fine.shape[0] / coarse.shape[0]), fine.shape[0] - 1)
    seen = coarse.read(middle[0], (near[0], near[1])).astype(np.float64)
    index = [np.arange(one.start, one.start + n) for one, n in zip(near, seen.shape, strict=True)]
    low = [max(int(i[0] * r - 2 * r), 0) for i, r in zip(index, ratio, strict=True)]
    high = [int((i[-1] + 3) * r) + 1 for i, r in zip(index, ratio, strict=True)]
    image = fine.read(z, (slice(low[0], high[0]), slice(low[1], high[1]))).astype(np.float64)
    smooth = gaussian_filter(image, ratio / 2, mode="nearest")
    errors = []
    for shift in (np.zeros(2), (ratio - 1) / 2):
        where = [i * r + d - o for i, r, d, o in zip(index, ratio, shift, low, strict=True)]
        found = map_coordinates(smooth, np.meshgrid(*where, indexing="ij"), order=1, mode="nearest")
        errors.append(float(((found - seen) ** 2).mean()))
    return errors[1] < errors[0]
