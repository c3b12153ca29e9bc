"""The form for Zarr stores at a URL: open a stack there, or write the result there."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLineEdit, QWidget

from napari_stnreg.widgets.common.forms import FormLayout, button, button_row


class RemoteForm(QWidget):
    """A URL, and buttons to open a stack there and to write the result there.

    Signals
    -------
    opening(str), writing(str)
        The URL to open, and the one to write.
    """

    opening = Signal(str)
    writing = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.url = QLineEdit()
        self.url.setPlaceholderText("s3://bucket/stack.zarr")
        self.url.setToolTip("A Zarr store: s3://, gs://, https:// or any other URL that fsspec opens.")
        self.url.setAccessibleName("URL of a Zarr store")
        self.open_button = button("Open stack", "Show the stack at the URL as a layer that is read section by section.")
        self.write_button = button("Write result", "Write the aligned stack to the URL, one object for each section.")
        rows = FormLayout()
        rows.add("URL", self.url)
        rows.addLayout(button_row(self.open_button, self.write_button), rows.rowCount(), 0, 1, 2)
        self.setLayout(rows)
        self.url.textChanged.connect(lambda: self.allow(idle=self._idle, result=self._result))
        self.url.returnPressed.connect(self.open_button.click)
        self.open_button.clicked.connect(lambda: self.opening.emit(self.text))
        self.write_button.clicked.connect(lambda: self.writing.emit(self.text))
        self._idle, self._result = True, False

    @property
    def text(self) -> str:
        """The URL."""
        return self.url.text().strip()

    def allow(self, *, idle: bool, result: bool) -> None:
        """Enable what is possible while no task runs, and with a result."""
        self._idle, self._result = idle, result
        self.open_button.setEnabled(idle and bool(self.text))
        self.write_button.setEnabled(idle and result and bool(self.text))
