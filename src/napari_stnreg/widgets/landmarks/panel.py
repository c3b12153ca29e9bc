"""The landmark panel: pairs of points, and the moving image warped while they are moved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Points
from qtpy.QtWidgets import QFileDialog

from napari_stnreg.core.errors import InputError, RegistrationError
from napari_stnreg.core.family_titles import family_title
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.image import coordinate_system_of
from napari_stnreg.core.units import conversion_factor
from napari_stnreg.io.transform_entry import TransformEntry
from napari_stnreg.landmarks.pairs import LandmarkPairs, Side, other_side
from napari_stnreg.widgets.common.forms import button
from napari_stnreg.widgets.common.layer_io import LayerSource, landmark_points, layer_source
from napari_stnreg.widgets.common.result_layers import is_own_layer
from napari_stnreg.widgets.common.run_layers import RunLayers
from napari_stnreg.widgets.common.task_panel import TaskPanel
from napari_stnreg.widgets.landmarks.files import EXPORTS, IMPORT_FILTER, ImagePlace, read_files, write_files
from napari_stnreg.widgets.landmarks.form import LandmarkForm
from napari_stnreg.widgets.landmarks.live import LiveWarping, WarpedFrame
from napari_stnreg.widgets.landmarks.mouse import LandmarkMouse
from napari_stnreg.widgets.landmarks.scene import LandmarkScene
from napari_stnreg.widgets.register.scores_view import VerdictLine
from napari_stnreg.widgets.scorecard.table import theme_kind
from napari_stnreg.widgets.transforms.apply_layers import (
    ApplyJob,
    ApplyResult,
    apply_to_layers,
    same_place,
    snapshot_layer,
)
from napari_stnreg.widgets.transforms.dialogs import file_to_save
from napari_stnreg.widgets.transforms.layers import linked_layers, with_layers
from napari_stnreg.widgets.transforms.tasks import save_file

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_stnreg.landmarks.fit import LandmarkFit
    from napari_stnreg.widgets.register.run import RegistrationRun

_READY = "Choose two images and press Place landmarks."
_EXACT_MS = 250
"""The originals are sampled when no point was moved for this long."""

_TABLE_MS = 200
"""Time between two updates of the errors during a drag."""

_KEPT: WeakKeyDictionary[Layer, WeakKeyDictionary[Layer, LandmarkPairs]] = WeakKeyDictionary()
"""The pairs of each fixed and moving layer, for when the panel is closed and opened again."""


class LandmarksPanel(TaskPanel):
    """Register two layers by pairs of landmarks.

    Parameters
    ----------
    napari_viewer
        The napari viewer.

    Notes
    -----
    It can be driven from code: :meth:`set_layers`, :meth:`place`, :meth:`add_pairs`, :meth:`add_result`,
    :meth:`register`, :meth:`save`, :meth:`load_files`, :attr:`pairs`, :attr:`fit`.
    """

    title = "Landmark registration"
    help_page = "how-to/landmarks.html"
    introduction = (
        "Choose the fixed and the moving image, and press Place landmarks.",
        "Click a place in one image: its counterpart in the other is predicted (blue). Drag it to the right place.",
        "Go on until the images match, and press Add result.",
    )

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer, _READY)
        self.landmarks = LandmarkForm(self._viewer)
        self.verdict = VerdictLine()
        self.form.addWidget(self.landmarks, 1)
        self.form.addWidget(self.verdict)
        self.result_button = button(
            "Add result", "Warp the moving layers at full resolution, as new layers (Ctrl+Enter)."
        )
        self.register_button = button(
            "Landmarks + image", "Register the images, with the landmarks as the start and as constraints."
        )
        self.save_button = button("Save …", "Save the transform. The file extension sets the format.")
        self.set_run_buttons(self.result_button)
        self.set_action_buttons(self.register_button, self.save_button)
        self.setAcceptDrops(True)
        self._layers = RunLayers(self._viewer, self)
        self.fit: LandmarkFit | None = None
        self.scene: LandmarkScene | None = None
        self._live: LiveWarping | None = None
        self._mouse: LandmarkMouse | None = None
        self._ready = False
        self._waiting: dict[Side, FloatArray] = {}
        self._job: Any = None
        self.updates = 0
        """Number of warped images shown so far."""
        self._exact_timer = self._timer(self._request_exact, _EXACT_MS)
        self._table_timer = self._timer(self._show_errors, _TABLE_MS)
        self._connect()
        self.refresh()
        self._show_table()

    def _connect(self) -> None:
        form = self.landmarks
        form.place_button.toggled.connect(self._on_place)
        form.images.changed.connect(self._on_layers_chosen)
        form.family_box.currentIndexChanged.connect(self._on_family)
        form.stiffness_box.valueChanged.connect(self._on_family)
        form.view_box.currentIndexChanged.connect(self._on_view)
        form.opacity_slider.valueChanged.connect(self._on_opacity)
        form.follow_box.toggled.connect(self._on_follow)
        form.table.jump_requested.connect(self.go_to)
        form.table.lock_changed.connect(self._on_lock)
        form.table.selection_changed.connect(self._on_selection)
        form.go_button.clicked.connect(self._on_go)
        form.delete_button.clicked.connect(self.delete_selected)
        form.up_button.clicked.connect(lambda: self._reorder(-1))
        form.down_button.clicked.connect(lambda: self._reorder(1))
        form.undo_button.clicked.connect(self.undo)
        form.redo_button.clicked.connect(self.redo)
        form.import_files.triggered.connect(self._ask_import)
        form.import_layers.triggered.connect(self.import_selected_layers)
        for action in form.exports.values():
            action.triggered.connect(self._ask_export)
        self.result_button.clicked.connect(self.add_result)
        self.register_button.clicked.connect(self.register)
        self.save_button.clicked.connect(self._ask_save)
        self.verdict.retry_requested.connect(self._on_suggestion)
        self.run_shortcut(self.add_result)
        self.shortcut("Delete", self.delete_selected)
        self.shortcut("Ctrl+Z", self.undo)
        self.shortcut("Ctrl+Shift+Z", self.redo)
        self._layers.idle.connect(self.show_state)

    @property
    def running(self) -> bool:
        """Whether a task is running or layers are being added."""
        return self._runner.running or self._layers.busy

    # -- the two layers

    def refresh(self) -> None:
        """Update the panel from the viewer's layers."""
        if self.landmarks.images.refresh(prefill=self.scene is None):
            self.status.setText(_READY)
        self.show_state()

    @property
    def fixed(self) -> Layer | None:
        """The fixed layer."""
        return self.landmarks.images.fixed

    @property
    def moving(self) -> Layer | None:
        """The moving layer."""
        return self.landmarks.images.moving

    def set_layers(self, fixed: Layer, moving: Layer) -> None:
        """Choose the two layers."""
        self.refresh()
        self.landmarks.images.choose(fixed, moving)

    def _on_layers_chosen(self) -> None:
        if self.scene is not None and (self.fixed is not self.scene.fixed or self.moving is not self.scene.moving):
            self.leave()
        self.fit = None
        self._waiting = {}
        self._show_table()

    @property
    def pairs(self) -> LandmarkPairs:
        """The pairs of the two layers; they are kept while the layers exist."""
        fixed, moving = self.fixed, self.moving
        if fixed is None or moving is None:
            return LandmarkPairs(2)
        of_fixed = _KEPT.setdefault(fixed, WeakKeyDictionary())
        if moving not in of_fixed:
            of_fixed[moving] = LandmarkPairs(layer_source(fixed, self._viewer, level=0).grid.ndim)
        return of_fixed[moving]

    def _sources(self) -> tuple[LayerSource, LayerSource]:
        sources = self.landmarks.images.sources()
        sources[1].grid.with_unit(sources[0].grid.unit)  # raises if the units cannot be converted
        return sources

    def _companions(self) -> list[Layer]:
        """Return the moving layer and the layers that are warped with it."""
        moving = self.moving
        assert moving is not None
        plain = [layer for layer in self._viewer.layers if not is_own_layer(layer)]
        others = [*same_place(moving, plain), *(layer for layer in linked_layers(moving) if layer in plain)]
        known = [layer for layer in dict.fromkeys(others) if layer not in (moving, self.fixed)]
        ndim = layer_source(moving, self._viewer, level=0).grid.ndim
        return [moving, *(layer for layer in known if isinstance(layer, ImageLayer | Labels) and layer.ndim >= ndim)]

    # -- the landmark view

    @property
    def placing(self) -> bool:
        """Whether the landmark view is shown."""
        return self.scene is not None

    def place(self) -> bool:
        """Show the landmark view; return false, with a message, if that is not possible."""
        self.landmarks.place_button.setChecked(True)
        return self.placing

    def leave(self) -> None:
        """Leave the landmark view; the pairs are kept."""
        self.landmarks.place_button.setChecked(False)

    def _on_place(self, on: bool) -> None:
        if not on:
            self._leave()
            return
        if self.scene is not None:
            return
        try:
            if self.running:
                raise InputError("A registration is running. Stop it first.")
            fixed, moving = self._sources()
            companions = self._companions()
            sources = [layer_source(layer, self._viewer, level=0) for layer in companions]
        except RegistrationError as error:
            self.landmarks.place_button.setChecked(False)
            self.show_error(error)
            return
        assert self.fixed is not None
        assert self.moving is not None
        grid = fixed.grid
        self.scene = LandmarkScene(
            self._viewer, self.fixed, self.moving, grid, moving.grid.with_unit(grid.unit), companions
        )
        self.scene.view = str(self.landmarks.view_box.currentData())
        self.scene.opacity = self.landmarks.opacity_slider.value() / 100
        self.scene.enter()
        for layer in self.scene.points.values():
            layer.events.data.connect(self._on_points_edited)
        self._mouse = LandmarkMouse(self._viewer, self)
        self._mouse.connect()
        self._ready = False
        self._live = LiveWarping(sources, [isinstance(layer, Labels) for layer in companions], grid, self)
        self._live.ready.connect(self._on_ready)
        self._live.warped.connect(self._on_warped)
        self._live.failed.connect(self._on_live_failed)
        self._live.start()
        self.status.setText("Reading the images …")
        self._refit()

    def _leave(self) -> None:
        self._exact_timer.stop()
        self._table_timer.stop()
        live, self._live = self._live, None
        if live is not None:
            live.close()
            live.deleteLater()
        if self._mouse is not None:
            self._mouse.disconnect()
            self._mouse = None
        scene, self.scene = self.scene, None
        if scene is not None:
            for layer in scene.points.values():
                layer.events.data.disconnect(self._on_points_edited)
            scene.leave()
            self.status.setText("The layers are as they were. The pairs are kept.")
        self._ready = False
        self.show_state()

    def _on_ready(self) -> None:
        self._ready = True
        self.status.setText("Click a place in one image, then drag its counterpart (blue) to the right place.")
        if self.pairs.placed:  # imported while the engine was loading
            self._refit_and_show_all()
        else:
            self._refit()

    def _on_live_failed(self, error: Exception) -> None:
        self.leave()
        self.show_error(error)

    def _on_warped(self, frame: WarpedFrame) -> None:
        if self.scene is None or self._live is None:
            return
        try:
            if self.fit is not None:
                self.scene.show_warped(frame)
                self.updates += 1
        finally:
            self._live.mark_shown()

    def _request_exact(self) -> None:
        if self._live is not None and self.scene is not None and self.fit is not None:
            self._live.request(self.fit.transform, self.scene.wanted, exact=True)

    # -- the fit

    @property
    def unit(self) -> str:
        """Unit of the pairs: that of the fixed layer."""
        return "pixel" if self.fixed is None else layer_source(self.fixed, self._viewer, level=0).grid.unit

    def _predict(self, points: FloatArray, side: Side) -> FloatArray:
        if self.fit is not None:
            return self.fit.predict(points, side)
        if self.scene is None:
            return points
        matrix = self.scene.display if side == "moving" else np.linalg.inv(self.scene.display)
        return np.asarray(points @ matrix[:-1, :-1].T + matrix[:-1, -1])

    def _refit(self, *, dragging: bool = False) -> None:
        """Fit to the pairs, move the predicted points, and warp."""
        pairs, scene = self.pairs, self.scene
        if scene is None:
            if self.fit is not None and self.fixed is not None:  # the pairs or the family were changed afterward
                self.fit = self._fitted(pairs, layer_source(self.fixed, self._viewer, level=0).grid)
            self._show_table()
            return
        self.fit = self._fitted(pairs, scene.fixed_grid) if self._ready else None
        pairs.predict(self._predict)
        if dragging:
            scene.move_points(pairs)
        else:
            scene.set_fit(None if self.fit is None else self.fit.predict)
            if self.landmarks.follow_box.isChecked():
                scene.follow(self._linear())
            self._show_points()
        if self.fit is None:
            if scene.warped:
                scene.hide_warped()
        elif self._live is not None:
            self._live.request(self.fit.transform, scene.wanted)
            self._exact_timer.start()
        if dragging:
            if not self._table_timer.isActive():
                self._table_timer.start()
        else:
            self._table_timer.stop()
            self._show_table()

    def _refit_and_show_all(self) -> None:
        """Fit to pairs that were imported, which moves the moving image, and fit the view to both images."""
        self._refit()
        if self.scene is not None:
            self.scene.fit()

    def _fitted(self, pairs: LandmarkPairs, grid: Grid) -> LandmarkFit | None:
        from napari_stnreg.landmarks.fit import fit_landmarks

        fixed, moving = pairs.placed_points()
        if not len(fixed):
            return None
        system = [coordinate_system_of({} if layer is None else layer.metadata) for layer in (self.fixed, self.moving)]
        return fit_landmarks(
            fixed,
            moving,
            str(self.landmarks.family_box.currentData()),
            unit=grid.unit,
            stiffness=self.landmarks.stiffness_box.value(),
            simplify=True,
            grid=grid,
            coordinate_systems=(system[0], system[1]),
        )

    def _linear(self) -> FloatArray | None:
        """Return the linear map that is closest to the fit, fixed to moving world."""
        if self.fit is None:
            return None
        matrix = self.fit.transform.as_matrix()
        if matrix is None:
            from napari_stnreg.core.linalg import fit_affine

            matrix = fit_affine(self.fit.fixed, self.fit.moving)
        return matrix

    def _worst_row(self) -> int | None:
        if self.fit is None or self.fit.worst is None or self.fit.worst >= len(self.pairs.placed):
            return None
        return self.pairs.placed[self.fit.worst]

    def _show_points(self) -> None:
        if self.scene is not None:
            self.scene.show_points(self.pairs, worst=self._worst_row(), selected=self.landmarks.table.selected)

    def _known_fit(self) -> LandmarkFit | None:
        return self.fit if self.fit is not None and len(self.fit) == len(self.pairs.placed) else None

    def _show_errors(self) -> None:
        self.landmarks.table.show_pairs(self.pairs, self._known_fit(), theme_kind(self._viewer))

    def _show_table(self) -> None:
        """Show the pairs, their errors and the verdict on them."""
        self._show_errors()
        fit = self._known_fit()
        text = "" if fit is None else "\n".join([fit.summary, f"Pairs: {fit.verdict}.", *fit.reasons])
        self.landmarks.summary.setText(text)
        self.show_state()

    # -- the mouse (see LandmarkEditor)

    def side_at(self, event: Any) -> Side | None:
        """Return the side under the pointer."""
        if self.scene is None:
            return None
        if self._viewer.dims.ndisplay == 3:
            self.status.setText("Switch to the 2D display to place points.")
        return self.scene.side_at(event)

    def point_at(self, event: Any) -> tuple[int, Side] | None:
        """Return the point under the pointer."""
        return None if self.scene is None else self.scene.point_at(event, self.pairs)

    def press(self, row: int, side: Side) -> bool:
        """Select a point; it can be dragged unless it is locked."""
        self.landmarks.table.select([row])
        self._on_selection()
        if self.pairs.rows[row].locked:
            self.status.setText(f"Pair {row + 1} is locked.")
            return False
        self.pairs.begin_move()
        return True

    def drag(self, row: int, side: Side, position: Any) -> None:
        """Move a point; the moving layers are warped."""
        if self.scene is not None and row < len(self.pairs):
            self.pairs.move(row, side, self.scene.position(side, position))
            self._refit(dragging=True)

    def release(self, row: int, side: Side, *, moved: bool) -> None:
        """End a drag; a click on a predicted point accepts it."""
        if self.scene is None or row >= len(self.pairs) or self.pairs.rows[row].locked:
            return
        if not moved:
            self.pairs.undo()  # nothing was moved: the step that the press began
            if self.pairs.rows[row].predicted == side:
                self.pairs.confirm(row)
        self._refit()

    def click(self, side: Side, position: Any) -> None:
        """Place the counterpart of the last pair that waits for one on this side, or add a pair."""
        if self.scene is None:
            return
        where = self.scene.position(side, position)
        pairs = self.pairs
        waiting = [n for n, row in enumerate(pairs.rows) if row.predicted == side and not row.locked]
        if waiting and self.scene.view == "side":
            row = waiting[-1]
            pairs.place(row, side, where)
        else:
            row = pairs.add(side, where, self._predict(where[None], side)[0])
            self.status.setText(f"Pair {row + 1}: now set the {other_side(side)} point.")
        self._refit()
        self.landmarks.table.select([row])
        self._on_selection()

    def _on_points_edited(self, event: Any) -> None:
        """Take over what the tools of the points layers did."""
        if self.scene is None or self.scene.writing or not str(event.action).endswith(("added", "removed", "changed")):
            return
        pairs = self.pairs
        for side, layer in self.scene.points.items():
            data = np.asarray(layer.data, dtype=np.float64)
            before = self.scene.layer_points(side, pairs)
            try:
                if len(data) > len(before):
                    for point in self.scene.world_points(side, data[len(before) :]):
                        pairs.add(side, point, self._predict(point[None], side)[0])
                elif len(data) < len(before):
                    kept = {tuple(point) for point in data}
                    pairs.delete(n for n, point in enumerate(before) if tuple(point) not in kept)
                else:
                    for row in np.flatnonzero((data != before).any(axis=1)):
                        pairs.place(int(row), side, self.scene.world_points(side, data[[row]])[0])
            except RegistrationError as error:
                self.status.setText(str(error))
        self._refit()

    # -- the table

    def go_to(self, row: int) -> None:
        """Show a pair in both views."""
        if self.scene is not None and 0 <= row < len(self.pairs):
            from napari_stnreg.widgets.common.navigation import center_on

            center_on(self._viewer, self.scene.points["fixed"], self.pairs.rows[row].fixed)

    def _on_go(self) -> None:
        selected = self.landmarks.table.selected
        if selected:
            self.go_to(selected[0])

    def _on_selection(self) -> None:
        self._show_points()
        self.show_state()

    def _on_lock(self, row: int, locked: bool) -> None:
        self.pairs.lock([row], locked)
        self._refit()

    def _edit(self, change: Callable[[], Any]) -> None:
        try:
            change()
        except RegistrationError as error:
            self.show_error(error)
        self._refit()

    def delete_selected(self) -> None:
        """Delete the selected pairs."""
        rows = self.landmarks.table.selected
        if rows:
            self._edit(lambda: self.pairs.delete(rows))

    def _reorder(self, step: int) -> None:
        rows = self.landmarks.table.selected
        if len(rows) == 1:
            to = self.pairs.reorder(rows[0], rows[0] + step)
            self._refit()
            self.landmarks.table.select([to])
            self._on_selection()

    def undo(self) -> None:
        """Take the last change back."""
        self._edit(self.pairs.undo)

    def redo(self) -> None:
        """Make the undone change again."""
        self._edit(self.pairs.redo)

    def add_pairs(self, fixed: Any, moving: Any) -> None:
        """Add pairs ``(N, D)`` in world coordinates, in the unit of the fixed layer."""
        self.pairs.extend(fixed, moving)
        self._refit()

    # -- choices

    def _on_family(self, _value: Any = None) -> None:
        self._refit()

    def _on_view(self, _index: int = 0) -> None:
        if self.scene is not None:
            self.scene.set_view(str(self.landmarks.view_box.currentData()))
            self._show_points()
            self.scene.fit()

    def _on_opacity(self, value: int) -> None:
        if self.scene is not None:
            self.scene.set_opacity(value / 100)

    def _on_follow(self, on: bool) -> None:
        if self.scene is not None and on:
            self.scene.follow(self._linear())

    # -- files

    def _places(self) -> tuple[ImagePlace, ImagePlace]:
        fixed, moving = self._sources()
        return (
            ImagePlace(fixed.grid, coordinate_system_of(fixed.metadata)),
            ImagePlace(moving.grid, coordinate_system_of(moving.metadata)),
        )

    def load_files(self, paths: list[str | Path]) -> bool:
        """Add the pairs of one file, or of one file for each side; return false, with a message, if that fails."""
        try:
            places = self._places()
            fixed, moving = read_files([Path(path) for path in paths], self.pairs.ndim, *places)
            found: dict[Side, FloatArray] = {**self._waiting}
            if fixed is not None:
                found["fixed"] = fixed
            if moving is not None:  # in the unit of the fixed layer
                found["moving"] = moving * conversion_factor(places[1].grid.unit, places[0].grid.unit)
            if len(found) < 2:
                self._waiting = found
                (side,) = found
                self.show_status(f"Read {len(found[side])} {side} points. Now open the {other_side(side)} points.")
                return True
            self.pairs.extend(found["fixed"], found["moving"])
        except RegistrationError as error:
            self.show_error(error)
            return False
        self._waiting = {}
        self.show_status(f"Added {len(found['fixed'])} pairs.")
        if not self.placing:
            self.place()
        self._refit_and_show_all()
        return True

    def export(self, path: str | Path, form: str) -> bool:
        """Write the pairs in a format of :data:`~.files.EXPORTS`; return false, with a message, if that fails."""
        try:
            fixed, moving = self.pairs.placed_points()
            if not len(fixed):
                raise InputError("There are no complete pairs to export.")
            places = self._places()
            moving = moving * conversion_factor(places[0].grid.unit, places[1].grid.unit)
            written = write_files(Path(path), form, fixed, moving, *places)
        except RegistrationError as error:
            self.show_error(error)
            return False
        self.show_status(f"Saved {' and '.join(str(one) for one in written)}")
        return True

    def import_selected_layers(self) -> None:
        """Add the points of the two selected points layers, the lower one as fixed, paired by order."""
        selected = self._viewer.layers.selection
        chosen = [layer for layer in self._viewer.layers if isinstance(layer, Points) and layer in selected]
        chosen = [layer for layer in chosen if not is_own_layer(layer)]
        if len(chosen) != 2:
            self.show_error(
                InputError(f"{len(chosen)} points layers are selected. Select the fixed and the moving one.")
            )
            return
        self.import_layers(chosen[0], chosen[1])

    def import_layers(self, fixed_points: Points, moving_points: Points) -> None:
        """Add the points of two layers as pairs, by order."""
        try:
            fixed, moving = self._sources()
            grid = moving.grid.with_unit(fixed.grid.unit)
            self.pairs.extend(landmark_points(fixed_points, fixed.grid), landmark_points(moving_points, grid))
        except RegistrationError as error:
            self.show_error(error)
            return
        self._refit_and_show_all()

    def _ask_import(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, "Open landmarks", "", IMPORT_FILTER)
        if paths:
            self.load_files(list(paths))

    def _ask_export(self) -> None:
        form = str(self.sender().data())
        text, suffix = EXPORTS[form]
        path, _ = QFileDialog.getSaveFileName(self, "Save landmarks", f"landmarks{suffix}", text)
        if path:
            self.export(path, form)

    def dragEnterEvent(self, event: Any) -> None:
        """Accept files."""
        if event.mimeData().hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:
        """Read the dropped landmark files."""
        paths = [Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile()]
        if paths:
            event.acceptProposedAction()
            self.load_files(list(paths))

    # -- results

    def _entry(self) -> TransformEntry:
        fixed, moving = self._sources()
        fit = self.fit if self.fit is not None else self._fitted(self.pairs, fixed.grid)
        if fit is None:
            raise InputError("There are no complete pairs. Place landmarks on both sides first.")
        method = f"landmarks, {family_title(fit.family)}"
        return TransformEntry.of(
            fit.transform, fixed.name, moving.name, method, source="made", grid=fixed.grid,
            moving_grid=moving.grid, info={"landmarks": fit.report()},
        )  # fmt: skip

    def add_result(self) -> bool:
        """Warp the moving layers at full resolution, as new layers, and leave the landmark view."""
        try:
            entry = self._entry()
            ndim = entry.transform.ndim
            taken = tuple(snapshot_layer(layer, self._viewer, ndim) for layer in self._companions())
        except RegistrationError as error:
            self.show_error(error)
            return False
        self.leave()
        return self.begin(
            with_layers(apply_to_layers), ApplyJob(entry, taken, "moving", entry.grid), done=self._on_applied
        )

    def _on_applied(self, made: tuple[ApplyResult, list[Layer]]) -> None:
        _applied, layers = made
        for layer in layers:
            record = layer.metadata["stnreg"]
            name = layer.name.removesuffix(f" transformed to {record['fixed']}")
            layer.name = f"warped · {name} -> {record['fixed']} ({record['family']})"
            layer.metadata["stnreg"] = {**record, "what": "warped"}
            if isinstance(layer, ImageLayer) and not layer.rgb:
                layer.colormap, layer.blending = "magenta", "additive"
        if self.moving is not None:
            self.moving.visible = False
        self.add_layers(layers)
        self.show_status(f"Added {', '.join(repr(layer.name) for layer in layers)}.")

    def save(self, path: str) -> bool:
        """Write the transform; the extension sets the format."""
        try:
            entry = self._entry()
        except RegistrationError as error:
            self.show_error(error)
            return False
        return self.begin(save_file, entry, str(path), done=lambda saved: self.show_status(f"Saved {saved}"))

    def _ask_save(self) -> None:
        try:
            entry = self._entry()
        except RegistrationError as error:
            self.show_error(error)
            return
        path = file_to_save(self, entry)
        if path is not None:
            self.save(path)

    def register(self) -> bool:
        """Register the images, starting at the landmarks and held by them."""
        from napari_stnreg.registration.settings import RegistrationSettings
        from napari_stnreg.widgets.register.run import RegistrationJob, run_registration

        try:
            sources = self._sources()
            points = self.pairs.placed_points()
            if not len(points[0]):
                raise InputError("There are no complete pairs. Place landmarks on both sides first.")
            assert self.fixed is not None
            assert self.moving is not None
            fixed, moving = layer_source(self.fixed, self._viewer), layer_source(self.moving, self._viewer)
            factor = conversion_factor(sources[0].grid.unit, sources[1].grid.unit)
            volume = self._viewer.dims.ndisplay == 3 and fixed.grid.ndim == 3
            job = RegistrationJob(
                fixed, moving, RegistrationSettings(), points[0], points[1] * factor,
                kinds=frozenset({"warped", "overlay", "grid"}), volume=volume,
            )  # fmt: skip
        except RegistrationError as error:
            self.show_error(error)
            return False
        self.leave()
        self.verdict.hide()
        if not self.begin(run_registration, job, done=self._on_run, activity=f"Register {job.name}"):
            return False
        self._job = job
        return True

    def on_progress(self, payload: Any) -> None:
        """Show the preview of the registration."""
        if self._job is not None and getattr(payload, "preview", None) is not None:
            self._layers.show_preview(payload.preview, self._job.fixed.grid, str(self._job.name))

    def _on_run(self, run: RegistrationRun) -> None:
        def added() -> None:
            self.verdict.show_results(run.results, theme_kind(self._viewer))
            self.scroll_to_end()
            if run.warnings:
                self.show_status(" ".join(run.warnings), warn=True)
            else:
                self.status.setText(f"Done: {len(run.layers)} layers added.")

        self._layers.add_results(run.layers, run.layer_data, added)

    def drop_scores(self) -> None:
        """Remove the verdict of a registration."""
        self.verdict.hide()

    def _on_failed(self, error: Exception) -> None:
        self._layers.end_preview()
        super()._on_failed(error)

    def _on_canceled(self) -> None:
        self._layers.end_preview()
        super()._on_canceled()

    def _on_suggestion(self, _suggestion: str) -> None:
        self.place()

    # -- what is shown

    def show_state(self) -> None:
        """Enable what is possible now."""
        super().show_state()
        form, pairs = self.landmarks, self.pairs
        idle, placing = not self.running, self.placing
        selected = form.table.selected
        complete = bool(pairs.placed)
        form.place_button.setEnabled(placing or (idle and form.images.can_choose))
        form.place_button.setText("Leave the landmark view" if placing else "Place landmarks")
        form.view.setVisible(placing)
        form.rows.set_row_visible(form.stiffness_box, form.family_box.currentData() == "tps")
        form.go_button.setEnabled(placing and bool(selected))
        form.delete_button.setEnabled(bool(selected))
        form.up_button.setEnabled(len(selected) == 1 and selected[0] > 0)
        form.down_button.setEnabled(len(selected) == 1 and selected[0] < len(pairs) - 1)
        form.undo_button.setEnabled(pairs.can_undo)
        form.redo_button.setEnabled(pairs.can_redo)
        form.import_button.setEnabled(idle and form.images.can_choose)
        form.export_button.setEnabled(complete)
        for made in (self.result_button, self.register_button, self.save_button):
            made.setEnabled(idle and complete)

    # -- the viewer

    def viewer_events(self) -> list[tuple[Any, Callable[..., Any]]]:
        """The layers and the theme."""
        return [
            *super().viewer_events(),
            (self._viewer.layers.events.removed, self._on_removed),
            (self._viewer.events.theme, self._on_theme),
        ]

    def _on_removed(self, event: Any) -> None:
        if self.scene is not None and self.scene.needs(event.value):
            self.leave()
            self.status.setText(f"Left the landmark view, because '{event.value.name}' was removed.")

    def _on_theme(self, _event: Any = None) -> None:
        self.verdict.restyle(theme_kind(self._viewer))
        self._show_table()

    def close_down(self) -> None:
        """Leave the landmark view and cancel the task."""
        self.leave()
        super().close_down()
        self._layers.drop()
