"""Open one of the plugin's panels from another one."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QWidget

if TYPE_CHECKING:
    from napari.viewer import Viewer

PANELS = {
    "compare": ("compare.panel", "ComparePanel"),
    "landmarks": ("landmarks.panel", "LandmarksPanel"),
    "register": ("register.panel", "RegisterPanel"),
    "scorecard": ("scorecard.panel", "ScorecardPanel"),
    "transforms": ("transforms.panel", "TransformsPanel"),
}
"""Module and class of the panels that other panels open."""

MENU_TITLE = "{} (STN registration)"
"""The name that napari gives the dock of a panel that is opened from a menu."""


def open_panel(viewer: Viewer, name: str) -> Any:
    """Open a panel of :data:`PANELS` in a dock, or raise its open dock.

    Parameters
    ----------
    viewer
        The viewer.
    name
        Key of :data:`PANELS`.

    Returns
    -------
    DockPanel
        The panel.
    """
    module, class_name = PANELS[name]
    panel_class = getattr(import_module(f"napari_stnreg.widgets.{module}"), class_name)
    # Docks opened from a menu and with `add_plugin_dock_widget` have different names; the class is the same.
    for panel in viewer.window.dock_widgets.values():
        if isinstance(panel, panel_class):
            dock = panel.parentWidget()
            if dock is not None:
                dock.show()
                dock.raise_()
            return panel
    panel = panel_class(viewer)
    assert isinstance(panel, QWidget)
    viewer.window.add_dock_widget(panel, name=MENU_TITLE.format(panel_class.title))
    return panel
