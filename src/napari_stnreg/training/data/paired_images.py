"""Batches of pairs of real images: read, put on one grid, normalized and augmented."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.intensity import normalize
from napari_stnreg.models.input_spec import grids_overlap
from napari_stnreg.networks.grid_generator import warp_batch
from napari_stnreg.ops.interpolation import smoothed_for
from napari_stnreg.training.augmentation.intensity import IntensityAugmentation
from napari_stnreg.training.augmentation.spatial import SpatialAugmentation
from napari_stnreg.training.data.batch import Batch
from napari_stnreg.training.data.image_sets import CACHE_BYTES, ImageSet
from napari_stnreg.training.data.pair_sampler import PairSource, seeded_rng
from napari_stnreg.training.data.pairing import Pair, Pairing
from napari_stnreg.transforms import AffineTransform, Transform, chain


@dataclass(frozen=True)
class Augmentation:
    """What happens to a pair before the network sees it.

    Parameters
    ----------
    joint
        A random transform of both images alike: other poses and shapes of the same pair.
    independent
        A random transform between the two images. If both images of a pair are one image, it is the true transform.
    intensity
        Changes of intensity, drawn for each image independently.
    """

    joint: SpatialAugmentation | None = None
    independent: SpatialAugmentation | None = None
    intensity: IntensityAugmentation | None = None

    def describe(self) -> dict[str, Any]:
        """Return the ranges that are drawn from, JSON-ready."""
        parts = {"joint": self.joint, "independent": self.independent, "intensity": self.intensity}
        return {name: part.describe() for name, part in parts.items() if part is not None}


class PairedImages(PairSource):
    """Pairs of images of one set, or of a fixed and a moving set.

    Parameters
    ----------
    fixed, moving
        The sets; the same object where images are paired among themselves.
    pairing
        The pairs of an epoch.
    validation_pairs
        Pairs for validation; they are never augmented, save for a drawn difference if ``same_image``.
    augmentation
        See :class:`Augmentation`.
    grid
        The grid of every batch; without it that of the first fixed image. The middle of each pair's fixed image comes
        to its middle, and the moving image is seen from there: where it lies in the world beside the fixed one, as a
        model sees it in use, or center on center if the two do not meet in the world.
    same_image
        Take the fixed image of each pair for both, so that ``augmentation.independent`` is the true transform.

    Raises
    ------
    InputError
        If ``same_image`` is asked for without a difference to draw.
    """

    def __init__(
        self,
        fixed: ImageSet,
        moving: ImageSet,
        pairing: Pairing,
        validation_pairs: Sequence[Pair] = (),
        *,
        augmentation: Augmentation | None = None,
        grid: Grid | None = None,
        same_image: bool = False,
    ) -> None:
        super().__init__(grid or fixed.image(0).grid)
        self.fixed, self.moving, self.pairing, self.validation_pairs = fixed, moving, pairing, list(validation_pairs)
        self.augmentation, self.same_image = augmentation or Augmentation(), same_image
        if same_image and self.augmentation.independent is None:
            raise InputError("Pairs of one image with itself need the augmentation 'independent'.")
        self._cache: OrderedDict[tuple[int, int], tuple[Tensor, Tensor | None, Grid]] = OrderedDict()
        self.labels = self._label_values() if self.has_labels else ()

    @property
    def has_labels(self) -> bool:
        """Whether batches hold label maps."""
        return self.fixed.has_labels and (self.same_image or self.moving.has_labels)

    def _label_values(self) -> tuple[int, ...]:
        """Labels of the first images, background left out; a set of many is taken to be alike."""
        values: set[int] = set()
        for i in range(min(len(self.fixed), 8)):
            labels = self.fixed.labels(i)
            if labels is not None:
                values |= {int(v) for v in np.unique(labels.data)}
        return tuple(sorted(values - {0}))

    def count(self, split: str) -> int:
        """See :meth:`PairSource.count`."""
        return len(self.validation_pairs) if split == "validation" else len(self.pairing)

    def example(self, split: str, epoch: int, place: int, seed: int) -> Batch:
        """See :meth:`PairSource.example`."""
        if split == "validation":
            kept = Augmentation(independent=self.augmentation.independent if self.same_image else None)
            return self._pair(self.validation_pairs[place], kept, seeded_rng(seed, 2**31, place))
        pair = self.pairing.pair(seed, epoch, place)
        return self._pair(pair, self.augmentation, seeded_rng(seed, epoch, place))

    def summary(self) -> dict[str, Any]:
        """See :meth:`PairSource.summary`."""
        subjects = len(set(self.fixed.groups) | set(self.moving.groups))
        return {"kind": "images", "images": len({*self.fixed.names, *self.moving.names}), "subjects": subjects,
                "pairs": len(self.pairing), "validation_pairs": len(self.validation_pairs), "shape": list(self.grid.shape),
                "same_image": self.same_image, "augmentation": self.augmentation.describe()}  # fmt: skip

    def _pair(self, pair: Pair, augmentation: Augmentation, random: np.random.Generator) -> Batch:
        first, second = pair
        moving_set, second = (self.fixed, first) if self.same_image else (self.moving, second)
        both = None if augmentation.joint is None else augmentation.joint.draw(random, self.grid)
        independent = None if augmentation.independent is None else augmentation.independent.draw(random, self.grid)
        # The moving image is seen through G and the fixed one through G after T, so that T takes fixed points to
        # moving ones; nothing has to be inverted.
        maps = [part for part in (independent, both) if part is not None]
        through = chain(*maps) if maps else None
        fixed, fixed_labels, here = self._seen(self.fixed, first, through)
        moving, moving_labels, _ = self._seen(moving_set, second, both, here)
        if augmentation.intensity is not None:
            fixed, moving = augmentation.intensity(fixed, random), augmentation.intensity(moving, random)
        labeled = self.has_labels
        truth = independent if self.same_image else None
        return Batch(
            fixed,
            moving,
            fixed_labels=fixed_labels if labeled else None,
            moving_labels=moving_labels if labeled else None,
            truth=truth,
        )

    def _seen(
        self, images: ImageSet, index: int, through: Transform | None, beside: Grid | None = None
    ) -> tuple[Tensor, Tensor | None, Grid]:
        """An image and its labels on the working grid, through a transform of its world; and where it lies.

        ``beside`` is where the fixed image lies, whose middle is the working grid's.
        """
        tensor, table, own = self._prepared(images, index)
        grid = own.translated(-(own if beside is None or not grids_overlap(beside, own) else beside).center)
        step = np.linalg.inv(grid.matrix) @ self.grid.matrix
        if through is None and grid.shape == self.grid.shape and np.allclose(step, np.eye(self.grid.ndim + 1)):
            return tensor, table, own
        through = AffineTransform.identity(self.grid.ndim, self.grid.unit) if through is None else through
        seen = warp_batch(tensor, through, self.grid, grid)
        return seen, None if table is None else warp_batch(table, through, self.grid, grid), own

    def _prepared(self, images: ImageSet, index: int) -> tuple[Tensor, Tensor | None, Grid]:
        """An image normalized, smoothed for the working grid where that is coarser, and where it lies in the world."""
        key = (id(images), index)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        image = images.image(index)
        if image.ndim != self.grid.ndim:
            raise InputError(f"'{image.name}' is {image.ndim}D, the others are {self.grid.ndim}D.")
        values = normalize(image.intensity(), image.mask, image.name)
        labels = images.labels(index)
        grid = image.grid.with_unit(self.grid.unit)
        ratios = np.linalg.norm(np.linalg.inv(grid.linear) @ self.grid.linear, axis=1)
        tensor = smoothed_for(torch.from_numpy(values)[None, None], ratios.tolist())
        table = None if labels is None else torch.from_numpy(np.asarray(labels.data).astype(np.int64))[None, None]
        self._cache[key] = (tensor, table, grid)
        size = tensor.nbytes + (0 if table is None else table.nbytes)
        while len(self._cache) > max(CACHE_BYTES // size, 1):
            self._cache.popitem(last=False)
        return self._cache[key]


AUGMENTATION_HELP = {
    "none": "Every pair as it is.",
    "light": "Slightly turned, enlarged and shaded: for hundreds of pairs.",
    "strong": "Turned, mirrored, bent and in other contrast: for a few pairs.",
}
"""One line for a person choosing an augmentation."""


def augmentation_preset(name: str, grid: Grid) -> Augmentation | None:
    """An augmentation of :data:`AUGMENTATION_HELP`, in lengths that suit a grid.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    if name not in AUGMENTATION_HELP:
        raise InputError(f"There is no augmentation '{name}'; choose one of {', '.join(AUGMENTATION_HELP)}.")
    if name == "none":
        return None
    longest = float(np.max(np.asarray(grid.shape) * grid.spacing))
    if name == "light":
        moved = SpatialAugmentation(rotation=10, scale=0.08, shift=0.04 * longest)
        return Augmentation(joint=moved, intensity=IntensityAugmentation(gamma=0.2, bias=0.1, noise=0.02))
    moved = SpatialAugmentation(rotation=30, scale=0.15, stretch=0.1, shift=0.06 * longest, bend=0.04 * longest,
                                bend_spacing=0.25 * longest, flip=True)  # fmt: skip
    looks = IntensityAugmentation(gamma=0.5, bias=0.3, noise=0.04, blur=0.8)
    return Augmentation(joint=moved, intensity=looks)
