"""Drive the smaller panels as a person would and take pictures: ``python docs/pictures/tools.py [SCENE ...]``.

Needs a display with OpenGL. Workbench, scorecard, and views work with a quick registration of the sample pair.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from driving import Stage, pump, run_scenes

# name: which tool, sample, theme, width of the dock, Qt scale
SCENES: dict[str, tuple[str, str, str, int, float]] = {
    "workbench": ("workbench", "shapes", "dark", 340, 1.0),
    "workbench_light": ("workbench", "shapes", "light", 300, 1.0),
    "workbench_scaled": ("workbench", "shapes", "dark", 320, 1.5),
    "scorecard": ("scorecard", "shapes", "dark", 340, 1.0),
    "scorecard_light": ("scorecard", "shapes", "light", 300, 1.0),
    "scorecard_scaled": ("scorecard", "shapes", "light", 320, 1.5),
    "batch": ("batch", "shapes", "dark", 340, 1.0),
    "batch_light": ("batch", "shapes", "light", 300, 1.0),
    "compare": ("compare", "shapes", "dark", 300, 1.0),
    "compare_light": ("compare", "shapes", "light", 340, 1.5),
    "landmarks": ("landmarks", "shapes", "dark", 340, 1.0),
    "landmarks_light": ("landmarks", "shapes", "light", 340, 1.0),
    "place": ("place", "shapes", "dark", 340, 1.0),
    "place_light": ("place", "shapes", "light", 340, 1.0),
    "movie": ("movie", "shapes", "dark", 340, 1.0),
    "movie_light": ("movie", "shapes", "light", 340, 1.0),
}


def registered(viewer: Any, sample: str) -> None:
    """Put the sample pair and a quick registration of it into the viewer."""
    from napari.layers import Image, Layer

    from napari_stnreg.datasets import shapes
    from napari_stnreg.napari_plugin import sample_data

    for data in sample_data.landmark_layers(shapes.shapes_pair()) if sample == "shapes" else ():
        viewer.add_layer(Layer.create(*data))
    for data in getattr(sample_data, f"napari_sample_{sample}")():
        viewer.add_layer(Layer.create(*data))
    viewer.layers.selection = {layer for layer in viewer.layers if isinstance(layer, Image)}
    _, panel = viewer.window.add_plugin_dock_widget("napari-stnreg", "STN registration")
    panel.options.field("preset").set_current("fast")
    panel.options.rate_box.setValue(0)
    panel.start()
    pump(300, lambda: not panel.running)
    viewer.window.remove_dock_widget(panel)


def docked(stage: Stage, title: str) -> Any:
    """Open the tool's panel beside the canvas."""
    panel = stage.dock(title)
    stage.viewer.reset_view()
    return panel


def workbench(stage: Stage) -> None:
    """Apply to labels and points, show the Jacobian, invert, chain."""
    from napari.layers import Labels

    viewer = stage.viewer
    bench = docked(stage, "Transform workbench")
    stage.picture("first")
    moving = bench.chosen.moving
    points = viewer.add_points(
        [[40, 50], [52, 81], [64, 50], [88, 62], [95, 79]], name="marks on moving", size=4, face_color="yellow",
        units=("um", "um"),
    )  # fmt: skip
    labels = [layer for layer in viewer.layers if isinstance(layer, Labels)]
    for layer in (*labels[-1:], points):
        bench.refresh()
        bench.applying.layer_box.set_current(layer)
        bench.apply()
        pump(60, lambda: not bench.running)
    points.visible = viewer.layers[moving].visible = False
    stage.picture("applied")
    bench.show_picture("log_jacobian")
    pump(60, lambda: not bench.running)
    bench.show_picture("grid")
    pump(60, lambda: not bench.running)
    bench.combining.section.expand(animate=False)
    bench.invert()
    pump(60, lambda: not bench.running)
    pump(0.5)
    bar = bench.scroll_area.verticalScrollBar()
    bar.setValue(bar.maximum())
    stage.picture("inverted")


def scorecard(stage: Stage) -> None:
    """Score with labels and landmarks where the sample has them, and go to a pair."""
    from napari.layers import Labels, Points

    viewer = stage.viewer
    card = docked(stage, "Registration scorecard")
    for kind, boxes in ((Labels, card.labels_boxes), (Points, card.points_boxes)):
        layers = [layer for layer in viewer.layers if isinstance(layer, kind)][:2]
        if len(layers) == 2:
            for box, layer in zip(boxes, layers, strict=False):
                box.set_current(layer)
    stage.picture("first")
    card.score()
    pump(120, lambda: not card.running)
    stage.picture("scored")
    row = card.table.row_of_pair(3)
    if row >= 0:
        card.table.selectRow(row)
        card.table.scrollToItem(card.table.item(row, 0))
        viewer.scene.camera.zoom *= 3
        stage.picture("pair")


def compare(stage: Stage) -> None:
    """Every view once."""
    from napari_stnreg.widgets.compare.views import VIEWS

    panel = docked(stage, "Compare views")
    panel.rate_box.setValue(0)
    for view in VIEWS:
        panel.show_view(view)
        pump(60, lambda: not panel.running)
        stage.picture(view)
    panel.leave()
    stage.picture("left")


def batch(stage: Stage) -> None:
    """Three pairs, one of which fails."""
    import imageio.v3 as iio

    from napari_stnreg.datasets.shapes import shapes_pair

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, side in enumerate(("fixed", "moving")):
            (folder / side).mkdir()
            for seed in range(3):
                pair = shapes_pair(seed=seed)
                iio.imwrite(folder / side / f"cells{seed}.tif", (pair.fixed, pair.moving)[number].data)
        (folder / "moving" / "cells1.tif").write_bytes(b"no picture")
        panel = docked(stage, "Batch registration")
        panel.folders.expand(animate=False)
        panel.options.field("preset").set_current("fast")
        panel.output_edit.setText(str(folder / "results"))
        panel.list_pairs(folder / "fixed", folder / "moving")
        stage.picture("listed")
        panel.run()
        pump(120, lambda: panel.table.row_state(2) == "fitting")
        stage.picture("running")
        pump(300, lambda: not panel.running)
        stage.picture("done")


def stains(stage: Stage, turn: float = 0.0) -> Any:
    """Add the cells and, as if in another stain, their moving image, turned by some degrees; return the pair."""
    from scipy import ndimage

    from napari_stnreg.datasets.shapes import shapes_pair

    pair = shapes_pair()
    inverted = pair.moving.data.max() - pair.moving.data
    turned = ndimage.rotate(inverted, turn, reshape=False, order=1, mode="nearest")
    for name, data in (("stain 1", pair.fixed.data), ("stain 2", turned)):
        stage.viewer.add_image(data, name=name, scale=pair.fixed.grid.spacing, units=("um", "um"))
    return pair


def landmarks(stage: Stage) -> None:
    """Eight pairs on two stains, one of them wrong: placed, warped live, and an overlay."""
    pair = stains(stage)
    panel = stage.dock("Landmark registration")
    panel.set_layers(*stage.viewer.layers[:2])
    panel.place()
    pump(60, lambda: panel._ready)
    moved = np.array(pair.moving_points[:8])
    moved[3] += 9
    layers = [stage.viewer.add_points(points, units=("um", "um")) for points in (pair.fixed_points[:8], moved)]
    panel.import_layers(*layers)
    stage.viewer.layers.remove(layers[0])
    stage.viewer.layers.remove(layers[1])
    pump(60, lambda: panel.updates > 0)
    stage.picture("pairs", wait=2.0)
    panel.landmarks.view_box.set_current("overlay")
    stage.picture("overlay", wait=1.0)


def place(stage: Stage) -> None:
    """Turn a stain by its handle."""
    stains(stage, turn=35)
    panel = stage.dock("Place by hand")
    panel.set_layers(*stage.viewer.layers[:2])
    stage.viewer.reset_view()
    panel.place()
    panel.rotate(20)
    stage.picture(wait=1.0)


def movie(stage: Stage) -> None:
    """Cells that drift and turn, registered to their mean."""
    from scipy import ndimage

    from napari_stnreg.datasets.shapes import shapes_pair

    image = shapes_pair().fixed
    random = np.random.default_rng(0)
    frames, shift, turn = [], np.zeros(2), 0.0
    for _ in range(24):
        turned = ndimage.rotate(image.data.astype(float), turn, reshape=False, order=1)
        frames.append(ndimage.shift(turned, shift, order=1) + random.normal(0, 8, image.data.shape))
        shift += random.normal((0.6, -0.4), 1.5)
        turn += random.normal(0.1, 0.6)
    stack = np.stack(frames).astype(np.float32)
    stage.viewer.add_image(stack, name="movie", scale=(1, *image.grid.spacing), axis_labels=("t", "y", "x"))
    panel = stage.dock("STN registration")
    panel.set_fixed("movie")
    panel.set_moving("movie")
    panel.inputs.frames_box.setChecked(True)
    panel.inputs.reference_box.set_current("mean")
    panel.options.linear_box.set_current("rigid")
    panel.options.deformable_box.set_current("")
    stage.viewer.reset_view()
    stage.picture("before", wait=2.0)
    panel.start()
    pump(300, lambda: not panel.running)
    stage.viewer.dims.set_current_step(0, 15)
    panel.scroll_area.verticalScrollBar().setValue(panel.scroll_area.verticalScrollBar().maximum())
    stage.picture("after", wait=1.5)


TOOLS = {
    "landmarks": landmarks,
    "place": place,
    "movie": movie,
    "workbench": workbench,
    "scorecard": scorecard,
    "compare": compare,
    "batch": batch,
}


def scene(name: str, folder: Path, _: argparse.Namespace) -> None:
    """One scene."""
    tool, sample, theme, width, scale = SCENES[name]
    stage = Stage(name, folder, theme, width, scale)
    if tool in ("workbench", "scorecard", "compare"):
        registered(stage.viewer, sample)
    TOOLS[tool](stage)
    stage.viewer.close()


if __name__ == "__main__":
    run_scenes(__doc__, {name: how[4] for name, how in SCENES.items()}, scene)
