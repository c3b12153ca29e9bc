"""Brains of different people at 2 mm, not aligned beforehand (recipe 6, and 7: affine, then deformable)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import napari_stnreg as sr
from benchmark.data import FILES, load_arrays
from benchmark.make_splits import groups_of
from benchmark.recipes import Recipe, Row
from benchmark.recipes.judging import judged, label_pairs
from napari_stnreg.training.augmentation.intensity import IntensityAugmentation
from napari_stnreg.training.augmentation.spatial import SpatialAugmentation
from napari_stnreg.training.data.image_sets import ImageSet
from napari_stnreg.training.data.paired_images import Augmentation, PairedImages
from napari_stnreg.training.data.pairing import RandomPairs

GRID = sr.Grid.from_spacing((40, 48, 40), 4.0, unit="mm")  # trained at half the resolution: a processor's budget
AUGMENTATION = Augmentation(
    joint=SpatialAugmentation(rotation=8, scale=0.1, stretch=0.08, shear=0.03, shift=8),
    independent=SpatialAugmentation(rotation=4, scale=0.05, shift=5),
    intensity=IntensityAugmentation(gamma=0.2, bias=0.2, noise=0.02),
)
NETWORKS = {
    "affine": {"features": [16, 32, 64, 64]},
    "voxelmorph": [
        {"encoder": [16, 32, 64], "decoder": [64, 48, 32], "final": [24], "shrink": 2, "resolution": "half"},
        {"encoder": [8, 16, 32], "decoder": [32, 24, 16], "final": [16], "resolution": "half"},
    ],
}


def training_data(folder: Path) -> PairedImages:
    """Random pairs of the training subjects; the two held back onto each other for validation."""
    images = ImageSet.from_npz(folder / FILES["brain"], labels="label", group="subject", spacing="voxel_mm", unit="mm")
    kind = groups_of("brain")
    train, held = ([i for i, g in enumerate(images.groups) if kind[g] == k] for k in ("train", "validation"))
    ring = list(zip(held, [*held[1:], held[0]], strict=True))
    return PairedImages(images, images, RandomPairs(train, 100), ring, augmentation=AUGMENTATION, grid=GRID)


def judge(model: Any, folder: Path, refine: int) -> Iterator[Row]:
    """The test subjects in a ring, at 2 mm."""
    arrays, kind = load_arrays(folder / FILES["brain"]), groups_of("brain")
    chosen = [g for g, k in kind.items() if k == "test"]
    for pair in label_pairs(arrays["image"], arrays["label"], arrays["subject"], chosen):
        yield judged(model, pair, refine, tuple(arrays["voxel_mm"].tolist()), "mm")


RECIPES = {
    "brain-voxelmorph": Recipe(
        "affine and VoxelMorph in one model, brains at 2 mm, no labels", FILES["brain"], training_data,
        {"network": "affine+voxelmorph+voxelmorph", "network_options": NETWORKS, "similarity": "lncc", "window": 2,
         "diffusion": 0.07, "batch_size": 2, "learning_rate": 1e-3, "epochs": 36},
        judge, refine=60, goal="Dice 0.62 in one pass, 0.70 refined, no folds",
    ),
}  # fmt: skip
