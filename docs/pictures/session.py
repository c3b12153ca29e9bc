"""A user's session with files, played in a real window: ``python docs/pictures/session.py --data FOLDER [SCENE ...]``.

Needs a display with OpenGL (``make pictures`` brings one). Two heads (NIfTI) and a pair of stains (JPEG with landmarks
as CSV) are taken from the folder; a scene without its files is left out. The OME-TIFF with channels and the movie are
made here. Files are dropped on the window; then the panels are worked as a user does, with a picture of each step.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from driving import Stage, pump, run_scenes

PATIENCE = 900


@dataclass(frozen=True)
class Look:
    """How a scene is shown: what is played, theme, width of the dock, Qt's scale, size of the window, dimensions."""

    play: str
    theme: str = "dark"
    width: int = 340
    scale: float = 1.0
    size: tuple[int, int] = (1400, 900)
    ndisplay: int = 2


SCENES = {
    "heads": Look("heads"),
    "heads_volume": Look("heads", "light", ndisplay=3),
    "stains": Look("stains"),
    "stains_narrow": Look("stains", "light", width=300, size=(1280, 720)),
    "place": Look("place", "light"),
    "place_volume": Look("place", width=300, size=(1280, 720), ndisplay=3),
    "channels": Look("channels", width=300, scale=1.5),
    "movie": Look("movie", "light", width=300),
}


def drop(viewer: Any, *paths: Path) -> None:
    """Drop files on the window."""
    from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
    from qtpy.QtGui import QDropEvent

    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    buttons = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    event = QDropEvent(QPointF(100, 100), Qt.DropAction.CopyAction, mime, *buttons)
    viewer.window._qt_viewer.dropEvent(event)
    pump(1.0)


def files(data: Path, pattern: str, number: int) -> list[Path]:
    """The first files of the data that match, or none if there are not enough."""
    found = sorted(data.rglob(pattern))
    return found[:number] if len(found) >= number else []


def register(stage: Stage, panel: Any) -> None:
    """Register with the fast preset, with a picture before, during and after."""
    panel.options.field("preset").set_current("fast")
    stage.picture("before")
    panel.start()
    pump(PATIENCE, lambda: panel.bar.value() > 250 or not panel.running)
    stage.picture("during")
    pump(PATIENCE, lambda: not panel.running)
    stage.picture("after", wait=1.5)


def show(stage: Stage, look: Look) -> None:
    """Show two or three dimensions, turned so that a volume is seen from the side."""
    stage.viewer.dims.ndisplay = look.ndisplay
    if look.ndisplay == 3:
        stage.viewer.scene.camera.angles = (0, 25, 60)
    pump(0.5)
    stage.viewer.reset_view()


def heads(stage: Stage, look: Look, data: Path) -> None:
    """Two heads of different people."""
    panel = stage.dock("STN registration")
    drop(stage.viewer, *files(data, "*T1.nii*", 2))
    panel.set_fixed(stage.viewer.layers[0])
    panel.set_moving(stage.viewer.layers[1])
    show(stage, look)
    register(stage, panel)
    panel.switch()
    stage.picture("switched")


def stains(stage: Stage, look: Look, data: Path) -> None:
    """Two stains and their landmarks: placed, warped live, an overlay, then landmarks and image together."""
    tables = files(data, "*CD31*.csv", 1) + files(data, "*Cc10*.csv", 1)
    images = files(data, "*CD31*.jpg", 1) + files(data, "*Cc10*.jpg", 1)
    drop(stage.viewer, *images)
    panel = stage.dock("Landmark registration")
    panel.set_layers(*stage.viewer.layers[:2])
    stage.picture("before")
    panel.place()
    pump(PATIENCE, lambda: panel._ready)
    stage.picture("placing")
    panel.load_files([str(table) for table in tables])
    panel.landmarks.family_box.set_current("tps")
    pump(60, lambda: panel.updates > 0)
    stage.picture("pairs", wait=2.0)
    panel.landmarks.view_box.set_current("overlay")
    stage.picture("overlay", wait=1.0)
    panel.add_result()
    pump(PATIENCE, lambda: not panel.running)
    stage.picture("result", wait=1.5)


def place(stage: Stage, look: Look, data: Path) -> None:
    """Place a head by hand, then open the registration that starts there."""
    panel = stage.dock("Place by hand")
    drop(stage.viewer, *files(data, "*T1.nii*", 2))
    panel.set_layers(*stage.viewer.layers[:2])
    show(stage, look)
    stage.picture("before")
    panel.place()
    panel.rotate(20)
    stage.picture("placed", wait=1.0)
    panel.register()
    stage.picture("register", wait=3.0)


def channels(stage: Stage, look: Look, _: Path) -> None:
    """Cells in two channels, registered by the first."""
    from scipy import ndimage

    from napari_stnreg.core.grid import Grid
    from napari_stnreg.core.image import Image
    from napari_stnreg.io.series import write_series

    random = np.random.default_rng(0)
    nuclei, membranes = (ndimage.gaussian_filter(random.random((300, 400)), s) for s in (6, 3))
    both = np.stack([one - one.min() for one in (nuclei, membranes)], axis=-1)
    both = (60000 * both / both.max(axis=(0, 1))).astype(np.uint16)
    folder = Path(tempfile.mkdtemp())
    for name, shift in (("day 1", 0), ("day 2", 9)):
        grid = Grid.from_spacing((300, 400), 0.5, unit="um")
        moved = np.roll(both, shift, axis=1)
        write_series(str(folder / f"{name}.ome.tif"), [Image(moved, grid, name=name)])
    panel = stage.dock("STN registration")
    stage.viewer.open([str(folder / "day 1.ome.tif"), str(folder / "day 2.ome.tif")], plugin="napari-stnreg")
    show(stage, look)
    panel.set_fixed(stage.viewer.layers[0])
    panel.set_moving(stage.viewer.layers[2])
    register(stage, panel)


def movie(stage: Stage, look: Look, _: Path) -> None:
    """A movie whose frames are registered to the first."""
    from scipy import ndimage

    picture = ndimage.gaussian_filter(np.random.default_rng(0).random((160, 200)), 4)
    frames = np.stack([ndimage.shift(picture, (np.sin(t), t), mode="wrap") for t in range(6)]).astype(np.float32)
    panel = stage.dock("STN registration")
    stage.viewer.add_image(frames, name="movie", axis_labels=("t", "y", "x"))
    pump(0.5)
    panel.set_fixed("movie")
    panel.set_moving("movie")
    panel.inputs.more.expand(animate=False)
    panel.inputs.frames_box.setChecked(True)
    register(stage, panel)


NEEDED = {"heads": "*T1.nii*", "place": "*T1.nii*", "stains": "*CD31*.csv"}


def scene(name: str, folder: Path, written: argparse.Namespace) -> None:
    """One scene, unless its files are missing."""
    look = SCENES[name]
    data = Path(written.data or ".")
    if look.play in NEEDED and not files(data, NEEDED[look.play], 1):
        sys.stdout.write(f"{name}: no {NEEDED[look.play]} in '{data}'; left out.\n")
        return
    stage = Stage(name, folder, look.theme, look.width, look.scale, look.size)
    {"heads": heads, "stains": stains, "place": place, "channels": channels, "movie": movie}[look.play](
        stage, look, data
    )
    stage.viewer.close()


if __name__ == "__main__":
    run_scenes(__doc__, {name: look.scale for name, look in SCENES.items()}, scene, {"data": str})
