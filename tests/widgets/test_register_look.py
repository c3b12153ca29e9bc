"""How the registration panel looks: theme, tooltips, a narrow dock."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from pyqtgraph import GraphicsView
from qtpy.QtGui import QPainter, QPixmap
from qtpy.QtWidgets import QApplication, QLabel, QPushButton

from napari_stnreg.widgets.common.plot import LossPlot
from napari_stnreg.widgets.landmarks.scene import _COLORS
from napari_stnreg.widgets.register.scores_view import ScoresView
from tests.helpers.napari_user import open_from_menu
from tests.widgets.conftest import blobs


def test_the_plot_follows_the_theme(panel, viewer, engine, run):
    panel.start()
    run(panel)
    dark = panel.plot.background
    viewer.theme = "light"
    assert panel.plot.background != dark


def test_everything_that_can_be_used_has_a_tooltip_and_a_name(panel):
    from qtpy.QtWidgets import QAbstractSpinBox, QCheckBox, QComboBox, QLineEdit

    for kind in (QPushButton, QComboBox, QCheckBox, QAbstractSpinBox, QLineEdit):
        for widget in panel.findChildren(kind):
            if widget.objectName().startswith("qt_"):  # the field inside a spin box
                continue
            assert widget.toolTip(), (widget, getattr(widget, "text", str)())
            assert widget.accessibleName() or widget.text(), widget


def test_the_panel_fits_a_narrow_dock(panel, viewer, qtbot):
    panel.resize(300, 700)
    for section in (panel.inputs.more, panel.options.advanced, panel.options.results):
        section.expand(animate=False)
    qtbot.wait(50)
    assert panel.minimumSizeHint().width() <= 300
    form = panel.scroll_area.widget()
    assert form.minimumSizeHint().width() <= 300, [
        (w, w.minimumSizeHint().width()) for w in form.findChildren(QLabel) if w.minimumSizeHint().width() > 280
    ]


def test_devices_are_found_in_the_background(panel, engine, qtbot):
    qtbot.waitUntil(lambda: "CPU, 2 threads" in panel.options.device_box.itemText(1), timeout=30_000)
    assert panel.options.device_box.currentData() == "auto"


def test_long_layer_names_are_shortened_in_the_middle(panel, viewer, qtbot):
    panel.resize(300, 700)
    viewer.layers["fixed"].name = "29-041-section-w35-stained-with-hematoxylin"
    box = panel.inputs.fixed.layer_box
    qtbot.waitUntil(lambda: "section" in box.currentText())
    box.resize(150, box.height())
    assert box.shown_text.startswith("29-")
    assert "…" in box.shown_text
    assert box.shown_text.endswith("xylin")
    box.resize(600, box.height())
    assert box.shown_text == box.currentText()


def test_score_rows_are_not_cut_in_a_narrow_dock(qtbot):
    result = SimpleNamespace(
        verdict="good", confidence=0.9, scores={"before": {"mse": 176342.1}, "after": {"mse": 0.00012}},
        judgment=SimpleNamespace(verdict="good", confidence=0.9, reasons=("It fits.",), suggestion=""),
        similarity_choice="Local correlation: a long reason", folding_fraction=0.0, seconds=1.0, inverse={},
        stop_reason="finished", score_stride=2, grid=SimpleNamespace(ndim=2),
        evidence={},
    )  # fmt: skip
    view = ScoresView()
    qtbot.addWidget(view)
    view.show_results([result])
    assert "scores from 1 of 4 voxels" in view.text()
    view.resize(264, 400)
    view.show()
    labels = {label.text(): label for label in view.findChildren(QLabel) if label.isVisible()}
    for text in ("Mean squares", "1.76e5", "1.20e-4"):
        shown = labels[text]
        assert shown.width() >= shown.fontMetrics().horizontalAdvance(text), text
    # The pinned verdict is short; the reason of the similarity scrolls with the scores.
    assert view.verdict.label.text() == "Good (confidence 0.90)\nIt fits."
    assert "a long reason" in view.text()
    view.show_results([result])  # Qt deletes the old labels later
    QApplication.processEvents()
    texts = [label.text() for label in view.findChildren(QLabel) if label.isVisible()]
    assert texts.count("Mean squares") == 1


def test_landmark_colors_are_seen_on_bright_and_on_dark_images():
    for color in _COLORS.values():
        red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
        brightness = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert 1.05 / (brightness + 0.05) > 2.5, color
        assert (brightness + 0.05) / 0.05 > 2.5, color


def test_a_plot_that_was_just_shown_is_scrolled_into_sight(make_napari_viewer, engine, qtbot):
    viewer = make_napari_viewer(show=True)
    for name in ("fixed", "moving"):
        viewer.add_image(blobs((48, 64)), name=name)
    viewer.window._qt_window.resize(1000, 800)
    panel = open_from_menu(viewer, "register")
    panel.inputs.more.expand(animate=False)
    viewer.window._qt_window.resize(900, 600)
    qtbot.wait(100)
    assert panel.scroll_area.verticalScrollBar().maximum() > 0
    plot = panel.motion_plot
    plot.show()
    panel.scroll_to(plot)
    plot.show_curves({"dy": np.zeros((2, 2))})  # it grows
    qtbot.waitUntil(lambda: plot.visibleRegion().boundingRect() == plot.rect(), timeout=5000)


def test_the_numbers_of_a_plot_are_not_cut(viewer, qtbot):
    plot = LossPlot(viewer)
    qtbot.addWidget(plot)
    plot.resize(300, 160)
    plot.add([("affine", 0, step, 1.0 - 0.1 * step) for step in range(11)])
    plot.show()
    qtbot.waitExposed(plot)
    view = plot.findChild(GraphicsView)
    for side in ("left", "bottom"):
        axis = view.getPlotItem().getAxis(side)
        picture = QPixmap(10, 10)
        painter = QPainter(picture)
        shown = [axis.mapRectToScene(rect) for rect, _, _ in axis.generateDrawSpecs(painter)[2]]
        painter.end()
        assert shown
        empty = axis.label.document().documentMargin()
        shown.append(axis.label.mapRectToScene(axis.label.boundingRect().adjusted(empty, empty, -empty, -empty)))
        assert min(rect.top() for rect in shown) >= 0, side
        assert max(rect.bottom() for rect in shown) <= view.height(), side


def test_many_reasons_of_a_verdict_are_folded(panel, viewer, engine, run, monkeypatch):
    import napari_stnreg.evaluation.verdict as verdicts

    real = verdicts.Verdict
    reasons = tuple(f"Reason {n} is a sentence of usual length, which takes two lines." for n in range(10))
    monkeypatch.setattr(verdicts, "Verdict", lambda verdict, confidence, _: real(verdict, confidence, reasons))
    panel.start()
    run(panel)
    line = panel.scores.verdict
    assert "Reason 1 " in line.label.text()
    assert "Reason 2 " not in line.label.text()
    low = line.sizeHint().height()
    assert line.more_button.text() == "8 more reasons"
    line.more_button.click()
    assert "Reason 9 " in line.label.text()
    assert line.sizeHint().height() > low
    line.more_button.click()
    assert "Reason 2 " not in line.label.text()
