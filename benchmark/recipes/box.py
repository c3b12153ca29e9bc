"""The model in the box: trained on generated shapes alone, judged on hearts and brains (recipe 9)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import napari_stnreg as sr
from benchmark.data import load_arrays
from benchmark.recipes import Recipe, Row
from benchmark.recipes.heart import test_pairs
from benchmark.recipes.judging import judged
from napari_stnreg.learning.generated import GeneratedShapes
from napari_stnreg.objectives import LocalNCC

BRAINS = "brain_2d/ants2d.npz"
SLICES = (("r16", "r64"), ("r27", "r62"), ("r30", "r85"))


def training_data(folder: Path | None = None) -> GeneratedShapes:
    """Generated shapes; nothing is read."""
    return GeneratedShapes(sr.Grid.from_spacing((128, 128)), count=1200, held_back=32, keep=True)


def local_ncc(fixed: sr.Image, moving: sr.Image) -> float:
    """Mean squared local correlation in windows of 7, both images from 0 to 1."""
    import torch

    similarity = LocalNCC(radius=3)
    one, other = (torch.from_numpy(x.intensity() / 255)[None, None] for x in (fixed, moving))
    similarity.prepare(one)
    return similarity.score(other)


def judge(model: Any, folder: Path, refine: int) -> Iterator[Row]:
    """Hearts by Dice, brain slices by local correlation; ``share`` of what optimising the pair gains."""
    for pair in test_pairs(folder):
        yield judged(model, pair, refine)
    arrays = load_arrays(folder / BRAINS)
    for names in SLICES:
        fixed, moving = (sr.Image.from_array(arrays[name], name=name) for name in names)
        row: Row = {"pair": "<-".join(names), "local_before": local_ncc(fixed, moving)}
        found = sr.warp(moving, model.predict(fixed, moving, device="cpu"), fixed.grid)
        alone = sr.register(fixed, moving, family="diffeomorphic", similarity="lncc", device="cpu")
        row["local"], row["local_alone"] = local_ncc(fixed, found), local_ncc(fixed, alone.warped)
        row["share"] = (row["local"] - row["local_before"]) / (row["local_alone"] - row["local_before"])
        yield row


RECIPES = {
    "box-2d": Recipe(
        "generated shapes only; cardiac slices by Dice, brain slices by local NCC", "cardiac_cine/cardiac_cine.npz",
        training_data,
        {"network": "voxelmorph", "family": "diffeomorphic", "similarity": "lncc", "similarity_weight": 0.0,
         "label_weight": 1.0, "truth_weight": 15.0, "diffusion": 0.0, "epochs": 45, "batch_size": 4,
         "learning_rate": 1.5e-3, "sizing": "extent",
         "network_options": {"encoder": [12, 24, 32, 48, 48], "decoder": [48, 48, 32, 32, 24], "final": [24],
                             "resolution": "half"}},
        judge, refine=40, goal="Dice 0.85 in one pass; half the local NCC gain of optimising; under 5 MB",
    ),
}  # fmt: skip
