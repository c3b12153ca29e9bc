"""Images that a model expects, and resampling of any pair of images to them.

Both images are resampled to one axis-aligned grid, the *lattice*, around the fixed image, at the voxel size of the
training. The network therefore does not depend on the images' own spacing, rotation, flips and shape, and predicts a
transform of the world.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.intensity import normalize
from napari_stnreg.core.units import conversion_factor
from napari_stnreg.networks.grid_generator import sampling_grid
from napari_stnreg.ops.interpolation import sample_normalized, smoothed_for
from napari_stnreg.transforms import AffineTransform, Transform

SizeMode = Literal["spacing", "extent"]
Normalization = Literal["percentiles", "none"]

SAME_SPACING = 0.02
"""Relative difference below which voxel sizes are treated as equal, so that nothing is interpolated."""


@dataclass(frozen=True)
class InputSpec:
    """The images that a network was trained on.

    Parameters
    ----------
    ndim, channels
        Spatial axes, and channels of each image.
    shape, spacing, unit
        Grid of the training. With the unit pixel, ``spacing`` is in voxels of the fixed image along its finest axis.
    size_mode
        ``"spacing"``: the lattice has the training's voxel size and the image's extent. ``"extent"``: physical size is
        ignored; the image is scaled to the size of the training grid.
    normalization
        ``"percentiles"`` (robust, to about 0 to 1) or ``"none"``.
    """

    ndim: int
    channels: int
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    unit: str = "pixel"
    size_mode: SizeMode = "spacing"
    normalization: Normalization = "percentiles"

    def __post_init__(self) -> None:
        sizes = (*self.shape, *self.spacing)
        if self.ndim not in (2, 3) or len(self.shape) != self.ndim or len(self.spacing) != self.ndim:
            raise InputError("The shape and spacing of a model need one value for each of its 2 or 3 axes.")
        if not all(np.isfinite(s) and s > 0 for s in sizes) or self.channels < 1:
            raise InputError("The shape, spacing and channels of a model must be greater than zero.")
        if self.size_mode not in get_args(SizeMode) or self.normalization not in get_args(Normalization):
            raise InputError(f"There is no size mode '{self.size_mode}' or normalization '{self.normalization}'.")

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        state = asdict(self)
        return {**state, "shape": list(self.shape), "spacing": list(self.spacing)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> InputSpec:
        """Build an input specification from :meth:`to_dict`."""
        values = dict(state)
        values["shape"] = tuple(int(n) for n in values["shape"])
        values["spacing"] = tuple(float(s) for s in values["spacing"])
        return cls(**values)

    def check(self, image: Image) -> None:
        """Check the axes and channels of an image.

        Raises
        ------
        InputError
            If they differ from the model's.
        """
        if image.ndim != self.ndim:
            raise InputError(f"The model was trained on {self.ndim}D images. '{image.name}' is {image.ndim}D.")
        if self.channels > 1 and image.channels != self.channels:
            raise InputError(
                f"The model was trained on images of {self.channels} channels. '{image.name}' has {image.channels}."
            )

    def lattice(self, fixed: Grid, warnings: list[str] | None = None, coarser: float = 1.0) -> Grid:
        """Return the axis-aligned lattice around a fixed image, in its unit.

        Parameters
        ----------
        fixed
            The fixed image's grid.
        warnings
            Warnings are appended here.
        coarser
            Factor of the voxel size.
        """
        corners = fixed.corners()
        extent = corners.max(axis=0) - corners.min(axis=0)
        spacing = self._spacing(fixed, extent, warnings) * coarser
        own = _aligned_spacing(fixed)
        if own is not None and np.allclose(own, spacing, rtol=SAME_SPACING):
            spacing = own
        return Grid.covering(corners, spacing, unit=fixed.unit)

    def _spacing(self, fixed: Grid, extent: FloatArray, warnings: list[str] | None) -> FloatArray:
        spacing = np.asarray(self.spacing, dtype=np.float64)
        if self.size_mode == "extent":
            return np.asarray(spacing * (extent / (np.asarray(self.shape) * spacing)).max())
        if self.unit == "pixel":
            return np.asarray(spacing * fixed.spacing.min())
        if fixed.unit == "pixel":
            if warnings is not None:
                warnings.append(
                    f"The model was trained on images in {self.unit}, but the fixed image has no physical unit. Its "
                    f"coordinates are interpreted as {self.unit}."
                )
            return spacing
        return np.asarray(spacing * conversion_factor(self.unit, fixed.unit))


def _aligned_spacing(grid: Grid) -> FloatArray | None:
    """Return the voxel size along the world's axes if the grid is axis-aligned, up to permutation and flips."""
    size = np.abs(grid.linear)
    largest = size.max(axis=1)
    if not np.allclose(size.sum(axis=1), largest, rtol=1e-6):
        return None
    return np.asarray(largest)


def grids_overlap(one: Grid, other: Grid) -> bool:
    """Return whether two grids overlap in the world: at least 5 % of one is inside the other.

    Images that overlap keep their positions, in training and at inference; others are aligned by their centers.
    """
    other = other.with_unit(one.unit)
    for here, there in ((one, other), (other, one)):
        index = there.to_index(here.resized([min(n, 8) for n in here.shape]).points())
        inside = ((index >= -0.5) & (index <= np.asarray(there.shape) - 0.5)).all(axis=-1)
        if inside.mean() >= 0.05:
            return True
    return False


def intensities(image: Image, input_spec: InputSpec, channel: int | None = None) -> npt.NDArray[np.float32]:
    """Return the network input ``(C, *shape)``, float32, normalized within the image's mask.

    Raises
    ------
    InputError
        If the image cannot be normalized: empty mask, NaN, a constant image.
    """
    if input_spec.channels == 1:
        planes = [image.intensity(channel)]
    else:
        planes = [image.intensity(c) for c in range(input_spec.channels)]
    if input_spec.normalization == "percentiles":
        planes = [normalize(plane, image.mask, image.name) for plane in planes]
    elif not all(np.isfinite(plane).all() for plane in planes):
        raise InputError(f"'{image.name}' holds NaN or infinite values. Replace them, for example by 0.")
    return np.stack(planes)


def resample_to_lattice(
    values: npt.NDArray[np.float32],
    grid: Grid,
    lattice: Grid,
    transform: Transform | None = None,
    *,
    labels: bool = False,
    zero_outside: bool = False,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Resample an image to a lattice, ``(1, C, *lattice.shape)`` float32.

    Parameters
    ----------
    values, grid
        Values ``(C, *grid.shape)`` and their grid.
    lattice
        Grid of the result.
    transform
        From the lattice's world to the image's; ``None`` for the identity.
    labels
        Nearest-neighbor interpolation without smoothing.
    zero_outside
        Zero outside the image, instead of the border value.
    device
        Device of the result.
    """
    # Copied, since torch would share the memory of the caller's array.
    array = torch.tensor(np.ascontiguousarray(values), dtype=torch.float32, device=device)[None]
    unit = lattice.unit
    grid = grid.with_unit(unit)
    if transform is None and grid.same_lattice(lattice):
        return array
    flipped = _flipped(array, grid, lattice) if transform is None else None
    if flipped is not None:
        return flipped
    if not labels:
        ratios = np.linalg.norm(np.linalg.inv(grid.linear) @ lattice.linear, axis=1)
        array = smoothed_for(array, ratios.tolist())
    through = AffineTransform.identity(lattice.ndim, unit).to(device) if transform is None else transform
    coordinates = sampling_grid(through, lattice, grid).float()
    padding: Literal["zeros", "border"] = "zeros" if zero_outside else "border"
    return sample_normalized(array, coordinates, padding=padding, mode="nearest" if labels else "linear")


def _flipped(array: Tensor, grid: Grid, lattice: Grid) -> Tensor | None:
    """Return the array with permuted and flipped axes if the grids differ by nothing else; otherwise ``None``."""
    step = np.linalg.inv(grid.matrix) @ lattice.matrix
    linear = step[:-1, :-1]
    order = np.abs(linear).argmax(axis=0)  # image axis along each lattice axis
    whole = np.zeros_like(linear)
    whole[order, np.arange(len(order))] = np.sign(linear[order, np.arange(len(order))])
    if sorted(order) != list(range(len(order))) or not np.allclose(linear, whole, atol=1e-6):
        return None
    flipped = [axis for axis in range(len(order)) if whole[order[axis], axis] < 0]
    first = step[:-1, -1]
    expected = [grid.shape[order[a]] - 1.0 if a in flipped else 0.0 for a in range(len(order))]
    origins = [first[order[a]] for a in range(len(order))]
    if not np.allclose(origins, expected, atol=1e-4) or tuple(grid.shape[o] for o in order) != lattice.shape:
        return None
    permuted = array.permute(0, 1, *(int(o) + 2 for o in order))
    return (permuted.flip([a + 2 for a in flipped]) if flipped else permuted).contiguous()
