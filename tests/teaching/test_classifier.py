"""Digits, the two classifiers, and the film of a training."""

import gzip
import struct

import imageio.v3 as iio
import numpy as np
import pytest

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.progress import run_to_completion
from napari_stnreg.teaching.classifier import NAMES, SHOWN, DigitClassifier, train_classifiers
from napari_stnreg.teaching.digits import DigitData, Distortion, load_digits
from napari_stnreg.teaching.replay import Replay, record_frames

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def digits():
    return load_digits()


def drain(steps, stop_after=None):
    items = []
    result = run_to_completion(steps, items.append, lambda: stop_after is not None and len(items) >= stop_after)
    return items, result


def test_digits_without_distortion_are_centered(digits):
    still = DigitData(*digits, distortion=Distortion(0, 0, 0, 0))
    pictures, classes = still.batch(16, seed=3)
    assert pictures.shape == (16, 1, 40, 40)
    assert set(classes.tolist()) <= set(range(10))
    rim = pictures.clone()
    rim[:, :, 9:31, 9:31] = 0
    assert rim.abs().max() < 1e-5
    assert pictures[:, :, 10:30, 10:30].amax(dim=(1, 2, 3)).min() > 0.5


def test_batches_are_reproducible_and_test_digits_are_held_out(digits):
    data = DigitData(*digits)
    first, again, other = data.batch(8, seed=5), data.batch(8, seed=5), data.batch(8, seed=6)
    assert (first[0] == again[0]).all()
    assert (first[1] == again[1]).all()
    assert (first[0] != other[0]).any()
    assert 0 <= first[0].min() <= first[0].max() <= 1
    cut = round(len(digits[0]) * 0.75)
    assert data._cut == cut
    still = DigitData(*digits, distortion=Distortion(0, 0, 0, 0))
    shown = still.batch(30, seed=1, test=True)[0][:, :, 10:30, 10:30]
    held_back = still.digits[cut:]
    nearest = ((shown[:, None] - held_back[None]) ** 2).mean(dim=(2, 3, 4)).min(dim=1).values
    assert nearest.max() < 1e-9


def test_mnist_files_are_read(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (50, 28, 28), dtype=np.uint8)
    classes = np.arange(50, dtype=np.uint8) % 10
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 50) + classes.tobytes())
    with gzip.open(tmp_path / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(struct.pack(">IIII", 0x803, 50, 28, 28) + images.tobytes())
    read, named = load_digits(tmp_path)
    assert np.allclose(read, images / 255)
    assert (named == classes).all()
    assert DigitData(read, named).batch(4, 0)[0].shape == (4, 1, 40, 40)


def test_folder_without_digits_is_refused(tmp_path):
    with pytest.raises(InputError, match="neither train-images"):
        load_digits(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03 cut off")
    with pytest.raises(InputError, match="is truncated"):
        load_digits(tmp_path)
    with pytest.raises(InputError, match="at least 40"):
        DigitData(np.zeros((3, 8, 8)), np.zeros(3))


def test_transformer_starts_at_the_identity(digits):
    model = DigitClassifier(40, transformer=True)
    pictures, _ = DigitData(*digits).batch(2, 0)
    seen = model.transformed(pictures)
    assert seen.shape == (2, 1, 28, 28)
    from napari_stnreg.ops.interpolation import resize

    assert np.allclose(seen.detach(), resize(pictures, (28, 28)), atol=0.02)
    plain = DigitClassifier(40, transformer=False)
    assert plain.transformed(pictures) is pictures


def test_stop_returns_the_current_classifiers(digits):
    items, result = drain(
        train_classifiers(DigitData(*digits), steps=40, batch=8, every=2, test_count=16), stop_after=3
    )
    assert [item.step for item in items] == [0, 2, 4]
    assert len(result.progress) == 3
    assert set(result.accuracy) == set(NAMES)
    assert result.frames().shape == (3, SHOWN, 28, 28)
    film = Replay.from_classifiers(result)
    rows, height = film.render(width=320), 40
    assert rows.shape[2] == SHOWN * 40
    distorted, passed = rows[:, 18 : 18 + height], rows[:, 36 + height : 36 + 2 * height]
    expected = np.concatenate(list(result.progress[0].pictures), axis=1)
    assert np.corrcoef(distorted[2, ..., 0].ravel(), expected.ravel())[0, 1] > 0.99
    assert (distorted == distorted[:1]).all(), "the distorted digits stay"
    expected = result.progress[2].transformed[3]
    assert np.corrcoef(passed[2, 6:34, 126:154, 0].ravel(), expected.ravel())[0, 1] > 0.99
    assert list(film.curves) == ["without a transformer", "with a transformer"]


@pytest.mark.slow
def test_classifier_learns_faster_with_a_transformer(digits):
    items, result = drain(train_classifiers(DigitData(*digits), steps=500, every=500))
    assert result.accuracy["transformer"] > result.accuracy["plain"] + 0.1
    assert result.accuracy["transformer"] > 0.4
    assert items[-1].loss["transformer"] < items[-1].loss["plain"]


# -- films


def replay(**changes):
    frames = np.random.default_rng(0).random((5, 12, 20))
    curves = {"loss": np.array([[0, 4.0], [10, 2.0], [40, 1.0]]), "validation": np.array([[10, 3.0], [40, 2.5]])}
    values = {"frames": frames, "times": np.array([0.0, 10, 20, 30, 40]), "curves": curves, **changes}
    return Replay(**values)


def test_curves_are_interpolated_between_epochs():
    assert replay().at(2)["loss"] == pytest.approx(2 - 1 / 3)
    assert replay().at(4) == {"loss": 1.0, "validation": 2.5}


def test_time_layer_contains_the_replay():
    data, keywords, kind = replay().layer()
    assert kind == "image"
    assert data.shape == (5, 12, 20)
    assert keywords["axis_labels"] == ("t", "y", "x")
    record = keywords["metadata"]["stnreg_replay"]
    assert record["times"] == replay().times.tolist()
    assert record["curves"]["loss"] == replay().curves["loss"].tolist()
    assert keywords["name"] == "training (replay)"


def test_gif_contains_every_image_and_a_moving_marker(tmp_path):
    replay().save(tmp_path / "film.gif", seconds=0.1)
    film = iio.imread(tmp_path / "film.gif")
    assert film.shape == (5, *replay().render().shape[1:])
    assert np.abs(film[:, :100].astype(int) - replay().render()[:, :100]).mean() < 12  # 256 colors
    dots = [np.argwhere((strip == 255).all(axis=-1))[:, 1].mean() for strip in replay().render()[:, -120:]]
    assert (np.diff(dots) > 0).all()


def test_fixed_image_is_next_to_every_frame():
    fixed = np.random.default_rng(1).random((12, 20))
    plain, film = replay().render(), replay(fixed=fixed).render(width=640)
    assert film.shape[2] > 2 * 20 * 15
    left, right = film[:, 18:160, :300], film[:, 18:160, 304 + 20 : 600]
    assert (left == left[:1]).all()
    assert left.std() > 20
    assert np.abs(np.diff(right.astype(int), axis=0)).mean() > 20
    assert plain.shape[2] < film.shape[2]
    with pytest.raises(InputError, match="shape"):
        replay(fixed=fixed[1:])


def test_film_shows_middle_slices_and_keeps_colors():
    volume = np.zeros((5, 3, 12, 20))
    volume[:, 1] = np.random.default_rng(0).random((5, 12, 20))
    assert np.array_equal(replay(frames=volume).render()[:, :100], replay(frames=volume[:, 1]).render()[:, :100])
    assert replay(frames=volume).layer()[1]["axis_labels"] == ("t", "z", "y", "x")
    red = np.zeros((5, 12, 20, 3), dtype=np.uint8)
    red[..., 0] = 200
    assert (replay(frames=red).render()[:, :100] == [200, 0, 0]).all()
    data, keywords, _ = replay(frames=red).layer()
    assert keywords["rgb"]
    assert keywords["axis_labels"] == ("t", "y", "x")
    assert data.shape == (5, 12, 20, 3)


def test_mp4_is_written_if_ffmpeg_is_installed(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    replay().save(tmp_path / "film.mp4")
    assert (tmp_path / "film.mp4").stat().st_size > 1000


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"frames": np.zeros((0, 4, 4)), "times": np.zeros(0)}, "kept no images"),
        ({"times": np.zeros(3)}, "5 images and 3"),
    ],
)
def test_replay_without_images_is_refused(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        replay(**changes)


def test_unsupported_film_suffix_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"\.gif or \.mp4"):
        replay().save(tmp_path / "film.avi")


def test_generators_are_recorded_and_stopped():
    def counting():
        for i in range(100):
            if (yield i) == "stop":
                return "stopped"
        return "done"

    kept = []
    steps = record_frames(
        counting(), lambda i: np.full((4, 4), i) if i % 2 == 0 else None, float, lambda i: {"loss": 1 / (i + 1)}, kept
    )
    items, outcome = drain(steps, stop_after=7)
    assert items == list(range(7))
    assert outcome == "stopped"
    film = Replay.from_frames(kept, "counting")
    assert film.times.tolist() == [0, 2, 4, 6]
    assert film.frames[:, 0, 0].tolist() == [0, 2, 4, 6]
    assert film.at(1)["loss"] == pytest.approx(1 / 3)
    with pytest.raises(InputError, match="Nothing"):
        Replay.from_frames([], "nothing")
