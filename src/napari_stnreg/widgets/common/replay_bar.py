"""A slider through the epochs of a training, and the film for a slide; for any panel that trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from napari.layers import Layer
from napari.utils.notifications import show_error
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLabel, QSlider, QVBoxLayout, QWidget

from napari_stnreg.core.errors import RegistrationError
from napari_stnreg.widgets.common.forms import button

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_stnreg.io.napari_layers import LayerData
    from napari_stnreg.teaching.replay import Replay


class Marked(Protocol):
    """A plot over epochs with a line at the position of a slider."""

    def mark(self, time: float) -> None:
        """Put the line at a time."""


class ReplayBar(QWidget):
    """Shows a replay as a time layer and runs through it.

    Parameters
    ----------
    viewer
        Where to show the layer.
    plot
        The panel's plot of the curves, in which the bar marks the position of its slider.
    """

    def __init__(self, viewer: Viewer, plot: Marked) -> None:
        super().__init__()
        self._viewer = viewer
        self.replay: Replay | None = None
        self.layer: Layer | None = None
        self._layers: list[Layer] = []
        self.plot = plot
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setToolTip("Play the training.")
        self.slider.setAccessibleName("epoch")
        self.words = QLabel()
        self.words.setWordWrap(True)
        self.save_button = button("Save film …", "Save as an animated GIF or as MP4, for a slide.")
        row = QHBoxLayout()
        row.addWidget(self.slider, 1)
        row.addWidget(self.save_button)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(row)
        column.addWidget(self.words)
        self.slider.valueChanged.connect(self.go_to)
        self.save_button.clicked.connect(self._on_save)
        self.setEnabled(False)

    def show_replay(self, replay: Replay, layers: Sequence[LayerData] | None = None) -> None:
        """Show the layers of a replay instead of those of the previous one, with the slider at the kept image.

        Parameters
        ----------
        replay
            What to show.
        layers
            Its layers where they were made already, the time layer last; ``None`` for the time layer alone.
        """
        for layer in self._layers:
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        self._layers = [Layer.create(*data) for data in ([replay.layer()] if layers is None else layers)]
        self.replay, self.layer = replay, self._layers[-1]
        for layer in self._layers:
            self._viewer.add_layer(layer)
        self.setEnabled(True)
        self.slider.setRange(0, len(replay.frames) - 1)
        self.slider.setValue(replay.last)
        self.go_to(replay.last)

    def go_to(self, position: int) -> None:
        """Show one picture of the training."""
        if self.replay is None:
            return
        time = float(self.replay.times[position])
        figures = ", ".join(f"{name} {value:.3f}" for name, value in self.replay.at(position).items())
        kept = " (kept)" if time == self.replay.kept else ""
        self.words.setText(f"{self.replay.unit.capitalize()} {time:g}{kept}: {figures}")
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
