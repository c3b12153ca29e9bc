"""Fixtures of all tests that open panels; the conftest files of tests/acceptance and tests/widgets import them."""

from __future__ import annotations

import gc
import sys
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session", autouse=True)
def quick_viewers():
    """Save a third of the time of a viewer, without a change of what it does.

    napari reads the manifests of all plugins for every viewer, which takes 0.4 s; they are read once here. For drivers
    on Windows, it collects the garbage of the whole process whenever a layer is removed; here that of new objects.
    """
    from napari._vispy import canvas
    from npe2 import PluginManifest

    found = list(PluginManifest.discover())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PluginManifest, "discover", lambda paths=(): iter(found))
        if sys.platform != "win32":
            patch.setattr(canvas, "gc", SimpleNamespace(collect=lambda: gc.collect(0)))
        yield


@pytest.fixture(autouse=True)
def workers_end():
    """Check that no test leaves a thread running."""
    from qtpy.QtCore import QThreadPool
    from superqt.utils import WorkerBase

    yield
    WorkerBase.await_workers(60_000)
    assert QThreadPool.globalInstance().waitForDone(60_000)


@pytest.fixture(autouse=True)
def settings_file(tmp_path, monkeypatch):
    """Keep the settings that panels remember in the temporary folder of the test."""
    from qtpy.QtCore import QSettings

    from napari_stnreg.widgets.common import preferences

    path = str(tmp_path / "napari-stnreg.ini")
    monkeypatch.setattr(preferences, "_store", lambda: QSettings(path, QSettings.Format.IniFormat))
    return path
