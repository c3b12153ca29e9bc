"""Base classes and registry of networks.

A network is added by adding one module to this package: subclass :class:`LocalizationNetwork`, give it a ``name``, and
it can be chosen, trained, saved and loaded by that name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.ops.uncompiled import uncompiled
from napari_stnreg.transforms import Transform, TransformFamily

NETWORKS: dict[str, type[Network]] = {}
"""Every network that can be trained, by name. Subclasses of :class:`Network` register themselves."""

_CLASSES: dict[str, type[Network]] = {}


class Network(nn.Module, ABC):
    """A network that a model file can hold.

    Parameters
    ----------
    ndim
        2 or 3.
    channels
        Channels of each image.

    Raises
    ------
    InputError
        If the number of axes or channels is not supported.

    Notes
    -----
    A concrete subclass sets :attr:`name` and is registered under it. Pass ``selectable=False`` as a class argument to
    keep it out of :data:`NETWORKS`; files can still name it.
    """

    name: ClassVar[str]
    n_inputs: ClassVar[int] = 1
    """Images that :meth:`forward` takes."""
    fixed_size: ClassVar[bool] = False
    """Whether the constructor needs the ``shape`` of the images."""
    families: ClassVar[tuple[str, ...]] = ()
    """Transform families that the network can return; several are chosen from with the option ``family``."""
    autocast: torch.dtype | None = None
    """Half precision for the layers, or ``None``. Parameters are returned in float32, since coordinates need it."""

    def __init_subclass__(cls, *, selectable: bool = True, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" in vars(cls):
            _CLASSES[cls.name] = cls
            if selectable:
                NETWORKS[cls.name] = cls

    def __init__(self, ndim: int, channels: int = 1) -> None:
        super().__init__()
        if ndim not in (2, 3):
            raise InputError(f"Networks are for 2D and 3D images, not {ndim}D.")
        if channels < 1:
            raise InputError(f"A network needs images of at least one channel, not {channels}.")
        self.ndim, self.channels = ndim, channels

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return name and sizes, JSON-ready: all that :func:`make_network` needs."""

    @classmethod
    def from_config(cls, options: Mapping[str, Any]) -> Network:
        """Build an untrained network from :meth:`config` without its name."""
        rest = dict(options)
        return cls(rest.pop("ndim"), rest.pop("channels"), **rest)

    def networks(self) -> list[Any]:
        """Return the networks that run one after another; a single network returns itself."""
        return [self]

    def set_autocast(self, dtype: torch.dtype | None) -> None:
        """Set half precision for the layers, or float32 with ``None``."""
        self.autocast = dtype

    @property
    def is_conditional(self) -> bool:
        """Whether the smoothness of the transform is an input; see :meth:`set_smoothness`."""
        return False

    def set_smoothness(self, value: float) -> None:
        """Set the smoothness of the next predictions of a conditional network; ignored by others.

        Parameters
        ----------
        value
            Factor of the weight of the regularization, 1 for that of the training.
        """

    @property
    def is_probabilistic(self) -> bool:
        """Whether the network predicts a distribution; see :meth:`set_sampling`."""
        return False

    def set_sampling(self, enabled: bool) -> None:
        """Let a probabilistic network draw from its distribution outside of training; ignored by others."""

    def divergence(self) -> Tensor | None:
        """Return the divergence of the last prediction from the prior, for a probabilistic network."""
        return None

    def domain(self, grid: Grid) -> Grid:
        """Return the grid that the layers see: ``grid`` cropped or extended by whole voxels."""
        return grid


class LocalizationNetwork(Network):
    """The first part of a spatial transformer: predict the parameters of a transform family from two images.

    Notes
    -----
    A subclass has a :attr:`family`, a :meth:`forward` that returns its parameters, and a :meth:`config`. Fixed and
    moving image are on one axis-aligned grid. The transform acts in the world of that grid and maps fixed points to
    moving points: ``warped(x) = moving(T(x))``.

    References
    ----------
    Jaderberg et al., Spatial transformer networks, NeurIPS 2015.
    """

    n_inputs = 2
    family: TransformFamily

    @abstractmethod
    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Predict the family's parameters, ``(B, *parameter_shape)``.

        Parameters
        ----------
        fixed, moving
            ``(B, C, *shape)``, with the shape of :meth:`domain`.
        """

    def parameter_domain(self, domain: Grid) -> Grid:
        """Return the grid over which the parameters are defined; coarser if the network's output is coarser."""
        return domain

    def theta(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Run :meth:`forward` in the precision of :attr:`autocast` and return float32."""
        if self.autocast is None:
            theta: Tensor = self(fixed, moving)
            return theta
        with torch.autocast(fixed.device.type, self.autocast):
            theta = self(fixed, moving)
        return theta.float()

    def transform(self, fixed: Tensor, moving: Tensor, grid: Grid) -> Transform:
        """Predict the transforms of a batch of pairs.

        Parameters
        ----------
        fixed, moving
            ``(B, C, *grid.shape)``.
        grid
            The grid of both images. Any size: images are cropped or padded to :meth:`domain` here.

        Returns
        -------
        Transform
            ``B`` transforms, fixed world to moving world; differentiable with respect to the weights.
        """
        domain, fixed, moving = self._inputs(fixed, moving, grid)
        return self._from_theta(self.theta(fixed, moving), domain)

    @uncompiled
    def _inputs(self, fixed: Tensor, moving: Tensor, grid: Grid) -> tuple[Grid, Tensor, Tensor]:
        """Return the domain, and both images cropped or padded to it."""
        domain = self.domain(grid)
        return domain, crop_or_pad(fixed, grid, domain), crop_or_pad(moving, grid, domain)

    @uncompiled
    def _from_theta(self, theta: Tensor, domain: Grid) -> Transform:
        """Return the transforms for what :meth:`forward` returned."""
        return self.family(theta, self.parameter_domain(domain))


class FreeParameters(LocalizationNetwork, selectable=False):
    """A localization without layers: free parameters, optimized for one pair of images.

    Parameters
    ----------
    family
        Transform family of the parameters.
    grid
        Grid over which they are defined.

    Notes
    -----
    It makes instance optimization and training the same loop. The registrations of this package use the faster loops
    of ``registration.optimizers``; this class is for experiments.
    """

    name = "free"

    def __init__(self, family: TransformFamily, grid: Grid) -> None:
        super().__init__(grid.ndim)
        self.family, self._grid = family, grid
        self.pair_parameters = nn.Parameter(family.identity(grid))

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Return the same parameters for every pair of the batch."""
        return self.pair_parameters.expand(fixed.shape[0], *self.pair_parameters.shape[1:])

    def domain(self, grid: Grid) -> Grid:
        """Return the grid of the parameters."""
        return self._grid

    def transform(self, fixed: Tensor, moving: Tensor, grid: Grid) -> Transform:
        """Return the current transform for each pair of the batch."""
        return self.family(self(fixed, moving), self._grid)

    def config(self) -> dict[str, Any]:
        """Refuse: free parameters belong to one pair.

        Raises
        ------
        InputError
            Always.
        """
        raise InputError("FreeParameters cannot be saved as a model. Save the fitted transform.")


def network_class(name: str) -> type[Network]:
    """Return the class registered under a name.

    Raises
    ------
    InputError
        If there is none.
    """
    if name not in _CLASSES:
        raise InputError(f"There is no network '{name}'. Choose from {', '.join(sorted(NETWORKS))}.")
    return _CLASSES[name]


def make_network(config: Mapping[str, Any]) -> Network:
    """Build an untrained network from its :meth:`Network.config`.

    Raises
    ------
    InputError
        If the description is incomplete or an option is not allowed.
    """
    try:
        options = dict(config)
        return network_class(options.pop("name")).from_config(options)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, AttributeError, OverflowError) as error:
        raise InputError(f"The network cannot be made with these options: {error}.") from error


def centered_grid(grid: Grid, shape: Sequence[int]) -> Grid:
    """Crop or extend a grid to a shape, by the same number of whole voxels on both sides where possible."""
    start = [-((n - have) // 2) for n, have in zip(shape, grid.shape, strict=True)]
    return grid.cropped(start, [s + n for s, n in zip(start, shape, strict=True)])


def padded_grid(grid: Grid, multiple: int) -> Grid:
    """Extend a grid until every side is a multiple of a number."""
    return centered_grid(grid, [-(-n // multiple) * multiple for n in grid.shape])


def crop_or_pad(image: Tensor, grid: Grid, domain: Grid) -> Tensor:
    """Crop or pad an image ``(B, C, *grid.shape)`` to a :func:`centered_grid`; padding repeats the border."""
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
