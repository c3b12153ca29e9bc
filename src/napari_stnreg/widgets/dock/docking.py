"""Where a panel is docked: its title, its tab beside the other panels of the plugin, and its width."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDockWidget, QLabel, QMainWindow, QTabBar, QWidget

from napari_stnreg.widgets.common import preferences

_MIN_TAB_PX = 84
"""Least width of a tab: about twelve letters. Three tabs fit in a dock of 300 pixels."""
_MIN_WIDTH_PX, _MAX_WIDTH_PX = 240, 1200


def dock_of(panel: QWidget) -> QDockWidget | None:
    """Return the dock that holds a panel."""
    parent = panel.parentWidget()
    while parent is not None and not isinstance(parent, QDockWidget):
        parent = parent.parentWidget()
    return parent


def arrange(panel: QWidget, title: str, is_panel: Callable[[QWidget | None], bool]) -> None:
    """Name the dock of a panel, add it as a tab to another panel of the plugin, and restore the width.

    Parameters
    ----------
    panel
        The panel, docked just now.
    title
        Title of the dock; empty to keep that of napari.
    is_panel
        Whether a dock's widget is another panel of the plugin.
    """
    dock = dock_of(panel)
    window = None if dock is None else dock.parentWidget()
    if dock is None or not isinstance(window, QMainWindow):
        return
    if title:
        dock.setWindowTitle(title)
        bar = dock.titleBarWidget()
        for label in bar.findChildren(QLabel) if bar is not None else ():
            label.setText(title)
    if dock.isFloating():
        return
    area = window.dockWidgetArea(dock)
    others = [
        other
        for other in window.findChildren(QDockWidget)
        if other is not dock
        and is_panel(other.widget())
        and other.isVisibleTo(window)
        and not other.isFloating()
        and window.dockWidgetArea(other) == area
    ]
    for other in others:
        if dock not in window.tabifiedDockWidgets(other):
            window.tabifyDockWidget(other, dock)
    if others:
        dock.show()
        dock.raise_()
        for bar in window.findChildren(QTabBar, options=Qt.FindChildOption.FindDirectChildrenOnly):
            show_titles(bar)
        if (layout := window.layout()) is not None:  # else both docks stay outside the window until its next layout
            layout.invalidate()
            layout.activate()
    width = preferences.load_state("dock").get("width")
    if not others and isinstance(width, int) and _MIN_WIDTH_PX <= width <= _MAX_WIDTH_PX:
        window.resizeDocks([dock], [width], Qt.Orientation.Horizontal)


def show_titles(bar: QTabBar) -> None:
    """Keep the titles of many tabs readable: scroll instead of shrinking them, and show each in a tooltip."""
    bar.setUsesScrollButtons(True)
    bar.setElideMode(Qt.TextElideMode.ElideMiddle)  # the ends of the titles differ
    bar.setStyleSheet(f"QTabBar::tab {{ min-width: {_MIN_TAB_PX}px; }}")
    for index in range(bar.count()):
        bar.setTabToolTip(index, bar.tabText(index))


def remember_width(width: int) -> None:
    """Keep the width of a docked panel for the next one."""
    if _MIN_WIDTH_PX <= width <= _MAX_WIDTH_PX and preferences.load_state("dock").get("width") != width:
        preferences.save_state({"width": width}, "dock")
