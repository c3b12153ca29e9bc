"""Networks by name. Every module of this package is imported here, so that its networks are registered."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from napari_stnreg.core.errors import InputError
from napari_stnreg.networks.auto_encoder import AutoEncoder
from napari_stnreg.networks.base import NETWORKS, Network, make_network, network_class
from napari_stnreg.networks.custom import CustomNetwork, build_module, module_options, registered_networks
from napari_stnreg.networks.sequential import SequentialNetwork

for _module in pkgutil.iter_modules([str(Path(__file__).parent)]):
    import_module(f"napari_stnreg.networks.{_module.name}")


def network_names(text: str) -> list[str]:
    """Split a name such as ``"affine+voxelmorph"`` into its networks.

    Raises
    ------
    InputError
        If one of them does not exist, or an auto-encoder is combined with another network.
    """
    names = [name.strip() for name in text.split("+")]
    known = [name for name in sorted(NETWORKS) if len(names) == 1 or name != AutoEncoder.name] + registered_networks()
    for name in names:
        if name not in known:
            raise InputError(f"There is no network '{name}'. Choose from {', '.join(known)}, or several joined by '+'.")
    return names


def new_network(
    text: str, ndim: int, channels: int, shape: Sequence[int], options: Mapping[str, Any] | None = None
) -> Network:
    """Build an untrained network by name.

    Parameters
    ----------
    text
        Its name, or several joined by ``+``.
    ndim, channels, shape
        Axes, channels and size of the images.
    options
        Sizes and family, as the constructor takes them; for a registered network see
        :class:`~napari_stnreg.networks.CustomNetwork`. For several networks, a mapping from name to options; for two
        networks of one name, a list of options.

    Raises
    ------
    InputError
        If there is no such network or it has no such option.
    """
    names = network_names(text)
    options = dict(options or {})
    unknown = sorted(set(options) - set(names))
    if len(names) > 1 and unknown:
        raise InputError(
            f"Options of several networks are given by network name, such as {{'{names[0]}': {{...}}}}. "
            f"'{unknown[0]}' is not one of them."
        )
    configs: list[dict[str, Any]] = []
    for name in names:
        own = options if len(names) == 1 else options.get(name, {})
        if isinstance(own, list | tuple):
            earlier = sum(config.get("network", config["name"]) == name for config in configs)
            own = own[earlier] if earlier < len(own) else {}
        config = {"name": name, "ndim": ndim, "channels": channels, **own}
        if name not in NETWORKS:  # registered by the user; what it is called with is its own default
            module = build_module(name, own.get("options", {}))
            config |= {"name": CustomNetwork.name, "network": name, "shape": list(shape)}
            config["options"] = {**module_options(module), **own.get("options", {})}
        elif network_class(name).fixed_size:
            config["shape"] = list(shape)
        configs.append(config)
    if len(configs) == 1:
        return make_network(configs[0])
    return make_network({"name": SequentialNetwork.name, "ndim": ndim, "channels": channels, "stages": configs})
