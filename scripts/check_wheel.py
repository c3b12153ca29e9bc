"""Check an installed wheel: every panel and every sample opens in napari, and the command line registers a pair.

Run with the Python of the environment that the wheel is installed in, outside the source tree.
"""

import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import napari
import npe2
from napari._app_model import get_app_model
from napari.utils.notifications import NotificationSeverity, notification_manager
from qtpy.QtTest import QTest

import napari_stnreg

PLUGIN = "napari-stnreg"
FOLDER = Path(sys.prefix)
EVENTS_MS = 300
"""Time for what a panel does after it was opened."""


def errors() -> list[str]:
    """Return the errors that napari has shown."""
    return [one.message for one in notification_manager.records if one.severity >= NotificationSeverity.WARNING]


def check_place() -> None:
    """The package is the installed one, complete and without what does not belong into it."""
    home = Path(napari_stnreg.__file__)
    assert "site-packages" in home.parts, home
    assert home.is_relative_to(FOLDER), home
    assert napari_stnreg.__version__ == version(PLUGIN)
    assert not (home.parent.parent / "tests").exists()
    print(f"{PLUGIN} {napari_stnreg.__version__} in {home.parent}")


def check_napari() -> None:
    """Open every sample, and every panel by its menu command."""
    manager = npe2.PluginManager.instance()
    manager.discover()
    contributions = manager.get_manifest(PLUGIN).contributions
    assert len(contributions.widgets) >= 9
    viewer = napari.Viewer()
    for sample in contributions.sample_data:
        viewer.layers.clear()
        layers = viewer.open_sample(PLUGIN, sample.key)
        assert layers, sample.key
        print(f"sample {sample.key}: {', '.join(layer.name for layer in layers)}")
    viewer.open_sample(PLUGIN, contributions.sample_data[0].key)
    for widget in contributions.widgets:
        began = time.perf_counter()
        get_app_model().commands.execute_command(widget.command).result()
        seconds = time.perf_counter() - began
        QTest.qWait(EVENTS_MS)
        (panel,) = (w for name, w in viewer.window.dock_widgets.items() if name.startswith(f"{widget.display_name} ("))
        assert panel.isVisible(), widget.command
        assert not errors(), errors()
        print(f"panel {widget.display_name}: {seconds:.2f} s")
        viewer.window.remove_dock_widget(panel)
    viewer.close()


def run(*arguments: str) -> str:
    """Run the installed command and return what it prints."""
    command = [str(FOLDER / ("Scripts" if sys.platform == "win32" else "bin") / "stnreg"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def check_command() -> None:
    """``stnreg`` shows its help and version, and registers the sample pair."""
    assert "register" in run("--help")
    assert napari_stnreg.__version__ in run("--version")
    samples = files("napari_stnreg") / "sample_data"
    with tempfile.TemporaryDirectory() as folder:
        pair = [str(samples / f"digit_{side}.png") for side in ("fixed", "moving")]
        run("register", *pair, "-o", folder, "--preset", "fast", "--device", "cpu")
        scores = json.loads((Path(folder) / "report.json").read_text())["scores"]
        assert scores["after"]["ncc"] > 0.9 > scores["before"]["ncc"], scores
        assert (Path(folder) / "transform.safetensors").is_file()
    print(f"stnreg register: NCC {scores['before']['ncc']:.3f} before, {scores['after']['ncc']:.3f} after")


if __name__ == "__main__":
    check_place()
    check_napari()
    check_command()
    print("The wheel works.")
