"""A random user of the panels, where napari and a display are: ``python -m benchmark.random_user [--events 2000]``.

Events are drawn with a fixed seed: panels are opened, docked and closed, layers are added, changed and deleted,
buttons, boxes and keys are pressed, runs are started and stopped, the theme and the number of dimensions change. A run
passes if there was no exception, no thread is left, and the memory is given back.
``tests/widgets/test_random_user.py`` runs the short form.
"""

from __future__ import annotations

import argparse
import gc
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO
from weakref import WeakKeyDictionary

import numpy as np

from benchmark.memory import resident_mb

PLUGIN = "napari-stnreg"
DIALOG_SIGN = "…"
"""Buttons that open a dialog carry it; a dialog would wait for an answer."""
LEFT_ALONE = {"help", "Open summary"}
MAX_LAYERS = 14
MAX_PANELS = 4
SIZE = 32


@dataclass
class Report:
    """What happened.

    Parameters
    ----------
    events
        Number of events by name.
    errors
        Traceback of each exception.
    threads
        Names of threads that are left.
    growth_mb
        Resident memory at the end minus that after the first fifth of the events.
    """

    events: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    threads: list[str] = field(default_factory=list)
    growth_mb: float = 0.0


class RandomUser:
    """A user of one viewer.

    Parameters
    ----------
    viewer
        The viewer.
    seed
        Seed of the events.
    log
        Each event is written here before it happens, so that a crash of a driver can be traced.
    """

    def __init__(self, viewer: Any, seed: int, log: TextIO | None = None) -> None:
        self.viewer, self.random = viewer, np.random.default_rng(seed)
        self.report, self._log = Report(), log
        self.log: list[str] = []
        self.actions: list[tuple[float, Callable[[], str]]] = [
            (2, self.open_panel), (0.7, self.close_panel), (2, self.add_layer), (1.5, self.delete_layer),
            (0.1, self.delete_all), (1, self.change_layer), (0.3, self.change_theme), (0.5, self.change_view),
            (5, self.press_button), (3, self.change_box), (2, self.start_run), (2, self.stop_run), (1, self.select),
            (0.7, self.press_key), (0.4, self.float_dock),
        ]  # fmt: skip

    # -- running

    def run(self, events: int, seconds: float | None = None) -> Report:
        """Do a number of events, or as many as the time allows, then close everything."""
        from napari.utils.notifications import notification_manager
        from qtpy.QtCore import QThreadPool, QTimer
        from superqt.utils import WorkerBase

        weights = np.array([weight for weight, _ in self.actions])
        weights /= weights.sum()
        before = len(notification_manager.records)
        hooks = sys.excepthook, threading.excepthook
        sys.excepthook = lambda *error: self.note("".join(traceback.format_exception(*error)))
        threading.excepthook = lambda error: self.note("".join(traceback.format_exception(error.exc_value)))
        canceling = QTimer()  # runs in the event loop of a dialog too
        canceling.timeout.connect(self.cancel_dialog)
        canceling.start(50)
        started, first = time.perf_counter(), None
        try:
            for number in range(events):
                if seconds is not None and time.perf_counter() - started > seconds:
                    break
                action = self.actions[self.random.choice(len(weights), p=weights)][1]
                if self._log is not None:
                    self._log.write(f"{number}: {action.__name__}, after {self.log[-1] if self.log else 'nothing'}\n")
                    self._log.flush()
                try:
                    self.log.append(f"{number}: {action.__name__} {action()}")
                except Exception:
                    self.note(traceback.format_exc())
                self.report.events[action.__name__] += 1
                self.pump(float(self.random.exponential(0.03)))
                if first is None and number >= events // 5:
                    first = resident_mb()
            self.close_all()
        finally:
            canceling.stop()
            sys.excepthook, threading.excepthook = hooks
        WorkerBase.await_workers(120_000)
        if not QThreadPool.globalInstance().waitForDone(120_000):
            self.report.threads.append("a worker of a panel")
        for record in notification_manager.records[before:]:
            error = getattr(record, "exception", None)
            if error is not None:
                self.note("".join(traceback.format_exception(error)))
        gc.collect()
        self.pump(0.2)
        gc.collect()
        self.report.growth_mb = resident_mb() - (first or resident_mb())
        return self.report

    def note(self, text: str) -> None:
        """Keep an error with the events before it."""
        self.report.errors.append(text + "after: " + "; ".join(self.log[-6:]))

    def pump(self, seconds: float) -> None:
        """Let the window work in an event loop, which also deletes what was to be deleted later, as napari's own."""
        from qtpy.QtCore import QEventLoop, QTimer

        loop = QEventLoop()
        QTimer.singleShot(round(1000 * seconds), loop.quit)
        loop.exec()

    def cancel_dialog(self) -> None:
        """Cancel an open dialog, which would wait for an answer."""
        from qtpy.QtWidgets import QApplication, QDialog

        dialog = QApplication.activeModalWidget()
        if isinstance(dialog, QDialog):
            dialog.reject()
        elif dialog is not None:
            dialog.close()

    def close_all(self) -> None:
        """Close all panels and delete all layers."""
        for panel in self.panels():
            self.viewer.window.remove_dock_widget(panel)
            panel.deleteLater()
        self.pump(0.1)
        self.viewer.layers.clear()
        self.pump(0.1)

    # -- what there is

    def panels(self) -> list[Any]:
        """The docked panels of the plugin."""
        from napari_stnreg.widgets.common.dock_panel import DockPanel

        return [panel for panel in self.viewer.window.dock_widgets.values() if isinstance(panel, DockPanel)]

    def any(self, things: Any) -> Any:
        """One of some things, or ``None``."""
        things = list(things)
        return things[self.random.integers(len(things))] if things else None

    # -- events

    def open_panel(self) -> str:
        """Open a panel of the manifest."""
        from npe2 import PluginManager

        names = [one.display_name for one in PluginManager.instance().get_manifest(PLUGIN).contributions.widgets]
        if len(self.panels()) >= MAX_PANELS:
            return self.close_panel()
        name = self.any(names)
        _, panel = self.viewer.window.add_plugin_dock_widget(PLUGIN, name)
        options = getattr(panel, "options", None)
        if options is not None and hasattr(options, "family"):
            options.set_values({"preset": "fast", "iterations": 8})
        elif options is not None:
            options.set_values({"network": "affine", "epochs": 2, "batch_size": 2})
        return str(name)

    def close_panel(self) -> str:
        """Close a panel, perhaps during its run."""
        panel = self.any(self.panels())
        if panel is not None:
            self.viewer.window.remove_dock_widget(panel)
            panel.deleteLater()
        return type(panel).__name__

    def add_layer(self) -> str:
        """Add an image, a series, a volume, labels, points or shapes."""
        if len(self.viewer.layers) >= MAX_LAYERS:
            return self.delete_layer()
        kind = self.any(["image", "image", "image", "rgb", "volume", "series", "labels", "points", "shapes", "nan"])
        draw = self.random
        picture = np.cumsum(np.cumsum(draw.standard_normal((SIZE, SIZE + 4)), 0), 1).astype(np.float32)
        if kind == "image":
            self.viewer.add_image(picture)
        elif kind == "nan":
            picture[:5] = np.nan
            self.viewer.add_image(picture, scale=(2, 2))
        elif kind == "rgb":
            self.viewer.add_image(draw.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8), rgb=True)
        elif kind == "volume":
            self.viewer.add_image(np.cumsum(draw.standard_normal((8, 16, 16)), 1).astype(np.float32))
        elif kind == "series":
            frames = np.stack([np.roll(picture, k, 1) for k in range(3)])
            self.viewer.add_image(frames, axis_labels=("t", "y", "x"))
        elif kind == "labels":
            self.viewer.add_labels((picture > 0).astype(int))
        elif kind == "points":
            self.viewer.add_points(draw.uniform(0, SIZE, (4, 2)))
        else:
            self.viewer.add_shapes([[[2, 2], [2, 20], [20, 20], [20, 2]]], shape_type="rectangle")
        return str(kind)

    def delete_layer(self) -> str:
        """Delete a layer, also one of the plugin."""
        layer = self.any(self.viewer.layers)
        if layer is not None:
            self.viewer.layers.remove(layer)
        return "" if layer is None else layer.name

    def delete_all(self) -> str:
        """Delete all layers."""
        self.viewer.layers.clear()
        return ""

    def change_layer(self) -> str:
        """Rename, hide, move or scale a layer, or raise it in the list."""
        layer = self.any(self.viewer.layers)
        if layer is None:
            return ""
        what = self.any(["name", "visible", "translate", "scale", "order"])
        if what == "name":
            layer.name = f"layer {self.random.integers(100)}"
        elif what == "visible":
            layer.visible = not layer.visible
        elif what == "translate":
            layer.translate = np.asarray(layer.translate) + 1
        elif what == "scale":
            layer.scale = np.asarray(layer.scale) * 1.5
        else:
            self.viewer.layers.move(self.viewer.layers.index(layer), 0)
        return f"{what} of {layer.name}"

    def change_theme(self) -> str:
        """Switch between dark and light."""
        self.viewer.theme = "light" if self.viewer.theme == "dark" else "dark"
        return str(self.viewer.theme)

    def change_view(self) -> str:
        """Switch between 2D and 3D, or move a slider."""
        if self.random.random() < 0.4:
            self.viewer.dims.ndisplay = 5 - self.viewer.dims.ndisplay
        elif self.viewer.dims.ndim > 2:
            self.viewer.dims.set_current_step(0, int(self.random.integers(8)))
        return f"{self.viewer.dims.ndisplay}D"

    def press_button(self) -> str:
        """Press a button of a panel that opens no dialog."""
        from qtpy.QtWidgets import QAbstractButton, QComboBox

        panel = self.any(self.panels())
        buttons = [
            button
            for button in (panel.findChildren(QAbstractButton) if panel is not None else ())
            if button.isVisible()
            and button.isEnabled()
            and DIALOG_SIGN not in button.text()
            and button.accessibleName() not in LEFT_ALONE
            and button.text() not in LEFT_ALONE
            and not isinstance(button.parent(), QComboBox)
            and getattr(button, "menu", lambda: None)() is None
        ]
        button = self.any(buttons)
        if button is None:
            return ""
        name = f"{type(panel).__name__} {button.text()}"
        button.click()
        return name

    def change_box(self) -> str:
        """Choose an entry of a combo box, or change a number."""
        from qtpy.QtWidgets import QComboBox, QSpinBox

        panel = self.any(self.panels())
        boxes = [b for b in (panel.findChildren(QComboBox) if panel else ()) if b.isVisible() and b.isEnabled()]
        spins = [b for b in (panel.findChildren(QSpinBox) if panel else ()) if b.isVisible() and b.isEnabled()]
        box = self.any([*boxes, *spins])
        if box is None:
            return ""
        if isinstance(box, QSpinBox):
            box.stepBy(int(self.random.integers(-1, 2)))
            return str(box.accessibleName())
        entries = [i for i in range(box.count()) if DIALOG_SIGN not in box.itemText(i)]
        if entries:
            box.setCurrentIndex(self.any(entries))
        return f"{box.accessibleName()} {box.currentText()}"

    def start_run(self) -> str:
        """Press the key that starts a panel's task."""
        panel = self.any(self.panels())
        for name in ("start", "train", "run", "score"):
            if panel is not None and callable(getattr(panel, name, None)):
                getattr(panel, name)()
                return f"{type(panel).__name__}.{name}"
        return ""

    def stop_run(self) -> str:
        """Stop a panel's task; pressed twice it gives up."""
        panel = self.any(panel for panel in self.panels() if hasattr(panel, "stop"))
        if panel is not None:
            panel.stop()
        return type(panel).__name__

    def select(self) -> str:
        """Select some layers."""
        layers = [layer for layer in self.viewer.layers if self.random.random() < 0.5]
        self.viewer.layers.selection = set(layers)
        return f"{len(layers)} layers"

    def press_key(self) -> str:
        """Press the key for before and after on the canvas."""
        for key, function in list(self.viewer.keymap.items()):
            if str(key) == "Shift+B" and function is not None:
                function(self.viewer)
                return "Shift+B"
        return ""

    def float_dock(self) -> str:
        """Detach a panel from the window, or dock it again."""
        from napari_stnreg.widgets.dock.docking import dock_of

        panel = self.any(self.panels())
        dock = None if panel is None else dock_of(panel)
        if dock is not None:
            dock.setFloating(not dock.isFloating())
        return type(panel).__name__


def reuse_programs() -> None:
    """Use OpenGL programs again instead of deleting them.

    Mesa's software renderer crashes when it draws after it has deleted a program, and keeps 1.5 MB for each that is
    left. It does so in a plain napari in which only images are added, hidden, and removed.
    """
    from vispy.gloo import glir

    spare: WeakKeyDictionary[Any, dict[tuple[str, ...], list[int]]] = WeakKeyDictionary()
    compile_shader, link = glir.GlirShader.set_data, glir.GlirProgram.link_program

    def set_data(self: Any, offset: int, code: str) -> None:
        self.code = code
        compile_shader(self, offset, code)

    def link_program(self: Any) -> None:
        self.key = tuple(shader.code for shader in self._attached_shaders)
        handles = spare.setdefault(self._parser, {}).get(self.key)
        if not handles:
            link(self)
            return
        self._handle, self._linked = handles.pop(), True  # the new one was never linked and takes no memory
        self._unset_variables = self._get_active_attributes_and_uniforms()
        self._attached_shaders, self._handles, self._known_invalid = [], {}, set()
        self._attributes, self._samplers = {}, {}

    def delete(self: Any) -> None:
        spare.setdefault(self._parser, {}).setdefault(getattr(self, "key", ()), []).append(self._handle)

    glir.GlirShader.set_data = set_data
    glir.GlirProgram.link_program, glir.GlirProgram.delete = link_program, delete


def main() -> None:
    """Run the long form and print what happened; exit with 1 if it did not pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, help="at most")
    parser.add_argument("--log", type=argparse.FileType("w"), help="file of the events")
    parser.add_argument("--growth", type=float, default=400.0, help="most memory that may be kept, MB")
    options = parser.parse_args()
    import napari

    reuse_programs()
    viewer = napari.Viewer()
    report = RandomUser(viewer, options.seed, options.log).run(options.events, options.seconds)
    viewer.close()
    print(f"{sum(report.events.values())} events: {dict(report.events.most_common())}")
    print(f"{len(report.errors)} exceptions, {len(report.threads)} threads left, {report.growth_mb:+.0f} MB")
    for text, count in Counter(report.errors).most_common():
        print(f"--- {count} x\n{text}")
    if report.errors or report.threads or report.growth_mb > options.growth:
        sys.exit(1)


if __name__ == "__main__":
    main()
