"""An array and where it lies in the world: :class:`Grid` and :class:`Image`.

Coordinates follow napari: axes are ordered (z, y, x) or (y, x), a voxel's center is at its integer index, and the
world is reached by a homogeneous matrix. Nothing here knows torch, Qt, or another program's axis order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.units import conversion_factor

FloatArray = npt.NDArray[np.float64]

CoordinateSystem = Literal["world", "scanner"]
"""What an image's world is for other programs: mere coordinates, or the scanner's space of a NIfTI file."""


class Placed(Protocol):
    """Whatever lies somewhere: an image, or a file that was opened and not read yet."""

    @property
    def grid(self) -> Grid:
        """Where its voxels lie."""

    @property
    def space(self) -> CoordinateSystem:
        """What its world is for other programs."""


_LUMINANCE = np.array([0.2125, 0.7154, 0.0721])


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular lattice of voxel centers in the world.

    Parameters
    ----------
    shape
        Number of voxels along each axis, ``(y, x)`` or ``(z, y, x)``.
    matrix
        Homogeneous ``(D + 1, D + 1)`` matrix from voxel indices to world coordinates.
    unit
        Name of the world's unit, the same along every axis.

    Raises
    ------
    InputError
        If the matrix does not fit the shape, is singular or not finite.
    """

    shape: tuple[int, ...]
    matrix: FloatArray
    unit: str = "pixel"

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        matrix = np.array(self.matrix, dtype=np.float64)
        if matrix.shape != (len(shape) + 1, len(shape) + 1):
            raise InputError(f"A {len(shape)}D grid needs a {len(shape) + 1}x{len(shape) + 1} matrix.")
        if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:-1, :-1])) < 1e-300:
            raise InputError("The image's scale or affine is singular or not finite, so it has no place in the world.")
        matrix.flags.writeable = False
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "matrix", matrix)

    @classmethod
    def from_spacing(
        cls,
        shape: Sequence[int],
        spacing: float | Sequence[float] = 1.0,
        origin: float | Sequence[float] = 0.0,
        direction: npt.ArrayLike | None = None,
        unit: str = "pixel",
    ) -> Grid:
        """Build a grid from voxel sizes, the world position of voxel zero, and a ``(D, D)`` rotation."""
        ndim = len(shape)
        matrix = np.eye(ndim + 1)
        axes = np.eye(ndim) if direction is None else np.asarray(direction, dtype=np.float64)
        matrix[:-1, :-1] = axes * np.broadcast_to(np.asarray(spacing, dtype=np.float64), (ndim,))
        matrix[:-1, -1] = origin
        return cls(tuple(shape), matrix, unit)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid):
            return NotImplemented
        return self.unit == other.unit and self.same_lattice(other)

    def __hash__(self) -> int:
        return hash((self.shape, self.matrix.tobytes(), self.unit))

    def same_lattice(self, other: Grid) -> bool:
        """Whether both have the same voxels at the same places (units aside)."""
        return self.shape == other.shape and np.allclose(self.matrix, other.matrix, rtol=1e-9, atol=1e-9)

    @property
    def ndim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return len(self.shape)

    @property
    def linear(self) -> FloatArray:
        """The ``(D, D)`` part of the matrix: column ``i`` is one step along voxel axis ``i``."""
        return self.matrix[:-1, :-1]

    @property
    def origin(self) -> FloatArray:
        """World position of the center of voxel zero, ``(D,)``."""
        return self.matrix[:-1, -1]

    @property
    def spacing(self) -> FloatArray:
        """Distance between neighboring voxel centers along each axis, ``(D,)``, in world units."""
        return np.asarray(np.linalg.norm(self.linear, axis=0))

    @property
    def center(self) -> FloatArray:
        """World position of the middle of the grid, ``(D,)``."""
        return self.to_world((np.asarray(self.shape) - 1) / 2)

    @property
    def size(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape))

    @property
    def diagonal(self) -> float:
        """Length of the grid's longest diagonal, in world units."""
        corners = self.corners()
        return float(max(np.linalg.norm(a - b) for a, b in itertools.combinations(corners, 2)))

    def to_world(self, index: npt.ArrayLike) -> FloatArray:
        """World coordinates ``(..., D)`` of voxel indices ``(..., D)``."""
        return np.asarray(index, dtype=np.float64) @ self.linear.T + self.origin

    def to_index(self, world: npt.ArrayLike) -> FloatArray:
        """Fractional voxel indices ``(..., D)`` of world coordinates ``(..., D)``."""
        return (np.asarray(world, dtype=np.float64) - self.origin) @ np.linalg.inv(self.linear).T

    def points(self) -> FloatArray:
        """World coordinates of every voxel center, ``(*shape, D)``."""
        index = np.stack(np.meshgrid(*(np.arange(n) for n in self.shape), indexing="ij"), axis=-1)
        return self.to_world(index)

    def corners(self) -> FloatArray:
        """World coordinates of the ``2**D`` outermost corners, half a voxel outside the outer centers."""
        ends = [(-0.5, n - 0.5) for n in self.shape]
        return self.to_world(np.array(list(itertools.product(*ends))))

    def is_orthogonal(self) -> bool:
        """Whether the voxel axes stand at right angles in the world (no shear)."""
        axes = self.linear / self.spacing
        return bool(np.allclose(axes.T @ axes, np.eye(self.ndim), atol=1e-6))

    def moved(self, by: npt.ArrayLike) -> Grid:
        """The same lattice, shifted in the world by ``(D,)``."""
        matrix = self.matrix.copy()
        matrix[:-1, -1] += np.asarray(by, dtype=np.float64)
        return Grid(self.shape, matrix, self.unit)

    def with_unit(self, unit: str) -> Grid:
        """The same lattice with its coordinates expressed in another unit of length.

        Raises
        ------
        InputError
            If the units cannot be converted into each other.
        """
        if unit == self.unit:
            return self
        matrix = self.matrix.copy()
        matrix[:-1] *= conversion_factor(self.unit, unit)
        return Grid(self.shape, matrix, unit)

    def resized(self, shape: Sequence[int]) -> Grid:
        """A grid of another shape over exactly the same extent (outer faces stay where they are)."""
        factor = np.asarray(self.shape) / np.asarray(shape)
        step = np.eye(self.ndim + 1)
        step[:-1, :-1] = np.diag(factor)
        step[:-1, -1] = (factor - 1) / 2
        return Grid(tuple(shape), self.matrix @ step, self.unit)

    def cropped(self, start: Sequence[int], stop: Sequence[int]) -> Grid:
        """The part from voxel ``start`` up to ``stop``; both may lie outside, which pads."""
        shift = np.eye(self.ndim + 1)
        shift[:-1, -1] = start
        return Grid(tuple(int(b - a) for a, b in zip(start, stop, strict=True)), self.matrix @ shift, self.unit)

    def orthogonal(self) -> Grid:
        """The grid itself if its axes are at right angles, else an upright one that covers it at its finest spacing."""
        if self.is_orthogonal():
            return self
        return Grid.covering(self.corners(), np.full(self.ndim, self.spacing.min()), unit=self.unit)

    @classmethod
    def covering(cls, world: npt.ArrayLike, spacing: npt.ArrayLike, unit: str = "pixel") -> Grid:
        """The smallest upright grid of a given spacing whose voxels cover all world points ``(N, D)``."""
        world = np.asarray(world, dtype=np.float64)
        spacing = np.asarray(spacing, dtype=np.float64)
        low, high = world.min(axis=0), world.max(axis=0)
        shape = np.maximum(np.ceil((high - low) / spacing - 1e-6), 1).astype(int)
        slack = shape * spacing - (high - low)
        return cls.from_spacing(tuple(shape), spacing.tolist(), (low - slack / 2 + spacing / 2).tolist(), unit=unit)

    def union(self, world: npt.ArrayLike) -> Grid:
        """The lattice extended by whole voxels until it also covers the world points ``(N, D)``."""
        index = self.to_index(world).reshape(-1, self.ndim)
        start = np.minimum(np.floor(index.min(axis=0) + 0.5 + 1e-6), 0).astype(int)
        stop = np.maximum(np.ceil(index.max(axis=0) + 0.5 - 1e-6), self.shape).astype(int)
        return self.cropped(start, stop)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description; :meth:`from_dict` reads it back exactly."""
        return {"shape": list(self.shape), "matrix": self.matrix.tolist(), "unit": self.unit}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Grid:
        """The grid that :meth:`to_dict` described."""
        return cls(tuple(state["shape"]), np.asarray(state["matrix"]), str(state["unit"]))


@dataclass(frozen=True, eq=False)
class Image:
    """Values on a grid, with an optional mask of the voxels that count.

    Parameters
    ----------
    data
        ``(*grid.shape)``, or ``(*grid.shape, channels)`` for color and multi-channel images. Any dtype; never
        changed by this package.
    grid
        Where the voxels lie.
    mask
        Boolean ``(*grid.shape)``, true where the image counts; ``None`` for everywhere.
    name
        What to call it in results and messages.
    rgb
        Whether the channels are red, green, blue (and alpha).
    metadata
        Whatever the file or layer came with; passed on to what is made from it.

    Raises
    ------
    InputError
        If the shapes do not fit, or an axis is missing or has a single voxel.
    """

    data: npt.NDArray[Any]
    grid: Grid
    mask: npt.NDArray[np.bool_] | None = None
    name: str = "image"
    rgb: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ndim = self.grid.ndim
        if ndim not in (2, 3):
            raise InputError(f"'{self.name}' has {ndim} spatial axes; images in 2D and 3D can be registered.")
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
        """Wrap an array.

        Parameters
        ----------
        array
            ``(y, x)``, ``(z, y, x)``, or with ``channels`` one more axis at the end.
        spacing, origin
            Voxel size and world position of voxel zero, in axis order.
        channels
            Whether the last axis holds channels rather than space.
        mask
            True where the image counts.
        unit
            Unit of spacing and origin.
        name
            What to call it.
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
    def space(self) -> CoordinateSystem:
        """``"scanner"`` for what was read from NIfTI (its header travels in the metadata), else ``"world"``."""
        return space_of(self.metadata)

    @property
    def has_channel_axis(self) -> bool:
        """Whether the data's last axis holds channels."""
        return self.data.ndim > self.ndim

    def intensity(self, channel: int | None = None) -> npt.NDArray[np.float32]:
        """One scalar value per voxel, float32 ``(*grid.shape)``, as registration sees the image.

        Parameters
        ----------
        channel
            Which channel; ``None`` takes the luminance of RGB and the mean of other channels.

        Raises
        ------
        InputError
            If the channel does not exist or the values are complex.
        """
        data = np.asarray(self.data)
        if np.iscomplexobj(data):
            raise InputError(f"'{self.name}' holds complex numbers; register its magnitude instead.")
        if not self.has_channel_axis:
            return data.astype(np.float32)
        if channel is not None:
            if not 0 <= channel < self.channels:
                raise InputError(f"'{self.name}' has {self.channels} channels; channel {channel} does not exist.")
            return data[..., channel].astype(np.float32)
        if self.rgb and self.channels >= 3:
            return np.asarray(data[..., :3] @ _LUMINANCE, dtype=np.float32)
        return np.asarray(data.mean(axis=-1), dtype=np.float32)

    def replace(self, **changes: Any) -> Image:
        """A copy with some fields exchanged."""
        return replace(self, **changes)

    def with_unit(self, unit: str) -> Image:
        """The same image with its grid in another unit of length."""
        return self.replace(grid=self.grid.with_unit(unit))


def space_of(metadata: Mapping[str, Any]) -> CoordinateSystem:
    """The space of an image or layer, by the NIfTI header in its metadata or the lack of one."""
    return "scanner" if "nifti" in metadata else "world"


def bounds(points: Iterable[npt.ArrayLike]) -> tuple[FloatArray, FloatArray]:
    """Lowest and highest world coordinates over several point sets ``(N, D)``."""
    stacked = np.concatenate([np.asarray(p, dtype=np.float64) for p in points])
    return stacked.min(axis=0), stacked.max(axis=0)
