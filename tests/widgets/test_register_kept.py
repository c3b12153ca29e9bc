"""What the registration panel keeps and hands on: settings, and the run as Python and as a command."""

from __future__ import annotations

import json

import numpy as np
import pytest
from qtpy.QtWidgets import QApplication


def test_settings_are_remembered(panel, viewer, engine, run, open_panel):
    panel.options.linear_box.set_current("rigid")
    panel.options.deformable_box.set_current("bspline")
    panel.options.field("similarity").set_current("mi")
    panel.options.field("iterations").value = 17
    panel.options.field("fill").value = 255
    panel.options.kind_boxes["vectors"].setChecked(False)
    panel.options.rate_box.setValue(2)
    panel.start()
    run(panel)
    assert engine.calls[0][2].fill == 255
    other = open_panel()
    assert other.options.family == "rigid+bspline"
    assert other.options.values()["similarity"] == "mi"
    assert other.options.values()["iterations"] == 17
    assert "fill" not in other.options.values()
    assert "vectors" not in other.options.kinds
    assert other.options.rate_box.value() == 2


def test_broken_settings_are_ignored(settings_file, open_panel):
    from napari_stnreg.widgets.common import preferences

    for text in ("no json", json.dumps([1]), json.dumps({"settings": {"family": "what", "preset": 3}, "results": "x"})):
        store = preferences._store()
        store.setValue("register/panel", text)
        store.sync()
        panel = open_panel()
        panel.options.values()


def test_copied_python_script_repeats_the_run(panel, viewer, engine, run):
    mask = viewer.add_labels(np.ones((24, 32), int), scale=(2, 2), name="mask")
    panel.refresh()
    panel.inputs.fixed.mask_box.set_current(mask)
    panel.options.field("iterations").value = 5
    panel.start()
    run(panel)
    panel.copy_python.trigger()
    script = QApplication.clipboard().text()
    seen = {}

    def register(fixed, moving, **words):
        seen.update(words, fixed=fixed, moving=moving)
        return panel.result

    import napari_stnreg as sr

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sr, "register", register, raising=False)
        exec(script, {"viewer": viewer})  # the person runs it in napari's console
    fixed, moving, settings, _ = engine.calls[0]
    for mine, theirs in ((fixed, seen["fixed"]), (moving, seen["moving"])):
        np.testing.assert_array_equal(mine.data, theirs.data)
        assert mine.grid == theirs.grid
    np.testing.assert_array_equal(fixed.mask, seen["fixed"].mask)
    words = {name: value for name, value in seen.items() if name not in ("fixed", "moving")}
    assert type(settings).parse(**words) == settings


def test_the_run_is_copied_as_a_command(panel, viewer, engine, run):
    panel.options.field("mirror").setChecked(True)
    panel.options.field("fill").value = -2.5
    panel.options.field("iterations").value = 12
    panel.start()
    run(panel)
    panel.copy_command.trigger()
    text = QApplication.clipboard().text()
    assert "stnreg register fixed.nii.gz moving.nii.gz -o result --family affine+diffeomorphic" in text
    assert "# Save the layer 'moving'" in text

    import shlex

    from tests.helpers.command_line import parse_command

    arguments = parse_command(shlex.split(text.splitlines()[-1])[1:])
    assert arguments["settings"] == engine.calls[0][2]
