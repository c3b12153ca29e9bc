"""One image through one spatial transformer: sampling grid, output, anti-aliased output and push-forward."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.ops.interpolation import sample
from napari_stnreg.teaching.interpolation_stencil import InterpolationStencil, interpolation_stencil
from napari_stnreg.teaching.state import ExplorerState
from napari_stnreg.teaching.theta import Theta
from napari_stnreg.transforms.base import Transform
from napari_stnreg.transforms.bspline import BSplineFamily
from napari_stnreg.transforms.family import TransformFamily
from napari_stnreg.transforms.linear import AffineFamily, radius
from napari_stnreg.transforms.thin_plate import ThinPlateFamily

MAX_SUBPIXELS = 2**21
FloatPicture = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PushForward:
    """Result of pushing every input pixel to its output position, the opposite of the pull-back.

    Parameters
    ----------
    picture
        The output; 0 where no pixel arrived, the mean where several did.
    arrivals
        Number of input pixels that arrived at each output pixel.
    holes
        Output pixels that sample inside the input but received nothing.
    """

    picture: FloatPicture
    arrivals: npt.NDArray[np.int64]
    holes: npt.NDArray[np.bool_]

    @property
    def hole_fraction(self) -> float:
        """Holes as a fraction of the output pixels that sample inside the input."""
        inside = self.holes | (self.arrivals > 0)
        return float(self.holes.sum() / max(inside.sum(), 1))


class Scene:
    """An image and the explorer's state, in pixel coordinates.

    Parameters
    ----------
    image
        ``(y, x)``, or ``(y, x, C)`` with 3 or 4 channels. It is copied.
    state
        The transformer; :attr:`state` can be set at any time.

    Raises
    ------
    InputError
        If the image is not 2D or smaller than 4 by 4 pixels.
    """

    def __init__(self, image: npt.ArrayLike, state: ExplorerState | None = None) -> None:
        array = np.array(image, dtype=np.float32)
        if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
            raise InputError(f"The explorer needs one 2D image, not an array of shape {array.shape}.")
        if min(array.shape[:2]) < 4:
            raise InputError(f"The explorer needs an image of at least 4 by 4 pixels, not {array.shape}.")
        self.image: FloatPicture = np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0)
        self.grid = Grid.from_spacing(self.image.shape[:2])
        channels = self.image[None] if self.image.ndim == 2 else np.moveaxis(self.image, -1, 0)
        self.tensor = torch.from_numpy(np.ascontiguousarray(channels))[None]
        self.state = state or ExplorerState()
        self._families: dict[tuple[str, int], TransformFamily] = {}

    # -- localization: the parameters

    @property
    def theta(self) -> Theta:
        """Parameters of the affine family."""
        return Theta.from_normalized(self.state.theta, self.grid.shape)

    @theta.setter
    def theta(self, theta: Theta) -> None:
        self.state = self.state.replace(theta=theta.normalized(self.grid.shape))

    @property
    def family(self) -> TransformFamily:
        """Transform family of the state."""
        key = (self.state.family, self.state.lattice)
        if key not in self._families:
            made: TransformFamily = AffineFamily()
            if key[0] == "tps":
                made = ThinPlateFamily(points=key[1])
            elif key[0] == "bspline":
                made = BSplineFamily(spacing=[n / key[1] for n in self.grid.shape])
            self._families[key] = made
        return self._families[key]

    @property
    def control_points(self) -> FloatArray:
        """Control points of a thin plate or B-spline on the output, ``(N, 2)``; empty for affine."""
        family = self.family
        if isinstance(family, ThinPlateFamily):
            return family.control_points(self.grid)
        if isinstance(family, BSplineFamily):
            return family.control_grid(self.grid).points().reshape(-1, 2)
        return np.zeros((0, 2))

    @property
    def displacements(self) -> FloatArray:
        """Displacements of the control points, ``(N, 2)`` pixels, (y, x). Setting them changes the state."""
        count = len(self.control_points)
        rows = self.state.displacements.get(self.state.family, ())
        if len(rows) != count:  # they belong to another lattice
            return np.zeros((count, 2))
        return np.asarray(np.array(rows) * np.asarray(self.grid.shape))

    @displacements.setter
    def displacements(self, pixels: npt.ArrayLike) -> None:
        fractions = np.asarray(pixels, dtype=np.float64) / np.asarray(self.grid.shape)
        rows = tuple((float(y), float(x)) for y, x in fractions)
        self.state = self.state.replace(displacements={**self.state.displacements, self.state.family: rows})

    @property
    def parameters(self) -> Tensor:
        """Parameters of the family ``(1, *parameter_shape)``, float64. Setting them changes the state."""
        if self.state.family == "affine":
            matrix = self.theta.matrix
            linear = matrix[::-1, 1::-1] - np.eye(2)
            return torch.from_numpy(np.concatenate([matrix[::-1, 2] / radius(self.grid), linear.ravel()]))[None]
        displacements = torch.from_numpy(self.displacements.copy())
        if self.state.family == "tps":
            return displacements[None]
        return displacements.T.reshape(1, *self.family.parameter_shape(self.grid))

    @parameters.setter
    def parameters(self, values: Tensor) -> None:
        array = values.detach().double().numpy()[0]
        if self.state.family == "affine":
            linear = (np.eye(2) + array[2:].reshape(2, 2))[::-1, ::-1]
            self.theta = Theta(np.column_stack([linear, array[1::-1] * radius(self.grid)]))
        elif self.state.family == "tps":
            self.displacements = array
        else:
            self.displacements = array.reshape(2, -1).T

    # -- grid generator

    @property
    def transform(self) -> Transform:
        """Transform of output to input pixels, (y, x) order."""
        if self.state.family == "affine":
            return self.theta.transform(self.grid)
        return self.family(self.parameters, self.grid)

    @property
    def output_grid(self) -> Grid:
        """Grid of the output, over the extent of the input."""
        return self.grid.resized(self.state.output_shape or self.grid.shape)

    def grid_points(self, count: int = 9) -> tuple[FloatArray, FloatArray]:
        """Return a regular grid on the output and its image on the input, ``(rows, columns, 2)`` each.

        Parameters
        ----------
        count
            Points along the longer side.
        """
        step = max(self.grid.shape) / max(count - 1, 1)
        axes = [np.linspace(-0.5, n - 0.5, max(round(n / step), 1) + 1) for n in self.grid.shape]
        regular = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        return regular, self.transform.map_points(regular.reshape(-1, 2)).reshape(regular.shape)

    # -- sampler

    def output(self) -> FloatPicture:
        """Return the output of the transformer, ``(y, x)`` or ``(y, x, C)``."""
        # No gradient is needed, but outside no_grad a thin plate caches its kernels.
        with torch.enable_grad():
            points = self.transform.on_grid(self.output_grid, torch.float32)
        return self._picture(points)

    def antialiased(self) -> FloatPicture:
        """Return the output averaged over each output pixel's area on the input.

        Notes
        -----
        As many points as input pixels are covered by an output pixel (at most 8 by 8) are sampled and averaged.
        """
        grid = self.output_grid
        points = self._points(grid)
        steps = [np.linalg.norm(np.diff(points, axis=axis), axis=-1).max() for axis in (0, 1)]
        most = max(math.isqrt(MAX_SUBPIXELS // grid.size), 1)
        parts = [int(np.clip(math.ceil(step - 1e-6), 1, min(8, most))) for step in steps]
        fine = self._read(grid.resized([n * k for n, k in zip(grid.shape, parts, strict=True)]))
        shape = (grid.shape[0], parts[0], grid.shape[1], parts[1], *fine.shape[2:])
        return np.asarray(fine.reshape(shape).mean(axis=(1, 3)), dtype=np.float32)

    def stencil_at(self, pixel: tuple[int, int]) -> InterpolationStencil:
        """Return the interpolation stencil of one output pixel (y, x)."""
        position = self.transform.map_points(self.output_grid.to_world(pixel)[None])[0]
        return interpolation_stencil(self.image, position.tolist(), self.state.kernel, self.state.padding)

    def _points(self, grid: Grid) -> FloatPicture:
        with torch.no_grad():
            return np.asarray(self.transform.on_grid(grid, torch.float32)[0].numpy())

    def _read(self, grid: Grid) -> FloatPicture:
        with torch.no_grad():
            return self._picture(self.transform.on_grid(grid, torch.float32))

    def _picture(self, points: Tensor) -> FloatPicture:
        with torch.no_grad():
            read = sample(self.tensor, points, padding=self.state.padding, mode=self.state.kernel)[0]
        return np.asarray(read[0].numpy() if self.image.ndim == 2 else read.movedim(0, -1).numpy())

    # -- direction

    def push_forward(self) -> PushForward:
        """Push every input pixel to the nearest output pixel.

        Raises
        ------
        InputError
            If theta is singular.
        """
        if self.state.family == "affine" and abs(np.linalg.det(self.theta.matrix[:, :2])) < 1e-9:
            raise InputError("Theta has no inverse, so the input cannot be pushed forward.")
        grid = self.output_grid
        with torch.no_grad():
            arrive = self.transform.inverse().on_grid(self.grid, torch.float64)[0].numpy()
        index = np.floor(grid.to_index(arrive) + 0.5).reshape(-1, 2)
        inside = ((index >= 0) & (index < grid.shape)).all(axis=1)
        place = np.ravel_multi_index(tuple(index[inside].astype(np.intp).T), grid.shape)
        arrivals = np.bincount(place, minlength=grid.size)
        values = self.image.reshape(self.grid.size, -1)[inside]
        sums = [np.bincount(place, weights=values[:, c], minlength=grid.size) for c in range(values.shape[1])]
        picture = np.stack(sums, axis=-1) / np.maximum(arrivals, 1)[:, None]
        looks = self._points(grid)
        within = ((looks >= 0) & (looks <= np.asarray(self.grid.shape) - 1)).all(axis=-1)
        arrivals = arrivals.reshape(grid.shape)
        shape = (*grid.shape, *self.image.shape[2:])
        return PushForward(picture.reshape(shape).astype(np.float32), arrivals, within & (arrivals == 0))
