"""The batch panel: many pairs with one setting or model, a row of scores each."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QUrl
from qtpy.QtGui import QBrush, QColor, QDesktopServices
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QLineEdit,
    QSizePolicy,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from napari_stnreg.core.errors import InputError, RegistrationError
from napari_stnreg.registration.settings import RegistrationSettings
from napari_stnreg.widgets.common.fit_panel import OptionsPanel
from napari_stnreg.widgets.common.forms import FormLayout, button, collapsible, emphasize, field_row, help_label
from napari_stnreg.widgets.common.task_runner import TaskControl, TaskProgress, relay_progress
from napari_stnreg.widgets.register.options import OptionsForm
from napari_stnreg.widgets.scorecard.table import COLORS, theme_kind

if TYPE_CHECKING:
    from napari.viewer import Viewer

STATES = {"": "", "fitting": "…", "done": "✓", "kept": "✓", "failed": "✗"}
_TIPS = {
    "": "Not started.",
    "fitting": "Being registered.",
    "done": "Done.",
    "kept": "Done by an earlier run, of the same files and settings.",
    "failed": "Failed.",
}
_DISTRUSTED = {"doubtful": "doubtful", "failed": "judged as failed"}
"""Verdicts that are shown in words, by name."""
_SCORES = (("landmark_mean", "landmarks"), ("dice_mean", "Dice"), ("ncc", "NCC"))


def run_batch(
    jobs: list[Any], output: str, settings: RegistrationSettings, restart: bool, control: TaskControl
) -> Generator[TaskProgress, None, Any]:
    """Run the batch in the worker and pass on every finished row, also between two updates of the window."""
    from napari_stnreg.batch import batch_steps

    pending: list[tuple[int, str, dict[str, Any] | None]] = []

    def note(item: Any) -> None:
        if item.row is not None:
            pending.append((item.job, item.state, item.row))

    def show(item: Any) -> TaskProgress:
        rows = [*pending]
        pending.clear()
        fraction = 1.0
        if item.state == "fitting":
            rows.append((item.job, "fitting", None))
            fraction = item.fit.fraction if item.fit is not None else 0.0
        return TaskProgress((item.job + fraction) / item.jobs, f"{item.name}: {item.job + 1} of {item.jobs}", rows)

    return (yield from relay_progress(batch_steps(jobs, output, settings, restart=restart), control, show, note))


class JobTable(QTableWidget):
    """One row for each pair: name, status, and the most informative score or the error."""

    def __init__(self) -> None:
        super().__init__(0, 3)
        self.setAccessibleName("pairs of the batch")
        self.setHorizontalHeaderLabels(["pair", "", "before → after"])
        self.verticalHeader().hide()
        self.setShowGrid(False)
        self.setWordWrap(True)
        self.setTabKeyNavigation(False)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumHeight(140)
        header = self.horizontalHeader()
        header.setMinimumSectionSize(16)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(2, QHeaderView.ResizeMode.Stretch)

    def show_jobs(self, jobs: list[Any]) -> None:
        """Show new pairs."""
        self.setRowCount(len(jobs))
        for row, job in enumerate(jobs):
            for column, text in enumerate((job.name, "", "")):
                self.setItem(row, column, QTableWidgetItem(text))
            self.item(row, 0).setToolTip(f"{job.moving}\n-> {job.fixed}")

    def show_row(self, number: int, state: str, row: dict[str, Any] | None, theme: str) -> None:
        """Show how one pair went."""
        text, tip, word, verdict = "", _TIPS[state], _TIPS[state], ""
        if row is not None and state == "failed":
            text = tip = str(row["error"])
        elif row is not None:
            text, tip = summary(row), "\n".join([tip, *details(row)])
            verdict = str(row.get("verdict") or "")
            if verdict in _DISTRUSTED:
                text, word = f"{verdict}: {text}", f"Registered. The result is {_DISTRUSTED[verdict]}."
        sign, score = self.item(number, 1), self.item(number, 2)
        sign.setText({"failed": "✗", "doubtful": "?"}.get(verdict, STATES[state]))
        sign.setData(Qt.ItemDataRole.AccessibleTextRole, word)
        score.setData(Qt.ItemDataRole.UserRole, verdict)
        score.setText(text)
        for item in (sign, score):
            item.setToolTip(tip)
        sign.setData(Qt.ItemDataRole.UserRole, state)
        self._color(number, theme)
        if state == "failed":
            self.resizeRowToContents(number)

    def _color(self, number: int, theme: str) -> None:
        kind = {"failed": "bad", "done": "good", "kept": "good"}.get(self.row_state(number))
        verdict = self.item(number, 2).data(Qt.ItemDataRole.UserRole)
        kind = {"failed": "bad", "doubtful": None}.get(verdict, kind)
        brush = QBrush(QColor(COLORS[theme][kind])) if kind else QBrush()
        self.item(number, 1).setForeground(brush)
        if kind != "good":
            self.item(number, 2).setForeground(brush)

    def restyle(self, theme: str) -> None:
        """Colors for the theme; the signs say the same."""
        for row in range(self.rowCount()):
            self._color(row, theme)

    def row_state(self, number: int) -> str:
        """Return the state of a pair, a key of :data:`STATES`."""
        return str(self.item(number, 1).data(Qt.ItemDataRole.UserRole) or "")


def summary(row: dict[str, Any]) -> str:
    """Return the most informative score: landmarks if present, else labels, else the images' similarity."""
    for name, title in _SCORES:
        after = row.get(f"{name}_after")
        if after is not None:
            return f"{title} {_number(row.get(f'{name}_before'))} → {_number(after)}"
    return "done"


def details(row: dict[str, Any]) -> list[str]:
    """Return all figures of a row, one per line."""
    return [
        f"{name.replace('_', ' ')}: {_number(value) if isinstance(value, float) else value}"
        for name, value in row.items()
        if name not in ("name", "state", "error") and value not in (None, "")
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


class BatchPanel(OptionsPanel):
    """Register many pairs of image files into one folder.

    Parameters
    ----------
    napari_viewer
        The napari viewer.

    Notes
    -----
    From code: :meth:`load_jobs`, :meth:`list_pairs`, :meth:`run`, :meth:`stop`, :attr:`jobs`, :attr:`result`.
    """

    title = "Batch registration"
    help_page = "how-to/batch.html"
    introduction = (
        "Choose a list of pairs, or a fixed and a moving folder.",
        "Choose a folder for the results, and settings for all pairs.",
        "Press Run, then Open summary.",
    )

    options: OptionsForm

    def __init__(self, napari_viewer: Viewer) -> None:
        options = OptionsForm()
        super().__init__(napari_viewer, "Choose a list of pairs, or folders, and a folder for the results.", options)
        self.jobs: list[Any] = []
        self.result: Any = None
        self.list_button = button(
            "List of pairs …",
            "A CSV file with the columns fixed and moving, and optionally name, masks, labels, landmarks, any setting.",
        )
        self.fixed_edit, fixed_row = self._path("Fixed", "One image, or a folder of images.", folder_or_file=True)
        self.moving_edit, moving_row = self._path("Moving", "A folder of images.")
        self.output_edit, output_row = self._path("Results", "A new or empty folder, or that of an earlier batch.")
        self.pairs_button = button("Pair the folders", "Pair images of equal names, or one fixed image with all.")
        content = QWidget()
        rows = FormLayout()
        content.setLayout(rows)
        rows.add("Fixed", fixed_row)
        rows.add("Moving", moving_row)
        rows.add_full_width(self.pairs_button)
        self.folders = collapsible("Pairs from folders", content, "Instead of a list.")
        options.results.hide()
        content = QWidget()
        rows = FormLayout()
        content.setLayout(rows)
        rows.add_full_width(options)
        self.settings = collapsible("Settings", content, "For all pairs. Columns of the list win.")
        self.table = JobTable()
        self.restart_box = QCheckBox("Run every pair again")
        self.restart_box.setToolTip("Otherwise pairs that are done, of the same files and settings, are kept.")
        self.run_button = button("Run", "Register all pairs and keep those that are done (Ctrl+Enter).")
        emphasize(self.run_button)
        self.page_button = button("Open summary", "The page with scores and pictures, in the browser.")
        self.note = help_label()
        results = FormLayout()
        results.add("Results", output_row)
        buttons = QHBoxLayout()
        buttons.setSpacing(4)
        for made in (self.run_button, self.page_button):
            made.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            buttons.addWidget(made)
        self.form.addWidget(self.list_button)
        self.form.addWidget(self.folders)
        self.form.addWidget(self.settings)
        self.form.addLayout(results)
        self.form.addWidget(self.restart_box)
        self.form.addLayout(buttons)
        self.form.addWidget(self.note)
        self.form.addWidget(self.table, 1)
        self.list_button.clicked.connect(self._ask_list)
        self.pairs_button.clicked.connect(self._on_pairs)
        self.run_button.clicked.connect(self.run)
        self.page_button.clicked.connect(self.open_summary)
        self.output_edit.textChanged.connect(self._on_output)
        self.run_shortcut(self.run)
        self.show_state()

    def _path(self, name: str, tip: str, *, folder_or_file: bool = False) -> tuple[QLineEdit, QWidget]:
        edit = QLineEdit()
        edit.setToolTip(tip)
        edit.setAccessibleName(f"{name.lower()} path")
        edit.setMinimumWidth(40)
        kinds = (("File …", True), ("Folder …", False)) if folder_or_file else (("Folder …", False),)
        buttons = []
        for text, is_file in kinds:
            made = button(text, tip)
            made.setProperty("target", edit)
            made.clicked.connect(self._ask_file if is_file else self._ask_folder)
            buttons.append(made)
        return edit, field_row(edit, *buttons)

    def _ask_file(self) -> None:
        edit = self.sender().property("target")
        path, _ = QFileDialog.getOpenFileName(self, "Fixed image", edit.text())
        if path:
            edit.setText(path)

    def _ask_folder(self) -> None:
        edit = self.sender().property("target")
        path = QFileDialog.getExistingDirectory(self, "Folder", edit.text())
        if path:
            edit.setText(path)

    # -- the pairs

    def load_jobs(self, path: str) -> bool:
        """Take the pairs from a list."""
        from napari_stnreg.batch import read_jobs

        return self._take(read_jobs, path)

    def list_pairs(self, fixed: str, moving: str) -> bool:
        """Take the pairs from folders."""
        from napari_stnreg.batch import pair_folders  # imports torch, which opening the panel must not

        self.fixed_edit.setText(str(fixed))
        self.moving_edit.setText(str(moving))
        return self._take(pair_folders, str(fixed), str(moving))

    def _take(self, find: Any, *arguments: Any) -> bool:
        try:
            jobs = find(*arguments)
        except RegistrationError as error:
            self.show_error(error)
            return False
        self.jobs, self.result = jobs, None
        self.table.show_jobs(jobs)
        self.show_status(f"{len(jobs)} pairs.")
        self.show_state()
        return True

    def _ask_list(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "A list of pairs", "", "CSV (*.csv)")
        if path:
            self.load_jobs(path)

    def _on_pairs(self) -> None:
        self.list_pairs(self.fixed_edit.text().strip(), self.moving_edit.text().strip())

    # -- the run

    def run(self) -> bool:
        """Run or resume the batch; return false, with a message in the status line, if that is not possible."""
        try:
            if not self.jobs:
                raise InputError("There are no pairs yet: choose a list, or folders.")
            output = self.output_edit.text().strip()
            if not output:
                raise InputError("No folder for the results is selected. Choose one.")
            settings = RegistrationSettings.parse(**self._values())
        except RegistrationError as error:
            self.refuse(error)
            return False
        if self.running:
            self.show_status("A batch is running already. Stop it first.", warn=True)
            return False
        self.result = None
        self.table.show_jobs(self.jobs)
        return self.begin(run_batch, self.jobs, output, settings, self.restart_box.isChecked(), done=self._on_done)

    def _values(self) -> dict[str, Any]:
        """Settings of the form, with the file of the selected model."""
        model = self.options.models.require()
        if model is None:
            if not self.options.family:
                raise InputError("No transform is selected. Choose a linear one, a deformable one, or both.")
            return self.options.values()
        if model.path is None:
            raise InputError(f"The model '{model.name}' is not saved yet. Save it in the panel Train STN model first.")
        return {**self.options.values(), "model": model.path}

    def on_progress(self, what: Any) -> None:
        """Show the finished rows."""
        theme = theme_kind(self._viewer)
        for number, state, row in what:
            self.table.show_row(number, state, row, theme)
            self.table.scrollToItem(self.table.item(number, 0))

    def drop_scores(self) -> None:
        """Remove the summary of the last batch."""
        self.note.setText("")

    def _on_done(self, result: Any) -> None:
        self.result = result
        names = [job.name for job in self.jobs]
        states = [self.table.row_state(number) for number in range(len(names))]
        theme = theme_kind(self._viewer)
        for row in result.rows:
            number = names.index(row["name"])
            if states[number] not in ("done", "kept", "failed"):
                self.table.show_row(number, row["state"], row, theme)
        for number, name in enumerate(names):
            if not any(row["name"] == name for row in result.rows):
                self.table.show_row(number, "", None, theme)
        failed, rejected = len(result.failed), len(result.rejected)
        text = f"{len(result.rows)} of {len(names)} pairs"
        text += f", {failed} failed" if failed else ""
        text += f", {rejected} judged as failed" if rejected else ""
        if result.stop_reason == "stopped":
            text += ". Stopped. Run continues from here"
        self.note.setText(text + ".")
        self.show_status(text + ".", warn=bool(failed or rejected))

    @property
    def page(self) -> Path:
        """The summary page of the folder of results."""
        return Path(self.output_edit.text().strip()) / "summary.html"

    def open_summary(self) -> None:
        """Show the page of the results in the browser."""
        if self.page.is_file():
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self.page.resolve())))
        else:
            self.show_status("There is no summary yet. Run the batch first.")

    # -- what is shown

    def viewer_events(self) -> list[tuple[Any, Any]]:
        """List the viewer events to follow: the layers of the viewer do not matter here."""
        return self.own_events()

    def _on_theme(self, _event: Any = None) -> None:
        self.table.restyle(theme_kind(self._viewer))

    def _on_output(self, _text: str) -> None:
        self.show_state()

    def show_state(self) -> None:
        """Enable what is possible now."""
        super().show_state()
        idle = not self.running
        for made in (self.list_button, self.folders, self.settings, self.output_edit, self.restart_box):
            made.setEnabled(idle)
        output = self.output_edit.text().strip()
        begun = bool(output) and (Path(output) / "batch.json").is_file()
        self.run_button.setText("Resume" if begun and not self.restart_box.isChecked() else "Run")
        self.run_button.setEnabled(idle and bool(self.jobs))
        self.page_button.setEnabled(bool(output) and self.page.is_file())
