"""The base class of the panels that register and train: plot, device search, models of the session, code export."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from qtpy.QtGui import QAction
from qtpy.QtWidgets import QApplication, QMenu

from napari_stnreg.core.errors import InputError, RegistrationError
from napari_stnreg.widgets.common.device_combo import DeviceSearch
from napari_stnreg.widgets.common.forms import button
from napari_stnreg.widgets.common.plot import ThemedPlot
from napari_stnreg.widgets.common.run_layers import RunLayers
from napari_stnreg.widgets.common.task_panel import TaskPanel
from napari_stnreg.widgets.models.combo import ModelList
from napari_stnreg.widgets.models.session import SESSION

if TYPE_CHECKING:
    from napari.viewer import Viewer


class FitOptions(Protocol):
    """A form with a list of models and a list of devices."""

    models: ModelList

    def set_devices(self, devices: list[tuple[str, str]]) -> None:
        """List the devices that were found, as ``(name, description)``."""


class OptionsPanel(TaskPanel):
    """A task panel with a form that lists the models of the session and the devices of the computer.

    Parameters
    ----------
    napari_viewer
        The napari viewer.
    message
        First text of the status line.
    options
        The subclass's form; its lists of models and devices are kept up to date.
    """

    options: FitOptions

    def __init__(self, napari_viewer: Viewer, message: str, options: FitOptions) -> None:
        super().__init__(napari_viewer, message)
        self.options = options
        options.models.failed.connect(self._on_model_failed)
        options.models.loaded.connect(self._on_model_loaded)
        self._devices = DeviceSearch(self, lambda: self.running)
        self._devices.found.connect(self._on_devices)

    def own_events(self) -> list[tuple[Any, Callable[..., Any]]]:
        """List the events to follow beside those of the layers: the theme and the session's models."""
        return [(self._viewer.events.theme, self._on_theme), (SESSION.changed, self._on_models)]

    def viewer_events(self) -> list[tuple[Any, Callable[..., Any]]]:
        """List the viewer events to follow: layers, theme, and the session's models."""
        return [*super().viewer_events(), *self.own_events()]

    def _on_models(self) -> None:
        try:
            self.options.models.refresh()
        except RuntimeError:  # the window was destroyed without closing
            SESSION.changed.disconnect(self._on_models)

    def _on_model_failed(self, text: str) -> None:
        self.show_error(InputError(text))

    def _on_model_loaded(self, name: str) -> None:
        if not self.running:  # the status may say that it is still loading
            self.show_status(f"Model '{name}' is loaded.")

    def _on_theme(self, _event: Any = None) -> None:
        raise NotImplementedError

    def _on_devices(self, devices: list[tuple[str, str]]) -> None:
        self.options.set_devices(devices)

    def close_down(self) -> None:
        """Cancel the run."""
        self._devices.stop()
        super().close_down()


class FitPanel(OptionsPanel):
    """A panel that fits something: a transform to a pair of images, or a network to many.

    Parameters
    ----------
    napari_viewer
        The napari viewer.
    message
        First text of the status line.
    options
        The subclass's form; its lists of models and devices are kept up to date.
    plot
        Class of the plot that shows the fit.
    """

    plot: ThemedPlot
    exports: ClassVar[tuple[Callable[[Any], str], Callable[[Any], str]]]
    """Functions that write a job as a Python script and as a command line."""

    def __init__(
        self, napari_viewer: Viewer, message: str, options: FitOptions, plot: Callable[[Viewer], ThemedPlot]
    ) -> None:
        super().__init__(napari_viewer, message, options)
        self.plot = plot(self._viewer)
        self.plot.hide()
        self._layers = RunLayers(self._viewer, self)
        self.stop_button.setToolTip("Stop and keep the best result so far (Esc).")
        self.copy_button = button("Copy", "Copy the last run as Python or as a command.")
        menu = QMenu(self.copy_button)
        self.copy_python, self.copy_command = QAction("Copy as Python", menu), QAction("Copy as command", menu)
        menu.addActions([self.copy_python, self.copy_command])
        self.copy_button.setMenu(menu)
        self.copy_python.triggered.connect(self._copy_python)
        self.copy_command.triggered.connect(self._copy_command)

    def job_to_copy(self) -> Any:
        """Return the job that the copy actions export.

        Raises
        ------
        InputError
            If there is none.
        """
        raise NotImplementedError

    def _copy(self, export: Callable[[Any], str], what: str) -> None:
        try:
            text = export(self.job_to_copy())
        except RegistrationError as error:
            self.show_error(error)
            return
        clipboard = QApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(text)
            self.show_status(f"Copied as {what}.")

    def _copy_python(self) -> None:
        self._copy(self.exports[0], "Python")

    def _copy_command(self) -> None:
        self._copy(self.exports[1], "a command")

    def _on_theme(self, _event: Any = None) -> None:
        self.plot.restyle()

    def _on_devices(self, devices: list[tuple[str, str]]) -> None:
        super()._on_devices(devices)
        self.plot.prepare()

    def close_down(self) -> None:
        """Cancel the run and remove its preview."""
        super().close_down()
        self._layers.drop()
