"""Check that the engine works where napari and Qt are absent.

``python check_engine.py --requirements pyproject.toml`` prints the requirements of the engine: those of the package
without the ones of the panels. Without arguments, and with the Python of an environment that has only these, every
module outside the panels is imported, a pair is registered in Python, and another one on the command line.
"""

from __future__ import annotations

import pkgutil
import subprocess
import sys
import tempfile
import tomllib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

PANEL_REQUIREMENTS = {"napari", "magicgui", "qtpy", "superqt", "pyqtgraph"}
PANEL_PACKAGES = ("widgets", "napari_plugin", "demo")
OPTIONAL = {"sklearn", "nitransforms", "bioio", "distributed", "imageio_ffmpeg"}


def engine_requirements(pyproject: Path) -> list[str]:
    """Return the requirements of the package without those of the panels."""
    found = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    names = {one: one.split("[")[0].split(">")[0].split("=")[0].split("<")[0].strip().lower() for one in found}
    missing = PANEL_REQUIREMENTS - set(names.values())
    assert not missing, f"{missing} are no requirements of the package; correct PANEL_REQUIREMENTS"
    return [one for one in found if names[one] not in PANEL_REQUIREMENTS]


def check_imports() -> int:
    """Import every module of the engine and return their number."""
    import napari_stnreg

    for name in ("napari", "qtpy", "superqt", "magicgui", "pyqtgraph"):
        assert find_spec(name) is None, f"{name} is installed; this environment does not test its absence"
    count = 0
    for module in pkgutil.walk_packages(napari_stnreg.__path__, "napari_stnreg.", onerror=lambda name: None):
        if module.name.split(".")[1] in PANEL_PACKAGES or module.name.endswith("__main__"):
            continue
        try:
            import_module(module.name)
        except ModuleNotFoundError as error:
            if str(error.name).split(".")[0] not in OPTIONAL:
                raise
        count += 1
    return count


def check_registration() -> None:
    """Register a generated pair in Python and a file pair on the command line."""
    import numpy as np

    import napari_stnreg as sr

    y, x = np.mgrid[:64, :64]
    fixed = np.exp(-((y - 30) ** 2 / 60 + (x - 28) ** 2 / 140)) + 0.5 * np.exp(-((y - 44) ** 2 + (x - 46) ** 2) / 20)
    moving = np.roll(fixed, (4, -3), axis=(0, 1))
    result = sr.register(fixed, moving, family="translation", device="cpu", seed=0)
    shift = result.transform.map_points([[32.0, 32.0]])[0] - 32
    assert np.abs(shift - [4, -3]).max() < 0.2, shift
    print(f"sr.register: shift {shift.round(2)}, true (4, -3)")
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/fixed.npy", fixed)
        np.save(f"{folder}/moving.npy", moving)
        command = [sys.executable, "-m", "napari_stnreg.cli", "register", "fixed.npy", "moving.npy", "-o", "out",
                   "--family", "translation", "--device", "cpu"]  # fmt: skip
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=170)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (Path(folder) / "out" / "transform.safetensors").is_file()
    print("stnreg register: works")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--requirements"]:
        print("\n".join(engine_requirements(Path(sys.argv[2]))))
    else:
        print(f"{check_imports()} modules import without napari and Qt")
        check_registration()
        print("The engine works without napari.")
