"""Registration time by image size, on the CPU and on a CUDA device: ``python -m benchmark.gpu --data DIR``.

Default settings (affine, then diffeomorphic, local NCC, balanced). Real pairs are the first of the test lists and are
judged by Dice; synthetic ones are smooth noise under a known bend and are judged by the mean error in voxels.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import napari_stnreg as sr
from benchmark.data import load_pairs
from benchmark.scoring import score
from napari_stnreg.ops.filters import gaussian
from napari_stnreg.transforms import DisplacementTransform

SPACING = {"cardiac": 1.0, "brain": 2.0}


@dataclass
class Case:
    """A pair to time: images, and what judges the result."""

    name: str
    fixed: sr.Image
    moving: sr.Image
    judge: Any


def real_cases(folder: Path, name: str, count: int) -> Iterator[Case]:
    """Pairs with labels."""
    for pair in load_pairs(name, folder, "test", count):
        fixed, moving = (sr.Image.from_array(x, SPACING[name], unit="mm") for x in (pair.fixed, pair.moving))

        def judge(transform: Any, pair: Any = pair, fixed: sr.Image = fixed) -> dict[str, float]:
            steps = fixed.grid.spacing.reshape(-1, *[1] * fixed.ndim)
            row = score(pair, transform.displacement(fixed.grid) / steps)
            return {key: row[key] for key in ("dice_before", "dice_after") if key in row}

        yield Case(f"{name} {' x '.join(str(n) for n in fixed.grid.shape)}", fixed, moving, judge)


def synthetic_case(side: int, device: str) -> Case:
    """Smooth noise of two scales under a smooth bend of at most a 16th of the side."""
    shape = (side,) * 3
    generator = torch.Generator().manual_seed(side)
    grid = sr.Grid.from_spacing(shape)
    parts = []
    for cells in (12, 40):
        noise = torch.randn(1, 1, *[cells] * 3, generator=generator).to(device)
        parts.append(torch.nn.functional.interpolate(noise, size=shape, mode="trilinear"))
    image = gaussian(parts[0] + 0.6 * parts[1], 1.5, "nearest")
    bend = torch.nn.functional.interpolate(
        torch.randn(1, 3, 6, 6, 6, generator=generator), size=shape, mode="trilinear"
    )
    bend = gaussian(bend.to(device), side / 16, "nearest")
    bend = bend * (side / 16) / bend.square().sum(1).sqrt().max()
    moving = sr.Image.from_array(image[0, 0].cpu().numpy(), name="moving")
    truth = DisplacementTransform(bend.cpu(), grid)
    fixed = sr.warp(moving, truth, grid, fill=None, device=device).replace(name="fixed", mask=None)
    inner = (slice(None), *[slice(side // 8, -side // 8)] * 3)
    field = bend[0].cpu().numpy()

    def judge(transform: Any) -> dict[str, float]:
        apart = np.linalg.norm((transform.displacement(grid) - field)[inner], axis=0).mean()
        return {"error_before": float(np.linalg.norm(field[inner], axis=0).mean()), "error_after": float(apart)}

    return Case(f"synthetic {side} x {side} x {side}", fixed, moving, judge)


def timed(case: Case, device: str, repeats: int) -> dict[str, Any]:
    """Shortest of some runs, in seconds, the peak of the device's memory, and how good the result is."""
    seconds = []
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(repeats):
        if cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        result = sr.register(case.fixed, case.moving, device=device)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    row = {"case": case.name, "device": device, "seconds": round(min(seconds), 3), **case.judge(result.transform)}
    row["folded_percent"] = 100 * float((result.transform.jacobian_determinant(case.fixed.grid) <= 0).mean())
    if cuda:
        row["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return row


def main() -> None:
    """Time every case on every device and print a row for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.gpu", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--sides", default="128,192,256", help="of the synthetic volumes")
    parser.add_argument("--devices", default="cuda,cpu")
    parser.add_argument("--largest-on-cpu", type=int, default=192, help="side of the largest volume timed on the CPU")
    parser.add_argument("--pairs", type=int, default=2, help="real pairs of each set")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None, help="JSON file")
    options = parser.parse_args()
    devices = options.devices.split(",")
    maker = devices[0]
    if "cuda" in devices:
        print(torch.cuda.get_device_name(0), f"and {torch.get_num_threads()} CPU threads")
        timed(synthetic_case(32, maker), "cuda", 1)  # the first use of a device loads its kernels
    rows: list[dict[str, Any]] = []
    for name in ("cardiac", "brain"):
        for device in devices:
            found = [timed(case, device, options.repeats) for case in real_cases(options.data, name, options.pairs)]
            keys = [key for key in found[0] if key not in ("case", "device")]
            rows.append({**found[0], **{key: round(float(np.mean([r[key] for r in found])), 4) for key in keys}})
            print(json.dumps(rows[-1]), flush=True)
    for side in (int(text) for text in options.sides.split(",") if text):
        case = synthetic_case(side, maker)
        for device in devices:
            if device == "cpu" and side > options.largest_on_cpu:
                continue
            rows.append(timed(case, device, options.repeats if device != "cpu" else 1))
            print(json.dumps(rows[-1]), flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
