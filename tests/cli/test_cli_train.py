"""``stnreg train``: what it trains on, what it writes, and what it answers to mistakes."""

import numpy as np
import pytest

import napari_stnreg as sr
from napari_stnreg.cli import main
from tests.helpers.scenes import Blobs, grid

TINY = ["--device", "cpu", "--epochs", "1", "--batch-size", "4"]
SMALL = [
    *TINY,
    "--network",
    "dirnet",
    "--network-options.spacing",
    "4",
    "--network-options.features",
    "8",
    "--similarity",
    "ncc",
]


@pytest.fixture
def scans(tmp_path, monkeypatch):
    """``scans.npz`` with twelve small images, in the folder that the command runs in."""
    monkeypatch.chdir(tmp_path)
    points = grid(24, 2).points()
    np.savez("scans.npz", image=np.stack([200 * Blobs.random(2, i)(points) for i in range(12)]).astype(np.float32))
    return tmp_path


def test_model_is_written_and_its_path_printed(scans, capsys):
    assert main(["train", "scans.npz", "-o", "m.safetensors", *SMALL]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "m.safetensors"
    assert sr.load("m.safetensors").family == "bspline"


def test_the_seed_chooses_the_validation_pairs(scans, monkeypatch):
    chosen = []
    monkeypatch.setattr("napari_stnreg.training.api.train_steps", lambda data, *_, **__: chosen.append(data))
    for seed in (3, 3, 0, 1, 2, 4):
        main(["train", "scans.npz", "-o", "m.safetensors", "--seed", str(seed)])
    pairs = [tuple(data.validation_pairs) for data in chosen]
    assert pairs[0] == pairs[1]
    assert len(set(pairs)) > 1


def test_training_continues_from_a_model(scans):
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
def test_invalid_arguments_are_refused(scans, capsys, words, told):
    assert main(["train", "scans.npz", "-o", "m.safetensors", *TINY, *words]) == 2
    assert told.lower() in capsys.readouterr().err.lower()
    assert not (scans / "m.safetensors").exists()


def test_labels_classes_and_curves_of_a_folder(scans, capsys):
    """A folder with images and label maps trains on the labels; the curves are beside the model."""
    images = np.load("scans.npz")["image"]
    (scans / "both").mkdir()
    for i, image in enumerate(images[:6]):
        sr.write_image(scans / "both" / f"s{i}_t1.tif", sr.Image.from_array(image))
        sr.write_image(scans / "both" / f"s{i}_seg.tif", sr.Image.from_array((image > image.mean()).astype(np.uint8)))
    train = ["train", "both", "-o", "m.safetensors", *SMALL, "--label-weight", "1"]
    assert main([*train]) == 2
    assert "--labels-pattern" in capsys.readouterr().err
    assert main([*train, "--pattern", "*_t1.tif", "--labels-pattern", "*_seg.tif"]) == 0
    assert "dice" in sr.load("m.safetensors").summary["best"]["scores"]
    assert (scans / "m.curve.csv").read_text().startswith("epoch,loss,validation_loss,term_")


def test_a_probabilistic_model_writes_its_uncertainty(scans, capsys):
    images = np.load("scans.npz")["image"]
    np.save("a.npy", images[0])
    np.save("b.npy", images[1])
    options = ["--network", "voxelmorph", "--network-options.probabilistic", "true", "--network-options.resolution",
               "half"]  # fmt: skip
    assert main(["train", "scans.npz", "-o", "m.safetensors", *TINY, *options]) == 0
    assert main(["register", "a.npy", "b.npy", "-o", "out", "--model", "m.safetensors", "--accept"]) == 0
    assert "uncertainty" in capsys.readouterr().out
    found = next((scans / "out").glob("uncertainty*"))
    deviation = sr.read_image(found)
    assert deviation.grid.shape == (24, 24)
    assert float(deviation.data.min()) > 0
