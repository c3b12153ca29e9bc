"""What every localization is: something that, given two images, says the parameters of a spatial transform."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.transforms import Transform, TransformFamily


class LocalizationNetwork(nn.Module, ABC):
    """The first part of a spatial transformer (Jaderberg et al. 2015): from images to the parameters of a family.

    Parameters
    ----------
    ndim
        2 or 3.
    channels
        Of each image.

    Notes
    -----
    A subclass has a :attr:`family`, a :meth:`forward` that gives its parameters, and a :meth:`config` from which
    :func:`~napari_stnreg.networks.make_network` builds it again. Fixed and moving image lie on one upright lattice,
    whose world is where the transform acts: ``T`` maps its fixed points to moving ones, so that
    ``warped(x) = moving(T(x))``.
    """

    name: ClassVar[str]
    family: TransformFamily
    autocast: torch.dtype | None = None
    """Half precision for the layers, or ``None``. Parameters leave in float32, for coordinates need it."""

    def __init__(self, ndim: int, channels: int = 1) -> None:
        super().__init__()
        if ndim not in (2, 3):
            raise InputError(f"Networks are for 2D and 3D images, not {ndim}D.")
        if channels < 1:
            raise InputError("A network needs images of at least one channel.")
        self.ndim, self.channels = ndim, channels

    @abstractmethod
    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """The family's parameters ``(B, *parameter_shape)``.

        Parameters
        ----------
        fixed, moving
            ``(B, C, *shape)``, of the shape of :meth:`domain`.
        """

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Name and sizes, JSON-ready: all that :func:`~napari_stnreg.networks.make_network` needs."""

    def domain(self, grid: Grid) -> Grid:
        """The lattice the network wants, when the images lie on ``grid``: whole voxels more or less at each side."""
        return grid

    def parameter_domain(self, domain: Grid) -> Grid:
        """The lattice over which the family's parameters are meant; coarser where the network answers coarsely."""
        return domain

    def theta(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """:meth:`forward` in the precision of :attr:`autocast`, its answer in float32."""
        if self.autocast is None:
            theta: Tensor = self(fixed, moving)
            return theta
        with torch.autocast(fixed.device.type, self.autocast):
            theta = self(fixed, moving)
        return theta.float()

    def transform(self, fixed: Tensor, moving: Tensor, grid: Grid) -> Transform:
        """The transforms of a batch of pairs.

        Parameters
        ----------
        fixed, moving
            ``(B, C, *grid.shape)``.
        grid
            The lattice both lie on. Its size is free: what the network needs is cut out or padded here.

        Returns
        -------
        Transform
            Fixed world to moving world of the lattice, ``B`` of them; differentiable in the network's weights.
        """
        domain = self.domain(grid)
        theta = self.theta(fitted(fixed, grid, domain), fitted(moving, grid, domain))
        return self.family(theta, self.parameter_domain(domain))


class FreeParameters(LocalizationNetwork):
    """The localization that looks at nothing: parameters of its own, to be optimized for one pair.

    Parameters
    ----------
    family
        What they mean.
    grid
        Over which lattice.

    Notes
    -----
    With it, fitting one pair and training a network are the same loop. (The registrations of this package use the
    quicker loops of ``fitting``; this is for one's own experiments.)
    """

    name = "free"

    def __init__(self, family: TransformFamily, grid: Grid) -> None:
        super().__init__(grid.ndim)
        self.family, self._grid = family, grid
        self.parameters_of_pair = nn.Parameter(family.identity(grid))

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """The same parameters for every pair of the batch."""
        return self.parameters_of_pair.expand(fixed.shape[0], *self.parameters_of_pair.shape[1:])

    def domain(self, grid: Grid) -> Grid:
        """The lattice it was made for."""
        return self._grid

    def transform(self, fixed: Tensor, moving: Tensor, grid: Grid) -> Transform:
        """The transform as it stands, for each pair of the batch."""
        return self.family(self(fixed, moving), self._grid)

    def config(self) -> dict[str, Any]:
        """Free parameters belong to one pair; save their transform instead.

        Raises
        ------
        InputError
            Always.
        """
        raise InputError("Free parameters are no model; save the transform they stand for.")


def centered(grid: Grid, shape: Sequence[int]) -> Grid:
    """The lattice cut or extended to a shape, as many whole voxels at either side as possible."""
    start = [-((n - have) // 2) for n, have in zip(shape, grid.shape, strict=True)]
    return grid.cropped(start, [s + n for s, n in zip(start, shape, strict=True)])


def padded(grid: Grid, multiple: int) -> Grid:
    """The lattice extended until every side is a multiple of a number."""
    return centered(grid, [-(-n // multiple) * multiple for n in grid.shape])


def fitted(image: Tensor, grid: Grid, domain: Grid) -> Tensor:
    """An image ``(B, C, *grid.shape)`` on the lattice that :func:`centered` made of its own; its border runs on."""
    if image.shape[2:] == domain.shape:
        return image
    pads: list[int] = []
    for axis, (have, want) in enumerate(zip(grid.shape, domain.shape, strict=True)):
        before = (want - have) // 2
        if want < have:
            image = image.narrow(axis + 2, -before, want)
        more = max(want - have, 0)
        pads = [max(before, 0), more - max(before, 0), *pads]
    return F.pad(image, pads, mode="replicate") if any(pads) else image
