"""Similarity against chance: alignment stands out, wrong places do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from napari_stnreg.evaluation.chance import compare_with_chance, edge_agreement, edge_features


def texture(shape: tuple[int, ...], seed: int, sigma: float = 2.5) -> Tensor:
    values = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return torch.from_numpy(values.astype(np.float32) / values.std())[None, None]


@pytest.mark.parametrize("shape", [(64, 56), (28, 32, 26)])
def test_alignment_stands_out_from_chance(shape: tuple[int, ...]) -> None:
    image, other = texture(shape, 0), texture(shape, 1)
    assert compare_with_chance(image, image + 0.3 * other).z > 8
    assert compare_with_chance(image, other).z < 3


@pytest.mark.parametrize("contrast", ["inverted", "other modality"])
def test_contrast_does_not_matter(contrast: str) -> None:
    image = texture((64, 64), 0)
    moved = -image if contrast == "inverted" else image.abs()
    aligned = compare_with_chance(image, moved)
    assert min(aligned.edges_z, aligned.local_ncc_z, aligned.mutual_information_z) > 4
    shifted = compare_with_chance(image, moved.roll(12, 3))
    assert shifted.z < 3
    assert shifted.shifted_z > 5


def test_mirrored_copy_is_found() -> None:
    image = texture((64, 64), 0)
    mirrored = compare_with_chance(image, image.flip(3))
    assert mirrored.mirrored_z > mirrored.edges_z + 5
    aligned = compare_with_chance(image, image)
    assert aligned.mirrored_z < aligned.edges_z - 5


def test_masked_voxels_do_not_count() -> None:
    image, weight = texture((64, 64), 0), torch.zeros(1, 1, 64, 64)
    weight[..., 8:60, :40] = 1
    moved = torch.where(weight > 0, image, torch.nan)
    aligned = compare_with_chance(image, moved, weight)
    assert aligned.z > 5
    assert compare_with_chance(texture((64, 64), 1), moved, weight).z < 3


def test_constant_image_is_chance() -> None:
    assert compare_with_chance(texture((48, 48), 0), torch.ones(1, 1, 48, 48)).z < 2


@pytest.mark.parametrize("shape", [(40, 33), (16, 18, 13)])
def test_agreement_within_a_reach_equals_that_at_all_shifts(shape: tuple[int, ...]) -> None:
    first, second = (edge_features(texture(shape, seed), torch.ones(1, 1, *shape)) for seed in (0, 1))
    axes = tuple(range(1, len(shape) + 1))
    whole, near = (
        edge_agreement(first, second, reach=reach).roll((2,) * len(shape), axes)[..., :5, :5] for reach in (None, 2)
    )
    if len(shape) == 3:
        whole, near = whole[:, :5], near[:, :5]
    assert torch.allclose(near, whole, atol=1e-5)


@pytest.mark.parametrize("side", [10, 14, 20])
def test_a_small_common_part_does_not_stand_out_by_itself(side: int) -> None:
    weight = torch.zeros(1, 1, 80, 80)
    weight[..., :side, 30 : 30 + side] = 1
    pairs = [(texture((80, 80), seed), texture((80, 80), seed + 1)) for seed in range(0, 12, 2)]
    assert max(compare_with_chance(*pair, weight, mirror=False).z for pair in pairs) < 4
