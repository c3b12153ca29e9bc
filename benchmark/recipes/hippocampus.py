"""Hippocampus, pairs of cases (recipe 6, VoxelMorph in 3D)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.data import FILES, load_arrays
from benchmark.make_splits import groups_of
from benchmark.recipes import Recipe, Row
from benchmark.recipes.judging import judged, label_pairs
from napari_stnreg.training.data.image_sets import ImageSet
from napari_stnreg.training.data.paired_images import PairedImages
from napari_stnreg.training.data.pairing import RandomPairs

# A U-Net on averages of 2 x 2 x 2 voxels that gives a velocity for every fourth voxel; two in a row, of which the
# second sees what the first has left. Far cheaper than one at full size, and large moves are found in two steps.
COARSE = {"encoder": [16, 32, 64], "decoder": [64, 48, 32], "final": [24], "shrink": 2, "resolution": "half"}
CASCADE = {"network": "voxelmorph+voxelmorph", "network_options": {"voxelmorph": [COARSE, COARSE]}}


def training_data(folder: Path) -> PairedImages:
    """Random pairs of the training cases; two rings of those for validation."""
    source = folder / FILES["hippocampus"]
    images = ImageSet.from_npz(source, labels="label", group="case", spacing="voxel_mm", unit="mm")
    kind = groups_of("hippocampus")
    train, held = ([i for i, g in enumerate(images.groups) if kind[g] == k] for k in ("train", "validation"))
    rings = [(one, held[(place + step) % len(held)]) for step in (1, 3) for place, one in enumerate(held)]
    return PairedImages(images, images, RandomPairs(train, 152), rings)


def judge(model: Any, folder: Path, refine: int) -> Iterator[Row]:
    """The test cases in a ring."""
    arrays, kind = load_arrays(folder / FILES["hippocampus"]), groups_of("hippocampus")
    chosen = [g for g, k in kind.items() if k == "test"]
    for pair in label_pairs(arrays["image"], arrays["label"], arrays["case"], chosen):
        yield judged(model, pair, refine, tuple(arrays["voxel_mm"].tolist()), "mm")


COMMON = {**CASCADE, "similarity": "lncc", "window": 3, "diffusion": 0.07, "batch_size": 2, "learning_rate": 1e-3}

RECIPES = {
    "hippocampus-voxelmorph": Recipe(
        "VoxelMorph 3D, hippocampus, no labels", FILES["hippocampus"], training_data, {**COMMON, "epochs": 66},
        judge, refine=0, goal="Dice 0.78 in one pass under 100 ms",
    ),
    "hippocampus-labels": Recipe(
        "VoxelMorph 3D, hippocampus, labels help the training", FILES["hippocampus"], training_data,
        {**COMMON, "label_weight": 2.0, "learning_rate": 7e-4, "epochs": 16}, judge, refine=0,
        goal="Dice 0.84 in one pass under 100 ms", warm_start="hippocampus-voxelmorph",
    ),
}  # fmt: skip
