"""The package as others meet it: its manifest, what a wheel holds, and what an import costs."""

import ast
import subprocess
import sys
import zipfile
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import pytest
from npe2 import PluginManifest

ROOT = Path(__file__).parents[1]
MANIFEST = ROOT / "src" / "napari_stnreg" / "napari.yaml"


def test_every_command_of_the_manifest_can_be_imported():
    PluginManifest.from_file(MANIFEST).validate_imports()


def test_the_manifest_offers_what_the_menus_promise():
    manifest = PluginManifest.from_file(MANIFEST)
    contributions = manifest.contributions
    assert manifest.display_name == "STN registration"
    menu = [item.command for item in contributions.menus["napari/layers/register"]]
    assert menu[0] == "napari-stnreg.register"
    assert "napari-stnreg.explore" in menu
    assert {sample.key for sample in contributions.sample_data} == {"shapes", "digit", "head", "sections"}
    assert set(contributions.configurations["registration"].properties) == {"device", "preset", "preview_rate"}
    ids = [command.id for command in contributions.commands]
    assert len(ids) == len(set(ids)), "a command that is there twice keeps napari from starting the plugin"
    assert len(menu) == len(set(menu))
    commands = set(ids)
    assert {widget.command for widget in contributions.widgets} <= commands


def test_the_wheel_holds_manifest_marker_and_sample_data(tmp_path):
    if find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entries = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    for name in ("napari.yaml", "py.typed", "_version.py", "sample_data/head_fixed.nii.gz"):
        assert f"napari_stnreg/{name}" in names
    assert not any(name.startswith(("tests", "benchmark")) for name in names)
    assert "[napari.manifest]" in entries
    assert "stnreg = napari_stnreg.cli:main" in entries


@pytest.mark.parametrize("module", ["images", "files", "files.napari_plugin", "samples", "samples.layers"])
def test_these_rooms_need_neither_qt_nor_napari_nor_torch(module):
    code = f"import sys, napari_stnreg.{module}; print(*{{n.split('.')[0] for n in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"qtpy", "PyQt6", "PySide6", "napari", "torch", "magicgui"} & set(loaded)


def _imports(body):
    """Modules imported when a module is, without those that only a type checker sees."""
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            yield from _imports([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from _imports(node.body)


def _rooms(package=ROOT / "src" / "napari_stnreg"):
    """What each room of the package imports: names of modules, its own left out."""
    found = {}
    for path in package.rglob("*.py"):
        room = path.relative_to(package).with_suffix("").parts[0]
        for name in _imports(ast.parse(path.read_text(encoding="utf-8")).body):
            if not name.startswith(f"napari_stnreg.{room}."):
                found.setdefault(room, set()).add(name)
    return found


def test_imports_point_down():
    rooms = _rooms()
    graph = {
        room: {name.split(".")[1] for name in names if name.startswith("napari_stnreg.")} & set(rooms) - {room}
        for room, names in rooms.items()
    }
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError with the rooms that import each other
    assert not {"widgets", "cli"} & set().union(*graph.values()), "the faces are imported by nothing"
    assert order.index("images") < order.index("transforms") < order.index("fitting") < order.index("registration")


def test_only_the_widgets_know_qt_and_napari():
    foreign = ("napari.", "qtpy", "PyQt", "PySide", "superqt", "magicgui", "pyqtgraph")
    for room, names in _rooms().items():
        known = sorted(name for name in names if f"{name}.".startswith(foreign))
        assert room in ("widgets", "demo") or not known, f"{room} imports {known}"
