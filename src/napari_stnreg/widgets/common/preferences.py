"""What the panels remember between sessions, in one INI file beside napari's own settings."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from napari.settings import get_settings
from qtpy.QtCore import QSettings


def _store() -> QSettings | None:
    """The file; none where napari itself keeps its settings in memory (as it does in tests)."""
    path = get_settings().config_path
    if path is None:
        return None
    return QSettings(str(Path(path).parent / "napari-stnreg.ini"), QSettings.Format.IniFormat)


def save_state(values: dict[str, Any], panel: str = "register") -> None:
    """Keep JSON-ready values of a panel for the next session."""
    store = _store()
    if store is not None:
        store.setValue(f"{panel}/panel", json.dumps(values))
        store.sync()


def load_state(panel: str = "register") -> dict[str, Any]:
    """What was kept; empty when nothing was, or when it cannot be read."""
    store = _store()
    if store is None:
        return {}
    with contextlib.suppress(ValueError, TypeError):
        values = json.loads(str(store.value(f"{panel}/panel", "{}")))
        if isinstance(values, dict):
            return values
    return {}
