"""Training data drawn from scenes with known maps: the contract of a training, with nothing resampled."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from napari_stnreg.core.grid import Grid
from napari_stnreg.training.data.batch import Batch
from napari_stnreg.transforms import AffineTransform
from tests.helpers.scenes import Blobs, affine_map, bent_map, grid


class DrawnPairs:
    """Pairs of one scene under maps drawn at random; the same pairs in every epoch, in an order of its own.

    Parameters
    ----------
    count, validation_count
        Pairs for training and validation.
    size, ndim, unit
        Of the lattice, over the scenes' 100 world units.
    kind
        ``"shift"``, ``"affine"`` or ``"bent"``.
    truth, labels
        Whether batches know the map, and hold a label (what is bright).
    scenes
        How many different scenes.
    """

    channels = 1
    normalization = "none"

    def __init__(
        self,
        count=48,
        validation_count=12,
        size=32,
        ndim=2,
        kind="shift",
        unit="pixel",
        truth=False,
        labels=False,
        scenes=1,
    ):
        self.grid: Grid = grid(size, ndim, unit=unit)
        self.labels = (1,) if labels else ()
        self.kind, self._validation_count, self._truth = kind, validation_count, truth
        rng = np.random.default_rng(7)
        points = self.grid.points()
        fixed, moving, self.maps, matrices = [], [], [], []
        for i in range(count + validation_count):
            scene = Blobs.random(ndim, i % scenes)
            function, matrix = self._map(ndim, rng, i)
            self.maps.append(function)
            matrices.append(matrix)
            fixed.append(scene(function(points)))
            moving.append(scene(points))
        top = max(float(np.max(moving)), 1e-6)
        self.fixed = torch.tensor(np.stack(fixed) / top, dtype=torch.float32)[:, None]
        self.moving = torch.tensor(np.stack(moving) / top, dtype=torch.float32)[:, None]
        self.matrices = torch.tensor(np.stack(matrices), dtype=torch.float32)

    def _map(self, ndim, rng, seed):
        matrix = np.eye(ndim + 1)
        if self.kind == "bent":
            return bent_map(ndim, height=float(rng.uniform(3, 6)), seed=seed + 10), matrix
        shift = rng.uniform(-12, 12, ndim)
        degrees = float(rng.uniform(-15, 15)) if self.kind == "affine" else 0.0
        scale = rng.uniform(0.9, 1.1, ndim) if self.kind == "affine" else 1.0
        function = affine_map(ndim, degrees=degrees, scale=scale, shift=shift)
        matrix[:-1, -1] = function(np.zeros(ndim))
        matrix[:-1, :-1] = (function(np.eye(ndim)) - matrix[:-1, -1]).T
        return function, matrix

    def count(self, split: str) -> int:
        return self._validation_count if split == "validation" else len(self.fixed) - self._validation_count

    def batches(self, split: str, *, epoch: int, batch_size: int, seed: int) -> Iterator[Batch]:
        trained = len(self.fixed) - self._validation_count
        if split == "validation":
            order = list(range(trained, len(self.fixed)))
        else:
            order = torch.randperm(trained, generator=torch.Generator().manual_seed(1000 * seed + epoch)).tolist()
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = Batch(self.fixed[chosen], self.moving[chosen])
            if self._truth:
                batch.truth = AffineTransform(self.matrices[chosen], self.grid.unit)
            if self.labels:
                batch.fixed_labels = (batch.fixed > 0.4).to(torch.int32)
                batch.moving_labels = (batch.moving > 0.4).to(torch.int32)
            yield batch

    def summary(self):
        return {"kind": self.kind, "pairs": self.count("train"), "validation_pairs": self._validation_count}

    def error(self, model_or_network, which: str = "validation") -> float:
        """Mean distance from the truth in voxels over the pairs held back, where the scene shows something."""
        network = getattr(model_or_network, "network", model_or_network)
        trained = len(self.fixed) - self._validation_count
        chosen = range(trained, len(self.fixed)) if which == "validation" else range(trained)
        rng = np.random.default_rng(1)
        points = rng.uniform(-25, 25, (300, self.grid.ndim))
        apart = []
        with torch.no_grad():
            for i in chosen:
                found = network.transform(self.fixed[i : i + 1], self.moving[i : i + 1], self.grid)
                apart.append(np.linalg.norm(found.map_points(points) - self.maps[i](points), axis=1).mean())
        return float(np.mean(apart) / self.grid.spacing.min())
