"""Every dock widget of the manifest opens from napari's menus and by its public call."""

from __future__ import annotations

from importlib import import_module
from importlib.resources import files

import pytest
from npe2 import PluginManifest

MANIFEST = PluginManifest.from_file(files("napari_stnreg") / "napari.yaml")
WIDGETS = MANIFEST.contributions.widgets


def class_of(widget):
    """Return the class behind a widget contribution."""
    command = next(one for one in MANIFEST.contributions.commands if one.id == widget.command)
    module, name = command.python_name.split(":")
    return getattr(import_module(module), name)


def docked(viewer, widget):
    """Return the panels of a contribution that are docked in the viewer."""
    return [panel for panel in viewer.window.dock_widgets.values() if isinstance(panel, class_of(widget))]


@pytest.mark.parametrize("widget", WIDGETS, ids=lambda widget: widget.command)
def test_menu_command_opens_the_panel(viewer, widget):
    from napari._app_model import get_app_model

    get_app_model().commands.execute_command(widget.command).result()
    (panel,) = docked(viewer, widget)
    assert panel.isVisibleTo(viewer.window._qt_window)


@pytest.mark.parametrize("widget", WIDGETS, ids=lambda widget: widget.command)
def test_add_plugin_dock_widget_opens_the_panel(viewer, widget):
    dock, panel = viewer.window.add_plugin_dock_widget("napari-stnreg", widget.display_name)
    assert isinstance(panel, class_of(widget))
    assert docked(viewer, widget) == [panel]
    assert dock.isVisibleTo(viewer.window._qt_window)
