"""The image that the explorer shows: the visible slice of an image layer, reduced for interactive warping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer

from napari_stnreg.core.errors import InputError

if TYPE_CHECKING:
    from napari.viewer import Viewer

MAX_SIDE = 1024


@dataclass(frozen=True)
class Picture:
    """One 2D picture of a layer.

    Parameters
    ----------
    values
        ``(y, x)`` or ``(y, x, C)``.
    scale, translate
        Size and place of its pixels in the world's last two axes.
    units
        Of these axes, as napari has them.
    look
        The layer's colors: colormap and contrast limits.
    shrunk
        How many pixels of the layer one pixel of the picture stands for.
    """

    values: np.ndarray
    scale: np.ndarray
    translate: np.ndarray
    units: Any
    look: dict[str, Any]
    shrunk: int


def picture_of(layer: ImageLayer, viewer: Viewer) -> Picture:
    """Take the slice that the viewer shows of an image layer; every layer of two or more axes has one.

    Raises
    ------
    InputError
        If the slice is too small or empty.
    """
    data = layer.data
    if layer.multiscale:
        sizes = [max(level.shape[layer.ndim - 2 : layer.ndim]) for level in data]
        level = next((i for i, size in enumerate(sizes) if size <= MAX_SIDE), len(sizes) - 1)
        data, factor = data[level], np.asarray(data[0].shape[:2]) / np.asarray(data[level].shape[:2])
        step = float(factor.max())
    else:
        step = 1.0
    if layer.ndim > 2:
        point = np.asarray(viewer.dims.point, dtype=np.float64)[-layer.ndim :]
        index = np.rint(layer.world_to_data(point)).astype(int)[:-2]
        data = data[tuple(int(np.clip(i, 0, n - 1)) for i, n in zip(index, data.shape, strict=False))]
    values = np.asarray(data, dtype=np.float32)
    if min(values.shape[:2], default=0) < 4:
        raise InputError(
            f"'{layer.name}' shows a picture of {values.shape[:2]} pixels. The explorer needs at least 4 by 4."
        )
    # Whole blocks are averaged, so that a pixel of the picture is still a square of pixels of the layer.
    shrunk = int(np.ceil(max(values.shape[:2]) / MAX_SIDE))
    if shrunk > 1:
        high, wide = (n // shrunk for n in values.shape[:2])
        cut = values[: high * shrunk, : wide * shrunk]
        values = cut.reshape(high, shrunk, wide, shrunk, *values.shape[2:]).mean(axis=(1, 3))
    if layer.rgb and np.asarray(data).dtype.kind == "u":
        values = np.asarray(values / np.iinfo(np.asarray(data).dtype).max)
    scale = np.abs(np.asarray(layer.scale, dtype=np.float64)[-2:]) * shrunk * step
    translate = np.asarray(layer.translate, dtype=np.float64)[-2:]
    look = {} if layer.rgb else {"colormap": layer.colormap, "contrast_limits": tuple(layer.contrast_limits)}
    return Picture(values, scale, translate, tuple(layer.units[-2:]), look, max(round(shrunk * step), 1))
