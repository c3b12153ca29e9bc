"""A trained model in the registration panel: chosen, loaded, refined, remembered, copied, and refused in a sentence."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from qtpy.QtWidgets import QApplication

import napari_stnreg as sr
from napari_stnreg.models.input_spec import InputSpec
from napari_stnreg.models.model import Model
from napari_stnreg.networks import AutoEncoder
from napari_stnreg.visualization.layers import vectors_layer
from napari_stnreg.widgets.common.result_layers import make_layer
from napari_stnreg.widgets.models import session
from napari_stnreg.widgets.models.session import SESSION
from tests.widgets.conftest import model_of, plain

pytestmark = pytest.mark.usefixtures("fresh_session")


def images(panel):
    return (panel.inputs.fixed.source().image(), panel.inputs.moving.source().image())


def test_panel_without_a_model(panel):
    assert panel.options.model.chosen is None
    assert panel.options.model.box.itemText(0) == "none (optimize this pair)"
    assert panel.options.linear_box.isVisibleTo(panel)
    assert "refine" not in panel.options.values()


def test_the_box_comes_first_and_then_the_models_of_the_session(panel, monkeypatch, tmp_path):
    monkeypatch.setattr(session, "pretrained_models", lambda: {"box-2d": tmp_path / "box-2d.safetensors"})
    SESSION.add(model_of())
    box = panel.options.model.box
    assert [box.itemText(i) for i in range(box.count())] == ["none (optimize this pair)", "box-2d", "mine", "Load …"]


def test_a_model_registers_in_one_pass(panel, viewer, run):
    known = SESSION.add(model_of())
    panel.options.model.select(known)
    assert not panel.options.linear_box.isVisibleTo(panel)
    assert not panel.options.field("similarity").isVisibleTo(panel)
    assert panel.start()
    run(panel)
    assert panel.result is not None, panel.status.text()
    expected = known.model.predict(*images(panel)).as_matrix()
    assert np.abs(expected[:-1, -1]).min() > 0.1
    np.testing.assert_allclose(panel.result.transform.as_matrix(), expected, atol=1e-6)
    assert panel.result.losses == []
    assert panel.plot.isHidden()
    assert viewer.layers[-1].name == "warped · moving -> fixed (mine)"
    assert viewer.layers[-1].metadata["stnreg"]["settings"]["model"] == "mine"


def test_refining_starts_at_the_model_and_ends_at_the_truth(panel, run):
    panel.options.model.select(SESSION.add(model_of()))
    panel.options.model.refine_box.setChecked(True)
    panel.options.model.steps_box.setValue(60)
    assert panel.options.field("similarity").isVisibleTo(panel)
    panel.options.field("similarity").set_current("mse")
    panel.start()
    run(panel)
    assert panel.result is not None, panel.status.text()
    assert 0 < len(panel.result.losses) <= 62
    np.testing.assert_allclose(panel.result.transform.as_matrix()[:-1, -1], (2, -3), atol=0.15)


def test_a_model_is_loaded_from_its_file(panel, qtbot, tmp_path):
    path = model_of().save(tmp_path / "kept.safetensors")
    panel.options.model.load(str(path))
    qtbot.waitUntil(lambda: panel.options.model.chosen is not None, timeout=60_000)
    assert panel.options.model.chosen.name == "kept"
    assert panel.options.model.box.currentText() == "kept"
    assert "2D" in panel.options.model.about.text()


@pytest.mark.parametrize("kind", ["not a model", "auto-encoder"])
def test_what_registers_nothing_is_refused_in_a_sentence(panel, qtbot, tmp_path, kind):
    path = tmp_path / "odd.safetensors"
    if kind == "auto-encoder":
        Model(AutoEncoder(2, 1), InputSpec(2, 1, (16, 16), (1.0, 1.0)), {}, "odd").save(path)
    else:
        path.write_bytes(b"\x80\x04 something else")
    panel.options.model.load(str(path))
    qtbot.waitUntil(lambda: "odd" in panel.status.text(), timeout=60_000)
    assert "\n" not in panel.status.text()
    assert panel.options.model.chosen is None
    assert not SESSION.entries


def test_a_3d_model_on_a_2d_pair_is_one_sentence(panel, run):
    panel.options.model.select(SESSION.add(model_of(3)))
    panel.start()
    run(panel)
    assert panel.result is None
    assert "trained on 3D images" in panel.status.text()


def test_model_and_refinement_are_remembered(panel, run, open_panel, tmp_path):
    path = model_of().save(tmp_path / "kept.safetensors")
    panel.options.model.select(SESSION.add(sr.load(path), str(path)))
    panel.options.model.refine_box.setChecked(True)
    panel.options.model.steps_box.setValue(5)
    panel.start()
    run(panel)
    SESSION.entries = []
    again = open_panel()
    assert again.options.model.chosen.path == str(path)
    assert again.options.values()["refine"] == 5
    plain(again)
    again.start()
    run(again)
    assert again.result is not None, again.status.text()
    path.unlink()
    SESSION.entries = []
    assert open_panel().options.model.chosen is None


def test_a_model_that_is_saved_stays_chosen(panel, tmp_path):
    model = model_of()
    panel.options.model.select(SESSION.add(model))
    path = model.save(tmp_path / "kept.safetensors")
    SESSION.saved(model, str(path))
    assert panel.options.model.chosen.model is model
    assert panel.options.model.chosen.path == str(path)
    assert panel.options.model.box.currentText() == "kept"


def test_copied_script_and_command_name_the_model(panel, viewer, run, tmp_path):
    path = model_of().save(tmp_path / "kept.safetensors")
    panel.options.model.select(SESSION.add(sr.load(path), str(path)))
    panel.options.model.refine_box.setChecked(True)
    panel.options.model.steps_box.setValue(4)
    panel.start()
    run(panel)
    panel.copy_command.trigger()
    words = shlex.split(QApplication.clipboard().text(), comments=True)
    assert words[words.index("--model") + 1] == str(path)
    assert words[words.index("--refine") + 1] == "4"
    assert "--family" not in words
    panel.copy_python.trigger()
    space = {"viewer": viewer}
    exec(compile(QApplication.clipboard().text(), "script", "exec"), space)
    np.testing.assert_array_equal(space["result"].warped.data, viewer.layers[-1].data)


def test_listing_the_models_needs_no_torch():
    import subprocess
    import sys

    code = "import sys, napari_stnreg.models.pretrained, napari_stnreg.training.settings; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert told.strip() == "False"


def test_register_waits_for_a_model_that_is_loading(panel, engine, run, qtbot, tmp_path, monkeypatch):
    import threading

    from napari_stnreg.widgets.models import combo

    path, go = str(model_of(name="slow").save(tmp_path / "slow.safetensors")), threading.Event()
    load = combo.load_file
    monkeypatch.setattr(combo, "load_file", lambda path: (go.wait(30), load(path))[1])
    box = panel.options.model.box
    box.load(path)
    assert not panel.start()
    assert "'slow.safetensors' is still loading" in panel.status.text()
    assert not engine.calls
    go.set()
    qtbot.waitUntil(lambda: box.chosen is not None, timeout=20_000)
    assert panel.status.text() == "Model 'slow' is loaded."
    assert panel.start()
    run(panel)
    assert panel.job.model.name == "slow"


def test_a_choice_made_while_a_model_loads_stays(panel, qtbot, tmp_path, monkeypatch):
    import threading

    from napari_stnreg.widgets.models import combo

    path, go = str(model_of(name="slow").save(tmp_path / "slow.safetensors")), threading.Event()
    load = combo.load_file
    monkeypatch.setattr(combo, "load_file", lambda path: (go.wait(30), load(path))[1])
    other = SESSION.add(model_of(name="other"))
    box = panel.options.model.box
    box.load(path)
    box.setCurrentIndex([box.itemData(i) for i in range(box.count())].index(other))
    go.set()
    qtbot.waitUntil(lambda: len(SESSION.entries) == 2, timeout=20_000)
    assert box.chosen is other


def test_a_remembered_model_without_its_file_is_reported(panel, tmp_path):
    panel.options.model.restore({"path": str(tmp_path / "gone.safetensors")})
    assert panel.options.model.chosen is None
    assert "no longer exists" in panel.options.model.about.text()


def test_a_model_that_cannot_be_loaded_leaves_the_verdict_of_the_last_run(panel, engine, run, qtbot, tmp_path):
    panel.start()
    run(panel)
    verdict = panel.scores.verdict
    assert verdict.isVisibleTo(panel)
    path = tmp_path / "odd.safetensors"
    path.write_bytes(b"no model")
    panel.options.model.load(str(path))
    qtbot.waitUntil(lambda: "odd" in panel.status.text(), timeout=60_000)
    assert verdict.isVisibleTo(panel)
    panel.set_moving("fixed")
    assert not panel.start()
    assert not verdict.isVisibleTo(panel)  # the error of a run


def voxelmorph_model(**options):
    """A small network with random weights."""
    import torch

    from napari_stnreg.networks import VoxelMorph

    torch.manual_seed(0)
    sizes = {"encoder": (4, 4), "decoder": (4, 4), "final": (4,)}
    network = VoxelMorph(2, family="displacement", resolution="half", **sizes, **options)
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(0.2 * torch.randn_like(weights))
    return Model(network, InputSpec(2, 1, (48, 64), (1.0, 1.0)), {}, "random")


def test_the_smoothness_slider_of_a_conditional_model_changes_the_result_in_place(panel, viewer, run, qtbot):
    slider = panel.options.model.smoothness_slider
    known = SESSION.add(voxelmorph_model(conditional=True))
    panel.options.kind_boxes["vectors"].setChecked(True)
    assert not slider.isVisibleTo(panel)
    panel.options.model.select(known)
    assert slider.isVisibleTo(panel)
    slider.setValue(-20)  # no result yet: nothing to follow
    assert panel.options.values()["smoothness"] == pytest.approx(0.1)
    qtbot.wait(200)
    assert panel.result is None
    assert panel.start()
    run(panel)
    layers = list(viewer.layers)
    made = {layer.metadata["stnreg"]["what"]: layer for layer in layers[2:]}
    soft, first = made["warped"].data.copy(), panel.result
    made["warped"].colormap = "red"
    slider.setValue(20)
    qtbot.waitUntil(lambda: panel.result is not first and not panel.running, timeout=60_000)
    assert list(viewer.layers) == layers
    expected = known.model.predict(*images(panel), smoothness=10.0)
    points = np.array([[20.0, 30.0], [10.0, 50.0]])
    np.testing.assert_allclose(panel.result.transform.map_points(points), expected.map_points(points), atol=1e-5)
    assert not np.allclose(made["warped"].data, soft)
    np.testing.assert_array_equal(made["warped"].data, panel.result.warped.data)
    assert made["warped"].metadata["stnreg"]["settings"]["smoothness"] == 10
    assert made["warped"].colormap.name == "red"  # as the user set it
    arrows = make_layer(vectors_layer(panel.result.transform, panel.result.grid))
    np.testing.assert_allclose(made["vectors"].data, arrows.data)
    np.testing.assert_allclose(made["vectors"].edge_color, arrows.edge_color)
    panel.options.model.select(SESSION.add(model_of()))
    assert not slider.isVisibleTo(panel)
    panel.undo()
    run(panel)
    assert len(viewer.layers) == 2
    panel.options.model.select(known)
    slider.setValue(0)  # the result is gone: nothing to follow
    qtbot.wait(200)
    assert len(viewer.layers) == 2
    assert not panel.running


def test_a_probabilistic_model_adds_a_layer_of_its_uncertainty(panel, viewer, run):
    known = SESSION.add(voxelmorph_model(probabilistic=True))
    panel.options.kind_boxes["uncertainty"].setChecked(True)
    panel.options.model.select(known)
    assert panel.start()
    run(panel)
    layers = {layer.metadata["stnreg"]["what"]: layer for layer in list(viewer.layers)[2:]}
    assert set(layers) == {"uncertainty", "warped"}
    expected = known.model.uncertainty(*images(panel)).data
    np.testing.assert_allclose(layers["uncertainty"].data, expected, rtol=1e-5)
    assert expected.min() > 0
