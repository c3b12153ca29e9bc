"""What "Copy as command" gives is what the command line takes."""

import shlex

import numpy as np
import pytest

from napari_stnreg.core.grid import Grid
from napari_stnreg.io.points import read_landmarks
from napari_stnreg.registration.settings import RegistrationSettings
from napari_stnreg.widgets.common.layer_io import LayerSource, MaskSource
from napari_stnreg.widgets.register.code_export import command_line
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
