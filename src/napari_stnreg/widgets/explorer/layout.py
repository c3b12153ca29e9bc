"""Layout of the explorer's panel; independent of the images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QSize, Qt, QTimer
from qtpy.QtWidgets import (
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QScrollArea,
    QSizePolicy,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from napari_stnreg.core.family_titles import family_title
from napari_stnreg.widgets.common.dock_panel import DockPanel
from napari_stnreg.widgets.common.forms import Combo, FormLayout, button, help_label, separator
from napari_stnreg.widgets.dock.docking import dock_of
from napari_stnreg.widgets.dock.hint import FirstSteps, help_button, open_page
from napari_stnreg.widgets.explorer.tabs import Count, DirectionTab, GradientTab, GridTab, SamplerTab
from napari_stnreg.widgets.explorer.theta_form import ThetaForm

if TYPE_CHECKING:
    from napari.viewer import Viewer

MIN_WIDTH = 260
"""Least width of the panel with text of normal size."""

TEXT_SIZES = {"Normal": 0, "Large": 15, "Projector": 20}
"""Font size in points; 0 is napari's own size."""


class ExplorerLayout(DockPanel):
    """Widgets of the explorer and their layout."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.layer_box = Combo(
            "The image layer to explore. If it has more than two axes, the slice on screen is used.", "image"
        )
        self.family_box = Combo("Transform family of the grid.", "transform family")
        for family in ("affine", "tps", "bspline"):
            self.family_box.addItem(family_title(family), family)
        self.lattice_box = Count("Control points along each side (of a B-spline: cells).", "control points", 2, 12, 4)
        self.rows = FormLayout()
        self.rows.add("Image", self.layer_box)
        self.rows.add("Grid", self.family_box)
        self.rows.add("Lattice", self.lattice_box)
        self.theta_form = ThetaForm()
        self.hold = help_label(small=False)
        self.grid_tab = GridTab(self._viewer)
        self.direction_tab = DirectionTab()
        self.sampler_tab = SamplerTab()
        self.gradient_tab = GradientTab(self._viewer)
        self.tabs = QTabWidget()
        self.tabs.setUsesScrollButtons(True)
        for tab in (self.grid_tab, self.direction_tab, self.sampler_tab, self.gradient_tab):
            self.tabs.addTab(tab, tab.title)
        self.tabs.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)

        form = QWidget()
        column = QVBoxLayout(form)
        column.setContentsMargins(8, 8, 8, 4)
        column.setSpacing(8)
        column.addWidget(FirstSteps(self.title, self.introduction))
        column.addLayout(self.rows)
        for part in (separator(), self.theta_form, self.hold, self.tabs):
            column.addWidget(part)
        column.addStretch(1)
        self.scroll_area = QScrollArea()
        self.scroll_area.setWidget(form)
        self.scroll_area.setWidgetResizable(True)
        self.scroll_area.setFrameShape(QFrame.Shape.NoFrame)
        self.scroll_area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)

        self.reset_button = button("Reset", "Reset to the identity.")
        self.save_button = button("Save …", "Save all settings of the explorer to a file.")
        self.load_button = button("Load …", "Load a saved file.")
        self.size_box = Combo("Size of the text, here and on the canvas.", "text size")
        for text in TEXT_SIZES:
            self.size_box.addItem(f"{text} text", text)
        self.status = QLabel("Choose an image layer.")
        self.status.setWordWrap(True)
        self.status.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.status.setAccessibleName("status")
        controls = QWidget()
        grid = QGridLayout(controls)
        grid.setContentsMargins(8, 6, 8, 6)
        grid.setSpacing(5)
        grid.setColumnStretch(0, 1)
        grid.setColumnStretch(1, 1)
        top = QHBoxLayout()
        top.addWidget(self.status, 1)
        top.addWidget(help_button(self.help_page))
        grid.addLayout(top, 0, 0, 1, 2)
        self.shortcut("F1", lambda: open_page(self.help_page))
        for i, each in enumerate((self.reset_button, self.size_box, self.save_button, self.load_button)):
            grid.addWidget(each, 1 + i // 2, i % 2)

        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(0)
        box.addWidget(self.scroll_area, 1)
        box.addWidget(separator())
        box.addWidget(controls)
        self.setMinimumWidth(MIN_WIDTH)
        self._large_text = False
        self._fit_timer = QTimer(self)  # once the form has its new fonts
        self._fit_timer.setSingleShot(True)
        self._fit_timer.timeout.connect(self._fit_width)

    def sizeHint(self) -> QSize:
        """Widen the dock to a readable width."""
        return QSize(350, 760)

    @property
    def tab(self) -> str:
        """The title of the tab in front."""
        return str(self.tabs.currentWidget().title)

    def choose_tab(self, title: str) -> None:
        """Bring a tab to the front by its title."""
        for i in range(self.tabs.count()):
            if self.tabs.tabText(i) == title:
                self.tabs.setCurrentIndex(i)

    def resize_text(self, name: str) -> int:
        """Show text in one of :data:`TEXT_SIZES`; returns the size for the canvas."""
        points = TEXT_SIZES.get(name, 0)
        self.setStyleSheet(f"*, QTabBar::tab {{ font-size: {points}pt; }}" if points else "")
        self._large_text = points > 0
        self._fit_timer.start()
        self.grid_tab.view.updateGeometry()
        return points or 12

    def _fit_width(self) -> None:
        """Keep the panel wide enough for large text; with text of normal size it scrolls where it is narrow."""
        form, bar = self.scroll_area.widget().minimumSizeHint().width(), self.scroll_area.verticalScrollBar()
        self.setMinimumWidth(max(MIN_WIDTH, form + bar.sizeHint().width() + 4) if self._large_text else MIN_WIDTH)
        if (dock := dock_of(self)) is not None:  # it keeps the larger of its former minimum and the new one
            dock.setMinimumWidth(self.minimumWidth())
