"""Prepare a pair for the fit: checks, one unit, scalars, a centered frame, a device, memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

from napari_stnreg.core.device import free_memory
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import ROUNDED_AXES, FloatArray, Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.intensity import normalize
from napari_stnreg.core.landmarks import check_landmarks
from napari_stnreg.core.progress import check_stop
from napari_stnreg.core.units import conversion_factor
from napari_stnreg.registration.memory import affordable_shrink, require_memory
from napari_stnreg.registration.pyramid import Pyramid
from napari_stnreg.registration.settings import RegistrationSettings
from napari_stnreg.registration.similarity_choice import SimilarityChoice
from napari_stnreg.resampling.warp import warp
from napari_stnreg.transforms import Transform


@dataclass
class Problem:
    """A pair, ready to be fitted, in a world centered on the fixed image.

    Parameters
    ----------
    pyramid
        Both images at any resolution.
    center
        World position of the centered frame's zero, ``(D,)``, in the fixed image's unit.
    unit
        That unit.
    fixed_landmarks, moving_landmarks
        ``(N, D)`` in the centered world, or ``None``.
    finest
        Shrink factor of the finest level that memory allows.
    warnings
        Sentences for the user.
    color
        Whether both images are registered by the luminance of their colors.
    choice
        What the similarity ``"auto"`` has chosen, once the start is known.
    """

    pyramid: Pyramid
    center: FloatArray
    unit: str
    fixed_landmarks: FloatArray | None
    moving_landmarks: FloatArray | None
    finest: float
    warnings: list[str]
    color: bool = False
    choice: list[SimilarityChoice] = field(default_factory=list)

    def through(self, transform: Transform) -> Problem:
        """Return the problem that remains after a transform: the moving image resampled on the fixed grid.

        The copy is for the fit alone; results compose the transforms and sample the original once.
        """
        pyramid = self.pyramid
        margin = [max(n // 8, 2) for n in pyramid.fixed_grid.shape]
        around = pyramid.fixed_grid.cropped(
            [-m for m in margin], [n + m for n, m in zip(pyramid.fixed_grid.shape, margin, strict=True)]
        )
        require_memory(16 * around.size, free_memory("cpu"), "Warping the moving image for the next deformation")
        values, mask = pyramid.moving_arrays()
        known = np.ones(pyramid.moving_grid.shape, bool) if mask is None else mask
        seen = warp(Image(values, pyramid.moving_grid, known), transform.to("cpu"), around, "linear", fill=None)
        points = self.moving_landmarks
        if points is not None:
            points = transform.to("cpu").inverse().map_points(points)
        return replace(self, pyramid=pyramid.with_moving(seen.data, seen.mask, around), moving_landmarks=points)


@dataclass(frozen=True)
class _NamedGrid:
    """A name and a grid, for the estimate of memory."""

    name: str
    grid: Grid


def mask_missing_values(image: Image, warnings: list[str]) -> Image:
    """Mask voxels that are not finite, such as a NaN background, and note it; other images are returned as they are.

    An image without any finite value is left to :func:`prepare`, which refuses it.
    """
    if not np.issubdtype(image.data.dtype, np.inexact):
        return image
    finite = np.isfinite(image.data)
    if finite.ndim > image.ndim:
        finite = finite.all(axis=-1)
    known = finite if image.mask is None else finite & image.mask
    if known.sum() == (finite.size if image.mask is None else image.mask.sum()) or not known.any():
        return image
    fraction = 100 * (1 - float(finite.mean()))
    amount = f"{fraction:.1f} %" if fraction >= 0.1 else "Less than 0.1 %"
    warnings.append(f"{amount} of the voxels of '{image.name}' are NaN or infinite and are masked.")
    return image.replace(mask=known)


def check_pair(fixed: Image, moving: Image, settings: RegistrationSettings) -> None:
    """Refuse pairs that no registration can help.

    Raises
    ------
    InputError
        With one sentence on what is wrong and what to do.
    """
    same_channel = settings.fixed_channel == settings.moving_channel  # one channel may be registered to another
    if (fixed is moving or (fixed.data is moving.data and fixed.grid == moving.grid)) and same_channel:
        raise InputError("Fixed and moving are the same image. Choose two different ones.")
    if fixed.ndim != moving.ndim:
        raise InputError(
            f"'{fixed.name}' is {fixed.ndim}D and '{moving.name}' is {moving.ndim}D. A slice cannot be registered to "
            "a volume yet, so choose two images with the same number of axes."
        )
    for image in (fixed, moving):
        if min(image.grid.shape) < 2:
            raise InputError(
                f"'{image.name}' has an axis with a single voxel (shape {image.grid.shape}). "
                "Give a 2D image without that axis, or a volume of at least 2 voxels along each."
            )


def prepare(
    fixed: Image,
    moving: Image,
    settings: RegistrationSettings,
    device: torch.device,
    fixed_landmarks: npt.ArrayLike | None = None,
    moving_landmarks: npt.ArrayLike | None = None,
    *,
    has_start: bool = False,
) -> Problem:
    """Check a pair and bring it into the centered frame.

    Landmarks are world points ``(N, D)``, each in its own image's unit, paired by order. Where a transform is given to
    start from, the images need not overlap before it.

    Raises
    ------
    InputError
        If the pair, its masks, values, units or landmarks cannot be used.
    """
    check_pair(fixed, moving, settings)
    warnings: list[str] = []
    unit = fixed.grid.unit
    factor = conversion_factor(moving.grid.unit, unit)
    moving = moving.with_unit(unit)
    center = fixed.grid.center
    # A sheared lattice has no single step per axis; the fit runs on an upright one over the same place.
    fit_grid = fixed.grid if fixed.grid.is_orthogonal(ROUNDED_AXES) else fixed.grid.orthogonal()
    shrink = affordable_shrink(_NamedGrid(fixed.name, fit_grid), moving, settings, free_memory(str(device)))
    if shrink > 1:
        warnings.append(
            f"There is not enough memory for full resolution, so the fit stopped at 1/{shrink:.0f} of it. "
            "The result is still warped at full resolution."
        )
    decided = has_start or fixed_landmarks is not None
    if settings.start == "none" and not decided and not _overlap(fixed.grid, moving.grid):
        raise InputError(
            f"'{fixed.name}' and '{moving.name}' do not overlap in the world. "
            "Let the registration find the start, or move one of them."
        )
    landmarks: tuple[FloatArray | None, FloatArray | None] = (None, None)
    if fixed_landmarks is not None or moving_landmarks is not None:
        a, b = check_landmarks(fixed_landmarks, moving_landmarks, fixed.ndim, allow_empty=True)
        if len(a):
            landmarks = (a - center, b * factor - center)
    values, mask, grid = _scalar(fixed, settings.fixed_channel)
    if fit_grid is not grid:
        upright = warp(
            Image(values, grid, np.ones(grid.shape, bool) if mask is None else mask), None, fit_grid, "linear"
        )
        values, mask, grid = upright.data, upright.mask, fit_grid
    moving_values, moving_mask, moving_grid = _scalar(moving, settings.moving_channel)
    pyramid = Pyramid(
        normalize(values, mask, fixed.name, fixed.mixes_channels(settings.fixed_channel)),
        mask,
        grid.translated(-center),
        normalize(moving_values, moving_mask, moving.name, moving.mixes_channels(settings.moving_channel)),
        moving_mask,
        moving_grid.translated(-center),
        device,
    )
    same_scalars = settings.fixed_channel is None and settings.moving_channel is None
    color = same_scalars and fixed.rgb and moving.rgb
    return Problem(pyramid, center, unit, *landmarks, shrink, warnings, color)


def _scalar(image: Image, channel: int | None) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_] | None, Grid]:
    check_stop()
    values = image.intensity(channel)
    check_stop()
    return values, image.mask, image.grid


def _overlap(fixed: Grid, moving: Grid) -> bool:
    """Return whether the images overlap; oblique boxes are tested point by point."""
    for one, other in ((fixed, moving), (moving, fixed)):
        index = other.to_index(one.resized([min(n, 24) for n in one.shape]).points())
        if ((index >= -0.5) & (index <= np.asarray(other.shape) - 0.5)).all(axis=-1).any():
            return True
    return False
