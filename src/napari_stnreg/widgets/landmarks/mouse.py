"""The mouse over the images: a click adds a point, a drag moves one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from napari_stnreg.landmarks.pairs import Side

if TYPE_CHECKING:
    import numpy as np
    from napari.viewer import Viewer

_CLICK_PIXELS = 4
"""A press that moves less than this is a click."""


class LandmarkEditor(Protocol):
    """What the mouse acts on: points by row and side, positions in the viewer's world."""

    def side_at(self, event: Any) -> Side | None:
        """Return the side under the pointer; ``None`` where points cannot be placed."""

    def point_at(self, event: Any) -> tuple[int, Side] | None:
        """Return the point under the pointer."""

    def press(self, row: int, side: Side) -> bool:
        """Select a point and return whether it can be dragged."""

    def drag(self, row: int, side: Side, position: np.ndarray) -> None:
        """Move a point."""

    def release(self, row: int, side: Side, *, moved: bool) -> None:
        """End a drag."""

    def click(self, side: Side, position: np.ndarray) -> None:
        """Add a point."""


class LandmarkMouse:
    """Connects an editor with the mouse events of a viewer.

    Parameters
    ----------
    viewer
        The viewer.
    editor
        What the mouse acts on.
    """

    def __init__(self, viewer: Viewer, editor: LandmarkEditor) -> None:
        self._viewer, self._editor = viewer, editor
        self._dragging = False

    def connect(self) -> None:
        """Begin to follow the mouse."""
        self._viewer.mouse_move_callbacks.append(self._on_move)
        self._viewer.mouse_drag_callbacks.append(self._on_drag)

    def disconnect(self) -> None:
        """Stop following the mouse."""
        for callbacks, mine in (
            (self._viewer.mouse_move_callbacks, self._on_move),
            (self._viewer.mouse_drag_callbacks, self._on_drag),
        ):
            if mine in callbacks:
                callbacks.remove(mine)
        self._viewer.scene.camera.mouse_pan = True

    def _is_mine(self) -> bool:
        """Whether no tool of the active layer wants the mouse."""
        active = self._viewer.layers.selection.active
        return active is None or str(getattr(active, "mode", "pan_zoom")) == "pan_zoom"

    def _on_move(self, _viewer: Viewer, event: Any) -> None:
        if not self._dragging and self._is_mine():
            # Over a point the mouse drags the point, everywhere else it moves the camera.
            self._viewer.scene.camera.mouse_pan = self._editor.point_at(event) is None

    def _on_drag(self, _viewer: Viewer, event: Any) -> Any:
        if event.button != 1 or not self._is_mine():
            return
        side, found = self._editor.side_at(event), self._editor.point_at(event)
        if side is None:
            return
        start = event.pos
        moved = False
        if found is None:
            yield
            while event.type == "mouse_move":
                moved = moved or _distance(event.pos, start) > _CLICK_PIXELS
                yield
            if not moved and _distance(event.pos, start) <= _CLICK_PIXELS:
                self._editor.click(side, event.position)
            return
        row, side = found
        movable = self._editor.press(row, side)
        self._viewer.scene.camera.mouse_pan = False
        self._dragging = True
        event.handled = True
        yield
        try:
            while event.type == "mouse_move":
                if movable and (moved or _distance(event.pos, start) > _CLICK_PIXELS):
                    moved = True
                    self._editor.drag(row, side, event.position)
                event.handled = True
                yield
        finally:
            self._dragging = False
            self._viewer.scene.camera.mouse_pan = True
            self._editor.release(row, side, moved=moved)


def _distance(a: Any, b: Any) -> float:
    return float(sum((p - q) ** 2 for p, q in zip(a[:2], b[:2], strict=True)) ** 0.5)
