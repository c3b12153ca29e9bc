"""Open one of our panels from another one."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from qtpy.QtWidgets import QWidget

TOOLS = {
    "compare": ("compare.panel", "CompareWidget", "Compare views"),
    "scorecard": ("scorecard.panel", "ScorecardWidget", "Registration scorecard"),
    "workbench": ("transforms.panel", "WorkbenchWidget", "Transform workbench"),
}
"""Module, class and title of the panels, by key."""


def open_tool(viewer: Any, what: str) -> Any:
    """Open a panel of :data:`TOOLS` in a dock, or bring the one that is open to the front."""
    module, name, title = TOOLS[what]
    return open_beside(viewer, getattr(import_module(f"napari_stnreg.widgets.{module}"), name), title)


def open_beside(viewer: Any, make: Any, name: str) -> QWidget:
    """Open one of our panels in a dock, or bring the one that is open to the front."""
    for dock_name, widget in viewer.window.dock_widgets.items():
        inner = getattr(widget, "_magic_widget", None) or widget
        if dock_name == name and isinstance(inner, make):
            inner.parentWidget().show()
            inner.parentWidget().raise_()
            return inner
    panel = make(viewer)
    viewer.window.add_dock_widget(panel, name=name)
    return panel
