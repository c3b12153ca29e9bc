"""Apply a transform to layers: snapshots are taken on the GUI thread, the transform is applied in the worker."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Points, Shapes, Surface, Tracks, Vectors

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.labels import choose_interpolation
from napari_stnreg.core.units import conversion_factor
from napari_stnreg.io.napari_layers import LayerData
from napari_stnreg.io.transform_entry import TransformEntry
from napari_stnreg.visualization.layers import image_layer, stack_frames
from napari_stnreg.widgets.common.layer_io import LayerSource, axis_units, layer_matrix, layer_source
from napari_stnreg.widgets.common.task_runner import TaskControl, TaskProgress

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_stnreg.resampling.geometry import GeometryTransformer, Side

_SLAB_VOXELS = 2_000_000
"""Images are warped in slabs of about this many voxels, so that progress is shown and Stop takes effect."""

LISTS = (Points, Shapes, Tracks, Vectors, Surface)


@dataclass(frozen=True)
class LayerSnapshot:
    """Snapshot of a layer: references and numbers only."""

    name: str
    kind: str
    source: LayerSource | None = None
    data: Any = None
    keywords: dict[str, Any] | None = None
    matrix: np.ndarray | None = None
    unit: str = "pixel"


def snapshot_layer(layer: Layer, viewer: Viewer, ndim: int) -> LayerSnapshot:
    """Take a snapshot of a layer of any type for a transform of ``ndim`` axes.

    Raises
    ------
    InputError
        If it has fewer axes than the transform, or a type that cannot be transformed.
    """
    if isinstance(layer, ImageLayer | Labels):
        source = layer_source(layer, viewer, level=0)
        if source.grid.ndim != ndim:
            raise InputError(f"'{layer.name}' is {source.grid.ndim}D, but the transform is {ndim}D.")
        kind = "labels" if isinstance(layer, Labels) else "image"
        return LayerSnapshot(layer.name, kind, source=source, unit=source.grid.unit)
    if not isinstance(layer, LISTS):
        raise InputError(f"'{layer.name}' is a layer of a type that cannot be transformed.")
    if layer.ndim < ndim:
        raise InputError(f"'{layer.name}' has {layer.ndim} axes, but the transform has {ndim}.")
    data, keywords, kind = layer.as_layer_data_tuple()
    matrix, unit = spatial_matrix(layer, ndim)
    if isinstance(data, list):
        data = [np.array(shape) for shape in data]
    elif not isinstance(layer, Surface):
        data = np.array(data)
    return LayerSnapshot(layer.name, kind, data=data, keywords=dict(keywords), matrix=matrix, unit=unit)


def spatial_matrix(layer: Layer, ndim: int) -> tuple[np.ndarray, str]:
    """Return a layer's data-to-world matrix with its last ``ndim`` axes in one unit, and that unit."""
    matrix, units = layer_matrix(layer), axis_units(layer)
    for axis in range(layer.ndim - ndim, layer.ndim):
        matrix[axis] *= conversion_factor(units[axis], units[-1])
    return matrix, units[-1]


def same_place(layer: Layer, layers: Any) -> list[Layer]:
    """Return the other image layers with the same shape and position, such as the channels of one image."""
    if not isinstance(layer, ImageLayer):
        return []
    shape, matrix, units = _shape(layer), layer_matrix(layer), axis_units(layer)
    return [
        other
        for other in layers
        if other is not layer
        and type(other) is type(layer)
        and "stnreg" not in other.metadata
        and _shape(other) == shape
        and np.allclose(layer_matrix(other), matrix)
        and axis_units(other) == units
    ]


def _shape(layer: ImageLayer) -> tuple[int, ...]:
    return tuple(layer.data[0].shape if layer.multiscale else layer.data.shape)


@dataclass(frozen=True)
class ApplyJob:
    """Layers to transform; without a transform they are only resampled."""

    entry: TransformEntry | None
    taken: tuple[LayerSnapshot, ...]
    side: Side = "moving"
    grid: Grid | None = None
    upright: bool = False
    """Whether a resampled image gets an axis-aligned grid where no grid is given, instead of its own grid."""


@dataclass(frozen=True)
class ApplyResult:
    """The new layers, with warnings."""

    layers: list[LayerData]
    warnings: list[str]


def apply_to_layers(job: ApplyJob, control: TaskControl) -> Generator[TaskProgress, None, ApplyResult | None]:
    """Transform the layers one by one, in the worker; a stop keeps those that are done."""
    layers: list[LayerData] = []
    warnings: list[str] = []
    for number, taken in enumerate(job.taken):
        part = (number, len(job.taken))
        made = yield from _one(job, taken, part, control, warnings)
        if made is None:
            break
        layers.append(made)
    if control.cancel.is_set() or not layers:
        return None
    return ApplyResult(layers, list(dict.fromkeys(warnings)))


def _one(
    job: ApplyJob, taken: LayerSnapshot, part: tuple[int, int], control: TaskControl, warnings: list[str]
) -> Generator[TaskProgress, None, LayerData | None]:
    if control.stop.is_set():
        return None
    yield TaskProgress(part[0] / part[1], f"{taken.name}: reading")
    if taken.source is not None:
        made = yield from _image(job, taken, part, control, warnings)
    else:
        made = _coordinates(job, taken, warnings)
    if made is None:
        return None
    data, keywords, kind = made
    what = "resampled" if job.entry is None else f"transformed to {other_side(job)}"
    metadata = {key: value for key, value in keywords.get("metadata", {}).items() if key != "stnreg"}
    if job.entry is not None:
        metadata["stnreg"] = job.entry.record("transformed")
    return data, {**keywords, "name": f"{taken.name} {what}", "metadata": metadata}, kind


def other_side(job: ApplyJob) -> str:
    """Return the name of the side to which the layers are transformed."""
    return job.entry.fixed if job.side == "moving" else job.entry.moving


def _transformer(job: ApplyJob, taken: LayerSnapshot) -> GeometryTransformer:
    from napari_stnreg.resampling.geometry import GeometryTransformer

    # Coordinates come back in the layer's own unit.
    return GeometryTransformer(
        job.entry.transform, job.side, matrix=taken.matrix, unit=taken.unit, target_unit=taken.unit
    )


def _coordinates(job: ApplyJob, taken: LayerSnapshot, warnings: list[str]) -> LayerData:
    """Transform a layer of coordinates, in its own data coordinates."""
    transformer = _transformer(job, taken)
    keywords = dict(taken.keywords or {})
    data, shape_types = transformer.layer_data(taken.kind, taken.data, keywords.get("shape_type", ()))
    if shape_types:
        keywords["shape_type"] = shape_types
    if transformer.warning is not None:
        warnings.append(transformer.warning)
    return data, keywords, taken.kind


def _image(
    job: ApplyJob, taken: LayerSnapshot, part: tuple[int, int], control: TaskControl, warnings: list[str]
) -> Generator[TaskProgress, None, LayerData | None]:
    source = taken.source
    frames = []
    for frame in range(source.frames):
        if control.stop.is_set():
            return None
        image = source.image(frame, full=True, masked=False)
        grid = job.grid or _fitting_grid(job, taken, image.grid)
        span = (part[0] + frame / source.frames) / part[1], 1 / (part[1] * source.frames)
        warped = yield from _warp(job, taken, image, grid, span, control, warnings)
        if warped is None:
            return None
        frames.append(image_layer(warped, source.display, labels=taken.kind == "labels"))
    if source.frames == 1:
        made = frames[0]
    else:
        made = stack_frames([{"warped": one} for one in frames], grid, source.time)["warped"]
    data, keywords, kind = made
    return data, {**keywords, "metadata": source.metadata}, kind


def _warp(
    job: ApplyJob, taken: LayerSnapshot, image: Image, grid: Grid, span: tuple[float, float], control: TaskControl,
    warnings: list[str],
) -> Generator[TaskProgress, None, Image | None]:  # fmt: skip
    """Warp an image in slabs along the first axis."""
    from napari_stnreg.resampling.warp import warp

    interpolation, note = choose_interpolation(image)
    if note and not image.is_labels and note not in warnings:
        warnings.append(note)
    # Each slab copies the image in single precision, so there are few.
    count = int(np.clip(grid.size // _SLAB_VOXELS, 1, min(12, grid.shape[0])))
    ends = np.linspace(0, grid.shape[0], count + 1).astype(int)
    parts = []
    transformer = None if job.entry is None else _transformer(job, taken)
    for number, (start, stop) in enumerate(itertools.pairwise(ends)):
        yield TaskProgress(span[0] + span[1] * number / count, f"{taken.name}: sampling")
        if control.stop.is_set():
            return None
        rest = [0] * (grid.ndim - 1)
        slab = grid.cropped((start, *rest), (stop, *grid.shape[1:]))
        if transformer is None:
            made = warp(image, None, slab, interpolation)
        else:
            made = transformer.warp_image(image, slab, interpolation)
        parts.append(made.data)
    if transformer is not None and transformer.warning is not None:
        warnings.append(transformer.warning)
    data = parts[0] if count == 1 else np.concatenate(parts)
    return image.replace(data=data, grid=grid, mask=None)


def _fitting_grid(job: ApplyJob, taken: LayerSnapshot, own: Grid) -> Grid:
    """Return the grid of the result when none is given: axis-aligned, covering the image or its transformed outline."""
    if job.entry is None:
        return Grid.covering(own.corners(), own.spacing, unit=own.unit)
    return _transformer(job, taken).covering_grid(own)
