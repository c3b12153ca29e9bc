"""How the registration panel looks: theme, tooltips, a narrow dock."""

from __future__ import annotations

from qtpy.QtWidgets import QLabel, QPushButton


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
