"""Handwritten digits: affine (recipe 3), supervised affine (4), thin-plate (2), affine then deformable (7)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import napari_stnreg as sr
from benchmark.data import Pair, load_arrays
from benchmark.recipes import Recipe, Row
from benchmark.recipes.judging import correlation
from napari_stnreg.training.augmentation.spatial import SpatialAugmentation
from napari_stnreg.training.data.image_sets import ImageSet
from napari_stnreg.training.data.paired_images import Augmentation, PairedImages
from napari_stnreg.training.data.pairing import FixedPairs

FILE = "mnist/mnist.npz"
DIGIT = 3
TEST = 200
VALIDATION = 100
APART = SpatialAugmentation(rotation=30, scale=0.2, stretch=0.1, shear=0.15, shift=4)


@cache
def digits(folder: Path, digit: int | None) -> np.ndarray[Any, Any]:
    """Images of one digit, or of every tenth image, in the file's order."""
    arrays = load_arrays(folder / FILE)
    return np.asarray(arrays["image"][::10] if digit is None else arrays["image"][arrays["digit"] == digit])


def image_set(images: np.ndarray[Any, Any]) -> ImageSet:
    """The images as a set."""
    return ImageSet.from_images([sr.Image.from_array(x, name=f"digit {i}") for i, x in enumerate(images)])


def one_class(folder: Path) -> PairedImages:
    """Every three to the first; the last ones judge and are not here."""
    images = image_set(digits(folder, DIGIT)[:-TEST])
    count = len(images)
    train = FixedPairs([(0, i) for i in range(1, count - VALIDATION)])
    return PairedImages(images, images, train, [(0, i) for i in range(count - VALIDATION, count)])


def known_affines(folder: Path) -> PairedImages:
    """Digits of all classes against themselves, moved by a known affine map."""
    images = image_set(digits(folder, None)[:-TEST])
    count = len(images)
    same = [(i, i) for i in range(count)]
    return PairedImages(images, images, FixedPairs(same[:-VALIDATION]), same[-VALIDATION:],
                        augmentation=Augmentation(independent=APART), same_image=True)  # fmt: skip


def judge(model: Any, folder: Path, refine: int) -> Iterator[Row]:
    """The last threes; beside the one pass, what optimizing the pair alone reaches."""
    images = digits(folder, DIGIT)
    fixed = sr.Image.from_array(images[0], name="template")
    family = model.family if "+" not in model.family else "affine+diffeomorphic"
    similarity = "lncc" if {"diffeomorphic", "velocity"} & set(family.split("+")) else "ncc"
    for i, image in enumerate(images[-TEST:]):
        moving = sr.Image.from_array(image, name=f"test {i}")
        transform = model.predict(fixed, moving, device="cpu")
        row: Row = {"pair": moving.name, "ncc_before": correlation(images[0], image)}
        row["ncc"] = correlation(images[0], sr.warp(moving, transform, fixed.grid).data)
        row["folded_percent"] = 100 * float((transform.jacobian_determinant(fixed.grid) <= 0).mean())
        if i < 50:  # the optimizer takes a second a pair
            alone = sr.register(fixed, moving, family=family, similarity=similarity, device="cpu")
            row["refined_ncc"] = correlation(images[0], alone.warped.data)
            row["ncc_same_pairs"] = row["ncc"]
        yield row


def judge_known(model: Any, folder: Path, refine: int) -> Iterator[Row]:
    """Unseen digits against themselves, moved by known maps: mean error in pixels where there is ink."""
    images = digits(folder, None)[-TEST:]
    grid = sr.Grid.from_spacing(images[0].shape)
    for i, image in enumerate(images):
        truth = APART.draw(np.random.default_rng([77, i]), grid)
        moving = sr.Image.from_array(image.astype(np.float32), name=f"test {i}")
        fixed = sr.warp(moving, truth, grid)
        found = model.predict(fixed, moving, device="cpu")
        points = np.argwhere(np.asarray(fixed.data) > 64).astype(float)
        if len(points) < 20:
            continue
        right = truth.map_points(points)
        yield {
            "pair": moving.name,
            "error_before": float(np.linalg.norm(points - right, axis=1).mean()),
            "error": float(np.linalg.norm(found.map_points(points) - right, axis=1).mean()),
            "ncc_before": correlation(fixed.data, moving.data),
            "ncc": correlation(fixed.data, sr.warp(moving, found, grid).data),
        }


__all__ = ["RECIPES", "Pair"]

COMMON = {"batch_size": 64, "learning_rate": 2e-3}
RECIPES = {
    "digit-affine": Recipe(
        "affine CNN, one digit class, NCC; 'refined' is optimizing each pair alone", FILE, one_class,
        {**COMMON, "network": "affine", "similarity": "ncc", "epochs": 12}, judge,
        goal="within 0.02 of optimizing each pair, trained in 2 CPU minutes",
    ),
    "digit-tps": Recipe(
        "thin-plate STN, one digit class, NCC", FILE, one_class,
        {**COMMON, "network": "tps", "similarity": "ncc", "epochs": 5, "diffusion": 0.02}, judge,
    ),
    "digit-affine-voxelmorph": Recipe(
        "affine then VoxelMorph in one model, one digit class", FILE, one_class,
        {**COMMON, "network": "affine+voxelmorph", "similarity": "ncc", "epochs": 4, "diffusion": 0.05,
         "network_options": {"voxelmorph": {"encoder": [16, 16], "decoder": [16, 16], "final": [16]}}}, judge,
    ),
    "digit-airnet": Recipe(
        "supervised affine CNN (AIRNet), digits of all classes, known affines", FILE, known_affines,
        {**COMMON, "network": "affine", "similarity": "ncc", "similarity_weight": 0.0, "truth_weight": 1.0,
         "epochs": 8}, judge_known,
    ),
}  # fmt: skip
