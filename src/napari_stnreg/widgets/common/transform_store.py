"""The transforms that a viewer knows: those its layers carry, and those that were loaded or made in the workbench."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

from napari_stnreg.napari_plugin.transform_entry import TransformEntry, entry_from_record


class TransformStore:
    """What was loaded or made in one viewer, beside what its layers carry."""

    def __init__(self) -> None:
        self.extra: list[TransformEntry] = []
        self._seen: dict[str, TransformEntry] = {}

    def entries(self, viewer: Any) -> list[TransformEntry]:
        """All transforms of the viewer, those of its layers first; one of a run however many layers it has."""
        found: dict[str, TransformEntry] = {}
        for layer in viewer.layers:
            for entry in _entries_of_layer(layer, self._seen):
                found.setdefault(entry.key, entry)
        self._seen = dict(found)
        for entry in self.extra:
            found.setdefault(entry.key, entry)
        return list(found.values())


_STORES: WeakKeyDictionary[Any, TransformStore] = WeakKeyDictionary()


def store_for(viewer: Any) -> TransformStore:
    """The shelf of a viewer: it outlives the workbench's dock, not the viewer."""
    # napari hands a proxy of its viewer to plugins; the shelf belongs to the viewer behind it.
    return _STORES.setdefault(inspect.unwrap(viewer), TransformStore())


def _entries_of_layer(layer: Any, seen: dict[str, TransformEntry]) -> Iterator[TransformEntry]:
    record = layer.metadata.get("stnreg")
    if not isinstance(record, dict) or "transform" not in record:
        return
    frames = record.get("frames") or [record]
    for number, one in enumerate(frames):
        key = str(one.get("run", "")) + (f".{number}" if len(frames) > 1 else "")
        yield seen.get(key) or entry_from_record(one, key, number if len(frames) > 1 else None)
