"""Every writer of the manifest saves with ``layer.save`` and ``viewer.layers.save``."""

from __future__ import annotations

import numpy as np
import pytest

import napari_stnreg as sr
from tests.acceptance.test_readers import itk_map, transform_example
from tests.helpers.napari_user import CONTRIBUTIONS, PLUGIN

ENDINGS: dict[tuple[str, str], list[str]] = {}
"""The endings that a command writes, by the command and the type of the layer."""
for _writer in CONTRIBUTIONS.writers:
    for _kind in _writer.layer_types:
        ENDINGS.setdefault((_writer.command, _kind), []).extend(_writer.filename_extensions)

POINTS = np.array([[3.0, 4.0], [20.0, 10.0], [-5.0, 60.0]])
SPACING, ORIGIN = (0.5, 2.0), (4.0, -7.0)


def add_layer(viewer, kind, metadata):
    """Add a layer of a kind, with a record of a transform in its metadata."""
    place = {"scale": SPACING, "translate": ORIGIN, "units": ("mm", "mm"), "metadata": metadata}
    rng = np.random.default_rng(1)
    if kind == "image":
        return viewer.add_image(rng.normal(size=(9, 11)).astype(np.float32), **place)
    if kind == "labels":
        return viewer.add_labels(rng.integers(0, 5, (9, 11)).astype(np.int16), **place)
    if kind == "vectors":
        return viewer.add_vectors(rng.normal(size=(4, 2, 2)), **place)
    return pytest.fail(f"there is no example layer of type {kind}")


def check_picture(path, layer):
    image = sr.read_image(path)
    np.testing.assert_array_equal(np.asarray(image.data).squeeze(), layer.data)
    np.testing.assert_allclose(image.grid.spacing[-2:], SPACING, atol=1e-5)
    corner = image.grid.to_world(np.zeros(image.grid.ndim))[-2:]
    np.testing.assert_allclose(corner, ORIGIN, atol=1e-5)


def check_transform(path, _layer):
    np.testing.assert_allclose(sr.load(path).map_points(POINTS), itk_map(POINTS), atol=1e-4)


CHECKS = {
    "napari-stnreg.write_image": check_picture,
    "napari-stnreg.write_labels": check_picture,
    "napari-stnreg.write_transform": check_transform,
}


@pytest.fixture
def metadata(viewer, tmp_path):
    """What a layer carries that was opened from the file of a known transform."""
    path, _ = transform_example(tmp_path, ".tfm")
    (first, *_) = viewer.open(path, plugin=PLUGIN)
    record = dict(first.metadata)
    viewer.layers.clear()
    return record


@pytest.mark.parametrize(("command", "kind"), ENDINGS)
def test_every_writer_saves(viewer, tmp_path, metadata, command, kind):
    assert command in CHECKS, "add a check for the new writer to this file"
    layer = add_layer(viewer, kind, metadata)
    for ending in ENDINGS[command, kind]:
        for number, save in enumerate((layer.save, viewer.layers.save)):
            path = tmp_path / f"saved{number}{ending}"
            assert [str(one) for one in save(str(path))] == [str(path)]
            CHECKS[command](path, layer)


def test_a_layer_without_a_transform_is_refused(viewer, tmp_path):
    layer = viewer.add_image(np.zeros((4, 5)), name="plain")
    with pytest.raises(sr.RegistrationError, match="transform"):
        layer.save(str(tmp_path / "saved.tfm"))
    assert not (tmp_path / "saved.tfm").exists()
