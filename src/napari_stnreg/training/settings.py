"""Settings of a training, shared by panel, script and command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.settings import Settings
from napari_stnreg.registration.settings import SIMILARITY_TITLES

NETWORK_HELP = {
    "affine": "Affine transform, regressed by a convolutional network.",
    "matching": "Affine transform from learned matches, for large rotations.",
    "tps": "Smooth deformation by thin-plate control points.",
    "dirnet": "Smooth deformation by a B-spline control grid (DIRNet).",
    "voxelmorph": "Dense deformation field (VoxelMorph).",
    "affine+voxelmorph": "Affine transform, then a dense deformation field, in one model.",
    "auto-encoder": "Image features for use as a similarity. It does not register images.",
}
"""When to choose which network, in one line. Listed here because panels show it before torch is imported."""

NETWORK_TITLES = {
    "affine": "Affine",
    "matching": "Affine by matching",
    "tps": "Thin-plate spline",
    "dirnet": "B-spline grid (DIRNet)",
    "voxelmorph": "Free deformation (VoxelMorph)",
    "affine+voxelmorph": "Affine + deformable",
}
"""Display names of the networks that register."""

ScheduleName = Literal["cosine", "constant", "step"]


class TrainingSettings(Settings):
    """Settings of one training.

    Raises
    ------
    InputError
        From :meth:`parse`, if a value is not allowed.
    """

    choice_help: ClassVar[Mapping[str, Mapping[str, str]]] = {"network": NETWORK_HELP}
    choice_titles: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "network": NETWORK_TITLES,
        "similarity": SIMILARITY_TITLES,
        "strategy": {"joint": "all together", "sequential": "one after the other"},
    }

    network: str = Field(default="voxelmorph", description="Network, or several joined by '+'.")
    family: str | None = Field(default=None, description="Transform family, for networks with a choice.")
    network_options: dict[str, Any] = Field(
        default_factory=dict,
        description="Options of the network, by name. Command line: --network-options.NAME VALUE.",
    )
    similarity: str | None = Field(
        default=None,
        description="mse, ncc, lncc, mi, mind, or an auto-encoder file. Default: depends on the network.",
    )
    similarity_weight: float = Field(default=1.0, ge=0, description="Weight of the similarity, 0 for none.")
    window: int | None = Field(default=None, ge=1, le=31, description="Radius of local NCC's window, in voxels.")
    diffusion: float | None = Field(default=None, ge=0, description="Weight of the diffusion regularizer.")
    bending: float = Field(default=0.0, ge=0, description="Weight of the bending energy.")
    folding: float = Field(default=0.0, ge=0, description="Weight of the folding penalty.")
    label_weight: float = Field(default=0.0, ge=0, description="Weight of the label overlap (soft Dice).")
    truth_weight: float = Field(default=0.0, ge=0, description="Weight of the distance to a known transform.")
    point_weight: float = Field(default=0.0, ge=0, description="Weight of the distance of corresponding points.")
    surface_weight: float = Field(default=0.0, ge=0, description="Weight of the distance of surfaces.")
    inverse_consistency: float = Field(
        default=0.0, ge=0, description="Weight of the inverse-consistency error (ICON). Both directions are predicted."
    )
    gradient_inverse_consistency: float = Field(
        default=0.0, ge=0, description="Weight of the gradient of the inverse-consistency error (GradICON)."
    )
    kl: float = Field(
        default=1e-3, ge=0, description="Weight of the Kullback-Leibler divergence of a probabilistic network."
    )
    warm_start: str | None = Field(default=None, description="Trained model to continue from: its network and weights.")
    strategy: Literal["joint", "sequential"] = Field(
        default="joint",
        description="Train several networks jointly, or one after the other with the earlier ones frozen.",
    )
    epochs: int = Field(default=100, ge=1, le=100_000, description="Passes over the training pairs.")
    batch_size: int = Field(default=8, ge=1, le=4096, description="Pairs per batch.")
    gradient_accumulation: int = Field(default=1, ge=1, le=1024, description="Batches accumulated for one step.")
    learning_rate: float = Field(default=1e-3, gt=0, le=1, description="Learning rate.")
    schedule: ScheduleName = Field(default="cosine", description="Learning-rate schedule.")
    warmup: float = Field(
        default=0.02, ge=0, lt=1, description="Fraction of the training over which the learning rate rises."
    )
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="Weight decay.")
    gradient_clip: float = Field(default=1.0, ge=0, description="Largest gradient norm, 0 for no limit.")
    patience: int | None = Field(
        default=None, ge=1, description="Epochs without improvement before the training stops."
    )
    size_mode: Literal["auto", "spacing", "extent"] = Field(
        default="auto",
        description="Keep the voxel size of the training data (spacing), or scale images to its size (extent).",
    )
    mixed_precision: Literal["auto", "on", "off"] = Field(
        default="auto", description="Half precision: on, off, or auto (on with a GPU)."
    )
    snapshots: int = Field(
        default=32, ge=0, le=500, description="Images of the validation pair that are kept for a replay."
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1 or mps.")
    seed: int = Field(default=0, ge=0, description="Seed of all random numbers.")

    @field_validator("network")
    @classmethod
    def _known_networks(cls, value: str) -> str:
        from napari_stnreg.networks.registry import network_names  # imports torch

        try:
            return "+".join(network_names(value))
        except InputError as error:
            raise ValueError(str(error).rstrip(".")) from error

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the networks, in order."""
        return tuple(self.network.split("+"))

    @property
    def similarity_name(self) -> str:
        """The similarity, or the default of the network."""
        if self.similarity is not None:
            return self.similarity
        return "lncc" if "voxelmorph" in self.networks else "ncc"

    @property
    def diffusion_weight(self) -> float:
        """The weight of the diffusion regularizer, or the default of the network."""
        if self.diffusion is not None:
            return self.diffusion
        if not {"voxelmorph", "tps"} & set(self.networks):
            return 0.0
        return 0.1 if self.similarity_name == "lncc" else 0.02

    def options_of_networks(self) -> dict[str, Any]:
        """Return the network options, with the family passed to the network that has a choice.

        Raises
        ------
        InputError
            If no network has the family.
        """
        from napari_stnreg.networks import NETWORKS  # imports torch

        own = [name for name in self.networks if name not in NETWORKS]
        options: dict[str, Any] = {
            name: dict(value) if isinstance(value, dict) else value for name, value in self.network_options.items()
        }
        for family in (self.family or "").split("+"):
            if not family:
                continue
            family = "velocity" if family == "diffeomorphic" else family  # its name in version 0.1
            fitting = [name for name in self.networks if name not in own and family in NETWORKS[name].families]
            network = next(iter([*fitting, *own]), None)  # a network of the user's own may have any
            if network is None:
                raise InputError(f"The network '{self.network}' has no family '{family}'.")
            if network not in own and len(NETWORKS[network].families) == 1:
                continue
            if len(self.networks) > 1:
                options[network] = {**options.get(network, {}), "family": family}
            else:
                options["family"] = family
        return options
