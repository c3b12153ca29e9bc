"""What the site takes from the program itself: its command line, its settings, and formulas as MathML."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_MARK = re.compile(r"^\{\{ (\w+)(?: (\S+))? \}\}$", re.MULTILINE)
_FENCE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
_BLOCK, _INLINE = re.compile(r"\$\$(.+?)\$\$", re.DOTALL), re.compile(r"\$([^$\n]+)\$")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in what stands in double braces, then turn formulas into MathML, which needs no script."""
    markdown = _MARK.sub(_filled, markdown)
    parts = _FENCE.split(markdown)
    return "".join(part if i % 2 else _formulas(part) for i, part in enumerate(parts))


def _filled(match: re.Match[str]) -> str:
    makers = {
        "commands": _commands,
        "settings": _settings,
        "choices": _choices,
        "example": _example,
        "formats": _formats,
        "changelog": _changelog,
    }
    return makers[match.group(1)](match.group(2) or "")


def _formulas(text: str) -> str:
    from latex2mathml.converter import convert

    def block(match: re.Match[str]) -> str:
        return f'<div class="formula">{_tight(convert(" ".join(match[1].split()), display="block"))}</div>'

    # A line that begins with <math> would become a paragraph of its own; one that begins with <span> does not.
    return _INLINE.sub(lambda m: f"<span>{_tight(convert(m[1]))}</span>", _BLOCK.sub(block, text))


def _tight(mathml: str) -> str:
    """Remove the space around bars, which stand for absolute values here."""
    return re.sub(r"<mo[^>]*>(&#x0007C;|\|)</mo>", r'<mo stretchy="false" lspace="0" rspace="0">&#124;</mo>', mathml)


def _commands(_: str) -> str:
    from napari_stnreg.cli.app import COMMANDS, app, load_help

    for command in COMMANDS:
        load_help(command)
    # The name of the running program is not part of a usage line, and an asterisk is no emphasis.
    text = app.generate_docs(heading_level=2).replace(" -m mkdocs", "")
    return text.replace("*[default: *]*", "[default: `*`]")


def _settings(name: str) -> str:
    from importlib import import_module

    module, _, kind = name.rpartition(".")
    model = getattr(import_module(f"napari_stnreg.{module}"), kind)
    rows = ["| setting | default | what it does |", "|---|---|---|"]
    for field, info in model.model_fields.items():
        default = info.default_factory() if info.default_factory else info.default
        rows.append(f"| `{field}` | `{default!r}` | {_cell(info.description or '')} |")
    return "\n".join(rows)


def _choices(name: str) -> str:
    from importlib import import_module

    module, _, table = name.rpartition(".")
    held = getattr(import_module(f"napari_stnreg.{module}"), table)
    rows = ["| name | when to choose it |", "|---|---|"]
    rows += [f"| `{key}` | {_cell(getattr(value, 'description', value))} |" for key, value in held.items()]
    return "\n".join(rows)


def _formats(content: str) -> str:
    """The formats of images, transforms or points, with what is read and written of each."""
    from napari_stnreg.io.formats import FORMATS

    rows = ["| format | suffixes | read | lazily | written | conventions | library |", "|---|---|---|---|---|---|---|"]
    for one in FORMATS:
        if one.content != content:
            continue
        suffixes = ", ".join(f"`{suffix}`" for suffix in one.suffixes) or "a folder"
        written = "no"
        if one.written_suffixes:
            written = (
                "yes" if one.written_suffixes == one.suffixes else ", ".join(f"`{s}`" for s in one.written_suffixes)
            )
        library = one.library + (f" (extra `{one.extra}`)" if one.extra else "")
        cells = (one.name, suffixes, "yes" if one.reader else "no", one.lazy or "no", written, one.conventions, library)
        rows.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    return "\n".join(rows)


def _example(name: str) -> str:
    """A script of ``examples/``, which the tests run."""
    return f"```python\n{(ROOT / 'examples' / name).read_text(encoding='utf-8').strip()}\n```"


def _changelog(_: str) -> str:
    """The changelog of the repository, with its links to pages of the site."""
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").replace("](docs/", "](")


def _cell(text: str) -> str:
    return " ".join(html.escape(str(text), quote=False).replace("|", "\\|").split())
