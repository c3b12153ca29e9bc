"""Fixtures of all tests that open panels; the conftest files of tests/acceptance and tests/widgets import them."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def manifests():
    """Read the manifests of the installed plugins once; for every viewer napari would read them again, in 0.4 s."""
    from npe2 import PluginManifest

    found = list(PluginManifest.discover())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PluginManifest, "discover", lambda paths=(): iter(found))
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
