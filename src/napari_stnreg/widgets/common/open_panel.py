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
    # The same panel has another dock name when it was opened from napari's menu, so its class decides.
    for panel in viewer.window.dock_widgets.values():
        if isinstance(panel, make):
            panel.parentWidget().show()
            panel.parentWidget().raise_()
            return panel
    panel = make(viewer)
    viewer.window.add_dock_widget(panel, name=name)
    return panel
