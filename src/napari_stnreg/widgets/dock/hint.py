"""Help in a panel: three steps for the first time, and the page of the documentation."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QFrame, QHBoxLayout, QToolButton, QVBoxLayout

from napari_stnreg.widgets.common import preferences
from napari_stnreg.widgets.common.forms import button, help_label

DOCUMENTATION = "https://napari-stnreg.readthedocs.io/"


class FirstSteps(QFrame):
    """Three steps that are shown until the user hides them; hidden hints stay hidden in later sessions.

    Parameters
    ----------
    panel
        Title of the panel.
    steps
        One sentence each.
    """

    def __init__(self, panel: str, steps: Sequence[str]) -> None:
        super().__init__()
        self._panel = panel
        self.setObjectName("first steps")
        text = help_label("\n".join(f"{i}. {step}" for i, step in enumerate(steps, 1)), small=False)
        text.setAccessibleName("first steps")
        self.hide_button = button("Got it", "Hide these steps. The ? button opens the documentation.")
        self.hide_button.clicked.connect(self.dismiss)
        row = QHBoxLayout()
        row.addStretch(1)
        row.addWidget(self.hide_button)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 4)
        box.setSpacing(2)
        box.addWidget(text)
        box.addLayout(row)
        self.setVisible(bool(steps) and not preferences.load_state("hints").get(panel, False))

    def dismiss(self) -> None:
        """Hide the steps, also in later sessions."""
        self.hide()
        preferences.save_state({**preferences.load_state("hints"), self._panel: True}, "hints")


def help_button(page: str) -> QToolButton:
    """A small button that opens a page of the documentation in the browser."""
    made = QToolButton()
    made.setText("?")
    made.setToolTip("Open the page of the documentation (F1).")
    made.setAccessibleName("help")
    made.clicked.connect(lambda: open_page(page))
    return made


def open_page(page: str) -> None:
    """Open a page of the documentation, such as ``"tutorials/stack.html"``, in the browser."""
    QDesktopServices.openUrl(QUrl(DOCUMENTATION + page))
