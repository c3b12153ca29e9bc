"""Every script and notebook of ``examples/`` runs, and says what it should."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

QUICK = {
    "register_two_images": (["--family", "affine"], r"landmark error: ([\d.]+) um before, ([\d.]+) after"),
    "theta_by_hand": ([], r"loss ([\d.]+) before, ([\d.]+) after"),
    "pooling_and_shifts": (["--steps", "10"], r"change of the pooled features"),
    "classifier": (["--steps", "4", "--film", "film.gif"], r"saved film.gif"),
    "train_and_load": (["--epochs", "2", "--pairs", "12"], r"refined by 20 steps"),
    "lightning_loop": (["--epochs", "10"], r"difference ([\d.]+) before, ([\d.]+) after"),
    "monai_torchio_data": (["--epochs", "2"], r"trained at 16 x 16 x 16, 2 x 2 x 2 mm, Dice 0\.[5-9]"),
    "align_sections": (["--sections", "4"], r"neighbors: ([\d.]+) before, ([\d.]+) after"),
}


NEEDS = {"lightning_loop": "lightning", "monai_torchio_data": "monai"}
"""Packages that are not installed with this one."""


def test_every_script_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_example_runs(name, tmp_path):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    words, expected = QUICK[name]
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=170, env=environment)
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = re.search(expected, ran.stdout)
    assert found, ran.stdout
    if name in ("register_two_images", "theta_by_hand", "lightning_loop"):
        before, after = map(float, found.groups())
        assert after < 0.5 * before


@pytest.mark.slow
def test_notebooks_run(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    monkeypatch.setenv("STNREG_QUICK", "1")  # short trainings in the lecture
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        client = nbclient.NotebookClient(notebook, timeout=150, resources={"metadata": {"path": str(tmp_path)}})
        client.execute()
        assert any(cell.get("outputs") for cell in notebook.cells)
