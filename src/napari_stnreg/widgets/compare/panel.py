"""Compare views: two layers, and one button for each way of looking at them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Image as ImageLayer
from napari.layers import Layer
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QDoubleSpinBox, QGridLayout, QLabel, QSizePolicy, QSlider

from napari_stnreg.core.errors import InputError, RegistrationError
from napari_stnreg.widgets.common.forms import Combo, FormLayout, button, help_label
from napari_stnreg.widgets.common.layer_io import layer_source
from napari_stnreg.widgets.common.result_layers import OWN
from napari_stnreg.widgets.common.task_panel import TaskPanel
from napari_stnreg.widgets.compare.views import COLORS, VIEWS, CompareViews, Pair, prepare

if TYPE_CHECKING:
    from napari.viewer import Viewer


class ComparePanel(TaskPanel):
    """Shows two image layers in turn, as a checkerboard, as difference, in two colors, or side by side.

    Parameters
    ----------
    napari_viewer
        The napari viewer.

    Notes
    -----
    From code: :meth:`set_layers`, :meth:`show_view`, :meth:`leave`.
    """

    title = "Compare views"
    help_page = "how-to/measure.html"
    introduction = (
        "Choose two images.",
        "Choose a view.",
        "Leave shows all layers as they were.",
    )

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer, "Choose two images, and how to look at them.")
        self.views = CompareViews(self._viewer, self)
        self.views.changed.connect(self._on_view)
        self._pair: tuple[Any, Pair] | None = None
        self._released = False
        self.first_box = Combo("The image that stays, usually the fixed one.", "first image")
        self.second_box = Combo("The image that is compared with it, usually the warped one.", "second image")
        sides = FormLayout()
        sides.add("First", self.first_box)
        sides.add("Second", self.second_box)
        self.buttons = {}
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        for number, (view, (text, tip)) in enumerate(VIEWS.items()):
            made = button(text, tip)
            made.setCheckable(True)
            made.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            made.setProperty("view", view)
            made.clicked.connect(self._on_button)
            self.buttons[view] = made
            grid.addWidget(made, number // 2, number % 2)
        self.off_button = button("Leave", "End the view: all layers are as they were before.")
        self.off_button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.off_button.clicked.connect(self.leave)
        grid.addWidget(self.off_button, (len(VIEWS)) // 2, len(VIEWS) % 2)

        self.rate_box = QDoubleSpinBox()
        self.rate_box.setRange(0.0, 10.0)
        self.rate_box.setSingleStep(0.5)
        self.rate_box.setValue(2.0)
        self.rate_box.setSuffix(" / s")
        self.rate_box.setToolTip("Flicker rate. 0 switches only when Shift+B is pressed.")
        self.rate_box.setAccessibleName("rate of the flicker")
        self.squares_slider = QSlider(Qt.Orientation.Horizontal)
        self.squares_slider.setRange(2, 40)
        self.squares_slider.setValue(8)
        self.squares_slider.setToolTip("Number of checkerboard squares along the longest side.")
        self.squares_slider.setAccessibleName("squares of the checkerboard")
        self.color_box = Combo("Colors of the blend: first and second image.", "colors of the blend")
        self.color_box.set_items([(name, name) for name in COLORS])
        looks = FormLayout()
        looks.add("Rate", self.rate_box)
        looks.add("Squares", self.squares_slider)
        looks.add("Colors", self.color_box)
        self.shown = QLabel("")
        self.shown.setWordWrap(True)
        self.shown.setAccessibleName("image on screen")
        note = help_label()
        note.setText("Shift+B switches to the other image by hand.")
        for layout in (sides, grid, looks):
            self.form.addLayout(layout)
        self.form.addWidget(note)
        self.form.addWidget(self.shown)
        self.form.addStretch(1)

        self._squares_soon = QTimer(self)
        self._squares_soon.setSingleShot(True)
        self._squares_soon.setInterval(60)
        self._squares_soon.timeout.connect(self._on_squares)
        self.rate_box.valueChanged.connect(self._on_rate)
        self.squares_slider.valueChanged.connect(self._squares_later)
        self.color_box.currentIndexChanged.connect(self._on_colors)
        for box in (self.first_box, self.second_box):
            box.currentIndexChanged.connect(self._on_choice)
        self.claim_before_after(self.turn)
        self.refresh()
        self._prefill()

    # -- what is compared

    def refresh(self) -> None:
        """Take up the viewer's layers."""
        images = [
            layer for layer in self._viewer.layers if isinstance(layer, ImageLayer) and not layer.metadata.get(OWN)
        ]
        for box in (self.first_box, self.second_box):
            box.set_items([(layer.name, layer) for layer in images], box.currentData())
        if self.first_box.currentData() is self.second_box.currentData():
            self._prefill()
        self.show_state()

    def _prefill(self) -> None:
        """Choose the last result and its fixed image, else the last two images."""
        images = [self.first_box.itemData(i) for i in range(self.first_box.count())]
        for layer in reversed(images):
            record = layer.metadata.get("stnreg") or {}
            fixed = [other for other in images if other.name == record.get("fixed")]
            if record.get("what") == "warped" and fixed:
                self.first_box.set_current(fixed[0])
                self.second_box.set_current(layer)
                return
        if len(images) > 1:
            self.first_box.set_current(images[-2])
            self.second_box.set_current(images[-1])

    def set_layers(self, first: Layer, second: Layer) -> None:
        """Choose the two layers."""
        self.refresh()
        for box, layer in ((self.first_box, first), (self.second_box, second)):
            if not box.set_current(layer):
                raise InputError(f"'{layer.name}' is not an image layer of this viewer.")

    def _layers(self) -> tuple[Layer, Layer]:
        first, second = self.first_box.currentData(), self.second_box.currentData()
        if first is None or second is None:
            raise InputError("There are no two images: open or choose one for each side.")
        if first is second:
            raise InputError("The two images are the same layer. Choose two different layers.")
        return first, second

    # -- views

    def show_view(self, view: str) -> bool:
        """Show one of :data:`~.views.VIEWS`; false, with a sentence, when that cannot be."""
        self.claim_before_after(self.turn)
        try:
            first, second = self._layers()
            if view == "flicker":
                self.views.flicker(first, second, self.rate_box.value())
            elif view == "side":
                self.views.side_by_side(first, second)
            else:
                return self._with_pair(view, first, second)
        except RegistrationError as error:
            self._on_view()
            self.show_error(error)
            return False
        return True

    def _with_pair(self, view: str, first: Layer, second: Layer) -> bool:
        sources = layer_source(first, self._viewer), layer_source(second, self._viewer)
        key = [(id(s.data), s.grid, s.frame) for s in sources]
        if self._pair is not None and self._pair[0] == key:
            self._show_pair(view, first, second)
            return True
        self._asked = (view, first, second, key)
        return self.begin(prepare, *sources, done=self._on_pair)

    def _on_pair(self, pair: Pair) -> None:
        view, first, second, key = self._asked
        self._pair = (key, pair)
        if first not in self._viewer.layers or second not in self._viewer.layers:
            raise InputError("One of the two images was removed. Choose two images.")
        self._show_pair(view, first, second)

    def _show_pair(self, view: str, first: Layer, second: Layer) -> None:
        assert self._pair is not None
        pair = self._pair[1]
        if view == "checkerboard":
            self.views.checkerboard(first, second, pair, self.squares_slider.value())
        elif view == "difference":
            self.views.difference(first, second, pair)
        else:
            self.views.blend(first, second, pair, self.color_box.currentData())

    def leave(self) -> None:
        """End the view; all layers are as they were before."""
        self.views.leave()

    def turn(self) -> None:
        """Turn to the other image by hand, entering flicker if it is not shown."""
        if self.views.view == "flicker":
            self.views.set_rate(0)
            self.views.swap()
            return
        try:
            self.views.flicker(*self._layers())
        except RegistrationError as error:
            self.show_error(error)

    def _on_button(self) -> None:
        view = self.sender().property("view")
        if self.views.view == view and not (view == "flicker" and not self.views.flickering):
            self.leave()
        else:
            self.show_view(view)
        self._on_view()

    def _on_choice(self, _index: int = 0) -> None:
        if self.views.view is None:
            return
        if self.first_box.currentData() is self.second_box.currentData():
            self.leave()
        else:
            self.show_view(self.views.view)

    def _on_rate(self, rate: float) -> None:
        self.views.set_rate(rate)

    def _squares_later(self, _value: int) -> None:
        self._squares_soon.start()

    def _on_squares(self) -> None:
        self.views.set_squares(self.squares_slider.value())

    def _on_colors(self, _index: int) -> None:
        self.views.set_colors(self.color_box.currentData())

    def _on_view(self) -> None:
        """Say what is on screen, and press the button of the view."""
        view = self.views.view
        for key, made in self.buttons.items():
            made.setChecked(key == view)
        self.off_button.setEnabled(view is not None)
        text = ""
        if view == "flicker" and self.views.layers is not None:
            which = ("First", "Second")[self.views.shown]
            text = f"{which}: {self.views.layers[self.views.shown].name}"
        elif view is not None:
            text = VIEWS[view][1]
        self.shown.setText(text)
        if view is None:
            self.status.setText("The layers are as they were.")
        else:
            self.status.setText(f"{VIEWS[view][0]}.")

    def show_state(self) -> None:
        """Enable what can be done."""
        super().show_state()
        ready = not self.running and self.first_box.count() > 1
        for made in self.buttons.values():
            made.setEnabled(ready or made.isChecked())
        self.off_button.setEnabled(self.views.view is not None)

    def connect_viewer(self) -> None:
        """Hear of the viewer's layers, and of the key."""
        super().connect_viewer()
        if getattr(self, "_released", False):  # the same widget was docked again
            self._released = False
            self.views = CompareViews(self._viewer, self)
            self.views.changed.connect(self._on_view)
            self.claim_before_after(self.turn)

    def close_down(self) -> None:
        """Leave the view, give the key back and let go of the viewer."""
        super().close_down()
        self._squares_soon.stop()
        if not self._released:
            self._released = True
            self.views.release()
            self._pair = None
