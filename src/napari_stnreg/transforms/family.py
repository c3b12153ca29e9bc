"""Transform families: the grid generator of a spatial transformer, from parameters theta to a transform.

A family knows the shape of its parameters over a *domain* (the grid of the fixed image, or a level of its pyramid). It
does not know how they were found: free parameters and the output of a network go through the same call.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from napari_stnreg.core.grid import Grid
from napari_stnreg.transforms.base import Transform
from napari_stnreg.transforms.registry import FAMILIES


class TransformFamily(ABC):
    """Turns parameters into transforms over a domain.

    Parameters are dimensionless and balanced, so that one step size suits them all: for the linear families a unit
    step moves the points of the domain by about its root-mean-square radius; for the others it is one voxel of the
    domain. Zero is always the identity.
    """

    name: ClassVar[str]
    """Name in settings and files; a class that sets it is registered."""
    fit_method: ClassVar[Literal["linear", "control-points", "dense"]] = "control-points"
    """How a registration fits it: as an affine matrix, by gradients with respect to theta, or as a vector field."""
    composes_levels: ClassVar[bool] = False
    """Whether each pyramid level fits a new, finer transform that is composed with those of the coarser levels."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" in cls.__dict__:
            FAMILIES[cls.name] = cls

    @classmethod
    def for_registration(cls, domain: Grid, control_spacing: float | None = None, coarsening: float = 1.0) -> Self:
        """Build the family with options that suit a registration over a domain.

        Parameters
        ----------
        domain
            Grid of the fixed image.
        control_spacing
            Distance of control points in the smallest voxel size; ``None`` chooses by the size of the domain.
        coarsening
            Voxel size of the pyramid level relative to the finest one.
        """
        return cls()

    def max_voxels(self, domain: Grid) -> float:
        """Return the number of voxels of a pyramid level above which a fit of this family is too slow."""
        return math.inf

    @abstractmethod
    def parameter_shape(self, domain: Grid) -> tuple[int, ...]:
        """Return the shape of the parameters of one pair over this domain, without the batch axis."""

    @abstractmethod
    def __call__(self, theta: Tensor, domain: Grid) -> Transform:
        """Build the transforms with parameters ``(B, *parameter_shape)``; differentiable in them."""

    def identity(self, domain: Grid, batch: int = 1, device: torch.device | str = "cpu") -> Tensor:
        """Return the parameters of the identity, ``(B, *parameter_shape)``, float32."""
        return torch.zeros((batch, *self.parameter_shape(domain)), device=device)

    @abstractmethod
    def resample(self, theta: Tensor, old: Grid, new: Grid) -> Tensor:
        """Return the parameters over a finer or coarser domain that give (nearly) the same transform."""
