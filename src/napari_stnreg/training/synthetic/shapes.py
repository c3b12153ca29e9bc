"""Pairs that are made up: bodies of random shape in random contrast, and how one became the other.

A network that has only ever seen such pairs has no idea of hearts or brains, and for that reason registers either.

References
----------
Hoffmann et al., SynthMorph: learning contrast-invariant registration without acquired images, IEEE Transactions on
Medical Imaging 41, 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.networks.grid_generator import warp_batch
from napari_stnreg.ops.bspline import cubic_bspline_matrix
from napari_stnreg.ops.filters import gaussian
from napari_stnreg.training.augmentation.intensity import IntensityAugmentation
from napari_stnreg.training.augmentation.spatial import SpatialAugmentation
from napari_stnreg.training.data.batch import Batch
from napari_stnreg.training.data.pair_sampler import PairSource, seeded_rng
from napari_stnreg.transforms import DisplacementTransform, Transform, VelocityTransform, chain

Single = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ShapeSettings:
    """What generated pairs look like. Lengths are shares of the longest side, so that they suit any grid.

    Parameters
    ----------
    bodies
        Fewest and most bodies in a scene.
    cells
        Fewest and most bumps along the longest side of the noise that shapes them.
    bend
        Largest root-mean-square length of each image's own deformation.
    bend_cells
        Fewest and most bumps along the longest side of that deformation.
    rotation, scale, shift
        Largest difference of pose: degrees, relative size, share of the longest side.
    far
        Probability that the pose may differ by up to four times as much.
    other_contrast
        Probability that each body has another brightness in the moving image, as with another modality.
    alone
        Probability that the scene lies before an empty background, as a head or a cell does; half of these are black.
    texture
        Largest amplitude of the fine pattern inside bodies.
    intensity
        What happens to each image by itself at the end.
    """

    bodies: tuple[int, int] = (6, 20)
    cells: tuple[int, int] = (3, 12)
    bend: float = 0.045
    bend_cells: tuple[int, int] = (2, 9)
    rotation: float = 6.0
    scale: float = 0.06
    shift: float = 0.02
    far: float = 0.0
    other_contrast: float = 0.3
    alone: float = 0.5
    texture: float = 0.3
    intensity: IntensityAugmentation = field(
        default_factory=lambda: IntensityAugmentation(gamma=0.4, bias=0.3, blur=0.8, noise=0.04)
    )


@dataclass(frozen=True)
class _Scene:
    """Two views of the same bodies, before they have any brightness."""

    labels: tuple[Tensor, Tensor]
    patterns: tuple[Tensor, Tensor]
    truth: Transform
    count: int
    alone: bool


class GeneratedShapes(PairSource):
    """A supply of made-up pairs with label maps and true transforms.

    Parameters
    ----------
    grid
        The grid of every image, 2D or 3D.
    settings
        What they look like.
    count
        Pairs in an epoch.
    validation_count
        Pairs for validation.
    keep
        Draw new scenes in the first epoch only and show them in new brightness in later ones, which is several times
        quicker; otherwise each epoch has scenes of its own.

    Raises
    ------
    InputError
        If the grid is too small for bodies to be told apart.
    """

    def __init__(
        self,
        grid: Grid,
        settings: ShapeSettings | None = None,
        *,
        count: int = 256,
        validation_count: int = 16,
        keep: bool = False,
    ) -> None:
        if min(grid.shape) < 16:
            raise InputError(f"Shapes are generated on grids of at least 16 voxels a side, not {grid.shape}.")
        super().__init__(grid)
        self.settings = settings or ShapeSettings()
        self.keep = keep
        self.labels = tuple(range(1, self.settings.bodies[1] + 1))
        self._counts = {"train": count, "validation": validation_count}
        self._kept: dict[tuple[int, int, int], _Scene] = {}

    def count(self, split: str) -> int:
        """See :meth:`PairSource.count`."""
        return self._counts[split]

    def example(self, split: str, epoch: int, place: int, seed: int) -> Batch:
        """See :meth:`PairSource.example`."""
        held = int(split == "validation")
        if not self.keep:
            random = seeded_rng(seed, epoch, place, held)
            return self._shown(self._scene(random), random)
        key = (seed, place, held)
        if key not in self._kept:
            self._kept[key] = self._scene(seeded_rng(*key, 1))
        return self._shown(self._kept[key], seeded_rng(seed, epoch, place, held))

    def summary(self) -> dict[str, Any]:
        """See :meth:`PairSource.summary`."""
        return {"kind": "generated shapes", "pairs": self._counts, "shape": list(self.grid.shape), "keep": self.keep,
                "settings": asdict(self.settings)}  # fmt: skip

    def _scene(self, random: np.random.Generator) -> _Scene:
        """Bodies, seen by both images."""
        settings, grid = self.settings, self.grid
        claims, pattern, alone = self._bodies(random)
        own = [self._bend(random) for _ in range(2)]
        reach = random.uniform(1, 4) if settings.far and random.uniform() < settings.far else 1.0
        pose = SpatialAugmentation(
            rotation=reach * settings.rotation,
            scale=min(reach * settings.scale, 0.5),
            shift=reach * settings.shift * _longest(grid),
        ).draw_affine(random, grid)
        # Both look at one scene, the fixed image through A and the moving one through B; inverse(B) after A is what
        # takes a fixed point to the moving image.
        views = [
            warp_batch(torch.cat([claims, pattern], 1), through, grid) for through in (own[0], chain(own[1], pose))
        ]
        exact = chain(own[0], pose.inverse(), own[1].inverse())
        # Kept as a field at half the resolution, which loses nothing of bends this smooth.
        coarse = grid.resized([max(n // 2, 8) for n in grid.shape])
        field = torch.from_numpy(exact.displacement(coarse))[None]
        labels = tuple(_owner(view[:, :-1]).to(torch.uint8) for view in views)
        patterns = tuple(view[:, -1:] for view in views)
        return _Scene(labels, patterns, DisplacementTransform(field, coarse), claims.shape[1], alone)  # type: ignore[arg-type]

    def _shown(self, scene: _Scene, random: np.random.Generator) -> Batch:
        """The scene in random brightness."""
        settings, count = self.settings, scene.count
        brightness = random.uniform(0, 1, (2, count))
        rough = settings.texture * random.uniform(0, 1) * random.uniform(-1, 1, (2, count))
        if random.uniform() >= settings.other_contrast:
            brightness[1], rough[1] = brightness[0], rough[0]
        black = scene.alone and random.uniform() < 0.5
        images = []
        for labels, pattern, level, depth in zip(scene.labels, scene.patterns, brightness, rough, strict=True):
            index = labels.to(torch.int64)
            shown = _looked_up(level, index) + _looked_up(depth, index) * pattern
            # A voxel at an edge holds some of both bodies.
            shown = settings.intensity(_normalized(gaussian(shown, 0.6, edge="nearest")), random)
            if black:
                shown = _normalized(shown) * gaussian((index > 0).float(), 0.6, edge="nearest")
            images.append(_normalized(shown))
        fixed_labels, moving_labels = (labels.to(torch.int64) for labels in scene.labels)
        return Batch(images[0], images[1], fixed_labels=fixed_labels, moving_labels=moving_labels, truth=scene.truth)

    def _bodies(self, random: np.random.Generator) -> tuple[Tensor, Tensor, bool]:
        """How much each body claims each place ``(1, bodies, *shape)``, a fine pattern, and whether body 0 is empty."""
        settings, shape = self.settings, self.grid.shape
        count = int(random.integers(settings.bodies[0], settings.bodies[1] + 1))
        cells = random.uniform(*settings.cells)
        # Bodies of two sizes, the smaller ones scattered among the larger ones.
        small = int(random.integers(0, count // 2 + 1))
        parts = [smooth_noise(random, count - small, cells, shape)]
        if small:
            parts.append(smooth_noise(random, small, min(2.5 * cells, 24.0), shape) - random.uniform(0.2, 0.8))
        scores = np.concatenate(parts)
        alone = bool(random.uniform() < settings.alone)
        if alone:
            scores = np.concatenate([self._around(random), scores])
        pattern = smooth_noise(random, 1, random.uniform(16, 40), shape)
        claims, fine = (torch.from_numpy(x.astype(np.float32))[None] for x in (scores, pattern))
        return claims, fine, alone

    def _around(self, random: np.random.Generator) -> Single:
        """The claim of an empty background round a lumpy body, ``(1, *shape)``."""
        shape = self.grid.shape
        axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in shape]
        place = np.stack(np.meshgrid(*axes, indexing="ij"))
        radii = random.uniform(0.55, 0.95, (len(shape), *[1] * len(shape)))
        lumps = 0.15 * smooth_noise(random, 1, 5.0, shape)
        return np.asarray(
            12.0 * (np.sqrt(((place / radii) ** 2).sum(0, keepdims=True)) - 1 + lumps) + 1.5, dtype=np.float32
        )

    def _bend(self, random: np.random.Generator) -> Transform:
        """A diffeomorphism of the grid, large bends and small ones."""
        settings, grid = self.settings, self.grid
        length = settings.bend * random.uniform(0.1, 1.0) * _longest(grid)
        low, high = settings.bend_cells
        cells = float(np.exp(random.uniform(np.log(low), np.log(high))))
        # Shorter waves must be lower, or the flow gets steeper than any real tissue's.
        length = min(length, 0.10 * _longest(grid) * 2 / cells)
        noise = smooth_noise(random, grid.ndim, cells, grid.shape)
        rms = float(np.sqrt((noise**2).sum(0).mean()))
        velocity = torch.from_numpy(np.asarray(noise * (length / max(rms, 1e-9)), dtype=np.float32))[None]
        return VelocityTransform(velocity, grid)


def smooth_noise(random: np.random.Generator, count: int, cells: float, shape: Sequence[int]) -> Single:
    """Smooth random functions of unit variance, ``(count, *shape)``: cubic B-splines with random coefficients.

    Parameters
    ----------
    random
        Where the coefficients come from.
    count
        How many.
    cells
        Distance of coefficients: so many of them lie along the longest side.
    shape
        Of the grid.
    """
    step = max(shape) / cells
    sizes = [max(int(np.ceil(n / step)), 1) + 4 for n in shape]
    noise = random.standard_normal((count, *sizes), dtype=np.float32)
    offset = random.uniform(0, 1, len(shape))
    for axis, (n, size) in enumerate(zip(shape, sizes, strict=True)):
        basis = cubic_bspline_matrix(1 + offset[axis] + np.arange(n) / step, size)
        noise = np.tensordot(noise, basis.astype(np.float32), axes=([1], [1]))
    deviation = noise.std(axis=tuple(range(1, noise.ndim)), keepdims=True)
    return np.asarray(noise / np.maximum(deviation, 1e-6), dtype=np.float32)


def _longest(grid: Grid) -> float:
    return float(np.max(np.asarray(grid.shape) * grid.spacing))


def _looked_up(values: FloatArray, labels: Tensor) -> Tensor:
    """Each body's value where it is."""
    return torch.from_numpy(values.astype(np.float32))[labels]


def _owner(claims: Tensor) -> Tensor:
    """Which body claims a place most, ``(1, 1, *shape)``; many times quicker than ``argmax`` over so few channels."""
    best, owner = claims[:, :1].clone(), torch.zeros_like(claims[:, :1], dtype=torch.int64)
    for number in range(1, claims.shape[1]):
        claim = claims[:, number : number + 1]
        owner.masked_fill_(claim > best, number)
        best = torch.maximum(best, claim)
    return owner


def _normalized(image: Tensor) -> Tensor:
    low, high = image.amin(), image.amax()
    return (image - low) / (high - low).clamp_min(1e-6)
