"""Fixtures of all tests that open panels; the conftest files of tests/acceptance and tests/widgets import them."""

from __future__ import annotations

import pytest


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
