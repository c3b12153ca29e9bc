"""Image reader and writers of the napari manifest. They do not import napari."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from napari_stnreg.core.errors import InputError, RegistrationError
from napari_stnreg.core.image import Image
from napari_stnreg.core.labels import label_reason
from napari_stnreg.io.file_content import FileContent
from napari_stnreg.io.formats import image_format, is_dicom, is_zarr
from napari_stnreg.io.image import read_content, read_frames
from napari_stnreg.io.napari_layers import AXIS_LABELS, LAYOUTS, LayerData, grid_of, layer_data, layout_of, placement
from napari_stnreg.io.ome_zarr import is_scene
from napari_stnreg.io.series import write_series

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
            image_format(one)
            if Path(one).is_dir() and not _is_image_folder(Path(one)):
                return None
    except InputError:
        return None
    return _read_layers


@visible_errors()
def write_image(path: str, data: Any, meta: Mapping[str, Any]) -> list[str]:
    """Write an image layer with its position, in the format that the suffix names.

    Parameters
    ----------
    path
        A name ending in ``.nii``, ``.nii.gz``, ``.nrrd``, ``.mha``, ``.ome.tif`` or ``.zarr``.
    data
        The layer's array: two or three axes, more for time and channels if the axis labels say so (a fourth axis
        without a label is time), one more at the end for RGB; or the levels of a multiscale layer, whose finest one
        is written.
    meta
        The layer's state.

    Returns
    -------
    list of str
        The path written.

    Raises
    ------
    RegistrationError
        If the format cannot hold the layer, or the file cannot be written.
    """
    return _write(path, data, meta, labels=False)


@visible_errors()
def write_labels(path: str, data: Any, meta: Mapping[str, Any]) -> list[str]:
    """Write a labels layer as :func:`write_image` does, marked as labels where the format can."""
    return _write(path, data, meta, labels=True)


def _several(path: PathOrPaths) -> list[str | os.PathLike[str]]:
    return [path] if isinstance(path, str | os.PathLike) else list(path)


def _read_layers(path: PathOrPaths) -> list[LayerData]:
    return [_read_layer(one) for one in _several(path)]


def _is_image_folder(path: Path) -> bool:
    """Return whether a folder holds an OME-Zarr image or DICOM slices."""
    if is_zarr(path):
        return not is_scene(path)
    return is_dicom(path)


def _lazy_layer(path: Path, content: FileContent, levels: list[Any]) -> LayerData:
    keywords: dict[str, Any] = {"name": path.name.split(".")[0], **placement(content.grid)}
    keywords["metadata"] = {"path": str(path), **content.metadata}
    if is_zarr(path):
        from napari_stnreg.stacks.output.ome_zarr import is_aligned_stack

        if is_aligned_stack(path):  # the panel for stacks shows its report
            keywords["metadata"]["stnreg_stack"] = str(path.absolute())
    if content.channels:
        keywords |= {"rgb": True} if content.rgb else {"channel_axis": 0}
    if content.frames > 1:
        keywords = _with_time(keywords, content)
    kind = "labels" if content.labels and np.issubdtype(levels[0].dtype, np.integer) else "image"
    return (levels if len(levels) > 1 else levels[0]), keywords, kind


def _read_layer(path: str | os.PathLike[str]) -> LayerData:
    content = read_content(path)
    if content.levels is not None:
        return _lazy_layer(Path(path), content, content.levels())
    frames = read_frames(path, content)
    whole = np.issubdtype(frames[0].data.dtype, np.integer) and not frames[0].has_channel_axis
    labels = whole and (content.labels or (len(frames) == 1 and bool(label_reason(frames[0]))))
    data, keywords, kind = layer_data(frames[0], "labels" if labels else "image")
    if len(frames) == 1:
        return data, keywords, kind
    keywords["name"] = frames[0].name.removesuffix(" [0]")
    if "channel_axis" in keywords:
        keywords["channel_axis"] += 1
    return np.stack([frame.data for frame in frames]), _with_time(keywords, content), kind


def _with_time(keywords: dict[str, Any], content: FileContent) -> dict[str, Any]:
    """Layer keywords with a time axis in front, in seconds."""
    ndim = content.grid.ndim
    for name, step in (("scale", content.interval), ("translate", 0.0)):
        if name in keywords:
            keywords[name] = np.concatenate([[step], keywords[name]])
    if "affine" in keywords:
        affine = np.eye(ndim + 2)
        affine[0, 0] = content.interval
        affine[1:, 1:] = keywords["affine"]
        keywords["affine"] = affine
    keywords["units"] = ("second", *keywords["units"])
    keywords["axis_labels"] = ("t", *AXIS_LABELS[-ndim:])
    return keywords


def _write(path: str, data: Any, meta: Mapping[str, Any], *, labels: bool) -> list[str]:
    name = str(meta.get("name", "layer"))
    array = np.asarray(data[0] if meta.get("multiscale") else data)
    colors = 1 if meta.get("rgb") else 0
    axes = array.ndim - colors
    if not 2 <= axes <= 5:
        raise InputError(
            f"'{name}' has {axes} axes. Images have two or three axes, and up to two more for time and channels."
        )
    layout = layout_of(meta.get("axis_labels") or (), axes, name) or LAYOUTS[axes][0]
    space = [i for i, letter in enumerate(layout) if letter in "zyx"]
    channels = "c" in layout
    order = [*(i for i, letter in enumerate(layout) if letter == "t"), *space]
    order += [layout.index("c")] if channels else []
    array = array.transpose([*order, *range(axes, array.ndim)])
    frames = array if "t" in layout else array[None]
    grid = grid_of(meta, [frames.shape[1 + i] for i in range(len(space))], axes=space)
    metadata = dict(meta.get("metadata") or {})
    images = [Image(frame, grid, name=name, rgb=bool(colors), metadata=metadata) for frame in frames]
    write_series(path, images, labels=labels)
    return [path]
