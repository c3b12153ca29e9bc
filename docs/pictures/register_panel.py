"""Drive the panel as a person would and take pictures: ``python docs/pictures/register_panel.py [SCENE ...]``.

Needs a display with OpenGL (``make pictures`` brings one).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from driving import Stage, pump, run_scenes

# name: sample, theme, width of the dock, Qt scale, three dimensions on screen, what is unfolded
SCENES: dict[str, tuple[str, str, int, float, int, bool]] = {
    "cells": ("shapes", "dark", 340, 1.0, 2, False),
    "cells_light": ("shapes", "light", 340, 1.0, 2, False),
    "cells_narrow": ("shapes", "dark", 300, 1.0, 2, True),
    "cells_scaled": ("shapes", "light", 320, 1.5, 2, False),
    "head": ("head", "dark", 340, 1.0, 2, False),
    "head_volume": ("head", "dark", 340, 1.0, 3, False),
}


def scene(name: str, folder: Path, _: argparse.Namespace) -> None:
    """One scene: before, during and after a run."""
    from napari.layers import Image, Layer

    from napari_stnreg.napari_plugin import sample_data

    sample, theme, width, scale, ndisplay, unfolded = SCENES[name]
    stage = Stage(name, folder, theme, width, scale)
    viewer = stage.viewer
    for data in getattr(sample_data, f"napari_sample_{sample}")():
        viewer.add_layer(Layer.create(*data))
    viewer.layers.selection = {layer for layer in viewer.layers if isinstance(layer, Image)}
    panel = stage.dock("STN registration")
    if sample == "head":  # many pictures of a volume take long without a graphics card
        panel.options.field("preset").set_current("fast")
        panel.options.rate_box.setValue(2)
    viewer.dims.ndisplay = ndisplay
    if ndisplay == 3:
        viewer.scene.camera.angles = (0, 25, 60)
    pump(1.0)
    viewer.reset_view()
    if unfolded:
        stage.expand((panel.inputs.more, panel.options.advanced, panel.options.results))
    stage.picture("before", wait=3.0)
    panel.start()
    pump(300, lambda: panel.bar.value() > 250 or not panel.running)
    stage.picture("during")
    pump(600, lambda: not panel.running)
    stage.picture("after", wait=1.0)
    viewer.close()


if __name__ == "__main__":
    run_scenes(__doc__, {name: how[3] for name, how in SCENES.items()}, scene)
