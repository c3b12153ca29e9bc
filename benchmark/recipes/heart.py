"""Cardiac cine, end-systole onto end-diastole (recipe 5, DIRNet)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.data import FILES, Pair, load_arrays
from benchmark.make_pairs import LEAST_VOXELS
from benchmark.make_splits import groups_of
from benchmark.recipes import Recipe, Row
from benchmark.recipes.judging import judged
from napari_stnreg.training.augmentation.intensity import IntensityAugmentation
from napari_stnreg.training.augmentation.spatial import SpatialAugmentation
from napari_stnreg.training.data.image_sets import ImageSet
from napari_stnreg.training.data.paired_images import Augmentation, PairedImages
from napari_stnreg.training.data.pairing import FixedPairs

AUGMENTATION = Augmentation(
    joint=SpatialAugmentation(
        rotation=25, scale=0.15, stretch=0.1, shift=5, deformation=4, control_spacing=32, flip=True
    ),
    intensity=IntensityAugmentation(gamma=0.3, bias=0.15, noise=0.02),
)


def training_data(folder: Path) -> PairedImages:
    """Pairs of the patients in the committed list."""
    path = folder / FILES["cardiac"]
    fixed = ImageSet.from_npz(path, "ed", "ed_mask", group="patient")
    moving = ImageSet.from_npz(path, "es", "es_mask", group="patient")
    kind = groups_of("cardiac")
    pairs = {k: [(i, i) for i, g in enumerate(fixed.groups) if kind[g] == k] for k in ("train", "validation")}
    return PairedImages(fixed, moving, FixedPairs(pairs["train"]), pairs["validation"], augmentation=AUGMENTATION)


def test_pairs(folder: Path) -> Iterator[Pair]:
    """Every slice of the test patients on which the ventricle is seen at both times."""
    arrays, kind = load_arrays(folder / FILES["cardiac"]), groups_of("cardiac")
    usable = (arrays["ed_mask"].sum((1, 2)) >= LEAST_VOXELS) & (arrays["es_mask"].sum((1, 2)) >= LEAST_VOXELS)
    for i in np.flatnonzero(usable):
        patient = str(arrays["patient"][i])
        if kind[patient] == "test":
            labels = (arrays["ed_mask"][i], arrays["es_mask"][i])
            yield Pair(f"{patient}#{i}", arrays["ed"][i], arrays["es"][i], labels=labels)


def judge(model: Any, folder: Path, refine: int) -> Iterator[Row]:
    """One row a slice."""
    for pair in test_pairs(folder):
        yield judged(model, pair, refine)


RECIPES = {
    "cardiac-dirnet": Recipe(
        "DIRNet, cardiac cine, masks help the training",
        FILES["cardiac"],
        training_data,
        {
            "network": "dirnet+dirnet",
            "similarity": "ncc",
            "label_weight": 1.0,
            "bending": 2e-4,
            "epochs": 36,
            "batch_size": 8,
            "learning_rate": 2e-3,
            # Coefficients below 0.4 of the spacing rule out folds, but one such grid does not reach as far as a heart.
            "network_options": {
                "dirnet": [
                    {"spacing": 16, "features": 24, "depth": 2, "shrink": 2},
                    {"spacing": 8, "features": 20, "depth": 2, "shrink": 2},
                ]
            },
        },
        judge,
        refine=40,
        goal="Dice 0.90 in one pass without folds, under 10 ms; 0.93 refined",
    ),
}  # fmt: skip
