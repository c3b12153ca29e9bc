"""Networks of your own: any torch module that maps two images to the parameters of a transform."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.networks.base import NETWORKS, LocalizationNetwork, Network, centered_grid, padded_grid
from napari_stnreg.ops.uncompiled import uncompiled
from napari_stnreg.transforms import AffineTransform, Transform, make_family
from napari_stnreg.transforms.dense import DenseFamily

ENTRY_POINTS = "napari_stnreg.networks"
"""Group of entry points by which an installed package registers its networks: name = factory."""
FLOW = "flow"
"""Family name for displacements whose channels are ordered (x, y, z), as optical-flow networks return them."""

_FACTORIES: dict[str, Callable[..., nn.Module]] = {}


def register_network(name: str, factory: Callable[..., nn.Module]) -> None:
    """Register a network of your own, so that it can be trained by name and its saved models load again.

    Parameters
    ----------
    name
        Name in settings and files. By default models of a module passed to :func:`~napari_stnreg.train` are saved under
        the name of its class.
    factory
        A subclass of :class:`torch.nn.Module`, or a function that returns a module. It is called with the keyword
        arguments that the module's method ``config()`` returns; without that method it is called without arguments.

    Raises
    ------
    InputError
        If the name is that of a built-in network or holds a ``+``, or the factory cannot be called.

    Examples
    --------
    >>> import torch, napari_stnreg as sr
    >>> class Shift(torch.nn.Module):
    ...     family = "translation"
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layers = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(),
    ...                                           torch.nn.Linear(32, 2))
    ...     def forward(self, pair):
    ...         return self.layers(pair)
    >>> sr.register_network("shift", Shift)
    """
    if not isinstance(name, str) or not name or "+" in name:
        raise InputError(f"A network cannot be registered as '{name}'. Use a name without '+'.")
    if name in NETWORKS:
        raise InputError(f"'{name}' is a built-in network. Choose another name.")
    if not callable(factory):
        raise InputError(f"Register a module class or a function that returns a module, not {type(factory).__name__}.")
    _FACTORIES[name] = factory


@cache
def _installed() -> dict[str, Any]:
    """Return the entry points of installed packages, by name."""
    return {one.name: one for one in entry_points(group=ENTRY_POINTS)}


def registered_networks() -> list[str]:
    """Return the names of all registered networks, those of installed packages included."""
    return sorted({*_FACTORIES, *_installed()})


def is_registered(name: str) -> bool:
    """Return whether a network of that name was registered."""
    return name in _FACTORIES or name in _installed()


def network_factory(name: str) -> Callable[..., nn.Module]:
    """Return the factory of a registered network.

    Raises
    ------
    InputError
        If there is none.
    """
    if name not in _FACTORIES and name in _installed():
        register_network(name, _installed()[name].load())
    if name not in _FACTORIES:
        raise InputError(
            f"The network '{name}' is not registered. Import its class and call "
            f"napari_stnreg.register_network('{name}', ...) before loading the model."
        )
    return _FACTORIES[name]


def name_of(module: nn.Module) -> str:
    """Return the name under which a module is saved: the registered one, or that of its class."""
    return next((name for name, made in _FACTORIES.items() if made is type(module)), type(module).__name__)


class CustomNetwork(LocalizationNetwork, selectable=False):
    """A module of your own as a localization network.

    Parameters
    ----------
    module
        Maps ``(B, C, *shape)`` fixed and moving images to one tensor. A module with a single required argument gets
        both concatenated, ``(B, 2 C, *shape)``.
    ndim, channels, shape
        Axes, channels and size of the images.
    family
        What the tensor means; by default the module's attribute ``family``, else ``"displacement"``.

        - ``"displacement"`` or ``"velocity"``: ``(B, D, *size)`` in voxels of its own grid, channels in axis order
          (z, y, x). The size may be smaller than that of the images.
        - ``"flow"``: the same as a displacement with the channels in the order (x, y, z).
        - ``"affine"``: the paper's matrix ``(B, D, D + 1)`` on coordinates from -1 to 1, or the family's parameters.
        - any other family: its parameters, ``(B, n)`` or in the family's own shape; zero is the identity.
    multiple
        Pad images until every side is a multiple of this number; by default the module's attribute ``multiple``, or 1.
    fixed_size
        Crop or pad images to the size of the training. By default for all but dense fields.
    network
        Name of the network in files.
    options
        Keyword arguments of its factory.
    family_options
        Options of the family, such as ``spacing`` of a B-spline.

    Raises
    ------
    InputError
        If there is no such family, or the module's ``config()`` cannot be saved.
    """

    name: ClassVar[str] = "custom"

    def __init__(
        self,
        module: nn.Module,
        ndim: int,
        channels: int = 1,
        *,
        shape: Sequence[int],
        family: str | None = None,
        multiple: int | None = None,
        fixed_size: bool | None = None,
        network: str | None = None,
        options: Mapping[str, Any] | None = None,
        **family_options: Any,
    ) -> None:
        super().__init__(ndim, channels)
        self.module = module
        self.network = name_of(module) if network is None else network
        self.family_name = str(family or getattr(module, "family", None) or "displacement")
        self.family = make_family("displacement" if self.family_name == FLOW else self.family_name, **family_options)
        self.multiple = int(multiple or getattr(module, "multiple", None) or 1)
        self.is_dense = isinstance(self.family, DenseFamily)
        self.has_fixed_size = not self.is_dense if fixed_size is None else bool(fixed_size)
        self.shape = tuple(int(n) for n in shape)
        self._family_options = family_options
        self._options = module_options(module) if options is None else dict(options)
        self._takes_pair = takes_one_input(module)

    @classmethod
    def from_config(cls, options: Mapping[str, Any]) -> CustomNetwork:
        """See :meth:`Network.from_config`; the module is built by its registered factory."""
        rest = dict(options)
        name, own = rest.pop("network"), dict(rest.pop("options", {}))
        return cls(build_module(name, own), rest.pop("ndim"), rest.pop("channels"), network=name, options=own, **rest)

    def domain(self, grid: Grid) -> Grid:
        """See :meth:`Network.domain`."""
        return padded_grid(centered_grid(grid, self.shape) if self.has_fixed_size else grid, self.multiple)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Run the module; see :class:`CustomNetwork` for what it returns."""
        found = self.module(torch.cat([fixed, moving], dim=1)) if self._takes_pair else self.module(fixed, moving)
        if not isinstance(found, Tensor):
            raise InputError(
                f"The network '{self.network}' returned {_kind(found)}. Return one tensor: the parameters of the "
                f"family {self.family_name}."
            )
        return found

    def transform(self, fixed: Tensor, moving: Tensor, grid: Grid) -> Transform:
        """See :meth:`LocalizationNetwork.transform`."""
        domain, fixed, moving = self._inputs(fixed, moving, grid)
        theta = self.theta(fixed, moving).float()
        if theta.shape[:1] != fixed.shape[:1]:
            raise InputError(f"The network '{self.network}' returned {len(theta)} results for {len(fixed)} pairs.")
        return self._from_theta(theta, domain)

    @uncompiled
    def _from_theta(self, theta: Tensor, domain: Grid) -> Transform:
        size, ndim = tuple(theta.shape[1:]), self.ndim
        if self.is_dense:
            if len(size) != ndim + 1 or size[0] != ndim:
                raise self._unexpected(size, f"(B, {ndim}, *size)")
            if self.family_name == FLOW:
                theta = theta.flip(1)
            return self.family(theta, domain.resized(size[1:]))
        if self.family_name == "affine" and size == (ndim, ndim + 1):
            return AffineTransform.from_theta(theta, domain)
        wanted = self.family.parameter_shape(domain)
        count = int(torch.Size(wanted).numel())
        if size not in ((count,), tuple(wanted)):
            raise self._unexpected(size, f"(B, {count})")
        return self.family(theta.reshape(-1, *wanted), domain)

    def _unexpected(self, size: Sequence[int], wanted: str) -> InputError:
        got = ", ".join(["B", *map(str, size)])
        return InputError(
            f"The network '{self.network}' returned a tensor of shape ({got}). The family {self.family_name} needs "
            f"{wanted}."
        )

    def config(self) -> dict[str, Any]:
        """See :meth:`Network.config`."""
        return {
            "name": self.name, "network": self.network, "options": self._options, "ndim": self.ndim,
            "channels": self.channels, "shape": list(self.shape), "family": self.family_name,
            "multiple": self.multiple, "fixed_size": self.has_fixed_size, **self._family_options,
        }  # fmt: skip


def build_module(name: str, options: Mapping[str, Any]) -> nn.Module:
    """Build an untrained module by its registered factory.

    Raises
    ------
    InputError
        If it is not registered, or the factory does not take the options or returns no module.
    """
    factory = network_factory(name)
    # On the CPU, since modules may compute buffers; the caller's random state is not advanced.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        try:
            module = factory(**options)
        except TypeError as error:
            raise InputError(f"The network '{name}' cannot be built with {dict(options)}: {error}.") from error
    if not isinstance(module, nn.Module):
        raise InputError(f"The factory of the network '{name}' returned {_kind(module)}, not a torch module.")
    return module


def module_options(module: nn.Module) -> dict[str, Any]:
    """Return the JSON-ready keyword arguments by which the factory builds a module again."""
    config = getattr(module, "config", None)
    options = config() if callable(config) else {}
    try:
        if not isinstance(options, Mapping):
            raise TypeError(f"it returned {_kind(options)}")
        read_back: dict[str, Any] = json.loads(json.dumps(dict(options)))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"config() of the network '{type(module).__name__}' must return a dictionary of plain numbers, texts and "
            f"lists ({error})."
        ) from error
    return read_back


def as_network(
    module: nn.Module, ndim: int, channels: int, shape: Sequence[int], options: Mapping[str, Any] | None = None
) -> LocalizationNetwork:
    """Wrap a module as a localization network; one of this package's networks is returned unchanged.

    Parameters
    ----------
    module, ndim, channels, shape
        See :class:`CustomNetwork`.
    options
        Its keyword arguments, such as ``family``.

    Raises
    ------
    InputError
        If the registered factory builds a module of other sizes, or an option is not allowed.
    """
    if isinstance(module, Network):
        if not isinstance(module, LocalizationNetwork):
            raise InputError(f"A network of the class {type(module).__name__} cannot register images.")
        if (module.ndim, module.channels) != (ndim, channels):
            raise InputError(
                f"The network is for {module.ndim}D images with {module.channels} channels. The training data are "
                f"{ndim}D with {channels}."
            )
        return module
    network = CustomNetwork(module, ndim, channels, shape=shape, **dict(options or {}))
    if is_registered(network.network):
        again = build_module(network.network, network.config()["options"])
        have, made = ({n: t.shape for n, t in one.state_dict().items()} for one in (module, again))
        if have != made:
            raise InputError(
                f"The network registered as '{network.network}' is built with other sizes than the one given. Give the "
                "class a method config() that returns the keyword arguments of its constructor."
            )
    return network


def takes_one_input(module: nn.Module) -> bool:
    """Return whether a module takes one required argument: both images, concatenated along the channels."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return False
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return isinstance(module, nn.Sequential)
    positional = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    required = [one for one in positional if one.default is one.empty]
    return len(required) == 1 or (not required and len(positional) == 1)


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"an object of type {name}" if value is not None else "nothing"
