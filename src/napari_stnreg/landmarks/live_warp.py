"""Warp images again and again while a landmark is dragged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.ops.interpolation import Kernel, resize, sample_normalized, sampler_matrix
from napari_stnreg.ops.pullback import border_value
from napari_stnreg.transforms.base import Transform
from napari_stnreg.transforms.thin_plate import ThinPlateTransform


@dataclass(frozen=True)
class LiveParameters:
    """What live warping trades for speed, in 2D and in 3D.

    Parameters
    ----------
    max_voxels
        The fixed grid is coarsened to this many voxels. On one CPU core, 1024 x 1024 pixels take about 25 ms and a
        volume of 80 x 80 x 80 voxels 70 ms.
    lattice_step
        A nonlinear transform is evaluated at every n-th voxel and interpolated linearly in between. A thin-plate
        spline through 20 points that move by 8 pixels on 1024 x 1024 is off by 0.1 pixels at most.
    """

    max_voxels: tuple[int, int] = (2**20, 2**19)
    lattice_step: tuple[int, int] = (8, 4)


class LiveWarper:
    """Warp the images of one moving grid onto a fixed grid, many times a second.

    Parameters
    ----------
    images
        Images on one grid, such as the channels of one acquisition; read once.
    fixed
        Grid of the result; coarsened if it is large.
    labels
        Whether each image holds labels, which are sampled at the nearest voxel.
    parameters
        What is traded for speed.
    """

    def __init__(
        self,
        images: Sequence[Image],
        fixed: Grid,
        labels: Sequence[bool] = (),
        parameters: LiveParameters | None = None,
    ) -> None:
        self.parameters = parameters or LiveParameters()
        factor = max((fixed.size / self.parameters.max_voxels[fixed.ndim - 2]) ** (1 / fixed.ndim), 1.0)
        self.grid = fixed if factor == 1 else fixed.resized([max(int(n / factor), 1) for n in fixed.shape])
        self.is_full_resolution = factor == 1
        """Whether the result has the voxels of the fixed grid."""
        self._labels = tuple(labels) or (False,) * len(images)
        self._moving = images[0].grid.with_unit(fixed.unit)
        self._dtypes = [image.data.dtype for image in images]
        self._has_channels = [image.has_channel_axis for image in images]
        # Outside the image is the value of its border; the sampler knows zero only.
        self._fills = [
            torch.from_numpy(np.nan_to_num(np.zeros(image.channels) if nearest else border_value(image)))
            .to(torch.float32)
            .reshape(1, -1, *[1] * fixed.ndim)
            for image, nearest in zip(images, self._labels, strict=True)
        ]
        self._tensors = [self._tensor(image, nearest) for image, nearest in zip(images, self._labels, strict=True)]
        self._tensors = [tensor - fill for tensor, fill in zip(self._tensors, self._fills, strict=True)]
        self._to_sampler = sampler_matrix(self._moving.shape, np.asarray(np.linalg.inv(self._moving.matrix)))
        self._features: tuple[bytes, Tensor] | None = None

    def _tensor(self, image: Image, nearest: bool) -> Tensor:
        """Return an image as ``(1, C, *shape)``, float32, no finer than the result needs."""
        data = np.asarray(image.data)
        data = np.moveaxis(data, -1, 0) if image.has_channel_axis else data[None]
        tensor = torch.from_numpy(np.nan_to_num(np.ascontiguousarray(data, dtype=np.float32)))[None]
        ratio = self.grid.spacing.min() / image.grid.with_unit(self.grid.unit).spacing
        shape = [max(round(n / max(r, 1.0)), 1) for n, r in zip(image.grid.shape, ratio, strict=True)]
        if nearest or all(r < 1.5 for r in ratio):
            return tensor
        return resize(tensor, shape)

    def warp(self, transform: Transform, wanted: Sequence[int] | None = None) -> list[npt.NDArray[np.generic]]:
        """Warp every image; each result has the shape of :attr:`grid`, and the dtype and channels of its image.

        Parameters
        ----------
        transform
            Fixed world to moving world.
        wanted
            Positions of the images to warp; all by default.
        """
        numbers = range(len(self._tensors)) if wanted is None else wanted
        with torch.no_grad():
            coordinates = self._coordinates(transform)
            return [self._sample(number, coordinates) for number in numbers]

    def _sample(self, number: int, coordinates: Tensor) -> npt.NDArray[np.generic]:
        mode: Kernel = "nearest" if self._labels[number] else "linear"
        values = sample_normalized(self._tensors[number], coordinates, mode=mode) + self._fills[number]
        return self._as_array(values, number)

    def _coordinates(self, transform: Transform) -> Tensor:
        """Return the sampler's coordinates of every voxel of the result, ``(1, *shape, D)``."""
        shape, ndim = self.grid.shape, self.grid.ndim
        matrix = transform.as_matrix()
        step = np.full(ndim, self.parameters.lattice_step[ndim - 2])
        if matrix is not None:  # linear between the corners
            step = np.maximum(np.asarray(shape) - 1, 1)
        nodes = [(n - 2) // k + 2 for n, k in zip(shape, step, strict=True)]
        lattice = Grid(tuple(nodes), self.grid.matrix @ np.diag([*step.astype(float), 1.0]), self.grid.unit)
        to_sampler = torch.from_numpy(self._to_sampler.copy())
        coarse = self._mapped(transform, lattice) @ to_sampler[:-1, :-1].T + to_sampler[:-1, -1]
        fine = F.interpolate(
            coarse.movedim(-1, 1).to(torch.float32).contiguous(),
            size=[(m - 1) * int(k) + 1 for m, k in zip(nodes, step, strict=True)],
            mode="bilinear" if ndim == 2 else "trilinear",
            align_corners=True,
        )
        for axis, n in enumerate(shape, start=2):
            fine = fine.narrow(axis, 0, n)
        return fine.movedim(1, -1).contiguous()

    def _mapped(self, transform: Transform, lattice: Grid) -> Tensor:
        """Return the moving world positions of a lattice, double precision, ``(1, *shape, D)``."""
        if not isinstance(transform, ThinPlateTransform):
            return transform.on_grid(lattice, torch.float64)
        basis = transform.basis
        # While a moving point is dragged, only the weights change: the kernels at the lattice are kept.
        key = basis.points.tobytes() + np.float64(basis.stiffness).tobytes() + lattice.matrix.tobytes()
        if self._features is None or self._features[0] != key:
            points = torch.from_numpy(lattice.points().reshape(1, -1, lattice.ndim))
            self._features = (key, basis.features(points)[0])
        displacements = transform.targets.double() - torch.from_numpy(basis.points)
        moved = self._features[1] @ basis.weights(displacements)
        return torch.from_numpy(lattice.points())[None] + moved.reshape(1, *lattice.shape, lattice.ndim)

    def _as_array(self, values: Tensor, number: int) -> npt.NDArray[np.generic]:
        dtype = self._dtypes[number]
        array = values[0].numpy()
        if dtype.kind in "iub":
            low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
            array = np.clip(np.rint(array), low, high)
        array = array.astype(dtype, copy=False)
        return np.ascontiguousarray(np.moveaxis(array, 0, -1)) if self._has_channels[number] else array[0]
