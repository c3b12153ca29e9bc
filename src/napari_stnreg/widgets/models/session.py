"""The trained models of a session: bundled, loaded, and newly trained ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_stnreg.models.pretrained import pretrained_models

if TYPE_CHECKING:
    from napari_stnreg.models.model import Model


@dataclass(frozen=True, eq=False)
class KnownModel:
    """One entry of the list of models.

    Parameters
    ----------
    name
        What it is called in lists and in the names of layers.
    path
        Its file, or its name in the box; ``None`` while it has not been saved.
    model
        The model itself, where it is in memory already.
    about
        One line of description.
    """

    name: str
    path: str | None = None
    model: Model | None = None
    about: str = ""

    @property
    def source(self) -> Any:
        """What :func:`napari_stnreg.register` takes as ``model``."""
        return self.path if self.model is None else self.model


class SessionModels:
    """The list, shared by the panels of all viewers; lives on the GUI thread."""

    changed = Signal()

    def __init__(self) -> None:
        self.entries: list[KnownModel] = []

    def known(self) -> list[KnownModel]:
        """List all models, bundled ones first."""
        boxed = [KnownModel(name, name, about="Comes with the package.") for name in pretrained_models()]
        by_path = {entry.path: entry for entry in self.entries}
        return [by_path.get(one.path, one) for one in boxed] + [
            entry for entry in self.entries if entry.path not in {one.path for one in boxed}
        ]

    def add(self, model: Model | None, path: str | None = None, name: str | None = None) -> KnownModel:
        """Take up a model, in the place of one from the same file."""
        if name is None:
            name = model.name if model is not None else Path(str(path)).stem
        others = [entry for entry in self.entries if path is None or entry.path != path]
        name = _distinct(name, {entry.name for entry in others} | set(pretrained_models()) - {str(path)})
        entry = KnownModel(name, path, model, about_model(model) if model is not None else str(path))
        self.entries = [*others, entry]
        self.changed.emit()
        return entry

    def saved(self, model: Model, path: str) -> KnownModel:
        """Note where a model of the list has been saved."""
        self.entries = [entry for entry in self.entries if entry.model is not model and entry.path != path]
        return self.add(model, path, Path(path).name.removesuffix(".safetensors"))

    def find(self, path: str) -> KnownModel | None:
        """Return the entry of a file or of a bundled name."""
        return next((entry for entry in self.known() if entry.path == path), None)


SESSION = SessionModels()
"""The one list."""


def about_model(model: Model) -> str:
    """Describe a model and its scores in one line."""
    told = model.describe()
    parts = [told["axes"], told["network"], f"trained at {told['trained at']}"]
    best = (model.summary.get("best") or {}).get("scores") or {}
    names = {"similarity": "similarity", "dice": "Dice", "error": "error"}
    parts += [f"{title} {best[key]:.3g}" for key, title in names.items() if isinstance(best.get(key), int | float)]
    return ", ".join(parts) + "."


def file_of(known: KnownModel, comments: list[str]) -> str:
    """Return the file of a model or its bundled name; an unsaved model gets a comment to save it first."""
    if known.path is not None:
        return known.path
    path = f"{known.name}.safetensors"
    comments.append(f"# Save the model '{known.name}' as {path} first (in Train STN model).")
    return path


def _distinct(name: str, taken: set[str]) -> str:
    number, base = 2, name
    while name in taken:
        name, number = f"{base} {number}", number + 1
    return name
