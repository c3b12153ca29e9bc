"""Name of the model, and the folder of the checkpoints from which its training resumes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QFileDialog, QLineEdit, QWidget

from napari_stnreg.core.errors import InputError
from napari_stnreg.widgets.common.forms import FormLayout, button, field_row
from napari_stnreg.widgets.train.job import checkpoint_of, resumable


class CheckpointForm(QWidget):
    """Name, folder for checkpoints, and whether to resume."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._usual = "model"
        self.name_box = QLineEdit()
        self.name_box.setToolTip("Name of the model in lists, layers and files.")
        self.name_box.setAccessibleName("name of the model")
        self.name_box.setMinimumWidth(60)
        self.folder_box = QLineEdit()
        self.folder_box.setPlaceholderText("memory only")
        self.folder_box.setToolTip(
            "A folder in which the training is kept after every epoch, and the model at its end. It can then be "
            "resumed, even after the program was closed during the training."
        )
        self.folder_box.setAccessibleName("folder for checkpoints")
        self.folder_box.setMinimumWidth(60)
        self.browse_button = button("…", "Browse for a folder.")
        self.browse_button.setAccessibleName("browse for a folder for checkpoints")
        self.browse_button.setMaximumWidth(44)
        self.resume_box = QCheckBox("Resume the training in this folder")
        self.resume_box.setToolTip("Resume an interrupted training. Images and settings must be the same.")
        rows = FormLayout()
        rows.add("Name", self.name_box)
        rows.add("Keep in", field_row(self.folder_box, self.browse_button))
        rows.add_full_width(self.resume_box)
        self.setLayout(rows)
        self.browse_button.clicked.connect(self._ask)
        self.name_box.textChanged.connect(self.look)
        self.folder_box.textChanged.connect(self.look)
        self.look()

    @property
    def name(self) -> str:
        """The model's name: as written, or the usual one."""
        return self.name_box.text().strip() or self._usual

    @property
    def output(self) -> str | None:
        """Where the model's file will be saved."""
        folder = self.folder_box.text().strip()
        return str(Path(folder) / file_name(self.name)) if folder else None

    @property
    def resume(self) -> bool:
        """Whether to resume from the existing checkpoint."""
        return self.resume_box.isChecked() and resumable(self.output)

    def suggest(self, name: str) -> None:
        """Set the default name of the model."""
        self._usual = name
        self.name_box.setPlaceholderText(name)
        self.look()

    def look(self, _text: str = "") -> None:
        """See whether there is something to resume."""
        found = resumable(self.output)
        if not found:
            self.resume_box.setChecked(False)
        self.resume_box.setVisible(found)

    def check(self) -> None:
        """Refuse to write over another training.

        Raises
        ------
        InputError
            If the folder is no folder, or holds a training of this name that is not to be resumed.
        """
        output = self.output
        if output is None:
            return
        folder = Path(output).parent
        if folder.exists() and not folder.is_dir():
            raise InputError(f"'{folder}' is a file. Choose a folder for the checkpoints.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"The folder '{folder}' cannot be created: {error.strerror or error}.") from error
        if resumable(output) and not self.resume:
            raise InputError(
                f"The folder holds '{Path(checkpoint_of(output)).name}' of an earlier training: resume it, or choose "
                "another name or folder."
            )

    def _ask(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Folder for checkpoints", self.folder_box.text())
        if path:
            self.folder_box.setText(path)

    def state(self) -> dict[str, Any]:
        """Return what is stored between sessions."""
        return {"folder": self.folder_box.text().strip()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave; a folder that is gone is passed over."""
        folder = state.get("folder")
        if isinstance(folder, str) and folder and Path(folder).is_dir():
            self.folder_box.setText(folder)


def file_name(name: str) -> str:
    """Return the name of a model's file."""
    plain = re.sub(r"[^\w\-.+ ]+", "_", name).strip(" .") or "model"
    return plain.removesuffix(".safetensors") + ".safetensors"
