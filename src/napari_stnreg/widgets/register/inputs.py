"""Which layers are registered: one section for each side, filled from the viewer and kept up to date with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Points, Shapes
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_stnreg.core.errors import InputError
from napari_stnreg.io.napari_layers import LAYOUTS, layout_name
from napari_stnreg.widgets.common.forms import Combo, FormLayout, collapsible, help_label
from napari_stnreg.widgets.common.layer_io import (
    LayerSource,
    auto_level,
    default_pair,
    guess_layout,
    layer_source,
    level_shapes,
)
from napari_stnreg.widgets.common.result_layers import input_images
from napari_stnreg.widgets.register.series_run import FIXED_IMAGE, REFERENCES

if TYPE_CHECKING:
    from napari.viewer import Viewer

_SHOWN_PAIRS = 4


class ImageSelector(QWidget):
    """One image and what belongs to it: axes, channel, level, mask and landmarks."""

    changed = Signal()

    def __init__(self, viewer: Viewer, role: str) -> None:
        super().__init__()
        self._viewer = viewer
        still = role == "fixed"
        what = "The image that stays where it is." if still else "The image that is warped onto the fixed one."
        self.layer_box = Combo(what, f"{role} image")
        self.layout_box = Combo("What the layer's axes mean.", f"axes of the {role} image")
        self.level_box = Combo("Level of the multiscale layer to register with.", f"level of the {role} image")
        self.channel_box = Combo("Channel that is compared. All channels are warped.", f"channel of the {role} image")
        self.mask_box = Combo(
            f"A Labels or Shapes layer: only its inside counts on the {role} side. "
            "A shape drawn in a volume counts at every depth.",
            f"mask of the {role} image",
        )
        self.points_box = Combo(
            "A Points layer with landmarks: the first point belongs to the first one on the other side, and so on.",
            f"landmarks of the {role} image",
        )
        self.rows = FormLayout()
        self.rows.add(role.capitalize(), self.layer_box)
        self.rows.add("Axes", self.layout_box)
        self.rows.add("Level", self.level_box)
        self.rows.add("Channel", self.channel_box)
        self.setLayout(self.rows)
        self.layer_box.currentIndexChanged.connect(self._on_layer)
        self.layout_box.currentIndexChanged.connect(self._on_layout)
        for box in (self.level_box, self.channel_box, self.mask_box, self.points_box):
            box.currentIndexChanged.connect(self.changed)
        self.refresh()

    @property
    def layer(self) -> ImageLayer | None:
        """The chosen layer."""
        return self.layer_box.currentData()

    @property
    def layout_choice(self) -> str | None:
        """The chosen meaning of the axes."""
        data = self.layout_box.currentData()
        return None if data is None else str(data)

    @property
    def channel(self) -> int | None:
        """The chosen channel; ``None`` for luminance or mean."""
        return self.channel_box.currentData() if self.channel_box.count() else None

    @property
    def points(self) -> Points | None:
        """The chosen landmarks."""
        return self.points_box.currentData()

    def refresh(self) -> None:
        """Take up the viewer's layers, keeping what is chosen where it is still there."""
        layers = self._viewer.layers
        self.layer_box.set_items([(layer.name, layer) for layer in input_images(self._viewer)], self.layer)
        masks = [layer for layer in layers if isinstance(layer, Labels | Shapes)]
        self.mask_box.set_items([("none", None), *((m.name, m) for m in masks)], self.mask_box.currentData())
        points = [layer for layer in layers if isinstance(layer, Points)]
        self.points_box.set_items([("none", None), *((p.name, p) for p in points)], self.points_box.currentData())
        self._on_layer()

    def _on_layer(self, _index: int = 0) -> None:
        layer = self.layer
        layouts: tuple[str, ...] = ()
        if layer is not None:
            try:
                guess = guess_layout(layer)
                # A color image has its channels already.
                options = [one for one in LAYOUTS[layer.ndim] if not (layer.rgb and "c" in one)]
                kept = self.layout_choice if self._same_layer(layer) and self.layout_choice in options else guess
                layouts = tuple(options)
                self.layout_box.set_items([(layout_name(one), one) for one in layouts], kept)
            except InputError:
                self.layout_box.set_items([])
        self._seen = layer
        self.rows.set_row_visible(self.layout_box, len(layouts) > 1)
        self._on_layout()

    def _same_layer(self, layer: Layer) -> bool:
        return getattr(self, "_seen", None) is layer

    def _on_layout(self, _index: int = 0) -> None:
        layer, layout = self.layer, self.layout_choice
        levels: list[tuple[str, int]] = []
        channels: list[tuple[str, int | None]] = []
        if layer is not None and layout is not None:
            space = [i for i, letter in enumerate(layout) if letter in "zyx"]
            shapes = level_shapes(layer)
            levels = [(f"{i}: {' x '.join(str(s[a]) for a in space)}", i) for i, s in enumerate(shapes)]
            if layer.rgb:
                names = ("red", "green", "blue")
                channels = [("luminance", None), *((name, i) for i, name in enumerate(names))]
            elif "c" in layout:
                count = shapes[0][layout.index("c")]
                channels = [("mean of all", None), *((str(i), i) for i in range(count))]
            kept = self.level_box.currentData()
            self.level_box.set_items(levels, kept if kept in range(len(levels)) and kept else auto_level(layer, layout))
            self.channel_box.set_items(channels, self.channel)
        self.rows.set_row_visible(self.level_box, len(levels) > 1)
        self.rows.set_row_visible(self.channel_box, bool(channels))
        self.changed.emit()

    def source(self) -> LayerSource:
        """Take the side down for a run.

        Raises
        ------
        InputError
            If no layer is chosen, or it cannot be registered.
        """
        layer = self.layer
        role = self.layer_box.accessibleName().split()[0]
        if layer is None:
            raise InputError(f"There is no {role} image: open two images and choose one for each side.")
        if layer not in self._viewer.layers:
            raise InputError(f"The {role} image '{layer.name}' is no longer in the viewer. Choose another.")
        return layer_source(
            layer,
            self._viewer,
            layout=self.layout_choice,
            level=self.level_box.currentData() if layer.multiscale else 0,
            mask=self.mask_box.currentData(),
        )


class InputForm(QWidget):
    """Both sides, the button that swaps them, and what the landmarks look like as pairs."""

    changed = Signal()

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self.fixed = ImageSelector(viewer, "fixed")
        self.moving = ImageSelector(viewer, "moving")
        self.swap_button = QPushButton("⇅ Swap")
        self.swap_button.setToolTip("Exchange the fixed and the moving side, with their masks and landmarks.")
        self.swap_button.setAccessibleName("swap fixed and moving")
        self.swap_button.clicked.connect(self.swap)
        self.frames_box = QCheckBox("Every frame")
        self.frames_box.setToolTip(
            "Register every frame of the moving time series. Fixed and moving may then be the same layer. Of a fixed "
            "series the frame on screen counts."
        )
        self.reference_box = Combo("What every frame is registered to.", "reference of the series")
        self.reference_box.set_items([(text, name) for name, text in REFERENCES.items()], FIXED_IMAGE)
        self.smoothing_box = QDoubleSpinBox()
        self.smoothing_box.setRange(0, 100)
        self.smoothing_box.setSingleStep(0.5)
        self.smoothing_box.setSuffix(" frames")
        self.smoothing_box.setSpecialValueText("off")
        self.smoothing_box.setToolTip("Smooth the motion over time by a Gaussian of this standard deviation.")
        self.smoothing_box.setAccessibleName("temporal smoothing")
        self._series = QWidget()
        series_rows = FormLayout()
        self._series.setLayout(series_rows)
        series_rows.add("Register to", self.reference_box)
        series_rows.add("Smooth motion", self.smoothing_box)
        self.frames_box.toggled.connect(self._series.setVisible)
        self.pairs = help_label()
        more = QWidget()
        rows = FormLayout()
        more.setLayout(rows)
        rows.add("Fixed mask", self.fixed.mask_box)
        rows.add("Moving mask", self.moving.mask_box)
        rows.add("Fixed points", self.fixed.points_box)
        rows.add("Moving points", self.moving.points_box)
        rows.add_full_width(self.pairs)
        self.more = collapsible("Masks and landmarks", more, "Restrict the registration to masks, and add landmarks.")

        swap_row = QHBoxLayout()
        swap_row.setContentsMargins(0, 0, 0, 0)
        swap_row.addStretch(1)
        swap_row.addWidget(self.swap_button)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addWidget(self.fixed)
        box.addLayout(swap_row)
        box.addWidget(self.moving)
        box.addWidget(self.frames_box)
        box.addWidget(self._series)
        box.addWidget(self.more)
        for side in (self.fixed, self.moving):
            side.changed.connect(self._on_changed)
        self._watched: list[Points] = []
        self._on_changed()

    def prefill(self) -> None:
        """Take fixed and moving from the selection (in the order of the layer list), else of two files."""
        chosen = default_pair(input_images(self._viewer), self._viewer.layers.selection)
        if chosen:
            self.fixed.layer_box.set_current(chosen[0])
            self.moving.layer_box.set_current(chosen[-1])

    def refresh(self) -> None:
        """Take up the viewer's layers."""
        before = self.fixed.layer_box.count()
        self.fixed.refresh()
        self.moving.refresh()
        if before < 2 and self.fixed.layer is self.moving.layer:
            # The second image has only now been opened.
            self.prefill()

    def swap(self) -> None:
        """Exchange the sides."""
        a, b = self.fixed, self.moving
        states = [(s.layer, s.layout_choice, s.level_box.currentData(), s.channel, s.mask_box.currentData(), s.points)
                  for s in (a, b)]  # fmt: skip
        for side, (layer, layout, level, channel, mask, points) in ((a, states[1]), (b, states[0])):
            side.layer_box.set_current(layer)
            side.layout_box.set_current(layout)
            side.level_box.set_current(level)
            side.channel_box.set_current(channel)
            side.mask_box.set_current(mask)
            side.points_box.set_current(points)

    @property
    def every_frame(self) -> bool:
        """Whether every frame of the moving series is to be registered."""
        return self.frames_box.isChecked() and not self.frames_box.isHidden()

    @property
    def reference(self) -> str:
        """What the frames of a series are registered to."""
        return str(self.reference_box.currentData())

    @property
    def temporal_smoothing(self) -> float:
        """Smoothing of the motion of a series, in frames."""
        return float(self.smoothing_box.value())

    def _on_changed(self) -> None:
        layout = self.moving.layout_choice
        self.frames_box.setVisible(bool(layout and "t" in layout))
        self._series.setVisible(self.every_frame)
        self._watch([points for points in (self.fixed.points, self.moving.points) if points is not None])
        self.pairs.setText(self.pairing())
        self.pairs.setVisible(bool(self.pairs.text()))
        self.changed.emit()

    def _watch(self, points: list[Points]) -> None:
        for layer in self._watched:
            layer.events.data.disconnect(self._on_points)
        for layer in points:
            layer.events.data.connect(self._on_points)
        self._watched = points

    def _on_points(self, _event: Any = None) -> None:
        self.pairs.setText(self.pairing())
        self.pairs.setVisible(bool(self.pairs.text()))

    def release(self) -> None:
        """Let go of the layers that are watched."""
        self._watch([])

    def pairing(self) -> str:
        """Return the landmarks as numbered pairs, and a notice if the counts differ; empty without landmarks."""
        a, b = self.fixed.points, self.moving.points
        if a is None and b is None:
            return ""
        if a is None or b is None:
            return "Choose points on both sides: landmarks work in pairs."
        n, m = len(a.data), len(b.data)
        lines = [f"{i + 1}: {_place(a.data[i])} ↔ {_place(b.data[i])}" for i in range(min(n, m, _SHOWN_PAIRS))]
        if min(n, m) > _SHOWN_PAIRS:
            lines.append(f"… {min(n, m)} pairs")
        if n != m:
            lines.append(f"The counts differ: {n} fixed, {m} moving. Add or remove points until they match.")
        elif not n:
            lines.append("Both layers are empty: add points in the same order on both sides.")
        return "\n".join(lines)


def _place(point: Any) -> str:
    return "(" + ", ".join(f"{value:.1f}" for value in point) + ")"
