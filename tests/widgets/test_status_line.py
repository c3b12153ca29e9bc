"""The status line of the panels."""

from __future__ import annotations

from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_stnreg.widgets.common.forms import StatusLabel


def test_a_longer_text_has_room_for_its_lines_at_once(qtbot):
    """Without a turn of the event loop in between, as a run that keeps the window busy draws it."""
    panel = QWidget()
    qtbot.addWidget(panel)
    box = QVBoxLayout(panel)
    label = StatusLabel("Short.")
    box.addWidget(QWidget(), 1)
    box.addWidget(label)
    panel.resize(200, 400)
    panel.show()
    qtbot.waitExposed(panel)
    one = label.height()
    label.setText("A sentence that is too long for one line of a panel as narrow as this one. " * 2)
    assert label.height() >= label.heightForWidth(label.width()) > 2 * one
    label.setText("Short.")
    assert label.height() == one
