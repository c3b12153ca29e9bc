"""Read single frames of the images that a command or a table names, and the labels that belong to them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.image import Image
from napari_stnreg.io import read_image
from napari_stnreg.io.conversion import as_image
from napari_stnreg.io.image import read_content, read_frames

if TYPE_CHECKING:
    from napari_stnreg.io.file_content import FileContent


def read_one(path: Path, frame: int | None, options: str) -> Image:
    """Read one image of a file.

    Parameters
    ----------
    path
        The file.
    frame
        Which frame of a time series.
    options
        How a frame is chosen, for the error message.

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
    """Read every frame of a file, or the given one."""
    if frame is None:
        return read_frames(path, content)
    return [read_image(path, frame)]


def labels_for(path: Path | None, image: Image) -> Image | None:
    """Read the labels of an image; labels without a position of their own (PNG, NumPy) are on its voxels."""
    return None if path is None else as_image(path, like=image)
