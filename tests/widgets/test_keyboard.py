"""The panels without a mouse: every control is reached in the order that is seen, and the focus is visible."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QColor
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QWidget

from napari_stnreg.widgets.dock.focus_ring import RING_COLOR
from tests.helpers.napari_user import CONTRIBUTIONS, open_from_menu

each_panel = pytest.mark.parametrize("name", [widget.command.split(".")[-1] for widget in CONTRIBUTIONS.widgets])


@pytest.fixture
def opened(viewer, qtbot, name):
    """A panel in a window that has the keyboard, on two images."""
    image = np.cumsum(np.random.default_rng(0).standard_normal((32, 32)), 0).astype(np.float32)
    viewer.add_image(image, name="fixed")
    viewer.add_image(np.roll(image, 2, 1), name="moving")
    window = viewer.window._qt_window
    window.show()
    window.resize(1280, 900)
    window.activateWindow()
    panel = open_from_menu(viewer, name)
    qtbot.waitUntil(lambda: panel.isAncestorOf(QApplication.focusWidget() or window), timeout=10_000)
    return panel


def pixels(widget):
    image = widget.grab().toImage()
    color = QColor(RING_COLOR).rgb()
    return sum(image.pixel(x, y) == color for x in range(image.width()) for y in (0, 1, image.height() - 1))


@each_panel
def test_tab_reaches_every_control_in_the_order_that_is_seen(opened, name):
    reached: list[QWidget] = []
    while opened.isAncestorOf(control := QApplication.focusWidget()) and control not in reached:
        reached.append(control)
        QTest.keyClick(control, Qt.Key.Key_Tab)
    wanted = [
        child
        for child in opened.findChildren(QWidget)
        if child.isVisible() and child.isEnabled() and child.focusPolicy() & Qt.FocusPolicy.TabFocus
        and child.focusProxy() is None
    ]  # fmt: skip
    assert len(reached) > 2
    assert not [child for child in wanted if child not in reached]
    tops = [control.mapTo(opened, QPoint(0, 0)).y() for control in reached]
    jumps = [i for i in range(1, len(tops)) if tops[i] < tops[i - 1] - 12]
    assert not jumps, [reached[i].accessibleName() for i in jumps]


@pytest.mark.parametrize("name", ["register"])
@pytest.mark.parametrize("theme", ["dark", "light"])
def test_the_focus_is_seen(opened, viewer, theme, qtbot):
    viewer.theme = theme
    QTest.keyClick(QApplication.focusWidget(), Qt.Key.Key_Tab)
    control = QApplication.focusWidget()
    assert pixels(control) > 10
    QTest.keyClick(control, Qt.Key.Key_Tab)
    assert QApplication.focusWidget() is not control
    assert pixels(control) == 0


@pytest.mark.parametrize("name", ["register"])
def test_a_run_by_keys_alone(opened, qtbot, name):
    """Ctrl+Enter starts, the focus is on Stop, Esc stops, and the focus returns."""
    opened.options.set_values({"preset": "thorough"})
    before = QApplication.focusWidget()
    QTest.keyClick(before, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    assert opened.running
    assert QApplication.focusWidget() is opened.stop_button
    QTest.keyClick(opened.stop_button, Qt.Key.Key_Escape)
    assert opened.stopping
    qtbot.waitUntil(lambda: not opened.running, timeout=60_000)
    qtbot.waitUntil(lambda: QApplication.focusWidget() is before)
