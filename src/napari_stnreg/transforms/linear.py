"""Affine transforms, and the translation, rigid, similarity and affine families.

The families are parametrized about the center of the domain, with its root-mean-square radius as the unit of length.
About a corner, a rotation would include a large shift and the optimization would be slow; about the center, one step
of any parameter moves the points of the domain by about the same distance.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.ops.lattice import affine_points, lattice_points
from napari_stnreg.transforms.base import InversionMethod, Transform
from napari_stnreg.transforms.family import TransformFamily


class AffineTransform(Transform):
    """``T(x) = A x + t``; translation, rigid and similarity transforms are affine transforms too.

    Parameters
    ----------
    matrix
        Homogeneous ``(B, D + 1, D + 1)`` or ``(D + 1, D + 1)``, fixed world to moving world, (z, y, x) order.
    unit
        Unit of both worlds.
    """

    family = "affine"
    matrix: Tensor

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
        """Build the identity."""
        return cls(torch.eye(ndim + 1, dtype=torch.float64), unit)

    @classmethod
    def from_theta(cls, theta: Tensor, grid: Grid) -> AffineTransform:
        """Convert the paper's matrices, which map coordinates from -1 to 1, to the world of a grid.

        Parameters
        ----------
        theta
            ``(B, D, D + 1)`` in the paper's order (x, y, z), fixed to moving.
        grid
            Axis-aligned grid of both images, whose outer faces are at -1 and 1.

        References
        ----------
        Jaderberg et al., Spatial transformer networks, NeurIPS 2015, equation 1.
        """
        half = torch.tensor(grid.spacing * grid.shape / 2, dtype=theta.dtype, device=theta.device)
        center = torch.tensor(grid.center, dtype=theta.dtype, device=theta.device)
        matrix = theta[:, :, :-1].flip(1, 2) * half[:, None] / half
        shift = theta[:, :, -1].flip(1) * half + center - matrix @ center
        last = torch.zeros_like(theta[:, :1])
        last[..., -1] = 1
        return cls(torch.cat([torch.cat([matrix, shift[..., None]], dim=2), last], dim=1), grid.unit)

    @override
    def __call__(self, points: Tensor) -> Tensor:
        return affine_points(points, self.matrix.to(points.dtype))

    @override
    def on_grid(self, grid: Grid, dtype: torch.dtype | None = None) -> Tensor:
        grid = self.check_grid(grid)
        dtype = dtype or self.matrix.dtype
        # The product is formed in double precision: far from the origin it is a small difference of large numbers.
        wide = dtype if self.matrix.device.type == "mps" else torch.float64
        to_world = torch.tensor(grid.matrix, dtype=wide, device=self.matrix.device)
        return lattice_points((self.matrix.to(wide) @ to_world).to(dtype), grid.shape)

    @override
    def inverse(self) -> AffineTransform:
        back = AffineTransform(torch.linalg.inv(self.matrix.double()), self.unit)
        return back.reversed_like(self)

    def after(self, first: AffineTransform) -> AffineTransform:
        """Return the single affine map ``x -> self(first(x))``."""
        dtype = torch.promote_types(self.matrix.dtype, first.matrix.dtype)
        product = AffineTransform(self.matrix.to(dtype) @ first.matrix.to(dtype), self.unit)
        product.coordinate_systems = (first.coordinate_systems[0], self.coordinate_systems[1])
        product.itk_matrices = (first.itk_matrices[0], self.itk_matrices[1])
        return product.with_domain(first.domain)

    @override
    def as_matrix(self) -> FloatArray:
        return np.asarray(self.matrix[0].detach().cpu().numpy(), dtype=np.float64)

    @override
    def linear_part(self) -> Tensor:
        return self.matrix.double()

    @property
    @override
    def inversion_method(self) -> InversionMethod:
        return "exact"

    @override
    def _change_coordinates(self, matrix: FloatArray, unit: str) -> AffineTransform:
        outward = torch.from_numpy(matrix).to(self.device)
        return AffineTransform(outward @ self.matrix.double() @ torch.linalg.inv(outward), unit)

    @override
    def _translated_frame(self, offset: FloatArray) -> AffineTransform:
        # Numerically better than the products of change_coordinates.
        matrix = self.matrix.double().clone()
        shift = torch.as_tensor(np.array(offset), dtype=torch.float64, device=matrix.device)
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


def radius(domain: Grid) -> float:
    """Return the root-mean-square distance of a box's points from its center, ``sqrt(sum(extent**2) / 12)``."""
    extent = domain.extent
    return float(np.sqrt((extent**2).sum() / 12))


class LinearFamily(TransformFamily):
    """``T(x) = c + A (x - c) + r t`` with the center ``c`` and the radius ``r`` of the domain.

    The first ``D`` parameters are the shift ``t``. A subclass defines the others and the matrix ``A``.
    """

    fit_method = "linear"

    @abstractmethod
    def n_linear(self, ndim: int) -> int:
        """Return the number of parameters besides the shift."""

    @abstractmethod
    def linear(self, theta: Tensor, ndim: int) -> Tensor:
        """Return the matrices ``A``, ``(B, D, D)``, of the parameters besides the shift, ``(B, n_linear)``."""

    @override
    def parameter_shape(self, domain: Grid) -> tuple[int, ...]:
        return (domain.ndim + self.n_linear(domain.ndim),)

    @override
    def __call__(self, theta: Tensor, domain: Grid) -> AffineTransform:
        ndim = domain.ndim
        center = torch.tensor(domain.center, dtype=theta.dtype, device=theta.device)
        matrix = self.linear(theta[:, ndim:], ndim)
        shift = center - matrix @ center + radius(domain) * theta[:, :ndim]
        top = torch.cat([matrix, shift[..., None]], dim=-1)
        last = torch.zeros_like(top[:, :1])
        last[..., -1] = 1
        return AffineTransform(torch.cat([top, last], dim=1), domain.unit)

    @override
    def resample(self, theta: Tensor, old: Grid, new: Grid) -> Tensor:
        # Equal on all levels of a pyramid, which have one center and extent.
        new = new.with_unit(old.unit)
        ndim = old.ndim
        offset: FloatArray = new.center - old.center
        if np.allclose(offset, 0, atol=1e-9 * radius(old)) and np.isclose(radius(old), radius(new), rtol=1e-9):
            return theta.clone()
        step = torch.tensor(offset, dtype=theta.dtype, device=theta.device)
        change = self.linear(theta[:, ndim:], ndim) @ step - step
        shift = (change + radius(old) * theta[:, :ndim]) / radius(new)
        return torch.cat([shift, theta[:, ndim:]], dim=1)


class TranslationFamily(LinearFamily):
    """Translations: ``D`` parameters."""

    name = "translation"

    @override
    def n_linear(self, ndim: int) -> int:
        return 0

    @override
    def linear(self, theta: Tensor, ndim: int) -> Tensor:
        return torch.eye(ndim, dtype=theta.dtype, device=theta.device).expand(theta.shape[0], ndim, ndim)


class RigidFamily(LinearFamily):
    """Shift and rotation: an angle from the first axis to the second in 2D, a rotation vector in 3D, in radians."""

    name = "rigid"

    @override
    def n_linear(self, ndim: int) -> int:
        return 1 if ndim == 2 else 3

    @override
    def linear(self, theta: Tensor, ndim: int) -> Tensor:
        return rotation(theta)


class SimilarityFamily(RigidFamily):
    """Shift, rotation, and the logarithm of one scale for all axes."""

    name = "similarity"

    @override
    def n_linear(self, ndim: int) -> int:
        return super().n_linear(ndim) + 1

    @override
    def linear(self, theta: Tensor, ndim: int) -> Tensor:
        return rotation(theta[:, :-1]) * theta[:, -1].exp()[:, None, None]


class AffineFamily(LinearFamily):
    """Shift and any matrix ``I + M``: ``D + D * D`` parameters, ``M`` row by row."""

    name = "affine"

    @override
    def n_linear(self, ndim: int) -> int:
        return ndim * ndim

    @override
    def linear(self, theta: Tensor, ndim: int) -> Tensor:
        return torch.eye(ndim, dtype=theta.dtype, device=theta.device) + theta.reshape(-1, ndim, ndim)


def rotation(angles: Tensor) -> Tensor:
    """Return rotation matrices from an angle ``(B, 1)`` in 2D or a rotation vector ``(B, 3)`` in 3D.

    Notes
    -----
    Rodrigues' formula ``R = I + a K + b K K`` with ``a = sin(w) / w`` and ``b = (1 - cos(w)) / w**2``; near zero both
    are computed from their series, so that values and gradients stay accurate. Differentiable, unlike
    :func:`napari_stnreg.core.linalg.rotation_from_vector`.
    """
    if angles.shape[1] == 1:
        sine, cosine = angles[:, 0].sin(), angles[:, 0].cos()
        return torch.stack([cosine, -sine, sine, cosine], dim=-1).reshape(-1, 2, 2)
    square = (angles * angles).sum(dim=-1)
    near = square < 1e-4
    width = torch.where(near, torch.ones_like(square), square).sqrt()
    half = (width / 2).sin() / width
    a = torch.where(near, 1 - square / 6 * (1 - square / 20), width.sin() / width)
    b = torch.where(near, 0.5 - square / 24 * (1 - square / 30), 2 * half * half)
    z, y, x = angles.unbind(dim=-1)
    zero = torch.zeros_like(z)
    cross = torch.stack([zero, -x, y, x, zero, -z, -y, z, zero], dim=-1).reshape(-1, 3, 3)
    eye = torch.eye(3, dtype=angles.dtype, device=angles.device)
    return eye + a[:, None, None] * cross + b[:, None, None] * (cross @ cross)
