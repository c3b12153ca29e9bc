"""The package as others meet it: its manifest, what a wheel holds, and what an import costs."""

import os
import re
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from npe2 import PluginManifest

import napari_stnreg as sr

ROOT = Path(__file__).parents[1]
MANIFEST = ROOT / "src" / "napari_stnreg" / "napari.yaml"


def test_commands_of_the_manifest_import():
    PluginManifest.from_file(MANIFEST).validate_imports()


def test_manifest_lists_menus_samples_and_settings():
    manifest = PluginManifest.from_file(MANIFEST)
    contributions = manifest.contributions
    assert manifest.display_name == "STN registration"
    menu = [item.command for item in contributions.menus["napari/layers/register"]]
    assert menu[0] == "napari-stnreg.register"
    assert not {"napari-stnreg.explore", "napari-stnreg.classifier"} & set(menu), "teaching tools have their own menus"
    assert manifest.icon is not None
    assert {sample.key for sample in contributions.sample_data} == {"shapes", "digit", "head", "sections"}
    assert not contributions.configurations, "panels remember their settings in one place"
    titles = {command.id: command.title for command in contributions.commands}
    for widget in contributions.widgets:
        assert titles[widget.command] == widget.display_name
    ids = [command.id for command in contributions.commands]
    assert len(ids) == len(set(ids)), "a command that is there twice keeps napari from starting the plugin"
    assert len(menu) == len(set(menu))
    commands = set(ids)
    assert {widget.command for widget in contributions.widgets} <= commands


def test_every_panel_has_one_name_three_steps_and_a_page():
    pytest.importorskip("qtpy")
    from importlib import import_module

    manifest = PluginManifest.from_file(MANIFEST)
    places = {command.id: command.python_name for command in manifest.contributions.commands}
    for widget in manifest.contributions.widgets:
        module, name = places[widget.command].split(":")
        panel = getattr(import_module(module), name)
        assert panel.title == widget.display_name, name
        assert len(panel.introduction) == 3, name
        assert (ROOT / "docs" / panel.help_page).with_suffix(".md").is_file(), panel.help_page


def test_wheel_contains_manifest_marker_and_sample_data(tmp_path):
    if find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entries = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    files = ("napari.yaml", "py.typed", "__init__.pyi", "batch/summary.html.jinja", "sample_data/head_fixed.nii.gz")
    for name in (*files, "_version.py"):
        assert f"napari_stnreg/{name}" in names
    assert not any(name.startswith(("tests", "benchmark")) for name in names)
    assert "[napari.manifest]" in entries
    assert "stnreg = napari_stnreg.cli:main" in entries


@pytest.mark.parametrize(
    "module",
    [
        "core.image",
        "core.device",
        "core.linalg",
        "io",
        "napari_plugin.readers",
        "datasets",
        "napari_plugin.sample_data",
    ],
)
def test_modules_import_without_qt_napari_and_torch(module):
    code = f"import sys, napari_stnreg.{module}; print(*{{n.split('.')[0] for n in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"qtpy", "PyQt6", "PySide6", "napari", "torch", "magicgui"} & set(loaded)


def test_package_import_is_fast_and_loads_no_heavy_module():
    code = (
        "import sys, time; start = time.perf_counter(); import napari_stnreg; "
        "print(time.perf_counter() - start, *{n.split('.')[0] for n in sys.modules})"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
        for _ in range(3)
    ]
    assert min(float(words[0]) for words in runs) < 0.1
    assert not {"numpy", "torch", "napari", "qtpy", "pydantic"} & set(runs[0])


def test_public_names_exist_and_are_listed_once():
    stub = (ROOT / "src" / "napari_stnreg" / "__init__.pyi").read_text(encoding="utf-8")
    names = re.findall(r"import (\w+) as (\w+)$", stub, re.MULTILINE)
    assert all(name == alias for name, alias in names)
    assert sorted({name for name, _ in names}) == sorted(sr.__all__)
    assert len(names) == len(sr.__all__)
    for name in sr.__all__:
        assert getattr(sr, name) is not None


@pytest.mark.slow
def test_user_script_passes_strict_type_checks(tmp_path):
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file=", "--cache-dir"]
    command += [str(tmp_path), str(ROOT / "tests" / "user_script.py")]
    ran = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_options_of_functions_are_the_fields_of_their_settings():
    from typing import get_type_hints

    from napari_stnreg.registration.settings import RegistrationOptions
    from napari_stnreg.stacks.api import StackOptions
    from napari_stnreg.training.api import TrainingOptions

    pairs = (
        (RegistrationOptions, sr.RegistrationSettings, {"model"}),
        (StackOptions, sr.StackSettings, set()),
        (TrainingOptions, sr.TrainingSettings, {"warm_start"}),
    )
    for options, settings, parameters in pairs:
        assert set(get_type_hints(options)) == set(settings.model_fields) - parameters
