"""How much of the slope of tissue an alignment keeps, on a volume that needs none.

Run ``python -m benchmark.stack_slope --data DIR``. Slices of the FIB-SEM volume along each of its axes are aligned
with the defaults. The slope is the shift of the tissue from section to section, by optical flow between sections three
apart, averaged over the stack in blocks of 32 pixels. Kept is the slope after the alignment along the slope before.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from skimage.registration import optical_flow_ilk

import napari_stnreg as sr

APART, BLOCK, MARGIN, SECTIONS = 3, 32, 24, 40


def slope(stack: np.ndarray) -> np.ndarray:
    """Pixels a section along y and x, ``(2, rows, columns)`` of blocks."""
    pairs = [
        (stack[z].astype(np.float32), stack[z + APART].astype(np.float32)) for z in range(0, len(stack) - APART, 2)
    ]
    flow = np.mean([optical_flow_ilk(a, b, radius=15) for a, b in pairs], axis=0) / APART
    flow = flow[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    rows, columns = (n // BLOCK for n in flow.shape[1:])
    flow = flow[:, : rows * BLOCK, : columns * BLOCK]
    return flow.reshape(2, rows, BLOCK, columns, BLOCK).mean((2, 4))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds fibsem")
    volume = tifffile.imread(parser.parse_args().data / "fibsem" / "training_sample2_raw.tif")
    for axis, name in enumerate("zyx"):
        sections = np.moveaxis(volume, axis, 0)
        first = (len(sections) - SECTIONS) // 2
        sections = np.ascontiguousarray(sections[first : first + SECTIONS])
        with tempfile.TemporaryDirectory() as folder:
            found = sr.align_stack(sections, Path(folder) / "aligned.zarr", canvas="input", workers=1)
            aligned = sr.open_stack(found.path)
            before, after = slope(sections), slope(np.stack([aligned.read(z) for z in range(len(sections))]))
        kept = [float((b * a).sum() / (b * b).sum()) for b, a in zip(before, after, strict=True)]
        size = np.sqrt((before**2).mean(axis=(1, 2)))
        print(
            f"cut along {name}: slope {size[0]:.2f} and {size[1]:.2f} pixels a section (rms), "
            f"kept {kept[0]:.3f} and {kept[1]:.3f}, together {(before * after).sum() / (before**2).sum():.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
