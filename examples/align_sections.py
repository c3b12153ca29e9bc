"""Align a generated stack of serial sections whose true shifts are known."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import zarr
from scipy import ndimage

import napari_stnreg as sr

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--sections", type=int, default=6)
parser.add_argument("--out", type=Path, default=Path("example-output"))
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)

rng = np.random.default_rng(0)
scene = ndimage.gaussian_filter(rng.standard_normal((options.sections, 200, 200)), (1.5, 2, 2))
scene = ((scene - scene.min()) / np.ptp(scene) * 255).astype(np.uint8)
moves = rng.uniform(-8, 8, (options.sections, 2))
raw = np.stack([ndimage.shift(s, m, order=1)[20:180, 20:180] for s, m in zip(scene, moves, strict=True)])

result = sr.align_stack(raw, options.out / "sections.zarr", deform=False, motion="translation", search_rotations=False,
                        overwrite=True)  # fmt: skip
print(f"{result.stop_reason} after {result.seconds:.0f} s:", *(f"{v.section} {v.verdict}" for v in result.verdicts))


def likeness(stack: np.ndarray) -> float:
    """Mean correlation of neighbors where both hold something."""
    pairs = zip(stack[:-1].astype(float), stack[1:].astype(float), strict=True)
    return float(np.mean([np.corrcoef(a[(a > 0) & (b > 0)], b[(a > 0) & (b > 0)])[0, 1] for a, b in pairs]))


aligned = np.asarray(zarr.open_group(result.path, mode="r")["0"])
print(f"correlation of neighbors: {likeness(raw):.3f} before, {likeness(aligned):.3f} after")
