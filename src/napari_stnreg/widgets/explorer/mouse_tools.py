"""Mouse interaction on the canvas: inspect pixels, and drag the handles of the frame and the control points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_stnreg.widgets.explorer.panel import ExplorerPanel


class Pointer:
    """Hears of the mouse for the explorer.

    Parameters
    ----------
    panel
        Whose scene is changed.
    viewer
        Where the mouse moves.
    """

    def __init__(self, panel: ExplorerPanel, viewer: Viewer) -> None:
        self._panel, self._viewer = panel, viewer
        self.held: int | None = None
        """Index of the handle that is dragged."""

    def connect(self) -> None:
        """Connect to the events of the mouse."""
        if self.on_move not in self._viewer.mouse_move_callbacks:
            self._viewer.mouse_move_callbacks.append(self.on_move)
            self._viewer.mouse_drag_callbacks.append(self.on_drag)

    def disconnect(self) -> None:
        """Disconnect from the events of the mouse."""
        for callbacks, mine in (
            (self._viewer.mouse_move_callbacks, self.on_move),
            (self._viewer.mouse_drag_callbacks, self.on_drag),
        ):
            if mine in callbacks:
                callbacks.remove(mine)

    def on_move(self, _viewer: Viewer, event: Any) -> None:
        """Inspect the pixel under the pointer; over a handle, disable panning."""
        if self._panel.canvas is None or self._panel.scene is None or self.held is not None:
            return
        # Over a handle the hand drags, everywhere else it moves the camera.
        self._viewer.scene.camera.mouse_pan = self._panel.canvas.handle_at(event.position) is None
        slot, place = self._panel.canvas.place(event.position)
        if slot != 1 or self._panel.tab != "Grid":
            return
        ratio = self._panel.canvas.shape / np.asarray(self._panel.scene.output_grid.shape)
        pixel = np.rint((place + 0.5) / ratio - 0.5).astype(int)
        if (pixel >= 0).all() and (pixel < self._panel.scene.output_grid.shape).all():
            self._panel.hover((int(pixel[0]), int(pixel[1])))

    def on_drag(self, _viewer: Viewer, event: Any) -> Any:
        """Drag the pressed handle; a generator, as napari's drag callbacks are."""
        if self._panel.canvas is None or self._panel.scene is None or event.button != 1:
            return
        held = self._panel.canvas.handle_at(event.position)
        if held is None:
            return
        self.held, camera = held, self._viewer.scene.camera
        camera.mouse_pan = False
        event.handled = True
        yield
        try:
            while event.type == "mouse_move" and self._panel.canvas is not None:
                self._pull(held, event)
                event.handled = True
                yield
        finally:
            self.held = None
            camera.mouse_pan = True

    def _pull(self, held: int, event: Any) -> None:
        from napari_stnreg.teaching.frame_handles import drag

        assert self._panel.scene is not None
        assert self._panel.canvas is not None
        place = self._panel.canvas.place_over_input(event.position)
        kind, name = self._panel.canvas.handles[held]
        if kind == "frame":
            keep = "Shift" in {str(key) for key in event.modifiers}
            self._panel.scene.theta = drag(
                self._panel.scene.theta, self._panel.scene.grid.shape, name, place, keep_shape=keep
            )
        else:
            displacements = self._panel.scene.displacements.copy()
            displacements[name] = place - self._panel.scene.control_points[name]
            self._panel.scene.displacements = displacements
        self._panel.by_hand()
