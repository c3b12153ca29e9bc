"""The bundled models, trained by ``scripts/train_bundled_model.py`` on generated images (recipe 9)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import napari_stnreg as sr
from benchmark.data import FILES, load_arrays
from benchmark.recipes import Recipe, Row, brain, hippocampus
from benchmark.recipes.heart import test_pairs
from benchmark.recipes.judging import judged
from napari_stnreg.losses import LocalNCC

BRAINS = "brain_2d/ants2d.npz"
SLICES = (("r16", "r64"), ("r27", "r62"), ("r30", "r85"))


def local_ncc(fixed: sr.Image, moving: sr.Image) -> float:
    """Mean squared local correlation in windows of 7, both images from 0 to 1."""
    import torch

    similarity = LocalNCC(radius=3)
    one, other = (torch.from_numpy(x.intensity() / 255)[None, None] for x in (fixed, moving))
    similarity.prepare(one)
    return similarity.score(other)


def judge(model: Any, folder: Path, refine: int) -> Iterator[Row]:
    """Hearts by Dice, brain slices by local correlation; ``share`` of what optimizing the pair gains."""
    for pair in test_pairs(folder):
        yield judged(model, pair, refine)
    arrays = load_arrays(folder / BRAINS)
    for names in SLICES:
        fixed, moving = (sr.Image.from_array(arrays[name], name=name) for name in names)
        row: Row = {"pair": "<-".join(names), "local_before": local_ncc(fixed, moving)}
        found = sr.warp(moving, model.predict(fixed, moving, device="cpu"), fixed.grid)
        alone = sr.register(fixed, moving, family="diffeomorphic", similarity="lncc", device="cpu")
        row["local"], row["local_alone"] = local_ncc(fixed, found), local_ncc(fixed, alone.warped)
        row["fraction"] = (row["local"] - row["local_before"]) / (row["local_alone"] - row["local_before"])
        yield row


RECIPES = {
    "box-2d": Recipe(
        "generated shapes only; cardiac slices by Dice, brain slices by local NCC",
        "cardiac_cine/cardiac_cine.npz",
        None,  # trained by scripts/train_bundled_model.py, which reads no data
        {},
        judge,
        refine=40,
        goal="Dice 0.85 in one pass; half the local NCC gain of optimizing; under 5 MB",
    ),
    "box-3d": Recipe(
        "generated shapes and heads only; hippocampus by Dice", FILES["hippocampus"], None, {}, hippocampus.judge,
        refine=40, goal="Dice 0.65 in one pass, under 20 MB",
    ),
    "box-3d-brain": Recipe(
        "the same model; brains at 2 mm by Dice", FILES["brain"], None, {}, brain.judge,
        refine=60, goal="Dice 0.50 in one pass", bundled="box-3d",
    ),
}  # fmt: skip
