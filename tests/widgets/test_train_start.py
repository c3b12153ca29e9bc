"""Which network is trained, and going on from a trained model."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
import torch
from qtpy.QtWidgets import QApplication
from scipy import ndimage

import napari_stnreg as sr
from napari_stnreg.widgets.models.session import SESSION
from tests.widgets.conftest import blobs, drifting, model_of

pytestmark = pytest.mark.usefixtures("fresh_session")


def test_every_network_that_registers_can_be_chosen(train):
    from napari_stnreg.training.settings import NETWORK_HELP

    box = train.options.field("network")
    assert {box.itemData(i) for i in range(box.count())} == set(NETWORK_HELP) - {"auto-encoder"}


def test_a_network_that_matches_is_trained_on_turned_pictures(viewer, open_train, run):
    picture = blobs((32, 32))
    turned = np.stack([ndimage.rotate(picture, angle, reshape=False, mode="nearest") for angle in (0, 90, 180, 200)])
    viewer.add_image(turned, name="stack")
    train = open_train(network="matching")
    assert not train.options.linear_box.isVisibleTo(train)
    assert train.train()
    run(train)
    assert train.model is not None, train.status.text()
    assert train.model.describe()["network"] == "matching"
    assert SESSION.entries[0].name == "affine by matching on stack"


def test_a_training_continues_from_a_trained_model(viewer, open_train, run, tmp_path):
    viewer.add_image(drifting(), name="stack")
    train = open_train(epochs=4)
    assert train.options.start is None
    train.train()
    run(train)
    first = train.model
    (known,) = SESSION.entries
    box = train.options.start_box
    assert "affine on stack" in [box.itemText(i) for i in range(box.count())]
    train.options.field("network").set_current("dirnet")
    box.take(known)
    assert "2D" in box.about.text()
    for part in (train.options.field("network"), train.options.network_form, train.options.linear_box):
        assert not part.isVisibleTo(train)
    assert not {"network", "family"} & set(train.options.values())
    assert train.keeping.name == "affine on stack on stack"
    kept = {name: value.clone() for name, value in first.network.state_dict().items()}
    assert train.train()
    run(train)
    assert train.model is not first, train.status.text()
    assert train.model.describe()["network"] == "affine"
    # The first validation is the model's own: nothing was forgotten.
    assert train.plot.shown[1][0, 1] == pytest.approx(first.summary["best"]["validation_loss"], rel=1e-5)
    assert train.model.summary["best"]["validation_loss"] <= first.summary["best"]["validation_loss"] * (1 + 1e-6)
    for name, value in first.network.state_dict().items():
        assert torch.equal(value, kept[name])


def test_a_model_of_other_images_is_no_beginning(viewer, open_train, run, qtbot, tmp_path):
    viewer.add_image(drifting(), name="stack")
    train = open_train()
    train.options.start_box.take(SESSION.add(model_of(3, "of volumes")))
    train.train()
    run(train)
    assert train.model is None
    assert "'of volumes' is for 3D images" in train.status.text()
    path = tmp_path / "odd.safetensors"
    path.write_bytes(b"nothing")
    train.options.start_box.load(str(path))
    qtbot.waitUntil(lambda: "odd" in train.status.text(), timeout=60_000)
    assert train.options.start.name == "of volumes"


def test_the_beginning_is_remembered_and_copied(viewer, open_train, run, tmp_path, monkeypatch):
    viewer.add_image(drifting(), name="stack")
    train = open_train(epochs=1)
    train.options.field("network").set_current("dirnet")
    train.options.start_box.take(SESSION.add(model_of()))
    train.copy_command.trigger()
    assert "# Save the model 'mine' as mine.safetensors first" in QApplication.clipboard().text()
    path = model_of(shape=32).save(tmp_path / "kept.safetensors")
    train.options.start_box.take(SESSION.add(sr.load(path), str(path)))
    assert train.train()
    run(train)
    assert train.model is not None, train.status.text()
    train.copy_command.trigger()
    words = shlex.split(QApplication.clipboard().text(), comments=True)
    assert words[words.index("--warm-start") + 1] == str(path)
    assert "--network" not in words
    train.copy_python.trigger()
    space = {"viewer": viewer}
    monkeypatch.chdir(tmp_path)
    exec(compile(QApplication.clipboard().text(), "script", "exec"), space)
    # Not to the last bit: the panel trains in a thread of a process that has run much else before.
    curves = [[row["validation_loss"] for row in one.summary["curve"]] for one in (train.model, space["model"])]
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
    SESSION.entries = []
    again = open_train()
    assert again.options.start.path == str(path)
    assert again.options.network == "affine"  # as open_train sets it
