"""Settings of a registration, shared by panel, Python and command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, TypedDict

from pydantic import Field, field_validator

from napari_stnreg.core.family_titles import FAMILY_TITLES
from napari_stnreg.core.settings import Settings

LINEAR_FAMILIES = ("translation", "rigid", "similarity", "affine")
DEFORMABLE_FAMILIES = ("bspline", "tps", "displacement", "diffeomorphic", "velocity")

FAMILY_HELP = {
    "translation": "Shift only.",
    "rigid": "Shift and rotation: the same object, moved.",
    "similarity": "Shift, rotation, and one scale for all axes.",
    "affine": "Shift, rotation, scales, and shear.",
    "bspline": "Smooth bending by a cubic B-spline control grid.",
    "tps": "Smooth bending by thin-plate control points.",
    "displacement": "A vector at every voxel, which may tear where the tissue did.",
    "diffeomorphic": "Smooth, without folds, with an inverse.",
    "velocity": "Smooth, without folds, stored as one velocity field.",
}
"""Transform families and when to use them."""


SIMILARITY_HELP = {
    "auto": "Compares both images and chooses.",
    "lncc": "Same modality with uneven brightness, or with inverted contrast.",
    "ncc": "Same contrast at another brightness or gain.",
    "mse": "Same device or stain: equal values mean the same.",
    "mi": "Different modalities or stains, such as T1 and PD.",
    "mind": "Very different modalities that share edges and texture.",
}
"""Similarities and when to use them, without importing torch."""

SIMILARITY_TITLES = {
    "auto": "Automatic",
    "lncc": "Local correlation",
    "ncc": "Correlation",
    "mse": "Mean squares",
    "mi": "Mutual information",
    "mind": "MIND",
}

PRESET_HELP = {
    "fast": "A first look.",
    "balanced": "Good for most pairs.",
    "thorough": "Slightly more accurate, about three times as long.",
}
"""Presets and when to use them."""

PresetName = Literal["fast", "balanced", "thorough"]
Initialization = Literal["auto", "none", "center", "moments", "phase", "search"]
Extent = Literal["fixed", "moving", "union"]

START_HELP = {
    "auto": "Use the best of the given position, the centers, and the best shift. If none fits well, search rotations.",
    "none": "Start at the given position.",
    "center": "Align the centers of the two images.",
    "moments": "Align the centers of intensity.",
    "phase": "Find the shift by phase correlation.",
    "search": "Search rotations and scales in any case, more thoroughly than auto.",
}


def fit_method(family: str) -> Literal["linear", "control-points", "dense"]:
    """Return how a registration fits a transform family, built in or registered by a subclass of `TransformFamily`.

    Raises
    ------
    ValueError
        If there is no such family.
    """
    if family in LINEAR_FAMILIES:
        return "linear"
    if family in DEFORMABLE_FAMILIES:
        return "control-points" if family in ("bspline", "tps") else "dense"
    # Only a name that is not built in needs the registry, which imports torch.
    from napari_stnreg.transforms.registry import FAMILIES

    if family not in FAMILIES:
        raise ValueError(f"there is no transform family '{family}'. Choose from {', '.join(FAMILIES)}")
    return FAMILIES[family].fit_method


class RegistrationOptions(TypedDict, total=False):
    """Fields of :class:`~napari_stnreg.RegistrationSettings` as keyword arguments."""

    family: str
    similarity: str
    preset: PresetName
    start: Initialization
    mirror: bool
    fixed_channel: int | None
    moving_channel: int | None
    window: int | None
    smoothness: float
    control_spacing: float | None
    diffusion: float
    bending: float
    folding: float
    landmark_weight: float
    levels: int | None
    iterations: int | None
    extent: Extent
    fill: float | None
    refine: int
    device: str
    seed: int


class RegistrationSettings(Settings):
    """Settings of one registration; every field has a default that needs no tuning.

    Raises
    ------
    InputError
        From :meth:`parse`, with one sentence, if a value is not allowed.
    """

    choice_help: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "family": FAMILY_HELP,
        "similarity": SIMILARITY_HELP,
        "preset": PRESET_HELP,
        "start": START_HELP,
    }
    choice_titles: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "family": FAMILY_TITLES,
        "similarity": SIMILARITY_TITLES,
        "extent": {"fixed": "the fixed image", "moving": "the moving image", "union": "both together"},
    }

    family: str = Field(default="affine+diffeomorphic", description="Transform family, or several joined by '+'.")
    similarity: str = Field(
        default="auto",
        description="Similarity of the images: auto, mse, ncc, lncc, mi, mind, or an auto-encoder's file.",
    )
    preset: PresetName = Field(default="balanced", description="Trade-off between time and accuracy.")
    start: Initialization = Field(default="auto", description="How the fit finds its start.")
    mirror: bool = Field(default=False, description="Search for mirror images, too.")
    fixed_channel: int | None = Field(default=None, ge=0, description="Channel of the fixed image. Default: luminance.")
    moving_channel: int | None = Field(
        default=None, ge=0, description="Channel of the moving image. Default: luminance."
    )
    window: int | None = Field(default=None, ge=1, le=31, description="Radius of local NCC's window, in voxels.")
    smoothness: float = Field(default=1.0, gt=0, le=10, description="Stiffness of the deformation. Higher is stiffer.")
    control_spacing: float | None = Field(
        default=None, gt=0, description="Distance of control points, in fixed voxels."
    )
    diffusion: float = Field(default=0.0, ge=0, description="Extra weight of the diffusion regularizer.")
    bending: float = Field(default=0.0, ge=0, description="Extra weight of the bending energy.")
    folding: float = Field(default=0.0, ge=0, description="Extra weight of the folding penalty.")
    landmark_weight: float = Field(default=1.0, ge=0, description="Weight of the landmarks during the fit.")
    levels: int | None = Field(
        default=None, ge=1, le=8, description="Pyramid levels. Default: chosen from the image size."
    )
    iterations: int | None = Field(
        default=None, ge=1, le=10000, description="Steps per level. Default: those of the preset."
    )
    extent: Extent = Field(default="fixed", description="What the warped image covers.")
    fill: float | None = Field(
        default=None, description="Value outside the moving image. Default: chosen from its border."
    )
    model: str | None = Field(default=None, description="Trained model that registers in one pass, instead of a fit.")
    refine: int = Field(default=0, ge=0, le=10000, description="Steps of optimization after a model's pass.")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1 or mps.")
    seed: int = Field(default=0, ge=0, description="Seed of all random numbers.")

    @field_validator("family")
    @classmethod
    def _known_families(cls, value: str) -> str:
        names = [name.strip() for name in value.split("+")]
        methods = [fit_method(name) for name in names]
        first = next((i for i, method in enumerate(methods) if method != "linear"), len(names))
        if "linear" in methods[first:]:
            raise ValueError(f"'{value}' has a linear family after a deformable one. Put linear families first")
        return "+".join(names)

    @property
    def stages(self) -> tuple[str, ...]:
        """The families in the order in which they are fitted."""
        return tuple(self.family.split("+"))
