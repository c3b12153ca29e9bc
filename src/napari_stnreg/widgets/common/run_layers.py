"""The layers that runs add to the viewer: previews during a run, results at its end, and undo.

Adding or removing a layer takes napari about a tenth of a second. Layers are therefore added one per turn of the event
loop, hidden and without being selected, and shown in the turn after it. Preview layers become result layers where they
show the same.

napari collects all garbage whenever a layer is removed, which takes up to a third of a second with all modules loaded.
Objects that exist when a run begins are therefore excluded (:func:`gc.freeze`) until a layer that is older is removed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from napari.layers import Layer
from qtpy.QtCore import QObject, QTimer, Signal

from napari_stnreg.core.grid import Grid
from napari_stnreg.io.napari_layers import LayerData
from napari_stnreg.widgets.common.preview import PreviewFrame, PreviewLayers
from napari_stnreg.widgets.common.result_layers import insert_unselected, update_data, update_layer

if TYPE_CHECKING:
    from napari.viewer import Viewer

_TURN_MS = 10
"""Time between two layers, in which Qt draws the last one and takes the user's input."""


class RunLayers(QObject):
    """Add and remove the layers of runs, one per turn of the event loop.

    Parameters
    ----------
    viewer
        The viewer.
    parent
        Owner of the object.

    Signals
    -------
    idle()
        All layers were added or removed.
    """

    idle = Signal()

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._preview: PreviewLayers | None = None
        self._selected: list[Layer] = []
        self._runs: list[list[Layer]] = []
        self._queue: list[Callable[[], None]] = []
        self._hidden: list[Layer] = []
        self._recent: WeakSet[Layer] = WeakSet()
        self._watching = self._removing = False
        self._timer = QTimer(self)
        self._timer.setInterval(_TURN_MS)
        self._timer.timeout.connect(self._run_next)

    @property
    def busy(self) -> bool:
        """Whether layers are still to be added or removed."""
        return bool(self._queue)

    @property
    def can_undo(self) -> bool:
        """Whether layers of a run are in the viewer."""
        self._forget_removed()
        return bool(self._runs)

    def _run_next(self) -> None:
        if not self._queue:
            self._timer.stop()
            return
        self._queue.pop(0)()
        if not self._queue:
            if self._removing:
                self._removing = False
                gc.unfreeze()
            self.idle.emit()

    def begin(self) -> None:
        """Start a run: exclude all objects that exist now from garbage collection."""
        if not self._watching:
            self._watching = True
            self._viewer.layers.events.removed.connect(self._on_removed)
        self._recent.clear()
        gc.unfreeze()
        gc.freeze()

    def _on_removed(self, event: Any) -> None:
        if not self._removing and event.value not in self._recent:
            gc.unfreeze()  # the user removed an older layer: its memory is given back

    def _remove(self, layer: Layer) -> None:
        if layer not in self._viewer.layers:
            return
        if layer not in self._recent:
            self._removing = True
            gc.freeze()
        self._viewer.layers.remove(layer)

    def _enqueue(self, *actions: Callable[[], None]) -> None:
        self._queue.extend(actions)
        self._timer.start()

    # -- during a run

    def show_preview(self, preview: PreviewFrame, grid: Grid, name: str) -> None:
        """Show a preview; the first one adds the preview layers.

        Parameters
        ----------
        preview
            Arrays of the preview layers.
        grid
            Grid of the fixed image.
        name
            Name of the run.
        """
        if self._preview is None:
            self._selected = list(self._viewer.layers.selection)
            self._preview = PreviewLayers(self._viewer, grid, preview, name)
            self._recent.update(self._preview.all_layers())
            self._enqueue(*[self._add_preview] * 3)
        else:
            self._preview.show(preview)

    def _add_preview(self) -> None:
        if self._preview is not None and (layer := self._preview.next_layer()) is not None:
            self._insert(layer)

    def _insert(self, layer: Layer, position: int | None = None) -> None:
        """Insert a layer, and draw it in the next turn; at once in 3D, where napari cannot insert hidden RGB images."""
        shown, at_once = layer.visible, self._viewer.dims.ndisplay == 3
        layer.visible = at_once
        insert_unselected(self._viewer, layer, position)
        if at_once:
            layer.visible = shown
        elif shown:
            self._hidden.append(layer)
            self._queue.insert(0, self._show_hidden)

    def _show_hidden(self) -> None:
        while self._hidden:
            self._hidden.pop().visible = True

    def _clear_queue(self) -> None:
        self._queue.clear()
        self._show_hidden()

    def end_preview(self) -> None:
        """Remove the preview layers, one after the other."""
        if self._preview is not None:
            preview, self._preview = self._preview, None
            self._enqueue(*(self._removal(layer) for layer in preview.remaining().values()))
            self._enqueue(lambda: self._select(self._selected))

    def drop(self) -> None:
        """Remove the preview layers at once, because the panel closes."""
        self._clear_queue()
        self._timer.stop()
        preview, self._preview = self._preview, None
        for layer in preview.remaining().values() if preview is not None else ():
            self._remove(layer)
        self._removing = False
        if self._watching:
            self._watching = False
            self._viewer.layers.events.removed.disconnect(self._on_removed)
            gc.unfreeze()

    def _select(self, layers: list[Layer]) -> None:
        """Restore the user's selection; napari selects each added layer, and each change of it takes time."""
        self._viewer.layers.selection = {layer for layer in layers if layer in self._viewer.layers}

    # -- at the end of a run

    def add_results(
        self,
        layers: Mapping[str, Layer],
        layer_data: Mapping[str, LayerData],
        done: Callable[[], None],
        *,
        reuse_preview: bool = True,
    ) -> None:
        """Add the result layers below those of the preview, which become results where possible.

        Parameters
        ----------
        layers, layer_data
            The result layers by kind, from the lowest up, and the tuples they were made of.
        done
            Called when all layers were added.
        reuse_preview
            Whether preview layers may become the results of the same kind.
        """
        added: list[Layer] = []
        self._recent.update(layers.values())
        preview, self._preview = self._preview, None
        selected = self._selected if preview is not None else list(self._viewer.layers.selection)
        self._clear_queue()
        reused: dict[str, Layer] = {}
        for key, layer in (preview.remaining() if preview is not None else {}).items():
            kind = "magenta" if key == "warped" and "magenta" in layers else key
            if reuse_preview and kind in layers and "overlay" in layers and type(layer) is type(layers[kind]):
                reused[kind] = layer
            else:
                self._enqueue(self._removal(layer))

        order = list(layers)
        for kind, layer in layers.items():
            if kind in reused:
                self._enqueue(self._reuse(reused[kind], layer, layer_data[kind], added))
            else:
                above = [reused[other] for other in order[order.index(kind) :] if other in reused]
                self._enqueue(self._insertion(layer, above, added))

        def finish() -> None:
            self._runs.append(added)
            self._select(selected)
            done()

        self._enqueue(finish)

    def _reuse(self, old: Layer, layer: Layer, layer_data: LayerData, added: list[Layer]) -> Callable[[], None]:
        def reuse() -> None:
            if old in self._viewer.layers:
                update_layer(old, layer_data)
                added.append(old)
            else:  # the user deleted it in the meantime
                self._insert(layer)
                added.append(layer)

        return reuse

    def _insertion(self, layer: Layer, above: list[Layer], added: list[Layer]) -> Callable[[], None]:
        def insert() -> None:
            layers = self._viewer.layers
            positions = [layers.index(other) for other in above if other in layers]
            self._insert(layer, min(positions, default=len(layers)))
            added.append(layer)

        return insert

    def update_results(self, layer_data: Mapping[str, LayerData], done: Callable[[], None]) -> None:
        """Show new results of the same kinds in the layers of the last run that are still in the viewer.

        Parameters
        ----------
        layer_data
            The new result layers as tuples, by kind.
        done
            Called when all layers were updated.
        """
        for kind, layer in self.last_by_kind().items():
            if kind in layer_data:
                self._enqueue(self._update(layer, layer_data[kind]))
        self._enqueue(done)

    def _update(self, layer: Layer, layer_data: LayerData) -> Callable[[], None]:
        def update() -> None:
            if layer in self._viewer.layers:
                update_data(layer, layer_data)

        return update

    def last_by_kind(self) -> dict[str, Layer]:
        """Return the layers of the last run that are in the viewer, by kind."""
        self._forget_removed()
        return {(layer.metadata.get("stnreg") or {}).get("what", ""): layer for layer in (self._runs or [[]])[-1]}

    def adopt(self, layer: Layer) -> None:
        """Count a layer among those of the last run, so that undo removes it too."""
        self._recent.add(layer)
        if self._runs:
            self._runs[-1].append(layer)

    # -- undo

    def undo(self, done: Callable[[], None]) -> None:
        """Remove the layers of the last run that are still in the viewer, then call ``done``."""
        self._forget_removed()
        if self._runs:
            self._enqueue(*(self._removal(layer) for layer in self._runs.pop()), done)

    def _removal(self, layer: Layer) -> Callable[[], None]:
        def remove() -> None:
            self._remove(layer)

        return remove

    def _forget_removed(self) -> None:
        remaining = [[layer for layer in run if layer in self._viewer.layers] for run in self._runs]
        self._runs = [run for run in remaining if run]
