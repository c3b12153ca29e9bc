"""Voxel values and their position in the world: :class:`Image`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import CoordinateSystem, Grid
from napari_stnreg.core.intensity import luminance
from napari_stnreg.core.progress import check_stop

SLAB_VOXELS = 2**24
"""Voxels that are converted between two looks for a stop."""


def _as_float32(data: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Copy to single precision, slab by slab, so that a stop need not wait for a large volume."""
    if data.size <= SLAB_VOXELS:
        return data.astype(np.float32)
    out = np.empty(data.shape, np.float32)
    step = max(SLAB_VOXELS * len(data) // data.size, 1)
    for start in range(0, len(data), step):
        check_stop()
        out[start : start + step] = data[start : start + step]
    return out


@dataclass(frozen=True, eq=False)
class Image:
    """Voxel values on a grid, with an optional mask.

    Parameters
    ----------
    data
        ``(*grid.shape)``, or ``(*grid.shape, channels)`` for color and multi-channel images. Any dtype; this package
        never changes it.
    grid
        Voxel centers in the world.
    mask
        Boolean ``(*grid.shape)``, true where the image counts; ``None`` for everywhere.
    name
        Name in results and messages.
    rgb
        Whether the channels are red, green, blue (and alpha).
    metadata
        Metadata of the file or layer; copied to images made from this one.
    is_labels
        Whether the values are labels, as stated by a file or layer; ``None`` if unknown.

    Raises
    ------
    InputError
        If the shapes do not match, the image is empty, or it has not 2 or 3 spatial axes.
    """

    data: npt.NDArray[Any]
    grid: Grid
    mask: npt.NDArray[np.bool_] | None = None
    name: str = "image"
    rgb: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    is_labels: bool | None = None

    def __post_init__(self) -> None:
        ndim = self.grid.ndim
        if ndim not in (2, 3):
            raise InputError(f"'{self.name}' is {ndim}D without its channels. Images in 2D and 3D can be registered.")
        if tuple(self.data.shape[:ndim]) != self.grid.shape or self.data.ndim - ndim not in (0, 1):
            raise InputError(f"'{self.name}' has data of shape {tuple(self.data.shape)} on a grid {self.grid.shape}.")
        if min(self.grid.shape) < 1 or (self.data.ndim > ndim and self.data.shape[-1] < 1):
            raise InputError(f"'{self.name}' is empty: its shape is {tuple(self.data.shape)}.")
        if self.mask is not None and tuple(self.mask.shape) != self.grid.shape:
            raise InputError(f"The mask of '{self.name}' has shape {self.mask.shape}, the image {self.grid.shape}.")

    @classmethod
    def from_array(
        cls,
        array: npt.ArrayLike,
        spacing: float | Sequence[float] = 1.0,
        origin: float | Sequence[float] = 0.0,
        *,
        channels: bool = False,
        mask: npt.ArrayLike | None = None,
        unit: str = "pixel",
        name: str = "image",
    ) -> Image:
        """Wrap an array as an image.

        Parameters
        ----------
        array
            ``(y, x)`` or ``(z, y, x)``; with ``channels`` one more axis at the end.
        spacing, origin
            Voxel size and world position of the center of voxel zero, in axis order.
        channels
            Whether the last axis contains channels.
        mask
            True where the image counts.
        unit
            Unit of spacing and origin.
        name
            Name in results and messages.
        """
        data = np.asarray(array)
        shape = data.shape[:-1] if channels else data.shape
        grid = Grid.from_spacing(shape, spacing, origin, unit=unit)
        rgb = channels and data.shape[-1] in (3, 4) and data.dtype == np.uint8
        return cls(data, grid, None if mask is None else np.asarray(mask, dtype=bool), name, rgb)

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return self.grid.ndim

    @property
    def channels(self) -> int:
        """Number of channels; 1 for a scalar image."""
        return int(self.data.shape[-1]) if self.data.ndim > self.ndim else 1

    @property
    def coordinate_system(self) -> CoordinateSystem:
        """``"scanner"`` if the metadata contain a NIfTI header, else ``"world"``."""
        return coordinate_system_of(self.metadata)

    @property
    def is_oriented(self) -> bool:
        """Whether the file stated an anatomical orientation, which distinguishes left from right."""
        nifti = self.metadata.get("nifti")
        return self.coordinate_system == "scanner" and not (isinstance(nifti, Mapping) and nifti.get("unoriented"))

    @property
    def itk_matrix(self) -> Matrix | None:
        """From scanner coordinates to where ITK puts the same voxels; ``None`` where both agree."""
        return itk_matrix_of(self.metadata)

    @property
    def has_channel_axis(self) -> bool:
        """Whether the last axis of the data contains channels."""
        return self.data.ndim > self.ndim

    def intensity(self, channel: int | None = None) -> npt.NDArray[np.float32]:
        """Return one scalar per voxel, float32 ``(*grid.shape)``, as registration uses it.

        Parameters
        ----------
        channel
            Index of the channel; ``None`` for the luminance of RGB and the mean of other channels.

        Raises
        ------
        InputError
            If the channel does not exist or the values are complex.
        """
        data = np.asarray(self.data)
        if np.iscomplexobj(data):
            raise InputError(f"'{self.name}' contains complex numbers. Register its magnitude instead.")
        if not self.has_channel_axis:
            return _as_float32(data)
        if channel is not None:
            if not 0 <= channel < self.channels:
                raise InputError(f"'{self.name}' has {self.channels} channels. Channel {channel} does not exist.")
            return _as_float32(data[..., channel])
        if self.rgb and self.channels >= 3:
            return np.asarray(luminance(data), dtype=np.float32)
        return np.asarray(data.mean(axis=-1), dtype=np.float32)

    def mixes_channels(self, channel: int | None) -> bool:
        """Return whether :meth:`intensity` combines several channels."""
        return channel is None and self.channels > 1

    def replace(self, **changes: Any) -> Image:
        """Return a copy with some fields replaced."""
        return replace(self, **changes)

    def with_unit(self, unit: str) -> Image:
        """Return the image with its grid in another unit of length."""
        return self.replace(grid=self.grid.with_unit(unit))


Matrix = tuple[tuple[float, ...], ...]
"""A matrix as plain numbers, so that it can be compared, copied and written."""


def itk_matrix_of(metadata: Mapping[str, Any]) -> Matrix | None:
    """Return the matrix ``(4, 4)`` from scanner coordinates (z, y, x) in mm to those of ITK, where a file differs.

    Programs disagree on the position of NIfTI files with two of them; see
    :mod:`napari_stnreg.io.exchange.nifti_placement`.
    """
    nifti = metadata.get("nifti")
    rows = nifti.get("itk_matrix") if isinstance(nifti, Mapping) else None
    return None if rows is None else tuple(tuple(float(value) for value in row) for row in rows)


def placement_notes(metadata: Mapping[str, Any]) -> list[str]:
    """Return the sentences about the position of an image that its reader left in the metadata."""
    nifti = metadata.get("nifti")
    note = nifti.get("note") if isinstance(nifti, Mapping) else None
    return [str(note)] if note else []


def coordinate_system_of(metadata: Mapping[str, Any]) -> CoordinateSystem:
    """Return the coordinate system of an image or layer with these metadata.

    It is scanner space with a NIfTI header or the entry ``"coordinate_system": "scanner"``.
    """
    return "scanner" if "nifti" in metadata or metadata.get("coordinate_system") == "scanner" else "world"
