"""Parts of a training that the caller brings: network, loss, optimizer, scheduler, callbacks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from napari_stnreg.core.errors import InputError
from napari_stnreg.losses import Similarity, as_similarity
from napari_stnreg.networks import CustomNetwork, LocalizationNetwork
from napari_stnreg.networks.custom import name_of
from napari_stnreg.training.callbacks import Callbacks
from napari_stnreg.training.settings import TrainingSettings

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
"""From the weights to an optimizer: its class, or ``lambda weights: torch.optim.SGD(weights, lr=0.1)``."""
SchedulerFactory = Callable[[torch.optim.Optimizer], Any]
"""From the optimizer to a learning-rate scheduler of torch, whose ``step`` is called after every epoch."""


@dataclass(frozen=True)
class Parts:
    """What the caller brings; ``None`` for the parts that the settings name.

    Parameters
    ----------
    network, similarity, optimizer, scheduler, callbacks
        See :func:`~napari_stnreg.training.api.train`.
    """

    network: nn.Module | None = None
    similarity: Similarity | None = None
    optimizer: OptimizerFactory | None = None
    scheduler: SchedulerFactory | None = None
    callbacks: Callbacks = Callbacks()  # noqa: RUF009 (immutable)

    def make_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer of a network's weights.

        Raises
        ------
        InputError
            If the function returns something else.
        """
        assert self.optimizer is not None
        made = self.optimizer(network.parameters())
        if not isinstance(made, torch.optim.Optimizer):
            raise InputError(f"The optimizer function returned {type(made).__name__}, not an optimizer of torch.")
        return made

    def make_scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        """Build the scheduler, or return ``None``.

        Raises
        ------
        InputError
            If the function returns something that cannot step.
        """
        if self.scheduler is None:
            return None
        made = self.scheduler(optimizer)
        if not hasattr(made, "step"):
            raise InputError(f"The scheduler function returned {type(made).__name__}, which has no method step().")
        return made

    def names(self) -> dict[str, str]:
        """Return the names of the parts that a checkpoint must agree on."""
        return {
            part: _name(value)
            for part, value in (("optimizer", self.optimizer), ("scheduler", self.scheduler))
            if value is not None
        }


def take_parts(
    options: dict[str, Any], *, optimizer: Any, scheduler: Any, callbacks: Sequence[Any]
) -> tuple[Parts, dict[str, Any]]:
    """Separate the objects among the options of a training from its settings.

    Returns
    -------
    Parts, dict
        The parts, and the remaining options, in which their names stand for them.

    Raises
    ------
    InputError
        If an object cannot be used as the part.
    """
    options = dict(options)
    network, similarity = options.get("network"), options.get("similarity")
    if isinstance(network, type) and issubclass(network, nn.Module):
        network = network()
    if network is not None and not isinstance(network, str | nn.Module):
        raise InputError(f"A network is a name or a torch module, not an object of type {type(network).__name__}.")
    if isinstance(network, nn.Module):
        del options["network"]
    measure = None
    if similarity is not None and not isinstance(similarity, str):
        measure, options["similarity"] = as_similarity(similarity)
    for part, value in (("optimizer", optimizer), ("scheduler", scheduler)):
        if value is not None and (not callable(value) or isinstance(value, torch.optim.Optimizer)):
            raise InputError(
                f"Give the {part} as a function that makes it, since the weights are those of a copy of the network: "
                "optimizer=lambda weights: torch.optim.SGD(weights, lr=0.1), "
                "scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 10)."
            )
    module = network if isinstance(network, nn.Module) else None
    listed = tuple(callbacks) if isinstance(callbacks, Iterable) else (callbacks,)
    return Parts(module, measure, optimizer, scheduler, Callbacks(listed)), options


def complete_settings(settings: TrainingSettings, network: nn.Module, parts: Parts) -> TrainingSettings:
    """Enter the network's name and the defaults of a network of the user's own into the settings."""
    stages = network.networks() if isinstance(network, LocalizationNetwork) else []
    update: dict[str, Any] = {}
    if parts.network is not None:
        names = [
            one.network if isinstance(one, CustomNetwork) else getattr(one, "name", name_of(one)) for one in stages
        ]
        update["network"] = "+".join(names)
    if any(isinstance(one, CustomNetwork) and one.is_dense for one in stages):
        if settings.similarity is None:
            update["similarity"] = "lncc"
        if settings.diffusion is None:
            name = update.get("similarity", settings.similarity)
            update["diffusion"] = TrainingSettings(network="voxelmorph", similarity=name).diffusion_weight
    return settings.model_copy(update=update) if update else settings


def json_state(state: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a scheduler's or parameter group's state that JSON can hold."""

    def holds(value: Any) -> bool:
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            return False
        return True

    return {name: value for name, value in state.items() if holds(value)}


def _name(value: Any) -> str:
    return str(getattr(value, "__qualname__", type(value).__qualname__)).removeprefix("builtins.")
