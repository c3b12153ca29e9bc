"""A slider through the epochs of a training, with its curve, and the film for a slide; for any panel that trains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Layer
from napari.utils.notifications import show_error
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLabel, QSlider, QVBoxLayout, QWidget

from napari_stnreg.errors import RegistrationError
from napari_stnreg.widgets.explorer.curves import Curves
from napari_stnreg.widgets.forms import button

if TYPE_CHECKING:
    from napari_stnreg.teaching.replay import Replay


class ReplayBar(QWidget):
    """Shows a replay as a time layer and runs through it.

    Parameters
    ----------
    viewer
        Where to show the layer.
    """

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = viewer
        self.replay: Replay | None = None
        self.layer: Layer | None = None
        self.plot = Curves(viewer)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setToolTip("Run through the training.")
        self.slider.setAccessibleName("epoch")
        self.words = QLabel()
        self.words.setWordWrap(True)
        self.save_button = button("Save film …", "Save as an animated GIF or as MP4, for a slide.")
        row = QHBoxLayout()
        row.addWidget(self.slider, 1)
        row.addWidget(self.save_button)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.plot)
        column.addLayout(row)
        column.addWidget(self.words)
        self.slider.valueChanged.connect(self.go_to)
        self.save_button.clicked.connect(self._on_save)
        self.setEnabled(False)

    def show_replay(self, replay: Replay) -> None:
        """Take a replay up: its layer, its curves, and the slider at the end."""
        if self.layer is not None and self.layer in self._viewer.layers:
            self._viewer.layers.remove(self.layer)
        self.replay, self.layer = replay, Layer.create(*replay.layer())
        self._viewer.add_layer(self.layer)
        self.plot.show_curves(dict(replay.curves))
        self.setEnabled(True)
        self.slider.setRange(0, len(replay.frames) - 1)
        self.slider.setValue(len(replay.frames) - 1)
        self.go_to(len(replay.frames) - 1)

    def go_to(self, position: int) -> None:
        """Show one picture of the training."""
        if self.replay is None:
            return
        time = float(self.replay.times[position])
        figures = ", ".join(f"{name} {value:.3f}" for name, value in self.replay.at(position).items())
        self.words.setText(f"{self.replay.unit.capitalize()} {time:g}: {figures}")
        self.plot.mark(time)
        if self.layer is not None and self.layer in self._viewer.layers:
            axis = self._viewer.dims.ndim - self.layer.ndim
            self._viewer.dims.set_point(axis, position)

    def save_to(self, path: str | Path) -> None:
        """Write the film."""
        if self.replay is not None:
            self.replay.save(path)

    def _on_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save the film", "training.gif", "Film (*.gif *.mp4)")
        if not path:
            return
        try:
            self.save_to(path)
        except RegistrationError as error:
            show_error(str(error))
            self.words.setText(str(error))
        except OSError as error:
            self.words.setText(f"'{Path(path).name}' cannot be written: {error.strerror or error}.")
        else:
            self.words.setText(f"Saved {Path(path).name}, {np.size(self.replay.times)} pictures.")
