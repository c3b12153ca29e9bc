"""A trained model: a network, what it expects of images, and how it came about."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from napari_stnreg.core.device import free_memory, pick_device
from napari_stnreg.core.errors import InputError, OutOfMemoryError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.models.input_spec import InputSpec, intensities, meet, placed
from napari_stnreg.networks import AutoEncoder, FrozenEncoder, LocalizationNetwork, Network
from napari_stnreg.transforms import AffineTransform, Transform, chain

if TYPE_CHECKING:
    from napari_stnreg.registration.result import Progress, Result

BYTES_PER_VOXEL = 900
"""For each voxel of the lattice at the peak of a pass: 590 measured for the default U-Net, and half as much again."""

_LINEAR = ("translation", "rigid", "similarity", "affine")


@dataclass
class Model:
    """A network that registers any pair of images in one pass (or an auto-encoder, whose features compare them).

    Parameters
    ----------
    network
        In evaluation mode, on the CPU until it is used.
    contract
        What it expects of images.
    summary
        Of its training, JSON-ready: data, pairs, epochs, best score, settings, seed, versions.
    name
        What to call it.
    replay
        Pictures of the validation pair while the network learned, ``(T, *shape)`` float16, and
        ``summary["replay_epochs"]`` their epochs; kept by a training, not in the file.
    """

    network: Network
    contract: InputSpec
    summary: dict[str, Any] = field(default_factory=dict)
    name: str = "model"
    replay: npt.NDArray[np.float16] | None = None

    def __post_init__(self) -> None:
        self.network.eval()

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return self.contract.ndim

    @property
    def family(self) -> str:
        """The transform families it gives, joined by ``+`` in the order of the stages."""
        names = [one.family.name for one in self._stages()]
        return "+".join(names)

    @property
    def similarity(self) -> str:
        """What it was trained with."""
        return str(self.summary.get("settings", {}).get("similarity_used", "lncc"))

    def _stages(self) -> list[LocalizationNetwork]:
        if isinstance(self.network, AutoEncoder):
            raise InputError(
                f"'{self.name}' is an auto-encoder: it registers nothing itself, but can be chosen as a similarity."
            )
        return self.network.networks()

    @property
    def registers(self) -> bool:
        """False for an auto-encoder."""
        return not isinstance(self.network, AutoEncoder)

    def features(self) -> FrozenEncoder:
        """The frozen features of an auto-encoder, for :class:`~napari_stnreg.losses.FeatureDistance`.

        Raises
        ------
        InputError
            If the model is none.
        """
        if not isinstance(self.network, AutoEncoder):
            raise InputError(f"'{self.name}' is no auto-encoder, so its features are no similarity.")
        return FrozenEncoder(self.network)

    def predict(
        self,
        fixed: Image,
        moving: Image,
        *,
        device: str | torch.device = "auto",
        fixed_channel: int | None = None,
        moving_channel: int | None = None,
        start_transform: Transform | None = None,
        warnings: list[str] | None = None,
    ) -> Transform:
        """The transform in one pass.

        Parameters
        ----------
        fixed, moving
            Images of any size, voxel size, orientation and unit of length.
        device
            Where the network runs.
        fixed_channel, moving_channel
            Which channel a network for one channel is shown; the luminance or mean if not given.
        start_transform
            Where to begin: the network is shown the moving image through it. Images that do not meet in the world
            are put center on center if it is not given.
        warnings
            Sentences for a person are added here.

        Returns
        -------
        Transform
            Fixed world to moving world, in the fixed image's unit, on the CPU.

        Raises
        ------
        InputError
            If the images are not what the network was trained for.
        """
        stages = self._stages()
        for image in (fixed, moving):
            self.contract.check(image)
        where = device if isinstance(device, torch.device) else pick_device(device)
        notes = warnings if warnings is not None else []
        network = self.network
        assert isinstance(network, LocalizationNetwork)
        lattice = self._lattice(fixed.grid, stages, where, notes)
        moving = moving.with_unit(lattice.unit)
        start = start_transform
        if start is None and not meet(lattice, moving.grid):
            shift = np.eye(self.ndim + 1)
            shift[:-1, -1] = moving.grid.center - fixed.grid.center
            start = AffineTransform(shift, lattice.unit)
            notes.append("The images do not meet in the world, so they were put center on center first.")
        origin = lattice.center
        local = lattice.translated(-origin)
        begin = None if start is None else start.translated_frame(-origin).to(where)
        values = intensities(fixed, self.contract, fixed_channel)
        shown = placed(values, fixed.grid.translated(-origin), local, device=where)
        values = intensities(moving, self.contract, moving_channel)
        seen = placed(values, moving.grid.translated(-origin), local, begin, device=where)
        network.to(where)
        with torch.no_grad():
            found = network.transform(shown, seen, local)
        whole = found if begin is None else chain(found, begin)
        for tensor in whole.tensors().values():
            if not bool(torch.isfinite(tensor).all()):
                raise InputError(f"'{self.name}' gave values that are not finite for these images.")
        return (
            whole.to("cpu")
            .translated_frame(origin)
            .with_coordinate_systems(fixed.coordinate_system, moving.coordinate_system)
        )

    def _lattice(self, fixed: Grid, stages: list[LocalizationNetwork], device: torch.device, notes: list[str]) -> Grid:
        lattice = self.contract.lattice(fixed, notes)
        free = free_memory(str(device))
        coarser = 1.0
        while lattice.size * BYTES_PER_VOXEL > 0.8 * free:
            coarser *= 2
            if coarser > 64:
                raise OutOfMemoryError("There is not enough memory to show these images to the network; crop them.")
            lattice = self.contract.lattice(fixed, None, coarser)
        if coarser > 1:
            notes.append(
                f"There is not enough memory for full resolution, so the network was shown 1/{coarser:.0f} of it; "
                "the result is still warped at full resolution."
            )
        return lattice

    def __call__(
        self,
        fixed: Image,
        moving: Image,
        refine: int = 0,
        *,
        progress: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> Result:
        """Register a pair: one pass, and ``refine`` steps of optimization for this pair if asked for.

        The same as :func:`napari_stnreg.register` with ``model=self``, whose options it takes.
        """
        from napari_stnreg.registration.api import register  # it lies above, and is the one way to a result

        return register(fixed, moving, model=self, refine=refine, progress=progress, **options)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the model's file; see :func:`napari_stnreg.save`."""
        from napari_stnreg.models.model_file import save_model  # it knows this class

        return save_model(self, path)

    def describe(self) -> Mapping[str, str]:
        """A few words about it for a person, by title."""
        parts = self.network.config()
        names = [one["name"] for one in parts.get("stages", [parts])]
        size = " x ".join(str(n) for n in self.contract.shape)
        spacing = " x ".join(f"{s:.4g}" for s in self.contract.spacing)
        told = {
            "network": "+".join(names),
            "axes": f"{self.ndim}D",
            "trained at": f"{size}, {spacing} {self.contract.unit}",
            "weights": str(sum(p.numel() for p in self.network.parameters())),
        }
        if self.registers:
            told["family"] = self.family
        return told
