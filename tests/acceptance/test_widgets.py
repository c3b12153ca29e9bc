"""Every dock widget of the manifest opens from the menus, by its command and by napari's public call."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from qtpy.QtCore import Qt

from tests.helpers.napari_user import (
    CONTRIBUTIONS,
    PLUGIN,
    PanelUser,
    action_at,
    choose_entry,
    docked,
    execute,
    menu_paths,
    open_from_menu,
)

each_widget = pytest.mark.parametrize("widget", CONTRIBUTIONS.widgets, ids=lambda widget: widget.command)


def test_every_widget_is_in_a_layers_menu():
    """The Plugins menu lists widgets by itself; a widget of ours is also where users look for the task."""
    for widget in CONTRIBUTIONS.widgets:
        assert any(path[0] == "Layers" for path in menu_paths(widget.command)), widget.command


def test_command_opens_the_panel(viewer, qtbot):
    for widget in CONTRIBUTIONS.widgets:
        execute(widget.command)
        (panel,) = docked(viewer, widget.display_name)
        qtbot.waitUntil(panel.isVisible)
        assert panel.width() > 200, widget.command


@each_widget
def test_menu_entries_open_hide_and_reopen_the_panel(viewer, widget, qtbot):
    paths = menu_paths(widget.command)
    choose_entry(viewer, *paths[0])
    (panel,) = docked(viewer, widget.display_name)
    qtbot.waitUntil(panel.isVisible)
    for path in paths:
        action = action_at(viewer, *path)
        assert action.isCheckable()
        choose_entry(viewer, *path)
        qtbot.waitUntil(lambda: not panel.isVisible())
        choose_entry(viewer, *path)
        qtbot.waitUntil(panel.isVisible)
    assert docked(viewer, widget.display_name) == [panel]
    panel.parentWidget().destroyOnClose()  # the cross of the dock's title bar
    assert docked(viewer, widget.display_name) == []
    choose_entry(viewer, *paths[0])
    (again,) = docked(viewer, widget.display_name)
    assert again is not panel
    qtbot.waitUntil(again.isVisible)
    panel.deleteLater()


def test_add_plugin_dock_widget_opens_the_panel(viewer, qtbot):
    for widget in CONTRIBUTIONS.widgets:
        dock, panel = viewer.window.add_plugin_dock_widget(PLUGIN, widget.display_name)
        assert docked(viewer, widget.display_name) == [panel]
        qtbot.waitUntil(dock.isVisible)
        qtbot.waitUntil(panel.isVisible)
        again = viewer.window.add_plugin_dock_widget(PLUGIN, widget.display_name)
        assert again == (dock, panel)


def test_a_panel_opened_from_another_is_that_of_the_menu(viewer, qtbot):
    rng = np.random.default_rng(0)
    for name in ("fixed", "moving"):
        viewer.add_image(rng.random((20, 20)), name=name)
    scorecard = PanelUser(open_from_menu(viewer, "scorecard"), qtbot)
    scorecard.click("Compare")
    (compare,) = docked(viewer, "Compare views")
    qtbot.waitUntil(compare.isVisible)
    choose_entry(viewer, *menu_paths("napari-stnreg.compare")[0])
    assert docked(viewer, "Compare views") == [compare]
    qtbot.waitUntil(lambda: not compare.isVisible())


def test_the_focus_moves_to_stop_during_a_run_and_back(viewer, qtbot):
    rng = np.random.default_rng(0)
    for name in ("fixed", "moving"):
        viewer.add_image(rng.random((24, 24, 24)), name=name)
    panel = open_from_menu(viewer, "register")
    panel.options.set_values({"family": "affine+diffeomorphic", "iterations": 10_000, "preset": "fast",
                              "similarity": "mse", "start": "none"})  # fmt: skip
    window = panel.window()
    window.activateWindow()
    qtbot.waitUntil(window.isActiveWindow, timeout=5000)
    panel.register_button.setFocus()
    qtbot.waitUntil(panel.register_button.hasFocus, timeout=5000)
    qtbot.keyClick(panel.register_button, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    qtbot.waitUntil(lambda: ", level " in panel.status.text(), timeout=60_000)
    assert panel.stop_button.hasFocus()
    qtbot.keyClick(panel.stop_button, Qt.Key.Key_Escape)
    qtbot.waitUntil(lambda: not panel.running, timeout=60_000)
    assert panel.result.stop_reason == "stopped"
    qtbot.waitUntil(panel.register_button.hasFocus, timeout=5000)


def test_panels_are_tabs_of_one_dock_and_keep_its_width(viewer, qtbot):
    from napari_stnreg.widgets.common import preferences
    from napari_stnreg.widgets.dock.docking import dock_of

    panels = [open_from_menu(viewer, name) for name in ("register", "compare", "scorecard")]
    docks = [dock_of(panel) for panel in panels]
    window = docks[0].parentWidget()
    window.resize(1500, 800)
    qtbot.waitUntil(lambda: len(window.tabifiedDockWidgets(docks[0])) == 2, timeout=5000)
    assert [dock.windowTitle() for dock in docks] == ["STN registration", "Compare views", "Registration scorecard"]
    window.resizeDocks([docks[-1]], [420], Qt.Orientation.Horizontal)
    qtbot.waitUntil(lambda: panels[-1].width() > 400, timeout=5000)
    qtbot.waitUntil(lambda: preferences.load_state("dock").get("width", 0) > 400, timeout=5000)


SCRIPT = """
import sys, threading
import napari
from tests.helpers.napari_user import CONTRIBUTIONS, docked, execute


class Watch:
    def find_spec(self, name, path=None, target=None):
        # A background thread may import them later, when the program is idle.
        if name in ("torch", "pyqtgraph") and threading.current_thread() is threading.main_thread():
            raise AssertionError(f"{name} is imported while a panel opens")


sys.meta_path.insert(0, Watch())
viewer = napari.Viewer()
for widget in CONTRIBUTIONS.widgets:
    execute(widget.command)
    assert docked(viewer, widget.display_name), widget.command
viewer.close()
"""


def test_opening_every_panel_imports_neither_torch_nor_a_plot_library(tmp_path):
    """In a process of its own, since other tests import torch."""
    environment = {**os.environ, "NAPARI_CONFIG": str(tmp_path / "napari.yaml")}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
