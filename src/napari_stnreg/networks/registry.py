"""The networks by name, and back from what a file says about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from napari_stnreg.core.errors import InputError
from napari_stnreg.networks.auto_encoder import AutoEncoder
from napari_stnreg.networks.base import LocalizationNetwork
from napari_stnreg.networks.dirnet import DIRNet
from napari_stnreg.networks.global_regression import AffineNetwork, ThinPlateNetwork, WholeImage
from napari_stnreg.networks.matching import MatchingNetwork
from napari_stnreg.networks.sequential import SequentialNetwork
from napari_stnreg.networks.voxelmorph import VoxelMorph

LOCALIZATIONS: dict[str, type[LocalizationNetwork]] = {
    kind.name: kind for kind in (AffineNetwork, MatchingNetwork, ThinPlateNetwork, DIRNet, VoxelMorph)
}
"""Every network that registers, by name; several are joined by ``+``."""

Network = LocalizationNetwork | AutoEncoder


def network_names(text: str) -> list[str]:
    """The networks of a name such as ``"affine+voxelmorph"``.

    Raises
    ------
    InputError
        If one of them does not exist.
    """
    names = [name.strip() for name in text.split("+")]
    known = [*LOCALIZATIONS, *([AutoEncoder.name] if len(names) == 1 else [])]
    for name in names:
        if name not in known:
            raise InputError(f"There is no network '{name}'; choose from {', '.join(known)}, or several joined by '+'.")
    return names


def new_network(
    text: str, ndim: int, channels: int, shape: Sequence[int], options: Mapping[str, Any] | None = None
) -> Network:
    """An untrained network.

    Parameters
    ----------
    text
        Its name, or several joined by ``+``.
    ndim, channels, shape
        Of the images it will see.
    options
        Sizes and family, as its constructor takes them. For several networks, a mapping from their names to theirs; for
        two of one name a list.

    Raises
    ------
    InputError
        If there is no such network or it has no such option.
    """
    names = network_names(text)
    options = dict(options or {})
    if len(names) > 1:
        strange = set(options) - set(names)
        if strange:
            raise InputError(
                f"The options of several networks are given for each by its name, such as "
                f"{{'{names[0]}': {{...}}}}; '{sorted(strange)[0]}' is none of them."
            )
    configs: list[dict[str, Any]] = []
    for name in names:
        own = options if len(names) == 1 else options.get(name, {})
        if isinstance(own, list | tuple):
            earlier = sum(config["name"] == name for config in configs)
            own = own[earlier] if earlier < len(own) else {}
        config = {"name": name, "ndim": ndim, "channels": channels, **own}
        if issubclass(_class(name), WholeImage):
            config["shape"] = list(shape)
        configs.append(config)
    if len(configs) == 1:
        return make_network(configs[0])
    return make_network({"name": SequentialNetwork.name, "ndim": ndim, "channels": channels, "stages": configs})


def make_network(config: Mapping[str, Any]) -> Network:
    """The network that a ``config()`` describes, with fresh weights.

    Raises
    ------
    InputError
        If the description makes no sense.
    """
    try:
        rest = dict(config)
        name = rest.pop("name")
        if name == SequentialNetwork.name:
            stages = [make_network(one) for one in rest["stages"]]
            return SequentialNetwork([one for one in stages if isinstance(one, LocalizationNetwork)])
        made: Network = _class(name)(rest.pop("ndim"), rest.pop("channels"), **rest)
        return made
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, AttributeError, OverflowError) as error:
        raise InputError(f"The network cannot be made with these options: {error}.") from error


def _class(name: str) -> Any:
    known: dict[str, type[nn.Module]] = {**LOCALIZATIONS, AutoEncoder.name: AutoEncoder}
    if name not in known:
        raise InputError(f"There is no network '{name}'; choose from {', '.join(known)}.")
    return known[name]
