"""Memory estimate of a training step."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from napari_stnreg.core.device import free_memory
from napari_stnreg.core.errors import OutOfMemoryError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.memory import format_bytes
from napari_stnreg.networks import CustomNetwork, Network

LOSS_BYTES = 260
"""Bytes per voxel of coordinates, warped image, similarity and their gradients; measured."""
LAYER_FACTOR = 1.25
"""Peak memory of the layers relative to the activations they save. The default U-Net saves 640 bytes per voxel of a
volume; 970 were measured for a step, and the estimate is 1,060."""


def step_bytes(network: Network, grid: Grid, channels: int, batch_size: int, *, half: bool = False) -> int:
    """Estimate the peak memory of one training step in bytes, without the weights.

    Parameters
    ----------
    network
        Any network; its layers are run on meta tensors, without allocating voxels.
    grid, channels, batch_size
        Grid, channels and number of pairs of a batch.
    half
        Whether the layers use half precision.
    """
    total = 0.0
    for stage in network.networks():
        domain = stage.domain(grid)
        factor = LAYER_FACTOR / 2 if half else LAYER_FACTOR
        total += (
            factor * _saved_bytes(stage, (batch_size, channels, *domain.shape)) + LOSS_BYTES * batch_size * grid.size
        )
    return int(total)


def _saved_bytes(stage: Network, shape: tuple[int, ...]) -> int:
    """Return the bytes of activations that a network saves for the backward pass; 0 if it cannot be run on meta."""
    if not isinstance(stage, CustomNetwork):
        return _measured_bytes(stage, shape)
    try:
        return _measured_bytes(stage, shape)
    except Exception:  # a module of the user's own may need real values
        return 0


def _measured_bytes(stage: Network, shape: tuple[int, ...]) -> int:
    shadow = copy.deepcopy(stage).to("meta")
    weights = {id(p) for p in shadow.parameters()}
    saved: dict[
        int, Tensor
    ] = {}  # by storage, since one is often saved twice; referenced, so that no address is reused

    def pack(tensor: Tensor) -> Tensor:
        if id(tensor) not in weights:
            saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        images = torch.empty(shape, device="meta")
        shadow(*[images] * stage.n_inputs)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def check_step(needed: int, batch_size: int, device: torch.device) -> None:
    """Raise an error if a training step does not fit into memory.

    Parameters
    ----------
    needed
        The estimate of :func:`step_bytes`.
    batch_size, device
        Batch size and device of the training.

    Raises
    ------
    OutOfMemoryError
        With advice on what to change.
    """
    free = free_memory(str(device))
    if needed <= free:
        return
    fewer = int(batch_size * free / needed)
    advice = f"Use a batch size of {fewer}" if fewer >= 1 else "Use smaller images or a smaller network"
    raise OutOfMemoryError(
        f"A training step needs about {format_bytes(needed, round_up=True)}, but only {format_bytes(free)} are free. "
        f"{advice}."
    )
