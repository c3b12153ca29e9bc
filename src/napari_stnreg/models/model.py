"""A trained model: a network, the images it expects, and a summary of its training."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import napari_stnreg as sr
from napari_stnreg.core.device import free_memory, pick_device, single_thread
from napari_stnreg.core.errors import InputError, OutOfMemoryError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.io.conversion import ImageLike, as_image_pair
from napari_stnreg.losses import SIMILARITIES
from napari_stnreg.models.input_spec import InputSpec, grids_overlap, intensities, resample_to_lattice
from napari_stnreg.networks import AutoEncoder, FrozenEncoder, LocalizationNetwork, Network
from napari_stnreg.transforms import AffineTransform, Transform, chain

BYTES_PER_VOXEL = 900
"""Peak memory of a forward pass for each voxel: 590 measured for the default U-Net, plus half as much."""
CHECKED_BYTES = 2**28
"""Memory of a forward pass above which the free memory is read first, which takes 2 ms."""

SINGLE_THREAD_PASS_VOXELS = 2**16
"""Images of up to this many voxels are predicted by a single thread. Two threads gain nothing on 128 x 128 voxels, and
cost many times as much on a busy machine."""

UNCERTAINTY_SAMPLES = 16
"""Draws for a map of uncertainty: the relative error of a standard deviation is 1 / sqrt(2 (n - 1)), 18 %."""


@dataclass
class Model:
    """A trained network that registers pairs of images in one pass, or an auto-encoder whose features compare them.

    Parameters
    ----------
    network
        The network, in evaluation mode; on the CPU until it is used.
    input_spec
        The images that it expects.
    summary
        Summary of the training, JSON-ready: data, pairs, epochs, best score, settings, seed, versions.
    name
        Name for reports.
    replay
        The warped validation image during training, ``(T, *shape)`` float16, at the epochs of
        ``summary["replay_epochs"]``; kept in memory by a training, not saved.
    replay_fixed
        The fixed image of the same pair, ``shape``; not saved either.
    """

    network: Network
    input_spec: InputSpec
    summary: dict[str, Any] = field(default_factory=dict)
    name: str = "model"
    replay: npt.NDArray[np.float16] | None = None
    replay_fixed: npt.NDArray[np.float16] | None = None

    def __post_init__(self) -> None:
        self.network.eval()

    def __repr__(self) -> str:
        words = ", ".join(f"{key} {value}" for key, value in self.describe().items())
        return f"<Model {self.name!r}: {words}>"

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return self.input_spec.ndim

    @property
    def family(self) -> str:
        """Transform families of the stages, joined by ``+``."""
        return "+".join(one.family.name for one in self._stages())

    @property
    def similarity(self) -> str:
        """Similarity that it was trained with; local correlation if that was a loss function of the user's own."""
        name = str(self.summary.get("settings", {}).get("similarity_used", "lncc"))
        return name if name in SIMILARITIES or name.endswith(".safetensors") else "lncc"

    def _stages(self) -> list[LocalizationNetwork]:
        if isinstance(self.network, AutoEncoder):
            raise InputError(f"'{self.name}' is an auto-encoder and cannot register images. Choose it as a similarity.")
        return self.network.networks()

    @property
    def registers(self) -> bool:
        """Whether the model predicts a transform; false for an auto-encoder."""
        return isinstance(self.network, LocalizationNetwork)

    def features(self) -> FrozenEncoder:
        """Return the frozen encoder of an auto-encoder, for :class:`~napari_stnreg.losses.FeatureDistance`.

        Raises
        ------
        InputError
            If the model is not an auto-encoder.
        """
        if not isinstance(self.network, AutoEncoder):
            raise InputError(f"'{self.name}' is not an auto-encoder, so its features cannot be used as a similarity.")
        return FrozenEncoder(self.network)

    def predict(
        self,
        fixed: ImageLike,
        moving: ImageLike,
        *,
        device: str | torch.device = "auto",
        fixed_channel: int | None = None,
        moving_channel: int | None = None,
        start_transform: Transform | None = None,
        smoothness: float | None = None,
        warnings: list[str] | None = None,
    ) -> Transform:
        """Predict the transform of a pair in one pass, without a verdict.

        Calling the model instead registers the pair: it also warps the moving image and judges the alignment.

        Parameters
        ----------
        fixed, moving
            Images of any size, voxel size, orientation and unit of length, as :func:`~napari_stnreg.as_image` takes
            them.
        device
            Device of the network.
        fixed_channel, moving_channel
            Channel for a network of one channel; luminance or mean by default.
        start_transform
            Initial transform: the network sees the moving image warped by it. Without it, images that do not overlap
            in the world are aligned by their centers.
        smoothness
            Smoothness of the transform for a conditional network, from 0.1 to 10; 1 is that of the training.
        warnings
            Warnings are appended here.

        Returns
        -------
        Transform
            Fixed world to moving world, in the fixed image's unit, on the CPU.

        Raises
        ------
        InputError
            If the images do not match :attr:`input_spec`.
        """
        self._stages()
        fixed, moving = as_image_pair(fixed, moving)
        for image in (fixed, moving):
            self.input_spec.check(image)
        where = device if isinstance(device, torch.device) else pick_device(device)
        messages = warnings if warnings is not None else []
        lattice = self._lattice(fixed.grid, where, messages)
        moving = moving.with_unit(lattice.unit)
        start = start_transform
        if start is None and not grids_overlap(lattice, moving.grid):
            shift = np.eye(self.ndim + 1)
            shift[:-1, -1] = moving.grid.center - fixed.grid.center
            start = AffineTransform(shift, lattice.unit)
            messages.append("The images do not overlap in the world, so their centers were aligned first.")
        with torch.no_grad(), single_thread(where.type == "cpu" and lattice.size <= SINGLE_THREAD_PASS_VOXELS):
            return self._predict_on(
                lattice, fixed, moving, where, fixed_channel, moving_channel, start, smoothness, messages
            )

    def _predict_on(
        self,
        lattice: Grid,
        fixed: Image,
        moving: Image,
        device: torch.device,
        fixed_channel: int | None,
        moving_channel: int | None,
        start: Transform | None,
        smoothness: float | None,
        messages: list[str],
    ) -> Transform:
        """Run the network on the images resampled to a lattice; see :meth:`predict`."""
        network = self.network
        assert isinstance(network, LocalizationNetwork)
        origin = lattice.center
        local = lattice.translated(-origin)
        initial = None if start is None else start.translated_frame(-origin).to(device)
        values = intensities(fixed, self.input_spec, fixed_channel)
        fixed_tensor = resample_to_lattice(values, fixed.grid.translated(-origin), local, device=device)
        values = intensities(moving, self.input_spec, moving_channel)
        moving_tensor = resample_to_lattice(values, moving.grid.translated(-origin), local, initial, device=device)
        self._prepare_network(device)
        if smoothness is not None and smoothness != 1 and not network.is_conditional:
            messages.append(
                f"'{self.name}' was trained for one smoothness, so its prediction ignores smoothness {smoothness:g}."
            )
        network.set_smoothness(1.0 if smoothness is None else smoothness)
        predicted = network.transform(fixed_tensor, moving_tensor, local)
        whole = predicted if initial is None else chain(predicted, initial)
        for tensor in whole.tensors().values():
            if not bool(torch.isfinite(tensor).all()):
                raise InputError(f"'{self.name}' returned non-finite values for these images.")
        return whole.to("cpu").translated_frame(origin).between(fixed, moving).with_domain(fixed.grid)

    def _prepare_network(self, device: torch.device) -> None:
        """Move the network to a device, with 2D convolutions in the memory layout that is faster on a CPU."""
        weights = next(self.network.parameters(), None)
        if weights is None or weights.device != device:
            self.network.to(device)
        if device.type == "cpu" and self.ndim == 2:
            first = next((one for one in self.network.parameters() if one.ndim == 4 and one.shape[1] > 1), None)
            if first is not None and not first.is_contiguous(memory_format=torch.channels_last):
                self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def is_conditional(self) -> bool:
        """Whether the smoothness of the transform can be chosen at each prediction."""
        return self.network.is_conditional

    @property
    def is_probabilistic(self) -> bool:
        """Whether the model knows the uncertainty of its transforms."""
        return self.network.is_probabilistic

    def uncertainty(
        self, fixed: ImageLike, moving: ImageLike, *, samples: int = UNCERTAINTY_SAMPLES, seed: int = 0, **options: Any
    ) -> Image:
        """Return the standard deviation of the predicted displacement at each voxel of the fixed image.

        Parameters
        ----------
        fixed, moving
            See :meth:`predict`.
        samples
            Transforms that are drawn.
        seed
            Seed of the draws; the global random state is not changed.
        **options
            Keyword arguments of :meth:`predict`.

        Returns
        -------
        Image
            In the unit of the fixed image, on its grid, float32: the root of the summed variances of the components.

        Raises
        ------
        InputError
            If the model is not probabilistic, or ``samples`` is below 2.
        """
        if not self.is_probabilistic:
            raise InputError(
                f"'{self.name}' predicts no uncertainty. Train with network='voxelmorph' and the network option "
                "probabilistic."
            )
        if samples < 2:
            raise InputError(f"The uncertainty needs at least 2 samples, not {samples}.")
        fixed, moving = as_image_pair(fixed, moving)
        self.network.set_sampling(True)
        mean, squares = np.zeros(0), np.zeros(0)
        try:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                for count in range(1, samples + 1):  # Welford's algorithm
                    points = self.predict(fixed, moving, **options).on_grid(fixed.grid, torch.float64)[0].numpy()
                    change = points - mean if count > 1 else points
                    mean = points if count == 1 else mean + change / count
                    squares = np.zeros_like(points) if count == 1 else squares + change * (points - mean)
        finally:
            self.network.set_sampling(False)
        deviation = np.sqrt(squares.sum(axis=-1) / (samples - 1)).astype(np.float32)
        return Image(deviation, fixed.grid, name=f"{fixed.name} uncertainty", metadata=fixed.metadata)

    def _lattice(self, fixed: Grid, device: torch.device, messages: list[str]) -> Grid:
        """Return the grid that the network sees, coarser if memory is short."""
        lattice = self.input_spec.lattice(fixed, messages)
        if lattice.size * BYTES_PER_VOXEL <= CHECKED_BYTES:
            return lattice
        free = free_memory(str(device))
        coarser = 1.0
        while lattice.size * BYTES_PER_VOXEL > 0.8 * free:
            coarser *= 2
            if coarser > 64:
                raise OutOfMemoryError("There is not enough memory to run the network on these images. Crop them.")
            lattice = self.input_spec.lattice(fixed, None, coarser)
        if coarser > 1:
            voxel = " x ".join(f"{size:g}" for size in self.input_spec.spacing)
            messages.append(
                f"There is not enough memory for the voxel size of the training ({voxel} {self.input_spec.unit}), so "
                f"the network ran at 1/{coarser:.0f} of its resolution. The result is warped at full resolution."
            )
        return lattice

    def __call__(
        self,
        fixed: ImageLike,
        moving: ImageLike,
        refine: int = 0,
        *,
        progress: Callable[[sr.Progress], None] | None = None,
        **options: Any,
    ) -> sr.Result:
        """Register a pair in one pass, followed by ``refine`` steps of instance optimization.

        Shorthand for :func:`napari_stnreg.register` with ``model=self``, whose options it takes.
        """
        return sr.register(fixed, moving, model=self, refine=refine, progress=progress, **options)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Save the model; see :func:`napari_stnreg.save`."""
        from napari_stnreg.models.model_file import save_model  # model_file imports this module

        return save_model(self, path)

    def describe(self) -> Mapping[str, str]:
        """Summarize the model in a few words, by title."""
        parts = self.network.config()
        names = [one.get("network", one["name"]) for one in parts.get("stages", [parts])]
        size = " x ".join(str(n) for n in self.input_spec.shape)
        spacing = " x ".join(f"{s:.4g}" for s in self.input_spec.spacing)
        summary = {
            "network": "+".join(names),
            "axes": f"{self.ndim}D",
            "trained at": f"{size}, {spacing} {self.input_spec.unit}",
            "weights": str(sum(p.numel() for p in self.network.parameters())),
        }
        if self.registers:
            summary["family"] = self.family
        return summary
