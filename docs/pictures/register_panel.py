"""Drive the panel as a person would and take pictures: ``python docs/pictures/register_panel.py [SCENE ...]``.

Needs a display with OpenGL (``make pictures`` brings one). Each scene runs in a process of its own, so that theme and
scaling are set before Qt starts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

# name: sample, theme, width of the dock, Qt scale, three dimensions on screen, what is unfolded
SCENES: dict[str, tuple[str, str, int, float, int, bool]] = {
    "cells": ("shapes", "dark", 340, 1.0, 2, False),
    "cells_light": ("shapes", "light", 340, 1.0, 2, False),
    "cells_narrow": ("shapes", "dark", 300, 1.0, 2, True),
    "cells_scaled": ("shapes", "light", 320, 1.5, 2, False),
    "head": ("head", "dark", 340, 1.0, 2, False),
    "head_volume": ("head", "dark", 340, 1.0, 3, False),
}


def pump(seconds: float, until: Any = None) -> None:
    """Let the window work for some time, or until something is true."""
    from qtpy.QtWidgets import QApplication

    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline and not (until is not None and until()):
        QApplication.processEvents()
        time.sleep(0.002)


def scene(name: str, folder: Path) -> None:
    """One scene: before, during and after a run."""
    import napari
    from qtpy.QtCore import Qt

    from napari_stnreg.samples import layers
    from napari_stnreg.widgets.register import RegisterWidget

    sample, theme, width, scale, ndisplay, unfolded = SCENES[name]
    viewer = napari.Viewer(show=True)
    viewer.theme = theme
    for data in getattr(layers, f"napari_sample_{sample}")():
        viewer.add_layer(napari.layers.Layer.create(*data))
    images = [layer for layer in viewer.layers if isinstance(layer, napari.layers.Image)]
    viewer.layers.selection = set(images)
    panel = RegisterWidget(viewer)
    dock = viewer.window.add_dock_widget(panel, name="STN registration")
    main = viewer.window._qt_window
    main.resize(round(1400 / scale), round(900 / scale))
    main.resizeDocks([dock], [width], Qt.Orientation.Horizontal)
    if sample == "head":  # many pictures of a volume take long without a graphics card
        panel.options.preset_box.choose("fast")
        panel.options.rate_box.setValue(2)
    viewer.dims.ndisplay = ndisplay
    if ndisplay == 3:
        viewer.scene.camera.angles = (0, 25, 60)
    pump(1.0)
    viewer.reset_view()
    if unfolded:
        for section in (panel.inputs.more, panel.options.advanced, panel.options.results):
            section.expand(animate=False)
    pump(3.0)

    def picture(moment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        viewer.screenshot(str(folder / f"{name}_{moment}.png"), canvas_only=False, flash=False)

    picture("before")
    panel.start()
    pump(300, lambda: panel.bar.value() > 250 or not panel.running)
    pump(0.3)
    picture("during")
    pump(600, lambda: not panel.running)
    pump(1.0)
    picture("after")
    viewer.close()


def main() -> None:
    """Run the scenes that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenes", nargs="*", default=list(SCENES))
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "pictures-output")
    parser.add_argument("--here", action="store_true", help="run one scene in this process")
    options = parser.parse_args()
    if options.here:
        scene(options.scenes[0], options.out)
        return
    for name in options.scenes:
        environment = {**os.environ, "QT_SCALE_FACTOR": str(SCENES[name][3])}
        command = [sys.executable, __file__, name, "--here", "--out", str(options.out)]
        subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
    main()
