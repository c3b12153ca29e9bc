"""The transform workbench: list, apply, invert, combine, load, and save transforms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer

from napari_stnreg.core.errors import InputError, RegistrationError
from napari_stnreg.core.grid import Grid
from napari_stnreg.io.transform_entry import TransformEntry, chain_sentence, chained
from napari_stnreg.widgets.common.forms import separator
from napari_stnreg.widgets.common.layer_affines import LayerAffines, is_oblique
from napari_stnreg.widgets.common.layer_io import guess_layout
from napari_stnreg.widgets.common.task_panel import TaskPanel
from napari_stnreg.widgets.common.transform_store import store_for
from napari_stnreg.widgets.transforms.apply_layers import ApplyJob, ApplyResult, apply_to_layers, snapshot_layer
from napari_stnreg.widgets.transforms.dialogs import file_to_load, file_to_save
from napari_stnreg.widgets.transforms.form import ApplyForm, Choice, CombineForm, ShowForm
from napari_stnreg.widgets.transforms.layers import (
    ALSO,
    companions,
    fallback_grid,
    place_of,
    voxels_of,
    what_apply_does,
    with_layers,
    workable,
)
from napari_stnreg.widgets.transforms.tasks import Inverted, inverse, load_file, save_file, show

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_stnreg.resampling.geometry import Side

_AUTOMATIC = "automatic"


class TransformsPanel(TaskPanel):
    """List, apply, invert, chain, show, load and save transforms.

    Parameters
    ----------
    napari_viewer
        The napari viewer.

    Notes
    -----
    It can be driven from code: :meth:`select`, :meth:`apply`, :meth:`invert`, :meth:`chain`, :meth:`show_picture`,
    :meth:`load`, :meth:`save`, :meth:`set_as_layer_transform`, :meth:`undo`, :meth:`resample`, :attr:`running`.
    """

    title = "Transform workbench"
    help_page = "how-to/workbench.html"
    introduction = (
        "Choose a transform: of a result layer, or from a file.",
        "Choose the layers that it is applied to.",
        "Press Apply, or invert, chain and save it.",
    )

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer, "Choose a transform, and what to do with it.")
        self._store = store_for(self._viewer)
        self._moves = LayerAffines(self._viewer)
        self.choice = Choice()
        self.applying = ApplyForm()
        self.showing = ShowForm()
        self.combining = CombineForm()
        for part in (self.choice, separator(), self.applying, separator(), self.showing, self.combining):
            self.form.addWidget(part)
        self.form.addStretch(1)
        self._connect()
        self.refresh()
        active = self._viewer.layers.selection.active
        if active is not None and active in workable(self._viewer):
            self.applying.layer_box.set_current(active)
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

    # -- the list of transforms

    @property
    def chosen(self) -> TransformEntry | None:
        """The transform chosen in the list."""
        return self.choice.list.chosen

    @property
    def transforms(self) -> list[TransformEntry]:
        """All that are listed."""
        return self.choice.list.transforms

    def select(self, entry: TransformEntry | str) -> None:
        """Choose a transform, itself or by its name."""
        for row, one in enumerate(self.transforms):
            if one is entry or entry in (one.name, one.key):
                self.choice.list.setCurrentRow(row)
                return
        raise InputError(f"There is no transform '{entry}' in the list.")

    def refresh(self) -> None:
        """Update the panel from the viewer's layers and the transforms in their metadata."""
        self._fill_list()
        applying = self.applying
        kept = applying.layer_box.currentData()
        applying.layer_box.set_items([(layer.name, layer) for layer in workable(self._viewer)], kept)
        self._fill_onto()
        self._on_layer()

    def _fill_list(self, choose: TransformEntry | None = None) -> None:
        entries = self._store.entries(self._viewer)
        self.choice.list.show_transforms(entries, choose or self.chosen)
        self.combining.then_box.set_items(
            [(entry.name, entry) for entry in entries], self.combining.then_box.currentData()
        )
        self._on_chosen()

    def _fill_onto(self) -> None:
        box = self.applying.onto_box
        grids = [layer for layer in workable(self._viewer) if isinstance(layer, ImageLayer | Labels)]
        box.set_items([("automatic", _AUTOMATIC), *((layer.name, layer) for layer in grids)], box.currentData())
        for box in (self.choice.fixed_box, self.choice.moving_box):
            box.set_items([("as in the file", None), *((layer.name, layer) for layer in grids)], box.currentData())

    def _on_chosen(self, _row: int = 0) -> None:
        entry = self.chosen
        if entry is None:
            self.choice.maps.setText(
                "No transform yet: register two layers, load a transform, or drop its file on the viewer."
            )
        else:
            self.choice.maps.setText(f"{entry.direction_text} {entry.summary}")
            sides = [(f"moving: {entry.moving}", "moving"), (f"fixed: {entry.fixed}", "fixed")]
            self.applying.side_box.set_items(sides, self.applying.side_box.currentData())
        self.combining.round_trip.setText("")
        self._on_then()
        self.show_state()

    def _on_layer(self, _index: int = 0) -> None:
        layer, box = self.applying.layer_box.currentData(), self.applying.also_box
        entries: list[tuple[str, Any]] = [("nothing else", "only")]
        if layer is not None:
            for key, text in ALSO.items():
                count = len(companions(layer, key, self._viewer))
                if count:
                    entries.append((f"{text} ({count})", key))
        box.set_items(entries, box.currentData())
        self.show_state()

    def _on_then(self, _index: int = 0) -> None:
        first, second = self.chosen, self.combining.then_box.currentData()
        text = "" if first is None or second is None else chain_sentence(first, second)
        self.combining.sentence.setText(text)

    def show_state(self, _index: int = 0) -> None:
        """Enable what can be done, and say what Apply would do."""
        super().show_state()
        entry, idle = self.chosen, not self.running
        layer = self.applying.layer_box.currentData()
        ready = idle and entry is not None
        self.choice.save_button.setEnabled(ready)
        self.choice.load_button.setEnabled(idle)
        self.choice.remove_button.setEnabled(idle and entry in self._store.extra)
        self.applying.apply_button.setEnabled(ready and layer is not None)
        self.applying.resample_button.setEnabled(idle and isinstance(layer, ImageLayer | Labels))
        linear = entry is not None and self._matrix(entry) is not None
        self.applying.set_button.setEnabled(ready and layer is not None and linear)
        self.applying.undo_button.setEnabled(idle and bool(self._moves))
        for made in self.showing.buttons.values():
            made.setEnabled(ready)
        self.combining.invert_button.setEnabled(ready)
        self.combining.chain_button.setEnabled(ready)
        sampled = isinstance(layer, ImageLayer | Labels)
        self.applying.rows.set_row_visible(self.applying.onto_box, sampled)
        self.applying.rows.set_row_visible(self.applying.also_box, self.applying.also_box.count() > 1)
        self.applying.sentence.setText(what_apply_does(entry, layer, self.applying.side_box.currentData()))

    @staticmethod
    def _matrix(entry: TransformEntry) -> Any:

        return entry.transform.as_matrix()

    # -- apply

    def apply(self) -> bool:
        """Transform the selected layer and its companions; return false if that is not possible."""
        entry, layer = self.chosen, self.applying.layer_box.currentData()
        if entry is None or layer is None:
            self.show_status("Choose a transform and a layer first.", warn=True)
            return False
        return self._apply(entry, layer)

    def resample(self) -> bool:
        """Resample the selected image or labels in place, onto the selected or an axis-aligned grid."""
        layer = self.applying.layer_box.currentData()
        if layer is None:
            self.show_status("Choose a layer first.", warn=True)
            return False
        return self._apply(None, layer)

    def _apply(self, entry: TransformEntry | None, layer: Layer) -> bool:
        try:
            if entry is not None:
                ndim = entry.transform.ndim
            else:
                ndim = sum(letter in "zyx" for letter in guess_layout(layer))
            layers = self._together(layer)
            taken = tuple(snapshot_layer(one, self._viewer, ndim) for one in layers)
            side: Side = "fixed" if self.applying.side_box.currentData() == "fixed" else "moving"
            job = ApplyJob(entry, taken, side, self._onto(entry, layer, side))
        except RegistrationError as error:
            self.show_error(error)
            return False
        return self.begin(with_layers(apply_to_layers), job, done=self._on_applied)

    def _together(self, layer: Layer) -> list[Layer]:
        """Return a layer and its companions."""
        return [layer, *companions(layer, self.applying.also_box.currentData(), self._viewer)]

    def _onto(self, entry: TransformEntry | None, layer: Layer, side: str) -> Grid | None:
        if not isinstance(layer, ImageLayer | Labels):
            return None
        chosen = self.applying.onto_box.currentData()
        if isinstance(chosen, Layer):
            return voxels_of(chosen, self._viewer)
        if entry is None:
            return None
        return entry.grid if side == "moving" else entry.moving_grid

    def _on_applied(self, made: tuple[ApplyResult, list[Layer]]) -> None:
        applied, layers = made
        self.add_layers(layers)
        names = ", ".join(f"'{layer.name}'" for layer in layers)
        self.show_status(" ".join([f"Added {names}.", *applied.warnings]), warn=bool(applied.warnings))

    # -- the layer's own transform

    def set_as_layer_transform(self) -> bool:
        """Set the affine of the selected layer and its companions; nothing is resampled."""
        entry, layer = self.chosen, self.applying.layer_box.currentData()
        if entry is None or layer is None:
            self.show_status("Choose a transform and a layer first.", warn=True)
            return False
        side = self.applying.side_box.currentData()
        layers = self._together(layer)
        try:
            self._moves.move(layers, entry, side)
        except RegistrationError as error:
            self.show_error(error)
            return False
        there = entry.fixed if side == "moving" else entry.moving
        text = f"{', '.join(repr(one.name) for one in layers)} moved to '{there}'. Undo moves it back."
        if entry.transform.ndim == 3 and self._viewer.dims.ndisplay == 2 and is_oblique(self._matrix(entry)):
            text += " ⚠ It is oblique to the slices, which napari cannot show exactly in 2D. Resample it."
        self.show_status(text)
        self.show_state()
        return True

    def undo(self) -> None:
        """Restore the affine of the layer that was moved last."""
        layer = self._moves.undo()
        if layer is not None:
            self.show_status(f"'{layer.name}' is back in its earlier position.")
        self.show_state()

    # -- show, invert, chain

    def _on_picture(self) -> None:
        self.show_picture(self.sender().property("picture"))

    def show_picture(self, what: str) -> bool:
        """Add a picture of the chosen transform, by its key in :data:`~.transform_tasks.PICTURES`."""
        entry = self.chosen
        if entry is None:
            self.show_status("Choose a transform first.", warn=True)
            return False
        volume = self._viewer.dims.ndisplay == 3
        return self.begin(with_layers(show), entry, what, self._fallback(entry), volume, done=self._on_shown)

    def _fallback(self, entry: TransformEntry) -> Grid | None:
        """Return a grid for a transform that does not name one."""
        chosen = self.applying.onto_box.currentData()
        return fallback_grid(self._viewer, entry.transform.ndim, entry.transform.unit, chosen)

    def _on_shown(self, made: tuple[Any, list[Layer]]) -> None:
        self.add_layers(made[1])
        self.show_status(f"Added '{made[1][0].name}'.")

    def invert(self) -> bool:
        """Add the inverse of the chosen transform to the list."""
        entry = self.chosen
        if entry is None:
            self.show_status("Choose a transform first.", warn=True)
            return False
        return self.begin(inverse, entry, self._fallback(entry), done=self._on_inverted)

    def _on_inverted(self, made: Inverted) -> None:
        self._add(made.entry)
        inversion = made.inversion
        unit = made.entry.transform.unit
        text = inversion.summary
        if inversion.method != "exact":
            text += f" Mean {inversion.mean_error:.2g}, largest {inversion.max_error:.2g} {unit}."
        self.combining.round_trip.setText(text)
        self.show_status(" ".join(filter(None, [text, inversion.warning])), warn=inversion.warning is not None)

    def chain(self) -> bool:
        """Add the chain of the chosen transform and the one in 'Then'."""
        first, second = self.chosen, self.combining.then_box.currentData()
        if first is None or second is None:
            self.show_status("Choose two transforms first.", warn=True)
            return False
        try:
            self._add(chained(first, second))
        except RegistrationError as error:
            self.show_error(error)
            return False
        self.show_status(f"Added '{self.chosen.name}'.")
        return True

    def _add(self, entry: TransformEntry) -> None:
        self._store.extra.append(entry)
        self._fill_list(choose=entry)

    def remove(self) -> None:
        """Take the chosen transform off the list, if it was loaded or made here."""
        if self.chosen in self._store.extra:
            self._store.extra.remove(self.chosen)
            self._fill_list()

    # -- files

    def load(self, path: str) -> bool:
        """Add a transform from a file."""
        try:
            boxes = self.choice.fixed_box, self.choice.moving_box
            places = [place_of(box.currentData(), self._viewer) for box in boxes]
        except RegistrationError as error:
            self.show_error(error)
            return False
        return self.begin(load_file, str(path), *places, done=self._on_loaded)

    def _on_loaded(self, entry: TransformEntry) -> None:
        self._add(entry)
        self.show_status(f"Loaded '{entry.name}'.")

    def save(self, path: str) -> bool:
        """Save the chosen transform; the suffix selects the format."""
        entry = self.chosen
        if entry is None:
            self.show_status("Choose a transform first.", warn=True)
            return False
        return self.begin(save_file, entry, str(path), done=self._on_saved)

    def _on_saved(self, path: str) -> None:
        self.show_status(f"Saved {path}")

    def _ask_load(self) -> None:
        if not self.running and (path := file_to_load(self)) is not None:
            self.load(path)

    def _ask_save(self) -> None:
        if self.chosen is not None and (path := file_to_save(self, self.chosen)) is not None:
            self.save(path)
