"""What "Copy as command" gives is what the command line takes."""

import shlex

import numpy as np
import pytest

from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.io.points import read_landmarks
from napari_stnreg.registration.settings import RegistrationSettings
from napari_stnreg.series.settings import SeriesSettings
from napari_stnreg.widgets.common.layer_io import LayerSource, MaskSource
from napari_stnreg.widgets.register.code_export import command_line, python_script
from napari_stnreg.widgets.register.run import RegistrationJob
from tests.helpers.command_line import parse_command


def source(name, mask=None):
    data, grid = np.zeros((8, 9)), Grid.from_spacing((8, 9))
    return LayerSource(name, data, data, grid, grid, "yx", False, 0, 1, mask, path=f"some folder/{name}.tif")


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"family": "rigid+bspline", "similarity": "mi", "preset": "thorough", "device": "cuda:1", "seed": 4},
        {"mirror": True, "start": "search", "fill": -1000.0, "smoothness": 0.3, "window": 3, "extent": "union"},
        {
            "levels": 2,
            "iterations": 7,
            "fixed_channel": 0,
            "moving_channel": 1,
            "control_spacing": 5.5,
            "bending": 1e-5,
        },
    ],
)
def test_a_copied_command_means_the_same_run(words, tmp_path):
    settings = RegistrationSettings.parse(**words)
    mask = MaskSource("the mask", np.eye(3), ("pixel", "pixel"))
    points = np.array([[1.5, 2.0], [-3.0, 4.25]])
    job = RegistrationJob(source("fixed"), source("moving", mask), settings, points, points + 1)
    *comments, line = command_line(job).splitlines()
    arguments = parse_command(shlex.split(line)[1:])
    assert arguments["settings"] == settings
    assert (str(arguments["fixed"]), str(arguments["moving"])) == ("some folder/fixed.tif", "some folder/moving.tif")
    assert str(arguments["annotations"].moving_mask) == "the mask.nii.gz"
    rows = [comment.removeprefix("#   ") for comment in comments if comment.startswith("#   ")]
    (tmp_path / arguments["annotations"].landmarks).write_text("\n".join(rows))
    fixed, moving = read_landmarks(tmp_path / arguments["annotations"].landmarks, None, None, 2)
    np.testing.assert_allclose(fixed, points)
    np.testing.assert_allclose(moving, points + 1)


def movie(mask=None):
    data = np.random.default_rng(0).random((3, 8, 9))
    grid = Grid.from_spacing((8, 9))
    return LayerSource("movie", data, data, grid, grid, "tyx", False, 0, 3, mask, path="some folder/movie.tif")


@pytest.mark.parametrize("reference", ["fixed", "mean"])
def test_a_copied_command_of_a_series_means_the_same_run(reference):
    job = RegistrationJob(
        source("fixed"), movie(), RegistrationSettings.parse(family="affine", iterations=7), every_frame=True,
        reference=reference, temporal_smoothing=1.5,
    )  # fmt: skip
    line = command_line(job).splitlines()[-1]
    assert line.startswith("stnreg register-series")
    arguments = parse_command(shlex.split(line)[1:])
    assert arguments["settings"] == SeriesSettings.parse(family="affine", iterations=7)
    assert str(arguments["series"]) == "some folder/movie.tif"
    assert arguments["reference"] == ("mean" if reference == "mean" else "some folder/fixed.tif")
    assert arguments["temporal_smoothing"] == 1.5


def test_a_copied_command_of_a_series_with_landmarks_keeps_the_settings_of_a_series():
    points = np.array([[1.5, 2.0], [-3.0, 4.25]])
    job = RegistrationJob(
        source("fixed"), movie(), RegistrationSettings.parse(family="rigid"), points, points, every_frame=True
    )
    line = command_line(job).splitlines()[-1]
    assert line.startswith("stnreg register ")
    assert line.endswith("--all-frames")
    settings = parse_command(shlex.split(line)[1:])["settings"]
    assert (settings.similarity, settings.preset, settings.smoothness) == ("mse", "fast", 4.0)


def test_a_copied_script_of_a_series_takes_landmarks_and_masks(monkeypatch):
    import napari_stnreg as sr

    points = np.array([[1.5, 2.0], [-3.0, 4.25]])
    mask = MaskSource("the mask", np.eye(3), ("pixel", "pixel"))
    moving = movie(mask)
    job = RegistrationJob(source("fixed"), moving, RegistrationSettings(), points, points + 1, every_frame=True)
    seen = {}

    def register_series(frames, settings, **words):
        seen.update(words, frames=frames, settings=settings)
        return sr.register_series([frame.data for frame in frames], family="translation")

    script = python_script(job).replace("sr.register_series(", "record(")
    layer = type("Layer", (), {"data": moving.data})
    monkeypatch.setattr("napari_stnreg.widgets.common.layer_io.mask_source", lambda _: _Everywhere())
    monkeypatch.setattr(sr, "read", lambda path: Image(np.zeros((8, 9)), moving.grid), raising=False)
    viewer = type("Viewer", (), {"layers": {"movie": layer, "the mask": None}})
    exec(script, {"viewer": viewer, "record": register_series})
    np.testing.assert_allclose(seen["moving_landmarks"], points + 1)
    np.testing.assert_array_equal(np.stack([frame.data for frame in seen["frames"]]), moving.data)
    assert all(frame.mask is not None for frame in seen["frames"])
    assert seen["settings"].family == RegistrationSettings().family


class _Everywhere:
    def on(self, grid, frame):
        return np.ones(grid.shape, bool)
