"""Convert napari layers to :class:`~napari_stnreg.core.image.Image`.

The GUI thread collects what a run needs of a layer in a :class:`LayerSource`, which holds only references and numbers.
The worker turns it into an image (Dask and multiscale data are computed there), so a layer that is renamed,
moved or deleted during a run changes nothing for the run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Points, Shapes
from scipy import ndimage

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.units import canonical, conversion_factor
from napari_stnreg.io.napari_layers import LAYOUTS, layout_of
from napari_stnreg.io.tiff import tiff_axes

if TYPE_CHECKING:
    from napari.viewer import Viewer

_AUTO_SIZE = {2: 2048, 3: 192}


def guess_layout(layer: Layer) -> str:
    """Guess the meaning of a layer's axes from their labels, else from their number.

    Raises
    ------
    InputError
        If the layer has fewer than two or more than five axes, or labels of axes in an order that is not supported.
    """
    found = layout_of(layer.axis_labels, layer.ndim, layer.name)
    if found is None and layer.source.path is not None and not layer.multiscale:
        found = layout_of(tiff_axes(str(layer.source.path), tuple(layer.data.shape)), layer.ndim, layer.name)
    if found is not None:
        return found
    # Labels were not set, or only some of them: a unit of time still identifies the axis.
    times = [str(unit) in ("second", "millisecond", "minute", "hour", "day") for unit in layer.units]
    if any(times) and layer.ndim > 2:
        return next(layout for layout in LAYOUTS[layer.ndim] if layout[times.index(True)] == "t")
    return LAYOUTS[layer.ndim][0]


def default_pair(images: Sequence[Layer], selection: Collection[Layer]) -> Sequence[Layer]:
    """Return fixed and moving for a panel that opens: two selected images, else the last two.

    Channels of one file are one image; its first channel counts.
    """
    chosen = [layer for layer in images if layer in selection]
    if len(chosen) == 2:
        return chosen
    seen: set[str] = set()
    first = [layer for layer in images if layer.source.path is None or not _is_in(str(layer.source.path), seen)]
    return (first if len(first) > 1 else images)[-2:]


def _is_in(path: str, seen: set[str]) -> bool:
    """Return whether a path was seen before, and remember it."""
    known = path in seen
    seen.add(path)
    return known


def layer_matrix(layer: Layer) -> np.ndarray:
    """Return the ``(n + 1, n + 1)`` matrix from a layer's data to its world, in the layer's units."""
    origin = np.asarray(layer.data_to_world((0,) * layer.ndim), dtype=np.float64)
    matrix = np.eye(layer.ndim + 1)
    matrix[:-1, -1] = origin
    for axis in range(layer.ndim):
        step = np.zeros(layer.ndim)
        step[axis] = 1
        matrix[:-1, axis] = np.asarray(layer.data_to_world(step)) - origin
    return matrix


def axis_units(layer: Layer) -> tuple[str, ...]:
    """Short names of the units of a layer's axes."""
    return tuple(canonical(str(unit)) for unit in layer.units)


def level_shapes(layer: Layer) -> list[tuple[int, ...]]:
    """Shapes of a multiscale layer's levels, finest first; one shape for other layers."""
    return [tuple(level.shape) for level in layer.data] if layer.multiscale else [tuple(layer.data.shape)]


def auto_level(layer: Layer, layout: str) -> int:
    """Return the finest level of a size that registers quickly; 0 for a layer without levels."""
    shapes = level_shapes(layer)
    space = [i for i, letter in enumerate(layout) if letter in "zyx"]
    limit = _AUTO_SIZE[len(space)]
    for level, shape in enumerate(shapes):
        if max(shape[i] for i in space) <= limit:
            return level
    return len(shapes) - 1


def current_frame(layer: Layer, layout: str, viewer: Viewer) -> int:
    """Return the frame of a time series that is on screen."""
    if "t" not in layout:
        return 0
    axis = layout.index("t")
    point = np.asarray(viewer.dims.point, dtype=np.float64)[-layer.ndim :].copy()
    units = getattr(viewer.layers.extent, "units", None)
    if units is not None:
        # The sliders count in the viewer's units, the layer's matrix in its own.
        for i, (seen, own) in enumerate(zip(units[-layer.ndim :], layer.units, strict=False)):
            with contextlib.suppress(Exception):  # mixed units: napari drops them for the whole viewer too
                point[i] *= (1 * seen).to(own).magnitude
    index = np.asarray(layer.world_to_data(point))[axis]
    return int(np.clip(round(float(index)), 0, level_shapes(layer)[0][axis] - 1))


@dataclass(frozen=True)
class MaskSource:
    """A Labels or Shapes layer taken down as a mask: where it counts, in world coordinates."""

    name: str
    matrix: np.ndarray
    units: tuple[str, ...]
    labels: Any = None
    shapes: tuple[np.ndarray, ...] = ()
    kinds: tuple[str, ...] = ()

    def on(self, grid: Grid, frame: int = 0) -> np.ndarray:
        """Resample the mask to an image's grid, boolean ``(*grid.shape)``; runs in the worker.

        Raises
        ------
        InputError
            If the mask does not fit the image's axes or its unit, or counts nowhere on it.
        """
        mask = self._shapes_on(grid) if self.labels is None else self._labels_on(grid, frame)
        if not mask.any():
            raise InputError(
                f"The mask '{self.name}' leaves nothing of the image. Draw it over the image, or choose none."
            )
        return mask

    def _to_index(self, grid: Grid) -> np.ndarray:
        """Return the map from the mask layer's spatial data coordinates to the grid's voxel indices."""
        n = grid.ndim
        matrix = np.eye(n + 1)
        matrix[:-1] = self.matrix[-n - 1 : -1, [*range(len(self.matrix) - 1 - n, len(self.matrix) - 1), -1]]
        for axis, unit in enumerate(self.units[-n:]):
            matrix[axis] *= conversion_factor(unit, grid.unit)
        return np.asarray(np.linalg.inv(grid.matrix) @ matrix)

    def _labels_on(self, grid: Grid, frame: int) -> np.ndarray:
        extra = self.labels.ndim - grid.ndim
        if extra not in (0, 1):
            raise InputError(f"The mask '{self.name}' has {self.labels.ndim} axes, its image {grid.ndim}.")
        data = self.labels[min(frame, len(self.labels) - 1)] if extra else self.labels
        data = np.asarray(data) != 0
        matrix = self._to_index(grid)
        if data.shape == grid.shape and np.allclose(matrix, np.eye(len(matrix)), atol=1e-6):
            return np.asarray(data)
        # A border of zeros, so that the outer voxels extend to their faces.
        data = np.pad(data, 1)
        back = np.linalg.inv(matrix)
        mask = ndimage.affine_transform(
            data.astype(np.uint8), back[:-1, :-1], back[:-1, -1] + 1, output_shape=grid.shape, order=0
        )
        return np.asarray(mask, dtype=bool)

    def _shapes_on(self, grid: Grid) -> np.ndarray:
        # A shape is drawn in the plane on screen; in a volume or a series it counts at every depth and time.
        matrix = self._to_index(grid) if len(self.units) >= grid.ndim else None
        if matrix is None:
            flat = Grid(grid.shape[-2:], grid.matrix[-3:, -3:], grid.unit)
            matrix = self._to_index(flat)
        outlines = []
        for vertices in self.shapes:
            n = len(matrix) - 1
            index = vertices[:, -n:] @ matrix[:-1, :-1].T + matrix[:-1, -1]
            outlines.append(index[:, -2:])
        if not outlines:
            raise InputError(f"The mask '{self.name}' has no shapes. Draw one over the image, or choose none.")
        drawn = Shapes(outlines, shape_type=list(self.kinds)).to_masks(mask_shape=grid.shape[-2:]).any(axis=0)
        return np.array(np.broadcast_to(drawn, grid.shape))


def mask_source(layer: Layer) -> MaskSource:
    """Take down a Labels or Shapes layer as a mask."""
    if isinstance(layer, Labels):
        data = layer.data[0] if layer.multiscale else layer.data
        return MaskSource(layer.name, layer_matrix(layer), axis_units(layer), labels=data)
    vertices = tuple(np.array(shape, dtype=np.float64) for shape in layer.data)
    return MaskSource(layer.name, layer_matrix(layer), axis_units(layer), None, vertices, tuple(layer.shape_type))


@dataclass(frozen=True)
class LayerSource:
    """All that a run needs of one image layer, taken down when the run starts."""

    name: str
    data: Any
    full: Any
    grid: Grid
    full_grid: Grid
    layout: str
    rgb: bool
    frame: int
    frames: int
    mask: MaskSource | None = None
    level: int = 0
    time: tuple[float, float, str] = (1.0, 0.0, "pixel")
    display: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    path: str | None = None
    is_labels: bool | None = None

    def image(self, frame: int | None = None, *, full: bool = False, masked: bool = True) -> Image:
        """Read the image of one frame, by default the current one; runs in the worker.

        Parameters
        ----------
        frame
            Which frame of a time series.
        full
            Whether to read the finest level of a multiscale layer instead of the one chosen for registering.
        masked
            Whether to put the mask on.
        """
        frame = self.frame if frame is None else frame
        data, grid = (self.full, self.full_grid) if full else (self.data, self.grid)
        if "t" in self.layout:
            data = data[(slice(None),) * self.layout.index("t") + (frame,)]
        # A copy: painting into the layer during the run must not reach the run.
        array = np.array(data)
        rest = self.layout.replace("t", "")
        if "c" in rest:
            array = np.ascontiguousarray(np.moveaxis(array, rest.index("c"), -1))
        mask = self.mask.on(grid, frame) if self.mask is not None and masked else None
        name = f"{self.name} [{frame}]" if self.frames > 1 else self.name
        return Image(array, grid, mask, name, self.rgb, dict(self.metadata), self.is_labels)


def layer_source(
    layer: ImageLayer | Labels,
    viewer: Viewer,
    *,
    layout: str | None = None,
    level: int | None = None,
    mask: Layer | None = None,
) -> LayerSource:
    """Take down an image or labels layer; cheap, and for the GUI thread.

    Parameters
    ----------
    layer
        The layer; it is not changed and not kept.
    viewer
        Its viewer, for the frame on screen.
    layout
        What its axes mean; guessed if not given.
    level
        Level of a multiscale layer to register with; one of comfortable size if not given.
    mask
        A Labels or Shapes layer over the part of the image that counts.

    Raises
    ------
    InputError
        If the layer's axes or units have no meaning as an image.
    """
    layout = layout or guess_layout(layer)
    shapes = level_shapes(layer)
    level = auto_level(layer, layout) if level is None else min(level, len(shapes) - 1)
    space = [i for i, letter in enumerate(layout) if letter in "zyx"]
    other = [i for i, letter in enumerate(layout) if letter not in "zyx"]
    if min(shapes[level][i] for i in range(len(layout))) < 1:
        raise InputError(f"'{layer.name}' is empty: its shape is {shapes[level]}.")
    matrix = layer_matrix(layer)
    if other and (
        np.abs(matrix[np.ix_(space, other)]).max() > 1e-9 or np.abs(matrix[np.ix_(other, space)]).max() > 1e-9
    ):
        raise InputError(f"The affine of '{layer.name}' mixes time or channels with space. Give it one that does not.")
    units = axis_units(layer)
    unit = units[space[-1]]
    own = np.eye(len(space) + 1)
    own[:-1] = matrix[np.ix_(space, [*space, layer.ndim])]
    for row, axis in enumerate(space):
        own[row] *= conversion_factor(units[axis], unit)
    full_grid = Grid(tuple(shapes[0][i] for i in space), own, unit)
    grid = full_grid.resized([shapes[level][i] for i in space]) if level else full_grid
    levels = list(layer.data) if layer.multiscale else [layer.data]
    time = (1.0, 0.0, "pixel")
    if "t" in layout:
        t = layout.index("t")
        time = (float(matrix[t, t]), float(matrix[t, -1]), str(layer.units[t]))
    display = {"colormap": layer.colormap} if isinstance(layer, Labels) else {}
    if isinstance(layer, ImageLayer) and not layer.rgb:
        display = {"colormap": layer.colormap, "gamma": layer.gamma, "contrast_limits": list(layer.contrast_limits)}
    return LayerSource(
        name=layer.name,
        data=levels[level],
        full=levels[0],
        grid=grid,
        full_grid=full_grid,
        layout=layout,
        rgb=bool(getattr(layer, "rgb", False)),
        frame=current_frame(layer, layout, viewer),
        frames=shapes[0][layout.index("t")] if "t" in layout else 1,
        mask=None if mask is None else mask_source(mask),
        level=level,
        time=time,
        display=display,
        metadata={key: value for key, value in layer.metadata.items() if key != "stnreg"},
        path=None if layer.source.path is None else str(layer.source.path),
        is_labels=True if isinstance(layer, Labels) else None,
    )


def landmark_points(layer: Points, grid: Grid) -> np.ndarray:
    """Return a layer's points ``(N, D)`` in the world of an image, in the unit of its grid.

    Raises
    ------
    InputError
        If the points have fewer axes than the image, or units that cannot be converted.
    """
    n = grid.ndim
    if layer.ndim < n:
        raise InputError(f"The points '{layer.name}' are {layer.ndim}D but the image is {n}D. Draw them on the image.")
    matrix = layer_matrix(layer)
    world = np.asarray(layer.data, dtype=np.float64) @ matrix[:-1, :-1].T + matrix[:-1, -1]
    factors = [conversion_factor(unit, grid.unit) for unit in axis_units(layer)[-n:]]
    return np.asarray(world[:, -n:] * factors)
