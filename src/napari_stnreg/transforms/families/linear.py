"""Translation, rigid, similarity and affine families, parametrized about the middle of the domain.

About a corner a rotation drags a large shift with it and the fit creeps; about the middle, and with the domain's
root-mean-square radius as the unit of length, one step of any parameter moves the domain's points by about as much.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.transforms.families.base import TransformFamily
from napari_stnreg.transforms.linear import AffineTransform


def radius(domain: Grid) -> float:
    """Root-mean-square distance of the domain's points from its middle (of a box: ``sqrt(sum(extent**2) / 12)``)."""
    extent = np.asarray(domain.shape) * domain.spacing
    return float(np.sqrt((extent**2).sum() / 12))


class LinearFamily(TransformFamily):
    """``T(x) = c + A (x - c) + r t`` with the domain's middle ``c`` and radius ``r``.

    The first ``D`` parameters are the shift ``t``; a subclass says how many more there are and what ``A`` they make.
    """

    @abstractmethod
    def extra(self, ndim: int) -> int:
        """Number of parameters besides the shift."""

    @abstractmethod
    def linear(self, extra: Tensor, ndim: int) -> Tensor:
        """The matrices ``A``, ``(B, D, D)``, of parameters ``(B, extra)``."""

    def parameter_shape(self, domain: Grid) -> tuple[int, ...]:
        """``(D + extra,)``, whatever the size of the domain."""
        return (domain.ndim + self.extra(domain.ndim),)

    def __call__(self, theta: Tensor, domain: Grid) -> AffineTransform:
        """The transforms with parameters ``(B, D + extra)``."""
        ndim = domain.ndim
        center = torch.tensor(domain.center, dtype=theta.dtype, device=theta.device)
        matrix = self.linear(theta[:, ndim:], ndim)
        shift = center - matrix @ center + radius(domain) * theta[:, :ndim]
        top = torch.cat([matrix, shift[..., None]], dim=-1)
        last = torch.zeros_like(top[:, :1])
        last[..., -1] = 1
        return AffineTransform(torch.cat([top, last], dim=1), domain.unit)

    def resample(self, theta: Tensor, old: Grid, new: Grid) -> Tensor:
        """The same transform's parameters about another domain; those of a pyramid's levels are equal."""
        new = new.with_unit(old.unit)
        ndim = old.ndim
        moved: FloatArray = new.center - old.center
        if np.allclose(moved, 0, atol=1e-9 * radius(old)) and np.isclose(radius(old), radius(new), rtol=1e-9):
            return theta.clone()
        offset = torch.tensor(moved, dtype=theta.dtype, device=theta.device)
        pull = self.linear(theta[:, ndim:], ndim) @ offset - offset
        shift = (pull + radius(old) * theta[:, :ndim]) / radius(new)
        return torch.cat([shift, theta[:, ndim:]], dim=1)


class TranslationFamily(LinearFamily):
    """Shifts: ``D`` parameters."""

    name = "translation"

    def extra(self, ndim: int) -> int:
        """None."""
        return 0

    def linear(self, extra: Tensor, ndim: int) -> Tensor:
        """The unit matrix."""
        return torch.eye(ndim, dtype=extra.dtype, device=extra.device).expand(extra.shape[0], ndim, ndim)


class RigidFamily(LinearFamily):
    """Shift and rotation: an angle from the first axis to the second in 2D, a rotation vector in 3D, in radians."""

    name = "rigid"

    def extra(self, ndim: int) -> int:
        """1 in 2D, 3 in 3D."""
        return 1 if ndim == 2 else 3

    def linear(self, extra: Tensor, ndim: int) -> Tensor:
        """Rotation matrices."""
        return rotation(extra)


class SimilarityFamily(RigidFamily):
    """Shift, rotation, and the logarithm of one scale for all axes."""

    name = "similarity"

    def extra(self, ndim: int) -> int:
        """One more than the rotation."""
        return super().extra(ndim) + 1

    def linear(self, extra: Tensor, ndim: int) -> Tensor:
        """Rotation matrices times a positive scale."""
        return rotation(extra[:, :-1]) * extra[:, -1].exp()[:, None, None]


class AffineFamily(LinearFamily):
    """Shift and any matrix ``I + M``: ``D + D * D`` parameters, ``M`` row by row."""

    name = "affine"

    def extra(self, ndim: int) -> int:
        """The entries of a matrix."""
        return ndim * ndim

    def linear(self, extra: Tensor, ndim: int) -> Tensor:
        """``I + M``."""
        return torch.eye(ndim, dtype=extra.dtype, device=extra.device) + extra.reshape(-1, ndim, ndim)


def rotation(angles: Tensor) -> Tensor:
    """Rotation matrices from an angle ``(B, 1)`` in 2D or a rotation vector ``(B, 3)`` in 3D.

    Notes
    -----
    Rodrigues' formula ``R = I + a K + b K K`` with ``a = sin(w) / w`` and ``b = (1 - cos(w)) / w**2``; near zero both
    are taken from their series, so that values and gradients stay right there.
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
