"""What the drivers of the panels share: a viewer with a dock, time for the window to work, pictures, a process a scene.

Theme and scaling are set before Qt starts, hence a process of its own for each scene.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def pump(seconds: float, until: Callable[[], bool] | None = None) -> None:
    """Let the window work for some time, or until something is true."""
    from qtpy.QtWidgets import QApplication

    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline and not (until is not None and until()):
        QApplication.processEvents()
        time.sleep(0.002)


class Stage:
    """A viewer that a scene is played in.

    Parameters
    ----------
    name
        The scene; the pictures' names begin with it.
    folder
        Where the pictures go; made when there is one.
    theme
        napari's theme.
    width
        Of the docks.
    scale
        Qt's scale, by which the window shrinks so that it fills the same screen.
    size
        Of the window on the screen.
    """

    def __init__(
        self, name: str, folder: Path, theme: str, width: int, scale: float = 1.0, size: tuple[int, int] = (1400, 900)
    ) -> None:
        import napari

        self.name, self.folder, self.width = name, folder, width
        self.viewer: Any = napari.Viewer(show=True)
        self.viewer.theme = theme
        self._window = self.viewer.window._qt_window
        self._window.resize(round(size[0] / scale), round(size[1] / scale))

    def dock(self, title: str) -> Any:
        """Open a panel by its title in the manifest, and return it."""
        from qtpy.QtCore import Qt

        from napari_stnreg.widgets.dock.hint import FirstSteps

        docked, panel = self.viewer.window.add_plugin_dock_widget("napari-stnreg", title)
        for steps in panel.findChildren(FirstSteps):
            steps.dismiss()
        self._window.resizeDocks([docked], [self.width], Qt.Orientation.Horizontal)
        pump(1.0)
        return panel

    def expand(self, sections: Iterable[Any]) -> None:
        """Open collapsed parts of a form."""
        for section in sections:
            section.expand(animate=False)
        pump(2.0)

    def picture(self, moment: str = "", wait: float = 0.3) -> None:
        """The whole window as ``NAME_MOMENT.png``."""
        pump(wait)
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = f"{self.name}_{moment}" if moment else self.name
        self.viewer.screenshot(str(self.folder / f"{stem}.png"), canvas_only=False, flash=False)


def run_scenes(
    about: str | None,
    scales: Mapping[str, float],
    play: Callable[[str, Path, argparse.Namespace], None],
    options: Mapping[str, type] | None = None,
) -> None:
    """The command line of a driver: play the scenes that are named, or all.

    Parameters
    ----------
    about
        The driver's docstring.
    scales
        Qt's scale of each scene.
    play
        Plays a scene; takes its name, the folder of the pictures, and what was written.
    options
        What else can be written, by name.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("scenes", nargs="*", default=list(scales))
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "pictures-output")
    parser.add_argument("--here", action="store_true", help="run one scene in this process")
    for name, kind in (options or {}).items():
        parser.add_argument(f"--{name}", type=kind)
    written = parser.parse_args()
    if written.here:
        play(written.scenes[0], written.out, written)
        return
    more = [word for name in options or {} if (value := getattr(written, name)) is not None
            for word in (f"--{name}", str(value))]  # fmt: skip
    for name in written.scenes:
        # A folder of settings for each: what one scene chose must not be remembered in the next.
        settings = Path(tempfile.mkdtemp()) / "settings.yaml"
        command = [sys.executable, sys.argv[0], name, "--here", "--out", str(written.out), *more]
        there = {"QT_SCALE_FACTOR": str(scales[name]), "NAPARI_CONFIG": str(settings)}
        subprocess.run(command, check=True, env=os.environ | there)
