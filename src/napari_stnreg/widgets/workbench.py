"""The transform workbench: what transforms there are, and everything that can be done with one."""

from __future__ import annotations

from typing import Any
from weakref import ref

from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer
from napari.layers.utils._link_layers import get_linked_layers
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QListWidgetItem

from napari_stnreg.errors import InputError, RegistrationError
from napari_stnreg.images import Grid
from napari_stnreg.widgets.carrying import LISTS, Carried, CarryJob, carry, same_place, take_down
from napari_stnreg.widgets.forms import line
from napari_stnreg.widgets.held import Held, shelf_of
from napari_stnreg.widgets.layer_affines import new_affine, tilted
from napari_stnreg.widgets.layers_io import guess_layout, layer_source
from napari_stnreg.widgets.results import make_layer
from napari_stnreg.widgets.tool_panel import ToolPanel
from napari_stnreg.widgets.transform_dialogs import file_to_load, file_to_save
from napari_stnreg.widgets.transform_tasks import (
    Inverted,
    Place,
    chain_sentence,
    chained,
    inverse,
    load_file,
    save_file,
    show,
)
from napari_stnreg.widgets.workbench_form import ApplyForm, Choice, CombineForm, ShowForm

_AUTOMATIC = "automatic"
_ALSO = {"place": "all in the same place", "linked": "linked layers", "chosen": "selected layers"}


class WorkbenchWidget(ToolPanel):
    """Lists transforms, applies, inverts, chains, shows, loads and saves them.

    Parameters
    ----------
    viewer
        The napari viewer.

    Notes
    -----
    It can be driven from code: :meth:`choose`, :meth:`apply`, :meth:`invert`, :meth:`chain`, :meth:`show_picture`,
    :meth:`load`, :meth:`save`, :meth:`set_as_layer_transform`, :meth:`undo`, :meth:`resample`, :attr:`running`.
    """

    def __init__(self, viewer: Any) -> None:
        super().__init__(viewer, "Choose a transform, and what to do with it.")
        self._shelf = shelf_of(viewer)
        self._before: list[tuple[Any, Any]] = []
        self.choice = Choice()
        self.applying = ApplyForm()
        self.showing = ShowForm()
        self.combining = CombineForm()
        for part in (self.choice, line(), self.applying, line(), self.showing, self.combining):
            self.form.addWidget(part)
        self.form.addStretch(1)
        self._connect()
        self.refresh()
        active = viewer.layers.selection.active
        if active is not None and active in self._layers():
            self.applying.layer_box.choose(active)
        self._on_layer()

    def _connect(self) -> None:
        choice, applying, combining = self.choice, self.applying, self.combining
        choice.list.currentRowChanged.connect(self._on_chosen)
        choice.load_button.clicked.connect(self._ask_load)
        choice.save_button.clicked.connect(self._ask_save)
        choice.remove_button.clicked.connect(self.remove)
        applying.layer_box.currentIndexChanged.connect(self._on_layer)
        applying.side_box.currentIndexChanged.connect(self.show_state)
        applying.apply_button.clicked.connect(self.apply)
        applying.set_button.clicked.connect(self.set_as_layer_transform)
        applying.undo_button.clicked.connect(self.undo)
        applying.resample_button.clicked.connect(self.resample)
        for key, made in self.showing.buttons.items():
            made.setProperty("picture", key)
            made.clicked.connect(self._on_picture)
        combining.invert_button.clicked.connect(self.invert)
        combining.then_box.currentIndexChanged.connect(self._on_then)
        combining.chain_button.clicked.connect(self.chain)
        self.run_shortcut(self.apply)
        self.shortcut("Ctrl+O", self._ask_load)

    # -- what there is

    @property
    def chosen(self) -> Held | None:
        """The transform chosen in the list."""
        item = self.choice.list.currentItem()
        return None if item is None else item.data(Qt.ItemDataRole.UserRole)

    @property
    def transforms(self) -> list[Held]:
        """All that are listed."""
        rows = self.choice.list
        return [rows.item(i).data(Qt.ItemDataRole.UserRole) for i in range(rows.count())]

    def choose(self, held: Held | str) -> None:
        """Choose a transform, itself or by its name."""
        for row, one in enumerate(self.transforms):
            if one is held or held in (one.name, one.key):
                self.choice.list.setCurrentRow(row)
                return
        raise InputError(f"There is no transform '{held}' in the list.")

    def refresh(self) -> None:
        """Take up the viewer's layers and the transforms they carry."""
        self._fill_list()
        applying = self.applying
        kept = applying.layer_box.currentData()
        layers = self._layers()
        applying.layer_box.fill([(layer.name, layer) for layer in layers], kept)
        self._fill_onto()
        self._on_layer()

    def _layers(self) -> list[Layer]:
        return [layer for layer in self._viewer.layers if isinstance(layer, (ImageLayer, Labels, *LISTS))]

    def _fill_list(self, choose: Held | None = None) -> None:
        chosen = choose or self.chosen
        rows = self.choice.list
        rows.blockSignals(True)
        rows.clear()
        entries = self._shelf.entries(self._viewer)
        for held in entries:
            item = QListWidgetItem(held.name)
            item.setData(Qt.ItemDataRole.UserRole, held)
            item.setToolTip(f"{held.maps}\n{held.facts}")
            rows.addItem(item)
        keys = [held.key for held in entries]
        row = keys.index(chosen.key) if chosen is not None and chosen.key in keys else len(entries) - 1
        rows.setCurrentRow(row)
        rows.blockSignals(False)
        rows.fit()
        self.combining.then_box.fill([(held.name, held) for held in entries], self.combining.then_box.currentData())
        self._on_chosen()

    def _fill_onto(self) -> None:
        box = self.applying.onto_box
        grids = [layer for layer in self._layers() if isinstance(layer, ImageLayer | Labels)]
        box.fill([("automatic", _AUTOMATIC), *((layer.name, layer) for layer in grids)], box.currentData())
        for box in (self.choice.fixed_box, self.choice.moving_box):
            box.fill([("as the file says", None), *((layer.name, layer) for layer in grids)], box.currentData())

    def _on_chosen(self, _row: int = 0) -> None:
        held = self.chosen
        if held is None:
            self.choice.maps.setText(
                "No transform yet: register two layers, load a transform, or drop its file on the viewer."
            )
        else:
            self.choice.maps.setText(f"{held.maps} {held.facts}")
            sides = [(f"moving: {held.moving}", "moving"), (f"fixed: {held.fixed}", "fixed")]
            self.applying.side_box.fill(sides, self.applying.side_box.currentData())
        self.combining.round_trip.setText("")
        self._on_then()
        self.show_state()

    def _on_layer(self, _index: int = 0) -> None:
        layer, box = self.applying.layer_box.currentData(), self.applying.also_box
        entries: list[tuple[str, Any]] = [("nothing else", "only")]
        if layer is not None:
            for key, text in _ALSO.items():
                count = len(self._others(layer, key))
                if count:
                    entries.append((f"{text} ({count})", key))
        box.fill(entries, box.currentData())
        self.show_state()

    def _others(self, layer: Layer, key: str) -> list[Layer]:
        layers = self._layers()
        if key == "place":
            return same_place(layer, layers)
        if key == "linked":
            linked = get_linked_layers(layer)
            return [other for other in layers if other in linked and other is not layer]
        if key == "chosen":
            return [other for other in layers if other in self._viewer.layers.selection and other is not layer]
        return []

    def _on_then(self, _index: int = 0) -> None:
        first, second = self.chosen, self.combining.then_box.currentData()
        both = first is not None and second is not None
        self.combining.sentence.setText(chain_sentence(first, second) if both else "")

    def show_state(self, _index: int = 0) -> None:
        """Enable what can be done, and say what Apply would do."""
        super().show_state()
        if not hasattr(self, "combining"):
            return
        held, idle = self.chosen, not self.running
        layer = self.applying.layer_box.currentData()
        ready = idle and held is not None
        self.choice.save_button.setEnabled(ready)
        self.choice.load_button.setEnabled(idle)
        self.choice.remove_button.setEnabled(idle and held in self._shelf.extra)
        self.applying.apply_button.setEnabled(ready and layer is not None)
        self.applying.resample_button.setEnabled(idle and isinstance(layer, ImageLayer | Labels))
        linear = held is not None and self._matrix(held) is not None
        self.applying.set_button.setEnabled(ready and layer is not None and linear)
        self._before = [(there, affine) for there, affine in self._before if there() in self._viewer.layers]
        self.applying.undo_button.setEnabled(idle and bool(self._before))
        for made in self.showing.buttons.values():
            made.setEnabled(ready)
        self.combining.invert_button.setEnabled(ready)
        self.combining.chain_button.setEnabled(ready)
        sampled = isinstance(layer, ImageLayer | Labels)
        self.applying.rows.show(self.applying.onto_box, sampled)
        self.applying.rows.show(self.applying.also_box, self.applying.also_box.count() > 1)
        self.applying.sentence.setText(self._direction(held, layer))

    @staticmethod
    def _matrix(held: Held) -> Any:
        from napari_stnreg.transforms.conversion import linear_matrix

        return linear_matrix(held.transform)

    def _direction(self, held: Held | None, layer: Layer | None) -> str:
        if held is None or layer is None:
            return ""
        from napari_stnreg.applying import Carrier

        side = self.applying.side_box.currentData()
        here, there = (held.moving, held.fixed) if side == "moving" else (held.fixed, held.moving)
        if isinstance(layer, LISTS):
            return f"'{layer.name}' goes from '{here}' to '{there}'. {Carrier(held.transform, side).sentence}"
        by = "the transform" if side == "moving" else "the inverse of the transform"
        how = "its nearest label" if isinstance(layer, Labels) else "its values"
        return f"'{layer.name}' goes from '{here}' to '{there}': each new voxel looks up {how} through {by}."

    # -- apply

    def apply(self) -> bool:
        """Carry the chosen layer, and those that go with it, to the other side; false when that cannot be."""
        held, layer = self.chosen, self.applying.layer_box.currentData()
        if held is None or layer is None:
            self.say("Choose a transform and a layer first.", warn=True)
            return False
        return self._carry(held, layer)

    def resample(self) -> bool:
        """Sample the chosen image or labels where they lie, onto the chosen voxels or upright ones."""
        layer = self.applying.layer_box.currentData()
        if layer is None:
            self.say("Choose a layer first.", warn=True)
            return False
        return self._carry(None, layer)

    def _carry(self, held: Held | None, layer: Layer) -> bool:
        try:
            if held is not None:
                ndim = held.transform.ndim
            else:
                ndim = sum(letter in "zyx" for letter in guess_layout(layer))
            layers = [layer, *self._others(layer, self.applying.also_box.currentData())]
            taken = tuple(take_down(one, self._viewer, ndim) for one in layers)
            side = self.applying.side_box.currentData() or "moving"
            job = CarryJob(held, taken, side, self._onto(held, layer, side))
        except RegistrationError as error:
            self.complain(error)
            return False
        return self.begin(_made(carry), job, done=self._on_carried)

    def _onto(self, held: Held | None, layer: Layer, side: str) -> Grid | None:
        if not isinstance(layer, ImageLayer | Labels):
            return None
        chosen = self.applying.onto_box.currentData()
        if isinstance(chosen, Layer):
            return layer_source(chosen, self._viewer, level=0).grid
        if held is None:
            return None
        return held.grid if side == "moving" else held.moving_grid

    def _on_carried(self, made: tuple[Carried, list[Layer]]) -> None:
        carried, layers = made
        self.add_layers(layers)
        names = ", ".join(f"'{layer.name}'" for layer in layers)
        self.say(" ".join([f"Added {names}.", *carried.warnings]), warn=bool(carried.warnings))

    # -- the layer's own transform

    def set_as_layer_transform(self) -> bool:
        """Move the chosen layer (and those with it) by its affine; nothing is resampled."""
        held, layer = self.chosen, self.applying.layer_box.currentData()
        if held is None or layer is None:
            self.say("Choose a transform and a layer first.", warn=True)
            return False
        side = self.applying.side_box.currentData()
        layers = [layer, *self._others(layer, self.applying.also_box.currentData())]
        try:
            moves = [(one, new_affine(one, held, side)) for one in layers]
        except RegistrationError as error:
            self.complain(error)
            return False
        for one, affine in moves:
            self._before.append((ref(one), one.affine.affine_matrix.copy()))
            one.affine = affine
        there = held.fixed if side == "moving" else held.moving
        text = f"{', '.join(repr(one.name) for one in layers)} now lies in '{there}'; Undo puts it back."
        if held.transform.ndim == 3 and self._viewer.dims.ndisplay == 2 and tilted(self._matrix(held)):
            text += " ⚠ It is tilted against the slices, which napari cannot show exactly in 2D: resample it."
        self.say(text)
        self.show_state()
        return True

    def undo(self) -> None:
        """Give the last layer that was moved its former affine back."""
        while self._before:
            there, affine = self._before.pop()
            layer = there()
            if layer is not None and layer in self._viewer.layers:
                layer.affine = affine
                self.say(f"'{layer.name}' lies where it was before.")
                break
        self.show_state()

    # -- show, invert, chain

    def _on_picture(self) -> None:
        self.show_picture(self.sender().property("picture"))

    def show_picture(self, what: str) -> bool:
        """Add a picture of the chosen transform, by its key in :data:`~.transform_tasks.PICTURES`."""
        held = self.chosen
        if held is None:
            self.say("Choose a transform first.", warn=True)
            return False
        volume = self._viewer.dims.ndisplay == 3
        return self.begin(_made(show), held, what, self._fallback(held), volume, done=self._on_shown)

    def _on_shown(self, made: tuple[Any, list[Layer]]) -> None:
        self.add_layers(made[1])
        self.say(f"Added '{made[1][0].name}'.")

    def _fallback(self, held: Held) -> Grid | None:
        """The grid of an image of the same dimensions, for a transform that does not say where it belongs."""
        ndim = held.transform.ndim
        chosen = self.applying.onto_box.currentData()
        candidates = [chosen] if isinstance(chosen, Layer) else []
        candidates += [layer for layer in self._viewer.layers if isinstance(layer, ImageLayer)]
        for layer in candidates:
            try:
                grid = layer_source(layer, self._viewer, level=0).grid
                if grid.ndim == ndim:
                    return grid.with_unit(held.transform.unit)
            except InputError:
                continue
        return None

    def invert(self) -> bool:
        """Add the inverse of the chosen transform to the list."""
        held = self.chosen
        if held is None:
            self.say("Choose a transform first.", warn=True)
            return False
        return self.begin(inverse, held, self._fallback(held), done=self._on_inverted)

    def _on_inverted(self, made: Inverted) -> None:
        self._add(made.held)
        inversion = made.inversion
        unit = made.held.transform.unit
        text = inversion.sentence
        if inversion.method != "exact":
            text += f" Mean {inversion.mean_error:.2g}, largest {inversion.max_error:.2g} {unit}."
        self.combining.round_trip.setText(text)
        self.say(" ".join(filter(None, [text, inversion.warning])), warn=inversion.warning is not None)

    def chain(self) -> bool:
        """Add the chain of the chosen transform and the one in 'Then'."""
        first, second = self.chosen, self.combining.then_box.currentData()
        if first is None or second is None:
            self.say("Choose two transforms first.", warn=True)
            return False
        try:
            self._add(chained(first, second))
        except RegistrationError as error:
            self.complain(error)
            return False
        self.say(f"Added '{self.chosen.name}'.")
        return True

    def _add(self, held: Held) -> None:
        self._shelf.extra.append(held)
        self._fill_list(choose=held)

    def remove(self) -> None:
        """Take the chosen transform off the list, if it was loaded or made here."""
        if self.chosen in self._shelf.extra:
            self._shelf.extra.remove(self.chosen)
            self._fill_list()

    # -- files

    def load(self, path: str) -> bool:
        """Add a transform from a file."""
        try:
            places = [self._place(box.currentData()) for box in (self.choice.fixed_box, self.choice.moving_box)]
        except RegistrationError as error:
            self.complain(error)
            return False
        return self.begin(load_file, str(path), *places, done=self._on_loaded)

    def _place(self, layer: Layer | None) -> Place | None:
        if layer is None:
            return None
        space = "scanner" if "nifti" in layer.metadata else "world"
        return Place(layer.name, layer_source(layer, self._viewer, level=0).grid, space)

    def _on_loaded(self, held: Held) -> None:
        self._add(held)
        self.say(f"Loaded '{held.name}'.")

    def save(self, path: str) -> bool:
        """Write the chosen transform; the ending says in which format."""
        held = self.chosen
        if held is None:
            self.say("Choose a transform first.", warn=True)
            return False
        return self.begin(save_file, held, str(path), done=self._on_saved)

    def _on_saved(self, path: str) -> None:
        self.say(f"Saved {path}")

    def _ask_load(self) -> None:
        if not self.running and (path := file_to_load(self)) is not None:
            self.load(path)

    def _ask_save(self) -> None:
        if self.chosen is not None and (path := file_to_save(self, self.chosen)) is not None:
            self.save(path)


def _made(task: Any) -> Any:
    """A task whose layers are made in the worker too: limits and thumbnails take longer than a person should wait."""

    def run(*arguments: Any) -> Any:
        outcome = yield from task(*arguments)
        if outcome is None:
            return None
        data = outcome.layers if isinstance(outcome, Carried) else outcome
        return outcome, [make_layer(one) for one in data]

    return run
