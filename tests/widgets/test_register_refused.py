"""Unsupported input in the registration panel: one clear sentence, and no data loss."""

from __future__ import annotations

import numpy as np
import pytest

from napari_stnreg.core.errors import InputError
from tests.widgets.conftest import names


def expect_sentence(panel, text, capsys=None):
    assert not panel.start()
    assert text in panel.status.text()
    assert panel.state == "idle"
    assert panel.register_button.isEnabled()


def test_no_layer_is_reported(viewer, open_panel):
    expect_sentence(open_panel(), "There is no fixed image")


def test_the_same_layer_twice_is_reported(panel):
    panel.set_moving("fixed")
    expect_sentence(panel, "the same layer")


def test_2d_with_3d_is_reported(panel, viewer):
    volume = viewer.add_image(np.zeros((4, 5, 6)), name="volume")
    panel.set_moving(volume)
    expect_sentence(panel, "cannot be registered to volumes")


def test_units_that_do_not_convert_are_reported(panel, viewer):
    viewer.layers["moving"].units = ("um", "um")
    expect_sentence(panel, "cannot be converted")


def test_no_transform_is_reported(panel):
    panel.options.linear_box.set_current("")
    panel.options.deformable_box.set_current("")
    expect_sentence(panel, "No transform is selected")


def test_landmarks_that_do_not_pair_are_reported(panel, viewer, qtbot):
    a = viewer.add_points([[1, 2], [3, 4]], name="a")
    b = viewer.add_points([[1, 2]], name="b")
    qtbot.waitUntil(lambda: panel.inputs.fixed.points_box.count() == 3)
    panel.inputs.fixed.points_box.set_current(a)
    assert "both sides" in panel.inputs.pairs.text()
    expect_sentence(panel, "one image only")
    panel.inputs.moving.points_box.set_current(b)
    assert "2 fixed, 1 moving" in panel.inputs.pairs.text()
    expect_sentence(panel, "2 fixed and 1 moving")
    b.add([5, 6])
    assert "counts differ" not in panel.inputs.pairs.text()
    assert "2: (3.0, 4.0) ↔ (5.0, 6.0)" in panel.inputs.pairs.text()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InputError("The fixed image is constant; choose another."), "The fixed image is constant"),
        (RuntimeError("CUDA error: out of memory"), "CUDA error: out of memory"),
        (KeyError("what"), "what"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_an_error_in_the_thread_is_reported_and_the_panel_is_idle(panel, viewer, engine, run, error, text):
    engine.error = error
    panel.start()
    run(panel)
    assert text in panel.status.text()
    assert names(viewer) == ["fixed", "moving"]
    assert panel.register_button.isEnabled()
    assert engine.closed == 1
    engine.error = None
    panel.start()
    run(panel)
    assert len(viewer.layers) == 3


def test_a_number_out_of_range_is_clamped_and_a_wrong_one_is_no_number(panel):
    panel.options.field("window").setText("9999")
    assert panel.options.values()["window"] == 31
    panel.options.field("window").setText("abc")
    assert "window" not in panel.options.values()
