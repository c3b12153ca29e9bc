"""The layers that runs put into the viewer: previews while one is going on, results at its end, and undo.

napari needs a tenth of a second to add or remove a layer. So there is one at a time between which the window draws,
and the preview's layers become results where they show the same thing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari.layers import Layer
from qtpy.QtCore import QObject, QTimer, Signal

from napari_stnreg.core.grid import Grid
from napari_stnreg.widgets.common.result_layers import adopt
from napari_stnreg.widgets.register.preview import Preview, PreviewLayers
from napari_stnreg.widgets.register.worker import Outcome


class RunLayers(QObject):
    """Adds and removes a run's layers, one a turn of the event loop."""

    rested = Signal()

    def __init__(self, viewer: Any, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._preview: PreviewLayers | None = None
        self._selected: list[Layer] = []
        self._runs: list[list[Layer]] = []
        self._turns: list[Callable[[], None]] = []
        self._timer = QTimer(self)
        self._timer.setInterval(1)
        self._timer.timeout.connect(self._turn)

    @property
    def busy(self) -> bool:
        """Whether layers are still to be added or removed."""
        return bool(self._turns)

    @property
    def can_undo(self) -> bool:
        """Whether a run's layers (or some of them) are in the viewer."""
        self._forget_removed()
        return bool(self._runs)

    def _turn(self) -> None:
        if not self._turns:
            self._timer.stop()
            return
        self._turns.pop(0)()
        if not self._turns:
            self.rested.emit()

    def _later(self, *turns: Callable[[], None]) -> None:
        self._turns.extend(turns)
        self._timer.start()

    # -- while a run is going on

    def show_preview(self, preview: Preview, grid: Grid, name: str) -> None:
        """Show a preview, adding its layers when it is the first."""
        if self._preview is None:
            self._selected = list(self._viewer.layers.selection)
            self._preview = PreviewLayers(self._viewer, grid, preview, name)
            self._later(self._add_preview, self._add_preview)
        else:
            self._preview.show(preview)

    def _add_preview(self) -> None:
        if self._preview is not None:
            self._preview.add_next()

    def end_preview(self) -> None:
        """Take the preview's layers away."""
        if self._preview is not None:
            preview, self._preview = self._preview, None
            self._later(*(self._removal(layer) for layer in preview.remaining()))
            self._later(lambda: self._select(self._selected))

    def drop(self) -> None:
        """Take the preview away at once; the panel is closing."""
        self._turns.clear()
        self._timer.stop()
        preview, self._preview = self._preview, None
        for layer in preview.remaining() if preview is not None else ():
            self._viewer.layers.remove(layer)

    def _select(self, layers: list[Layer]) -> None:
        """Give the person's selection back; napari selects what is added, and every change of it costs time."""
        self._viewer.layers.selection = {layer for layer in layers if layer in self._viewer.layers}

    # -- at its end

    def add_results(self, outcome: Outcome, done: Callable[[], None]) -> None:
        """Add the result layers below the preview's, which turn into results where they can; then call ``done``."""
        added: list[Layer] = []
        preview, self._preview = self._preview, None
        selected = self._selected if preview is not None else list(self._viewer.layers.selection)
        self._turns.clear()
        adopted: dict[str, Layer] = {}
        remaining = preview.remaining() if preview is not None else []
        for layer in remaining:
            key = "grid" if layer is preview.lines else "overlay"
            fits = key == "grid" or preview.color
            if fits and key in outcome.layers and not outcome.job.every_frame:
                adopted[key] = layer
            else:
                self._later(self._removal(layer))

        order = list(outcome.layers)
        for key, layer in outcome.made.items():
            above = [adopted[other] for other in order[order.index(key) :] if other in adopted]
            if key in adopted:
                self._later(lambda old=adopted[key], key=key: self._adopt(old, outcome, key, added))
            else:
                self._later(lambda layer=layer, above=above: self._insert(layer, above, added))

        def finish() -> None:
            self._runs.append(added)
            self._select(selected)
            done()

        self._later(finish)

    def _adopt(self, layer: Layer, outcome: Outcome, key: str, added: list[Layer]) -> None:
        if layer in self._viewer.layers:
            adopt(layer, outcome.layers[key])
        else:  # deleted in the moment between
            layer = outcome.made[key]
            self._viewer.add_layer(layer)
        added.append(layer)

    def _insert(self, layer: Layer, above: list[Layer], added: list[Layer]) -> None:
        layers = self._viewer.layers
        places = [layers.index(other) for other in above if other in layers]
        layers.insert(min(places, default=len(layers)), layer)
        added.append(layer)

    # -- undo

    def undo(self, done: Callable[[], None]) -> None:
        """Remove exactly the layers of the last run that are still there; then call ``done``."""
        self._forget_removed()
        if self._runs:
            self._later(*(self._removal(layer) for layer in self._runs.pop()), done)

    def _removal(self, layer: Layer) -> Callable[[], None]:
        def remove() -> None:
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)

        return remove

    def _forget_removed(self) -> None:
        kept = [[layer for layer in run if layer in self._viewer.layers] for run in self._runs]
        self._runs = [run for run in kept if run]
