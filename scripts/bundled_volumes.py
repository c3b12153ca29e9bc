"""Training of ``box-3d``: volumes are generated on the device, and every stage of the cascade has a loss of its own.

Pairs are two views of one scene, with random pose, bending and contrast; the scene holds random shapes or the tissues
of a generated head. No acquired image is used. The cascade is an affine network and three U-Nets at a quarter, half and
the full resolution of a 96 x 96 x 96 lattice. Losses are the soft Dice of labels, the distance to the known map, and
the diffusion of the velocity. Stages are trained side by side; no gradient passes from one to the next.

References
----------
Hoffmann et al., SynthMorph: learning contrast-invariant registration without acquired images, IEEE Transactions on
Medical Imaging 41, 2022.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import napari_stnreg as sr
from napari_stnreg.core.device import pick_device
from napari_stnreg.core.grid import Grid
from napari_stnreg.datasets.head import MIDDLE, TISSUES, head_scene
from napari_stnreg.datasets.primitives import PlaneWaves, affine_about
from napari_stnreg.models.input_spec import InputSpec
from napari_stnreg.models.model_file import save_model
from napari_stnreg.networks import SequentialNetwork, new_network
from napari_stnreg.ops.filters import gaussian
from napari_stnreg.ops.interpolation import self_composed
from napari_stnreg.ops.lattice import affine_points
from napari_stnreg.transforms import AffineTransform
from napari_stnreg.transforms.linear import rotation

SIDE = 96
SCENE_SIDE = 112
"""Voxels of a scene along each axis; views look at parts of it."""
HEAD_SPACING = 1.9
"""Millimeters between the voxels of a head's scene."""
N_HEADS = 64
N_LABELS = 32
AIR, EYES, FLUID, SKULL, SKIN = 0, 7, 8, 9, 10
"""Labels of heads besides cortex (1), white matter, ventricles, deep gray matter, cerebellum and brain stem (6)."""
T1 = {1: 0.50, 2: 0.78, 3: 0.14, 4: 0.60, 5: 0.52, 6: 0.72, 7: 0.14, 8: 0.14, 9: 0.10, 10: 0.75}
"""Brightness of the labels of heads in a T1-weighted scan."""

NETWORK: dict[str, Any] = {
    "network": "matching+voxelmorph+voxelmorph+voxelmorph",
    "options": {
        "matching": {"features": [32, 64], "depth": 4, "shrink": 2},
        "voxelmorph": [
            {"encoder": [64, 96, 128], "decoder": [128, 96, 64], "final": [64], "resolution": "half", "shrink": 4},
            {"encoder": [48, 96, 128], "decoder": [128, 96, 64], "final": [64], "resolution": "half", "shrink": 2},
            {"encoder": [16, 32, 64, 96], "decoder": [96, 64, 48, 32], "final": [32], "resolution": "half"},
        ],
    },
}


@dataclass(frozen=True)
class VolumeSettings:
    """Ranges of the generated pairs and weights of the losses. Lengths are in voxels of the lattice.

    Parameters
    ----------
    heads
        Probability that a scene is a head.
    bodies, small_bodies
        Channels of the noise whose maxima are the large and the small shapes.
    rotation, scale, stretch, shear, shift
        Largest difference of pose between the two images: degrees, relative size, voxels.
    bend
        Largest root-mean-square displacement of each image's own deformation, as a fraction of the side.
    other_contrast
        Probability that brightness is drawn for each image on its own.
    unmatched
        Probability that a small shape exists in one image only.
    other_head
        Probability that the moving image shows another head; there is no known map then.
    crop
        Probability that an image is black outside a random box.
    truth_weight, diffusion_weight
        Weights of the distance to the known map in voxels and of the diffusion of the velocity; Dice counts once.
    labels
        Labels that take part in one step.
    """

    heads: float = 0.45
    bodies: int = 14
    small_bodies: int = 8
    rotation: float = 22.0
    scale: float = 0.12
    stretch: float = 0.15
    shear: float = 0.05
    shift: float = 10.0
    bend: float = 0.045
    other_contrast: float = 0.35
    unmatched: float = 0.25
    other_head: float = 0.3
    crop: float = 0.35
    truth_weight: float = 0.1
    diffusion_weight: float = 0.1
    labels: int = 10


@dataclass
class Pairs:
    """A batch of generated pairs.

    Parameters
    ----------
    fixed, moving
        Images ``(B, 1, *shape)``, about 0 to 1.
    fixed_labels, moving_labels
        Memberships ``(B, L, *shape)``.
    target
        Where the known map takes the points of the half-resolution lattice, ``(B, *half, 3)``, in voxels about the
        middle.
    target_weight
        ``(B, *half)``; 0 where no map is known.
    """

    fixed: Tensor
    moving: Tensor
    fixed_labels: Tensor
    moving_labels: Tensor
    target: Tensor
    target_weight: Tensor


def head_labels(seed: int) -> npt.NDArray[np.uint8]:
    """The tissues of one generated head, ``(SCENE_SIDE, ) * 3``; see :data:`T1` for the labels."""
    random = np.random.default_rng([seed, 83])
    grid = Grid.from_spacing((SCENE_SIDE,) * 3, HEAD_SPACING, unit="mm")
    size = np.diag(random.uniform(0.88, 1.12, 3) * random.uniform(0.92, 1.08))
    seed = int(random.integers(2**31))
    wavelength, height = random.uniform(70, 140), random.uniform(2, 9)
    shape = PlaneWaves.random(seed, 3, wavelength=wavelength, height=height)
    centered = grid.points().reshape(-1, 3) - grid.center + MIDDLE + [-12, 0, 0]
    points = affine_about(size, MIDDLE, np.zeros(3))(centered)
    points = points + shape(points)
    dark = dict.fromkeys(TISSUES, 0.0)
    fluid, labels = head_scene(points, {**dark, "fluid": 1.0})
    skull, _ = head_scene(points, {**dark, "skull": 1.0})
    whole, _ = head_scene(points, dict.fromkeys(TISSUES, 1.0))
    rest = np.select([fluid > 0.5, skull > 0.5, whole > 0.5], [FLUID, SKULL, SKIN], AIR)
    return np.where(labels > 0, labels, rest).astype(np.uint8).reshape(grid.shape)


def generate_heads(path: Path, count: int, workers: int) -> npt.NDArray[np.uint8]:
    """Label maps of generated heads, ``(count, *scene)``, kept in a file."""
    if path.exists():
        with np.load(path) as archive:
            return np.asarray(archive["labels"])
    with ProcessPoolExecutor(workers) as pool:
        heads = np.stack(list(pool.map(head_labels, range(count))))
    np.savez_compressed(path, labels=heads)
    return heads


class VolumeGenerator:
    """Generates batches of pairs on a device.

    Parameters
    ----------
    heads
        Label maps of heads ``(N, *scene)``.
    device, seed
        Where, and of all random numbers.
    settings
        See :class:`VolumeSettings`.
    side
        Of the lattice.
    """

    def __init__(
        self, heads: npt.NDArray[np.uint8], device: torch.device, settings: VolumeSettings, seed: int, side: int = SIDE
    ) -> None:
        self.heads = torch.from_numpy(heads).to(device)
        self.settings, self.side, self.device = settings, side, device
        self.random = torch.Generator(device).manual_seed(seed)
        self.choice = np.random.default_rng(seed)
        self.points = _points(side, 1.0, device)
        self.half_points = _points(side // 2, 2.0, device)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform random numbers."""
        return torch.rand(shape, generator=self.random, device=self.device) * (high - low) + low

    def flag(self, probability: float, *shape: int) -> Tensor:
        """Random booleans."""
        return torch.rand(shape, generator=self.random, device=self.device) < probability

    def noise(self, batch: int, channels: int, cells: float, side: int) -> Tensor:
        """Smooth noise of unit variance, ``(batch, channels, side, side, side)``."""
        n = max(round(cells), 2) + 3
        coarse = torch.randn(batch, channels, n, n, n, generator=self.random, device=self.device)
        twice = F.interpolate(coarse, size=[min(2 * n, side)] * 3, mode="trilinear", align_corners=True)
        smooth = F.avg_pool3d(twice, 3, 1, 1, count_include_pad=False)
        found = F.interpolate(smooth, size=[side] * 3, mode="trilinear", align_corners=True)
        return found / found.std(dim=(2, 3, 4), keepdim=True).clamp_min(1e-6)

    def batch(self, size: int) -> Pairs:
        """A batch of pairs."""
        settings, half = self.settings, self.side // 2
        is_head = torch.from_numpy(self.choice.random(size) < settings.heads).to(self.device)
        scenes, unknown = self._scenes(size, is_head)
        bends = torch.cat([self._velocity(size), self._velocity(size)])
        flows = self_composed(torch.cat([bends, -bends[size:]]) / (2 * 2**6), 6) * 2  # in voxels of the lattice
        pose = self._pose(size)
        view = self._view(size, is_head)
        full = F.interpolate(flows[: 2 * size], size=[self.side] * 3, mode="trilinear", align_corners=False)
        fixed_at = self.points + full[:size].movedim(1, -1)
        posed = _moved(self.points, pose)
        moving_at = posed + _read_field(full[size:], posed, self.side)
        labels, patterns = [], []
        pattern = self.noise(size, 1, self.choice.uniform(12, 40), SCENE_SIDE)
        for scene, at in zip(scenes, (fixed_at, moving_at), strict=True):
            grid = _moved(at, view) * (2 / SCENE_SIDE)
            grid = grid.flip(-1)
            labels.append(F.grid_sample(scene, grid, "nearest", "border", align_corners=False).round().long())
            patterns.append(F.grid_sample(pattern, grid, "bilinear", "border", align_corners=False))
        images = self._images(labels, patterns, is_head)
        # The map: B_fixed, then the inverse of the moving bend, then the inverse pose.
        along = self.half_points + flows[:size].movedim(1, -1)
        along = along + _read_field(flows[2 * size :], along, half, spacing=2.0)
        target = _moved(along, torch.linalg.inv(pose))
        weight = F.avg_pool3d((images[0] > 0.03).float(), 2)[:, 0] * 0.97 + 0.03
        inside = (target.abs() < self.side / 2 + 4).all(-1)
        weight = weight * inside * (~unknown).float().reshape(-1, 1, 1, 1)
        ids = self._label_ids(size, is_head)
        memberships = [(x == ids).float() for x in labels]
        return Pairs(images[0], images[1], memberships[0], memberships[1], target, weight)

    def _scenes(self, size: int, is_head: Tensor) -> tuple[list[Tensor], Tensor]:
        """Label maps of the scenes of both images, and for which pairs no map is known."""
        settings = self.settings
        large = self.noise(size, settings.bodies, self.choice.uniform(3, 8), SCENE_SIDE)
        keep = self.flag(0.75, size, settings.bodies, 1, 1, 1) | (
            torch.arange(settings.bodies, device=self.device).reshape(1, -1, 1, 1, 1) < 5
        )
        large = torch.where(keep, large, -9.0)
        cells = self.choice.uniform(8, 20)
        rarity = self.uniform(0.3, 1.5, size, 1, 1, 1, 1)
        small = self.noise(size, settings.small_bodies, cells, SCENE_SIDE)
        other = self.noise(size, settings.small_bodies, cells, SCENE_SIDE)
        replaced = self.flag(settings.unmatched, size, settings.small_bodies, 1, 1, 1)
        axes = torch.linspace(-1, 1, SCENE_SIDE, device=self.device)
        radii = self.uniform(0.5, 0.85, size, 3)
        distance = sum(
            (axes.reshape([-1 if a == axis else 1 for a in range(3)]) / radii[:, axis].reshape(-1, 1, 1, 1)) ** 2
            for axis in range(3)
        )
        outside = torch.as_tensor(distance).sqrt()[:, None] + 0.12 * self.noise(size, 1, 5, SCENE_SIDE) > 1
        outside &= self.flag(0.5, size, 1, 1, 1, 1)
        top, owner = large.max(dim=1, keepdim=True)
        scenes = []
        for found in (small, torch.where(replaced, other, small)):
            best, which = (found - rarity).max(dim=1, keepdim=True)
            labels = torch.where(best > top, which + settings.bodies + 1, owner + 1)
            scenes.append(torch.where(outside, 0, labels).float())
        first = torch.from_numpy(self.choice.integers(0, len(self.heads), size)).to(self.device)
        second = torch.from_numpy(self.choice.integers(0, len(self.heads), size)).to(self.device)
        unknown = self.flag(settings.other_head, size) & is_head
        second = torch.where(unknown, second, first)
        stripped, dry = self.flag(0.7, size, 1, 1, 1, 1), self.flag(0.5, size, 1, 1, 1, 1)
        for number, which in enumerate((first, second)):
            head = self.heads[which][:, None].float()
            bare = (head == AIR) | (head == EYES) | (head == SKULL) | (head == SKIN) | ((head == FLUID) & dry)
            head = torch.where(stripped & bare, 0.0, head)
            scenes[number] = torch.where(is_head.reshape(-1, 1, 1, 1, 1), head, scenes[number])
        return scenes, unknown

    def _velocity(self, size: int) -> Tensor:
        """Stationary velocities on the half-resolution lattice, in voxels of the lattice."""
        total = torch.zeros(size, 3, *[self.side // 2] * 3, device=self.device)
        for _ in range(2):
            cells = math.exp(self.choice.uniform(math.log(2), math.log(9)))
            most = min(self.settings.bend * self.side, 0.2 * self.side / cells) / math.sqrt(2)
            field = self.noise(size, 3, cells, self.side // 2) / math.sqrt(3)
            total = total + field * self.uniform(0.1, 1.0, size, 1, 1, 1, 1) * most
        return total

    def _affine(self, size: int, rotation_: float, scale: float, stretch: float, shear: float, shift: float) -> Tensor:
        """Random affine matrices ``(size, 4, 4)`` about the middle."""
        reach = self.uniform(0, 1, size, 1)
        axis = F.normalize(torch.randn(size, 3, generator=self.random, device=self.device), dim=1)
        angle = axis * (self.uniform(-1, 1, size, 1) * reach * math.radians(rotation_))
        sizes = torch.exp(self.uniform(-1, 1, size, 1) * reach * scale + self.uniform(-1, 1, size, 3) * reach * stretch)
        off = self.uniform(-1, 1, size, 3, 3) * reach[..., None] * shear
        off = off * (1 - torch.eye(3, device=self.device))
        linear = rotation(angle) @ torch.diag_embed(sizes) @ (torch.eye(3, device=self.device) + off)
        matrix = torch.eye(4, device=self.device).repeat(size, 1, 1)
        matrix[:, :3, :3] = linear
        matrix[:, :3, 3] = self.uniform(-1, 1, size, 3) * reach * shift
        return matrix

    def _pose(self, size: int) -> Tensor:
        """What lies between the two images."""
        settings = self.settings
        return self._affine(size, settings.rotation, settings.scale, settings.stretch, settings.shear, settings.shift)

    def _view(self, size: int, is_head: Tensor) -> Tensor:
        """How both images look at the scene: size, orientation, mirror images, axes in any order."""
        matrix = self._affine(size, 25, 0.0, 0.12, 0.05, 5)
        zoom = torch.where(is_head, self.uniform(0.75, 1.2, size), self.uniform(0.6, 1.1, size))
        zoom = zoom * (SIDE / self.side)
        turned = []
        for _ in range(size):
            order = self.choice.permutation(3) if self.choice.random() < 0.6 else np.arange(3)
            turned.append(np.eye(3)[order] * np.where(self.choice.random(3) < 0.5, -1.0, 1.0))
        flips = torch.from_numpy(np.array(turned, dtype=np.float32)).to(self.device)
        matrix[:, :3] = flips @ matrix[:, :3] * zoom.reshape(-1, 1, 1)
        return matrix

    def _label_ids(self, size: int, is_head: Tensor) -> Tensor:
        """Which labels count, ``(size, L, 1, 1, 1)``; of the small shapes only those that both images show."""
        count = self.settings.labels
        ids = torch.stack([
            torch.from_numpy(self.choice.permutation(10)[:count] + 1 if head
                             else self.choice.permutation(self.settings.bodies)[:count] + 1)
            for head in is_head.tolist()
        ])  # fmt: skip
        return ids.to(self.device).reshape(size, -1, 1, 1, 1)

    def _images(self, labels: list[Tensor], patterns: list[Tensor], is_head: Tensor) -> list[Tensor]:
        """Random contrast for both images."""
        size = len(is_head)
        t1 = torch.zeros(N_LABELS, device=self.device)
        for label, value in T1.items():
            t1[label] = value
        t1 = t1 + 0.07 * torch.randn(size, N_LABELS, generator=self.random, device=self.device)
        usual = (is_head & self.flag(0.5, size))[:, None]
        other = self.flag(self.settings.other_contrast, size)[:, None]
        black = self.flag(0.7, size, 1, 1, 1, 1)
        images: list[Tensor] = []
        level = depth = torch.zeros(())
        for number, (label, pattern) in enumerate(zip(labels, patterns, strict=True)):
            drawn = (
                self.uniform(0, 1, size, N_LABELS),
                self.uniform(-0.3, 0.3, size, N_LABELS) * self.uniform(0, 1, size, 1),
            )
            if number == 0:
                level, depth = torch.where(usual, t1, drawn[0]), drawn[1]
            else:
                jitter = 0.03 * torch.randn(size, N_LABELS, generator=self.random, device=self.device)
                level = torch.where(other, drawn[0], level + jitter)
                depth = torch.where(other, drawn[1], depth)
            index = label.flatten(1)
            image = level.gather(1, index).reshape(label.shape)
            image = image + depth.gather(1, index).reshape(label.shape) * pattern * 0.5
            own = self.noise(size, 1, self.choice.uniform(10, 45), self.side)
            image = image + own * self.uniform(0, 0.06, size, 1, 1, 1, 1)
            image = image * torch.where(black & (label == 0), 0.0, 1.0)
            image = gaussian(image, float(self.choice.uniform(0.3, 1.2)), "nearest")
            image = image * torch.exp(0.25 * self.uniform(0, 1, size, 1, 1, 1, 1) * self.noise(size, 1, 2, self.side))
            image = _normalized(image)
            image = image.clamp(0.001, 1) ** torch.exp(self.uniform(-0.4, 0.4, size, 1, 1, 1, 1))
            grain = torch.randn(image.shape, generator=self.random, device=self.device)
            image = image + grain * self.uniform(0, 0.05, size, 1, 1, 1, 1)
            image = torch.where(black & (label == 0) & (image < 0.1), image * 0.1, image)
            image = image * self._box(size)
            images.append(_normalized(image))
        return images

    def _box(self, size: int) -> Tensor:
        """1 inside a random box, for some of the images; 1 everywhere for the others."""
        cut = self.flag(self.settings.crop, size, 1)
        low = self.uniform(0, 0.22, size, 3) * self.flag(0.5, size, 3) * cut
        high = 1 - self.uniform(0, 0.3, size, 3) * self.flag(0.6, size, 3) * cut
        axis = (torch.arange(self.side, device=self.device) + 0.5) / self.side
        inside = [((axis >= low[:, a, None]) & (axis <= high[:, a, None])).float() for a in range(3)]
        return torch.einsum("bi,bj,bk->bijk", *inside)[:, None]


def _points(side: int, spacing: float, device: torch.device) -> Tensor:
    """Voxel positions about the middle, ``(side, side, side, 3)``, in voxels of the lattice."""
    axis = (torch.arange(side, device=device, dtype=torch.float32) - (side - 1) / 2) * spacing
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)


def _moved(points: Tensor, matrix: Tensor) -> Tensor:
    """Apply matrices ``(B, 4, 4)`` to points ``(B or none, *shape, 3)``."""
    return affine_points(points if points.ndim == 5 else points[None], matrix)


def _read_field(field: Tensor, points: Tensor, side: int, spacing: float = 1.0) -> Tensor:
    """A field ``(B, 3, *shape)`` at points about the middle, ``(B, *shape, 3)``."""
    grid = (points * (2 / (side * spacing))).flip(-1)
    return F.grid_sample(field, grid, "bilinear", "border", align_corners=False).movedim(1, -1)


def _sampled(image: Tensor, points: Tensor, side: int, padding: str) -> Tensor:
    """Images at points about the middle."""
    return F.grid_sample(image, (points * (2 / side)).flip(-1), "bilinear", padding, align_corners=False)


def _normalized(image: Tensor) -> Tensor:
    """Each image by its percentiles, as models do with theirs."""
    sample = image.flatten(1)[:, ::11]
    low, high = torch.quantile(sample, torch.tensor([0.005, 0.995], device=image.device), dim=1)
    low, high = (x.reshape(-1, 1, 1, 1, 1) for x in (low, high))
    return ((image - low) / (high - low).clamp_min(1e-4)).clamp(-0.1, 1.1)


class CascadeLoss:
    """Runs the stages of a cascade and sums their losses.

    Parameters
    ----------
    network
        An affine network and U-Nets.
    generator
        For its lattice.
    settings
        Weights.
    """

    def __init__(self, network: SequentialNetwork, generator: VolumeGenerator, settings: VolumeSettings) -> None:
        self.network, self.settings, self.side = network, settings, generator.side
        self.points, self.half_points = generator.points, generator.half_points
        grid = Grid.from_spacing((generator.side,) * 3)
        self.grid = grid.translated(-grid.center)

    def __call__(self, pairs: Pairs) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """The loss of each stage, and its parts."""
        affine_stage, *stages = self.network.networks()
        affine = affine_stage.transform(pairs.fixed, pairs.moving, self.grid)
        assert isinstance(affine, AffineTransform)
        matrix = affine.matrix.float()
        losses, parts = [], []
        fixed_half = F.avg_pool3d(pairs.fixed_labels, 2)
        moving_half = F.avg_pool3d(pairs.moving_labels, 2)
        loss, part = self._loss(pairs, _moved(self.half_points, matrix), fixed_half, moving_half, None)
        losses.append(loss)
        parts.append(part)
        matrix = matrix.detach()
        field: Tensor | None = None  # of the U-Nets so far, at full resolution
        here = self.points.expand(len(matrix), *self.points.shape)
        for number, stage in enumerate(stages):
            with torch.no_grad():
                at = _moved(here if field is None else here + field.movedim(1, -1), matrix)
                seen = _sampled(pairs.moving, at, self.side, "border")
            velocity = stage.theta(pairs.fixed, seen)
            coarse = self_composed(velocity / 2**7, 7)
            half = self._through(coarse, self.half_points, self.side // 2, field)
            mapped = _moved(half, matrix)
            if number + 1 < len(stages):
                loss, part = self._loss(pairs, mapped, fixed_half, moving_half, velocity)
                with torch.no_grad():
                    field = (self._through(coarse, self.points, self.side, field) - here).movedim(-1, 1)
            else:
                dense = _moved(self._through(coarse, self.points, self.side, field), matrix)
                loss, part = self._loss(pairs, mapped, pairs.fixed_labels, pairs.moving_labels, velocity, dense)
            losses.append(loss)
            parts.append(part)
        return losses, parts

    def _through(self, coarse: Tensor, points: Tensor, side: int, field: Tensor | None) -> Tensor:
        """Points after a displacement in voxels of its own lattice, then after the field of the stages before."""
        flow = coarse
        if flow.shape[-1] != side:
            flow = F.interpolate(flow, size=[side] * 3, mode="trilinear", align_corners=False)
        moved = points + (flow * (self.side / coarse.shape[-1])).movedim(1, -1)
        return moved if field is None else moved + _read_field(field, moved, self.side)

    def _loss(
        self, pairs: Pairs, mapped: Tensor, fixed: Tensor, moving: Tensor, velocity: Tensor | None,
        dense: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        settings = self.settings
        apart = ((mapped - pairs.target).square().sum(-1) + 1e-2).sqrt()
        distance = (apart * pairs.target_weight).sum() / pairs.target_weight.sum().clamp_min(1.0)
        warped = _sampled(moving, mapped if dense is None else dense, self.side, "zeros")
        both = (fixed * warped).sum((2, 3, 4))
        size = (fixed.square() + warped.square()).sum((2, 3, 4))
        known = (fixed.sum((2, 3, 4)) > 20) & (moving.sum((2, 3, 4)) > 20)
        dice = torch.where(known, 1 - 2 * both / size.clamp_min(1e-3), 0.0).sum() / known.sum().clamp_min(1)
        part = {"distance": distance.detach(), "dice": dice.detach()}
        loss = dice + settings.truth_weight * distance
        if velocity is not None:
            rough = sum(torch.diff(velocity, dim=axis).square().sum(1).mean() for axis in (2, 3, 4))
            loss = loss + settings.diffusion_weight * rough
            part["diffusion"] = torch.as_tensor(rough).detach()
        return loss, part


@dataclass
class VolumeTraining:
    """Length of a training.

    Parameters
    ----------
    seconds
        Of the whole training; the learning rate falls to 0 over them.
    batch_size, learning_rate, warmup
        Pairs and step size of AdamW, and steps over which it rises.
    average
        Decay of the running mean of the weights, which is the model.
    seed
        Of everything random.
    """

    seconds: float = 1000.0
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup: int = 100
    average: float = 0.998
    seed: int = 0


def model_of(network: SequentialNetwork, summary: dict[str, Any]) -> sr.Model:
    """The model of a trained cascade."""
    contract = InputSpec(3, 1, (SIDE,) * 3, (1.0, 1.0, 1.0), "pixel", "extent")
    return sr.Model(network.float(), contract, summary, "box-3d")


def train_volumes(
    heads: npt.NDArray[np.uint8],
    device: torch.device,
    state_path: Path,
    *,
    seconds: float,
    training: VolumeTraining,
    settings: VolumeSettings,
    report: Callable[[str], None],
    saved: Callable[[sr.Model], None],
    every: float = 30.0,
    side: int = SIDE,
) -> sr.Model:
    """Train for some seconds, from the start or from the saved state; the model is the running mean of the weights."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(training.seed)
    options = NETWORK["options"]
    network = new_network(NETWORK["network"], 3, 1, (side,) * 3, options).to(device)
    assert isinstance(network, SequentialNetwork)
    if device.type == "cuda":
        network.set_autocast(torch.bfloat16)
        network = network.to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(network.parameters(), training.learning_rate, weight_decay=1e-4, fused=True)
    average = copy.deepcopy(network)
    spent, step = load_state(state_path, network, average, optimizer) if state_path.exists() else (0.0, 0)
    generator = VolumeGenerator(heads, device, settings, training.seed + 7919 * (step + 1), side)
    cascade = CascadeLoss(network, generator, settings)
    start_time = last_report = time.perf_counter()
    sums: dict[str, Tensor] = {}
    count, first_step = 0, step

    def elapsed() -> float:
        return spent + time.perf_counter() - start_time

    def finished() -> sr.Model:
        summary = {
            "kind": "generated shapes and heads", "settings": {"similarity_used": "lncc"},
            "steps": step, "pairs": step * training.batch_size, "device_seconds": round(elapsed()),
            "training": asdict(training), "volumes": asdict(settings),
        }  # fmt: skip
        return model_of(copy.deepcopy(average), summary)

    while time.perf_counter() - start_time < seconds:
        share = min(elapsed() / training.seconds, 1.0)
        rate = training.learning_rate * min((step + 1) / training.warmup, 1.0) * (0.5 + 0.5 * math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = max(rate, 1e-6)
        with torch.no_grad():
            pairs = generator.batch(training.batch_size)
        losses, parts = cascade(pairs)
        torch.stack(losses).sum().backward()
        for stage in network.networks():
            torch.nn.utils.clip_grad_norm_(stage.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        decay = min(training.average, step / (step + 20))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
            for number, part in enumerate(parts):
                for name, value in part.items():
                    key = f"{name}{number}"
                    sums[key] = sums[key] + value if key in sums else value
        count += 1
        if step % 10 == 0 and time.perf_counter() - last_report > every:
            rate = (step - first_step) / (time.perf_counter() - last_report)
            text = " ".join(f"{name} {float(value) / count:.3f}" for name, value in sorted(sums.items()))
            report(f"{elapsed():.0f} s, step {step}, {rate:.1f} steps/s: {text}")
            saved(finished())
            save_state(state_path, network, average, optimizer, elapsed(), step)
            last_report, sums, count, first_step = time.perf_counter(), {}, 0, step
    save_state(state_path, network, average, optimizer, elapsed(), step)
    return finished()


def save_state(
    path: Path,
    network: SequentialNetwork,
    average: SequentialNetwork,
    optimizer: torch.optim.Optimizer,
    spent: float,
    step: int,
) -> None:
    """Write all that :func:`load_state` needs to continue a training."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    unfinished = path.with_suffix(".part")
    save_file(content, unfinished, {"spent": str(spent), "step": str(step)})
    unfinished.replace(path)


def load_state(
    path: Path, network: SequentialNetwork, average: SequentialNetwork, optimizer: torch.optim.Optimizer
) -> tuple[float, int]:
    """Restore what :func:`save_state` wrote; returns the seconds and steps so far."""
    with safe_open(path, framework="pt") as stream:
        metadata = stream.metadata()
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    for prefix, module in (("network.", network), ("average.", average)):
        module.load_state_dict({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return float(metadata["spent"]), int(metadata["step"])


def spent_seconds(path: Path) -> float:
    """Return the seconds of training that a saved state holds; 0 without one."""
    if not path.exists():
        return 0.0
    with safe_open(path, framework="pt") as stream:
        return float(stream.metadata()["spent"])


def train_box_3d(out: Path, target: Path, device: str, seconds: float, workers: int) -> None:
    """Train ``box-3d`` and write it, with a copy in the folder of checkpoints every 30 seconds.

    Parameters
    ----------
    out
        Folder for the generated heads, the state and the copies.
    target
        File of the model.
    device
        Device name; anything but a GPU takes days.
    seconds
        Length of the training.
    workers
        Processes that generate heads, which takes some 8 CPU seconds each.
    """
    heads = generate_heads(out / "heads.npz", N_HEADS, workers)
    state = out / "box-3d-state.safetensors"

    def save_copy(model: sr.Model) -> None:
        save_model(model, out / "box-3d.safetensors", dtype=torch.float16)

    model = train_volumes(
        heads,
        pick_device(device),
        state,
        seconds=seconds - spent_seconds(state),
        training=VolumeTraining(seconds=seconds),
        settings=VolumeSettings(),
        report=lambda text: print(text, file=sys.stderr, flush=True),
        saved=save_copy,
    )
    save_model(model, target, dtype=torch.float16)
