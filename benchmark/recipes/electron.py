"""Serial electron microscopy: an auto-encoder's features as a similarity (recipe 8)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import napari_stnreg as sr
from benchmark.data import FILES, Pair, load_pairs
from benchmark.recipes import Recipe, Row
from benchmark.scoring import field_errors
from napari_stnreg.training.augmentation.intensity import IntensityAugmentation
from napari_stnreg.training.augmentation.spatial import SpatialAugmentation
from napari_stnreg.training.data.image_sets import ImageSet
from napari_stnreg.training.data.paired_images import Augmentation, PairedImages
from napari_stnreg.training.data.pairing import neighbors

AUGMENTATION = Augmentation(
    joint=SpatialAugmentation(rotation=180, scale=0.2, flip=True),
    intensity=IntensityAugmentation(gamma=0.2, bias=0.2),
)
TRAINED_ON = 100
"""Planes below this one are trained on; the pairs that judge lie above."""


def training_data(folder: Path) -> PairedImages:
    """Every fourth plane of the lower part of the volume, cut to its middle."""
    volume = sr.read(folder / FILES["fibsem"])
    planes = ImageSet.from_stack(volume).subset(range(0, TRAINED_ON, 4))
    grid = sr.Grid.from_spacing((128, 128), volume.grid.spacing[1:].tolist(), unit=volume.grid.unit)
    return PairedImages(
        planes, planes, neighbors(range(22)), [(22, 23), (23, 24)], augmentation=AUGMENTATION, grid=grid
    )


def judge(model: Any, folder: Path, refine: int) -> Iterator[Row]:
    """Planes warped by a known field, with noise and another brightness on one side: error in pixels by similarity."""
    with tempfile.TemporaryDirectory() as place:
        features = str(model.save(Path(place) / "features.safetensors"))
        for number, pair in enumerate(load_pairs("fibsem", folder, "test", 4)):
            yield _by_similarity(pair, features, np.random.default_rng([93, number]))


def _by_similarity(pair: Pair, features: str, random: np.random.Generator) -> Row:
    fixed, moving = (x.astype(np.float32) for x in (pair.fixed, pair.moving))
    fixed = 255 * (fixed / 255) ** 0.7 + random.normal(0, 25, fixed.shape).astype(np.float32)
    moving = moving + random.normal(0, 25, moving.shape).astype(np.float32)
    one, other = sr.Image.from_array(fixed), sr.Image.from_array(moving)
    row: Row = {"pair": pair.name, "error_before": float(field_errors(np.zeros_like(pair.truth), pair.truth).mean())}
    for name, similarity in (("error", features), ("error_lncc", "lncc"), ("error_mse", "mse"), ("error_mind", "mind")):
        found = sr.register(one, other, family="diffeomorphic", similarity=similarity, device="cpu").transform
        row[name] = float(field_errors(found.displacement(one.grid), pair.truth).mean())
    return row


RECIPES = {
    "fibsem-features": Recipe(
        "auto-encoder features as similarity, fibsem planes with noise, error in pixels", FILES["fibsem"],
        training_data,
        {"network": "auto-encoder", "epochs": 20, "batch_size": 4, "learning_rate": 2e-3,
         "network_options": {"features": [12, 24, 24]}},
        judge,
    ),
}  # fmt: skip
