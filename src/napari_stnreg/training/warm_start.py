"""Initial network of a training: random weights, or those of a trained model."""

from __future__ import annotations

import copy
import os

from torch import nn

from napari_stnreg.core.errors import InputError
from napari_stnreg.models.model import Model
from napari_stnreg.models.model_file import as_model
from napari_stnreg.networks import Network, as_network, new_network
from napari_stnreg.training.data.batch import TrainingData
from napari_stnreg.training.settings import TrainingSettings

WarmStart = Model | str | os.PathLike[str]


def initial_network(
    data: TrainingData,
    settings: TrainingSettings,
    warm_start: WarmStart | None = None,
    module: nn.Module | None = None,
) -> tuple[Network, TrainingSettings]:
    """Return the network to train, and the settings completed by a warm start.

    Parameters
    ----------
    data, settings
        Data and settings of the training.
    warm_start
        A trained model to continue from, its file, or the name of a bundled model; it defines the network and its
        sizes. By default :attr:`TrainingSettings.warm_start`; without that the weights are random.
    module
        A network of the caller instead; a copy of it is trained.

    Raises
    ------
    InputError
        If the model does not fit the data, or the settings name another network.
    """
    initial = settings.warm_start if warm_start is None else warm_start
    if module is not None:
        if initial is not None:
            raise InputError("Give either a network or a model to continue from, not both.")
        options = dict(settings.network_options)
        if settings.family is not None:
            options["family"] = settings.family
        own = as_network(copy.deepcopy(module), data.grid.ndim, data.channels, data.grid.shape, options)
        if isinstance(module, Network):
            own.requires_grad_(True)  # a sequential training leaves all but the last network frozen
        return own.train(), settings
    if initial is None:
        network = new_network(
            settings.network, data.grid.ndim, data.channels, data.grid.shape, settings.options_of_networks()
        )
        return network, settings
    model = as_model(initial)
    label = f"The warm-start model '{model.name}'"
    if (model.ndim, model.input_spec.channels) != (data.grid.ndim, data.channels):
        raise InputError(
            f"{label} is for {model.ndim}D images of {_channels(model.input_spec.channels)}. The training data are "
            f"{data.grid.ndim}D images of {_channels(data.channels)}."
        )
    if (model.input_spec.unit == "pixel") != (data.grid.unit == "pixel"):
        raise InputError(f"{label} has lengths in {model.input_spec.unit}, the training data in {data.grid.unit}.")
    name = model.describe()["network"]
    given = settings.model_fields_set
    if "network" in given and settings.network != name:
        raise InputError(f"{label} is the network '{name}', not '{settings.network}'.")
    if settings.family is not None and (not model.registers or settings.family not in model.family.split("+")):
        raise InputError(f"{label} has no family '{settings.family}'.")
    settings = settings.model_copy(update={"network": name, "warm_start": model.name})
    network = copy.deepcopy(model.network)  # the given model is not changed
    if settings.network_options:
        fresh = new_network(
            name, data.grid.ndim, data.channels, data.grid.shape, settings.options_of_networks()
        ).config()
        if fresh != network.config():
            raise InputError(f"{label} has other sizes than the network options. Leave the options out.")
    return network.requires_grad_(True).train(), settings


def _channels(count: int) -> str:
    return "one channel" if count == 1 else f"{count} channels"
