"""Model files: weights in safetensors, everything else in the JSON header."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_stnreg.core import container
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import CoordinateSystem, HasGrid
from napari_stnreg.io.safetensors_format import transform_from
from napari_stnreg.io.transform_io import ENDING, load_transform, transform_ending
from napari_stnreg.models.input_spec import InputSpec
from napari_stnreg.models.model import Model
from napari_stnreg.models.pretrained import find_model as find_model
from napari_stnreg.models.pretrained import pretrained_models as pretrained_models
from napari_stnreg.networks import CustomNetwork, Network, make_network
from napari_stnreg.networks.custom import is_registered
from napari_stnreg.transforms import Transform

FORMAT = "napari-stnreg model"
VERSION = 1


def save_model(model: Model, path: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32) -> Path:
    """Save a model; the file is written atomically.

    Parameters
    ----------
    model, path
        The model and its file.
    dtype
        Precision of the weights in the file. ``torch.float16`` halves its size; weights are always loaded as float32.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    header = {
        "format": FORMAT,
        "version": VERSION,
        "network": model.network.config(),
        "input_spec": model.input_spec.to_dict(),
        "summary": model.summary,
    }
    if model.registers:
        header["family"] = model.family
    weights = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor  # counters of normalization layers stay whole
        for name, tensor in model.network.state_dict().items()
    }
    return container.write(Path(path), header, weights)


def load_model(path: str | os.PathLike[str]) -> Model:
    """Load a model saved by :func:`save_model`.

    Parameters
    ----------
    path
        A file, or the name of a bundled model, such as ``"box-2d"``.

    Raises
    ------
    InputError
        If the file is missing, truncated, not a model, from a newer version, or inconsistent. Nothing in it is
        executed.
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
        A file whose extension sets its format (see :func:`~napari_stnreg.load_transform`), or the name of a bundled
        model, such as ``"box-2d"``.
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
    """Return a model unchanged, or load it from a path or the name of a bundled model; see :func:`load_model`."""
    return load_model(model) if isinstance(model, str | os.PathLike) else model


def model_from(header: Mapping[str, Any], tensors: Mapping[str, Tensor], source: Path) -> Model:
    """Build the model from the content of a file; see :func:`load_model`."""
    container.expect(header, FORMAT, VERSION, source)
    damaged = f"'{source.name}' is damaged: its header and its weights do not match"
    try:
        input_spec = InputSpec.from_dict(header["input_spec"])
        _check_registered(header["network"], source)
        network = network_from(header["network"], tensors)
        summary = dict(header.get("summary") or {})
    except UnregisteredNetworkError:
        raise
    except InputError as error:
        raise InputError(f"{damaged} ({str(error).rstrip('.')}).") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{damaged}.") from error
    if (network.ndim, network.channels) != (input_spec.ndim, input_spec.channels):
        raise InputError(f"{damaged}.")
    return Model(network, input_spec, summary, source.stem)


class UnregisteredNetworkError(InputError):
    """A file holds a network whose class was not registered."""


def _check_registered(config: Mapping[str, Any], source: Path) -> None:
    for one in config.get("stages", [config]):
        if one["name"] == CustomNetwork.name and not is_registered(str(one["network"])):
            raise UnregisteredNetworkError(
                f"'{source.name}' holds the network '{one['network']}', which is not registered. Import its class and "
                f"call napari_stnreg.register_network('{one['network']}', ...) first."
            )


def network_from(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Network:
    """Build a network and set its weights.

    Raises
    ------
    InputError
        If configuration and weights do not match, or a weight is not finite.
    """
    # On the meta device: a header with absurd sizes is detected without allocating them.
    with torch.device("meta"):
        network = make_network(config)
    expected = network.state_dict()
    check_weights(expected, tensors)
    network.load_state_dict({name: t.to(expected[name].dtype).clone() for name, t in tensors.items()}, assign=True)
    return network.requires_grad_(True)


def check_weights(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Compare weights with those of a network.

    Raises
    ------
    InputError
        If a name, shape or type differs, or a weight is not finite.
    """
    if set(expected) != set(tensors):
        odd = sorted(set(expected) ^ set(tensors))[0]
        raise InputError(f"'{odd}' is {'missing' if odd in expected else 'unknown'}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise InputError(f"'{name}' has shape {tuple(tensor.shape)}, not {tuple(expected[name].shape)}")
        if tensor.is_floating_point() != expected[name].is_floating_point():
            raise InputError(f"'{name}' holds values of type {tensor.dtype}, not {expected[name].dtype}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"'{name}' holds non-finite values")
