"""Fixtures of the acceptance tests, which use menus, open files and save files."""

from __future__ import annotations

import pytest

pytest.importorskip("qtpy")
pytest.importorskip("napari")

from tests.helpers.gui_fixtures import quick_viewers, settings_file, workers_end  # noqa: F401 - autouse fixtures


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer(show=True)
