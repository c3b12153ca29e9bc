"""Every panel, opened from its menu on a sample, does its main task and gets it right.

What is right is known from the samples, whose true transforms are formulas, and never from the code under test.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtWidgets import QFileDialog, QTableWidget
from scipy import ndimage
from scipy.interpolate import LinearNDInterpolator

import napari_stnreg as sr
from napari_stnreg import datasets
from tests.helpers.napari_user import (
    CONTRIBUTIONS,
    MANIFEST,
    PanelUser,
    choose_entry,
    drop,
    open_from_menu,
)

TESTED = {}
"""The tests of this file by the command of the panel that they use."""

ELSEWHERE = {"napari-stnreg.landmarks": "test_landmarks.py", "napari-stnreg.place": "test_placement.py"}
"""Panels with a file of their own."""


def panel_test(command):
    """Mark the test of a panel's main task."""

    def mark(test):
        TESTED[command] = test.__name__
        return test

    return mark


def test_every_panel_has_a_test():
    assert TESTED.keys() | ELSEWHERE.keys() == {widget.command for widget in CONTRIBUTIONS.widgets}
    assert all(Path(__file__).with_name(name).is_file() for name in ELSEWHERE.values())


@pytest.fixture
def open_panel(viewer, qtbot):
    """Open a panel from the Layers menu."""

    def make(name):
        widget = open_from_menu(viewer, name)
        qtbot.waitUntil(widget.isVisible)
        return PanelUser(widget, qtbot)

    return make


@pytest.fixture
def open_sample(viewer):
    """Open a sample from File > Open Sample, by its key."""

    def make(key):
        display_name = next(one.display_name for one in CONTRIBUTIONS.sample_data if one.key == key)
        choose_entry(viewer, "File", "Open Sample", MANIFEST.display_name, display_name)

    return make


def landmark_error(transform, truth):
    """Return the mean distance of mapped landmarks from their true places, in world units."""
    return np.linalg.norm(transform.map_points(truth.fixed_points) - truth.moving_points, axis=1).mean()


def distance_before(truth):
    return np.linalg.norm(truth.fixed_points - truth.moving_points, axis=1).mean()


def saved_transform(layer, path):
    """Save the transform of a result layer with File > Save, and load it."""
    assert layer.save(str(path)) == [str(path)]
    return sr.load(path)


@panel_test("napari-stnreg.register")
def test_register_the_cells(viewer, open_panel, open_sample, tmp_path):
    truth = datasets.shapes_pair()
    open_sample("shapes")
    panel = open_panel("register")
    panel.choose("preset", "fast")
    status = panel.run("Register")
    assert status.startswith("Done"), status
    warped = next(layer for layer in viewer.layers if layer.name.startswith("warped · "))
    transform = saved_transform(warped, tmp_path / "cells.safetensors")
    assert distance_before(truth) > 8  # micrometers
    assert landmark_error(transform, truth) < 0.5
    inner = (slice(40, -40),) * 2
    assert np.corrcoef(warped.data[inner].ravel(), truth.fixed.data[inner].ravel())[0, 1] > 0.95
    np.testing.assert_array_equal(viewer.layers["cells_moving"].data, truth.moving.data)


@pytest.mark.slow
@panel_test("napari-stnreg.train")
def test_train_on_the_sections(open_panel, open_sample, tmp_path, monkeypatch):
    """A few epochs bring neighboring sections closer to where they belong, by their true places on the slides."""
    truth = datasets.section_stack()
    open_sample("sections")
    panel = open_panel("train")
    panel.choose("network", "Affine by matching")
    panel.choose("pairing", "Neighbors in the stack")
    panel.choose("augmentation", "none")
    panel.type("epochs", 3)
    status = panel.run("Train", timeout=180_000)
    assert "of 3" in status, status
    path = tmp_path / "sections.safetensors"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_args, **_more: (str(path), ""))
    panel.click("Save …")
    model = sr.load(path)
    sections = [sr.Image.from_array(one, spacing=(10, 10), unit="nm") for one in truth.moving.data]
    before, after = [], []
    for z in range(len(sections) - 1):
        on_slide = truth.true_map(truth.fixed_points * (0, 1, 1) + (50.0 * z, 0, 0))[:, 1:]
        on_next = truth.true_map(truth.fixed_points * (0, 1, 1) + (50.0 * (z + 1), 0, 0))[:, 1:]
        transform = model(sections[z], sections[z + 1]).transform
        before.append(np.linalg.norm(on_next - on_slide, axis=1).mean())
        after.append(np.linalg.norm(on_next - transform.map_points(on_slide), axis=1).mean())
    assert np.mean(before) > 60  # nm
    assert np.mean(after) < 0.7 * np.mean(before)


@pytest.mark.slow
@panel_test("napari-stnreg.align")
def test_align_the_sections(viewer, open_panel, open_sample, tmp_path, monkeypatch, qtbot):
    truth = datasets.section_stack()
    open_sample("sections")
    panel = open_panel("align")
    status = panel.run("Align")
    assert status.startswith("Done"), status
    assert viewer.layers["sections aligned"].visible
    assert not viewer.layers["sections"].visible
    path = tmp_path / "aligned.zarr"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_args, **_more: (str(path), ""))
    panel.run("Save …")
    aligned = sr.AlignedStack(path)
    pixels = lattice(30, 100, 10)
    raw, here = [], []
    for z in range(len(truth.moving.data)):
        to_tissue = tissue_of_slide(truth, z)
        raw.append(to_tissue(pixels))
        here.append(to_tissue(aligned.transform(z).map_points(pixels)))
    before = np.linalg.norm(np.diff(raw, axis=0), axis=-1).mean()
    after = np.linalg.norm(np.diff(here, axis=0), axis=-1).mean()
    assert before > 6  # pixels between the tissue at one place of neighboring sections
    assert after < 3


def lattice(first, last, step):
    """Return the points (y, x) of a square lattice, ``(N, 2)``."""
    ticks = np.arange(first, last, float(step))
    return np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 2)


def tissue_of_slide(truth, section):
    """Return the map from pixels of a section on its slide to pixels of the tissue: the true map, inverted."""
    tissue = lattice(-20, 150, 3)
    world = np.concatenate([np.full((len(tissue), 1), 50.0 * section), 10 * tissue], axis=1)
    return LinearNDInterpolator(truth.true_map(world)[:, 1:] / 10, tissue)


MATRIX = np.array([[0.96, -0.28, 30.0], [0.28, 0.96, -12.0], [0, 0, 1]])
"""A known transform of the digit sample, (y, x) in pixels, fixed to moving."""


def known_map(points):
    return points @ MATRIX[:2, :2].T + MATRIX[:2, 2]


@pytest.fixture
def transform_file(tmp_path):
    """The known transform as a file of ITK, which writes x before y."""
    pytest.importorskip("SimpleITK")
    path = tmp_path / "turn.tfm"
    path.write_text(
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_2_2\n"
        "Parameters: 0.96 0.28 -0.28 0.96 -12 30\nFixedParameters: 0 0\n"
    )
    return path


@panel_test("napari-stnreg.workbench")
def test_apply_a_dropped_transform(viewer, open_panel, open_sample, transform_file):
    """Points and an image of the moving side are carried to the fixed side, whose points map to them."""
    open_sample("digit")
    fixed_points = np.array([[40.0, 50.0], [60.0, 30.0], [80.0, 90.0]])
    viewer.add_points(known_map(fixed_points), name="seeds")
    panel = open_panel("workbench")
    drop(viewer, transform_file)
    panel.choose("layer to transform", "seeds")
    status = panel.run("Apply")
    assert status.startswith("Added"), status
    np.testing.assert_allclose(viewer.layers[-1].data, fixed_points, atol=1e-3)
    panel.choose("layer to transform", "digit_moving")
    panel.choose("grid of the result", "digit_fixed")
    panel.run("Apply")
    warped = viewer.layers[-1].data
    moving = datasets.digit_pair().moving.data
    pixels = lattice(40, 90, 7).astype(int)
    expected = ndimage.map_coordinates(moving.astype(float), known_map(pixels).T, order=1)
    assert np.ptp(expected) > 100
    np.testing.assert_allclose(warped[tuple(pixels.T)], expected, atol=1)


@panel_test("napari-stnreg.scorecard")
def test_score_landmarks_of_known_error(viewer, open_panel, open_sample, transform_file):
    """Landmarks that are off by (3, 4) pixels score 5, and the table shows their distance before."""
    open_sample("digit")
    fixed_points = datasets.digit_pair().fixed_points
    moving_points = known_map(fixed_points) + (3, 4)
    viewer.add_points(fixed_points, name="fixed points")
    viewer.add_points(moving_points, name="moving points")
    drop(viewer, transform_file)
    panel = open_panel("scorecard")
    panel.choose("fixed image", "digit_fixed")
    panel.choose("moving image", "digit_moving")
    panel.choose("transform", panel.entries("transform")[-1])
    panel.click("Labels, landmarks, reverse")
    for side in ("fixed", "moving"):
        panel.choose(f"landmarks of the {side} side", f"{side} points")
    panel.run("Score")
    table = panel.find(QTableWidget, "scores")
    rows = [[_text(table.item(row, column)) for column in range(3)] for row in range(table.rowCount())]
    (mean,) = ([float(cell) for cell in row[1:]] for row in rows if row[0] == "mean")
    np.testing.assert_allclose(mean, [np.linalg.norm(moving_points - fixed_points, axis=1).mean(), 5], rtol=0.005)


def _text(item):
    return "" if item is None else item.text()


@panel_test("napari-stnreg.compare")
def test_compare_the_cells(viewer, open_panel, open_sample, qtbot):
    """The difference is the second image less the first, the checkerboard is made of both, and Leave restores all."""
    truth = datasets.shapes_pair()
    first, second = (image.data.astype(float) for image in (truth.fixed, truth.moving))
    open_sample("shapes")
    panel = open_panel("compare")
    before = [(layer.name, layer.visible, layer.colormap.name, layer.blending) for layer in viewer.layers]

    def view(name):
        panel.click(name)
        wanted = f"compare: {name.lower()}"
        qtbot.waitUntil(lambda: wanted in viewer.layers, timeout=30_000)
        return np.asarray(viewer.layers[wanted].data, dtype=float)

    difference = view("Difference")
    assert np.corrcoef(difference.ravel(), (second - first).ravel())[0, 1] > 0.999
    board = view("Checkerboard")
    squares = board[16::32, 16::32], first[16::32, 16::32], second[16::32, 16::32]
    row, column = np.indices(squares[0].shape)
    expected = np.where((row + column) % 2, squares[2], squares[1])
    assert np.corrcoef(squares[0].ravel(), expected.ravel())[0, 1] > 0.98
    panel.click("Leave")
    assert [(layer.name, layer.visible, layer.colormap.name, layer.blending) for layer in viewer.layers] == before


@panel_test("napari-stnreg.batch")
def test_register_folders(viewer, open_panel, open_sample, tmp_path):
    truth = datasets.shapes_pair()
    open_sample("shapes")
    for side in ("fixed", "moving"):
        (tmp_path / side).mkdir()
        viewer.layers[f"cells_{side}"].save(str(tmp_path / side / "cells.nii.gz"))
    panel = open_panel("batch")
    panel.click("Pairs from folders")
    panel.type("fixed path", tmp_path / "fixed")
    panel.type("moving path", tmp_path / "moving")
    panel.type("results path", tmp_path / "results")
    panel.click("Pair the folders")
    panel.click("Settings")
    panel.choose("preset", "fast")
    status = panel.run("Run")
    assert status.startswith("1 of 1 pairs"), status
    table = panel.find(QTableWidget, "pairs of the batch")
    assert [table.item(0, column).text() for column in (0, 1)] == ["cells", "✓"]
    transform = sr.load(tmp_path / "results" / "cells" / "transform.safetensors")
    assert transform.unit == truth.fixed.grid.unit
    assert landmark_error(transform, truth) < 0.5
    assert "cells" in (tmp_path / "results" / "summary.html").read_text()


@panel_test("napari-stnreg.explore")
def test_turn_the_digit(viewer, open_panel, open_sample, qtbot):
    """A sampling grid that is turned clockwise by 90 degrees shows the picture turned counterclockwise, exactly."""
    digit = datasets.digit_pair().moving.data
    open_sample("digit")
    panel = open_panel("explore")
    qtbot.waitUntil(lambda: "explorer: output" in viewer.layers, timeout=30_000)
    np.testing.assert_allclose(viewer.layers["explorer: output"].data, digit, atol=1e-3)
    panel.type("rotation, as a number", 90)
    turned = np.rot90(digit)
    qtbot.waitUntil(lambda: np.allclose(viewer.layers["explorer: output"].data, turned, atol=1e-3), timeout=10_000)
    assert not np.allclose(digit, turned, atol=1)


@pytest.mark.slow
@panel_test("napari-stnreg.classifier")
def test_classify_digits(viewer, open_panel):
    """Undistorted digits are easy: after 100 steps far more than a tenth of those never seen is right."""
    panel = open_panel("classifier")
    for name, value in (("rotation", 0), ("scale", 0), ("clutter", 0), ("steps", 100)):
        panel.type(name, value)
    status = panel.run("Train", timeout=300_000)
    assert "After 100 steps" in status, status
    with_transformer = int(re.search(r"(\d+) % with a transformer", status)[1])
    assert with_transformer > 35, status
    assert "digits" in viewer.layers
