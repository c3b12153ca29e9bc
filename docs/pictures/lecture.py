"""Run the lecture and publish its pictures: ``python docs/pictures/lecture.py``; about five minutes on two cores.

What each example prints is written to standard output. The figures on the slides come from there.
"""

from __future__ import annotations

import base64
import os
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Execute the notebook and save the picture of every cell with a tag."""
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    notebook = nbformat.read(ROOT / "examples" / "lecture.ipynb", as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stdout":
                sys.stdout.write(output.text)
            for tag in cell.metadata.get("tags", []):
                if "image/png" in output.get("data", {}):
                    path = ROOT / "docs" / "images" / f"lecture_{tag}.png"
                    path.write_bytes(base64.b64decode(output.data["image/png"]))
                    sys.stdout.write(f"{path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
