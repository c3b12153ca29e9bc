"""The classifier's panel, with the real training, a few steps of it."""

import imageio.v3 as iio
import numpy as np
import pytest

from tests.helpers.napari_user import open_from_menu

pytest.importorskip("sklearn")


@pytest.fixture
def panel(viewer):
    made = open_from_menu(viewer, "classifier")
    made.steps.setValue(20)
    return made


def test_training_shows_both_and_leaves_a_film(panel, viewer, qtbot, tmp_path):
    assert panel.train()
    qtbot.waitUntil(lambda: not panel.running, timeout=120_000)
    assert "classified correctly" in panel.status.text()
    bar = panel.replay_bar
    assert bar.layer in viewer.layers
    assert len(bar.replay.frames) == len(bar.layer.data) > 3
    assert set(panel.accuracies) == {"without a transformer", "with a transformer"}
    bar.slider.setValue(1)
    assert viewer.dims.current_step[0] == 1
    assert bar.words.text().startswith(f"Step {bar.replay.times[1]:g}")
    bar.save_to(tmp_path / "film.gif")
    assert len(iio.imread(tmp_path / "film.gif")) == len(bar.replay.frames)


def test_a_folder_without_digits_is_answered_by_a_sentence(panel, qtbot, tmp_path, monkeypatch):
    from napari_stnreg.widgets.common import task_panel

    monkeypatch.setattr(task_panel, "show_error", lambda text: None)
    panel.set_folder(tmp_path)
    panel.train()
    qtbot.waitUntil(lambda: not panel.running, timeout=60_000)
    assert "has neither" in panel.status.text()
    assert panel.train_button.isEnabled()


def test_stop_keeps_what_was_learned(panel, qtbot):
    panel.steps.setValue(2000)
    panel.train()
    qtbot.waitUntil(lambda: bool(panel.accuracies), timeout=60_000)
    panel.stop()
    qtbot.waitUntil(lambda: not panel.running, timeout=60_000)
    assert panel.replay_bar.replay is not None
    assert np.isfinite(panel.replay_bar.replay.frames).all()
