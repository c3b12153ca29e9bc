"""What the manifest names: transform and model files dropped on the viewer, and transforms saved from result layers.

A transform that is opened becomes a picture of its grid and one of its arrows. Both carry it in their metadata, as the
layers of a run do: so the workbench lists it, and it goes with its layers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from napari.utils.notifications import show_info

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.io.formats import transform_format
from napari_stnreg.io.napari_layers import LayerData
from napari_stnreg.io.transform_entry import TransformEntry, entry_from_record, read_entry, side_grid, write_entry
from napari_stnreg.napari_plugin.readers import visible_errors

_BOX = 100
"""Voxels along each side of the box over which a transform is drawn that does not say where it belongs."""

_HDF5 = b"\x89HDF\r\n\x1a\n"


def napari_transform_reader(path: Any) -> Callable[[Any], list[LayerData]] | None:
    """Say whether these files hold transforms or models, by returning the function that opens them.

    Files with the same endings that hold something else are left to other readers.
    """
    paths = [path] if isinstance(path, str | Path) else list(path)
    return _open if paths and all(_is_ours(Path(one)) for one in paths) else None


def _is_ours(path: Path) -> bool:
    name = path.name.lower()
    try:
        with path.open("rb") as stream:
            head = stream.read(4000)
            if name.endswith((".h5", ".hdf5")):
                # The name of the group that ITK keeps transforms in stands in the first blocks of the file.
                return head.startswith(_HDF5) and b"TransformGroup" in head + stream.read(60_000)
    except OSError:
        return False
    if name.endswith(".safetensors"):
        return b'"napari-stnreg"' in head
    if name.endswith((".tfm", ".txt")):
        return head.startswith(b"#Insight Transform File") or b'(Transform "' in head
    if name.endswith(".lta"):
        return b"type" in head and b"nxforms" in head
    if name.endswith(".xfm"):
        return head.lstrip().startswith(b"MNI Transform File")
    return name.endswith(".mat") and (
        (b"fixed" in head and b"Transform" in head) or bool(transform_format(path).detect)
    )


def _open(path: Any) -> list[LayerData]:
    paths = [path] if isinstance(path, str | Path) else list(path)
    layers: list[LayerData] = []
    for one in paths:
        sentence = model_sentence(str(one))
        if sentence is None:
            layers += transform_layers(read_entry(str(one)), str(one))
        else:
            show_info(sentence)
    return layers or [(None,)]  # type: ignore[list-item]  # napari's sign for "read, but there is nothing to show"


def model_sentence(path: str) -> str | None:
    """Describe a model file in one sentence; return ``None`` if the file is not a model."""
    if not path.lower().endswith(".safetensors"):
        return None
    from napari_stnreg.core import container
    from napari_stnreg.models import model_file

    header, _ = container.read(Path(path))
    if header.get("format") != model_file.FORMAT:
        return None
    return (
        f"'{Path(path).name}' is a trained model, not an image. Choose it as the model in Layers > Register, or "
        "use it with stnreg register --model."
    )


def transform_layers(entry: TransformEntry, path: str = "") -> list[LayerData]:
    """Grid and arrows of a transform as layers that carry it."""
    from napari_stnreg.visualization.layers import deformed_grid_layer, vectors_layer

    if path:  # opened twice it is still one transform
        entry.key = hashlib.sha1(str(Path(path).resolve()).encode(), usedforsecurity=False).hexdigest()[:8]
    box = Grid.from_spacing((_BOX,) * entry.transform.ndim, unit=entry.transform.unit)
    grid = side_grid(entry, "fixed", box)
    pictures = {
        "vectors": vectors_layer(entry.transform, grid),
        "grid": deformed_grid_layer(entry.transform, grid, side_grid(entry, "moving", box), volume=False),
    }
    layers = []
    for what, (data, keywords, kind) in pictures.items():
        metadata = {"stnreg": entry.record(what)}
        look = {**keywords, "visible": True, "name": f"{entry.name}: {what}", "metadata": metadata}
        layers.append((data, look, kind))
    return layers


@visible_errors()
def write_transform(path: str, data: Any, meta: Mapping[str, Any]) -> list[str]:
    """Write the transform that a result layer carries, in the format that the file's ending names.

    Parameters
    ----------
    path
        The file.
    data
        The layer's data, which is not looked at.
    meta
        The layer's state.

    Returns
    -------
    list of str
        The path written.

    Raises
    ------
    RegistrationError
        If the layer carries no transform, or the file cannot be written.
    """
    record = (meta.get("metadata") or {}).get("stnreg")
    if not isinstance(record, dict) or "transform" not in record:
        raise InputError(
            f"The layer '{meta.get('name', '')}' carries no transform. Choose a layer that a registration made."
        )
    frames: Sequence[Any] = record.get("frames") or ()
    if len(frames) > 1:
        raise InputError(
            f"The layer '{meta.get('name', '')}' carries {len(frames)} transforms, one for each frame. Save them one "
            "by one in the transform workbench."
        )
    return [str(write_entry(entry_from_record(record), path))]
