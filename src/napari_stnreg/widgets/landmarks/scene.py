"""The landmark view: copies of both images side by side or over each other, with points, and the warped image.

The layers of the user are hidden while the view is shown; nothing else of them is changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Points

from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.io.napari_layers import placement
from napari_stnreg.landmarks.pairs import LandmarkPairs, Side
from napari_stnreg.widgets.common.layer_affines import spatial_affine
from napari_stnreg.widgets.common.result_layers import OWN
from napari_stnreg.widgets.landmarks.live import WarpedFrame

if TYPE_CHECKING:
    from napari.viewer import Viewer

VIEWS = {"side": "Side by side", "overlay": "Overlay"}
_POINT_PIXELS = 15
_HIT_PIXELS = 11
_COLORS = {"placed": "#f57c00", "predicted": "#0091ea", "locked": "#78909c", "worst": "#e91e63"}
"""Colors that are seen on bright and on dark images."""
_RING_PIXELS = 2
_POINTS_ACROSS = 12
"""Points that would span a 2D image without the limits of their size on the canvas."""
_NUMBER_PIXELS = 20
"""In the overlay, the moving point repeats the number of its pair only where it is farther from the fixed one."""
_NUMBERED_PAIRS = 30
"""More numbers would cover the images: then only pairs that are selected, worst or predicted show theirs."""
_RING, _SELECTED_RING = 0.01, 0.16
"""Widths of the ring of a point, as a fraction of its size before that."""


class LandmarkScene:
    """The layers of the landmark view in a viewer.

    Parameters
    ----------
    viewer
        The viewer.
    fixed, moving
        The two layers.
    fixed_grid, moving_grid
        Their grids, in one unit.
    warped
        The layers that are warped, the moving one first.
    """

    def __init__(
        self, viewer: Viewer, fixed: Layer, moving: Layer, fixed_grid: Grid, moving_grid: Grid, warped: Sequence[Layer]
    ) -> None:
        self._viewer = viewer
        self.fixed, self.moving = fixed, moving
        self.fixed_grid, self.moving_grid = fixed_grid, moving_grid
        self.ndim = fixed_grid.ndim
        self._sources = list(warped)
        self.warped: dict[int, Layer] = {}
        self.view = "side"
        self.opacity = 0.6
        self.display = _first_display(fixed_grid, moving_grid)
        """Homogeneous matrix from the moving world to where it is shown: near its counterpart."""
        self._predict: Callable[[FloatArray, Side], FloatArray] | None = None
        self._before: dict[str, Any] = {}
        self._busy = False
        self.writing = False
        """Whether points are being written; their events are then not those of the user."""
        color = "green" if not getattr(fixed, "rgb", False) else None
        self._views: dict[Side, Layer] = {
            "fixed": _copy(fixed, "fixed", color),
            "moving": _copy(moving, "moving", None),
        }
        self._base_affine = self._views["moving"].affine.affine_matrix.copy()
        self.points: dict[Side, Points] = {"fixed": self._points_layer("fixed"), "moving": self._points_layer("moving")}

    def _points_layer(self, side: Side) -> Points:
        grid = self.fixed_grid
        # napari holds the ring to the same limits as the point. In 2D the point is larger than the upper one, so that
        # the lower one is free for the ring; in a volume the size is also the depth at which a point is seen.
        flat = self.ndim == 2
        size, thinnest = (max(grid.shape) / _POINTS_ACROSS, _RING_PIXELS) if flat else (6, _POINT_PIXELS)
        where = placement(Grid.from_spacing((1,) * self.ndim, unit=grid.unit))
        return Points(
            np.empty((0, self.ndim)),
            ndim=self.ndim,
            name=f"landmarks · {side}",
            size=float(size * grid.spacing.max()),
            canvas_size_limits=(thinnest, _POINT_PIXELS),
            symbol="o",
            face_color="#00000000",
            border_color=_COLORS["placed"],
            border_width=_RING,
            features={"number": np.empty(0, dtype=object)},
            text={"string": "{number}", "size": 11, "color": _COLORS["placed"], "translation": [0.0] * self.ndim,
                  "anchor": "upper_left"},
            projection_mode="rescale_spherical",
            metadata={OWN: True},
            units=where["units"],
            axis_labels=where["axis_labels"],
        )  # fmt: skip

    # -- entering and leaving

    @property
    def entered(self) -> bool:
        """Whether the view is shown."""
        return bool(self._before)

    @property
    def layers(self) -> list[Layer]:
        """The layers of the view, the lowest first."""
        return [self._views["fixed"], *self.warped.values(), self.points["fixed"], self._views["moving"],
                self.points["moving"]]  # fmt: skip

    def enter(self) -> None:
        """Show the view and hide all other layers."""
        grid, camera, layers = self._viewer.canvas.grid, self._viewer.scene.camera, self._viewer.layers
        self._before = {
            "visible": [(layer, layer.visible) for layer in layers],
            "selection": list(layers.selection),
            "camera": (camera.center, camera.zoom),
            "grid": {name: getattr(grid, name) for name in ("enabled", "shape", "stride")},
        }
        self._busy = True
        try:
            for layer in layers:
                layer.visible = False
            for position, layer in enumerate(self.layers):
                layers.insert(position, layer)
        finally:
            self._busy = False
        self._apply_display()
        layers.selection = {self.points["fixed"]}
        self.set_view(self.view)
        self.fit()

    def fit(self) -> None:
        """Fit the images to the canvas."""
        if self.entered:
            self._viewer.reset_view()

    def leave(self) -> None:
        """Remove the layers of the view and show those that were visible before."""
        if not self.entered:
            return
        before, self._before = self._before, {}
        layers = self._viewer.layers
        grid = self._viewer.canvas.grid
        for name, value in before["grid"].items():
            setattr(grid, name, value)
        self._busy = True
        try:
            for layer in self.layers:
                if layer in layers:
                    layers.remove(layer)
            for layer, visible in before["visible"]:
                if layer in layers:
                    layer.visible = visible
        finally:
            self._busy = False
        layers.selection = {layer for layer in before["selection"] if layer in layers}
        self._viewer.scene.camera.center, self._viewer.scene.camera.zoom = before["camera"]

    def needs(self, layer: Layer) -> bool:
        """Whether the view cannot go on without a layer that was removed."""
        own = [*self._views.values(), *self.points.values(), self.fixed, self.moving]
        return not self._busy and any(layer is one for one in own)

    def set_view(self, view: str) -> None:
        """Show the images side by side or over each other."""
        self.view = view
        if not self.entered:
            return
        grid = self._viewer.canvas.grid
        self._apply_display()
        self._views["moving"].visible = view == "side"
        # The lowest layers come first: fixed, warped and its points, then moving and its points.
        grid.stride = 2 + len(self.warped)
        grid.shape = (1, 2)
        grid.enabled = view == "side"

    # -- images

    def set_opacity(self, opacity: float) -> None:
        """Set the opacity of the warped layers."""
        self.opacity = opacity
        for layer in self.warped.values():
            layer.opacity = opacity

    @property
    def wanted(self) -> list[int]:
        """Positions of the warped layers that are visible; all before the first result."""
        if not self.warped:
            return list(range(len(self._sources)))
        return [n for n, layer in self.warped.items() if layer.visible and layer in self._viewer.layers]

    def show_warped(self, frame: WarpedFrame) -> None:
        """Show warped images; the first ones add their layers."""
        where = placement(frame.grid)
        for number, data in frame.arrays.items():
            layer = self.warped.get(number)
            if layer is None:
                self._add_warped(number, data, where)
            elif layer in self._viewer.layers:
                if layer.data.shape != data.shape:
                    layer.data = data
                    for key in ("scale", "translate", "affine"):
                        if key in where:
                            setattr(layer, key, where[key])
                elif layer.data.dtype == data.dtype and not frame.exact:
                    # In place: assigning the array would recompute extents, sliders and the thumbnail.
                    layer.data[...] = data
                    layer.refresh(thumbnail=False, highlight=False, extent=False)
                else:
                    layer.data = data

    def _add_warped(self, number: int, data: np.ndarray, where: dict[str, Any]) -> None:
        source = self._sources[number]
        look: dict[str, Any] = {"name": f"warped · {source.name}", "metadata": {OWN: True}, **where}
        layer: Layer
        if isinstance(source, Labels):
            layer = Labels(data, opacity=self.opacity, **look)
        else:
            assert isinstance(source, ImageLayer)
            look["opacity"] = self.opacity
            if source.rgb:
                look |= {"rgb": True}
            else:
                look |= {"colormap": "magenta", "blending": "additive", "gamma": source.gamma,
                         "contrast_limits": list(source.contrast_limits)}  # fmt: skip
            layer = ImageLayer(data, **look)
        if number and not dict(self._before["visible"]).get(source, True):
            layer.visible = False
        layers = self._viewer.layers
        selected = list(layers.selection)
        self.warped[number] = layer
        self.warped = dict(sorted(self.warped.items()))
        position = layers.index(self._views["fixed"]) + 1 + list(self.warped).index(number)
        layers.insert(position, layer)
        layers.selection = {one for one in selected if one in layers}
        self.set_view(self.view)

    def hide_warped(self) -> None:
        """Remove the warped layers, because there is no transform."""
        gone, self.warped = list(self.warped.values()), {}
        for layer in gone:
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        self.set_view(self.view)

    # -- where the moving side is shown

    @property
    def overlaid(self) -> bool:
        """Whether the moving points are shown on the warped image, where the fit puts them."""
        return self.view == "overlay" and self._predict is not None

    def set_fit(self, predict: Callable[[FloatArray, Side], FloatArray] | None) -> None:
        """Set the map of points to their counterparts, :meth:`~napari_stnreg.LandmarkFit.predict`.

        It is kept during a drag, so that the point stays under the pointer while the image is warped.
        """
        self._predict = predict
        self._apply_display()

    def follow(self, matrix: FloatArray | None) -> None:
        """Show the moving side near its counterparts, by a linear map of the fixed to the moving world."""
        if matrix is None:
            return
        display: FloatArray = np.asarray(np.linalg.inv(matrix))
        if self.ndim == 3 and self._viewer.dims.ndisplay == 2:
            # napari cannot slice oblique volumes: only shift them.
            center = self.fixed_grid.center
            shift = center - (matrix[:-1, :-1] @ center + matrix[:-1, -1])
            display = np.eye(4)
            display[:-1, -1] = shift
        if np.isfinite(display).all() and abs(np.linalg.det(display[:-1, :-1])) > 1e-6:
            self.display = display
            self._apply_display()

    def _apply_display(self) -> None:
        layer = self._views["moving"]
        layer.affine = spatial_affine(layer, self.display, self.fixed_grid.unit) @ self._base_affine
        self.points["moving"].affine = np.eye(self.ndim + 1) if self.overlaid else self.display

    # -- points

    def show_points(self, pairs: LandmarkPairs, *, worst: int | None = None, selected: Sequence[int] = ()) -> None:
        """Show all points with their colors and numbers, or a few numbers of many; ``worst``, ``selected`` are rows."""
        states = ["locked" if row.locked else "placed" for row in pairs.rows]
        named = {worst, *selected, *(n for n, row in enumerate(pairs.rows) if row.predicted)}
        few = len(pairs) <= _NUMBERED_PAIRS
        numbers = np.array([str(n + 1) if few or n in named else "" for n in range(len(pairs))], dtype=object)
        near = self._near_counterparts(pairs)
        if worst is not None:
            states[worst] = "worst"
        self.writing = True
        try:
            for side, layer in self.points.items():
                colors = [
                    _COLORS["predicted" if row.predicted == side else state]
                    for row, state in zip(pairs.rows, states, strict=True)
                ]
                widths = [_SELECTED_RING if n in selected else _RING for n in range(len(pairs))]
                layer.data = self.layer_points(side, pairs)
                layer.selected_data = set()
                layer.features = {"number": np.where(near, "", numbers) if side == "moving" else numbers}
                if colors:
                    layer.border_color = colors
                    layer.border_width = widths
                    layer.face_color = "#00000000"
        finally:
            self.writing = False

    def move_points(self, pairs: LandmarkPairs) -> None:
        """Show points that were moved; their number is the same."""
        self.writing = True
        try:
            for side, layer in self.points.items():
                points = self.layer_points(side, pairs)
                if not np.array_equal(points, layer.data):
                    layer.data[...] = points
                    layer.refresh(thumbnail=False, extent=False)
        finally:
            self.writing = False

    def layer_points(self, side: Side, pairs: LandmarkPairs) -> FloatArray:
        """Return the points of a side in the coordinates of their layer."""
        points = pairs.points(side)
        return self._on_fixed(points) if side == "moving" and self.overlaid else points

    def world_points(self, side: Side, data: FloatArray) -> FloatArray:
        """Return points of a side from the coordinates of their layer."""
        if side == "moving" and self.overlaid and len(data):
            assert self._predict is not None
            return self._predict(data, "fixed")
        return data

    def _on_fixed(self, points: FloatArray) -> FloatArray:
        """Return where the fit puts moving points in the fixed image."""
        assert self._predict is not None
        return self._predict(points, "moving") if len(points) else points

    def _near_counterparts(self, pairs: LandmarkPairs) -> np.ndarray:
        """Return which moving points are shown so near their fixed ones that two numbers would overlap."""
        if self.view != "overlay" or not len(pairs):
            return np.zeros(len(pairs), dtype=bool)
        away = (self.shown_at("moving", pairs.points("moving")) - pairs.points("fixed")) / self._factors
        return np.asarray(np.linalg.norm(away, axis=1) * self._viewer.scene.camera.zoom < _NUMBER_PIXELS)

    # -- the mouse

    @property
    def _factors(self) -> FloatArray:
        """From the viewer's units to those of the landmarks, along each axis."""
        factors = np.ones(self.ndim)
        units = getattr(self._viewer.layers.extent, "units", None)
        if units is not None:
            for axis, (seen, own) in enumerate(zip(units[-self.ndim :], self.points["fixed"].units, strict=False)):
                with contextlib.suppress(Exception):  # mixed units: napari drops them for the whole viewer too
                    factors[axis] = (1 * seen).to(own).magnitude
        return factors

    def side_at(self, event: Any) -> Side | None:
        """Return the side under the pointer; ``None`` in the 3D view."""
        if self._viewer.dims.ndisplay == 3 or event.viewbox is None:
            return None
        return "moving" if self.view == "side" and tuple(event.viewbox) == (0, 1) else "fixed"

    def position(self, side: Side, world: Any) -> FloatArray:
        """Return a position of the viewer's world in the world of a side."""
        shown = np.asarray(world, dtype=np.float64)[-self.ndim :] * self._factors
        if side == "fixed":
            return shown
        if self.overlaid:
            return np.asarray(self.world_points(side, shown[None])[0])
        back = np.linalg.inv(self.display)
        return np.asarray(back[:-1, :-1] @ shown + back[:-1, -1])

    def shown_at(self, side: Side, points: FloatArray) -> FloatArray:
        """Return where points of a side are shown, ``(N, D)``, in the unit of the landmarks."""
        if side == "fixed":
            return points
        if self.overlaid:
            return self._on_fixed(points)
        return np.asarray(points @ self.display[:-1, :-1].T + self.display[:-1, -1])

    def point_at(self, event: Any, pairs: LandmarkPairs) -> tuple[int, Side] | None:
        """Return the nearest point under the pointer, as row and side."""
        side = self.side_at(event)
        if side is None or not len(pairs):
            return None
        factors = self._factors
        here = np.asarray(event.position, dtype=np.float64)[-self.ndim :]
        first = self._viewer.dims.ndim - self.ndim
        displayed = [axis - first for axis in self._viewer.dims.displayed if axis >= first]
        hidden = [axis for axis in range(self.ndim) if axis not in displayed]
        sides: tuple[Side, ...] = ("moving", "fixed") if self.view == "overlay" else (side,)
        best: tuple[float, int, Side] | None = None
        for one in sides:
            away = (self.shown_at(one, pairs.points(one)) / factors) - here
            pixels = np.linalg.norm(away[:, displayed], axis=1) * self._viewer.scene.camera.zoom
            pixels[(np.abs(away[:, hidden] * factors[hidden]) > 3 * self.fixed_grid.spacing[hidden]).any(axis=1)] = (
                np.inf
            )
            row = int(pixels.argmin())
            if pixels[row] <= _HIT_PIXELS and (best is None or pixels[row] < best[0]):
                best = (float(pixels[row]), row, one)
        return None if best is None else best[1:]


def _first_display(fixed: Grid, moving: Grid) -> FloatArray:
    """Return the identity where the images overlap, else the shift that aligns their centers."""
    display = np.eye(fixed.ndim + 1)
    index = fixed.to_index(moving.center)
    if not ((index > -0.5) & (index < np.asarray(fixed.shape) - 0.5)).all():
        display[:-1, -1] = fixed.center - moving.center
    return display


def _copy(layer: Layer, side: str, colormap: str | None) -> Layer:
    """Return a layer with the same array, in no viewer."""
    data, keywords, kind = layer.as_layer_data_tuple()
    keywords |= {"name": f"landmarks · {side} image", "visible": True, "opacity": 1.0}
    keywords |= {"blending": "translucent_no_depth", "metadata": {OWN: True}}
    if colormap is not None:
        keywords["colormap"] = colormap
    return Layer.create(data, keywords, kind)
