"""Check texts for words that plain American English of the field does not need: ``python scripts/check_words.py``.

The script reads the documentation, the titles of the napari manifest, and the docstrings, comments, and strings
(messages, descriptions, tooltips) of the package. A message must not join two sentences with a semicolon.
The exit code is 1 if something is found.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tokenize
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

JOINED = re.compile(r"\S; (?:[\w'\"(-]|$)")
"""A semicolon in a message: two sentences are easier to read, above all when they wrap in a narrow panel."""
JOINED_ALLOWED = re.compile(r"[a-z-]+: [^;]*(?:px|bold|accent|rgb)|\bimport \w+;")
"""Style sheets and code in strings."""
TABLE_OF_FORMATS = Path("src/napari_stnreg/io/formats.py")
"""Its strings are cells of a table, where semicolons separate the entries of a list."""

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


def strings(folder: str) -> Iterator[tuple[Path, int, str, bool]]:
    """Yield all strings of the Python files of a folder, and whether they are docstrings."""
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
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path, node.lineno, node.value, node in docstrings


def code() -> Iterator[tuple[Path, int, str]]:
    """Yield docstrings, comments, and strings of more than one word."""
    for folder in ("src", "examples"):
        for path, number, text, is_docstring in strings(folder):
            if is_docstring or " " in blank(text).strip():
                yield path, number, re.sub(r"\s+", " ", blank(text))
        for path in sorted((ROOT / folder).rglob("*.py")):
            with tokenize.open(path) as file:
                for token in tokenize.generate_tokens(file.readline):
                    if token.type == tokenize.COMMENT:
                        yield path, token.start[0], token.string


def joined_messages() -> Iterator[tuple[Path, int, str]]:
    """Yield messages, descriptions and tooltips that join two sentences with a semicolon."""
    for path, number, text, is_docstring in strings("src"):
        if path.relative_to(ROOT) == TABLE_OF_FORMATS or is_docstring or JOINED_ALLOWED.search(text):
            continue
        if JOINED.search(text):
            yield path, number, text


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
    for path, number, text in joined_messages():
        print(f"{path.relative_to(ROOT)}:{number}: '{text.strip()}' joins two sentences (write two)")
        found += 1
    if found:
        print(f"{found} places to change. See scripts/check_words.py.")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
