"""Two classifiers trained side by side, with and without a spatial transformer."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from qtpy.QtWidgets import QFileDialog, QLabel

from napari_stnreg.widgets.common.forms import FormLayout, button, help_label
from napari_stnreg.widgets.common.plot import CurvesPlot
from napari_stnreg.widgets.common.replay_bar import ReplayBar
from napari_stnreg.widgets.common.task_panel import TaskPanel
from napari_stnreg.widgets.common.task_runner import TaskControl, TaskProgress, relay_progress
from napari_stnreg.widgets.explorer.tabs import Count
from napari_stnreg.widgets.explorer.theta_form import Number

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_stnreg.teaching.classifier import ClassifierProgress, ClassifierResult


def training(
    folder: str | None, distortion: dict[str, Any], steps: int, control: TaskControl
) -> Generator[TaskProgress, None, Any]:
    """Run the task: make the digits, then train both classifiers."""
    from napari_stnreg.teaching.classifier import train_classifiers
    from napari_stnreg.teaching.digits import DigitData, Distortion, load_digits
    from napari_stnreg.teaching.replay import CURVE_LABELS

    data = DigitData(*load_digits(folder), distortion=Distortion(**distortion))
    every = min(max(steps // 30, 5), 50)

    def show(item: ClassifierProgress) -> TaskProgress:
        rates = ", ".join(f"{100 * item.accuracy[name]:.0f} % {label}" for name, label in CURVE_LABELS.items())
        words = f"Step {item.step} of {item.total}: {rates}"
        return TaskProgress(item.step / item.total, words, item)

    return (yield from relay_progress(train_classifiers(data, steps=steps, every=every), control, show))


class ClassifierPanel(TaskPanel):
    """Trains the two classifiers and shows what the transformer shows.

    Parameters
    ----------
    napari_viewer
        The napari viewer.
    """

    title = "Spatial transformer in a classifier"
    help_page = "tutorials/explorer.html"
    introduction = (
        "Choose how the digits are distorted.",
        "Press Train and watch both curves.",
        "Replay the training with the slider.",
    )

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer, "Press Train. 2,500 steps take about one minute on two cores.")
        self._folder: str | None = None
        self._rows: dict[str, ImageLayer] = {}
        self._hidden: list[Any] = []
        self.accuracies: dict[str, list[tuple[float, float]]] = {}
        self.rotation = Number("Largest rotation of a digit in degrees.", "rotation", 0, 180, 10, 0)
        self.scale = Number("Digits are enlarged or shrunk by up to 2 to this power.", "scale", 0, 1, 0.1, 1)
        self.clutter = Count("Number of pieces of other digits placed in each image.", "clutter", 0, 12, 1)
        self.steps = Count("Batches of 64 digits.", "steps", 20, 20_000, 2500)
        self.rotation.put(60)
        self.scale.put(0.3)
        rows = FormLayout()
        rows.add("Rotation", self.rotation)
        rows.add("Scale", self.scale)
        rows.add("Clutter", self.clutter)
        rows.add("Steps", self.steps)
        self.source = QLabel("Digits: those of scikit-learn")
        self.source.setWordWrap(True)
        self.folder_button = button("MNIST folder …", "Take the digits from a folder with the files of MNIST.")
        self.train_button = button("Train", "Train both classifiers on the same digits.")
        self.curves = CurvesPlot(self._viewer, "step", "accuracy")
        self.replay_bar = ReplayBar(self._viewer, self.curves)
        self.form.addWidget(
            help_label(
                "Two classifiers learn the same distorted digits. The first layer of one of them is a spatial "
                "transformer, which is trained by the classification loss alone. The layers show the digits before and "
                "after it.",
                small=False,
            )
        )
        self.form.addLayout(rows)
        for part in (self.source, self.folder_button, self.train_button, self.curves, self.replay_bar):
            self.form.addWidget(part)
        self.replay_bar.hide()
        self.form.addStretch(1)
        self.train_button.clicked.connect(self.train)
        self.folder_button.clicked.connect(self._on_folder)
        self.show_state()

    def train(self) -> bool:
        """Start training; return false if a training is running."""
        if self.running:
            return False
        self.accuracies = {}
        self._rows = {}
        self.replay_bar.hide()
        self.curves.unmark()
        distortion = {
            "rotation": self.rotation.value(), "scale": self.scale.value(), "clutter": self.clutter.value()
        }  # fmt: skip
        return self.begin(training, self._folder, distortion, self.steps.value(), done=self._on_trained)

    def set_folder(self, folder: str | Path | None) -> None:
        """Set the folder of digits; ``None`` for those of scikit-learn."""
        self._folder = None if folder is None else str(folder)
        name = "those of scikit-learn" if folder is None else Path(folder).name
        self.source.setText(f"Digits: {name}")

    def on_progress(self, what: ClassifierProgress) -> None:
        """Show the accuracies and the digits of a step."""
        from napari_stnreg.teaching.replay import CURVE_LABELS  # imports torch, which opening the panel must not

        for name, accuracy in what.accuracy.items():
            self.accuracies.setdefault(CURVE_LABELS[name], []).append((what.step, accuracy))
        self.curves.show_curves({name: np.array(points) for name, points in self.accuracies.items()})
        self._show("digits", _row(what.pictures), 0)
        self._show("what the classifier sees", _row(what.transformed), 1)

    def _show(self, name: str, values: np.ndarray, line: int) -> None:
        """Show a row of digits; a layer that the user has deleted stays away until the next training."""
        layer = self._rows.get(name)
        if layer is None:
            scale = 40 * 8 / values.shape[1]
            layer = ImageLayer(
                values, name=name, contrast_limits=(0, 1), scale=(scale, scale), translate=(44 * line, 0)
            )
            self._add_alone([layer])
            self._rows[name] = layer
        elif layer in self._viewer.layers:
            layer.data = values

    def _add_alone(self, layers: list[Any]) -> None:
        """Add layers and hide the other layers, which they would cover."""
        own = [*self._rows.values(), *layers]
        others = [layer for layer in self._viewer.layers if layer.visible and layer not in own]
        for layer in others:
            layer.visible = False
        self._hidden += others
        self.add_layers(layers)
        self._viewer.reset_view()

    def _on_trained(self, result: ClassifierResult) -> None:
        from napari_stnreg.teaching.replay import CURVE_LABELS, Replay

        end = result.progress[-1]
        seconds = ", ".join(f"{end.seconds[name]:.0f} s {label}" for name, label in CURVE_LABELS.items())
        stopped = "Stopped after" if end.step < end.total else "After"
        self.show_status(
            f"{stopped} {end.step} steps, new digits are classified correctly: {100 * end.accuracy['plain']:.0f} % "
            f"without a transformer, {100 * end.accuracy['transformer']:.0f} % with a transformer. "
            f"Processor time: {seconds}."
        )
        self.replay_bar.show()
        layer = self._rows.pop("what the classifier sees", None)
        if layer is not None and layer in self._viewer.layers:
            self._viewer.layers.remove(layer)
        replay = Replay.from_classifiers(result)
        self.curves.show_curves(dict(replay.curves))
        self.replay_bar.show_replay(replay)
        scale = 40 * 8 / self.replay_bar.layer.data.shape[2]
        self.replay_bar.layer.scale = (1, scale, scale)
        self.replay_bar.layer.translate = (0, 44, 0)
        self._viewer.reset_view()

    def close_down(self) -> None:
        """End the training and show again what was hidden; the layers of the panel, which lie over it, are hidden."""
        super().close_down()
        hidden = [layer for layer in self._hidden if layer in self._viewer.layers]
        for layer in [*self._rows.values(), self.replay_bar.layer] if hidden else []:
            if layer is not None:
                layer.visible = False
        for layer in hidden:
            layer.visible = True
        self._hidden = []

    def show_state(self) -> None:
        """Enable Train unless a training is running."""
        super().show_state()
        if hasattr(self, "train_button"):
            self.train_button.setEnabled(not self.running)

    def _on_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "A folder with the files of MNIST")
        if folder:
            self.set_folder(folder)


def _row(pictures: np.ndarray) -> np.ndarray:
    """Pictures ``(N, y, x)`` side by side."""
    return np.concatenate(list(pictures), axis=1)
