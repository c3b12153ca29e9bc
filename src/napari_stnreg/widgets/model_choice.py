"""Which trained model registers the pair, if any: the list, loading one from a file, and refining its answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QFileDialog, QHBoxLayout, QSpinBox, QWidget
from superqt.utils import create_worker

from napari_stnreg.learning.boxed import boxed_models
from napari_stnreg.widgets.forms import Combo, Rows, hint
from napari_stnreg.widgets.models import SESSION, KnownModel

FILES = "Models (*.safetensors);;All files (*)"
_LOAD = "load"


def load_file(path: str) -> tuple[str, Any]:
    """Read a model; run in the background, since it may import torch first.

    Raises
    ------
    InputError
        If it is no model, or one that registers nothing.
    """
    from napari_stnreg.errors import InputError
    from napari_stnreg.learning.model_file import load_model

    model = load_model(path)
    if not model.registers:
        raise InputError(f"'{model.name}' is an auto-encoder: it compares images, but registers none by itself.")
    return path, model


class ModelChoice(QWidget):
    """The choice between optimising the pair and a trained model.

    Signals
    -------
    changed(), failed(str)
    """

    changed = Signal()
    failed = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.box = Combo("A trained network gives the answer in one pass; without one the pair is optimised.", "model")
        self.about = hint()
        self.refine_box = QCheckBox("Refine for this pair")
        self.refine_box.setToolTip("Begin at the model's answer and optimise it for these two images.")
        self.steps_box = QSpinBox()
        self.steps_box.setRange(1, 10000)
        self.steps_box.setValue(50)
        self.steps_box.setSuffix(" steps")
        self.steps_box.setToolTip("How many steps of optimisation.")
        self.steps_box.setAccessibleName("steps of refinement")
        self._refining = QWidget()
        row = QHBoxLayout(self._refining)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.refine_box, 1)
        row.addWidget(self.steps_box)
        rows = Rows()
        rows.add("Model", self.box)
        rows.wide(self.about)
        rows.wide(self._refining)
        self.setLayout(rows)
        self._chosen: KnownModel | None = None
        self.box.currentIndexChanged.connect(self._on_box)
        self.refine_box.toggled.connect(self._show)
        self.steps_box.valueChanged.connect(self.changed)
        self.refresh()

    @property
    def chosen(self) -> KnownModel | None:
        """The model, or ``None`` where the pair is optimised."""
        return self._chosen

    @property
    def refine(self) -> int:
        """Steps of optimisation after the model's pass; 0 for none."""
        return self.steps_box.value() if self._chosen is not None and self.refine_box.isChecked() else 0

    def refresh(self, choose: KnownModel | None = None) -> None:
        """Take up the session's models, keeping the choice where it is still there."""
        known = SESSION.known()
        kept = choose or self._chosen
        if kept is not None and not any(entry is kept for entry in known):
            kept = next((e for e in known if e.model is kept.model and e.path == kept.path), None) or next(
                (e for e in known if e.model is not None and e.model is kept.model), None
            ) or next((e for e in known if e.path is not None and e.path == kept.path), None)  # fmt: skip
        entries: list[tuple[str, Any]] = [("none (optimise this pair)", None)]
        entries += [(entry.name, entry) for entry in known]
        self.box.fill([*entries, ("Load …", _LOAD)], kept)
        self._chosen = kept
        self._show()

    def choose(self, entry: KnownModel | None) -> None:
        """Choose a model of the list, or none."""
        self.refresh(entry)
        if entry is None:
            self.box.setCurrentIndex(0)

    def _on_box(self, _index: int = 0) -> None:
        data = self.box.currentData()
        if data == _LOAD:
            self.refresh()  # back to what was chosen until there is something else
            self.ask_for_file()
            return
        self._chosen = data
        self._show()

    def _show(self, _checked: bool = False) -> None:
        entry = self._chosen
        self.about.setText(entry.about if entry is not None else "")
        self.about.setVisible(bool(self.about.text()))
        self._refining.setVisible(entry is not None)
        self.steps_box.setEnabled(self.refine_box.isChecked())
        self.changed.emit()

    # -- a file

    def ask_for_file(self) -> None:
        """Let the person choose a file, and load it."""
        path, _ = QFileDialog.getOpenFileName(self, "Load a model", "", FILES)
        if path:
            self.load(path)

    def load(self, path: str) -> None:
        """Load a model in the background and choose it."""
        self.about.setText(f"Loading {Path(path).name} …")
        self.about.show()
        worker = create_worker(load_file, path, _start_thread=False, _ignore_errors=True)
        worker.returned.connect(self._on_loaded)
        worker.errored.connect(self._on_error)
        worker.start()

    def _on_loaded(self, found: tuple[str, Any]) -> None:
        path, model = found
        self.choose(SESSION.add(model, path))

    def _on_error(self, error: Exception) -> None:
        self._show()
        self.failed.emit(str(error) or type(error).__name__)

    # -- between sessions

    def state(self) -> dict[str, Any]:
        """What is remembered."""
        path = self._chosen.path if self._chosen is not None else None
        return {"path": path, "refine": self.refine_box.isChecked(), "steps": self.steps_box.value()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave; a file that is gone is passed over."""
        path = state.get("path")
        if isinstance(path, str) and (path in boxed_models() or Path(path).is_file()):
            self.choose(SESSION.find(path) or SESSION.add(None, path))
        self.refine_box.setChecked(bool(state.get("refine", False)))
        if isinstance(state.get("steps"), int):
            self.steps_box.setValue(state["steps"])
