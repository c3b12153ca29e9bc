"""One image seen through one spatial transformer: grid, output, its anti-aliased twin, and the push-forward."""

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
from napari_stnreg.teaching.interpolation_stencil import Footprint, footprint
from napari_stnreg.teaching.state import ExplorerState
from napari_stnreg.teaching.theta import Theta
from napari_stnreg.transforms.base import Transform
from napari_stnreg.transforms.bspline import BSplineFamily
from napari_stnreg.transforms.families.base import TransformFamily
from napari_stnreg.transforms.families.linear import AffineFamily, radius
from napari_stnreg.transforms.thin_plate import ThinPlateFamily

_MOST_SUBPIXELS = 2**21
FloatPicture = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PushForward:
    """Every input pixel sent where it belongs, instead of every output pixel asking.

    Parameters
    ----------
    picture
        The output; 0 where nothing arrived, the mean where several did.
    arrivals
        How many input pixels arrived at each output pixel.
    holes
        Output pixels that look inside the input but got nothing.
    """

    picture: FloatPicture
    arrivals: npt.NDArray[np.int64]
    holes: npt.NDArray[np.bool_]

    @property
    def hole_share(self) -> float:
        """Holes as a share of the output pixels that look inside the input."""
        inside = self.holes | (self.arrivals > 0)
        return float(self.holes.sum() / max(inside.sum(), 1))


class Scene:
    """An image and an explorer's state; the world is the image's pixels.

    Parameters
    ----------
    image
        ``(y, x)``, or ``(y, x, C)`` with 3 or 4 channels. It is copied, never changed.
    state
        The transformer; see :attr:`state`, which may be set again at any time.

    Raises
    ------
    InputError
        If the image is not a picture of at least 4 by 4 finite values.
    """

    def __init__(self, image: npt.ArrayLike, state: ExplorerState | None = None) -> None:
        array = np.array(image, dtype=np.float32)
        if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
            raise InputError(f"The explorer shows one 2D picture, not an array of shape {array.shape}.")
        if min(array.shape[:2]) < 4:
            raise InputError("The explorer needs a picture of at least 4 by 4 pixels.")
        self.image: FloatPicture = np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0)
        self.grid = Grid.from_spacing(self.image.shape[:2])
        channels = self.image[None] if self.image.ndim == 2 else np.moveaxis(self.image, -1, 0)
        self.tensor = torch.from_numpy(np.ascontiguousarray(channels))[None]
        self.state = state or ExplorerState()
        self._families: dict[tuple[str, int], TransformFamily] = {}

    # -- localization: the parameters

    @property
    def theta(self) -> Theta:
        """The six numbers of the affine family."""
        return Theta.from_normalized(self.state.theta, self.grid.shape)

    @theta.setter
    def theta(self, theta: Theta) -> None:
        self.state = self.state.but(theta=theta.normalized(self.grid.shape))

    @property
    def family(self) -> TransformFamily:
        """The engine's transform family that the state asks for."""
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
        """Where the control points of the thin plate or the B-spline lie on the output, ``(N, 2)``; affine has none."""
        family = self.family
        if isinstance(family, ThinPlateFamily):
            return family.control_points(self.grid)
        if isinstance(family, BSplineFamily):
            return family.control_grid(self.grid).points().reshape(-1, 2)
        return np.zeros((0, 2))

    @property
    def bends(self) -> FloatArray:
        """Displacements of the control points, ``(N, 2)`` pixels, (y, x); setting them changes the state."""
        count = len(self.control_points)
        rows = self.state.bends.get(self.state.family, ())
        if len(rows) != count:  # another lattice than the one they were made for
            return np.zeros((count, 2))
        return np.asarray(np.array(rows) * np.asarray(self.grid.shape))

    @bends.setter
    def bends(self, pixels: npt.ArrayLike) -> None:
        shares = np.asarray(pixels, dtype=np.float64) / np.asarray(self.grid.shape)
        rows = tuple((float(y), float(x)) for y, x in shares)
        self.state = self.state.but(bends={**self.state.bends, self.state.family: rows})

    @property
    def parameters(self) -> Tensor:
        """The family's own parameters ``(1, *parameter_shape)``, float64; setting them changes the state."""
        if self.state.family == "affine":
            matrix = self.theta.matrix
            linear = matrix[::-1, 1::-1] - np.eye(2)
            return torch.from_numpy(np.concatenate([matrix[::-1, 2] / radius(self.grid), linear.ravel()]))[None]
        bends = torch.from_numpy(self.bends.copy())
        if self.state.family == "tps":
            return bends[None]
        return bends.T.reshape(1, *self.family.parameter_shape(self.grid))

    @parameters.setter
    def parameters(self, values: Tensor) -> None:
        array = values.detach().double().numpy()[0]
        if self.state.family == "affine":
            linear = (np.eye(2) + array[2:].reshape(2, 2))[::-1, ::-1]
            self.theta = Theta(np.column_stack([linear, array[1::-1] * radius(self.grid)]))
        elif self.state.family == "tps":
            self.bends = array
        else:
            self.bends = array.reshape(2, -1).T

    # -- grid generator

    @property
    def transform(self) -> Transform:
        """Output pixels to input pixels, in the input's pixels and (y, x) order."""
        if self.state.family == "affine":
            return self.theta.transform(self.grid)
        return self.family(self.parameters, self.grid)

    @property
    def output_grid(self) -> Grid:
        """The output's pixels, over the extent of the input whatever their number."""
        return self.grid.resized(self.state.output_shape or self.grid.shape)

    def nodes(self, count: int = 9) -> tuple[FloatArray, FloatArray]:
        """A regular grid on the output and its image on the input, point to point, ``(rows, columns, 2)`` each.

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
        """What the transformer gives, ``(y, x)`` or ``(y, x, C)``."""
        # Nothing here requires a gradient, but outside no_grad a thin plate keeps its kernels for the next picture.
        with torch.enable_grad():
            points = self.transform.on_grid(self.output_grid, torch.float32)
        return self._picture(points)

    def antialiased(self) -> FloatPicture:
        """The mean over each output pixel's area on the input, instead of its one point.

        Notes
        -----
        As many points as input pixels lie under an output pixel (at most 8 by 8) are read and averaged.
        """
        grid = self.output_grid
        points = self._points(grid)
        steps = [np.linalg.norm(np.diff(points, axis=axis), axis=-1).max() for axis in (0, 1)]
        most = max(math.isqrt(_MOST_SUBPIXELS // grid.size), 1)
        parts = [int(np.clip(math.ceil(step - 1e-6), 1, min(8, most))) for step in steps]
        fine = self._read(grid.resized([n * k for n, k in zip(grid.shape, parts, strict=True)]))
        shape = (grid.shape[0], parts[0], grid.shape[1], parts[1], *fine.shape[2:])
        return np.asarray(fine.reshape(shape).mean(axis=(1, 3)), dtype=np.float32)

    def look(self, pixel: tuple[int, int]) -> Footprint:
        """Where one output pixel (y, x) samples, and what it reads there."""
        place = self.transform.map_points(self.output_grid.to_world(pixel)[None])[0]
        return footprint(self.image, place.tolist(), self.state.kernel, self.state.padding)

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
        """Send every input pixel to the output pixel nearest to where it belongs.

        Raises
        ------
        InputError
            If theta has no inverse: the grid is flat, and no pixel has one place to go.
        """
        if self.state.family == "affine" and abs(np.linalg.det(self.theta.matrix[:, :2])) < 1e-9:
            raise InputError("Theta has no inverse: its grid is flat, so the input cannot be pushed forward.")
        grid = self.output_grid
        with torch.no_grad():
            arrive = self.transform.inverse().on_grid(self.grid, torch.float64)[0].numpy()
        index = np.rint(grid.to_index(arrive)).reshape(-1, 2)
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
