"""Whole heads, 3D affine, skull on and with a brain mask (recipes 3 and 4)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import napari_stnreg as sr
from benchmark.make_splits import groups_of
from benchmark.recipes import Recipe, Row
from benchmark.scoring import dice
from napari_stnreg.networks import warp_batch
from napari_stnreg.training.augmentation.intensity import IntensityAugmentation
from napari_stnreg.training.augmentation.spatial import SpatialAugmentation
from napari_stnreg.training.data.image_sets import ImageSet
from napari_stnreg.training.data.pair_sampler import MixedSource
from napari_stnreg.training.data.paired_images import Augmentation, PairedImages
from napari_stnreg.training.data.pairing import FixedPairs
from napari_stnreg.training.synthetic.heads import generated_heads
from napari_stnreg.transforms import AffineTransform

FOLDER = "head_t1_nifti"
GRID = sr.Grid.from_spacing((40, 40, 30), 6.0, unit="mm")
MOVED = SpatialAugmentation(rotation=22, scale=0.16, stretch=0.03, shear=0.03, shift=22)
LOOKS = IntensityAugmentation(gamma=0.7, bias=0.4, noise=0.05, blur=0.6, invert=0.25)
AUGMENTATION = Augmentation(
    joint=SpatialAugmentation(rotation=10, scale=0.1, stretch=0.1, shear=0.05, shift=8, flip=True),
    independent=MOVED,
    intensity=LOOKS,
)
TRIALS = 6
MADE = 120
# Matched twice: what the first has left of the turn, the second sees as a small one.
MATCHING = [{"features": [32], "depth": 3, "shrink": 2}, {"features": [16, 32], "depth": 2}]


def people(folder: Path, split: str, stripped: bool) -> list[tuple[str, sr.Image, np.ndarray[Any, Any]]]:
    """Name, image and brain mask of the heads of a split."""
    kind, found = groups_of("heads"), []
    for path in sorted((folder / FOLDER).glob("*_T1.nii.gz")):
        name = path.name.split("-")[0]
        if kind[name] != split:
            continue
        image = sr.read(path)
        brain = np.asarray(sr.read(str(path).replace("_T1", "_DLMUSE")).data) > 0
        data = np.where(brain, image.data, 0) if stripped else image.data
        found.append((name, image.replace(data=data, name=f"{name}{' brain' if stripped else ''}"), brain))
    return found


def training_data(folder: Path) -> MixedSource:
    """Four heads, with skull and without, and generated ones, each against itself moved by a known affine map."""
    images = [image for stripped in (False, True) for _, image, _ in people(folder, "train", stripped)]
    real = ImageSet.from_images(images)
    same = [(i, i) for i in range(len(images))]
    made = generated_heads(GRID, MADE, stripped=0.3, labeled=False)
    options: dict[str, Any] = {"augmentation": AUGMENTATION, "grid": GRID, "same_image": True}
    return MixedSource(
        PairedImages(real, real, FixedPairs(same * 8), same * 2, **options),
        PairedImages(made, made, FixedPairs([(i, i) for i in range(MADE)]), **options),
    )


def corner_error(transform: Any, truth: Any, brain: np.ndarray[Any, Any], grid: sr.Grid) -> float:
    """Mean distance in mm at the corners of the head's bounding box."""
    inside = np.argwhere(brain)
    box = grid.cropped(inside.min(0), inside.max(0) + 1).corners()
    return float(np.linalg.norm(transform.map_points(box) - truth.map_points(box), axis=1).mean())


def judge(model: Any, folder: Path, refine: int) -> Iterator[Row]:
    """Unseen heads against themselves, moved and in altered contrast; then one person to the other."""
    moved = SpatialAugmentation(rotation=20, scale=0.15, shift=20)
    for stripped in (False, True):
        heads = people(folder, "test", stripped)
        for place, (name, image, _) in enumerate(heads):
            shown = np.asarray(image.data, dtype=np.float32)
            shown = np.clip(shown / np.percentile(shown, 99.5), 0, 1)
            head = shown > 0.05
            for trial in range(TRIALS):
                random = np.random.default_rng([91, place, trial])
                truth = moved.draw_affine(random, image.grid)
                tensor = torch.from_numpy(shown)[None, None]
                fixed_data = LOOKS(warp_batch(tensor, truth, image.grid, padding="zeros"), random)
                moving_data = LOOKS(tensor, random)
                fixed, moving = (image.replace(data=x[0, 0].numpy()) for x in (fixed_data, moving_data))
                found = model.predict(fixed, moving, device="cpu")
                row: Row = {"pair": f"{name} {'brain' if stripped else 'head'} {trial}"}
                still = AffineTransform.identity(3, "mm")
                row["error_before"] = corner_error(still, truth, head, image.grid)
                row["error"] = corner_error(found, truth, head, image.grid)
                row["error_brain" if stripped else "error_head"] = row["error"]
                if refine and trial < 2:
                    better = model(fixed, moving, refine=refine, device="cpu").transform
                    row["refined_error"] = corner_error(better, truth, head, image.grid)
                yield row
        (_, one, brain_a), (_, other, brain_b) = heads[:2]
        for fixed, moving, here, there in ((one, other, brain_a, brain_b), (other, one, brain_b, brain_a)):
            truth_labels = moving.replace(data=there.astype(np.uint8))
            found = model.predict(fixed, moving, device="cpu")
            before = sr.warp(truth_labels, None, fixed.grid, "nearest").data
            after = sr.warp(truth_labels, found, fixed.grid, "nearest").data
            row = {"pair": f"{fixed.name}<-{moving.name}"}
            row["dice_before"] = dice(here.astype(np.uint8), np.asarray(before), [1])
            row["dice"] = dice(here.astype(np.uint8), np.asarray(after), [1])
            if refine:
                better = model(fixed, moving, refine=refine, device="cpu").transform
                refined = sr.warp(truth_labels, better, fixed.grid, "nearest").data
                row["refined_dice"] = dice(here.astype(np.uint8), np.asarray(refined), [1])
            yield row


RECIPES = {
    "heads-affine": Recipe(
        "affine by matching, 3D, whole heads with and without skull, known moves", FOLDER, training_data,
        {"network": "matching+matching", "network_options": {"matching": MATCHING}, "similarity_weight": 0.0,
         "truth_weight": 1.0, "epochs": 45, "batch_size": 4, "learning_rate": 2e-3,
         # not a part of the loss, but what the refinement goes by: contrast may be turned over
         "similarity": "mi"},
        judge, refine=60, goal="below 6 mm in one pass, below 1 mm refined",
    ),
}  # fmt: skip
