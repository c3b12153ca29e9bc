"""Place by hand: move, rotate, scale and mirror a copy of the moving layer; the registration starts there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Layer
from qtpy.QtWidgets import QDoubleSpinBox, QWidget

from napari_stnreg.core.errors import InputError, RegistrationError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.landmarks.manual_placement import Placement
from napari_stnreg.widgets.common.forms import FormLayout, button, button_row, emphasize, help_label
from napari_stnreg.widgets.common.layer_affines import is_oblique, spatial_affine, spatial_part
from napari_stnreg.widgets.common.layer_io import layer_source
from napari_stnreg.widgets.common.open_panel import open_panel
from napari_stnreg.widgets.common.result_layers import OWN
from napari_stnreg.widgets.common.task_panel import TaskPanel
from napari_stnreg.widgets.common.transform_store import store_for
from napari_stnreg.widgets.register.pair_boxes import PairBoxes

if TYPE_CHECKING:
    from napari.viewer import Viewer

_RECORD_MS = 150
_MARGIN = 0.3
"""Space around the images, so that the handles are inside the canvas."""
_AXES = ("z", "y", "x")
_READY = "Choose the moving image and press Place by hand."
_HANDLES = (
    "Drag the image to move it, its corners to scale it (Shift: all axes equally), and the handle above it to rotate "
    "it. "
)
_NUMBERS = "In the 3D display use the numbers and buttons below. The 2D display has handles to drag. "
_COPY = "The layer itself is not changed: a copy of it is placed."


class PlacementPanel(TaskPanel):
    """Place a copy of the moving layer by handles or numbers.

    Parameters
    ----------
    napari_viewer
        The napari viewer.

    Notes
    -----
    It can be driven from code: :meth:`set_layers`, :meth:`place`, :meth:`set_placement`, :meth:`flip`,
    :meth:`rotate`, :meth:`reset`, :meth:`remove`, :attr:`placement`.
    """

    title = "Place by hand"
    help_page = "how-to/landmarks.html"
    introduction = (
        "Choose the fixed and the moving image, and press Place by hand.",
        "In the 2D display drag the image and its handles. In 3D type numbers.",
        "Press Register from here: the registration starts at this place.",
    )

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer, _READY)
        self.copy: Layer | None = None
        self._source: Layer | None = None
        self._grid: Grid | None = None
        self._base: FloatArray | None = None
        self._was_visible = True
        self._writing = False
        self._run = 0
        self.placement: Placement | None = None
        """Where the image is placed, in the unit of the moving layer."""
        self._record_timer = self._timer(self._record, _RECORD_MS)
        self.place_button = button(
            "Place by hand",
            "Show a copy of the moving image, in the 2D display with handles. Press again to get the handles back.",
        )
        emphasize(self.place_button)
        layers = FormLayout()
        self._images = PairBoxes(self._viewer, "The image to place.", layers)
        self.hint = help_label(_HANDLES + _COPY)
        self.numbers = QWidget()
        self._rows = FormLayout()
        self.numbers.setLayout(self._rows)
        self.shift_boxes = [
            self._number(f"Shift {axis}", f"Shift along {axis}, in the unit of the moving image.", 1e9, 1.0, 2)
            for axis in _AXES
        ]
        self.angle_boxes = [
            self._number(f"Rotate about {axis}", f"Rotation about the {axis} axis.", 360.0, 1.0, 2, "°")
            for axis in _AXES
        ]
        self.scale_box = self._number("Scale", "Scale of all axes.", 1000.0, 0.01, 4)
        self.scale_box.setMinimum(0.001)
        self.scale_box.setValue(1.0)
        self.flip_buttons = [button(f"Flip {axis}", f"Mirror the image along {axis}.") for axis in _AXES]
        self.left_button = button("⟲ 90°", "Rotate by 90 degrees, counterclockwise in the y-x plane.")
        self.left_button.setAccessibleName("rotate by 90 degrees counterclockwise")
        self.right_button = button("⟳ 90°", "Rotate by 90 degrees, clockwise in the y-x plane.")
        self.right_button.setAccessibleName("rotate by 90 degrees clockwise")
        self.center_button = button("Center", "Shift the center of the image onto that of the fixed image.")
        self.reset_button = button("Reset", "Put the image back to its own place.")
        self.remove_button = button("Remove", "Remove the copy. The registration starts as usual.")
        self.form.addLayout(layers)
        self.form.addWidget(self.place_button)
        self.form.addWidget(self.hint)
        self.form.addWidget(self.numbers)
        self.form.addLayout(button_row(*self.flip_buttons))
        self.form.addLayout(button_row(self.left_button, self.right_button, self.center_button))
        self.form.addLayout(button_row(self.reset_button, self.remove_button))
        self.form.addStretch(1)
        self.register_button = button("Register from here", "Open the registration panel. It starts at this place.")
        self.set_run_buttons(self.register_button)
        self._connect()
        self.refresh()

    def _number(
        self, text: str, tip: str, limit: float, step: float, decimals: int, suffix: str = ""
    ) -> QDoubleSpinBox:
        box = QDoubleSpinBox()
        box.setRange(-limit, limit)
        box.setDecimals(decimals)
        box.setSingleStep(step)
        box.setSuffix(suffix)
        box.setToolTip(tip)
        box.setAccessibleName(text.lower())
        box.setKeyboardTracking(False)
        box.valueChanged.connect(self._on_number)
        self._rows.add(text, box)
        return box

    def _connect(self) -> None:
        self._images.changed.connect(self._on_layers_chosen)
        self.place_button.clicked.connect(self.place)
        for axis, made in enumerate(self.flip_buttons):
            made.setProperty("axis", axis)
            made.clicked.connect(self._on_flip)
        self.left_button.clicked.connect(lambda: self.rotate(-90))
        self.right_button.clicked.connect(lambda: self.rotate(90))
        self.center_button.clicked.connect(self.center)
        self.reset_button.clicked.connect(self.reset)
        self.remove_button.clicked.connect(self.remove)
        self.register_button.clicked.connect(self.register)

    # -- the layers

    def refresh(self) -> None:
        """Update the panel from the viewer's layers."""
        if self._images.refresh(prefill=self.copy is None):
            self.status.setText(_READY)
        self.show_state()

    @property
    def fixed(self) -> Layer | None:
        """The fixed layer."""
        return self._images.fixed

    @property
    def moving(self) -> Layer | None:
        """The moving layer."""
        return self._images.moving

    def set_layers(self, fixed: Layer, moving: Layer) -> None:
        """Choose the two layers."""
        self.refresh()
        self._images.choose(fixed, moving)

    def _on_layers_chosen(self) -> None:
        if self.copy is not None and self.moving is not self._source:
            self._let_go()
        self.show_state()

    # -- placing

    def place(self) -> bool:
        """Show a copy of the moving layer with handles; return false, with a message, if that is not possible."""
        try:
            _, source = self._images.sources()
        except RegistrationError as error:
            self.show_error(error)
            return False
        if self.copy is None:
            assert self.moving is not None
            self._add_copy(self.moving, source.grid)
        self.show_handles()
        return True

    def _add_copy(self, moving: Layer, grid: Grid) -> None:
        kept = store_for(self._viewer).placed_copy(moving, self._viewer)
        self._source, self._grid = moving, grid
        if kept is not None:
            self.copy = kept
        else:
            data, keywords, kind = moving.as_layer_data_tuple()
            keywords |= {"name": f"placed · {moving.name}", "visible": True, "opacity": 0.7, "metadata": {OWN: True}}
            if not getattr(moving, "rgb", False):
                keywords |= {"colormap": "magenta", "blending": "additive"}
            self.copy = Layer.create(data, keywords, kind)
        self._base = moving.affine.affine_matrix.copy()
        self._was_visible = moving.visible
        if kept is None:
            self._viewer.add_layer(self.copy)
            store_for(self._viewer).placements[moving] = self.copy
        self._viewer.reset_view(margin=_MARGIN)
        moving.visible = False
        self.copy.events.affine.connect(self._on_affine)
        self._on_affine()

    def show_handles(self) -> None:
        """Select the copy and show its handles, which napari has in the 2D display."""
        if self.copy is None:
            return
        self._viewer.layers.selection = {self.copy}
        self.copy.visible = True
        if self._viewer.dims.ndisplay == 2:
            self.copy.mode = "transform"
        self._say_how()
        self.show_state()

    def _say_how(self) -> None:
        flat = self._viewer.dims.ndisplay == 2
        self.status.setText(
            "Drag the image or its handles." if flat else "Type numbers, or drag handles in the 2D display."
        )

    def set_placement(self, placement: Placement) -> None:
        """Place the copy."""
        if self.copy is None or self._grid is None or self._base is None:
            return
        if self._grid.ndim == 3 and self._viewer.dims.ndisplay == 2 and is_oblique(placement.matrix):
            self._viewer.dims.ndisplay = 3
            self.status.setText("Switched to the 3D display: napari cannot slice a volume that is oblique.")
        self.copy.affine = spatial_affine(self.copy, placement.matrix, self._grid.unit) @ self._base

    def _on_affine(self, _event: Any = None) -> None:
        """Show the numbers of where the copy is now."""
        if self.copy is None or self._grid is None or self._base is None:
            return
        moved = self.copy.affine.affine_matrix @ np.linalg.inv(self._base)
        matrix = spatial_part(self.copy, moved, self._grid.unit)
        try:
            self.placement = Placement.from_matrix(matrix, self._grid.center)
        except InputError as error:
            self.status.setText(str(error))
            return
        self._show_numbers()
        self._record_timer.start()

    def _show_numbers(self) -> None:
        if self.placement is None:
            return
        ndim = len(self.placement.center)
        self._writing = True
        try:
            for box, value in zip(self.shift_boxes[-ndim:], self.placement.shift, strict=True):
                box.setValue(float(value))
            for box, value in zip(self.angle_boxes, self.placement.angles, strict=False):
                box.setValue(float(value))
            self.scale_box.setValue(self.placement.scale)
        finally:
            self._writing = False

    def _on_number(self, _value: float = 0.0) -> None:
        if self._writing or self.placement is None:
            return
        ndim = len(self.placement.center)
        angles = np.array([box.value() for box in self.angle_boxes[: len(self.placement.angles)]])
        shift = np.array([box.value() for box in self.shift_boxes[-ndim:]])
        self.set_placement(replace(self.placement, shift=shift, angles=angles, scale=self.scale_box.value()))

    def flip(self, axis: str) -> None:
        """Mirror the image along an axis, ``"z"``, ``"y"`` or ``"x"``."""
        if self.placement is not None:
            self.set_placement(self.placement.flipped(_AXES.index(axis) - 3))

    def _on_flip(self) -> None:
        self.flip(_AXES[int(self.sender().property("axis"))])

    def rotate(self, degrees: float) -> None:
        """Rotate the image in the plane of y and x, clockwise on screen."""
        if self.placement is not None:
            # On screen y points down: from x toward y is clockwise.
            self.set_placement(self.placement.rotated(degrees, (-1, -2)))

    def center(self) -> None:
        """Shift the center of the image onto that of the fixed image."""
        if self.placement is not None and self.fixed is not None and self._grid is not None:
            grid = layer_source(self.fixed, self._viewer, level=0).grid.with_unit(self._grid.unit)
            self.set_placement(self.placement.centered_on(grid.center))

    def reset(self) -> None:
        """Put the image back to its own place."""
        if self._grid is not None:
            self.set_placement(Placement.at_origin(self._grid.center))

    def remove(self) -> None:
        """Remove the copy, and show the moving layer again."""
        copy = self.copy
        self._let_go()
        if copy is not None and copy in self._viewer.layers:
            self._viewer.layers.remove(copy)
        self.status.setText("The moving layer is where it was.")

    def _let_go(self) -> None:
        """Follow the copy no longer; it stays in the viewer."""
        self._record_timer.stop()
        copy, source = self.copy, self._source
        if copy is None:
            return
        self._record(copy)
        copy.events.affine.disconnect(self._on_affine)
        copy.mode = "pan_zoom"
        self.copy = self._source = self._grid = self._base = self.placement = None
        if source is not None and source in self._viewer.layers:
            source.visible = self._was_visible
        self.show_state()

    def _record(self, copy: Layer | None = None) -> None:
        """Write the transform into the metadata of the copy, as the results of registrations have it."""
        copy = self.copy if copy is None else copy
        if copy is None or self.placement is None or self._grid is None or self._source is None:
            return
        fixed = self.fixed
        back = np.linalg.inv(self.placement.matrix)  # from where it is placed to the moving world
        record: dict[str, Any] = {
            "what": "placed",
            "run": f"placed-{id(copy):x}-{self._run}",
            "source": "made",
            "fixed": "fixed" if fixed is None else fixed.name,
            "moving": self._source.name,
            "family": "placed by hand",
            "moving_grid": self._grid.to_dict(),
            "transform": {
                "family": "affine",
                "coordinate_systems": ["world", "world"],
                "settings": {"unit": self._grid.unit},
                "tensors": {"matrix": back[None]},
            },
        }
        self._run += 1
        if fixed is not None:
            record["grid"] = layer_source(fixed, self._viewer, level=0).grid.to_dict()
        copy.metadata = {**copy.metadata, "stnreg": record}

    def register(self) -> None:
        """Open the registration panel with the two layers; it starts at this place."""
        if self.copy is None or self.fixed is None or self._source is None:
            return
        self._record()
        panel = open_panel(self._viewer, "register")
        panel.set_fixed(self.fixed)
        panel.set_moving(self._source)
        panel.show_state()

    # -- what is shown

    def show_state(self) -> None:
        """Enable what is possible now."""
        super().show_state()
        placed = self.copy is not None
        ndim = 2
        if self._grid is not None:
            ndim = self._grid.ndim
        elif self.moving is not None and self.moving.ndim > 2:
            ndim = 3
        self.place_button.setEnabled(self._images.can_choose)
        flat = self._viewer.dims.ndisplay == 2
        shown = "Show the handles" if flat else "Show the copy"
        self.place_button.setText(shown if placed else "Place by hand")
        self.hint.setText((_HANDLES if flat else _NUMBERS) + _COPY)
        self.numbers.setEnabled(placed)
        for box, needed in ((self.shift_boxes[0], 3), (self.angle_boxes[1], 3), (self.angle_boxes[2], 3)):
            self._rows.set_row_visible(box, ndim >= needed)
        self.flip_buttons[0].setVisible(ndim == 3)
        for made in (*self.flip_buttons, self.left_button, self.right_button, self.center_button, self.reset_button,
                     self.remove_button, self.register_button):  # fmt: skip
            made.setEnabled(placed)

    # -- the viewer

    def viewer_events(self) -> list[tuple[Any, Callable[..., Any]]]:
        """The layers."""
        return [
            *super().viewer_events(),
            (self._viewer.layers.events.removed, self._on_removed),
            (self._viewer.dims.events.ndisplay, self._on_ndisplay),
        ]

    def _on_ndisplay(self, _event: Any = None) -> None:
        if self.copy is not None:
            self._say_how()
        self.show_state()

    def _on_removed(self, event: Any) -> None:
        if self.copy is not None and event.value in (self.copy, self._source):
            name = event.value.name
            self._let_go()
            self.status.setText(f"'{name}' was removed.")

    def close_down(self) -> None:
        """Leave the copy where it is; a registration of the moving layer still starts there."""
        self._let_go()
        super().close_down()
