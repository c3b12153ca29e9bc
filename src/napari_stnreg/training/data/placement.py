"""Place images on the grid of a training, exactly as at inference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.intensity import normalize
from napari_stnreg.models.input_spec import grids_overlap
from napari_stnreg.networks.grid_generator import warp_batch
from napari_stnreg.ops.interpolation import smoothed_for
from napari_stnreg.transforms import AffineTransform, Transform


@dataclass(frozen=True)
class PreparedImage:
    """An image that is normalized, and smoothed if the grid of the training is coarser.

    Parameters
    ----------
    values
        ``(1, C, *shape)`` float32.
    labels
        Label map ``(1, 1, *shape)`` int64, or ``None``.
    grid
        Its own grid, in the unit of the training.
    """

    values: Tensor
    labels: Tensor | None
    grid: Grid

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return int(self.values.nbytes + (0 if self.labels is None else self.labels.nbytes))


def prepare(image: Image, labels: npt.NDArray[np.generic] | None, target: Grid, channels: int = 1) -> PreparedImage:
    """Normalize an image and smooth it for the grid of the training.

    Parameters
    ----------
    image, labels
        The image, and its label map of the same shape.
    target
        Grid of the training.
    channels
        1 for the luminance or mean of several channels, else the number that the image has.

    Raises
    ------
    InputError
        If its axes or channels differ from those of the training, or it cannot be normalized.
    """
    if image.ndim != target.ndim:
        raise InputError(f"'{image.name}' is {image.ndim}D, the others are {target.ndim}D.")
    if channels > 1 and image.channels != channels:
        raise InputError(f"'{image.name}' has {image.channels} channels, the others have {channels}.")
    planes = [image.intensity()] if channels == 1 else [image.intensity(c) for c in range(channels)]
    values = np.stack([normalize(plane, image.mask, image.name) for plane in planes])
    grid = image.grid.with_unit(target.unit)
    ratios = np.linalg.norm(np.linalg.inv(grid.linear) @ target.linear, axis=1)
    tensor = smoothed_for(torch.from_numpy(values)[None], ratios.tolist())
    table = None if labels is None else torch.from_numpy(np.asarray(labels).astype(np.int64))[None, None]
    return PreparedImage(tensor, table, grid)


def frame_center(own: Grid, beside: Grid | None = None) -> FloatArray:
    """Return the world point that becomes the origin of a pair's frame.

    Parameters
    ----------
    own
        Grid of an image.
    beside
        Grid of the pair's fixed image, whose center is used if both overlap in the world.
    """
    return (own if beside is None or not grids_overlap(beside, own) else beside).center


def place(
    image: PreparedImage, target: Grid, through: Transform | None = None, beside: Grid | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return an image and its labels on the grid of the training, warped by a transform.

    Parameters
    ----------
    image
        The image.
    target
        Grid of the training, about the world's origin.
    through
        Transform of that world; ``None`` for the identity.
    beside
        See :func:`frame_center`.
    """
    grid = image.grid.translated(-frame_center(image.grid, beside))
    step = np.linalg.inv(grid.matrix) @ target.matrix
    if through is None and grid.shape == target.shape and np.allclose(step, np.eye(target.ndim + 1)):
        return image.values, image.labels
    through = AffineTransform.identity(target.ndim, target.unit) if through is None else through
    labels = None if image.labels is None else warp_batch(image.labels, through, target, grid)
    return warp_batch(image.values, through, target, grid), labels
