"""``stnreg train``: what it trains on, what it writes, and what it answers to mistakes."""

import numpy as np
import pytest

import napari_stnreg as sr
from napari_stnreg.cli import main
from napari_stnreg.cli.options import make_parser
from napari_stnreg.cli.train import _data
from napari_stnreg.cli.train_options import training_settings
from tests.helpers.scenes import Blobs, grid

TINY = ["--device", "cpu", "--epochs", "1", "--batch-size", "4"]
SMALL = [*TINY, "--network", "dirnet", "--option", "spacing=4", "--option", "features=8", "--similarity", "ncc"]


@pytest.fixture
def scans(tmp_path, monkeypatch):
    """``scans.npz`` with twelve small images, in the folder that the command runs in."""
    monkeypatch.chdir(tmp_path)
    points = grid(24, 2).points()
    np.savez("scans.npz", image=np.stack([200 * Blobs.random(2, i)(points) for i in range(12)]).astype(np.float32))
    return tmp_path


def validation_pairs(*words):
    options = make_parser().parse_args(["train", "scans.npz", "-o", "m.safetensors", *words])
    data = _data(options, training_settings(options).seed)
    return data.validation_pairs


def test_it_writes_a_model_and_says_where(scans, capsys):
    assert main(["train", "scans.npz", "-o", "m.safetensors", *SMALL]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "m.safetensors"
    assert sr.load("m.safetensors").family == "bspline"


def test_the_seed_chooses_those_held_back_too(scans):
    assert validation_pairs("--seed", "3") == validation_pairs("--seed", "3")
    assert len({tuple(validation_pairs("--seed", str(seed))) for seed in range(6)}) > 1


def test_it_learns_on_from_a_model(scans):
    assert main(["train", "scans.npz", "-o", "first.safetensors", *SMALL]) == 0
    again = ["train", "scans.npz", "-o", "second.safetensors", *TINY, "--similarity", "ncc"]
    assert main([*again, "--warm-start", "first.safetensors"]) == 0
    first, second = sr.load("first.safetensors"), sr.load("second.safetensors")
    assert second.network.config() == first.network.config()
    assert second.summary["curve"][0]["validation_loss"] == first.summary["best"]["validation_loss"]
    assert second.summary["settings"]["warm_start"] == "first"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--warm-start", "none.safetensors"], "none.safetensors"),
        (["--warm-start", "box-2d", "--network", "dirnet"], "is the network 'voxelmorph+voxelmorph', not 'dirnet'"),
        (["--network", "dirnt"], "There is no network 'dirnt'"),
    ],
)
def test_what_cannot_be_is_told_in_one_sentence(scans, capsys, words, told):
    assert main(["train", "scans.npz", "-o", "m.safetensors", *TINY, *words]) == 2
    assert told.lower() in capsys.readouterr().err.lower()
    assert not (scans / "m.safetensors").exists()
