"""The panel that trains, with the real thread and the real engine on tiny images."""

from __future__ import annotations

import gc
import re
import shlex
import weakref

import imageio.v3 as iio
import numpy as np
import pytest
from qtpy.QtWidgets import QApplication

import napari_stnreg as sr
from napari_stnreg.cli import main
from napari_stnreg.core.errors import InputError
from napari_stnreg.widgets.models.session import SESSION
from tests.helpers.napari_user import reopen_from_menu
from tests.widgets.conftest import blobs, drifting

pytestmark = pytest.mark.usefixtures("fresh_session")


def test_a_stack_is_trained_on_and_the_model_is_listed(train, viewer, run, qtbot):
    before = viewer.layers["stack"].data.copy()
    assert train.train()
    assert not train.train_button.isEnabled()
    run(train)
    assert train.model is not None, train.status.text()
    assert train.status.text().startswith("Trained: best at epoch")
    assert [len(curve) for curve in train.plot.shown] == [3, 4]
    qtbot.waitUntil(lambda: [layer.name for layer in viewer.layers] == ["stack"])
    np.testing.assert_array_equal(viewer.layers["stack"].data, before)
    (known,) = SESSION.entries
    assert known.model is train.model
    assert known.path is None
    assert known.name == "affine on stack"
    assert "2D" in known.about
    assert "affine" in known.about


def test_the_image_is_placed_over_the_stack_while_the_network_learns(viewer, open_train, run, qtbot):
    viewer.add_image(drifting(), name="stack", scale=(5, 2, 2), translate=(0, 100, -40), units=("um",) * 3)
    train = open_train(epochs=5000)
    train.train()
    name = "preview · affine on stack"
    qtbot.waitUntil(lambda: name in viewer.layers, timeout=60_000)
    picture = viewer.layers[name]
    np.testing.assert_allclose(picture.extent.world, [[99.125, -40.875], [162.875, 22.875]], atol=1e-6)
    first = picture.data.copy()
    qtbot.waitUntil(lambda: not np.array_equal(viewer.layers[name].data, first), timeout=60_000)
    train.stop()
    run(train)
    qtbot.waitUntil(lambda: [layer.name for layer in viewer.layers] == ["stack"], timeout=60_000)


def test_pause_resume_and_stop_keep_the_best(viewer, open_train, run, qtbot):
    viewer.add_image(drifting(), name="stack")
    train = open_train(epochs=2000)
    train.train()
    qtbot.waitUntil(lambda: len(train.plot.shown[1]) > 3, timeout=60_000)
    train.pause_button.click()
    qtbot.waitUntil(lambda: "paused" in train.status.text(), timeout=60_000)
    assert train.pause_button.text() == "Resume"
    stands = train.bar.value(), len(train.plot.shown[1])
    qtbot.wait(400)
    assert (train.bar.value(), len(train.plot.shown[1])) == stands
    train.pause_button.click()
    qtbot.waitUntil(lambda: len(train.plot.shown[1]) > stands[1] + 2, timeout=60_000)
    train.stop()
    run(train)
    assert train.status.text().startswith("Stopped: best at epoch")
    best = train.model.summary["best"]["epoch"]
    losses = dict(train.plot.shown[1])
    assert losses[best] == min(losses.values())


def test_a_paused_training_can_be_stopped(viewer, open_train, run, qtbot):
    viewer.add_image(drifting(), name="stack")
    train = open_train(epochs=2000)
    train.train()
    qtbot.waitUntil(lambda: len(train.plot.shown[1]) > 1, timeout=60_000)
    train.pause()
    qtbot.waitUntil(lambda: "paused" in train.status.text(), timeout=60_000)
    train.stop()
    run(train)
    assert train.model is not None


def test_closing_the_dock_during_a_run_ends_its_thread(viewer, open_train, qtbot, monkeypatch):
    from superqt.utils import WorkerBase

    from napari_stnreg.training import trainer

    made = []
    real = trainer.Trainer.__init__

    def noted(self, *arguments, **options):
        real(self, *arguments, **options)
        made.append(weakref.ref(self.network))

    monkeypatch.setattr(trainer.Trainer, "__init__", noted)
    viewer.add_image(drifting(), name="stack")
    train = open_train(epochs=5000)
    train.train()
    qtbot.waitUntil(lambda: len(train.plot.shown[1]) > 1, timeout=60_000)
    viewer.window.remove_dock_widget(train)
    qtbot.waitUntil(lambda: not train.running, timeout=60_000)
    WorkerBase.await_workers(60_000)
    QApplication.processEvents()
    gc.collect()
    assert made
    assert made[0]() is None
    assert [layer.name for layer in viewer.layers] == ["stack"]


def test_save_writes_a_file_that_registers(train, viewer, run, tmp_path):
    train.train()
    run(train)
    path = tmp_path / "mine.safetensors"
    assert train.save(str(path))
    assert [(known.name, known.path) for known in SESSION.entries] == [("mine", str(path))]
    model = sr.load(path)
    stack = viewer.layers["stack"].data
    a, b = (sr.Image.from_array(stack[i]) for i in (0, 1))
    kept = train.model(a, b).transform.as_matrix()
    np.testing.assert_allclose(model(a, b).transform.as_matrix(), kept, atol=1e-5)


def test_a_training_is_resumed_from_its_folder(train, viewer, run, tmp_path):
    train.keeping.folder_box.setText(str(tmp_path))
    train.keeping.name_box.setText("kept")
    train.train()
    run(train)
    assert (tmp_path / "kept.safetensors").exists()
    assert (tmp_path / "kept.checkpoint.safetensors").exists()
    assert not train.train()
    assert "earlier training" in train.status.text()
    assert train.keeping.resume_box.isVisibleTo(train)
    train.keeping.resume_box.setChecked(True)
    assert train.train()
    run(train)
    assert train.status.text().startswith("Trained"), train.status.text()
    assert train.model.summary["epochs"] == 3
    train.options.field("learning_rate").value = 0.5
    train.train()
    run(train)
    assert "learning rate" in train.status.text()


def test_the_replay_is_a_layer_with_a_slider(train, viewer, run):
    train.train()
    run(train)
    assert train.replay_button.isEnabled()
    train.replay_button.click()
    run(train)
    layer, bar = viewer.layers["affine on stack (replay)"], train.replay_bar
    assert layer.data.shape == (4, 32, 32)
    assert layer is bar.layer
    assert bar.isVisibleTo(train)
    np.testing.assert_allclose(layer.extent.world[:, 1:], viewer.layers["stack"].extent.world[:, 1:])
    assert layer.metadata["stnreg_training"]["seed"] == train.model.summary["seed"]
    assert layer.metadata["stnreg_replay"]["times"] == [0, 1, 2, 3]
    np.testing.assert_array_equal(bar.replay.curves["validation"], train.plot.shown[1])
    assert viewer.dims.point[0] == pytest.approx(train.model.summary["best"]["epoch"])  # the kept one


def test_the_slider_of_the_replay_runs_through_the_epochs_and_saves_a_film(viewer, open_train, run, qtbot, tmp_path):
    viewer.add_image(drifting(), name="stack", scale=(5, 2, 2), units=("um",) * 3)
    train = open_train(epochs=6, snapshots=4)
    train.train()
    run(train)
    train.replay()
    run(train)
    bar = train.replay_bar
    assert bar.replay.times.tolist() == [0, 2, 4, 6]
    bar.slider.setValue(1)
    assert viewer.dims.point[0] == pytest.approx(1)
    assert train.plot.marked == 2
    assert re.match(r"Epoch 2(?: \(kept\))?: ", bar.words.text())
    assert f"validation {dict(train.plot.shown[1])[2]:.3f}" in bar.words.text()
    np.testing.assert_array_equal(bar.layer.data[1], train.model.replay[1].astype(np.float32))
    bar.save_to(tmp_path / "film.gif")
    assert len(iio.imread(tmp_path / "film.gif")) == 4
    train.replay()
    run(train)
    qtbot.waitUntil(lambda: len(viewer.layers) == 3)  # stack, fixed image, replay: those of before go one by one
    train.train()
    assert not bar.isVisibleTo(train)
    run(train)


@pytest.mark.parametrize(("pairing", "pairs"), [("random", 5), ("template", 4), ("neighbors", 8)])
def test_pairings_of_a_stack(train, pairing, pairs):
    train.images.pairing_box.set_current(pairing)
    train.images.template_box.setText("2")
    data = train.job().images.open()
    assert data.count("train") == pairs
    if pairing == "template":
        assert {a for a, _ in data.pairing.pairs} == {2}


def test_two_stacks_are_paired_first_with_first(viewer, open_train):
    viewer.add_image(drifting(), name="still")
    viewer.add_image(drifting() + 1, name="moved")
    train = open_train()
    train.images.fixed["layer"].layer_box.set_current(viewer.layers["still"])
    train.images.pairing_box.set_current("matched")
    train.images.moving["layer"].layer_box.set_current(viewer.layers["still"])
    with pytest.raises(InputError, match="among the fixed and the moving"):
        train.job()
    train.images.moving["layer"].layer_box.set_current(viewer.layers["moved"])
    data = train.job().images.open()
    assert all(a == b for a, b in (*data.pairing.pairs, *data.validation_pairs))
    np.testing.assert_array_equal(data.moving.image(3).data, viewer.layers["moved"].data[3])


def test_several_layers_from_the_selection(viewer, open_train, run):
    for i, picture in enumerate(drifting(4)):
        viewer.add_image(picture, name=f"image {i}")
    viewer.layers.selection = set(viewer.layers)
    train = open_train(epochs=1)
    assert train.images.kind == "layers"
    train.train()
    run(train)
    assert train.model is not None, train.status.text()
    train.images.fixed["layers"].set_checked([viewer.layers[0]])
    assert not train.train()
    assert "at least two" in train.status.text()


def test_a_folder_of_files(viewer, open_train, run, tmp_path):
    for i, picture in enumerate(drifting(5)):
        sr.write_image(tmp_path / f"p{i}.tif", sr.Image.from_array(picture))
    train = open_train(epochs=1)
    train.images.kind_box.set_current("files")
    assert not train.train()
    assert "folder or a file" in train.status.text()
    train.images.fixed["files"].path_box.setText(str(tmp_path))
    train.train()
    run(train)
    assert train.model is not None, train.status.text()
    assert train.model.name == f"affine on {tmp_path.name}"


def test_arrays_of_an_npz_file(viewer, open_train, run, tmp_path):
    path = tmp_path / "cine.npz"
    np.savez(path, ed=drifting(), es=drifting() + 1, patient=np.array([0, 0, 1, 1, 2, 2]))
    train = open_train()
    train.images.kind_box.set_current("files")
    train.images.pairing_box.set_current("matched")
    for picker, array in ((train.images.fixed["files"], "ed"), (train.images.moving["files"], "es")):
        picker.path_box.setText(str(path))
        picker.array_box.set_current(array)
    train.options.subject_box.setText("patient")
    data = train.job().images.open()
    assert data.count("train") == 4
    assert data.count("validation") == 2
    np.testing.assert_array_equal(data.moving.image(0).data, drifting()[0] + 1)


def test_sections_keep_their_voxel_size_and_large_ones_are_shrunk(viewer, open_train):
    viewer.add_image(np.zeros((4, 40, 60), np.float32), name="stack", scale=(50, 4, 4), units=("nm",) * 3)
    train = open_train()
    train.options.size_box.value = 30
    images = train.job().images
    from napari_stnreg.widgets.train.data_snapshot import image_set

    section = image_set(images.fixed).image(1)
    assert section.grid.shape == (40, 60)
    assert section.grid.unit == "nm"
    np.testing.assert_allclose(section.grid.spacing, 4)
    data = images.open()
    assert data.grid.shape == (20, 30)
    np.testing.assert_allclose(data.grid.spacing, 8)


def test_a_blank_stack_is_one_sentence(viewer, open_train, run):
    viewer.add_image(np.zeros((4, 32, 32), np.float32), name="blank")
    train = open_train()
    train.train()
    run(train)
    assert train.model is None
    assert "blank" in train.status.text()
    assert "\n" not in train.status.text()
    assert train.train_button.isEnabled()


def test_the_script_repeats_the_training(train, viewer, run, tmp_path, monkeypatch):
    train.options.augmentation_box.set_current("light")
    train.train()
    run(train)
    train.copy_python.trigger()
    script = QApplication.clipboard().text()
    monkeypatch.chdir(tmp_path)
    space = {"viewer": viewer}
    exec(compile(script, "script", "exec"), space)
    # Sums over arrays that lie elsewhere in memory may differ in their last bit.
    for again, before in zip(space["model"].summary["curve"], train.model.summary["curve"], strict=True):
        assert again["epoch"] == before["epoch"]
        assert (again["loss"] or 0) == pytest.approx(before["loss"] or 0, rel=1e-5)  # none before the first epoch
        assert again["validation_loss"] == pytest.approx(before["validation_loss"], rel=1e-5)


def test_a_copied_command_means_the_same_training(viewer, open_train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for picture in range(4):
        sr.write_image(tmp_path / f"p{picture}.tif", sr.Image.from_array(blobs((40, 48), seed=picture)))
    train = open_train(network="affine+voxelmorph", family="rigid+displacement", learning_rate=0.01)
    train.images.kind_box.set_current("files")
    train.images.fixed["files"].path_box.setText(str(tmp_path))
    train.images.pairing_box.set_current("template")
    train.images.template_box.setText("p2")
    train.options.augmentation_box.set_current("strong")
    train.copy_command.trigger()
    opened = []

    def train_steps(data, settings, **_):
        opened.append((data, settings))
        raise sr.InputError("Not trained here.")

    monkeypatch.setattr("napari_stnreg.training.api.train_steps", train_steps)
    assert main(shlex.split(QApplication.clipboard().text())[1:]) == 2
    ((data, settings),) = opened
    assert settings == sr.TrainingSettings.parse(**train.options.values())
    assert data.summary() == train.job().images.open().summary()


def test_every_choice_of_the_form_is_one_of_the_settings(viewer, open_train):
    train = open_train(network="affine+voxelmorph")
    train.options.field("strategy").set_current("sequential")
    settings = sr.TrainingSettings.parse(**train.options.values())
    assert settings.strategy == "sequential"
    for name in ("affine", "tps", "dirnet", "voxelmorph", "affine+voxelmorph"):
        train.options.field("network").set_current(name)
        settings = sr.TrainingSettings.parse(**train.options.values())
        assert settings.network == name
        settings.options_of_networks()
    train.options.set_values(settings.model_dump())
    assert train.options.field("strategy").currentData() == "sequential"


def test_the_form_is_remembered(viewer, open_train, run):
    viewer.add_image(drifting(), name="stack")
    train = open_train(network="dirnet", epochs=1, bending=0.5)
    train.images.pairing_box.set_current("neighbors")
    train.train()
    run(train)
    assert train.model is not None, train.status.text()
    again = reopen_from_menu(viewer, "train")
    assert again.options.network == "dirnet"
    assert again.options.values()["bending"] == 0.5
    assert again.images.pairing == "neighbors"
