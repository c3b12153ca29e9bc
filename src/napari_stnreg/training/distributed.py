"""Training in several processes, one for each GPU, by DistributedDataParallel.

Each process is started by ``torchrun`` (``stnreg train --processes`` does it), trains on its shard of every batch, and
gets the mean gradient. The first one validates decisions, reports and writes files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from napari_stnreg.core.errors import InputError
from napari_stnreg.training.data.batch import Batch

TIMEOUT = timedelta(hours=2)
"""How long the processes wait for each other: a validation, a pause of the user."""


@dataclass(frozen=True)
class Processes:
    """The processes of one training.

    Parameters
    ----------
    rank, size
        Number of this process, and of all.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process reports and writes."""
        return self.rank == 0

    def largest(self, value: float, device: torch.device) -> float:
        """Return the largest value of all processes."""
        if self.size == 1:
            return value
        held = torch.tensor([value], dtype=torch.float64, device=device)
        torch.distributed.all_reduce(held, torch.distributed.ReduceOp.MAX)
        return float(held)

    def sums(self, values: list[float], device: torch.device) -> list[float]:
        """Return the sums of values over all processes."""
        if self.size == 1:
            return values
        held = torch.tensor(values, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(held)
        return [float(value) for value in held]

    def of_first(self, value: float, device: torch.device) -> float:
        """Return the value of the first process, so that all decide in the same way."""
        if self.size == 1:
            return value
        held = torch.tensor([value], dtype=torch.float64, device=device)
        torch.distributed.broadcast(held, 0)
        return float(held)


def join_processes() -> Processes:
    """Join the processes that ``torchrun`` started; a single process otherwise.

    Raises
    ------
    InputError
        If the processes cannot be connected.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size < 2 or not torch.distributed.is_available():
        return Processes()
    if not torch.distributed.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        try:
            torch.distributed.init_process_group(backend, timeout=TIMEOUT)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"The {size} processes of the training cannot be connected: {error}.") from error
    return Processes(torch.distributed.get_rank(), torch.distributed.get_world_size())


def own_device(device: str) -> str:
    """Return the device of this process: the GPU of its local rank, if a GPU is used."""
    if device in ("auto", "cuda") and torch.cuda.is_available() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    return device


class LossModule(nn.Module):
    """A network and its loss as one module, whose forward pass DistributedDataParallel watches.

    Parameters
    ----------
    network, objective
        The network, and the loss ``objective(network, batch)``.
    """

    def __init__(self, network: nn.Module, objective: Any) -> None:
        super().__init__()
        self.network = network
        self._objective = (objective,)  # hidden from the module: it holds no weights

    def forward(self, batch: Batch) -> tuple[Tensor, Any]:
        """Return the loss and the complete result."""
        result = self._objective[0](self.network, batch)
        return result.loss, result


def parallel(network: nn.Module, objective: Any, *, find_unused: bool) -> DistributedDataParallel:
    """Wrap a network and its loss so that gradients are averaged over the processes."""
    return DistributedDataParallel(LossModule(network, objective), find_unused_parameters=find_unused)
