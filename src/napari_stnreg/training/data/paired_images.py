"""Training pairs of acquired images: read, resampled to one grid, normalized and augmented."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.surface import Surface
from napari_stnreg.core.units import conversion_factor
from napari_stnreg.io.points import read_points
from napari_stnreg.io.surfaces import is_surface_file, read_surface
from napari_stnreg.training.augmentation.intensity import IntensityAugmentation
from napari_stnreg.training.augmentation.spatial import SpatialAugmentation
from napari_stnreg.training.data.batch import MAX_TRIANGLES, Batch
from napari_stnreg.training.data.image_sets import CACHE_BYTES, ImageSet
from napari_stnreg.training.data.pair_sampler import PairSource, seeded_rng
from napari_stnreg.training.data.pairing import Pair, Pairing, PointFiles
from napari_stnreg.training.data.placement import PreparedImage, frame_center, place, prepare
from napari_stnreg.transforms import Transform, chain


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of a pair.

    Parameters
    ----------
    joint
        A random transform applied equally to both images: other poses and shapes of the same pair.
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
    """Pairs of images from one set, or from a fixed and a moving set.

    Parameters
    ----------
    fixed, moving
        The sets; the same object if images are paired among themselves.
    pairing
        The pairs of an epoch.
    validation_pairs
        Pairs for validation. They are not augmented, except by ``augmentation.independent`` with ``same_image``.
    augmentation
        See :class:`Augmentation`.
    grid
        Grid of every batch; by default that of the first fixed image. Its center is the center of the fixed image of
        each pair. The moving image keeps its position relative to the fixed one, exactly as at inference; images that
        do not overlap in the world are aligned by their centers.
    points
        Files of corresponding points and of surface points of some pairs, see
        :func:`~napari_stnreg.training.data.pairing.read_point_files`.
    same_image
        Use the fixed image of each pair for both, so that ``augmentation.independent`` is the true transform.

    Raises
    ------
    InputError
        If ``same_image`` is used without ``augmentation.independent``.
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
        points: Mapping[Pair, PointFiles] | None = None,
    ) -> None:
        super().__init__(grid or fixed.image(0).grid)
        self.fixed, self.moving, self.pairing, self.validation_pairs = fixed, moving, pairing, list(validation_pairs)
        self.augmentation, self.same_image = augmentation or Augmentation(), same_image
        if same_image and self.augmentation.independent is None:
            raise InputError("Pairs of one image with itself need the augmentation 'independent'.")
        self.points = dict(points or {})
        self._cache: OrderedDict[tuple[int, int], PreparedImage] = OrderedDict()
        self._surfaces: dict[Path, Surface] = {}
        self.labels = self._label_values() if self.has_labels else ()

    @property
    def has_labels(self) -> bool:
        """Whether batches have label maps."""
        return self.fixed.has_labels and (self.same_image or self.moving.has_labels)

    def _label_values(self) -> tuple[int, ...]:
        """Return the label values of the first eight images without background."""
        values: set[int] = set()
        for i in range(min(len(self.fixed), 8)):
            labels = self.fixed.labels(i)
            if labels is not None:
                values |= {int(v) for v in np.unique(labels.data)}
        return tuple(sorted(values - {0}))

    def count(self, split: str) -> int:
        """See :meth:`PairSource.count`."""
        return len(self.validation_pairs) if split == "validation" else len(self.pairing)

    def draw_pair(self, split: str, epoch: int, index: int, seed: int) -> Batch:
        """See :meth:`PairSource.draw_pair`."""
        if split == "validation":
            validation = Augmentation(independent=self.augmentation.independent if self.same_image else None)
            return self._pair(self.validation_pairs[index], validation, seeded_rng(seed, 2**31, index))
        pair = self.pairing.pair(seed, epoch, index)
        return self._pair(pair, self.augmentation, seeded_rng(seed, epoch, index))

    def summary(self) -> dict[str, Any]:
        """See :meth:`PairSource.summary`."""
        subjects = len(set(self.fixed.groups) | set(self.moving.groups))
        return {"kind": "images", "images": len({*self.fixed.names, *self.moving.names}), "subjects": subjects,
                "pairs": len(self.pairing), "validation_pairs": len(self.validation_pairs),
                "shape": list(self.grid.shape), "same_image": self.same_image,
                "augmentation": self.augmentation.describe()}  # fmt: skip

    def _pair(self, pair: Pair, augmentation: Augmentation, random: np.random.Generator) -> Batch:
        first, second = pair
        moving_set, second = (self.fixed, first) if self.same_image else (self.moving, second)
        both = None if augmentation.joint is None else augmentation.joint.draw(random, self.grid)
        independent = None if augmentation.independent is None else augmentation.independent.draw(random, self.grid)
        # The moving image is warped by G and the fixed one by G after T, so that T maps fixed points to moving points
        # and nothing has to be inverted.
        maps = [part for part in (independent, both) if part is not None]
        through = chain(*maps) if maps else None
        one, other = self._prepared(self.fixed, first), self._prepared(moving_set, second)
        fixed, fixed_labels = place(one, self.grid, through)
        moving, moving_labels = place(other, self.grid, both, one.grid)
        if augmentation.intensity is not None:
            fixed, moving = augmentation.intensity(fixed, random), augmentation.intensity(moving, random)
        labeled = self.has_labels
        truth = independent if self.same_image else None
        batch = Batch(
            fixed,
            moving,
            fixed_labels=fixed_labels if labeled else None,
            moving_labels=moving_labels if labeled else None,
            truth=truth,
        )
        return replace(batch, **self._points(pair, through, both)) if self.points else batch

    def _points(self, pair: Pair, through: Transform | None, both: Transform | None) -> dict[str, Any]:
        """Read the points of a pair and move them along with the images."""
        files = {} if self.same_image else self.points.get(pair, {})
        images = self.fixed.image(pair[0]), self.moving.image(pair[1])
        grids = [image.grid.with_unit(self.grid.unit) for image in images]
        centers = frame_center(grids[0]), frame_center(grids[1], grids[0])
        found: dict[str, torch.Tensor] = {}
        for name, path in files.items():
            side = int(name.startswith("moving"))
            if is_surface_file(path):
                if path not in self._surfaces:
                    self._surfaces[path] = read_surface(path, images[side]).simplified(MAX_TRIANGLES)
                surface = self._surfaces[path]
                world = surface.vertices
                triangles = f"{name.removesuffix('_surface')}_triangles"
                found[triangles] = torch.from_numpy(surface.triangles)[None]
            else:
                world = read_points(path, self.grid.ndim, image=images[side]).points
            world = world * conversion_factor(images[side].grid.unit, self.grid.unit) - centers[side]
            points = torch.tensor(world, dtype=torch.float32)[None]
            moved_by = both if side else through  # an image that is warped by T has its points moved by the inverse
            found[name] = points if moved_by is None else moved_by.inverse()(points)
        return found

    def _prepared(self, images: ImageSet, index: int) -> PreparedImage:
        """Return an image of a set, prepared for the grid; cached."""
        key = (id(images), index)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        labels = images.labels(index)
        found = prepare(images.image(index), None if labels is None else np.asarray(labels.data), self.grid)
        self._cache[key] = found
        while len(self._cache) > max(CACHE_BYTES // found.nbytes, 1):
            self._cache.popitem(last=False)
        return found


AUGMENTATION_HELP = {
    "none": "No augmentation.",
    "light": "Small rotations, scales and intensity changes: for hundreds of pairs.",
    "strong": "Rotations, flips, deformations and other contrast: for a few pairs.",
}
"""When to choose which augmentation, in one line."""


def augmentation_preset(name: str, grid: Grid) -> Augmentation | None:
    """Return an augmentation of :data:`AUGMENTATION_HELP` with lengths relative to a grid.

    Raises
    ------
    InputError
        If there is no such augmentation.
    """
    if name not in AUGMENTATION_HELP:
        raise InputError(f"There is no augmentation '{name}'. Choose one of {', '.join(AUGMENTATION_HELP)}.")
    if name == "none":
        return None
    longest = float(grid.extent.max())
    if name == "light":
        transforms = SpatialAugmentation(rotation=10, scale=0.08, shift=0.04 * longest)
        return Augmentation(joint=transforms, intensity=IntensityAugmentation(gamma=0.2, bias=0.1, noise=0.02))
    transforms = SpatialAugmentation(
        rotation=30, scale=0.15, stretch=0.1, shift=0.06 * longest, deformation=0.04 * longest,
        control_spacing=0.25 * longest, flip=True,
    )  # fmt: skip
    intensity = IntensityAugmentation(gamma=0.5, bias=0.3, noise=0.04, blur=0.8)
    return Augmentation(joint=transforms, intensity=intensity)
