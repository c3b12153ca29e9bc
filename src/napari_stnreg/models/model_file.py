"""The file of a model: weights in safetensors, everything else in its JSON header."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import CoordinateSystem, HasGrid
from napari_stnreg.io import container
from napari_stnreg.io.transform_file import transform_from
from napari_stnreg.io.transforms import ENDING, load_transform, transform_ending
from napari_stnreg.models.input_spec import InputSpec
from napari_stnreg.models.model import Model
from napari_stnreg.models.pretrained import boxed_models as boxed_models
from napari_stnreg.models.pretrained import find_model as find_model
from napari_stnreg.networks import Network, make_network
from napari_stnreg.transforms import Transform

FORMAT = "napari-stnreg model"
VERSION = 1


def save_model(model: Model, path: str | os.PathLike[str]) -> Path:
    """Write a model; the file appears whole or not at all.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    header = {
        "format": FORMAT,
        "version": VERSION,
        "network": model.network.config(),
        "contract": model.contract.to_dict(),
        "summary": model.summary,
    }
    if model.registers:
        header["family"] = model.family
    return container.write(Path(path), header, model.network.state_dict())


def load_model(path: str | os.PathLike[str]) -> Model:
    """Read what :func:`save_model` wrote.

    Parameters
    ----------
    path
        A file, or the name of a model in the box, such as ``"box-2d"``.

    Raises
    ------
    InputError
        If the file is missing, cut short, of another kind, from a newer version, or contradicts itself; nothing in it
        is executed, and nothing is half loaded.
    """
    source = find_model(path)
    header, tensors = container.read(source)
    return model_from(header, tensors, source)


def load(
    path: str | os.PathLike[str],
    *,
    fixed: HasGrid | None = None,
    moving: HasGrid | None = None,
    space: CoordinateSystem | None = None,
    unit: str | None = None,
) -> Transform | Model:
    """Load a transform or a model, from a file or a pretrained model by name.

    Parameters
    ----------
    path
        A file whose extension tells its format (see :func:`~napari_stnreg.load_transform`), or a name such as ``"box-2d"``.
    fixed, moving, space, unit
        For transforms of other programs; see :func:`~napari_stnreg.load_transform`.

    Raises
    ------
    InputError
        If the file is missing, damaged, of another format or a newer version; nothing in it is executed.
    """
    source = find_model(path)
    if transform_ending(source) != ENDING:
        return load_transform(source, fixed=fixed, moving=moving, space=space, unit=unit)
    header, tensors = container.read(source)
    if header["format"] == FORMAT:
        return model_from(header, tensors, source)
    return transform_from(header, tensors, source)[0]


def as_model(model: Model | str | os.PathLike[str]) -> Model:
    """A model as it is, or the one that a path or the name of one in the box stands for; see :func:`load_model`."""
    return load_model(model) if isinstance(model, str | os.PathLike) else model


def model_from(header: Mapping[str, Any], tensors: Mapping[str, Tensor], source: Path) -> Model:
    """The model in a file that has been read already; see :func:`load_model`."""
    container.expect(header, FORMAT, VERSION, source)
    damaged = f"'{source.name}' is damaged: its header and its weights do not fit together"
    try:
        contract = InputSpec.from_dict(header["contract"])
        network = network_from(header["network"], tensors)
        summary = dict(header.get("summary") or {})
    except InputError as error:
        raise InputError(f"{damaged} ({str(error).rstrip('.')}).") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{damaged}.") from error
    if (network.ndim, network.channels) != (contract.ndim, contract.channels):
        raise InputError(f"{damaged}.")
    return Model(network, contract, summary, source.stem)


def network_from(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Network:
    """A network with its weights.

    Raises
    ------
    InputError
        If they do not belong together or hold values that are not finite numbers.
    """
    # Without memory at first: a header that asks for absurd sizes is found out by comparing, not by making them.
    with torch.device("meta"):
        network = make_network(config)
    wanted = network.state_dict()
    if set(wanted) != set(tensors):
        odd = sorted(set(wanted) ^ set(tensors))[0]
        raise InputError(f"'{odd}' is {'missing' if odd in wanted else 'unknown'}")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape or not tensor.is_floating_point():
            raise InputError(f"'{name}' has shape {tuple(tensor.shape)}, not {tuple(wanted[name].shape)}")
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"'{name}' holds values that are not finite numbers")
    network.load_state_dict({name: t.float().clone() for name, t in tensors.items()}, assign=True)
    return network.requires_grad_(True)
