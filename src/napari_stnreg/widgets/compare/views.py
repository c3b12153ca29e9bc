"""Views that compare two images and leave the viewer's layers unchanged.

Flicker and side by side show the layers themselves. Checkerboard, difference and blend show copies of both on the first
one's voxels, scaled to 0 to 1, in temporary layers that are taken away again.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Layer
from qtpy.QtCore import QObject, QTimer, Signal

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.io.napari_layers import placement
from napari_stnreg.visualization.layers import DIVERGING_COLORMAP
from napari_stnreg.visualization.overlays import checkerboard, rescaled
from napari_stnreg.widgets.common.layer_io import LayerSource
from napari_stnreg.widgets.common.result_layers import OWN
from napari_stnreg.widgets.common.task_runner import TaskControl, TaskProgress

if TYPE_CHECKING:
    from napari.viewer import Viewer

VIEWS = {
    "flicker": ("Flicker", "Show the two images in turn."),
    "checkerboard": ("Checkerboard", "Alternating squares of the two images: edges continue where they agree."),
    "difference": ("Difference", "Second minus first: white where they agree, red and blue where they do not."),
    "blend": ("Blend", "Both images overlaid, each in its own color: gray (or white) where they agree."),
    "side": ("Side by side", "Next to each other, with cameras that move together."),
}
"""The views: the button's text and one line of description."""

COLORS = {
    "green and magenta": ("green", "magenta"),
    "cyan and magenta": ("cyan", "magenta"),
    "cyan and red": ("cyan", "red"),
}
"""Colors of the blend, first and second; the first and the last pair add up to gray where the images agree."""


@dataclass(frozen=True)
class Pair:
    """Two images on one grid, float32 from 0 to 1."""

    first: np.ndarray
    second: np.ndarray
    grid: Grid


def prepare(
    first: LayerSource, second: LayerSource, control: TaskControl
) -> Generator[TaskProgress, None, Pair | None]:
    """Bring the second image onto the first one's voxels; for use in the worker."""
    from napari_stnreg.resampling.warp import warp

    yield TaskProgress(0.1, f"Reading {first.name} and {second.name}")
    still, other = first.image(full=True, masked=False), second.image(full=True, masked=False)
    if still.ndim != other.ndim:
        raise InputError(f"'{first.name}' is {still.ndim}D and '{second.name}' {other.ndim}D. They cannot be compared.")
    other = other.with_unit(still.grid.unit)
    plain = other.replace(data=other.intensity(), rgb=False)
    mask = None
    if not other.grid.same_lattice(still.grid):
        yield TaskProgress(0.4, f"Sampling {second.name}")
        plain = warp(plain, None, still.grid, "linear")
        mask = plain.mask
        if mask is not None and not mask.any():
            raise InputError(f"'{first.name}' and '{second.name}' do not overlap. Choose two images that do.")
    if control.cancel.is_set() or control.stop.is_set():
        return None
    return Pair(rescaled(still.intensity()), rescaled(plain.data, mask), still.grid)


class CompareViews(QObject):
    """Shows two layers of a viewer in one of the views, and takes everything back when it is left.

    Signals
    -------
    changed()
        Another view is shown, or none, or flicker has turned to the other image.
    """

    changed = Signal()

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.view: str | None = None
        self.layers: tuple[Layer, Layer] | None = None
        self.shown = 0
        """Which of the two flicker shows now."""
        self._before: dict[str, Any] | None = None
        self._made: list[ImageLayer] = []
        self._pair: Pair | None = None
        self._busy = False
        self._timer = QTimer(self)
        self._timer.timeout.connect(self.swap)
        viewer.layers.events.removed.connect(self._on_removed)

    def release(self) -> None:
        """Leave the view and hear no more of the viewer."""
        self.leave()
        self._viewer.layers.events.removed.disconnect(self._on_removed)

    # -- entering and leaving

    def flicker(self, first: Layer, second: Layer, rate: float = 0.0) -> None:
        """Show the one and the other in turn, ``rate`` times a second; with 0 only when :meth:`swap` is called."""
        self._enter("flicker", first, second)
        self.shown = 0
        self._show_only([first])
        self.set_rate(rate)
        self.changed.emit()

    def set_rate(self, rate: float) -> None:
        """Another pace of the flicker; 0 stops it."""
        if self.view == "flicker" and rate > 0:
            self._timer.start(round(1000 / rate))
        else:
            self._timer.stop()

    @property
    def flickering(self) -> bool:
        """Whether the images turn by themselves."""
        return self._timer.isActive()

    def swap(self) -> None:
        """Show the other of the two images of a flicker."""
        if self.view != "flicker" or self.layers is None:
            return
        self.shown = 1 - self.shown
        # Show the second before hiding the first, so that the canvas is never empty.
        self.layers[self.shown].visible = True
        self.layers[1 - self.shown].visible = False
        self.changed.emit()

    def side_by_side(self, first: Layer, second: Layer) -> None:
        """Show the two next to each other, in napari's grid, whose cameras are one."""
        self._enter("side", first, second)
        self._show_only([first, second])
        grid, layers = self._viewer.canvas.grid, self._viewer.layers
        # The lowest layer comes first, unless the stride is negative.
        grid.stride = 1 if layers.index(first) < layers.index(second) else -1
        grid.shape = (1, 2)
        grid.enabled = True
        self._viewer.reset_view()
        self.changed.emit()

    def checkerboard(self, first: Layer, second: Layer, pair: Pair, squares: int = 8) -> None:
        """Show alternating squares of the two images; their number counts along the longest side."""
        self._enter("checkerboard", first, second)
        self._pair = pair
        look = {"contrast_limits": (0, 1), "colormap": "gray"}
        self._add([(checkerboard(pair.first, pair.second, squares), "checkerboard", look)])

    def set_squares(self, squares: int) -> None:
        """Another size of the squares."""
        if self.view == "checkerboard" and self._made:
            self._made[0].data = checkerboard(self._pair.first, self._pair.second, squares)

    def difference(self, first: Layer, second: Layer, pair: Pair) -> None:
        """Show second minus first."""
        self._enter("difference", first, second)
        self._pair = pair
        look = {"contrast_limits": (-1, 1), "colormap": DIVERGING_COLORMAP}
        self._add([(pair.second - pair.first, "difference", look)])

    def blend(self, first: Layer, second: Layer, pair: Pair, colors: str = "green and magenta") -> None:
        """Show each in a color of its own, added up."""
        self._enter("blend", first, second)
        self._pair = pair
        self._add(
            [
                (data, f"{layer.name} in {color}", {"contrast_limits": (0, 1), "colormap": color,
                                                     "blending": blending})
                for data, layer, color, blending in zip(
                    (pair.first, pair.second), (first, second), COLORS[colors], ("translucent", "additive"),
                    strict=True,
                )
            ]
        )  # fmt: skip

    def set_colors(self, colors: str) -> None:
        """Other colors of the blend."""
        if self.view == "blend":
            for layer, color in zip(self._made, COLORS[colors], strict=True):
                layer.colormap = color

    def leave(self) -> None:
        """Take the temporary layers away and give every layer its visibility back."""
        if self._before is None:
            return
        self._timer.stop()
        before, self._before = self._before, None
        self._take_away()
        self.view, self.layers, self._pair = None, None, None
        grid = self._viewer.canvas.grid
        for name in ("enabled", "shape", "stride"):
            setattr(grid, name, before[name])
        for layer, visible in before["visible"]:
            if layer in self._viewer.layers:
                layer.visible = visible
        self._viewer.layers.selection = {layer for layer in before["selection"] if layer in self._viewer.layers}
        if before["side"]:
            self._viewer.scene.camera.center, self._viewer.scene.camera.zoom = before["camera"]
        self.changed.emit()

    def _enter(self, view: str, first: Layer, second: Layer) -> None:
        """Remember how everything was, or clear away the view that was shown until now."""
        for layer in (first, second):
            if layer not in self._viewer.layers:
                raise InputError(f"'{layer.name}' is no longer in the viewer. Choose another layer.")
        if first is second:
            raise InputError("The two images are the same layer. Choose two different layers.")
        self._timer.stop()
        grid, camera = self._viewer.canvas.grid, self._viewer.scene.camera
        if self._before is None:
            self._before = {
                "visible": [(layer, layer.visible) for layer in self._viewer.layers],
                "selection": list(self._viewer.layers.selection),
                "camera": (camera.center, camera.zoom),
                "side": False,
                **{name: getattr(grid, name) for name in ("enabled", "shape", "stride")},
            }
        else:
            self._take_away()
            for name in ("enabled", "shape", "stride"):
                setattr(grid, name, self._before[name])
            if self.view == "side":
                camera.center, camera.zoom = self._before["camera"]
        self._before["side"] = self._before["side"] or view == "side"
        self.view, self.layers = view, (first, second)

    def _show_only(self, layers: list[Layer]) -> None:
        for layer in self._viewer.layers:
            layer.visible = layer in layers

    def _add(self, pictures: list[tuple[np.ndarray, str, dict[str, Any]]]) -> None:
        where = placement(self._pair.grid)
        self._show_only([])
        selected = list(self._viewer.layers.selection)
        for data, name, look in pictures:
            layer = ImageLayer(data, name=f"compare: {name}", metadata={OWN: True}, **where, **look)
            self._viewer.add_layer(layer)
            self._made.append(layer)
        self._viewer.layers.selection = set(selected)
        self.changed.emit()

    def _take_away(self) -> None:
        self._busy = True
        try:
            for layer in self._made:
                if layer in self._viewer.layers:
                    self._viewer.layers.remove(layer)
        finally:
            self._busy = False
            self._made = []

    def _on_removed(self, event: Any) -> None:
        """Leave when one of the two images, or what is shown of them, was deleted."""
        gone = event.value
        if not self._busy and self._before is not None and (gone in self._made or gone in (self.layers or ())):
            self.leave()
