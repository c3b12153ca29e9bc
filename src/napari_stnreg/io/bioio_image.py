"""Files of microscopes (CZI, ND2, LIF) through the plugins of bioio."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.file_errors import reason_of
from napari_stnreg.core.grid import Grid
from napari_stnreg.io.file_content import FileContent, check_memory

logger = logging.getLogger(__name__)
PLUGINS = {".czi": "bioio-czi", ".nd2": "bioio-nd2", ".lif": "bioio-lif"}


def open_bioio(path: Path) -> FileContent:
    """Open the first scene of a microscope's file; planes are read on request.

    Raises
    ------
    InputError
        If bioio or its plugin for the format is not installed, or the file cannot be read.
    """
    plugin = PLUGINS[path.suffix.lower()]
    try:
        from bioio import BioImage
    except ImportError as error:
        raise InputError(
            f"{path.suffix} files need {plugin}, which is not installed. Run: pip install 'napari-stnreg[microscopy]'"
        ) from error
    try:
        image = BioImage(str(path))
        rgb = "S" in image.dims.order
        array = image.get_image_dask_data("TSZYX" if rgb else "TCZYX")
        sizes = image.physical_pixel_sizes
        interval = getattr(image, "time_interval", None)
    except Exception as error:  # each plugin raises its own exceptions
        raise InputError(f"'{path.name}' cannot be read with {plugin} ({reason_of(error)}).") from error
    if len(image.scenes) > 1:
        logger.warning(
            "'%s' holds %d scenes. The first one, '%s', is read.", path.name, len(image.scenes), image.scenes[0]
        )
    known = [size for size in (sizes.Z, sizes.Y, sizes.X) if size]
    spacing = [float(size) if size else 1.0 for size in (sizes.Z, sizes.Y, sizes.X)]
    flat = array.shape[2] == 1
    channels = array.shape[1] > 1
    shape = tuple(int(n) for n in array.shape[3 if flat else 2 :])
    grid = Grid.from_spacing(shape, spacing[-len(shape) :], unit="um" if known else "pixel")
    check = int(np.prod(array.shape[1:], dtype=np.float64)) * array.dtype.itemsize

    def load(frame: int) -> npt.NDArray[Any]:
        check_memory(path.name, check)
        one = array[frame, :, 0] if flat else array[frame]
        voxels = np.asarray(one.compute())
        return np.moveaxis(voxels, 0, -1) if channels else voxels[0]

    def levels() -> list[Any]:
        whole = array[:, :, 0] if flat else array
        if rgb:  # colors stay the last axis
            whole = whole.transpose(0, *range(2, whole.ndim), 1)
            return [whole if array.shape[0] > 1 else whole[0]]
        whole = whole.swapaxes(0, 1)  # channels in front
        whole = whole if channels else whole[0]
        return [whole if array.shape[0] > 1 else (whole[:, 0] if channels else whole[0])]

    seconds = getattr(interval, "total_seconds", lambda: 1.0)() if interval is not None else 1.0
    return FileContent(
        load,
        grid,
        frames=int(array.shape[0]),
        channels=channels,
        rgb=rgb and array.shape[1] in (3, 4),
        interval=seconds if seconds > 0 else 1.0,
        levels=levels,
    )
