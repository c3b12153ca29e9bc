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
    assert set(panel.accuracies) == set(panel.curves.curves()) == {"without a transformer", "with a transformer"}
    assert panel.curves.isVisibleTo(panel)
    assert [panel.curves._plot.getAxis(side).labelText for side in ("bottom", "left")] == ["step", "accuracy"]
    bar.slider.setValue(1)
    assert panel.curves.marked == bar.replay.times[1]
    assert viewer.dims.current_step[0] == 1
    assert bar.words.text().startswith(f"Step {bar.replay.times[1]:g}")
    bar.save_to(tmp_path / "film.gif")
    assert len(iio.imread(tmp_path / "film.gif")) == len(bar.replay.frames)


def test_a_folder_without_digits_is_refused_with_a_message(panel, qtbot, tmp_path, monkeypatch):
    from napari_stnreg.widgets.common import task_panel

    monkeypatch.setattr(task_panel, "show_error", lambda text: None)
    panel.set_folder(tmp_path)
    panel.train()
    qtbot.waitUntil(lambda: not panel.running, timeout=60_000)
    assert "has neither" in panel.status.text()
    assert panel.train_button.isEnabled()


def test_stop_keeps_the_trained_weights(panel, qtbot):
    panel.steps.setValue(2000)
    panel.train()
    qtbot.waitUntil(lambda: bool(panel.accuracies), timeout=60_000)
    panel.stop()
    qtbot.waitUntil(lambda: not panel.running, timeout=60_000)
    assert panel.replay_bar.replay is not None
    assert np.isfinite(panel.replay_bar.replay.frames).all()


def test_deleted_rows_stay_away_and_other_layers_are_hidden_meanwhile(panel, viewer, qtbot):
    own = viewer.add_image(np.zeros((8, 8)), name="digits")
    panel.steps.setValue(400)
    panel.train()
    qtbot.waitUntil(lambda: len(viewer.layers) == 3, timeout=60_000)
    assert not own.visible
    for layer in [layer for layer in viewer.layers if layer is not own]:
        viewer.layers.remove(layer)
    before = len(panel.accuracies["with a transformer"])
    qtbot.waitUntil(
        lambda: not panel.running or len(panel.accuracies["with a transformer"]) > before + 1, timeout=60_000
    )
    assert not panel.running or len(viewer.layers) == 1
    np.testing.assert_array_equal(own.data, 0)
    panel.stop()
    qtbot.waitUntil(lambda: not panel.running, timeout=60_000)
    viewer.window.remove_dock_widget(panel)
    assert own.visible
    panel.deleteLater()


def test_closing_restores_the_layers_from_before(panel, viewer, qtbot):
    before = viewer.add_image(np.zeros((8, 8)), name="before")
    panel.train()
    qtbot.waitUntil(lambda: not panel.running, timeout=60_000)
    own = [layer for layer in viewer.layers if layer is not before]
    assert len(own) == 2
    viewer.window.remove_dock_widget(panel)
    assert before.visible
    assert not any(layer.visible for layer in own)
    panel.deleteLater()
