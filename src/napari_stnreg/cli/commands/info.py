"""``stnreg info``: describe a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import placement_notes
from napari_stnreg.io.image import read_content, usable
from napari_stnreg.io.ome_zarr import is_scene


def info(file: Path, /) -> None:
    """Describe an image, transform or model file.

    Parameters
    ----------
    file
        An image, a transform or a model.

    Examples
    --------
    stnreg info registered/transform.safetensors
    """
    lines = _model(file) or (_transform(file) if _is_transform(file) else _image(file))
    width = max(len(title) for title, _ in lines)
    for title, text in lines:
        print(f"{title:<{width}}  {text}")


def _is_transform(path: Path) -> bool:
    """Return whether a file holds a displacement field, from its suffix or its NIfTI header."""
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")) and path.is_file():
        try:
            header: Any = nib.load(path).header
        except (OSError, EOFError, ValueError, nib.filebasedimages.ImageFileError):
            return False  # reading it as an image reports what is wrong
        return int(header["intent_code"]) in (1006, 1007) and len(header.get_data_shape()) == 5
    if name.endswith(".zarr"):
        return is_scene(path)
    return name.endswith((".safetensors", ".tfm", ".txt", ".h5", ".hdf5", ".mat"))


def _model(path: Path) -> list[tuple[str, str]]:
    """Describe a model; return no lines if the file is not one."""
    if path.suffix.lower() != ".safetensors":
        return []
    from napari_stnreg.core import container
    from napari_stnreg.models import model_file

    header, tensors = container.read(path)
    if header["format"] != model_file.FORMAT:
        return []
    model = model_file.model_from(header, tensors, path)
    lines = [("kind", "trained model"), *model.describe().items()]
    best = model.summary.get("best") or {}
    lines += [(name, str(model.summary[name])) for name in ("pairs", "epochs", "seed") if name in model.summary]
    lines += [(f"best {name}", f"{value:.4g}") for name, value in (best.get("scores") or {}).items()]
    versions = model.summary.get("versions") or {}
    if versions:
        lines.append(("made by", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return lines


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
    lines += [("position", note) for note in placement_notes(content.metadata)]
    if not _upright(grid):
        rows = ["[" + ", ".join(f"{value:.6g}" for value in row) + "]" for row in grid.linear]
        lines.append(("axes", " ".join(rows)))
    return lines


def _transform(path: Path) -> list[tuple[str, str]]:
    from napari_stnreg.io.safetensors_format import load_transform_file
    from napari_stnreg.io.transform_io import load_transform  # brings torch

    info: dict[str, Any] = {}
    if path.suffix.lower() == ".safetensors":
        transform, info = load_transform_file(path)
    else:
        transform = load_transform(path)
    parts = transform.parts
    lines = [
        ("kind", f"{transform.ndim}D transform, fixed world to moving world"),
        ("family", str(info.get("settings", {}).get("family", transform.family))),
        ("unit", transform.unit),
        ("coordinate systems", " to ".join(transform.coordinate_systems)),
        ("parameters", str(sum(tensor.numel() for tensor in transform.tensors().values()))),
    ]
    for part in parts:
        text = part.family
        matrix = part.as_matrix()
        if matrix is not None:
            text += " " + " ".join("[" + ", ".join(f"{v:.6g}" for v in row) + "]" for row in matrix[:-1])
        lines.append(("part" if len(parts) > 1 else "form", text))
    if "folding_fraction" in info:
        lines.append(("folded", f"{100 * float(info['folding_fraction']):.2g} %"))
    if inverse := info.get("inverse"):
        lines.append(("inverse", f"{inverse['method']}, round-trip error at most {inverse['max_voxels']:.2g} voxels"))
    lines += [(name, str(info[name])) for name in ("stop_reason", "seconds") if name in info]
    versions = info.get("versions") or {}
    if versions:
        lines.append(("made by", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return lines


def _times(numbers: object) -> str:
    return " x ".join(f"{number:.6g}" for number in np.atleast_1d(np.asarray(numbers)))


def _upright(grid: Grid) -> bool:
    diagonal = np.diag(grid.linear)
    return bool((diagonal > 0).all() and np.allclose(grid.linear, np.diag(diagonal), atol=1e-9))
