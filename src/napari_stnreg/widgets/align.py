"""The panel for stacks of serial sections: align, look along z, mend by hand, align a range again, save."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image, Layer, Points
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QSizePolicy,
    QSpinBox,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from napari_stnreg.errors import InputError, RegistrationError
from napari_stnreg.widgets import align_tasks
from napari_stnreg.widgets.align_form import AlignForm
from napari_stnreg.widgets.align_layers import aligned_layer, pixels_of, raw_data, section_landmarks, source_of
from napari_stnreg.widgets.forms import Rows, button, folded, hint, line
from napari_stnreg.widgets.gap_plot import GapPlot
from napari_stnreg.widgets.going import viewer_point
from napari_stnreg.widgets.tool_panel import ToolPanel

FLICKER = "Alt-B"
_KEPT: list[tempfile.TemporaryDirectory[str]] = []
"""Where results lie until they are saved: as long as this program runs, since layers read from there."""


class AlignWidget(ToolPanel):
    """Aligns a stack layer and helps to find and mend what is wrong.

    Parameters
    ----------
    viewer
        The napari viewer.

    Notes
    -----
    It can be driven from code: :meth:`start`, :meth:`stop`, :meth:`flicker`, :meth:`exclude_section`,
    :meth:`align_range`, :meth:`save_to`, :attr:`result`, :attr:`running`.
    """

    def __init__(self, viewer: Any) -> None:
        super().__init__(viewer, "Choose a stack and press Align.")
        self.result: Any = None
        self.excluded: set[int] = set()
        self._raw: Image | None = None
        self._aligned: Layer | None = None
        self._points: Points | None = None
        self._job: align_tasks.AlignJob | None = None
        self._unfinished: align_tasks.AlignJob | None = None
        self._reslices: Any = None
        self.inputs = AlignForm(viewer)
        self._make_buttons()
        self._make_findings()
        for part in (self.inputs, self._start_row, self.plot, self.table, line(), self._look_row, self.mend):
            self.form.addWidget(part)
        self.form.addStretch(1)
        self._viewer.bind_key(FLICKER, self._on_flicker_key, overwrite=True)
        self.refresh()
        self.show_state()

    # -- what it is made of

    def _make_buttons(self) -> None:
        self.align_button = button("Align", "Align the whole stack (Ctrl+Enter).")
        font = self.align_button.font()
        font.setBold(True)
        self.align_button.setFont(font)
        self.align_button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.align_button.clicked.connect(self.start)
        self.save_button = button("Save …", "Write the aligned stack and its displacement as OME-Zarr.")
        self.save_button.clicked.connect(self._ask_where)
        self._start_row = _row(self.align_button, self.save_button)
        self.flicker_button = button("Before / after", "Switch between the raw and the aligned stack (Alt+B).")
        self.flicker_button.clicked.connect(self.flicker)
        self.reslice_button = button(
            "Cut XZ, YZ", "Cut both stacks across the sections, through the middle of the view."
        )
        self.reslice_button.clicked.connect(self.cut)
        self._look_row = _row(self.flicker_button, self.reslice_button)
        self.run_shortcut(self.start)

    def _make_findings(self) -> None:
        self.plot = GapPlot(self._viewer)
        self.plot.hide()
        self.plot.picked.connect(self.go_to_section)
        self.table = QTableWidget(0, 3)
        self.table.setHorizontalHeaderLabels(["Section", "Verdict", "Reason"])
        self.table.verticalHeader().hide()
        self.table.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        for column, mode in enumerate(("ResizeToContents", "ResizeToContents", "Stretch")):
            self.table.horizontalHeader().setSectionResizeMode(column, getattr(QHeaderView.ResizeMode, mode))
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setWordWrap(True)
        self.table.setMinimumHeight(110)
        self.table.setMaximumHeight(150)
        self.table.setAccessibleName("sections to look at")
        self.table.setToolTip("Sections that are not simply aligned; click one to go there.")
        self.table.cellClicked.connect(self._on_row)
        self.table.hide()

        content = QWidget()
        rows = Rows()
        self.exclude_button = button("Exclude this section", "Match no other section with the one that is shown.")
        self.exclude_button.setCheckable(True)
        self.exclude_button.clicked.connect(self._on_exclude)
        self.points_button = button(
            "Add landmark pairs",
            "Make a points layer: the first point in one section belongs to the first in the next.",
        )
        self.points_button.clicked.connect(self.add_landmarks)
        self.range_box = QSpinBox()
        self.range_box.setRange(0, 50)
        self.range_box.setValue(1)
        self.range_box.setToolTip("Sections before and after the one that is shown.")
        self.again_button = button("Align these again", "Align the range again; all other sections stay.")
        self.again_button.clicked.connect(self._on_again)
        self.note = hint()
        rows.wide(self.note)
        rows.wide(self.exclude_button)
        rows.wide(self.points_button)
        rows.add("± sections", self.range_box)
        rows.wide(self.again_button)
        content.setLayout(rows)
        self.mend = folded("Mend by hand", content, "Exclude sections, add landmarks, align a part again.")

    # -- aligning

    def start(self) -> bool:
        """Align the chosen stack; false, with a sentence in the status line, when that cannot be."""
        if self.running or not self._begin(self._new_job):
            return False
        self.plot.hide()
        self.table.hide()
        return True

    def align_range(self, first: int, last: int) -> bool:
        """Align some sections again while all others stay where they are."""
        if self.running or self.result is None or self._raw is None:
            return False
        raw, result = self._raw, self.result
        return self._begin(
            lambda: align_tasks.AlignJob(
                source_of(raw),
                result.path,
                result.settings,
                tuple(sorted(self.excluded)),
                section_landmarks(self._points, raw),
                (max(first, 0), min(last, raw_data(raw).shape[0] - 1)),
            )
        )

    def _begin(self, make: Callable[[], align_tasks.AlignJob]) -> bool:
        """Start what the form asks for, or say why that cannot be."""
        try:
            job = make()
        except RegistrationError as error:
            self.complain(error)
            return False
        if not self.begin(align_tasks.align, job, done=self._on_aligned):
            return False
        self._job = job
        return True

    def _new_job(self) -> align_tasks.AlignJob:
        import napari_stnreg as sr

        layer = self.inputs.layer
        if layer is None:
            raise InputError("There is no stack: open one (z, y, x) as an image layer, and choose it.")
        settings = sr.StackSettings.parse(**self.inputs.values())
        if layer is not self._raw:
            self.excluded.clear()
            self._points = None
        self._raw = layer
        gigabytes = self.inputs.memory.value
        job = align_tasks.AlignJob(
            source_of(layer),
            Path(),
            settings,
            tuple(sorted(self.excluded)),
            section_landmarks(self._points, layer),
            workers=self.inputs.threads.value,
            memory=None if gigabytes is None else gigabytes * 2**30,
        )
        old = self._unfinished
        again = (
            old is not None
            and old.settings == settings
            and old.exclude == job.exclude
            and not (old.landmarks or job.landmarks)
            and getattr(old.stack, "array", None) is getattr(job.stack, "array", None)
        )
        if not again:
            _KEPT.append(tempfile.TemporaryDirectory(prefix="stnreg-"))
        output = old.output if again else Path(_KEPT[-1].name) / "aligned.zarr"
        return replace(job, output=output, resume=again)

    def on_partial(self, output: Path) -> None:
        """Show the aligned stack as soon as there is one, and what was added to it since."""
        if self._job is None or self._job.only is not None:
            return
        if self._aligned is None or self._aligned.metadata.get("stnreg_stack") != str(output):
            self._show_aligned(output)
        elif self._aligned in self._viewer.layers:
            self._aligned.refresh()

    def _show_aligned(self, output: Path) -> None:
        if self._raw is None:
            return
        if self._aligned is not None and self._aligned in self._viewer.layers:
            self._viewer.layers.remove(self._aligned)
        self._aligned = aligned_layer(output, self._raw)
        self.add_layers([self._aligned])
        self.refresh()
        self.set_shown(after=True)

    def _on_aligned(self, result: Any) -> None:
        job, self._job = self._job, None
        if result.ending == "stopped":
            self._unfinished = job if job is not None and job.only is None else None
            self.bar.setValue(0)
            self.say("Stopped. What is done is kept: Align goes on from there.")
            return
        self._unfinished = None
        self.result = result
        if self._aligned is None or self._aligned not in self._viewer.layers:
            self._show_aligned(result.path)
        else:
            self._aligned.refresh()
        self._show_findings()
        counts = result.report()["verdicts"]
        text = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
        self.say(f"Done: {text}, {result.seconds:.0f} s." + "".join(f" {w}" for w in result.warnings))

    def _on_cancelled(self) -> None:
        super()._on_cancelled()
        self._job = None

    def _on_failed(self, error: Exception) -> None:
        self._job = None
        super()._on_failed(error)

    # -- what was found

    def _show_findings(self) -> None:
        bad = [one for one in self.result.verdicts if one.verdict != "aligned"]
        weak = {one.section for one in bad if one.verdict in ("weak", "failed")}
        gaps = self.result.gaps
        self.plot.show()
        self.plot.show_gaps(
            [(gap["section"] + gap["next"]) / 2 for gap in gaps],
            [gap["correlation_before"] for gap in gaps],
            [gap["correlation_after"] for gap in gaps],
            [gap["section"] in weak or gap["next"] in weak for gap in gaps],
        )
        self.table.setRowCount(len(bad))
        for row, one in enumerate(bad):
            for column, text in enumerate((str(one.section), one.verdict, one.reason)):
                item = QTableWidgetItem(text)
                item.setToolTip(text)
                self.table.setItem(row, column, item)
        self.table.setVisible(bool(bad))
        self._on_section()

    def _on_row(self, row: int, _column: int) -> None:
        self.go_to_section(int(self.table.item(row, 0).text()))

    def go_to_section(self, section: int) -> None:
        """Show a section of the stack."""
        if self._raw is None or self._raw not in self._viewer.layers:
            return
        count = raw_data(self._raw).shape[0]
        z = min(max(section, 0), count - 1)
        self._viewer.dims.set_point(self._viewer.dims.ndim - 3, viewer_point(self._raw, (z, 0, 0), self._viewer)[0])

    @property
    def section(self) -> int:
        """The section that is shown."""
        if self._raw is None or self._raw not in self._viewer.layers or self._viewer.dims.ndim < 3:
            return 0
        return pixels_of(self._raw, self._viewer)[0]

    def flicker(self) -> None:
        """Switch between the raw and the aligned stack."""
        if self._aligned is not None and self._aligned in self._viewer.layers:
            self.set_shown(after=not self._aligned.visible)

    def set_shown(self, *, after: bool) -> None:
        """Show the aligned stack, or the raw one."""
        for layer, visible in ((self._aligned, after), (self._raw, not after)):
            if layer is not None and layer in self._viewer.layers:
                layer.visible = visible

    def _on_flicker_key(self, _viewer: Any) -> None:
        self.flicker()

    def cut(self) -> bool:
        """Cut both stacks through the middle of the view and show the cuts side by side."""
        if self.result is None or self._raw is None:
            return False
        aligned = self.result.aligned
        place = pixels_of(self._raw, self._viewer)[1:]
        return self.begin(
            align_tasks.reslice, raw_data(self._raw), aligned.levels[0], aligned.canvas.origin, place, done=self._on_cut
        )

    def _on_cut(self, cuts: Any) -> None:
        from napari_stnreg.widgets.reslice_view import ResliceView

        if self._reslices is None or self._reslices.parent() is None:
            self._reslices = ResliceView()
            self._viewer.window.add_dock_widget(self._reslices, name="Cuts across the sections", area="bottom")
        raw = self._raw
        limits = tuple(raw.contrast_limits) if raw is not None else (0.0, 255.0)
        scale = raw.scale if raw is not None else np.ones(3)
        self._reslices.show_cuts(cuts, limits, float(scale[0] / scale[2]))
        self.say(f"Cut through row {cuts.place[0]} and column {cuts.place[1]}.")

    # -- mending

    def exclude_section(self, section: int, *, exclude: bool = True) -> None:
        """Leave a section out of matching from the next run on, or take it in again."""
        (self.excluded.add if exclude else self.excluded.discard)(section)
        self._on_section()

    def _on_exclude(self, checked: bool) -> None:
        self.exclude_section(self.section, exclude=checked)

    def add_landmarks(self) -> None:
        """Add a points layer over the raw stack, ready to be drawn into."""
        raw = self._raw or self.inputs.layer
        if raw is None or raw not in self._viewer.layers:
            self.say("Choose a stack first.")
            return
        self._raw = raw
        if self._points is None or self._points not in self._viewer.layers:
            self._points = Points(
                np.empty((0, 3)), name=f"{raw.name} landmarks", scale=raw.scale, translate=raw.translate,
                units=raw.units, axis_labels=raw.axis_labels, size=max(raw_data(raw).shape[1] / 60, 4),
                face_color="transparent", border_color="#ff9f1c", border_width=0.15, out_of_slice_display=False,
            )  # fmt: skip
            self._viewer.add_layer(self._points)
        self._viewer.layers.selection.active = self._points
        self._points.mode = "add"
        self.set_shown(after=False)
        self.say("Click a place in one section and the same place in the next; then align these again.")

    def _on_again(self) -> None:
        reach = self.range_box.value()
        self.align_range(self.section - reach, self.section + reach)

    # -- saving

    def _ask_where(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Save the aligned stack", "aligned.zarr", "OME-Zarr (*.zarr)")
        if name:
            self.save_to(Path(name))

    def save_to(self, path: Path | str) -> bool:
        """Write the aligned stack as OME-Zarr, with its displacement, report and table."""
        path = Path(path)
        path = path if path.name.endswith(".zarr") else path.with_name(path.name + ".zarr")
        if self.result is None:
            return False
        return self.begin(align_tasks.save, self.result.path, path, self.result, done=self._on_saved)

    def _on_saved(self, path: Path) -> None:
        self.say(f"Saved as {path.name}.")

    # -- the viewer around it

    def viewer_events(self) -> list[tuple[Any, Any]]:
        """Layers, the slider, and the theme."""
        more = [
            (self._viewer.dims.events.current_step, self._on_section),
            (self._viewer.events.theme, self._on_theme),
        ]
        return super().viewer_events() + more

    def refresh(self) -> None:
        """Take up the viewer's layers."""
        self.inputs.refresh({self._aligned})
        self.show_state()

    def show_state(self) -> None:
        """Enable what can be done now."""
        super().show_state()
        if not hasattr(self, "mend"):
            return
        idle, there = not self.running, self.result is not None
        self.inputs.setEnabled(idle)
        self.align_button.setEnabled(idle and self.inputs.layer is not None)
        for part in (self.save_button, self.reslice_button, self.again_button):
            part.setEnabled(idle and there)
        self.flicker_button.setEnabled(self._aligned is not None and self._aligned in self._viewer.layers)
        self.points_button.setEnabled(idle and self.inputs.layer is not None)
        self.exclude_button.setEnabled(idle)
        self._on_section()

    def _on_section(self, _event: Any = None) -> None:
        section = self.section
        self.plot.set_section(section)
        self.exclude_button.setChecked(section in self.excluded)
        out = ", ".join(str(z) for z in sorted(self.excluded)) or "none"
        self.note.setText(f"Shown: section {section}. Excluded: {out}.")

    def _on_theme(self, _event: Any = None) -> None:
        self.plot.restyle()

    def close_down(self) -> None:
        """End the run and let go of the viewer."""
        super().close_down()
        self._viewer.bind_key(FLICKER, None, overwrite=True)


def _row(*widgets: QWidget) -> QWidget:
    content = QWidget()
    box = QHBoxLayout(content)
    box.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        widget.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        box.addWidget(widget)
    return content
