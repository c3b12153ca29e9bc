"""Intensities before registration: luminance of color images and robust normalization."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.progress import check_stop

_SLAB_VOXELS = 2**20
LUMINANCE_WEIGHTS = np.array([0.2125, 0.7154, 0.0721])
"""Weights of linear red, green and blue (ITU-R BT.709), as in scikit-image."""


def luminance(rgb: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]:
    """Return the luminance ``(*shape)`` of ``(*shape, 3 or 4)``; alpha is ignored."""
    out = np.empty(rgb.shape[:-1])
    for rows in _slabs(rgb):
        out[rows] = rgb[rows][..., :3] @ LUMINANCE_WEIGHTS
    return out


def constant_error(name: str, mixed: bool = False) -> InputError:
    """Return the error for an image without contrast; ``mixed`` channels may each have some."""
    if mixed:
        text = f"The channels of '{name}' together are constant, so there is nothing to align by. Choose a channel."
        return InputError(text)
    return InputError(f"'{name}' is constant, so there is nothing to align it by.")


def normalize(
    values: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_] | None, name: str, mixed: bool = False
) -> npt.NDArray[np.float32]:
    """Scale intensities to about 0 to 1 by the 0.5th and 99.5th percentile, which ignores offsets and hot pixels.

    Parameters
    ----------
    values
        ``(*shape)``.
    mask
        True where voxels count; the percentiles use them only. ``None`` for everywhere.
    name
        Name of the image in error messages.
    mixed
        Whether ``values`` are the mean or the luminance of several channels.

    Raises
    ------
    InputError
        If values are not finite, the mask is empty, or the image is constant.
    """
    inside = values if mask is None else values[mask]
    if inside.size == 0:
        raise InputError(f"The mask of '{name}' is empty, so nothing is left to register.")
    if not all(np.isfinite(inside[rows]).all() for rows in _slabs(inside)):
        raise InputError(f"'{name}' contains NaN or infinite values. Replace them, for example by 0, or mask them.")
    if mask is not None:
        values = np.where(mask, values, inside[0])  # values outside the mask, NaN included, must not matter
    if inside.size > 2_000_000:
        inside = inside.reshape(-1)[:: inside.size // 1_000_000]
    low, high = np.percentile(inside, [0.5, 99.5])
    if high - low <= 1e-6 * max(abs(float(high)), 1e-12):
        low, high = float(inside.min()), float(inside.max())
        if high - low <= 1e-6 * max(abs(high), 1e-12):
            raise constant_error(name, mixed)
    out = np.empty(values.shape, dtype=np.float32)
    for rows in _slabs(values):
        out[rows] = np.clip((values[rows] - low) / (high - low), -0.1, 1.1)
    return out


def _slabs(values: npt.NDArray[Any]) -> Iterator[slice]:
    """Yield parts along the first axis, between which a stop is obeyed."""
    rows = max(_SLAB_VOXELS * len(values) // max(values.size, 1), 1)
    for start in range(0, len(values), rows):
        check_stop()
        yield slice(start, start + rows)
