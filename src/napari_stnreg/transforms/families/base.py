"""Families: the grid generator's half of a spatial transformer, from parameters theta to a transform.

A family knows the shape of its parameters over a *domain* (the grid of the fixed image, or a level of its pyramid)
and nothing about how they were found: free parameters and a network's output go through the same call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from napari_stnreg.core.grid import Grid
from napari_stnreg.transforms.base import Transform


class TransformFamily(ABC):
    """Turns parameters into transforms over a domain.

    Parameters are dimensionless and balanced, so that one step size suits them all: for the linear families a unit
    step moves the domain's points by about its root-mean-square radius; for the others it is one voxel of the domain.
    Zero is always the identity.
    """

    name: ClassVar[str]

    @abstractmethod
    def parameter_shape(self, domain: Grid) -> tuple[int, ...]:
        """Shape of one pair's parameters over this domain, without the batch axis."""

    @abstractmethod
    def __call__(self, theta: Tensor, domain: Grid) -> Transform:
        """The transforms with parameters ``(B, *parameter_shape)``; differentiable in them."""

    def identity(self, domain: Grid, batch: int = 1, device: torch.device | str = "cpu") -> Tensor:
        """Parameters of the identity, ``(B, *parameter_shape)``, float32."""
        return torch.zeros((batch, *self.parameter_shape(domain)), device=device)

    @abstractmethod
    def resample(self, theta: Tensor, old: Grid, new: Grid) -> Tensor:
        """The parameters over a finer or coarser domain that give (nearly) the same transform."""
