"""Synthetic heads: the head phantom with random shape and contrast, to extend small training sets."""

from __future__ import annotations

import numpy as np

from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.datasets.head import MIDDLE, TISSUES, head_scene
from napari_stnreg.datasets.primitives import PlaneWaves, affine_about
from napari_stnreg.training.data.image_sets import Entry, ImageSet
from napari_stnreg.training.data.pair_sampler import seeded_rng

_BONE = ("skull",)


def generated_head(grid: Grid, random: np.random.Generator, *, stripped: bool = False) -> tuple[Image, Image]:
    """Generate a head of random proportions, shape and contrast, and its label map.

    Parameters
    ----------
    grid
        3D grid in mm; the head is in its center.
    random
        Random generator.
    stripped
        Brain only, as after skull stripping.
    """
    size = np.diag(random.uniform(0.88, 1.12, 3) * random.uniform(0.92, 1.08))
    proportions = affine_about(size, MIDDLE, np.zeros(3))
    shape = PlaneWaves.random(
        int(random.integers(2**31)), 3, wavelength=random.uniform(70, 140), height=random.uniform(2, 9)
    )
    points = grid.with_unit("mm").points().reshape(-1, 3) - grid.with_unit("mm").center + MIDDLE
    points = proportions(points)
    points = points + shape(points)
    t1 = random.uniform() < 0.5
    tissue = {}
    for name, (usual, other) in TISSUES.items():
        # Half are similar to T1, half have random contrast; bone is always dark.
        intensity = usual + random.normal(0, 0.08) if t1 else random.uniform(0, 1)
        tissue[name] = float(np.clip(min(intensity, 0.2 + other) if name in _BONE else intensity, 0.02, 1))
    values, labels = head_scene(points, tissue)
    if stripped:
        values = np.where((labels > 0) & (labels < 7), values, 0.0)
    data = (255 * values.reshape(grid.shape)).astype(np.float32)
    return Image(data, grid, name="head"), Image(labels.reshape(grid.shape), grid, name="labels")


def generated_heads(grid: Grid, count: int, *, stripped: float = 0.0, labeled: bool = True, seed: int = 0) -> ImageSet:
    """Return synthetic heads as an image set, generated on access.

    Parameters
    ----------
    grid
        See :func:`generated_head`.
    count
        Number of heads.
    stripped
        Fraction without skull and skin.
    labeled
        Whether to include label maps.
    seed
        Random seed.
    """

    def head(number: int, part: int) -> Image:
        random = seeded_rng(seed, number, 83)
        return generated_head(grid, random, stripped=number < round(stripped * count))[part]

    def entry(number: int) -> Entry:
        labels = (lambda: head(number, 1)) if labeled else None
        return Entry(f"head {number}", f"head {number}", lambda: head(number, 0), labels)

    return ImageSet([entry(number) for number in range(count)])
