"""What the manifest names: napari's reader and writers for NIfTI. They do not import napari."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from napari_stnreg.core.atomic_io import atomic_path
from napari_stnreg.core.errors import InputError, RegistrationError
from napari_stnreg.core.image import Image
from napari_stnreg.io.image import read_content, read_frames, suffix_of
from napari_stnreg.io.napari_layers import AXIS_LABELS, LayerData, grid_of, layer_data
from napari_stnreg.io.nifti import save_nifti

PathOrPaths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@contextmanager
def visible_errors() -> Iterator[None]:
    """Turn an :class:`InputError` of a writer into a plain :class:`RegistrationError`.

    napari takes any ``ValueError`` of a writer for a missing plugin and hides its message.
    """
    try:
        yield
    except InputError as error:
        raise RegistrationError(str(error)) from error


def napari_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[LayerData]] | None:
    """Say whether these files can be read, by returning the function that reads them.

    Parameters
    ----------
    path
        One path, or several that were opened together; each becomes a layer.

    Returns
    -------
    callable or None
        A function of the same argument that gives ``(data, keywords, kind)`` for every layer.
    """
    try:
        for one in _several(path):
            suffix_of(one)
    except InputError:
        return None
    return _read_layers


@visible_errors()
def write_image(path: str, data: Any, meta: Mapping[str, Any]) -> list[str]:
    """Write an image layer as NIfTI, where it lies and in the axis order of the file that it came from.

    Parameters
    ----------
    path
        A name ending in ``.nii`` or ``.nii.gz``.
    data
        The layer's array: two or three axes, one more in front for time, one more at the end for RGB; or the levels
        of a multiscale layer, of which the finest is written.
    meta
        The layer's state.

    Returns
    -------
    list of str
        The path written.

    Raises
    ------
    RegistrationError
        If the layer cannot be a NIfTI file, or the file cannot be written.
    """
    return _write(path, data, meta, labels=False)


@visible_errors()
def write_labels(path: str, data: Any, meta: Mapping[str, Any]) -> list[str]:
    """Write a labels layer as NIfTI and mark it as labels; else as :func:`write_image`."""
    return _write(path, data, meta, labels=True)


def _several(path: PathOrPaths) -> list[str | os.PathLike[str]]:
    return [path] if isinstance(path, str | os.PathLike) else list(path)


def _read_layers(path: PathOrPaths) -> list[LayerData]:
    return [_read_layer(one) for one in _several(path)]


def _read_layer(path: str | os.PathLike[str]) -> LayerData:
    content = read_content(path)
    frames = read_frames(path, content)
    kind = "labels" if content.labels and np.issubdtype(frames[0].data.dtype, np.integer) else "image"
    data, keywords, kind = layer_data(frames[0], kind)
    if len(frames) == 1:
        return data, keywords, kind
    # A time axis in front, in seconds.
    ndim = content.grid.ndim
    for name, step in (("scale", content.interval), ("translate", 0.0)):
        if name in keywords:
            keywords[name] = np.concatenate([[step], keywords[name]])
    if "affine" in keywords:
        affine = np.eye(ndim + 2)
        affine[0, 0] = content.interval
        affine[1:, 1:] = keywords["affine"]
        keywords["affine"] = affine
    keywords["name"] = frames[0].name.removesuffix(" [0]")
    keywords["units"] = ("second", *keywords["units"])
    keywords["axis_labels"] = ("t", *AXIS_LABELS[-ndim:])
    return np.stack([frame.data for frame in frames]), keywords, kind


def _write(path: str, data: Any, meta: Mapping[str, Any], *, labels: bool) -> list[str]:
    name = str(meta.get("name", "layer"))
    array = np.asarray(data[0] if meta.get("multiscale") else data)
    colors = 1 if meta.get("rgb") else 0
    axes = array.ndim - colors
    if not 2 <= axes <= 4:
        raise InputError(f"'{name}' has {axes} axes; NIfTI is written with two or three, and one more for time.")
    timed = axes == 4
    shape = array.shape[1:4] if timed else array.shape[:axes]
    grid = grid_of(meta, shape)
    metadata = dict(meta.get("metadata") or {})
    frames = array if timed else array[None]
    images = [Image(frame, grid, name=name, rgb=bool(colors), metadata=metadata) for frame in frames]
    with atomic_path(Path(path)) as part:
        save_nifti(part, images, labels=labels)
    return [path]
