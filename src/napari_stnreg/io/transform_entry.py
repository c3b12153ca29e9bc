"""A transform with the names and grids of its two images and the record of its run."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import CoordinateSystem, Grid
from napari_stnreg.io.napari_layers import transform_from_metadata, transform_to_metadata

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
        Name for the user, such as ``"affine+diffeomorphic"``.
    state
        The transform as a layer's metadata holds it; built when first needed.
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
        return transform_from_metadata(self.state or {})

    @property
    def name(self) -> str:
        """What it is called in lists: the moving side is carried onto the fixed one."""
        return f"{self.moving} -> {self.fixed} ({self.family})"

    @property
    def direction_text(self) -> str:
        """What it maps, in a sentence."""
        return (
            f"Points of '{self.fixed}' go to '{self.moving}'. The image '{self.moving}' is carried onto '{self.fixed}'."
        )

    @property
    def summary(self) -> str:
        """Dimensions, unit, size and origin in a line."""
        transform = self.transform
        size = " x ".join(str(n) for n in self.grid.shape) if self.grid is not None else ""
        return " · ".join(part for part in (f"{transform.ndim}D", size, transform.unit, SOURCES[self.source]) if part)

    def record(self, what: str) -> dict[str, Any]:
        """Return the metadata (key ``"stnreg"``) of a layer made with this transform."""
        known = {
            "run": self.key,
            "fixed": self.fixed,
            "moving": self.moving,
            "family": self.family,
            "source": self.source,
            "transform": self.state or transform_to_metadata(self.transform),
            "what": what,
        }
        if self.grid is not None:
            known["grid"] = self.grid.to_dict()
        if self.moving_grid is not None:
            known["moving_grid"] = self.moving_grid.to_dict()
        return {**self.info, **known}


def entry_from_record(record: dict[str, Any], key: str = "", frame: int | None = None) -> TransformEntry:
    """Return the transform of a layer's record; ``frame`` is its index in a series."""
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
    """Return the grid of one side of a transform.

    Parameters
    ----------
    entry
        The transform.
    side
        ``"fixed"`` or ``"moving"``.
    fallback
        A grid to use if the transform has none (an affine read from a file).

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
            raise InputError(f"'{entry.name}' has no known grid. Open the fixed image, so that its grid can be used.")
        return known.with_unit(entry.transform.unit)
    # Where the fixed side's outline lands, with voxels of the same size.
    fixed = side_grid(entry, "fixed", fallback)
    ticks = [np.linspace(-0.5, n - 0.5, 9) for n in fixed.shape]
    outline = np.stack(np.meshgrid(*ticks, indexing="ij"), axis=-1).reshape(-1, fixed.ndim)
    landed = entry.transform.map_points(fixed.to_world(outline))
    return Grid.covering(landed, fixed.spacing, unit=entry.transform.unit)


def chained(first: TransformEntry, second: TransformEntry) -> TransformEntry:
    """First the one, then the other: ``x -> second(first(x))``.

    Raises
    ------
    InputError
        If their dimensions or units do not fit together.
    """
    from napari_stnreg.transforms import compose

    if first.transform.ndim != second.transform.ndim:
        raise InputError(f"'{first.name}' is {first.transform.ndim}D and '{second.name}' {second.transform.ndim}D.")
    return TransformEntry.of(
        compose(first.transform, second.transform),
        first.fixed,
        second.moving,
        f"{first.family}, then {second.family}",
        source="made",
        grid=first.grid,
        moving_grid=second.moving_grid,
    )


def chain_sentence(first: TransformEntry, second: TransformEntry) -> str:
    """Describe the order of a chain, with a warning where its ends do not match."""
    text = (
        f"First '{first.name}', then '{second.name}': points of '{first.fixed}' go to '{first.moving}' and on to "
        f"'{second.moving}'. The image '{second.moving}' is carried onto '{first.fixed}' in one sampling."
    )
    if first.moving != second.fixed:
        text += f" ⚠ The first ends in '{first.moving}' but the second begins in '{second.fixed}': check the order."
    return text


@dataclass(frozen=True)
class Place:
    """Position of an image that a transform file of another program refers to."""

    name: str
    grid: Grid
    coordinate_system: CoordinateSystem
    metadata: Mapping[str, Any] = field(default_factory=dict)


def read_entry(path: str, fixed: Place | None = None, moving: Place | None = None) -> TransformEntry:
    """Read a transform file, with what the file or the caller states about its two sides.

    Parameters
    ----------
    path
        The file; its extension sets the format.
    fixed, moving
        The images that it belongs to, which a file of another program does not know.

    Raises
    ------
    InputError
        If it cannot be read, or holds something else.
    """
    from napari_stnreg.io.safetensors_format import load_transform_file
    from napari_stnreg.io.transform_io import ENDING, load_transform, transform_ending

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
    from napari_stnreg.io.transform_io import ENDING, SAVE_ENDINGS, save, transform_ending

    if transform_ending(path, SAVE_ENDINGS) != ENDING:
        return save(entry.transform, path, grid=entry.grid)
    record = entry.record("file")
    for name in ("transform", "what", "run", "source", "start"):
        record.pop(name, None)
    return entry.transform.save(path, record)
