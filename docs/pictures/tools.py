"""Drive workbench, scorecard and views as a person would and take pictures: ``python docs/pictures/tools.py``.

Needs a display with OpenGL. Each scene registers the sample pair quickly, then works with the result, in a process of
its own, so that theme and scaling are set before Qt starts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from register_panel import HERE, pump

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
}


def registered(viewer: Any, sample: str) -> None:
    """Put the sample pair and a quick registration of it into the viewer."""
    from napari.layers import Image, Layer

    from napari_stnreg.samples import layers, shapes
    from napari_stnreg.widgets.register import RegisterWidget

    for data in layers.landmark_layers(shapes.shapes_pair()) if sample == "shapes" else ():
        viewer.add_layer(Layer.create(*data))
    for data in getattr(layers, f"napari_sample_{sample}")():
        viewer.add_layer(Layer.create(*data))
    viewer.layers.selection = {layer for layer in viewer.layers if isinstance(layer, Image)}
    panel = RegisterWidget(viewer)
    viewer.window.add_dock_widget(panel, name="register")
    panel.options.preset_box.choose("fast")
    panel.options.rate_box.setValue(0)
    panel.start()
    pump(300, lambda: not panel.running)
    viewer.window.remove_dock_widget(panel)


def workbench(viewer: Any, dock: Callable[[Any, str], Any], picture: Callable[[str], None]) -> None:
    """Apply to labels and points, show the Jacobian, invert, chain."""
    from napari.layers import Labels

    from napari_stnreg.widgets.workbench import WorkbenchWidget

    bench = dock(WorkbenchWidget(viewer), "Transform workbench")
    picture("first")
    moving = bench.chosen.moving
    points = viewer.add_points(
        [[60, 60], [90, 120], [150, 100]], name="marks on moving", size=6, face_color="yellow", units=("um", "um")
    )
    labels = [layer for layer in viewer.layers if isinstance(layer, Labels)]
    for layer in (*labels[-1:], points):
        bench.refresh()
        bench.applying.layer_box.choose(layer)
        bench.apply()
        pump(60, lambda: not bench.running)
    viewer.layers[moving].visible = False
    picture("applied")
    bench.show_picture("log_jacobian")
    pump(60, lambda: not bench.running)
    bench.show_picture("grid")
    pump(60, lambda: not bench.running)
    bench.combining.section.expand(animate=False)
    bench.invert()
    pump(60, lambda: not bench.running)
    pump(0.5)
    bar = bench.scroll.verticalScrollBar()
    bar.setValue(bar.maximum())
    picture("inverted")


def scorecard(viewer: Any, dock: Callable[[Any, str], Any], picture: Callable[[str], None]) -> None:
    """Score with labels and landmarks where the sample has them, and go to a pair."""
    from napari.layers import Labels, Points

    from napari_stnreg.widgets.scorecard import ScorecardWidget

    card = dock(ScorecardWidget(viewer), "Registration scorecard")
    for kind, boxes in ((Labels, card.labels_boxes), (Points, card.points_boxes)):
        layers = [layer for layer in viewer.layers if isinstance(layer, kind)][:2]
        if len(layers) == 2:
            for box, layer in zip(boxes, layers, strict=False):
                box.choose(layer)
    picture("first")
    card.score()
    pump(120, lambda: not card.running)
    pump(0.3)
    picture("scored")
    row = card.table.row_of_pair(3)
    if row >= 0:
        card.table.selectRow(row)
        card.table.scrollToItem(card.table.item(row, 0))
        viewer.scene.camera.zoom *= 3
        picture("pair")


def compare(viewer: Any, dock: Callable[[Any, str], Any], picture: Callable[[str], None]) -> None:
    """Every view once."""
    from napari_stnreg.widgets.compare import CompareWidget
    from napari_stnreg.widgets.views import VIEWS

    panel = dock(CompareWidget(viewer), "Compare views")
    panel.rate_box.setValue(0)
    for view in VIEWS:
        panel.show_view(view)
        pump(60, lambda: not panel.running)
        pump(0.4)
        picture(view)
    panel.leave()
    picture("left")


def batch(viewer: Any, dock: Callable[[Any, str], Any], picture: Callable[[str], None]) -> None:
    """Three pairs, one of which fails."""
    import imageio.v3 as iio

    from napari_stnreg.samples.shapes import shapes_pair
    from napari_stnreg.widgets.batch import BatchWidget

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, side in enumerate(("fixed", "moving")):
            (folder / side).mkdir()
            for seed in range(3):
                pair = shapes_pair(seed=seed)
                iio.imwrite(folder / side / f"cells{seed}.tif", (pair.fixed, pair.moving)[number].data)
        (folder / "moving" / "cells1.tif").write_bytes(b"no picture")
        panel = dock(BatchWidget(viewer), "Batch registration")
        panel.folders.expand(animate=False)
        panel.options.preset_box.choose("fast")
        panel.output_edit.setText(str(folder / "results"))
        panel.list_pairs(folder / "fixed", folder / "moving")
        pump(0.5)
        picture("listed")
        panel.run()
        pump(120, lambda: panel.table.state(2) == "fitting")
        pump(0.5)
        picture("running")
        pump(300, lambda: not panel.running)
        pump(0.5)
        picture("done")


TOOLS = {"workbench": workbench, "scorecard": scorecard, "compare": compare, "batch": batch}


def scene(name: str, folder: Path) -> None:
    """One scene."""
    import napari
    from qtpy.QtCore import Qt

    tool, sample, theme, width, scale = SCENES[name]
    viewer = napari.Viewer(show=True)
    viewer.theme = theme
    main_window = viewer.window._qt_window
    main_window.resize(round(1400 / scale), round(900 / scale))
    if tool != "batch":
        registered(viewer, sample)

    def dock(panel: Any, title: str) -> Any:
        docked = viewer.window.add_dock_widget(panel, name=title)
        main_window.resizeDocks([docked], [width], Qt.Orientation.Horizontal)
        pump(1.0)
        viewer.reset_view()
        return panel

    def picture(moment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        pump(0.3)
        viewer.screenshot(str(folder / f"{name}_{moment}.png"), canvas_only=False, flash=False)

    TOOLS[tool](viewer, dock, picture)
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
        environment = {**os.environ, "QT_SCALE_FACTOR": str(SCENES[name][4])}
        command = [sys.executable, __file__, name, "--here", "--out", str(options.out)]
        subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
    main()
