"""Processor (or GPU) time of a training step, ours beside VoxelMorph's, of one network, on the same data.

    python -m benchmark.training_step --shape 48,64,48 --batch 1 [--device cuda]

VoxelMorph (voxelmorph, neurite and pystrum from PyPI) is a peer and no dependency: install it where this runs. Both
train VoxelMorph's own U-Net with nine-voxel local NCC and the diffusion regularizer, by Adam. Both integrate in five
squarings or as many as are needed, VoxelMorph at full resolution. Our default network is measured too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from napari_stnreg.core.grid import Grid
from napari_stnreg.networks import LocalizationNetwork, VoxelMorph
from napari_stnreg.training.data.batch import Batch
from napari_stnreg.training.loss import RegistrationLoss
from napari_stnreg.training.settings import TrainingSettings
from napari_stnreg.transforms import make_family

FEATURES = (16, 32, 32, 32)


class TheirNetwork(LocalizationNetwork):
    """VoxelMorph's network and flow layer as one of our localizations; velocities at full resolution, as theirs are."""

    name = "voxelmorph of PyPI"

    def __init__(self, theirs: nn.Module, ndim: int) -> None:
        super().__init__(ndim)
        self.unet, self.flow = theirs.model, theirs.flow_layer
        self.family = make_family("velocity")

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        return self.flow(self.unet(torch.cat([fixed, moving], dim=1)))

    def config(self) -> dict[str, object]:
        return {}


def our_step(network: LocalizationNetwork, batch: Batch, grid: Grid) -> Callable[[], float]:
    settings = TrainingSettings(network="voxelmorph", window=4, diffusion=0.1)
    objective = RegistrationLoss(settings, grid, ())
    fused = batch.fixed.device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.0, fused=fused)

    def step() -> float:
        loss = objective(network, batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def their_step(network: nn.Module, batch: Batch) -> Callable[[], float]:
    import neurite as ne

    similarity = ne.nn.modules.NCC(window_size=9)
    smooth = ne.nn.modules.SpatialGradient("l2")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

    def step() -> float:
        velocity, warped = network(batch.moving, batch.fixed, return_warped_source=True, return_field_type="velocity")
        loss = -similarity(batch.fixed, warped).mean() + smooth(velocity).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def measured(step: Callable[[], float], device: torch.device, rounds: int) -> float:
    """Least milliseconds of several steps: processor time on the CPU, which other work does not disturb."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times = []
    for _ in range(rounds + 2):
        start_time = clock()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - start_time)
    return 1000 * min(times[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="48,64,48")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    shape = tuple(int(n) for n in options.shape.split(","))
    device, ndim = torch.device(options.device), len(shape)
    torch.manual_seed(0)
    batch = Batch(torch.rand(options.batch, 1, *shape), torch.rand(options.batch, 1, *shape)).to(device)
    grid = Grid.from_spacing(shape, 1.0, [-(n - 1) / 2 for n in shape])
    rows = []
    try:
        import voxelmorph

        theirs = voxelmorph.nn.models.VxmPairwise(ndim, 1, 1, nb_features=FEATURES).to(device)
        rows.append(("VoxelMorph of PyPI", their_step(theirs, batch)))
        rows.append(("ours, the same network", our_step(TheirNetwork(theirs, ndim).to(device), batch, grid)))
    except ModuleNotFoundError as error:
        print(f"VoxelMorph is not here ({error.name}); only ours is measured.")
    rows.append(("ours, our default network", our_step(VoxelMorph(ndim).to(device), batch, grid)))
    half = VoxelMorph(ndim, resolution="half").to(device)
    rows.append(("ours, half resolution", our_step(half, batch, grid)))
    for name, step in rows:
        print(f"{name:28s} {measured(step, device, options.rounds):9.1f} ms")


if __name__ == "__main__":
    main()
