"""Read a mask file and resample it onto the grid of its image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.image import Image
from napari_stnreg.io.conversion import as_image
from napari_stnreg.io.image import read_content, read_image
from napari_stnreg.resampling.warp import warp


def read_mask(path: Path, image: Image, frame: int = 0) -> npt.NDArray[np.bool_]:
    """Read where an image counts: boolean ``(*image.grid.shape)``, true where the file is not zero.

    A mask without a position of its own (PNG, NumPy) that has the image's shape is on the image's voxels. Every other
    mask is resampled by nearest neighbor.

    Parameters
    ----------
    path
        The mask.
    image
        The image that it belongs to.
    frame
        Which frame of a mask that is a time series.

    Raises
    ------
    InputError
        If the mask does not fit the image's axes or unit, or is empty.
    """
    mask = as_image(read_image(path, min(frame, read_content(path).frames - 1)), like=image)
    if mask.ndim != image.ndim:
        raise InputError(f"The mask '{path.name}' is {mask.ndim}D, but '{image.name}' is {image.ndim}D.")
    inside: npt.NDArray[np.bool_] = np.nan_to_num(mask.intensity()) != 0
    if mask.grid != image.grid:
        inside = np.asarray(warp(mask.replace(data=inside), None, image.grid, interpolation="nearest", fill=0).data)
    if not inside.any():
        raise InputError(f"The mask '{path.name}' leaves nothing of '{image.name}'.")
    return inside
