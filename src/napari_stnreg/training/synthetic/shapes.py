"""Synthetic pairs: random shapes with random contrast and known transform.

A network trained on such pairs is not specific to an organ or modality.

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
    """Parameters of generated pairs. Lengths are fractions of the longest side.

    Parameters
    ----------
    bodies
        Range of the number of shapes.
    cells
        Range of the number of control points, along the longest side, of the noise that defines the shapes.
    deformation
        Largest root mean square of each image's deformation.
    control_cells
        Range of the number of control points, along the longest side, of the deformation.
    rotation, scale, shift
        Largest difference of pose: degrees, relative size, fraction of the longest side.
    large_pose_probability
        Probability of a difference of pose up to four times as large.
    other_contrast
        Probability that shapes have other intensities in the moving image, as with another modality.
    empty_background_probability
        Probability of an empty background around the scene; half of these are black.
    local_scale
        Largest logarithm of a local change of size in each image, at up to three places, as of an organ that contracts.
    texture
        Largest amplitude of the texture inside shapes.
    texture_octaves
        Number of octaves of the texture, with random weights; 1 is a texture of one wavelength.
    intensity
        Intensity augmentation of each image.
    """

    bodies: tuple[int, int] = (6, 20)
    cells: tuple[int, int] = (3, 12)
    deformation: float = 0.045
    control_cells: tuple[int, int] = (2, 9)
    rotation: float = 6.0
    scale: float = 0.06
    shift: float = 0.02
    large_pose_probability: float = 0.0
    other_contrast: float = 0.3
    empty_background_probability: float = 0.5
    local_scale: float = 0.0
    texture: float = 0.3
    texture_octaves: int = 1
    intensity: IntensityAugmentation = field(
        default_factory=lambda: IntensityAugmentation(gamma=0.4, bias=0.3, blur=0.8, noise=0.04)
    )


@dataclass(frozen=True)
class _Scene:
    """Label maps and textures of a pair, without intensities."""

    labels: tuple[Tensor, Tensor]
    patterns: tuple[Tensor, Tensor]
    truth: Transform
    count: int
    empty_background: bool


class GeneratedShapes(PairSource):
    """Synthetic pairs of random shapes with label maps and true transforms.

    Parameters
    ----------
    grid
        Grid of every image, 2D or 3D.
    settings
        Parameters of the pairs.
    count
        Pairs in an epoch.
    validation_count
        Pairs for validation.
    keep
        Epochs for which scenes are kept, with new intensities in each; ``True`` for all epochs, ``False`` for one.
        Rendering a scene again is several times faster than generating one.

    Raises
    ------
    InputError
        If the grid is too small.
    """

    def __init__(
        self,
        grid: Grid,
        settings: ShapeSettings | None = None,
        *,
        count: int = 256,
        validation_count: int = 16,
        keep: bool | int = False,
    ) -> None:
        if min(grid.shape) < 16:
            raise InputError(f"Shapes need a grid of at least 16 voxels along each axis, not {grid.shape}.")
        super().__init__(grid)
        self.settings = settings or ShapeSettings()
        self.keep = keep
        self.labels = tuple(range(1, self.settings.bodies[1] + 1))
        self._counts = {"train": count, "validation": validation_count}
        self._scenes: dict[tuple[int, int, int], tuple[int, _Scene]] = {}

    def count(self, split: str) -> int:
        """See :meth:`PairSource.count`."""
        return self._counts[split]

    def draw_pair(self, split: str, epoch: int, index: int, seed: int) -> Batch:
        """See :meth:`PairSource.draw_pair`."""
        held = int(split == "validation")
        random = seeded_rng(seed, epoch, index, held)
        if not self.keep:
            return self._render(self._scene(random), random)
        block = 0 if self.keep is True else epoch // self.keep
        place = (seed, index, held)
        if self._scenes.get(place, (None, None))[0] != block:
            stream = (*place, 1) if block == 0 else (*place, 1, block)
            self._scenes[place] = block, self._scene(seeded_rng(*stream))
        return self._render(self._scenes[place][1], random)

    def summary(self) -> dict[str, Any]:
        """See :meth:`PairSource.summary`."""
        return {"kind": "generated shapes", "pairs": self._counts, "shape": list(self.grid.shape), "keep": self.keep,
                "settings": asdict(self.settings)}  # fmt: skip

    def _scene(self, random: np.random.Generator) -> _Scene:
        """Generate shapes, and warp them for both images."""
        settings, grid = self.settings, self.grid
        claims, pattern, empty_background = self._bodies(random)
        own = [self._deformation(random) for _ in range(2)]
        probability = settings.large_pose_probability
        reach = random.uniform(1, 4) if probability and random.uniform() < probability else 1.0
        pose = SpatialAugmentation(
            rotation=reach * settings.rotation,
            scale=min(reach * settings.scale, 0.5),
            shift=reach * settings.shift * _longest(grid),
        ).draw_affine(random, grid)
        # The fixed image is the scene warped by A and the moving one by B, so inverse(B) after A maps fixed points to
        # moving points.
        views = [
            warp_batch(torch.cat([claims, pattern], 1), through, grid) for through in (own[0], chain(own[1], pose))
        ]
        exact = chain(own[0], pose.inverse(), own[1].inverse())
        # A field at half the resolution is enough for deformations this smooth.
        coarse = grid.resized([max(n // 2, 8) for n in grid.shape])
        field = torch.from_numpy(exact.displacement(coarse))[None]
        labels = tuple(_argmax(view[:, :-1]).to(torch.uint8) for view in views)
        patterns = tuple(view[:, -1:] for view in views)
        return _Scene(labels, patterns, DisplacementTransform(field, coarse), claims.shape[1], empty_background)  # type: ignore[arg-type]

    def _render(self, scene: _Scene, random: np.random.Generator) -> Batch:
        """Render a scene with random intensities."""
        settings, count = self.settings, scene.count
        brightness = random.uniform(0, 1, (2, count))
        rough = settings.texture * random.uniform(0, 1) * random.uniform(-1, 1, (2, count))
        if random.uniform() >= settings.other_contrast:
            brightness[1], rough[1] = brightness[0], rough[0]
        black = scene.empty_background and random.uniform() < 0.5
        images = []
        for labels, pattern, level, depth in zip(scene.labels, scene.patterns, brightness, rough, strict=True):
            index = labels.to(torch.int64)
            shown = _values_of(level, index) + _values_of(depth, index) * pattern
            # Partial volume at edges.
            shown = settings.intensity(_normalized(gaussian(shown, 0.6, edge="nearest")), random)
            if black:
                shown = _normalized(shown) * gaussian((index > 0).float(), 0.6, edge="nearest")
            images.append(_normalized(shown))
        fixed_labels, moving_labels = (labels.to(torch.int64) for labels in scene.labels)
        return Batch(images[0], images[1], fixed_labels=fixed_labels, moving_labels=moving_labels, truth=scene.truth)

    def _bodies(self, random: np.random.Generator) -> tuple[Tensor, Tensor, bool]:
        """Return a score map of each shape ``(1, n, *shape)``, a texture, and whether shape 0 is empty background."""
        settings, shape = self.settings, self.grid.shape
        count = int(random.integers(settings.bodies[0], settings.bodies[1] + 1))
        cells = random.uniform(*settings.cells)
        # Shapes of two sizes.
        small = int(random.integers(0, count // 2 + 1))
        parts = [smooth_noise(random, count - small, cells, shape)]
        if small:
            parts.append(smooth_noise(random, small, min(2.5 * cells, 24.0), shape) - random.uniform(0.2, 0.8))
        scores = np.concatenate(parts)
        empty_background = bool(random.uniform() < settings.empty_background_probability)
        if empty_background:
            scores = np.concatenate([self._around(random), scores])
        pattern = smooth_noise(random, 1, random.uniform(16, 40), shape)
        for octave in range(1, settings.texture_octaves):
            finer = smooth_noise(random, 1, min(random.uniform(12, 24) * 2**octave, max(shape) / 2), shape)
            pattern = pattern + random.uniform(0, 1) * finer
        claims, fine = (torch.from_numpy(x.astype(np.float32))[None] for x in (scores, pattern))
        return claims, fine, empty_background

    def _around(self, random: np.random.Generator) -> Single:
        """Return the score map of an empty background around an irregular region, ``(1, *shape)``."""
        shape = self.grid.shape
        axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in shape]
        place = np.stack(np.meshgrid(*axes, indexing="ij"))
        radii = random.uniform(0.55, 0.95, (len(shape), *[1] * len(shape)))
        irregularity = 0.15 * smooth_noise(random, 1, 5.0, shape)
        return np.asarray(
            12.0 * (np.sqrt(((place / radii) ** 2).sum(0, keepdims=True)) - 1 + irregularity) + 1.5, dtype=np.float32
        )

    def _deformation(self, random: np.random.Generator) -> Transform:
        """Draw a diffeomorphism of random amplitude and wavelength."""
        settings, grid = self.settings, self.grid
        length = settings.deformation * random.uniform(0.1, 1.0) * _longest(grid)
        low, high = settings.control_cells
        cells = float(np.exp(random.uniform(np.log(low), np.log(high))))
        # Shorter wavelengths get smaller amplitudes, which limits the gradient of the flow.
        length = min(length, 0.10 * _longest(grid) * 2 / cells)
        noise = smooth_noise(random, grid.ndim, cells, grid.shape)
        rms = float(np.sqrt((noise**2).sum(0).mean()))
        values = noise * (length / max(rms, 1e-9)) + self._local_scales(random)
        velocity = torch.from_numpy(np.asarray(values, dtype=np.float32))[None]
        return VelocityTransform(velocity, grid)

    def _local_scales(self, random: np.random.Generator) -> Single | float:
        """Draw a velocity that shrinks and enlarges a few places, ``(D, *shape)``."""
        if not self.settings.local_scale:
            return 0.0
        longest, shape = max(self.grid.shape), self.grid.shape
        points = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij"))
        velocity = np.zeros_like(points)
        for _ in range(int(random.integers(0, 4))):
            center = random.uniform(0.1, 0.9, len(shape)) * shape
            offset = points - center.reshape(-1, *[1] * len(shape)).astype(np.float32)
            width = random.uniform(0.05, 0.16) * longest
            rate = random.uniform(-1, 1) * self.settings.local_scale
            velocity += rate * offset * np.exp((offset**2).sum(0) / (-2 * width**2))
        return np.asarray(velocity * self.grid.spacing.reshape(-1, *[1] * len(shape)), dtype=np.float32)


def smooth_noise(random: np.random.Generator, count: int, cells: float, shape: Sequence[int]) -> Single:
    """Return smooth random functions of unit variance, ``(count, *shape)``: B-splines with random coefficients.

    Parameters
    ----------
    random
        Random generator.
    count
        Number of functions.
    cells
        Coefficients along the longest side.
    shape
        Shape of the grid.
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
    return float(grid.extent.max())


def _values_of(values: FloatArray, labels: Tensor) -> Tensor:
    """Return the value of each voxel's label."""
    return torch.from_numpy(values.astype(np.float32))[labels]


def _argmax(claims: Tensor) -> Tensor:
    """Return the index of the largest score, ``(1, 1, *shape)``; much faster than ``argmax`` over few channels."""
    best, owner = claims[:, :1].clone(), torch.zeros_like(claims[:, :1], dtype=torch.int64)
    for number in range(1, claims.shape[1]):
        claim = claims[:, number : number + 1]
        owner.masked_fill_(claim > best, number)
        best = torch.maximum(best, claim)
    return owner


def _normalized(image: Tensor) -> Tensor:
    low, high = image.amin(), image.amax()
    return (image - low) / (high - low).clamp_min(1e-6)
