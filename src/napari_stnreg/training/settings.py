"""What a person can choose about a training, in one model that the widget, a script and the command line share."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.settings import Settings
from napari_stnreg.registration.settings import LINEAR_FAMILIES

NETWORK_HELP = {
    "affine": "Shift, rotation, scales and shear, by a convolutional network that sees both images.",
    "matching": "An affine transform from places that a network knows again in the other image; for large turns.",
    "tps": "Smooth bending by thin-plate control points.",
    "dirnet": "Smooth bending by a B-spline control grid (DIRNet).",
    "voxelmorph": "A free deformation for every voxel (VoxelMorph).",
    "affine+voxelmorph": "Affine, then a free deformation, in one model.",
    "auto-encoder": "No registration: features of images, to be used as a similarity.",
}
"""One line for a person choosing a network."""

Schedule = Literal["cosine", "constant", "step"]


class TrainingSettings(Settings):
    """Settings of one training.

    Raises
    ------
    InputError
        From :meth:`parse`, with one sentence, if a value is not allowed.
    """

    network: str = Field(default="voxelmorph", description="What is trained; several are joined by '+'.")
    family: str | None = Field(default=None, description="Transform family, where the network has a choice.")
    network_options: dict[str, Any] = Field(default_factory=dict, description="Sizes of the network, by name.")
    similarity: str | None = Field(
        default=None, description="mse, ncc, lncc, mi, mind, or an auto-encoder's file; by the network if not given."
    )
    similarity_weight: float = Field(default=1.0, ge=0, description="Weight of the similarity; 0 leaves it out.")
    window: int | None = Field(default=None, ge=1, le=31, description="Radius of local NCC's window, in voxels.")
    diffusion: float | None = Field(default=None, ge=0, description="Weight of the diffusion regularizer.")
    bending: float = Field(default=0.0, ge=0, description="Weight of the bending energy.")
    folding: float = Field(default=0.0, ge=0, description="Weight of the folding penalty.")
    label_weight: float = Field(default=0.0, ge=0, description="Weight of the labels' overlap (soft Dice).")
    truth_weight: float = Field(
        default=0.0, ge=0, description="Weight of the distance to a known transform, at its corners."
    )
    warm_start: str | None = Field(default=None, description="Trained model to continue from: its network and weights.")
    strategy: Literal["joint", "sequential"] = Field(
        default="joint",
        description="Train several networks jointly, or one after the other with the earlier ones frozen.",
    )
    epochs: int = Field(default=100, ge=1, le=100_000, description="Passes over the training pairs.")
    batch_size: int = Field(default=8, ge=1, le=4096, description="Pairs that are taken at once.")
    gradient_accumulation: int = Field(default=1, ge=1, le=1024, description="Batches whose gradients make one step.")
    learning_rate: float = Field(default=1e-3, gt=0, le=1, description="Length of a step.")
    schedule: Schedule = Field(default="cosine", description="How the learning rate falls.")
    warmup: float = Field(
        default=0.02, ge=0, lt=1, description="Share of the training over which the learning rate rises."
    )
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="Pull of the weights toward zero.")
    gradient_clip: float = Field(default=1.0, ge=0, description="Longest gradient; 0 for any length.")
    patience: int | None = Field(default=None, ge=1, description="Epochs without a better validation before it ends.")
    size_mode: Literal["auto", "spacing", "extent"] = Field(
        default="auto",
        description="Whether voxel sizes matter (spacing) or images fill the network's lattice (extent).",
    )
    mixed_precision: Literal["auto", "on", "off"] = Field(
        default="auto", description="Half precision for layers, on a GPU."
    )
    snapshots: int = Field(
        default=32, ge=0, le=500, description="Pictures of the validation pair that are kept for a replay."
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1 or mps.")
    seed: int = Field(default=0, ge=0, description="Seed of everything random.")

    @field_validator("network")
    @classmethod
    def _known_networks(cls, value: str) -> str:
        from napari_stnreg.networks.registry import network_names  # brings torch

        try:
            return "+".join(network_names(value))
        except InputError as error:
            raise ValueError(str(error).rstrip(".")) from error

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks in their order."""
        return tuple(self.network.split("+"))

    @property
    def similarity_name(self) -> str:
        """The similarity that was chosen, or the network's usual one."""
        if self.similarity is not None:
            return self.similarity
        return "lncc" if "voxelmorph" in self.networks else "ncc"

    @property
    def diffusion_weight(self) -> float:
        """The weight that was chosen, or the usual one."""
        if self.diffusion is not None:
            return self.diffusion
        if not {"voxelmorph", "tps"} & set(self.networks):
            return 0.0
        return 0.1 if self.similarity_name == "lncc" else 0.02

    def options_of_networks(self) -> dict[str, Any]:
        """The networks' options, with the family given to the network that has it."""
        options: dict[str, Any] = {name: dict(value) if isinstance(value, dict) else value
                                   for name, value in self.network_options.items()}  # fmt: skip
        for family in (self.family or "").split("+"):
            if not family:
                continue
            wanted = "affine" if family in LINEAR_FAMILIES else "voxelmorph"
            if wanted not in self.networks:
                if (family, self.network) in {("bspline", "dirnet"), ("tps", "tps"), ("affine", "matching")}:
                    continue
                raise InputError(f"The network '{self.network}' has no family '{family}'.")
            if len(self.networks) > 1:
                options[wanted] = {**options.get(wanted, {}), "family": family}
            else:
                options["family"] = family
        return options
