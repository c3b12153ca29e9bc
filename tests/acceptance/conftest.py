"""What a person does in napari: choose menu entries, open and save files."""

from __future__ import annotations

import pytest

pytest.importorskip("qtpy")
pytest.importorskip("napari")


def pytest_collection_modifyitems(items):
    for item in items:
        if "/acceptance/" in str(item.path).replace("\\", "/"):
            item.add_marker("gui")


@pytest.fixture(autouse=True)
def workers_end():
    """No test leaves a thread behind."""
    from qtpy.QtCore import QThreadPool
    from superqt.utils import WorkerBase

    yield
    WorkerBase.await_workers(60_000)
    assert QThreadPool.globalInstance().waitForDone(60_000)


@pytest.fixture(autouse=True)
def settings_file(tmp_path, monkeypatch):
    """Panels remember their settings in a file, as they do outside tests; here in the test's own folder."""
    from qtpy.QtCore import QSettings

    from napari_stnreg.widgets.common import preferences

    path = str(tmp_path / "napari-stnreg.ini")
    monkeypatch.setattr(preferences, "_store", lambda: QSettings(path, QSettings.Format.IniFormat))
    return path


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer(show=True)
