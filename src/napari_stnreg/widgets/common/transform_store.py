"""The transforms that a viewer knows: those of its layers, and those that were loaded or made in the workbench."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from napari.layers import Layer

from napari_stnreg.io.transform_entry import TransformEntry, entry_from_record

if TYPE_CHECKING:
    from napari.viewer import Viewer


class TransformStore:
    """The transforms of one viewer: those of its layers, and those that were loaded or made."""

    def __init__(self) -> None:
        self.extra: list[TransformEntry] = []
        self._seen: dict[str, TransformEntry] = {}
        self.placements: WeakKeyDictionary[Layer, Layer] = WeakKeyDictionary()
        """Copies that were placed by hand, by the layer that they are copies of."""

    def placed_copy(self, layer: Layer | None, viewer: Viewer) -> Layer | None:
        """Return the copy of a layer that was placed by hand, if it is in the viewer."""
        copy = None if layer is None else self.placements.get(layer)
        return copy if copy is not None and copy in viewer.layers else None

    def entries(self, viewer: Viewer) -> list[TransformEntry]:
        """List all transforms of the viewer, those of its layers first; each run is listed once."""
        found: dict[str, TransformEntry] = {}
        for layer in viewer.layers:
            for entry in _entries_of_layer(layer, self._seen):
                found.setdefault(entry.key, entry)
        self._seen = dict(found)
        for entry in self.extra:
            found.setdefault(entry.key, entry)
        return list(found.values())


_STORES: WeakKeyDictionary[Viewer, TransformStore] = WeakKeyDictionary()


def store_for(viewer: Viewer) -> TransformStore:
    """Return the store of a viewer; it exists as long as the viewer."""
    # napari passes a proxy of its viewer to plugins; the store belongs to the viewer behind it.
    return _STORES.setdefault(inspect.unwrap(viewer), TransformStore())


def _entries_of_layer(layer: Layer, seen: dict[str, TransformEntry]) -> Iterator[TransformEntry]:
    record = layer.metadata.get("stnreg")
    if not isinstance(record, dict) or "transform" not in record:
        return
    frames = record.get("frames") or [record]
    for number, one in enumerate(frames):
        key = str(one.get("run", "")) + (f".{number}" if len(frames) > 1 else "")
        yield seen.get(key) or entry_from_record(one, key, number if len(frames) > 1 else None)
