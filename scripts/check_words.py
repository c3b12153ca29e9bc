"""Check texts for words that plain American English of the field does not need: ``python scripts/check_words.py``.

Read are the documentation, the texts of the napari manifest, and of the package and its command line: the first line of
every docstring and every string that is a message, a description, or a tooltip. The exit code is 1 if a word is found.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

BANNED = {
    r"told|tells?": "name what states it: 'the report states', 'is given'",
    r"said|says": "'states', 'shows', 'reports'",
    r"asked|asks": "'requests', 'checks', 'confirms'",
    r"(?<!unde)lies|lay(?!out|er)|laid": "'is', 'is at', 'was placed'",
    r"whatever|of which|so many|anew|begun|rightly": "use a plain relative clause, 'again', 'started', 'correctly'",
    r"(?:turned?|other way|which way|all) round": "'around', 'inverse', 'in which direction'",
    r"an?(?: other)? person|persons|people(?:'s)?": "'the user', 'you', 'subjects'",
    r"for who|who wants|what is to|what there is": "a relative clause needs its noun",
    r"broken off|gone on|goes? on|going on": "'interrupted', 'continues'",
    r"reckons?|reckoned|dearer|likest|alike": "'estimates', 'similar'",
}
BRITISH = re.compile(
    r"\b(colours?\w*|centres?|centred|greys?|neighbours?\w*|behaviours?|favours?\w*|labell(?:ed|ing)|modell(?:ed|ing)|"
    r"travell\w+|metres?|millimetres?|micrometres?|analys(?:e|ed|es|ing)|licence|catalogue|programme|afterwards|towards|"
    r"(?:normal|optim|initial|organ|recogn|regular|minim|maxim|visual|summar|character|general|special|quant|"
    r"real|synchron|parametr|serial|util|penal|standard|binar|vector|random|digit)is(?:e|ed|es|er|ers|ing|ation|ations))\b",
    re.IGNORECASE,
)
PATTERNS = [(re.compile(rf"\b(?:{words})\b", re.IGNORECASE), advice) for words, advice in BANNED.items()]
PATTERNS.append((BRITISH, "American spelling"))
PATTERNS.append((re.compile(r"^(?:<{7}|>{7}) "), "a merge conflict that was not resolved"))

PAGES = ["*.md", "docs/**/*.md", ".napari-hub/*.md", ".github/**/*.md", ".github/**/*.yml"]
QUOTED = re.compile(r"^```.*?^```|`[^`\n]+`|\]\([^)]*\)|\$\$.*?\$\$|\*[A-Z][^*\n]*\*", re.MULTILINE | re.DOTALL)
"""Code, addresses, formulas and titles of publications, in which any word may occur."""


def blank(text: str) -> str:
    """Replace quoted parts by spaces; line numbers stay."""
    return QUOTED.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), text)


def pages() -> Iterator[tuple[Path, int, str]]:
    """Yield lines of the documentation."""
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            for number, line in enumerate(blank(path.read_text(encoding="utf-8")).splitlines(), 1):
                yield path, number, line
    for path in sorted((ROOT / "examples").glob("*.ipynb")):
        for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"], 1):
            if cell["cell_type"] == "markdown":
                yield path, number, blank("".join(cell["source"])).replace("\n", " ")


def manifest() -> Iterator[tuple[Path, int, str]]:
    """Yield titles of the napari manifest."""
    path = ROOT / "src/napari_stnreg/napari.yaml"
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if re.match(r"\s*-?\s*(title|display_name):", line):
            yield path, number, line


def code() -> Iterator[tuple[Path, int, str]]:
    """Yield first lines of docstrings, and strings of more than one word."""
    for folder in ("src", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            docstrings = set()
            for node in ast.walk(tree):
                body = getattr(node, "body", None)
                if isinstance(body, list):
                    for statement in body:
                        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                            docstrings.add(statement.value)
            for node in ast.walk(tree):
                if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                    continue
                text = blank(node.value)
                if node in docstrings:
                    yield path, node.lineno, text.strip().split("\n\n")[0].replace("\n", " ")
                elif " " in text.strip():
                    yield path, node.lineno, text.replace("\n", " ")


def main() -> int:
    """Print the findings and return the exit code."""
    found = 0
    for reader in (pages, manifest, code):
        for path, number, text in reader():
            for pattern, advice in PATTERNS:
                for match in pattern.finditer(text):
                    around = text[max(match.start() - 30, 0) : match.end() + 30].strip()
                    print(f"{path.relative_to(ROOT)}:{number}: '{match.group()}' in '{around}' ({advice})")
                    found += 1
    if found:
        print(f"{found} words to replace; see scripts/check_words.py.")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
