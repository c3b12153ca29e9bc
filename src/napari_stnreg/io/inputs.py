"""Images and masks from the files that were named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.units import canonical
from napari_stnreg.io import read
from napari_stnreg.io.image import read_content, read_frames

if TYPE_CHECKING:
    from napari_stnreg.io.content import FileContent


def read_one(path: Path, frame: int | None, options: str) -> Image:
    """One image of a file.

    Parameters
    ----------
    path
        The file.
    frame
        Which frame of a time series.
    options
        How a frame is chosen, for the sentence that asks for it.

    Raises
    ------
    InputError
        If the file cannot be read, or is a time series and no frame is named.
    """
    content = read_content(path)
    if content.frames > 1 and frame is None:
        raise InputError(f"'{path.name}' holds {content.frames} frames in time: choose with {options}.")
    return read_some(path, content, frame)[0]


def read_some(path: Path, content: FileContent, frame: int | None) -> list[Image]:
    """Every frame of a file, or the one that was named."""
    if frame is None:
        return read_frames(path, content)
    return [read(path, frame)]


def placed(image: Image, spacing: Sequence[float] | None, unit: str | None) -> Image:
    """The image with another voxel size or unit than its file says; see :func:`placed_grid`."""
    return image.replace(grid=placed_grid(image.grid, image.name, spacing, unit))


def placed_grid(grid: Grid, name: str, spacing: Sequence[float] | None, unit: str | None) -> Grid:
    """The grid with another voxel size or unit; the directions of its axes and the place of voxel zero stay.

    Raises
    ------
    InputError
        If the number of sizes is not the number of axes.
    """
    matrix = grid.matrix.copy()
    if spacing is not None:
        if len(spacing) not in (1, grid.ndim):
            raise InputError(f"'{name}' has {grid.ndim} axes, but {len(spacing)} voxel sizes were given.")
        matrix[:-1, :-1] *= np.asarray(spacing) / grid.spacing
    return Grid(grid.shape, matrix, grid.unit if unit is None else canonical(unit))


def read_mask(path: Path, image: Image, frame: int) -> npt.NDArray[np.bool_]:
    """Where an image counts, ``(*image.grid.shape)``, from a file that is not zero there.

    A mask of the image's own shape whose file knows no place in the world (PNG, NumPy) lies on the image's voxels;
    every other is read at the nearest voxel.

    Parameters
    ----------
    path
        The mask.
    image
        What it is for.
    frame
        Which frame of a mask that is a time series.

    Raises
    ------
    InputError
        If the mask does not fit the image's axes or its unit, or leaves nothing of it.
    """
    content = read_content(path)
    mask = read(path, min(frame, content.frames - 1))
    if mask.ndim != image.ndim:
        raise InputError(f"The mask '{path.name}' is {mask.ndim}D, but '{image.name}' is {image.ndim}D.")
    counts: npt.NDArray[np.bool_] = np.nan_to_num(mask.intensity()) != 0
    placeless = mask.grid == Grid.from_spacing(mask.grid.shape)
    if not (mask.grid.shape == image.grid.shape and (placeless or mask.grid == image.grid)):
        from napari_stnreg.resampling.warp import warp  # brings torch

        on_grid = warp(mask.replace(data=counts), None, image.grid, interpolation="nearest", fill=0)
        counts = np.asarray(on_grid.data)
    if not counts.any():
        raise InputError(f"The mask '{path.name}' leaves nothing of '{image.name}'.")
    return counts


def labels_for(path: Path | None, image: Image) -> Image | None:
    """Labels of an image; those of its shape from a file that knows no place (PNG, NumPy) lie on its voxels."""
    if path is None:
        return None
    labels = read(path)
    placeless = labels.grid == Grid.from_spacing(labels.grid.shape)
    return labels.replace(grid=image.grid) if placeless and labels.grid.shape == image.grid.shape else labels
