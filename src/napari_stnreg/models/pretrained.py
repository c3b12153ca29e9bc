"""Which models come with the package; knows only their names, so that a panel can list them without torch."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from napari_stnreg.core.errors import InputError


def boxed_models() -> dict[str, Path]:
    """The models that come with the package, by name."""
    folder = Path(str(files("napari_stnreg"))) / "models"
    return {one.stem: one for one in sorted(folder.glob("*.safetensors"))} if folder.is_dir() else {}


def find_model(path: str | os.PathLike[str]) -> Path:
    """The file of a model, by its path or by the name of one in the box.

    Raises
    ------
    InputError
        If a name stands for no model here.
    """
    source = Path(path)
    if source.suffix or source.exists() or source.parent != Path():
        return source
    found = boxed_models()
    if source.name in found:
        return found[source.name]
    known = f"there are {', '.join(found)}" if found else "this installation has none"
    raise InputError(f"There is no model '{source.name}' in the box ({known}); give the path of a .safetensors file.")
