"""Transform and model files dropped on the viewer, and transforms saved from result layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import napari_stnreg as sr
from napari_stnreg.core.errors import RegistrationError
from napari_stnreg.core.grid import Grid
from napari_stnreg.io.transform_entry import entry_from_record
from napari_stnreg.napari_plugin.transform_files import napari_transform_reader, transform_layers, write_transform
from napari_stnreg.transforms import AffineTransform
from napari_stnreg.widgets.common.transform_store import store_for
from tests.widgets.known_transforms import SHAPE, bend, make_entry, turn

POINTS = np.random.default_rng(0).uniform(5, 40, (9, 2))


def opened(path):
    read = napari_transform_reader(str(path))
    assert read is not None
    return read(str(path))


@pytest.mark.parametrize("ending", [".safetensors", ".tfm", ".h5"])
def test_transform_file_opens_as_layers_with_the_transform(tmp_path, ending):
    path = tmp_path / f"one{ending}"
    if ending != ".safetensors":
        pytest.importorskip("SimpleITK")
    if ending == ".h5":
        pytest.importorskip("h5py")
    transform = turn() if ending == ".tfm" else bend()
    sr.save(transform, path, grid=Grid.from_spacing(SHAPE))
    layers = opened(path)
    assert [kind for _, _, kind in layers] == ["vectors", "image"]
    for _, keywords, _ in layers:
        back = entry_from_record(keywords["metadata"]["stnreg"]).transform
        np.testing.assert_allclose(back.map_points(POINTS), transform.map_points(POINTS), atol=0.01)


def test_a_file_of_the_same_ending_that_holds_something_else_is_left_to_others(tmp_path):
    for name, content in (("a.safetensors", b"\x10" + b"\0" * 7 + b"{}"), ("b.txt", b"hello"),
                          ("c.h5", b"\x89HDF\r\n\x1a\n other"), ("d.tfm", b"")):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        assert napari_transform_reader(str(tmp_path / name)) is None
    assert napari_transform_reader(str(tmp_path / "missing.tfm")) is None


@pytest.mark.parametrize(
    ("name", "claimed"),
    [("cells.h5", False), ("notes.txt", False), ("data.mat", False), ("stack.hdf5", False), ("measure.2.txt", False),
     ("cells_transform.h5", True), ("0GenericAffine.mat", True), ("antsComposite.h5", True), ("antsAffine.txt", True),
     ("TransformParameters.0.txt", True), ("one.tfm", True), ("one.safetensors", True)],
)  # fmt: skip
def test_only_names_of_transforms_are_claimed(tmp_path, name, claimed):
    """Else napari asks which reader opens a foreign file."""
    from npe2 import PluginManager

    manager = PluginManager.instance()
    manager.discover()
    readers = {reader.plugin_name for reader in manager.iter_compatible_readers(str(tmp_path / name))}
    assert ("napari-stnreg" in readers) is claimed


def test_a_transform_in_hdf5_opens_without_a_question_once_a_panel_was_open(viewer, tmp_path):
    """napari's own reader claims the suffix, but cannot read the file."""
    viewer.window.add_plugin_dock_widget("napari-stnreg", "Compare views")
    sr.save(turn(), tmp_path / "cells_Transform.h5", grid=Grid.from_spacing(SHAPE))
    viewer.open(tmp_path / "cells_Transform.h5", plugin=None)  # raises if there is a choice between readers
    assert viewer.layers[0].source.reader_plugin == "napari-stnreg"


def test_a_model_file_is_distinguished_from_a_transform(tmp_path, monkeypatch):
    from napari_stnreg.core import container
    from napari_stnreg.models import model_file
    from napari_stnreg.napari_plugin import transform_files as module

    said = []
    monkeypatch.setattr(module, "show_info", said.append)
    path = tmp_path / "net.safetensors"
    container.write(path, {"format": model_file.FORMAT, "version": 1}, {})
    assert opened(path) == [(None,)]
    assert "trained model" in said[0]


def test_an_affine_without_a_place_is_drawn_over_a_box(tmp_path):
    matrix = np.eye(4)
    matrix[0, 3] = 7
    sr.save(AffineTransform(matrix, "mm"), tmp_path / "shift.safetensors")
    arrows = opened(tmp_path / "shift.safetensors")[0]
    np.testing.assert_allclose(arrows[0][:, 1], np.broadcast_to((7, 0, 0), arrows[0][:, 1].shape), atol=1e-5)
    assert arrows[1]["units"] == ("mm",) * 3


@pytest.mark.parametrize("ending", [".safetensors", ".tfm"])
def test_file_save_on_a_result_layer_writes_its_transform(tmp_path, ending):
    if ending == ".tfm":
        pytest.importorskip("SimpleITK")
    one = make_entry(turn(), "atlas", "subject")
    data, keywords, _ = transform_layers(one)[0]
    path = tmp_path / f"saved{ending}"
    assert write_transform(str(path), data, keywords) == [str(path)]
    np.testing.assert_allclose(sr.load(path).map_points(POINTS), turn().map_points(POINTS), atol=1e-4)
    if ending == ".safetensors":
        back = opened(path)[0][1]["metadata"]["stnreg"]
        assert (back["fixed"], back["moving"]) == ("atlas", "subject")


def test_a_layer_without_a_transform_is_reported(tmp_path):
    with pytest.raises(RegistrationError, match="carries no transform"):
        write_transform(str(tmp_path / "x.tfm"), np.zeros((3, 3)), {"name": "plain", "metadata": {}})
    series = make_entry(turn()).record("warped")
    series["frames"] = [dict(series), dict(series)]
    with pytest.raises(RegistrationError, match="2 transforms"):
        write_transform(str(tmp_path / "x.tfm"), None, {"name": "series", "metadata": {"stnreg": series}})
    assert not (tmp_path / "x.tfm").exists()


def test_napari_opens_and_saves_them_by_the_manifest(viewer, tmp_path):
    """Through napari's own Open and Save, with the plugin's manifest."""
    from npe2 import PluginManager, PluginManifest

    manager = PluginManager.instance()
    if "napari-stnreg" not in manager:
        import napari_stnreg

        manager.register(PluginManifest.from_file(Path(napari_stnreg.__file__).parent / "napari.yaml"))
    path = tmp_path / "bend.safetensors"
    sr.save(bend(), path)
    layers = viewer.open(str(path), plugin="napari-stnreg")
    assert [type(layer).__name__ for layer in layers] == ["Vectors", "Image"]
    assert len(store_for(viewer).entries(viewer)) == 1
    viewer.open(str(path), plugin="napari-stnreg")
    assert len(store_for(viewer).entries(viewer)) == 1
    layers[0].save(str(tmp_path / "again.safetensors"), plugin="napari-stnreg")
    np.testing.assert_array_equal(sr.load(tmp_path / "again.safetensors").map_points(POINTS), bend().map_points(POINTS))
