"""The transforms that a viewer knows: those its layers carry, and those that were loaded or made in the workbench."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from napari_stnreg.core.grid import Grid
from napari_stnreg.widgets.common.result_layers import transform_from

if TYPE_CHECKING:
    from napari_stnreg.transforms.base import Transform

SOURCES = {"result": "of this session", "file": "from a file", "made": "made here"}


@dataclass(eq=False)
class TransformEntry:
    """One transform, and what is known of its two sides.

    Parameters
    ----------
    fixed, moving
        What the two sides are called: points go from the fixed world to the moving world.
    family
        As a person calls it, such as ``"affine+diffeomorphic"``.
    state
        The transform as a layer's metadata holds it; built when it is first asked for.
    source
        Key of :data:`SOURCES`.
    grid, moving_grid
        Where the fixed and the moving image lie, where that is known.
    key
        The same for the same transform, however many layers carry it.
    info
        The record of the run, to be saved along.
    """

    fixed: str
    moving: str
    family: str
    state: dict[str, Any] | None = None
    source: str = "result"
    grid: Grid | None = None
    moving_grid: Grid | None = None
    key: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    info: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, transform: Transform, fixed: str, moving: str, family: str, **more: Any) -> TransformEntry:
        """Hold a transform that is at hand."""
        entry = cls(fixed, moving, family, **more)
        entry.__dict__["transform"] = transform
        return entry

    @cached_property
    def transform(self) -> Transform:
        """Fixed world to moving world."""
        return transform_from(self.state)

    @property
    def name(self) -> str:
        """What it is called in lists: the moving side is carried onto the fixed one."""
        return f"{self.moving} -> {self.fixed} ({self.family})"

    @property
    def direction_text(self) -> str:
        """What it maps, in a sentence."""
        return (
            f"Points of '{self.fixed}' go to '{self.moving}'; the image '{self.moving}' is carried onto '{self.fixed}'."
        )

    @property
    def summary(self) -> str:
        """Dimensions, unit, size and origin in a line."""
        transform = self.transform
        size = " x ".join(str(n) for n in self.grid.shape) if self.grid is not None else ""
        return " · ".join(part for part in (f"{transform.ndim}D", size, transform.unit, SOURCES[self.source]) if part)

    def record(self, what: str) -> dict[str, Any]:
        """What a layer made with this transform carries in its metadata under ``"stnreg"``."""
        from napari_stnreg.widgets.common.result_layers import transform_state

        known = {
            "run": self.key,
            "fixed": self.fixed,
            "moving": self.moving,
            "family": self.family,
            "source": self.source,
            "transform": self.state or transform_state(self.transform),
            "what": what,
        }
        if self.grid is not None:
            known["grid"] = self.grid.to_dict()
        if self.moving_grid is not None:
            known["moving_grid"] = self.moving_grid.to_dict()
        return {**self.info, **known}


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


def entry_from_record(record: dict[str, Any], key: str = "", frame: int | None = None) -> TransformEntry:
    """The transform of a layer's record; ``frame`` says which one of a series it is."""
    settings = record.get("settings") or {}
    moving = record.get("moving", "moving") + ("" if frame is None else f" [{frame}]")
    grids = {name: Grid.from_dict(record[name]) if name in record else None for name in ("grid", "moving_grid")}
    known = {"run", "transform", "fixed", "moving", "frames", "what", "grid", "moving_grid", "family", "source"}
    return TransformEntry(
        fixed=record.get("fixed", "fixed"),
        moving=moving,
        family=record.get("family") or settings.get("family") or record["transform"]["family"],
        state=record["transform"],
        source=record.get("source", "result"),
        key=key,
        info={name: value for name, value in record.items() if name not in known},
        **grids,
    )
