"""A combo box of trained models: bundled models, those of the session, and one from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog

from napari_stnreg.core.errors import InputError
from napari_stnreg.models.pretrained import pretrained_models
from napari_stnreg.widgets.common.forms import Combo, help_label
from napari_stnreg.widgets.common.task_runner import BackgroundCall
from napari_stnreg.widgets.models.session import SESSION, KnownModel

FILES = "Models (*.safetensors);;All files (*)"
_LOAD = "load"


def load_file(path: str) -> tuple[str, Any]:
    """Read a model; run in the background, since it may import torch first.

    Raises
    ------
    InputError
        If it is no model, or one that registers nothing.
    """
    from napari_stnreg.models.model_file import load_model

    model = load_model(path)
    if not model.registers:
        raise InputError(f"'{model.name}' is an auto-encoder: it compares images, but registers none by itself.")
    return path, model


class ModelList(Combo):
    """A choice among models, or none; beside it belongs the line :attr:`about` the chosen one.

    Parameters
    ----------
    tip, name
        The tooltip, and the accessible name.
    nothing
        The entry for no model.

    Signals
    -------
    changed(), failed(str), loaded(str)
    """

    changed = Signal()
    failed = Signal(str)
    loaded = Signal(str)

    def __init__(self, tip: str, name: str, nothing: str) -> None:
        super().__init__(tip, name)
        self.about = help_label()
        self._nothing = nothing
        self._chosen: KnownModel | None = None
        self._loading = ""
        self.currentIndexChanged.connect(self._on_index)
        self.refresh()

    @property
    def chosen(self) -> KnownModel | None:
        """The model, or ``None``."""
        return self._chosen

    @property
    def loading(self) -> str:
        """Path of the model that is being read and will be selected; empty without one."""
        return self._loading

    def require(self) -> KnownModel | None:
        """Return the selected model, or ``None`` without one; for the start of a run.

        Raises
        ------
        InputError
            If the model is still being read.
        """
        if self._loading:
            name = Path(self._loading).name
            raise InputError(f"The model '{name}' is still loading. Wait a moment, or select another model.")
        return self._chosen

    def refresh(self, choose: KnownModel | None = None) -> None:
        """Take up the session's models, keeping the choice where it is still there."""
        known = SESSION.known()
        kept = choose or self._chosen
        if kept is not None and not any(entry is kept for entry in known):
            kept = next((e for e in known if e.model is kept.model and e.path == kept.path), None) or next(
                (e for e in known if e.model is not None and e.model is kept.model), None
            ) or next((e for e in known if e.path is not None and e.path == kept.path), None)  # fmt: skip
        entries: list[tuple[str, Any]] = [(self._nothing, None)]
        entries += [(entry.name, entry) for entry in known]
        self.set_items([*entries, ("Load …", _LOAD)], kept)
        self._chosen = kept
        self._show()

    def take(self, entry: KnownModel | None) -> None:
        """Choose a model of the list, or none."""
        self.refresh(entry)
        if entry is None:
            self.setCurrentIndex(0)

    def _on_index(self, _index: int = 0) -> None:
        data = self.currentData()
        if data == _LOAD:
            self.refresh()  # back to what was chosen until there is something else
            self.ask_for_file()
            return
        self._loading = ""  # the user chose something else
        self._chosen = data
        self._show()

    def _show(self) -> None:
        about = self._chosen.about if self._chosen is not None else ""
        self.about.setText(f"Loading {Path(self._loading).name} …" if self._loading else about)
        self.about.setVisible(bool(self.about.text()))
        self.changed.emit()

    # -- a file

    def ask_for_file(self) -> None:
        """Ask for a file and load it."""
        path, _ = QFileDialog.getOpenFileName(self, "Load a model", "", FILES)
        if path:
            self.load(path)

    def load(self, path: str) -> None:
        """Load a model in the background and choose it."""
        self._loading = path
        self._show()
        worker = BackgroundCall(load_file, path)
        worker.returned.connect(self._on_loaded)
        worker.errored.connect(self._on_error)
        worker.start()

    def _on_loaded(self, found: tuple[str, Any]) -> None:
        path, model = found
        selected = path == self._loading
        if selected:
            self._loading = ""
        entry = SESSION.add(model, path)
        if selected:
            self.take(entry)
            self.loaded.emit(entry.name)

    def _on_error(self, error: Exception) -> None:
        self._loading = ""
        self._show()
        self.failed.emit(str(error) or type(error).__name__)

    # -- between sessions

    @property
    def path(self) -> str | None:
        """What is remembered: the chosen model's file, or its name in the box."""
        return self._chosen.path if self._chosen is not None else None

    def restore(self, path: Any) -> None:
        """Take up what :attr:`path` gave; a file that is gone is passed over."""
        if not isinstance(path, str):
            return
        if path in pretrained_models() or Path(path).is_file():
            self.take(SESSION.find(path) or SESSION.add(None, path))
        else:
            self.about.setText(f"The model '{path}' of the last session no longer exists. No model is selected.")
            self.about.show()
