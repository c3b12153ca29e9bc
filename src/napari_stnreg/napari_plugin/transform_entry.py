"""A transform as napari layers and files carry it: with the names and grids of its two sides."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import CoordinateSystem, Grid

if TYPE_CHECKING:
    from napari_stnreg.transforms.base import Transform


def transform_state(transform: Transform) -> dict[str, Any]:
    """A transform as plain values and arrays, for a layer's metadata; :func:`transform_from` reads it back."""
    return {
        "family": transform.family,
        "coordinate_systems": list(transform.coordinate_systems),
        "settings": transform.settings(),
        "tensors": {name: tensor.detach().cpu().numpy() for name, tensor in transform.tensors().items()},
    }


def transform_from(state: dict[str, Any]) -> Transform:
    """The transform that :func:`transform_state` described."""
    import torch

    from napari_stnreg.transforms import transform_class

    tensors = {name: torch.from_numpy(np.array(array)) for name, array in state["tensors"].items()}
    transform = transform_class(state["family"]).from_state(tensors, state["settings"])
    return transform.with_coordinate_systems(*state.get("coordinate_systems", transform.coordinate_systems))


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
        from napari_stnreg.napari_plugin.transform_entry import transform_state

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


def side_grid(entry: TransformEntry, side: str, fallback: Grid | None = None) -> Grid:
    """The grid of one side of a transform.

    Parameters
    ----------
    entry
        The transform.
    side
        ``"fixed"`` or ``"moving"``.
    fallback
        A grid to take when the transform says nothing of where it belongs (an affine read from a file).

    Raises
    ------
    InputError
        If none is known.
    """
    known = entry.grid if side == "fixed" else entry.moving_grid
    if known is not None:
        return known.with_unit(entry.transform.unit)
    if side == "fixed":
        known = entry.transform.native_grid() or fallback
        if known is None:
            raise InputError(
                f"'{entry.name}' does not say over which space it lies: open the fixed image, so that its grid is known."
            )
        return known.with_unit(entry.transform.unit)
    # Where the fixed side's outline lands, with voxels of the same size.
    fixed = side_grid(entry, "fixed", fallback)
    ticks = [np.linspace(-0.5, n - 0.5, 9) for n in fixed.shape]
    outline = np.stack(np.meshgrid(*ticks, indexing="ij"), axis=-1).reshape(-1, fixed.ndim)
    landed = entry.transform.map_points(fixed.to_world(outline))
    return Grid.covering(landed, fixed.spacing, unit=entry.transform.unit)


@dataclass(frozen=True)
class Place:
    """Where one of the images lies that a file of another program belongs to."""

    name: str
    grid: Grid
    space: CoordinateSystem


def read_entry(path: str, fixed: Place | None = None, moving: Place | None = None) -> TransformEntry:
    """A transform of a file, with what the file (or the person) says about its two sides.

    Parameters
    ----------
    path
        The file; its ending says in which format.
    fixed, moving
        The images that it belongs to, which a file of another program does not know.

    Raises
    ------
    InputError
        If it cannot be read, or holds something else.
    """
    from napari_stnreg.io.transform_file import load_transform_file
    from napari_stnreg.io.transforms import ENDING, load_transform, transform_ending

    info: dict[str, Any] = {}
    if transform_ending(path) == ENDING:
        transform, info = load_transform_file(path)
    else:
        transform = load_transform(path, fixed=fixed, moving=moving)
    stem = Path(path).name
    grids = {name: Grid.from_dict(info.pop(name)) if name in info else None for name in ("grid", "moving_grid")}
    sides = {name: info.pop(name, None) or f"{name} side of {stem}" for name in ("fixed", "moving")}
    for name, key, place in (("fixed", "grid", fixed), ("moving", "moving_grid", moving)):
        if place is not None:
            sides[name], grids[key] = place.name, place.grid
    return TransformEntry.of(
        transform,
        sides["fixed"],
        sides["moving"],
        info.pop("family", None) or (info.get("settings") or {}).get("family") or transform.family,
        source="file",
        info=info,
        **grids,
    )


def write_entry(entry: TransformEntry, path: str) -> Path:
    """Write a transform; our own file also keeps its names, its grids and the record of its run.

    Raises
    ------
    InputError
        If the ending is unknown, the format cannot hold it, or the file cannot be written.
    """
    from napari_stnreg.io.transforms import ENDING, SAVE_ENDINGS, save, transform_ending

    if transform_ending(path, SAVE_ENDINGS) != ENDING:
        return save(entry.transform, path, grid=entry.grid)
    record = entry.record("file")
    for name in ("transform", "what", "run", "source", "start"):
        record.pop(name, None)
    return entry.transform.save(path, record)
