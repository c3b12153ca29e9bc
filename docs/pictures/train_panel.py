"""Drive the training panel as a person would and take pictures: ``python docs/pictures/train_panel.py [SCENE ...]``.

Needs a display with OpenGL. Each scene trains on generated drifting digits, pauses, stops, saves, replays how the
network learned, and registers two sections with the model, in a process of its own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from driving import Stage, pump, run_scenes

# name: network, theme, width of the dock, Qt's scale, whether the advanced settings are unfolded
SCENES: dict[str, tuple[str, str, int, float, bool]] = {
    "train": ("affine", "dark", 340, 1.0, False),
    "train_light": ("affine", "light", 340, 1.0, False),
    "train_narrow": ("dirnet", "dark", 300, 1.0, True),
    "train_scaled": ("affine+voxelmorph", "light", 320, 1.5, False),
    "train_matching": ("matching", "light", 300, 1.0, False),
}


def drifting(count: int = 24, size: int = 64) -> np.ndarray:
    """The sample digit in many poses, ``(count, size, size)``."""
    from napari_stnreg import Grid, Image, warp
    from napari_stnreg.napari_plugin import sample_data
    from napari_stnreg.transforms import AffineTransform

    data = np.asarray(sample_data.napari_sample_digit()[0][0], dtype=np.float32)
    data = data if data.ndim == 2 else data[..., :3].mean(axis=-1)
    grid = Grid.from_spacing(data.shape)
    coarse = grid.resized((size, size))
    random = np.random.default_rng(0)
    frames = []
    for _ in range(count):
        angle, scale = np.deg2rad(random.uniform(-20, 20)), random.uniform(0.85, 1.2)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = np.eye(3)
        matrix[:2, :2] = turn
        shift = random.uniform(-0.08, 0.08, 2) * np.asarray(data.shape)
        matrix[:2, 2] = grid.center - turn @ grid.center + shift
        frames.append(warp(Image(data, grid), AffineTransform(matrix), coarse).data)
    return np.stack(frames).astype(np.float32)


def scene(name: str, folder: Path, _: argparse.Namespace) -> None:
    """One scene, from the empty form to a registration with the model."""
    from napari_stnreg.widgets.models.session import SESSION

    network, theme, width, scale, unfolded = SCENES[name]
    stage = Stage(name, folder, theme, width, scale)
    viewer = stage.viewer
    frames = drifting()
    viewer.add_image(frames, name="digits", axis_labels=("image", "y", "x"))
    panel = stage.dock("Train STN model")
    panel.options.set_values({"network": network, "epochs": 400, "batch_size": 8, "device": "cpu"})
    panel.keeping.name_box.setText("digits")
    if unfolded:
        stage.expand([panel.options.advanced])
    viewer.reset_view()
    stage.picture("before")
    panel.train_button.click()
    pump(300, lambda: len(panel.plot.shown[1]) > 12 or not panel.running)
    stage.picture("during")
    panel.pause_button.click()
    pump(60, lambda: "paused" in panel.status.text() or not panel.running)
    stage.picture("paused")
    panel.pause_button.click()
    pump(120, lambda: len(panel.plot.shown[1]) > 40 or not panel.running)
    panel.stop_button.click()
    pump(120, lambda: not panel.running)
    stage.picture("after", wait=1.5)
    panel.save(str(Path(tempfile.mkdtemp()) / "digits.safetensors"))
    panel.replay_button.click()
    pump(30, lambda: not panel.running)
    pump(1.0)
    panel.replay_bar.slider.setValue(panel.replay_bar.slider.maximum() // 3)
    stage.picture("replay")
    panel.options.start_box.take(SESSION.entries[-1])
    panel.scroll_area.verticalScrollBar().setValue(0)
    stage.picture("begin_at")
    viewer.window.remove_dock_widget(panel)
    viewer.layers.clear()
    for number in (0, 1):
        viewer.add_image(frames[number], name=f"digit {number}")
    viewer.layers.selection = set(viewer.layers)
    registering = stage.dock("STN registration")
    registering.options.model.box.setCurrentText("digits")
    registering.options.model.refine_box.setChecked(True)
    registering.options.model.steps_box.setValue(20)
    pump(0.5)
    viewer.reset_view()
    stage.picture("model")
    registering.register_button.click()
    pump(120, lambda: not registering.running)
    stage.picture("registered")
    sys.stdout.write(f"{name}: {registering.status.text()} {registering.result.scores}\n")
    viewer.close()


if __name__ == "__main__":
    run_scenes(__doc__, {name: how[3] for name, how in SCENES.items()}, scene)
