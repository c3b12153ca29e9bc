"""Make the picture of the lung sections before and after: ``python docs/pictures/lung_sections.py STACK.tif``.

Two sections laid over each other (one in magenta, the next in green, gray where they agree), and a cut along z.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import tifffile

import napari_stnreg as sr

HERE = Path(__file__).parents[1] / "images"
MAGNIFIED = 16  # rows a section in the cut


def over(stack: np.ndarray, z: int) -> np.ndarray:
    """Sections z (magenta) and z + 1 (green) over each other."""
    return np.stack([stack[z], stack[z + 1], stack[z]], axis=-1)


def cut(stack: np.ndarray, row: int) -> np.ndarray:
    """An XZ reslice, each section a band."""
    return np.repeat(np.repeat(stack[:, row], MAGNIFIED, axis=0)[..., None], 3, axis=-1)


def main(path: str) -> None:
    """Align, print the figures, write the picture."""
    raw = tifffile.imread(path)
    with tempfile.TemporaryDirectory() as folder:
        found = sr.align_stack(path, Path(folder) / "aligned.zarr", canvas="input")
        sections = sr.open_stack(found.path)
        aligned = np.stack([sections.read(k) for k in range(len(raw))])
    for row in found.verdicts:
        figures = (
            f"correlation {row.correlation_before:.3f} -> {row.correlation_after:.3f}  residual {row.residual:.2f}"
        )
        print(f"{row.section:3d} {row.verdict:8s} {figures}  strain {row.strain:.3f}  {row.reason}")  # noqa: T201
    z, row, size = len(raw) // 2, raw.shape[1] // 2, slice(120, -120)
    panels = [
        np.concatenate([over(s, z)[size, size], np.full((8, raw.shape[2] - 240, 3), 255), cut(s, row)[:, size]])
        for s in (raw, aligned)
    ]
    gap = np.full((panels[0].shape[0], 12, 3), 255)
    picture = np.concatenate([panels[0], gap, panels[1]], axis=1)
    iio.imwrite(HERE / "lung_sections.jpg", np.clip(picture, 0, 255).astype(np.uint8), quality=80)


if __name__ == "__main__":
    main(sys.argv[1])
