"""What a step of a training takes, asked before it is taken."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from napari_stnreg.core.device import free_memory
from napari_stnreg.core.errors import OutOfMemoryError
from napari_stnreg.core.grid import Grid
from napari_stnreg.networks import Network

LOSS_BYTES = 260
"""For each voxel of the lattice: coordinates, warped image, similarity, and what their gradients take."""
LAYER_SHARE = 1.25
"""What layers take at the peak for each byte that they keep. The default U-Net keeps 640 bytes for each voxel of a
volume; 970 were measured for a whole step, and 1,060 are expected of it."""


def step_bytes(network: Network, grid: Grid, channels: int, batch_size: int, *, half: bool = False) -> int:
    """Bytes that one training step takes at its peak, besides the weights.

    Parameters
    ----------
    network
        Of any kind; it is asked for what its layers keep, without a voxel being made.
    grid, channels, batch_size
        Of a batch.
    half
        Whether the layers work in half precision.
    """
    total = 0.0
    for stage in network.networks():
        domain = stage.domain(grid)
        share = LAYER_SHARE / 2 if half else LAYER_SHARE
        total += share * _kept(stage, (batch_size, channels, *domain.shape)) + LOSS_BYTES * batch_size * grid.size
    return int(total)


def _kept(stage: Network, shape: tuple[int, ...]) -> int:
    """Bytes that a network's layers keep for its gradient."""
    shadow = copy.deepcopy(stage).to("meta")
    weights = {id(p) for p in shadow.parameters()}
    kept: dict[int, Tensor] = {}  # by the storage, for one is often kept twice; held, so that no address comes twice

    def pack(tensor: Tensor) -> Tensor:
        if id(tensor) not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        images = torch.empty(shape, device="meta")
        shadow(*[images] * stage.n_inputs)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def check_step(needed: int, batch_size: int, device: torch.device) -> None:
    """Refuse a training whose steps do not fit into memory.

    Parameters
    ----------
    needed
        What :func:`step_bytes` says.
    batch_size, device
        Of the training.

    Raises
    ------
    OutOfMemoryError
        With what would help.
    """
    free = free_memory(str(device))
    if needed <= free:
        return
    fewer = int(batch_size * free / needed)
    advice = f"take batches of {fewer}" if fewer >= 1 else "shrink the images or choose a smaller network"
    raise OutOfMemoryError(
        f"A step of this training takes about {needed / 2**30:.1f} GiB and only {free / 2**30:.1f} GiB are free; "
        f"{advice}."
    )
