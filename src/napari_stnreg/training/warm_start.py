"""Where a training begins: at random weights, or at those of a model that was trained before."""

from __future__ import annotations

import copy
import os

from napari_stnreg.core.errors import InputError
from napari_stnreg.models.model import Model
from napari_stnreg.models.model_file import as_model
from napari_stnreg.networks import Network, new_network
from napari_stnreg.training.data.batch import TrainingData
from napari_stnreg.training.settings import TrainingSettings

WarmStart = Model | str | os.PathLike[str]


def initial_network(
    data: TrainingData, settings: TrainingSettings, warm_start: WarmStart | None = None
) -> tuple[Network, TrainingSettings]:
    """The network that is to be trained, and the settings as they then are.

    Parameters
    ----------
    data, settings
        Of the training.
    start
        A trained model whose weights are the beginning, its file, or the name of a bundled model. It brings its network
        with its sizes. Without it, :attr:`TrainingSettings.start` counts; without that the weights are random.

    Raises
    ------
    InputError
        If the model is for other images than the data have, or the settings ask for another network.
    """
    initial = settings.warm_start if warm_start is None else warm_start
    if initial is None:
        network = new_network(
            settings.network, data.grid.ndim, data.channels, data.grid.shape, settings.options_of_networks()
        )
        return network, settings
    model = as_model(initial)
    mine = f"'{model.name}', with which the training is to begin,"
    if (model.ndim, model.input_spec.channels) != (data.grid.ndim, data.channels):
        raise InputError(
            f"{mine} is for {model.ndim}D images of {_channels(model.input_spec.channels)}; the training data are "
            f"{data.grid.ndim}D images of {_channels(data.channels)}."
        )
    if (model.input_spec.unit == "pixel") != (data.grid.unit == "pixel"):
        raise InputError(f"{mine} knows lengths in {model.input_spec.unit}, the training data have {data.grid.unit}.")
    name = model.describe()["network"]
    given = settings.model_fields_set
    if "network" in given and settings.network != name:
        raise InputError(f"{mine} is the network '{name}', not '{settings.network}'.")
    if settings.family is not None and (not model.registers or settings.family not in model.family.split("+")):
        raise InputError(f"{mine} has no family '{settings.family}'.")
    settings = settings.model_copy(update={"network": name, "warm_start": model.name})
    network = copy.deepcopy(model.network)  # training must not change the model that was given
    if settings.network_options:
        fresh = new_network(
            name, data.grid.ndim, data.channels, data.grid.shape, settings.options_of_networks()
        ).config()
        if fresh != network.config():
            raise InputError(f"{mine} has other sizes than the settings ask for; leave the network's options out.")
    return network.requires_grad_(True).train(), settings


def _channels(count: int) -> str:
    return "one channel" if count == 1 else f"{count} channels"
