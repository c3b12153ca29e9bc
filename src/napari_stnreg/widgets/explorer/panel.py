"""The panel of the spatial transformer explorer: connects the form, the layers, and the mouse with one scene."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.utils.notifications import show_error
from qtpy.QtWidgets import QFileDialog

from napari_stnreg.core.errors import InputError, RegistrationError
from napari_stnreg.visualization.overlays import limits_of
from napari_stnreg.widgets.explorer import session_io
from napari_stnreg.widgets.explorer.canvas import PREFIX, Canvas
from napari_stnreg.widgets.explorer.gradient_controller import GradientController
from napari_stnreg.widgets.explorer.layout import ExplorerLayout
from napari_stnreg.widgets.explorer.mouse_tools import Pointer
from napari_stnreg.widgets.explorer.pixel_view import described
from napari_stnreg.widgets.explorer.source import Picture, picture_of

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_stnreg.teaching import Scene, Theta

_HANDS = {
    "affine": (
        "On the input: drag corners to scale, edges to scale and shear, the dot outside the frame to rotate, and the "
        "center to shift."
    ),
    "tps": "On the input: drag the control points. The grid passes through them with the least bending.",
    "bspline": "On the input: drag the control points. Each moves its neighborhood of four by four cells.",
}
_BESIDE_LATER = 60
"""Milliseconds without changes before the comparison image is computed again."""


class ExplorerPanel(ExplorerLayout):
    """Explores a spatial transformer on one image layer.

    Parameters
    ----------
    napari_viewer
        The napari viewer.

    Notes
    -----
    It can be driven from code: :meth:`explore`, :attr:`scene`, :meth:`show_now`, :meth:`set_theta`, :meth:`reset`,
    :meth:`save_to`, :meth:`load_from`.
    """

    title = "Spatial transformer explorer"
    help_page = "tutorials/explorer.html"
    introduction = (
        "Choose an image.",
        "Drag the frame on the input, or change theta.",
        "Open the tabs: grid, direction, sampler, gradient.",
    )

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.scene: Scene | None = None
        self.canvas: Canvas | None = None
        self.layer: ImageLayer | None = None
        self._hidden: list[Any] = []
        self._view_before: tuple[Any, float, list[Any]] | None = None
        self._limits = (0.0, 1.0)
        self.hovered_pixel: tuple[int, int] | None = None
        self._closed = False
        self._ended = False
        self._show_soon = self._timer(self.show_now)
        self._beside_soon = self._timer(self.show_beside)
        self._beside_soon.setInterval(_BESIDE_LATER)
        self._slice_soon = self._timer(self._on_slice)
        self._begin_soon = self._timer(self._begin)
        self.downhill = GradientController(self, self._viewer)
        self.pointer = Pointer(self, self._viewer)
        self._connect_form()
        self.connect_viewer()
        self.refresh()
        self.show_form()
        self._begin_soon.start()  # torch is imported when the dock is there already

    def _connect_form(self) -> None:
        self.layer_box.currentIndexChanged.connect(self._on_layer)
        self.family_box.currentIndexChanged.connect(self._on_form)
        self.lattice_box.valueChanged.connect(self._on_form)
        self.sampler_tab.changed.connect(self._on_form)
        self.theta_form.changed.connect(self.set_theta)
        self.grid_tab.changed.connect(self.changed)
        self.tabs.currentChanged.connect(self._on_tab)
        self.reset_button.clicked.connect(self.reset)
        self.size_box.currentIndexChanged.connect(self._on_size)
        self.save_button.clicked.connect(self._on_save)
        self.load_button.clicked.connect(self._on_load)
        for name, divisor in (("full", 1), ("quarter", 4), ("tenth", 10)):
            getattr(self.sampler_tab, name).clicked.connect(lambda *_, divisor=divisor: self._set_output(divisor))

    # -- the picture

    def explore(self, layer: ImageLayer | str) -> None:
        """Choose the image layer to explore.

        Raises
        ------
        InputError
            If the viewer has no such image layer.
        """
        layer = self._viewer.layers[layer] if isinstance(layer, str) else layer
        self.refresh()
        if not self.layer_box.set_current(layer):
            raise InputError(f"'{layer.name}' is not an image layer of this viewer.")
        self._begin()

    def _on_layer(self, _index: int = 0) -> None:
        self._ended = False
        self._begin_soon.start()

    def has_scene(self) -> bool:
        """Return whether an image is explored; end the exploration if its layers were deleted in the meantime."""
        if self.scene is None or self.canvas is None:
            return False
        if self.layer in self._viewer.layers and self.canvas.is_complete:
            return True
        self._take_away()
        self._restore_view()
        self.layer = self.scene = None
        self.downhill.forget()
        self._ended = True
        self.status.setText("The image or its explorer layers were removed. Choose an image to start again.")
        self.show_form()
        self._refresh_timer.start()
        return False

    def _begin(self) -> None:
        layer = self.layer_box.currentData()
        if self._closed or layer is None or layer is self.layer:
            return
        from napari_stnreg.teaching import Scene

        try:
            picture = picture_of(layer, self._viewer)
            scene = Scene(picture.values, self.scene.state if self.scene is not None else None)
        except RegistrationError as error:
            self._say(str(error))
            return
        self._take_away()
        self.layer, self.scene = layer, scene
        self.downhill.forget()
        self._limits = self._shown_limits(picture)
        if self._view_before is None:
            camera = self._viewer.scene.camera
            self._view_before = camera.center, camera.zoom, list(self._viewer.layers.selection)
        self._hidden = [other for other in self._viewer.layers if other.visible]
        for other in self._hidden:
            other.visible = False
        self.canvas = Canvas(self._viewer, picture)
        self.canvas.text_size(self.resize_text(self.size_box.currentData()))
        size = "x".join(str(n) for n in scene.grid.shape)
        small = f", shown at 1/{picture.shrunk} of its size" if picture.shrunk > 1 else ""
        self.status.setText(f"'{layer.name}', {size} pixels{small}.")
        self.downhill.fill_goals()
        self.show_form()
        self.show_now()
        self.show_beside()
        if self.canvas is not None:  # the scene ends if its layers are removed meanwhile
            self.canvas.fit(3 if self._beside_title() else 2)

    @staticmethod
    def _shown_limits(picture: Picture) -> tuple[float, float]:
        low, high = picture.look.get("contrast_limits", limits_of(picture.values))
        return float(low), float(high)

    def _on_slice(self) -> None:
        """Update the scene after another slice of a volume is shown."""
        if not self.has_scene() or self.layer is None or self.layer.ndim == 2:
            return
        assert self.scene is not None
        assert self.canvas is not None
        from napari_stnreg.teaching import Scene

        picture = picture_of(self.layer, self._viewer)
        if picture.values.shape != self.scene.image.shape or np.array_equal(picture.values, self.scene.image):
            return
        self.scene = Scene(picture.values, self.scene.state)
        self.downhill.forget()
        self.canvas.show_input(picture)
        self.changed()

    def _take_away(self) -> None:
        self.downhill.halt()
        self.pointer.held = None
        if self.canvas is not None:
            self.canvas.close()
            self.canvas = None
        for layer in self._hidden:
            if layer in self._viewer.layers:
                layer.visible = True
        self._hidden = []

    def _restore_view(self) -> None:
        """Restore the camera and the selection of before the explorer started."""
        if self._view_before is None:
            return
        center, zoom, selected = self._view_before
        self._view_before = None
        self._viewer.scene.camera.center = center
        self._viewer.scene.camera.zoom = zoom
        self._viewer.layers.selection = {layer for layer in selected if layer in self._viewer.layers}

    # -- theta, and all else that can be set

    def set_theta(self, theta: Theta) -> None:
        """Set theta and show it."""
        if self.scene is not None:
            self.scene.theta = theta
            self.by_hand()

    def reset(self) -> None:
        """Reset the parameters to the identity; the sampler is not changed."""
        if self.scene is None:
            return
        from napari_stnreg.teaching import Theta

        if self.scene.state.family == "affine":
            self.scene.theta = Theta.identity()
        else:
            self.scene.displacements = np.zeros_like(self.scene.displacements)
        self.by_hand()

    def by_hand(self) -> None:
        """End a gradient descent after the user changed theta."""
        self.downhill.leave()
        self.changed()

    def _on_form(self) -> None:
        if self.scene is None:
            return
        tab, state = self.sampler_tab, self.scene.state
        shape = (tab.height_box.value(), tab.width_box.value())
        self.scene.state = state.replace(
            family=self.family_box.currentData(),
            lattice=self.lattice_box.value(),
            kernel=tab.kernel.currentData(),
            padding=tab.padding.currentData(),
            output_shape=None if shape == self.scene.grid.shape else shape,
        )
        self.by_hand()

    def _set_output(self, divisor: int) -> None:
        if self.scene is not None:
            shape = tuple(max(round(n / divisor), 2) for n in self.scene.grid.shape)
            self.scene.state = self.scene.state.replace(output_shape=None if divisor == 1 else shape)
            self.show_form()
            self.changed()

    def show_form(self) -> None:
        """Update every field from the scene."""
        family = self.family_box.currentData() if self.scene is None else self.scene.state.family
        affine = family == "affine"
        self.rows.set_row_visible(self.lattice_box, not affine)
        self.theta_form.setVisible(affine)
        self.hold.setText(_HANDS[family])
        self.tabs.setEnabled(self.scene is not None)
        self.theta_form.setEnabled(self.scene is not None)
        if self.scene is None:
            return
        state, tab = self.scene.state, self.sampler_tab
        for box, data in ((self.family_box, state.family), (tab.kernel, state.kernel), (tab.padding, state.padding)):
            box.blockSignals(True)
            box.set_current(data)
            box.blockSignals(False)
        self.lattice_box.put(state.lattice)
        shape = self.scene.output_grid.shape
        tab.height_box.put(shape[0])
        tab.width_box.put(shape[1])
        if affine:
            self.theta_form.show_theta(self.scene.theta, self.scene.grid.shape)

    # -- showing

    def changed(self) -> None:
        """Schedule an update of the form and layers."""
        self._show_soon.start()

    def show_now(self) -> None:
        """Update form and layers from the scene immediately."""
        self._show_soon.stop()
        if not self.has_scene():
            return
        assert self.scene is not None
        assert self.canvas is not None
        scene, canvas = self.scene, self.canvas
        self.show_form()
        canvas.show_output(scene.output())
        bent = scene.state.family != "affine"
        regular, mapped = scene.grid_points(self.grid_tab.count.value() * (2 if bent else 1) - bent)
        canvas.show_grid(regular, mapped, links=self.grid_tab.links.isChecked() and self.tab == "Grid")
        self._show_handles()
        self._show_look()
        if self.tab == "Gradient":
            self.downhill.show()
        if self._beside_title():
            self._beside_soon.start()

    def _show_handles(self) -> None:
        from napari_stnreg.teaching.frame_handles import NAMES, handle_positions

        assert self.scene is not None
        assert self.canvas is not None
        scene = self.scene
        if scene.state.family == "affine":
            where = handle_positions(scene.theta, scene.grid.shape)
            symbols = ["square"] * 4 + ["diamond"] * 4 + ["disc", "cross"]
            self.canvas.show_handles([("frame", name) for name in NAMES], where, symbols)
            return
        where = scene.control_points + scene.displacements
        names: list[tuple[str, Any]] = [("point", i) for i in range(len(where))]
        self.canvas.show_handles(names, where, ["disc"] * len(where))

    def _beside_title(self) -> str:
        return {"Direction": "push-forward", "Sampler": "mean over each pixel's area", "Gradient": "goal"}.get(
            self.tab, ""
        )

    def show_beside(self) -> None:
        """Compute and show the third picture, which may take longer than a drag allows."""
        if not self.has_scene():
            return
        assert self.scene is not None
        assert self.canvas is not None
        title, scene = self._beside_title(), self.scene
        if title != getattr(self, "_titled", None) or "titles" not in self.canvas.layers:
            self._titled = title
            self.canvas.titles(title)
        values = None
        try:
            if self.tab == "Direction":
                pushed = scene.push_forward()
                values = pushed.picture
                most = int(pushed.arrivals.max())
                self.direction_tab.words.setText(
                    f"Holes: {int(pushed.holes.sum())} pixels, {100 * pushed.hole_fraction:.1f} % of the output pixels "
                    f"that sample inside the input. At most {most} input pixels went to one output pixel."
                )
            elif self.tab == "Sampler":
                values = scene.antialiased()
            elif self.tab == "Gradient":
                values = self.downhill.goal()
        except RegistrationError as error:
            self.direction_tab.words.setText(str(error))
        self.canvas.show_beside(values, title)

    def _on_tab(self, _index: int) -> None:
        if not self.has_scene():
            return
        assert self.canvas is not None
        self.downhill.pause()
        if self.tab != "Gradient":
            self.canvas.show_arrows(None)
        if self.tab != "Grid":
            self.hovered_pixel = None
        self.show_now()
        self._beside_soon.stop()
        self.show_beside()
        self.canvas.fit(3 if self._beside_title() else 2)

    def _show_look(self) -> None:
        assert self.scene is not None
        assert self.canvas is not None
        if self.hovered_pixel is None or (np.array(self.hovered_pixel) >= self.scene.output_grid.shape).any():
            self.canvas.show_look(None, None, None)
            return
        look, kernel = self.scene.stencil_at(self.hovered_pixel), self.scene.state.kernel
        self.canvas.show_look(np.array(self.hovered_pixel), self.scene.output_grid.shape, look)
        self.grid_tab.view.show_look(look, kernel, self._limits)
        self.grid_tab.words.setText(described(look, self.hovered_pixel, kernel))

    def hover(self, pixel: tuple[int, int] | None) -> None:
        """Inspect one output pixel, (y, x)."""
        if pixel != self.hovered_pixel and self.has_scene():
            self.hovered_pixel = pixel
            self._show_look()

    # -- the viewer around it

    def viewer_events(self) -> list[tuple[Any, Any]]:
        """List the viewer events to follow: layers, current slice and theme."""
        return [
            *super().viewer_events(),
            (self._viewer.dims.events.current_step, self._on_dims),
            (self._viewer.events.theme, self._on_theme),
        ]

    def connect_viewer(self) -> None:
        """Connect to the events of the viewer's layers and of the pointer."""
        super().connect_viewer()
        self._closed = False
        self.pointer.connect()

    def disconnect_viewer(self) -> None:
        """Disconnect from these events."""
        super().disconnect_viewer()
        self.pointer.disconnect()

    def _on_dims(self, _event: Any = None) -> None:
        self._slice_soon.start()

    def _on_theme(self, _event: Any = None) -> None:
        self.gradient_tab.plot.restyle()
        self.grid_tab.view.update()

    # -- text size, files, the end

    def _on_size(self) -> None:
        size = self.resize_text(self.size_box.currentData())
        if self.canvas is not None:
            self.canvas.text_size(size)

    def save_to(self, path: str | Path) -> None:
        """Write the state to a JSON file."""
        session_io.save_to(self, path)

    def load_from(self, path: str | Path) -> None:
        """Show a saved state on the picture at hand.

        Raises
        ------
        InputError
            If the file is none of ours, or no image is chosen.
        """
        session_io.load_from(self, path)

    def _on_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save the explorer's state", "explorer.json", "State (*.json)")
        if path:
            self._try(self.save_to, path, f"Saved to {Path(path).name}.")

    def _on_load(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Load a state", "", "State (*.json)")
        if path:
            self._try(self.load_from, path, f"Loaded {Path(path).name}.")

    def _try(self, action: Any, path: str, done: str) -> None:
        try:
            action(path)
        except RegistrationError as error:
            self._say(str(error))
        except OSError as error:
            self._say(f"'{Path(path).name}' cannot be written: {error.strerror or error}.")
        else:
            self.status.setText(done)

    def _say(self, text: str) -> None:
        self.status.setText(text)
        show_error(text)

    def images(self) -> list[ImageLayer]:
        """List the viewer's image layers that do not belong to the explorer, topmost first."""
        layers = reversed(self._viewer.layers)
        return [layer for layer in layers if isinstance(layer, ImageLayer) and not layer.name.startswith(PREFIX)]

    def refresh(self) -> None:
        """List the viewer's image layers as choices, the active one first."""
        images = self.images()
        self.has_scene()
        active = self._viewer.layers.selection.active
        keep = self.layer or (active if active in images else None)
        before = self.layer_box.currentData()
        self.layer_box.set_items([(layer.name, layer) for layer in images], keep)
        if self._ended:
            self.layer_box.blockSignals(True)
            self.layer_box.setCurrentIndex(-1)
            self.layer_box.blockSignals(False)
        elif self.layer_box.currentData() is not before and self.layer is None:
            self._begin_soon.start()
        self.downhill.fill_goals()

    def close_down(self) -> None:
        """Remove the layers, show the hidden layers again, and disconnect from the pointer."""
        self._closed = True
        for timer in (self._show_soon, self._beside_soon, self._slice_soon, self._begin_soon):
            timer.stop()
        self.downhill.halt()
        self._take_away()
        self._restore_view()
        self.layer = self.scene = None
        self.downhill.forget()
        self._viewer.scene.camera.mouse_pan = True
