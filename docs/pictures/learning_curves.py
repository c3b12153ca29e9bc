"""Draw the learning curves of trained models: ``python docs/pictures/learning_curves.py FOLDER OUT.png [NAME ...]``.

FOLDER holds ``.safetensors`` files as ``python -m benchmark.networks --out FOLDER`` leaves them; NAME picks some of
them. Above the losses of training and validation, below the validation's score; the dotted line is the epoch kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pyqtgraph
from pyqtgraph.exporters import ImageExporter
from qtpy.QtCore import Qt

from napari_stnreg.models.model_file import load_model

TRAINING, VALIDATION, TEXT = "#1f77b4", "#d62728", "#222222"
SCORES = (("dice", "Dice"), ("error", "corner error"), ("similarity", "similarity"))
PANEL = (300, 190)


def column(layout: Any, place: int, name: str, summary: dict[str, Any]) -> None:
    """Losses and score of one training, one above the other."""
    curve, best = summary["curve"], summary["best"]["epoch"]
    losses = layout.addPlot(row=0, col=place, title=name)
    key, title = next((k, t) for k, t in SCORES if k in curve[-1]["scores"])
    scores = layout.addPlot(row=1, col=place)
    for what, color in (("loss", TRAINING), ("validation_loss", VALIDATION)):
        points = [(one["epoch"], one[what]) for one in curve if one[what] is not None]
        losses.plot(*zip(*points, strict=True), pen=pyqtgraph.mkPen(color, width=2))
    points = [(one["epoch"], one["scores"][key]) for one in curve]
    scores.plot(*zip(*points, strict=True), pen=pyqtgraph.mkPen(VALIDATION, width=2))
    for plot, label in ((losses, "loss"), (scores, title)):
        plot.setLabel("left", label, color=TEXT)
        plot.getAxis("left").enableAutoSIPrefix(False)
        plot.showGrid(y=True, alpha=0.2)
        plot.addItem(pyqtgraph.InfiniteLine(best, angle=90, pen=pyqtgraph.mkPen(TEXT, style=Qt.PenStyle.DotLine)))
    scores.setLabel("bottom", "epoch", color=TEXT)


def main() -> None:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    found = {path.stem: path for path in sorted(options.folder.glob("*.safetensors")) if "checkpoint" not in path.stem}
    names = options.names or list(found)
    pyqtgraph.setConfigOptions(background="w", foreground=TEXT, antialias=True)
    pyqtgraph.mkQApp()
    layout = pyqtgraph.GraphicsLayoutWidget(size=(PANEL[0] * len(names), PANEL[1] * 2 + 40))
    for place, name in enumerate(names):
        column(layout, place, name, load_model(found[name]).summary)
    layout.show()
    pyqtgraph.QtWidgets.QApplication.processEvents()
    ImageExporter(layout.scene()).export(str(options.out))


if __name__ == "__main__":
    main()
