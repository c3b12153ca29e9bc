"""The panel for stacks of serial sections: align, inspect, correct, realign a range, save."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QFileDialog

from napari_stnreg.core.errors import InputError, RegistrationError
from napari_stnreg.widgets.align_stack import tasks
from napari_stnreg.widgets.align_stack.corrections_form import CorrectionsForm
from napari_stnreg.widgets.align_stack.form import AlignForm
from napari_stnreg.widgets.align_stack.layers import pixels_at, pixels_of, raw_data
from napari_stnreg.widgets.align_stack.live_cuts import LiveCuts
from napari_stnreg.widgets.align_stack.quality_view import QualityView
from napari_stnreg.widgets.align_stack.remote_form import RemoteForm
from napari_stnreg.widgets.align_stack.session import StackWork
from napari_stnreg.widgets.common.forms import button, button_row, collapsible, emphasize, separator
from napari_stnreg.widgets.common.task_panel import TaskPanel

if TYPE_CHECKING:
    from napari.viewer import Viewer

PLAY_MS = 400
"""Time for which each of two neighbors is shown."""


class AlignStackPanel(TaskPanel):
    """Align a stack layer, and find and correct misaligned sections.

    Parameters
    ----------
    napari_viewer
        The napari viewer.

    Notes
    -----
    It can be driven from code: :meth:`start`, :meth:`stop`, :meth:`flicker`, :meth:`exclude_section`,
    :meth:`align_range`, :meth:`save_to`, :meth:`open_url`, :meth:`write_url`, :attr:`result`, :attr:`running`. Each
    stack keeps its own result, excluded sections and landmarks; choosing another stack shows what is known of that one.
    """

    title = "Align section stack"
    help_page = "tutorials/stack.html"
    introduction = (
        "Choose a stack (z, y, x).",
        "Press Align and look at the gaps that are marked.",
        "Correct what is wrong, align again, and save.",
    )

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer, "Choose a stack and press Align.")
        self._works: list[StackWork] = []
        self._work: StackWork | None = None
        self._job: tasks.AlignJob | None = None
        self._reslices: Any = None
        self._place = (0, 0)
        self.inputs = AlignForm(self._viewer)
        self.findings = QualityView(self._viewer)
        self.corrections = CorrectionsForm()
        self.corrections_section = collapsible(
            "Manual corrections", self.corrections, "Exclude sections, add landmarks, realign a range."
        )
        self.remote = RemoteForm()
        self.remote_section = collapsible(
            "Zarr store at a URL",
            self.remote,
            "Open a stack in object storage or on a server, or write there.",
        )
        self._make_buttons()
        self.form.addWidget(self.inputs)
        self.form.addLayout(self._start_row)
        self.form.addWidget(self.findings)
        self.form.addWidget(separator())
        self.form.addLayout(self._look_row)
        self.form.addWidget(self.reslice_button)
        self.form.addWidget(self.corrections_section)
        self.form.addWidget(self.remote_section)
        self.form.addStretch(1)
        self._to_findings = QTimer(self)
        self._to_findings.setSingleShot(True)
        self._to_findings.setInterval(250)  # once they have their place in the form
        self._cuts = LiveCuts(self)
        self._player = QTimer(self)
        self._player.setInterval(PLAY_MS)
        self._played = 0
        self._connect()
        self.refresh()

    def _make_buttons(self) -> None:
        self.align_button = button("Align", "Align the whole stack (Ctrl+Enter).")
        emphasize(self.align_button)
        self.save_button = button("Save …", "Write the aligned stack and its displacement as OME-Zarr.")
        self._start_row = button_row(self.align_button, self.save_button)
        self.flicker_button = button("Before / after", "Switch between the raw and the aligned stack (Shift+B).")
        self.play_button = button("Play neighbors", "Switch between this section and the next, again and again.")
        self.play_button.setCheckable(True)
        self.reslice_button = button(
            "Cut XZ, YZ",
            "Cut the raw and the aligned stack across the sections. The cuts follow the cursor, also while sections "
            "arrive.",
        )
        self._look_row = button_row(self.flicker_button, self.play_button)

    def _connect(self) -> None:
        self.inputs.stack.currentIndexChanged.connect(self._on_stack)
        self.align_button.clicked.connect(self.start)
        self.save_button.clicked.connect(self._ask_where)
        self.flicker_button.clicked.connect(self.flicker)
        self.play_button.toggled.connect(self.play_neighbors)
        self._player.timeout.connect(self._play_on)
        self.reslice_button.clicked.connect(self.cut)
        self._cuts.made.connect(self._on_cut)
        self._viewer.mouse_move_callbacks.append(self._on_cursor)
        self.findings.picked.connect(self.go_to_section)
        self.corrections.excluding.connect(self._on_exclude)
        self.corrections.marking.connect(self.add_landmarks)
        self.corrections.again.connect(self._on_again)
        self.remote.opening.connect(self.open_url)
        self.remote.writing.connect(self.write_url)
        self._to_findings.timeout.connect(self._scroll_to_findings)
        self.run_shortcut(self.start)
        self.claim_before_after(self.flicker)

    # -- the stack that is worked on

    @property
    def result(self) -> Any:
        """The alignment of the stack that is shown, or ``None``."""
        return None if self._work is None else self._work.result

    @property
    def excluded(self) -> set[int]:
        """Sections that are excluded from matching."""
        return set() if self._work is None else self._work.excluded

    def _on_stack(self, _index: int = 0) -> None:
        if not self.running:
            self._turn_to(self.inputs.layer)
            if self._work is None or not self._work.reopened:
                self.show_status("Press Align." if self.result is None else "This stack is aligned already. See above.")
            self.show_state()

    def _turn_to(self, layer: Any) -> None:
        """Switch to a stack and restore its result, exclusions and landmarks."""
        if layer is None or (self._work is not None and self._work.raw is layer):
            return
        self._works = [one for one in self._works if one.has(one.raw) or one.has(one.aligned)]
        found = next((one for one in self._works if one.raw is layer), None)
        if found is None:
            found = StackWork(self._viewer, layer)
            self._works.append(found)
            self._reopen(found)
        self._work = found
        if found.result is not None:
            self.findings.show_result(found.result)
        else:
            self.findings.hide()

    def _reopen(self, work: StackWork) -> None:
        """Read the report of a layer that shows a saved alignment."""
        path = work.raw.metadata.get("stnreg_stack")
        if not isinstance(path, str):
            return
        from napari_stnreg.stacks.result import read_result

        try:
            work.result = read_result(path)
        except RegistrationError as error:
            self.show_status(f"The alignment was opened without its report. {error}")
            return
        work.reopened = True
        self.show_status("An aligned stack with its report. Align aligns it once more.")

    # -- aligning

    def start(self) -> bool:
        """Align the selected stack; return false, with a message in the status line, if that is not possible."""
        if self.running or not self._begin(self._whole):
            return False
        self.findings.hide()
        return True

    def align_range(self, first: int, last: int) -> bool:
        """Realign a range of sections while all others stay fixed."""
        if self.running or self._work is None or self.result is None or self._work.reopened:
            return False
        return self._begin(lambda: self._work.part(first, last, *self._means()) if self._work else None)

    def _begin(self, make: Callable[[], tasks.AlignJob | None]) -> bool:
        """Start a job, or show why that is not possible."""
        try:
            job = make()
        except RegistrationError as error:
            self.show_error(error)
            return False
        if job is None or not self.begin(tasks.align, job, done=self._on_aligned):
            return False
        self._job = job
        return True

    def _whole(self) -> tasks.AlignJob:
        import napari_stnreg as sr

        layer = self.inputs.layer
        if layer is None:
            raise InputError("There is no stack. Open one (z, y, x) as an image layer and select it.")
        settings = sr.StackSettings.parse(**self.inputs.values())
        self._turn_to(layer)
        assert self._work is not None
        return self._work.whole(settings, *self._means())

    def _means(self) -> tuple[int | None, float | None]:
        """Number of threads and their memory in bytes."""
        gigabytes, threads = self.inputs.memory.value, self.inputs.threads.value
        return None if threads is None else int(threads), None if gigabytes is None else gigabytes * 2**30

    def on_progress(self, output: Path) -> None:
        """Show the aligned stack as soon as it exists, and the sections that were added since."""
        if self._job is None or self._job.section_range is not None or self._work is None:
            return
        if not self._work.aligned_from(output):
            self._show_aligned(output)
        elif self._work.has(self._work.aligned):
            self._work.aligned.refresh()
        self._cut_at(self._place)

    def _show_aligned(self, output: Path) -> None:
        work = self._work
        if work is None:
            return
        if work.has(work.aligned):
            self._viewer.layers.remove(work.aligned)
        self.add_layers([work.make_aligned(output)])
        self.refresh()
        work.set_shown(after=True)

    def _on_aligned(self, result: Any) -> None:
        job, self._job = self._job, None
        work = self._work
        if work is None or job is None:
            return
        work.take(job, result)
        self.claim_before_after(self.flicker)
        if result.stop_reason == "stopped":
            self.bar.setValue(0)
            again = "Align" if job.section_range is None else "Align these again"
            self.show_status(f"Stopped. Finished sections are kept. {again} continues from there.")
            return
        if not work.aligned_from(result.path) or not work.has(work.aligned):
            self._show_aligned(result.path)
        else:
            work.aligned.refresh()
        work.drop_outputs()
        self._cut_at(self._place)
        self.findings.show_result(work.result)
        self._to_findings.start()
        self.show_status(f"Done in {result.seconds:.0f} s." + (" Read the note above." if work.result.warnings else ""))

    def _on_canceled(self) -> None:
        super()._on_canceled()
        self._job = None

    def _on_failed(self, error: Exception) -> None:
        self._job = None
        super()._on_failed(error)

    # -- looking

    def _scroll_to_findings(self) -> None:
        # From the top on: the words come first.
        self.scroll_area.ensureWidgetVisible(self.findings, 0, 0)
        self.scroll_area.ensureWidgetVisible(self.findings.summary, 0, 0)
        self.scroll_area.ensureWidgetVisible(self.findings.warning, 0, 0)

    def go_to_section(self, section: int) -> None:
        """Show a section of the stack."""
        if self._work is not None:
            self._work.go_to_section(section)

    @property
    def section(self) -> int:
        """The section that is shown."""
        return 0 if self._work is None else self._work.section

    def flicker(self) -> None:
        """Switch between the raw and the aligned stack."""
        if self._work is not None:
            self._work.flicker()

    def play_neighbors(self, playing: bool = True) -> None:
        """Switch between the section that is shown and the next one, until it is turned off."""
        self._played = self.section
        if playing and self._work is not None:
            self._player.start()
        else:
            self._player.stop()
        self.play_button.setChecked(self._player.isActive())

    def _play_on(self) -> None:
        if self._work is None or not self._work.has(self._work.raw):
            self.play_neighbors(False)
            return
        if self.section not in (self._played, self._played + 1):  # the user went elsewhere
            self._played = self.section
        last = raw_data(self._work.raw).shape[0] - 1
        self._played = min(self._played, last - 1)
        self.go_to_section(self._played if self.section > self._played else self._played + 1)

    def cut(self) -> bool:
        """Show the cuts of both stacks side by side, through the center of the view; they follow the cursor."""
        from napari_stnreg.widgets.align_stack.reslice_view import ResliceView

        work = self._work
        if work is None or not work.has(work.raw):
            return False
        if self._reslices is None or self._reslices.parent() is None:
            self._reslices = ResliceView()
            self._viewer.window.add_dock_widget(self._reslices, name="Cuts across the sections", area="bottom")
        self._cut_at(pixels_of(work.raw, self._viewer)[1:])
        return True

    def _cut_at(self, place: tuple[int, int]) -> None:
        """Ask for the cuts at a row and column of the raw stack, if they are shown."""
        work = self._work
        if work is None or not work.has(work.raw) or self._reslices is None or self._reslices.parent() is None:
            return
        self._place = place
        output = None if work.aligned is None else Path(work.aligned.metadata["stnreg_stack"])
        self._cuts.request(raw_data(work.raw), output if output is not None and output.exists() else None, place)

    def _on_cursor(self, _viewer: Viewer, event: Any) -> None:
        work = self._work
        if work is not None and self._reslices is not None and work.has(work.raw) and self._viewer.dims.ndisplay == 2:
            _, row, column = pixels_at(work.raw, self._viewer, event.position)
            height, width = raw_data(work.raw).shape[1:]
            if 0 <= row < height and 0 <= column < width:
                self._cut_at((row, column))

    def _on_cut(self, cuts: Any) -> None:
        if self._work is None or self._reslices is None or self._reslices.parent() is None:
            return
        raw = self._work.raw
        scale = np.asarray(raw.scale, dtype=float)
        self._reslices.show_cuts(cuts, tuple(raw.contrast_limits), float(scale[0] / scale[2]))
        if not self.running:
            self.show_status(f"Cut through row {cuts.place[0]} and column {cuts.place[1]}.")

    # -- manual corrections

    def exclude_section(self, section: int, *, exclude: bool = True) -> None:
        """Exclude a section from matching in later runs, or include it again."""
        if self._work is not None:
            (self._work.excluded.add if exclude else self._work.excluded.discard)(section)
        self._on_section()

    def _on_exclude(self, checked: bool) -> None:
        self.exclude_section(self.section, exclude=checked)

    def add_landmarks(self) -> None:
        """Add a points layer for landmarks over the raw stack."""
        work = self._work
        if work is None or not work.has(work.raw):
            self.show_status("Choose a stack first.")
            return
        points = work.points
        if points is None or not work.has(points):
            points = self._viewer.add_layer(work.make_points())
        self._viewer.layers.selection.active = points
        points.mode = "add"
        work.set_shown(after=False)
        then = "align these again" if work.result is not None else "press Align"
        self.show_status(f"Click a place in one section and the same place in the next section, then {then}.")

    def _on_again(self, reach: int) -> None:
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
        return self.begin(tasks.save, self.result.path, path, self.result, done=self._on_saved)

    def _on_saved(self, path: Path) -> None:
        self.show_status(f"Saved as {path.name}.")

    # -- Zarr stores at a URL

    def open_url(self, url: str) -> bool:
        """Show the stack of a Zarr store at a URL as a layer, and choose it."""
        return self.begin(tasks.open_url, url, done=self._on_opened)

    def _on_opened(self, found: tuple[Any, dict[str, Any]] | None) -> None:
        if found is None:
            self.show_status("Canceled.")
            return
        levels, keywords = found
        several = len(levels) > 1
        layer = self._viewer.add_image(levels if several else levels[0], multiscale=several, **keywords)
        self.refresh()
        self.inputs.stack.set_current(layer)
        self.show_status(f"Opened {keywords['name']}. Press Align.")

    def write_url(self, url: str) -> bool:
        """Write the aligned stack with its displacement to a Zarr store at a URL."""
        return self.result is not None and self.begin(tasks.write_url, self.result.path, url, done=self._on_written)

    def _on_written(self, url: str | None) -> None:
        self.show_status("Stopped. The store is not complete." if url is None else f"Written to {url}.")

    # -- the viewer around it

    def viewer_events(self) -> list[tuple[Any, Any]]:
        """Layers, the slider, and the theme."""
        more = [
            (self._viewer.dims.events.current_step, self._on_section),
            (self._viewer.events.theme, self._on_theme),
        ]
        return super().viewer_events() + more

    def refresh(self) -> None:
        """Update the panel from the viewer's layers."""
        self.inputs.refresh({work.aligned for work in self._works})
        if not self.running and self._work is None:
            self._turn_to(self.inputs.layer)
        self.show_state()

    def show_state(self) -> None:
        """Enable what is possible now."""
        super().show_state()
        idle, there = not self.running, self.result is not None
        self.inputs.setEnabled(idle)
        self.align_button.setEnabled(idle and self.inputs.layer is not None)
        self.save_button.setEnabled(idle and there)
        work = self._work
        for part in (self.play_button, self.reslice_button):
            part.setEnabled(work is not None and work.has(work.raw))
        self.flicker_button.setEnabled(work is not None and work.has(work.aligned))
        stack = idle and work is not None and work.has(work.raw)
        self.remote.allow(idle=idle, result=there)
        self.corrections.allow(stack=stack, result=stack and there and work is not None and not work.reopened)
        self._on_section()

    def _on_section(self, _event: Any = None) -> None:
        section = self.section
        self.findings.plot.set_section(section)
        self.corrections.show_section(section, self.excluded)

    def _on_theme(self, _event: Any = None) -> None:
        self.findings.restyle()

    def close_down(self) -> None:
        """Cancel the run and release the viewer."""
        super().close_down()
        self._player.stop()
        self._cuts.close()
        if self._on_cursor in self._viewer.mouse_move_callbacks:
            self._viewer.mouse_move_callbacks.remove(self._on_cursor)
