"""The documentation: its Python runs, its commands have existing options, and its links lead somewhere."""

import ast
import re
import runpy
import shlex
import textwrap
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "decisions" not in page.parts]
RUN = (
    "README.md",
    "index.md",
    "two-layers.md",
    "doubtful.md",
    "stains.md",
    "landmarks.md",
    "networks.md",
    "own-networks.md",
)
"""Pages whose Python is executed, in one namespace for each page."""


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the code blocks of a page in one of the languages."""
    found = re.finditer(r"^( *)```(\w*)\n(.*?)^\1```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(match[3]) for match in found if match[2] in languages]


def commands() -> list[tuple[str, str]]:
    """Return every ``stnreg`` command of the documentation with the name of its page."""
    found = []
    for page in PAGES:
        for block in blocks(page, "sh", "bash", ""):
            for line in block.replace("\\\n", " ").splitlines():
                command = re.sub(r"\s#.*| -?>.*", "", line).strip()
                if command.startswith("stnreg "):
                    found.append((page.name, command))
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_python_of_a_page_compiles(page):
    for block in blocks(page, "python"):
        ast.parse(block)


@pytest.mark.parametrize("name", RUN)
def test_python_of_a_page_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sample_data").symlink_to(ROOT / "sample_data")
    (page,) = [page for page in PAGES if page.name == name]
    code = blocks(page, "python")
    assert code
    namespace: dict[str, object] = {}
    for block in code:
        exec(compile(block, str(page), "exec"), namespace)
    printed = capsys.readouterr().out
    if "result.verdict" in "".join(code):
        assert "good" in printed


def test_options_of_commands_exist():
    from napari_stnreg.cli.app import app

    assert len(commands()) > 20
    wrong = []
    for page, command in commands():
        words = [word for word in shlex.split(command)[1:] if word != "--help"]
        try:
            app.parse_args([*words], exit_on_error=False, print_error=False)
        except Exception as error:
            # A file that does not exist here is fine, an option that does not exist is not.
            if type(error).__module__.startswith("cyclopts"):
                wrong.append(f"{page}: {command}: {error}")
    assert not wrong, "\n".join(wrong)


def test_links_of_the_front_page_lead_to_readable_pages():
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"):
        for link in re.findall(r"\]\(([^)#\s]+)", (ROOT / name).read_text(encoding="utf-8")):
            if not link.startswith("http"):
                target = ROOT / link
                assert target.exists(), f"{name}: {link}"
                if target.suffix == ".md":
                    assert "{{" not in target.read_text(encoding="utf-8"), f"{name} links to {link}, which has tags"


def test_reference_lists_every_public_name():
    stub = (ROOT / "src" / "napari_stnreg" / "__init__.pyi").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    public = re.findall(r"^from \.([\w.]+) import (\w+) as", stub, re.MULTILINE)
    assert len(public) > 40
    missing = [name for module, name in public if module not in ("_version", "core.errors")
               and not re.search(rf"^::: napari_stnreg\.[\w.]+\.{name}$", page, re.MULTILINE)]  # fmt: skip
    assert not missing, f"not in docs/reference/python.md: {', '.join(missing)}"


def test_every_network_is_drawn(tmp_path, monkeypatch):
    from napari_stnreg.networks.registry import NETWORKS

    script = ROOT / "docs" / "pictures" / "architectures.py"
    monkeypatch.setattr("sys.argv", [str(script), "--out", str(tmp_path)])
    runpy.run_path(str(script), run_name="__main__")
    drawn = {path.stem.removeprefix("network_") for path in tmp_path.glob("*.svg")}
    assert set(NETWORKS) <= drawn
    page = (ROOT / "docs" / "explanation" / "networks.md").read_text(encoding="utf-8")
    for name in NETWORKS:
        assert f"network_{name}.svg" in page, f"the page on networks has no drawing of '{name}'"
        assert (ROOT / "docs" / "images" / f"network_{name}.svg").exists()


def test_menu_entries_exist():
    manifest = yaml.safe_load((ROOT / "src" / "napari_stnreg" / "napari.yaml").read_text(encoding="utf-8"))
    contributions = manifest["contributions"]
    samples = {one["display_name"] for one in contributions["sample_data"]}
    panels = {one["display_name"] for one in contributions["widgets"]}
    entries = [
        (page.name, menu, entry)
        for page in [*PAGES, ROOT / ".napari-hub" / "DESCRIPTION.md"]
        for menu, entry in re.findall(
            r"\*\*(File > Open Sample > STN registration|Layers > \w+) > ([^*]+)\*\*", page.read_text(encoding="utf-8")
        )
    ]
    assert len(entries) > 15
    wrong = [one for one in entries if one[2] not in (samples if one[1].startswith("File") else panels)]
    assert not wrong, wrong
