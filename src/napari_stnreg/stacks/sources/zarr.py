"""Stacks in OME-Zarr images and Zarr arrays."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.units import canonical, conversion_factor
from napari_stnreg.stacks.sources.base import Array, StackSource, Window, check_spacing, check_stack, select_channel

_opened = threading.local()
"""Arrays that this thread has opened; they cannot all be sent to another process."""


@dataclass(frozen=True, eq=False)
class ZarrSource(StackSource):
    """An array of a Zarr group, of which the last two axes and one more count."""

    array_path: str = ""
    index: tuple[int | None, ...] = ()

    def _load(self, z: int, window: Window) -> Array:
        array = self._array()
        where = [z if n is None else n for n in self.index]
        return np.asarray(array[(*where, *window)])

    def _array(self) -> Any:
        cache = _opened.__dict__.setdefault("zarr", {})
        key = (self.location, self.array_path)
        if key not in cache:
            cache[key] = _zarr_node(Path(self.location), self.array_path)
        return cache[key]


def open_zarr(path: Path, *, level: int = 0, channel: int | None = None) -> ZarrSource:
    """Open an OME-Zarr image (versions 0.4 to 0.6, both Zarr formats), or a bare Zarr array ``(z, y, x)``.

    Raises
    ------
    InputError
        If it holds no image, or axes that are no stack's.
    """
    import zarr

    node = _zarr_node(path)
    spacing, unit, array_path = [1.0, 1.0, 1.0], "pixel", ""
    if isinstance(node, zarr.Group):
        described = _multiscales(node)
        if described is None:
            raise InputError(f"'{path.name}' is a Zarr group without the description of an OME-Zarr image.")
        datasets = described["datasets"]
        if not 0 <= level < len(datasets):
            raise InputError(f"'{path.name}' has {len(datasets)} resolutions, counted from 0; there is no {level}.")
        array_path = str(datasets[level]["path"])
        axes = _axes(described)
        scale = np.ones(len(axes))
        for step in [*datasets[level].get("coordinateTransformations", []),
                     *described.get("coordinateTransformations", [])]:  # fmt: skip
            for one in step.get("transformations", [step]):
                if one.get("type") == "scale":
                    scale = scale * np.asarray(one["scale"], dtype=np.float64)
        node = _zarr_node(path, array_path)
    else:
        axes = [{"name": name} for name in "tczyx"[-node.ndim :]]
        scale = np.ones(node.ndim)
    names = [str(axis["name"]).lower() for axis in axes]
    if names[-3:] != ["z", "y", "x"] or len(names) != node.ndim:
        raise InputError(f"'{path.name}' has the axes {', '.join(names) or 'none'}; a stack of sections has z, y, x.")
    index: list[int | None] = [
        select_channel(channel, int(node.shape[i]), path.name, name) for i, name in enumerate(names[:-3])
    ]
    units = [canonical(str(axis.get("unit") or "pixel")) for axis in axes[-3:]]
    unit = units[-1]
    for i in range(3):
        factor = conversion_factor(units[i], unit) if units[i] != "pixel" else 1.0
        spacing[i] = float(scale[len(names) - 3 + i]) * factor
    shape = tuple(int(n) for n in node.shape[-3:])
    check_stack(shape, np.dtype(node.dtype), path.name)
    check_spacing(np.asarray(spacing), path.name)
    return ZarrSource(
        (shape[0], shape[1], shape[2]),
        np.dtype(node.dtype),
        (spacing[0], spacing[1], spacing[2]),
        unit,
        path.name.removesuffix(".zarr").removesuffix(".ome"),
        {},
        str(path),
        array_path,
        (*index, None),
    )


def _zarr_node(path: Path, inside: str = "") -> Any:
    import zarr

    try:
        return zarr.open(str(path), mode="r") if not inside else zarr.open(str(path), mode="r", path=inside)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise InputError(f"'{path.name}' cannot be opened as Zarr ({reason}).") from error


def _multiscales(group: Any) -> dict[str, Any] | None:
    attributes = dict(group.attrs)
    found = attributes.get("ome", attributes).get("multiscales")
    return found[0] if found else None


def _axes(described: Mapping[str, Any]) -> list[dict[str, Any]]:
    axes = described.get("axes")
    if axes is None and described.get("coordinateSystems"):  # version 0.6
        axes = described["coordinateSystems"][0]["axes"]
    if axes is None:
        return [{"name": name} for name in "tczyx"]
    return [axis if isinstance(axis, dict) else {"name": axis} for axis in axes]
