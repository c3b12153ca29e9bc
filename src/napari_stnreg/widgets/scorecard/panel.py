"""The registration scorecard: images, labels and landmarks of both sides, scored before and after."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Points
from qtpy.QtWidgets import QApplication, QFileDialog, QHBoxLayout, QSizePolicy, QWidget

from napari_stnreg.core.errors import InputError, RegistrationError
from napari_stnreg.core.grid import Grid
from napari_stnreg.io.transform_entry import TransformEntry
from napari_stnreg.widgets.common.forms import Combo, FormLayout, button, collapsible, emphasize, help_label
from napari_stnreg.widgets.common.layer_io import LayerSource, landmark_points, layer_source
from napari_stnreg.widgets.common.navigation import center_on
from napari_stnreg.widgets.common.open_panel import open_panel
from napari_stnreg.widgets.common.result_layers import OWN
from napari_stnreg.widgets.common.task_panel import TaskPanel
from napari_stnreg.widgets.common.task_runner import TaskControl, TaskProgress
from napari_stnreg.widgets.common.transform_store import store_for
from napari_stnreg.widgets.compare.panel import ComparePanel
from napari_stnreg.widgets.scorecard.table import ScoreTable, theme_kind

if TYPE_CHECKING:
    from napari.viewer import Viewer


@dataclass(frozen=True)
class ScoreJob:
    """All that is scored, taken down when Score is pressed."""

    fixed: LayerSource
    moving: LayerSource
    entry: TransformEntry | None = None
    reverse: TransformEntry | None = None
    result: LayerSource | None = None
    labels: tuple[LayerSource | None, LayerSource | None, LayerSource | None] = (None, None, None)
    points: tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None] = (None, None, None)


def score(job: ScoreJob, control: TaskControl) -> Generator[TaskProgress, None, Any]:
    """Read the layers and score them; for use in the worker. Returns the scorecard."""
    import napari_stnreg as sr

    yield TaskProgress(0.05, "Reading the layers")
    fixed, moving = job.fixed.image(), job.moving.image()
    result, *labels = (None if s is None else s.image(full=True) for s in (job.result, *job.labels))
    if control.stop.is_set():
        return None
    yield TaskProgress(0.3, "Scoring")
    card = sr.evaluate(
        fixed,
        moving,
        None if job.entry is None else job.entry.transform,
        result=result,
        fixed_labels=labels[0],
        moving_labels=labels[1],
        result_labels=labels[2],
        fixed_landmarks=job.points[0],
        moving_landmarks=job.points[1],
        result_landmarks=job.points[2],
        reverse=None if job.reverse is None else job.reverse.transform,
    )
    return None if control.stop.is_set() or control.cancel.is_set() else card


class ScorecardPanel(TaskPanel):
    """Scores a registration: a table before and after, and the way to each pair of landmarks.

    Parameters
    ----------
    napari_viewer
        The napari viewer.

    Notes
    -----
    From code: the boxes' ``choose``, :meth:`score`, :attr:`card`, :meth:`go_to_pair`.
    """

    title = "Registration scorecard"
    help_page = "how-to/measure.html"
    introduction = (
        "Choose the fixed and the moving image.",
        "Choose the result or its transform, and labels or landmarks if there are any.",
        "Press Score.",
    )

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer, "Choose the two images and the result, and press Score.")
        self.card: Any = None
        self._pair_layers: tuple[Points | None, Points | None] = (None, None)
        self._make_boxes()
        self.table = ScoreTable()
        self.table.pair_chosen.connect(self.go_to_pair)
        self.score_button = button("Score", "Score the layers before and after (Ctrl+Enter).")
        emphasize(self.score_button)
        self.copy_button = button("Copy", "Copy the table for pasting into a spreadsheet.")
        self.csv_button = button("CSV …", "Save the table as CSV, in full precision.")
        self.compare_button = button("Compare", "Look at fixed and result together: flicker, checkerboard and more.")
        row = QHBoxLayout()
        row.setSpacing(4)
        for made in (self.copy_button, self.csv_button, self.compare_button):
            made.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            row.addWidget(made)
        self.form.addLayout(self._main_rows)
        self.form.addWidget(self._more)
        self.form.addWidget(self.note)
        self.form.addWidget(self.score_button)
        self.form.addWidget(self.table, 1)
        self.form.addLayout(row)
        self.score_button.clicked.connect(self.score)
        self.copy_button.clicked.connect(self.copy)
        self.csv_button.clicked.connect(self._ask_csv)
        self.compare_button.clicked.connect(self.compare)
        self.result_box.currentIndexChanged.connect(self._on_result)
        self.run_shortcut(self.score)
        self.refresh()
        self._prefill()

    def _make_boxes(self) -> None:
        self.fixed_box = Combo("The image that stayed where it is.", "fixed image")
        self.moving_box = Combo("The image that was registered, as it was before.", "moving image")
        self.result_box = Combo(
            "The warped image. It is scored as it is, or warped again by the transform without the area "
            "outside the moving image.",
            "result",
        )
        self.transform_box = Combo("The transform, for labels, landmarks and the deformation.", "transform")
        self._main_rows = FormLayout()
        for text, box in (("Fixed", self.fixed_box), ("Moving", self.moving_box), ("Result", self.result_box),
                          ("Transform", self.transform_box)):  # fmt: skip
            self._main_rows.add(text, box)
        self.labels_boxes = [
            Combo(f"Labels of the {side} side{', already warped' if side == 'result' else ''}.",
                  f"labels of the {side} side")
            for side in ("fixed", "moving", "result")
        ]  # fmt: skip
        self.points_boxes = [
            Combo(f"Landmarks of the {side} side, paired by order.", f"landmarks of the {side} side")
            for side in ("fixed", "moving", "result")
        ]
        self.reverse_box = Combo(
            "A transform fitted from moving to fixed, for the inverse consistency. Without one, the "
            "inverse of the transform is measured.",
            "reverse transform",
        )
        content = QWidget()
        rows = FormLayout()
        content.setLayout(rows)
        for side, box in zip(("Fixed", "Moving", "Result"), self.labels_boxes, strict=True):
            rows.add(f"{side} labels", box)
        for side, box in zip(("Fixed", "Moving", "Result"), self.points_boxes, strict=True):
            rows.add(f"{side} points", box)
        rows.add("Reverse", self.reverse_box)
        self._more = collapsible("Labels, landmarks, reverse", content, "Additional data for judging the registration.")
        self.note = help_label()

    # -- what is scored

    def viewer_events(self) -> list[tuple[Any, Any]]:
        """List the viewer events to follow: layers and theme."""
        return [*super().viewer_events(), (self._viewer.events.theme, self._on_theme)]

    def _on_theme(self, _event: Any = None) -> None:
        self.table.restyle(theme_kind(self._viewer))

    def refresh(self) -> None:
        """Take up the viewer's layers and transforms."""
        layers = [layer for layer in self._viewer.layers if not layer.metadata.get(OWN)]
        images = [(layer.name, layer) for layer in layers if isinstance(layer, ImageLayer)]
        labels = [("none", None), *((layer.name, layer) for layer in layers if isinstance(layer, Labels))]
        points = [("none", None), *((layer.name, layer) for layer in layers if isinstance(layer, Points))]
        transforms = [(one.name, one) for one in store_for(self._viewer).entries(self._viewer)]
        for box in (self.fixed_box, self.moving_box):
            box.set_items(images, box.currentData())
        self.result_box.set_items([("made by the transform", None), *images], self.result_box.currentData())
        for boxes, entries in ((self.labels_boxes, labels), (self.points_boxes, points)):
            for box in boxes:
                box.set_items(entries, box.currentData())
        for box in (self.transform_box, self.reverse_box):
            chosen = box.currentData()
            # The same transform may be another object after its layers were read again.
            kept = next((one for _, one in transforms if chosen is not None and one.key == chosen.key), None)
            box.set_items([("none", None), *transforms], kept)
        self.show_state()

    def _prefill(self) -> None:
        """Choose the images and the transform of the last registration, else the last two images."""
        entries = [self.transform_box.itemData(i) for i in range(1, self.transform_box.count())]
        images = [self.fixed_box.itemData(i) for i in range(self.fixed_box.count())]
        for one in reversed(entries):
            fixed = next((layer for layer in images if layer.name == one.fixed), None)
            moving = next((layer for layer in images if layer.name == one.moving), None)
            if fixed is not None and moving is not None:
                self.fixed_box.set_current(fixed)
                self.moving_box.set_current(moving)
                self.transform_box.set_current(one)
                return
        if len(images) > 1:
            self.fixed_box.set_current(images[-2])
            self.moving_box.set_current(images[-1])

    def _on_result(self, _index: int = 0) -> None:
        """Choose the transform of a result layer from its metadata."""
        layer = self.result_box.currentData()
        record = layer.metadata.get("stnreg") if layer is not None else None
        if record:
            for i in range(1, self.transform_box.count()):
                if self.transform_box.itemData(i).key.split(".")[0] == record.get("run"):
                    self.transform_box.setCurrentIndex(i)

    def show_state(self) -> None:
        """Enable what can be done."""
        super().show_state()
        idle = not self.running
        self.score_button.setEnabled(idle and self.fixed_box.count() > 1)
        for made in (self.copy_button, self.csv_button):
            made.setEnabled(self.card is not None)
        self.compare_button.setEnabled(self.fixed_box.count() > 1)

    def _job(self) -> ScoreJob:
        fixed, moving, result = (box.currentData() for box in (self.fixed_box, self.moving_box, self.result_box))
        if fixed is None or moving is None:
            raise InputError("There are no two images: open them and choose one for each side.")
        if fixed is moving:
            raise InputError("Fixed and moving are the same layer. Choose two different layers.")
        entry = self.transform_box.currentData()
        fixed_source, moving_source = layer_source(fixed, self._viewer), layer_source(moving, self._viewer)
        result_source = None if result is None else layer_source(result, self._viewer)

        def labels(side: int) -> LayerSource | None:
            layer = self.labels_boxes[side].currentData()
            return None if layer is None else layer_source(layer, self._viewer, level=0)

        def points(side: int, grid: Grid) -> np.ndarray | None:
            layer = self.points_boxes[side].currentData()
            return None if layer is None else landmark_points(layer, grid)

        grids = fixed_source.grid, moving_source.grid
        return ScoreJob(
            fixed=fixed_source,
            moving=moving_source,
            entry=entry,
            reverse=self.reverse_box.currentData(),
            result=result_source,
            labels=(labels(0), labels(1), labels(2)),
            points=(points(0, grids[0]), points(1, grids[1]), points(2, grids[0])),
        )

    def score(self) -> bool:
        """Score the chosen layers; false, with a sentence, when that cannot be."""
        try:
            job = self._job()
        except RegistrationError as error:
            self.refuse(error)
            return False
        self._asked = tuple(box.currentData() for box in self.points_boxes[:2])
        return self.begin(score, job, done=self._on_card)

    def drop_scores(self) -> None:
        """Remove the table."""
        self.card = None
        self.table.setRowCount(0)
        self.note.setText("")
        self.show_state()

    def _on_card(self, card: Any) -> None:
        self.card = card
        self._pair_layers = self._asked
        self.table.show_card(card, theme_kind(self._viewer))
        good, bad = (sum(one.mark == mark for one in card) for mark in ("good", "bad"))
        self.note.setText(
            f"{card.info['moving']} -> {card.info['fixed']}: {good} ✓ good or better, {bad} ✗ bad or worse."
        )
        self.show_status(" ".join(card.warnings) or "Scored.", warn=bool(card.warnings))

    # -- what can be done with it

    def go_to_pair(self, pair: int) -> None:
        """Move the viewer to the fixed landmark of a pair, counted from 0, and select it and its partner."""
        fixed, moving = self._pair_layers
        for layer in (fixed, moving):
            if layer is not None and layer in self._viewer.layers and pair < len(layer.data):
                layer.selected_data = {pair}
        if fixed is None or fixed not in self._viewer.layers or pair >= len(fixed.data):
            self.show_status("The points that were scored are no longer in the viewer. Score again.")
            return
        center_on(self._viewer, fixed, fixed.data[pair])
        self.show_status(f"At pair {pair + 1} of '{fixed.name}'.")

    def copy(self) -> None:
        """Copy the table, tab-separated."""
        if self.card is not None:
            QApplication.clipboard().setText(self.table.text())
            self.show_status("Copied.")

    def save_csv(self, path: str) -> None:
        """Write the table as CSV."""
        try:
            Path(path).write_text(self.card.to_csv(), encoding="utf-8")
        except OSError as error:
            self.show_error(InputError(f"'{path}' cannot be written: {error.strerror or error}."))
            return
        self.show_status(f"Saved {path}")

    def _ask_csv(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save the scores", "scores.csv", "CSV (*.csv)")
        if path:
            self.save_csv(path if Path(path).suffix else f"{path}.csv")

    def compare(self) -> ComparePanel:
        """Open the views on fixed and result (or moving, where there is no result layer)."""
        panel: ComparePanel = open_panel(self._viewer, "compare")
        second = self._result_layer() or self.moving_box.currentData()
        if self.fixed_box.currentData() is not second:
            panel.set_layers(self.fixed_box.currentData(), second)
        return panel

    def _result_layer(self) -> Layer | None:
        """Return the chosen result, else the warped layer of the chosen transform."""
        chosen, entry = self.result_box.currentData(), self.transform_box.currentData()
        if chosen is not None or entry is None:
            return chosen
        for layer in reversed(self._viewer.layers):
            record = layer.metadata.get("stnreg") or {}
            if isinstance(layer, ImageLayer) and record.get("run") == entry.key and record.get("what") == "warped":
                return layer
        return None
