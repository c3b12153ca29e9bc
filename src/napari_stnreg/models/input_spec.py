"""What a model expects of its images, and how any pair of images is brought to it: the working lattice.

A network sees arrays. Between the world and the array stands a *lattice*: upright in the world, at the voxel size the
network was trained at, around the fixed image. Both images are read on it, so that neither's own scale, rotation,
flip or shape reaches the network, and what the network answers is about the world.
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
"""Voxel sizes that differ by less than this share are taken for the same, so that nothing is interpolated."""


@dataclass(frozen=True)
class InputSpec:
    """What a network was trained on.

    Parameters
    ----------
    ndim, channels
        Axes of space, and channels of each image.
    shape, spacing, unit
        The lattice of the training. In pixels, ``spacing`` counts the fixed image's own (finest) voxels.
    size_mode
        ``"spacing"``: voxels have this size in the world, and the lattice is as large as the image. ``"extent"``: size
        in the world means nothing; the image is enlarged or shrunk until it fills the training's lattice.
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
            raise InputError("A model's lattice has as many sizes as the model has axes, 2 or 3.")
        if not all(np.isfinite(s) and s > 0 for s in sizes) or self.channels < 1:
            raise InputError("A model's lattice has sizes greater than zero.")
        if self.size_mode not in get_args(SizeMode) or self.normalization not in get_args(Normalization):
            raise InputError(f"There is no size mode '{self.size_mode}' or normalization '{self.normalization}'.")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        state = asdict(self)
        return {**state, "shape": list(self.shape), "spacing": list(self.spacing)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> InputSpec:
        """What :meth:`to_dict` described."""
        values = dict(state)
        values["shape"] = tuple(int(n) for n in values["shape"])
        values["spacing"] = tuple(float(s) for s in values["spacing"])
        return cls(**values)

    def check(self, image: Image) -> None:
        """Refuse an image that the network cannot be shown.

        Raises
        ------
        InputError
            If it has another number of axes or channels.
        """
        if image.ndim != self.ndim:
            raise InputError(f"The model was trained on {self.ndim}D images; '{image.name}' is {image.ndim}D.")
        if self.channels > 1 and image.channels != self.channels:
            raise InputError(
                f"The model was trained on images of {self.channels} channels; '{image.name}' has {image.channels}."
            )

    def lattice(self, fixed: Grid, warnings: list[str] | None = None, coarser: float = 1.0) -> Grid:
        """The upright lattice around a fixed image, in its unit.

        Parameters
        ----------
        fixed
            The fixed image's grid.
        warnings
            Sentences for a person are added here.
        coarser
            Take voxels this many times as large.
        """
        corners = fixed.corners()
        extent = corners.max(axis=0) - corners.min(axis=0)
        spacing = self._spacing(fixed, extent, warnings) * coarser
        own = _upright_spacing(fixed)
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
                    f"The model was trained on images in {self.unit}, and the fixed image has no unit of length: its "
                    f"coordinates were taken for {self.unit}."
                )
            return spacing
        return np.asarray(spacing * conversion_factor(self.unit, fixed.unit))


def _upright_spacing(grid: Grid) -> FloatArray | None:
    """Voxel size along the world's axes, if the grid runs along them in whatever order and direction."""
    size = np.abs(grid.linear)
    largest = size.max(axis=1)
    if not np.allclose(size.sum(axis=1), largest, rtol=1e-6):
        return None
    return np.asarray(largest)


def grids_overlap(one: Grid, other: Grid) -> bool:
    """Whether two images share a place in the world: a good part of either lies in the other's box.

    Those that do are read where they lie, in training as in use; others are put center on center.
    """
    other = other.with_unit(one.unit)
    for here, there in ((one, other), (other, one)):
        index = there.to_index(here.resized([min(n, 8) for n in here.shape]).points())
        inside = ((index >= -0.5) & (index <= np.asarray(there.shape) - 0.5)).all(axis=-1)
        if inside.mean() >= 0.05:
            return True
    return False


def intensities(image: Image, input_spec: InputSpec, channel: int | None = None) -> npt.NDArray[np.float32]:
    """The values a network is shown, ``(C, *shape)`` float32, normalized within the image's mask.

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
        raise InputError(f"'{image.name}' holds NaN or infinite values; replace them (for instance by 0).")
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
    """Values of an image on a lattice, ``(1, C, *lattice.shape)`` float32.

    Parameters
    ----------
    values, grid
        ``(C, *grid.shape)``, and where they lie.
    lattice
        Where they are wanted.
    transform
        From the lattice's world to the image's; ``None`` where they are the same.
    labels
        Take the nearest voxel, and smooth nothing.
    zero_outside
        Zero beyond the image, instead of its border's value.
    device
        Where to.
    """
    # copied: torch would share memory with, or warn of, an array that is somebody else's
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
    where = sampling_grid(through, lattice, grid).float()
    padding: Literal["zeros", "border"] = "zeros" if zero_outside else "border"
    return sample_normalized(array, where, padding=padding, mode="nearest" if labels else "linear")


def _flipped(array: Tensor, grid: Grid, lattice: Grid) -> Tensor | None:
    """The array with axes exchanged and turned round, if that is all that lies between two lattices."""
    step = np.linalg.inv(grid.matrix) @ lattice.matrix
    linear = step[:-1, :-1]
    order = np.abs(linear).argmax(axis=0)  # which of the image's axes runs along each of the lattice's
    whole = np.zeros_like(linear)
    whole[order, np.arange(len(order))] = np.sign(linear[order, np.arange(len(order))])
    if sorted(order) != list(range(len(order))) or not np.allclose(linear, whole, atol=1e-6):
        return None
    turned = [axis for axis in range(len(order)) if whole[order[axis], axis] < 0]
    first = step[:-1, -1]
    wanted = [grid.shape[order[a]] - 1.0 if a in turned else 0.0 for a in range(len(order))]
    begins = [first[order[a]] for a in range(len(order))]
    if not np.allclose(begins, wanted, atol=1e-4) or tuple(grid.shape[o] for o in order) != lattice.shape:
        return None
    moved = array.permute(0, 1, *(int(o) + 2 for o in order))
    return (moved.flip([a + 2 for a in turned]) if turned else moved).contiguous()
