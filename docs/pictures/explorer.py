"""Drive the explorer as a lecturer would and take pictures: ``python docs/pictures/explorer.py [SCENE ...]``.

Needs a display with OpenGL (``make pictures`` brings one).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from driving import Stage, pump, run_scenes

# name: width of the dock, text size; each in the dark theme, and as NAME_light in the light one
PLAYS: dict[str, tuple[int, str]] = {
    "grid": (360, "Normal"),
    "direction": (340, "Normal"),
    "sampler": (300, "Normal"),
    "gradient": (360, "Normal"),
    "thin_plate": (360, "Large"),
    "bspline": (300, "Normal"),
    "projector": (520, "Projector"),
    "classifier": (360, "Normal"),
}
SCENES = [f"{name}{theme}" for name in PLAYS for theme in ("", "_light")]


class Hand:
    """The mouse over the canvas, with real Qt events."""

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer
        self.native = viewer.window._qt_viewer.canvas.native

    def at(self, world: Any) -> Any:
        """Window position of a place in the world."""
        from qtpy.QtCore import QPointF

        camera = self.viewer.scene.camera
        size = np.array([self.native.height(), self.native.width()]) / 2
        offset = (np.asarray(world) - np.asarray(camera.center)[-2:]) * camera.zoom
        y, x = size + offset
        return QPointF(float(x), float(y))

    def send(self, kind: str, world: Any, pressed: bool) -> None:
        """One mouse event."""
        from qtpy.QtCore import QEvent, Qt
        from qtpy.QtGui import QMouseEvent
        from qtpy.QtWidgets import QApplication

        kinds = {"move": QEvent.Type.MouseMove, "press": QEvent.Type.MouseButtonPress,
                 "release": QEvent.Type.MouseButtonRelease}  # fmt: skip
        left, none = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
        place = self.at(world)
        event = QMouseEvent(kinds[kind], place, self.native.mapToGlobal(place), none if kind == "move" else left,
                            left if pressed else none, Qt.KeyboardModifier.NoModifier)  # fmt: skip
        QApplication.sendEvent(self.native, event)
        pump(0.03)

    def move(self, world: Any) -> None:
        """Hover."""
        self.send("move", world, False)

    def drag(self, start: Any, end: Any, pieces: int = 12) -> None:
        """Press, move and let go."""
        start, end = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
        self.move(start)
        self.send("press", start, True)
        for share in np.linspace(0, 1, pieces + 1)[1:]:
            self.send("move", start + share * (end - start), True)
        self.send("release", end, False)


def stickman(size: int = 64) -> np.ndarray:
    """A stickman, white on black, as in every lecture on the subject."""
    y, x = np.mgrid[:size, :size] / (size - 1)

    def stroke(a: tuple[float, float], b: tuple[float, float], width: float = 0.028) -> np.ndarray:
        p, q = np.array(a), np.array(b)
        along = np.clip(((y - p[0]) * (q - p)[0] + (x - p[1]) * (q - p)[1]) / ((q - p) ** 2).sum(), 0, 1)
        away = np.hypot(y - p[0] - along * (q - p)[0], x - p[1] - along * (q - p)[1])
        return np.clip((width - away) * size + 0.5, 0, 1)

    parts = [stroke((0.34, 0.5), (0.64, 0.5)), stroke((0.42, 0.5), (0.56, 0.26)), stroke((0.42, 0.5), (0.26, 0.74)),
             stroke((0.64, 0.5), (0.9, 0.34)), stroke((0.64, 0.5), (0.9, 0.66)),
             np.clip((0.03 - np.abs(np.hypot(y - 0.23, x - 0.5) - 0.11)) * size + 0.5, 0, 1)]  # fmt: skip
    return (np.max(parts, axis=0) * 255).astype(np.uint8)


def begin(name: str, folder: Path, theme: str) -> tuple[Stage, Any, Hand]:
    """Window, panel and hand of a scene."""
    from skimage import data

    width, text = PLAYS[name]
    title = f"explorer_{name}{'_light' if theme == 'light' else ''}"
    stage = Stage(title, folder, theme, width, size=(1400, 950))
    pictures = {"sampler": data.camera(), "direction": data.camera()[::4, ::4], "gradient": data.camera()[::2, ::2]}
    layer = stage.viewer.add_image(pictures.get(name, stickman()), name="camera" if name in pictures else "stickman")
    panel = stage.dock("Spatial transformer explorer")
    panel.size_box.set_current(text)
    pump(3.0, lambda: panel.canvas is not None)
    assert panel.layer is layer
    pump(0.5)
    panel.canvas.fit(2)
    return stage, panel, Hand(stage.viewer)


def classifier(folder: Path, theme: str) -> None:
    """Train both classifiers and take a picture of the end."""
    title = "classifier_light" if theme == "light" else "classifier"
    stage = Stage(title, folder, theme, PLAYS["classifier"][0], size=(1400, 800))
    panel = stage.dock("Spatial transformer in a classifier")
    panel.steps.setValue(300)
    panel.train()
    pump(900, lambda: not panel.running)
    stage.picture(wait=1.5)
    stage.viewer.close()


def scene(name: str, folder: Path, _: argparse.Namespace) -> None:
    """Play one scene and take its picture."""
    name, theme = name.removesuffix("_light"), "light" if name.endswith("_light") else "dark"
    if name == "classifier":
        classifier(folder, theme)
        return
    stage, panel, hand = begin(name, folder, theme)
    canvas = panel.canvas

    def handle(which: Any) -> np.ndarray:
        return canvas.world(0, canvas.handle_positions[[n for _, n in canvas.handles].index(which)])

    def drag(which: Any, by: Any) -> None:
        hand.drag(handle(which), handle(which) + np.asarray(by))
        pump(0.3)

    if name in ("grid", "projector"):
        drag("turn", (14, 22))
        drag("corner 0", (9, 3))
        panel.grid_tab.links.setChecked(name == "grid")
        hand.move(canvas.world(1, (15.2, 5.6)))
    elif name == "direction":
        panel.choose_tab("Direction")
        pump(0.5)
        drag("turn", (0, 40))
        drag("corner 2", (-18, -18))
    elif name == "sampler":
        panel.choose_tab("Sampler")
        panel.sampler_tab.tenth.click()
    elif name == "gradient":
        panel.choose_tab("Gradient")
        pump(0.5)
        drag("turn", (4, 50))
        drag("center", (10, -14))
        for _ in range(6):
            panel.downhill.step()
            pump(0.1)
    elif name in ("thin_plate", "bspline"):
        panel.family_box.set_current("tps" if name == "thin_plate" else "bspline")
        pump(0.5)
        middle = int(np.linalg.norm(canvas.handle_positions - canvas.shape / 2, axis=1).argmin())
        drag(middle, (-12, 9))
        drag(middle + 2, (9, 6))
    pump(1.5)
    if panel._beside_title():
        canvas.fit(3)
    stage.picture(wait=0.5)
    stage.viewer.close()


if __name__ == "__main__":
    run_scenes(__doc__, dict.fromkeys(SCENES, 1.0), scene)
