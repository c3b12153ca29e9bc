"""What the panels remember between sessions, in one INI file beside napari's own settings."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from napari.settings import get_settings
from qtpy.QtCore import QSettings


def _store() -> QSettings | None:
    """Return the settings file, or ``None`` where napari keeps its settings in memory (as in tests)."""
    path = get_settings().config_path
    if path is None:
        return None
    return QSettings(str(Path(path).parent / "napari-stnreg.ini"), QSettings.Format.IniFormat)


OWN_PATTERNS = (
    "*.nii", "*.nii.gz", "*.hdr", "*.img", "*.img.gz", "*.mgz", "*.mgh", "*.nrrd", "*.nhdr", "*.mha", "*.mhd",
    "*?ransform*.h5", "*?omposite*.h5", "*?ransform*.hdf5", "*.vtk", "*.obj",
)  # fmt: skip
"""Files that napari's own reader claims as well but cannot read, or not with their position."""


def prefer_own_reader() -> None:
    """Let napari open medical images with this plugin without a question, unless the user or another plugin decides."""
    from napari.plugins import _npe2

    chosen = get_settings().plugins.extension2reader
    missing = [
        pattern
        for pattern in OWN_PATTERNS
        if pattern not in chosen and set(_npe2.get_readers(f"x{pattern[1:]}")) == {"napari", "napari-stnreg"}
    ]
    if missing:
        get_settings().plugins.extension2reader = {**chosen, **dict.fromkeys(missing, "napari-stnreg")}


def save_state(values: dict[str, Any], panel: str = "register") -> None:
    """Keep JSON-ready values of a panel for the next session."""
    store = _store()
    if store is not None:
        store.setValue(f"{panel}/panel", json.dumps(values))
        store.sync()


def load_state(panel: str = "register") -> dict[str, Any]:
    """Return the stored state; empty if there is none or it cannot be read."""
    store = _store()
    if store is None:
        return {}
    with contextlib.suppress(ValueError, TypeError):
        values = json.loads(str(store.value(f"{panel}/panel", "{}")))
        if isinstance(values, dict):
            return values
    return {}
