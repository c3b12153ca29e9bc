"""Docks from the menu: tabs, panels behind others, check boxes in tables."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtWidgets import QTabBar

from napari_stnreg.landmarks.pairs import LandmarkPairs
from tests.helpers.napari_user import choose_entry, menu_paths, open_from_menu


def test_a_panel_behind_another_tab_comes_to_the_front_and_titles_stay_readable(viewer, qtbot):
    names = ("explore", "classifier", "compare", "batch")
    opened = {name: open_from_menu(viewer, name) for name in names}
    qtbot.waitUntil(lambda: not opened["batch"].visibleRegion().isEmpty(), timeout=5000)
    explorer = opened["explore"]
    path = next(path for path in menu_paths("napari-stnreg.explore") if path[0] == "Layers")
    choose_entry(viewer, *path)
    qtbot.waitUntil(lambda: not explorer.visibleRegion().isEmpty(), timeout=5000)
    choose_entry(viewer, *path)  # in front: the entry hides it, as napari does
    qtbot.waitUntil(lambda: not explorer.isVisible(), timeout=5000)
    qtbot.wait(100)
    assert not explorer.isVisible()
    choose_entry(viewer, *path)
    qtbot.waitUntil(lambda: not explorer.visibleRegion().isEmpty(), timeout=5000)
    window = viewer.window._qt_window
    bars = [bar for bar in window.findChildren(QTabBar) if bar.parent() is window and bar.count() == len(names)]
    assert len(bars) == 1
    assert min(bars[0].tabRect(n).width() for n in range(len(names))) >= 84
    assert {bars[0].tabToolTip(n) for n in range(len(names))} >= {"Compare views", "Batch registration"}


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_check_boxes_in_tables_are_seen(viewer, theme, qtbot):
    viewer.theme = theme
    table = open_from_menu(viewer, "landmarks").landmarks.table
    pairs = LandmarkPairs(2)
    pairs.extend(np.zeros((2, 2)), np.ones((2, 2)))
    pairs.lock([1], True)
    table.show_pairs(pairs, None, theme)
    qtbot.waitUntil(lambda: not table.visibleRegion().isEmpty(), timeout=5000)
    contrasts = []
    for row in range(2):
        cell = table.viewport().grab(table.visualItemRect(table.item(row, 4))).toImage()
        values = [cell.pixelColor(x, y).lightness() for x in range(cell.width()) for y in range(cell.height())]
        background = np.median(values)
        contrasts.append(np.sort(np.abs(np.array(values) - background))[-30])
    assert min(contrasts) > 60
