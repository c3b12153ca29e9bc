"""``stnreg info``: what a file is."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from napari_stnreg.files.image_files import read_content, usable
from napari_stnreg.images import Grid


def run(options: argparse.Namespace) -> None:
    """Print a few lines about an image or a transform.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    path: Path = options.file
    lines = _transform(path) if path.suffix.lower() == ".safetensors" else _image(path)
    width = max(len(title) for title, _ in lines)
    for title, text in lines:
        print(f"{title:<{width}}  {text}")


def _image(path: Path) -> list[tuple[str, str]]:
    content = read_content(path)
    grid = content.grid
    first = usable(content.load(0))
    channels = f"{first.shape[-1]}{' (RGB)' if content.rgb else ''}" if content.channels else "1"
    low, high = (first.min(), first.max()) if first.size else ("none", "none")
    lines = [
        ("kind", f"{grid.ndim}D {'labels' if content.labels else 'image'}"),
        ("shape", f"{_times(grid.shape)} ({', '.join('zyx'[-grid.ndim :])})"),
        ("channels", channels),
        ("frames", str(content.frames)),
        ("type", f"{first.dtype}, {low:g} to {high:g}" if first.dtype.kind in "iuf" else str(first.dtype)),
        ("spacing", f"{_times(grid.spacing)} {grid.unit}"),
        ("origin", ", ".join(f"{value:.6g}" for value in grid.origin)),
    ]
    if not _upright(grid):
        rows = ["[" + ", ".join(f"{value:.6g}" for value in row) + "]" for row in grid.linear]
        lines.append(("axes", " ".join(rows)))
    return lines


def _transform(path: Path) -> list[tuple[str, str]]:
    from napari_stnreg.files.transform_file import load_transform  # brings torch
    from napari_stnreg.transforms import AffineTransform, ChainTransform

    transform, info = load_transform(path)
    parts = transform.parts if isinstance(transform, ChainTransform) else [transform]
    lines = [
        ("kind", f"{transform.ndim}D transform, fixed world to moving world"),
        ("family", str(info.get("settings", {}).get("family", transform.family))),
        ("unit", transform.unit),
        ("parameters", str(sum(tensor.numel() for tensor in transform.tensors().values()))),
    ]
    for part in parts:
        text = part.family
        if isinstance(part, AffineTransform):
            text += " " + " ".join("[" + ", ".join(f"{v:.6g}" for v in row) + "]" for row in part.numpy()[:-1])
        lines.append(("part" if len(parts) > 1 else "form", text))
    if "folded_share" in info:
        lines.append(("folded", f"{100 * float(info['folded_share']):.2g} %"))
    lines += [(name, str(info[name])) for name in ("ending", "seconds") if name in info]
    versions = info.get("versions") or {}
    if versions:
        lines.append(("made by", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return lines


def _times(numbers: object) -> str:
    return " x ".join(f"{number:.6g}" for number in np.atleast_1d(np.asarray(numbers)))


def _upright(grid: Grid) -> bool:
    diagonal = np.diag(grid.linear)
    return bool((diagonal > 0).all() and np.allclose(grid.linear, np.diag(diagonal), atol=1e-9))
