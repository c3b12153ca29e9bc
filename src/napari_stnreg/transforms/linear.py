"""Translation, rigid, similarity and affine transforms, and how parameters become one of them."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.transforms.base import Transform, affine_points, lattice_points


class AffineTransform(Transform):
    """A linear map with a shift, ``T(x) = A x + t``; the translation, rigid and similarity families give one too.

    Parameters
    ----------
    matrix
        Homogeneous ``(B, D + 1, D + 1)`` or ``(D + 1, D + 1)``, fixed world to moving world, (z, y, x) order.
    unit
        Unit of both worlds.
    """

    family = "affine"

    def __init__(self, matrix: Tensor | npt.ArrayLike, unit: str = "pixel") -> None:
        values = matrix if isinstance(matrix, Tensor) else torch.tensor(np.asarray(matrix, dtype=np.float64))
        values = values if values.ndim == 3 else values[None]
        if values.shape[-1] != values.shape[-2] or values.shape[-1] not in (3, 4):
            raise InputError(f"An affine matrix is 3x3 or 4x4, not {tuple(values.shape[1:])}.")
        self.matrix = values
        self.ndim = int(values.shape[-1]) - 1
        self.unit = unit

    @classmethod
    def identity(cls, ndim: int, unit: str = "pixel") -> AffineTransform:
        """The map that leaves every point where it is."""
        return cls(torch.eye(ndim + 1, dtype=torch.float64), unit)

    @override
    def __call__(self, points: Tensor) -> Tensor:
        return affine_points(points, self.matrix.to(points.dtype))

    @override
    def on_grid(self, grid: Grid, dtype: torch.dtype | None = None) -> Tensor:
        """Map every voxel center of a grid (see :meth:`Transform.on_grid`); no point list is made."""
        grid = self.check_grid(grid)
        dtype = dtype or self.matrix.dtype
        # The product is formed in double precision: far from the origin it is a small difference of large numbers.
        wide = dtype if self.matrix.device.type == "mps" else torch.float64
        to_world = torch.tensor(grid.matrix, dtype=wide, device=self.matrix.device)
        return lattice_points((self.matrix.to(wide) @ to_world).to(dtype), grid.shape)

    @override
    def inverse(self) -> AffineTransform:
        back = AffineTransform(torch.linalg.inv(self.matrix.double()), self.unit)
        return back.with_coordinate_systems(*reversed(self.coordinate_systems))

    def after(self, first: AffineTransform) -> AffineTransform:
        """The single affine ``x -> self(first(x))``."""
        dtype = torch.promote_types(self.matrix.dtype, first.matrix.dtype)
        product = AffineTransform(self.matrix.to(dtype) @ first.matrix.to(dtype), self.unit)
        return product.with_coordinate_systems(first.coordinate_systems[0], self.coordinate_systems[1])

    def numpy(self) -> npt.NDArray[np.float64]:
        """The homogeneous ``(D + 1, D + 1)`` matrix of a single transform."""
        return np.asarray(self.matrix[0].detach().cpu().numpy(), dtype=np.float64)

    @override
    def translated_frame(self, by: FloatArray) -> AffineTransform:
        matrix = self.matrix.double().clone()
        shift = torch.as_tensor(np.array(by), dtype=torch.float64, device=matrix.device)
        matrix[:, :-1, -1] += shift - matrix[:, :-1, :-1] @ shift
        return AffineTransform(matrix, self.unit)

    @override
    def tensors(self) -> dict[str, Tensor]:
        return {"matrix": self.matrix}

    @override
    def settings(self) -> dict[str, Any]:
        return {"unit": self.unit}

    @override
    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> Self:
        return cls(tensors["matrix"], settings["unit"])
