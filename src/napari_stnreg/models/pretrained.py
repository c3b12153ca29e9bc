"""Bundled pretrained models. Does not import torch, so that a panel can list them."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from napari_stnreg.core.errors import InputError


def pretrained_models() -> dict[str, Path]:
    """Return the files of the bundled models, by name."""
    folder = Path(str(files("napari_stnreg"))) / "models"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))} if folder.is_dir() else {}


def find_model(path: str | os.PathLike[str]) -> Path:
    """Return the file of a model, given its path or the name of a bundled model.

    Raises
    ------
    InputError
        If there is no bundled model of that name.
    """
    source = Path(path)
    if source.suffix or source.exists() or source.parent != Path():
        return source
    found = pretrained_models()
    if source.name in found:
        return found[source.name]
    known = f"bundled models: {', '.join(found)}" if found else "no models are bundled"
    raise InputError(f"There is no model '{source.name}' ({known}). Give a bundled name or a .safetensors file.")
