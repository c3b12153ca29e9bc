"""Training losses: similarity, regularization, overlap of labels, distances of points, inverse consistency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from napari_stnreg.core.device import is_out_of_memory
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.losses import (
    LabelOverlap,
    Similarity,
    bending_energy,
    diffusion,
    folding_penalty,
    make_similarity,
    one_hot,
)
from napari_stnreg.models.similarity import load_similarity
from napari_stnreg.networks import AutoEncoder, CustomNetwork, LocalizationNetwork, sampling_grid
from napari_stnreg.ops.interpolation import sample_normalized
from napari_stnreg.ops.lattice import lattice_points
from napari_stnreg.ops.triangles import distance_to_mesh
from napari_stnreg.training.data.batch import Batch
from napari_stnreg.training.settings import TrainingSettings
from napari_stnreg.transforms import (
    Transform,
)
from napari_stnreg.transforms.linear import radius

MAX_LABELS = 24
"""Labels per step; if there are more, this many are drawn at random for each step."""


MAX_SURFACE_POINTS = 1024
"""Points of a surface that are compared in a step; all pairs of them are held in memory."""
SMOOTHNESS_RANGE = (0.1, 10.0)
"""Smoothness that a conditional network learns, the range of the setting of a registration."""


@dataclass
class BatchResult:
    """Result of one batch.

    Parameters
    ----------
    loss
        The loss, a scalar.
    terms
        Unweighted terms by name.
    warped
        Warped moving images, ``(B, C, *shape)``, detached.
    transform
        The predicted transforms; ``None`` for an auto-encoder.
    """

    loss: Tensor
    terms: dict[str, float]
    warped: Tensor
    transform: Transform | None


def _predict(network: LocalizationNetwork, batch: Batch, grid: Grid) -> Transform:
    """Return the predicted transforms; an error inside a user's network names its inputs."""
    try:
        return network.transform(batch.fixed, batch.moving, grid)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        own = [one.network for one in network.networks() if isinstance(one, CustomNetwork)]
        if not own or isinstance(error, InputError) or is_out_of_memory(error):
            raise
        sizes = ", ".join(["B", *(str(n) for n in batch.fixed.shape[1:])])
        raise InputError(
            f"The network '{own[0]}' failed on two float32 images of shape ({sizes}): {str(error).rstrip('.')}."
        ) from error


class RegistrationLoss:
    """Loss and validation scores of a registration network.

    Parameters
    ----------
    settings
        Terms and their weights.
    grid
        Grid of the training data.
    labels
        Label values.
    similarity
        A similarity instead of the one that the settings name.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        grid: Grid,
        labels: Sequence[int] = (),
        similarity: Similarity | None = None,
    ) -> None:
        self.settings, self.grid, self.labels = settings, grid, tuple(labels)
        self.similarity = _similarity(settings) if similarity is None else similarity
        if settings.label_weight > 0 and not labels:
            raise InputError("label_weight is above 0, but the training data have no labels.")
        names = ("similarity_weight", "label_weight", "truth_weight", "point_weight", "surface_weight")
        if not any(getattr(settings, name) for name in names):
            raise InputError(f"The loss is empty: {', '.join(names[:-1])} and {names[-1]} are all 0.")

    def __call__(self, network: LocalizationNetwork, batch: Batch) -> BatchResult:
        """Compute the loss of a batch; differentiable with respect to the weights."""
        settings, grid = self.settings, batch.grid or self.grid
        smoothness = self._draw_smoothness(network)
        transform = _predict(network, batch, grid)
        coordinates = sampling_grid(transform, grid, grid)
        warped = sample_normalized(batch.moving, coordinates, padding="border")
        terms: dict[str, tuple[float, Tensor]] = {}
        if settings.similarity_weight > 0:
            weight = None
            if batch.moving_mask is not None:
                weight = sample_normalized(batch.moving_mask, coordinates.detach())
            self.similarity.prepare(batch.fixed, batch.fixed_mask)
            terms["similarity"] = (settings.similarity_weight, self.similarity(warped, weight))
        if settings.label_weight > 0 and batch.fixed_labels is not None and batch.moving_labels is not None:
            terms["labels"] = (settings.label_weight, self._overlap(batch, coordinates))
        if settings.truth_weight > 0 and batch.truth is not None:
            distance = transform_distance(transform, batch.truth, grid) / radius(grid)
            terms["truth"] = (settings.truth_weight, distance)
        terms |= self._point_terms(transform, batch, grid)
        if not terms:
            raise InputError(
                "The training data have neither labels nor known transforms nor points, which the loss needs."
            )
        terms |= self._consistency(network, transform, batch, grid)
        divergence = network.divergence()
        if divergence is not None and settings.kl > 0:
            terms["kl"] = (smoothness * settings.kl, divergence)
        terms |= self._regularization(transform, grid, smoothness, divergence is not None)
        loss = torch.stack([weight * value for weight, value in terms.values()]).sum()
        loss = loss + 0 * coordinates.detach().sum()  # the sampler may return values at coordinates that are not finite
        return BatchResult(
            loss, {name: float(v.detach()) for name, (_, v) in terms.items()}, warped.detach(), transform
        )

    def _overlap(self, batch: Batch, coordinates: Tensor) -> Tensor:
        assert batch.fixed_labels is not None
        assert batch.moving_labels is not None
        values = list(self.labels)
        if len(values) > MAX_LABELS:
            values = [values[i] for i in torch.randperm(len(values))[:MAX_LABELS].tolist()]
        moved = sample_normalized(one_hot(batch.moving_labels, values), coordinates)
        return LabelOverlap(one_hot(batch.fixed_labels, values))(moved)

    def _draw_smoothness(self, network: LocalizationNetwork) -> float:
        """Set the smoothness of a conditional network: drawn log-uniformly in training, 1 in validation."""
        if not network.is_conditional:
            return 1.0
        smoothness = 1.0
        if network.training:
            low, high = (math.log(limit) for limit in SMOOTHNESS_RANGE)
            smoothness = math.exp(low + (high - low) * float(torch.rand(())))
        network.set_smoothness(smoothness)
        return smoothness

    def _point_terms(self, transform: Transform, batch: Batch, grid: Grid) -> dict[str, tuple[float, Tensor]]:
        """Return the distances of points and of surfaces, in radii of the grid."""
        found: dict[str, tuple[float, Tensor]] = {}
        for name, weight, fixed, moving, measure in (
            ("points", self.settings.point_weight, batch.fixed_points, batch.moving_points, point_distance),
            ("surfaces", self.settings.surface_weight, batch.fixed_surface, batch.moving_surface, surface_distance),
        ):
            if weight > 0 and fixed is not None and moving is not None:
                meshes = (batch.fixed_triangles, batch.moving_triangles) if name == "surfaces" else ()
                found[name] = (weight, measure(transform, fixed, moving, *meshes) / radius(grid))
        return found

    def _consistency(
        self, network: LocalizationNetwork, transform: Transform, batch: Batch, grid: Grid
    ) -> dict[str, tuple[float, Tensor]]:
        """Return the error of the composition with the transform of the swapped pair: itself and its gradient."""
        settings = self.settings
        weights = {
            "inverse_consistency": settings.inverse_consistency,
            "gradient_inverse_consistency": settings.gradient_inverse_consistency,
        }
        if not any(weights.values()):
            return {}
        backward = network.transform(batch.moving, batch.fixed, grid)
        matrix = torch.tensor(grid.matrix, dtype=torch.float32, device=batch.fixed.device)[None]
        error = (transform(backward.on_grid(grid)) - lattice_points(matrix, grid.shape)).movedim(-1, 1)
        found = {}
        if weights["inverse_consistency"] > 0:
            value = error.square().sum(dim=1).mean() / radius(grid) ** 2
            found["inverse_consistency"] = (weights["inverse_consistency"], value)
        if weights["gradient_inverse_consistency"] > 0:
            value = diffusion(error, tuple(float(s) for s in grid.spacing))
            found["gradient_inverse_consistency"] = (weights["gradient_inverse_consistency"], value)
        return found

    def _regularization(
        self, transform: Transform, grid: Grid, smoothness: float, has_prior: bool
    ) -> dict[str, tuple[float, Tensor]]:
        """Return the regularization terms of the non-affine parts, each part separately."""
        settings = self.settings
        # The prior of a probabilistic network is a diffusion regularizer already.
        diffusion_weight = settings.diffusion if has_prior else settings.diffusion_weight
        weights = {
            "diffusion": smoothness * (diffusion_weight or 0.0),
            "bending": smoothness * settings.bending,
            "folding": settings.folding,
        }
        deformable = [part for part in transform.parts if not part.is_linear]
        found: dict[str, tuple[float, Tensor]] = {}
        for name, weight in weights.items():
            if weight <= 0 or not deformable:
                continue
            total = torch.stack([_penalty(name, part, grid) for part in deformable]).sum()
            found[name] = (weight, total)
        return found

    def score(self, network: LocalizationNetwork, batch: Batch) -> tuple[BatchResult, dict[str, float]]:
        """Return loss and scores of a validation batch."""
        with torch.no_grad():
            result = self(network, batch)
            grid = batch.grid or self.grid
            assert result.transform is not None
            scores = {"similarity": self._similarity_score(batch, result, grid)}
            if batch.fixed_labels is not None and batch.moving_labels is not None:
                where = sampling_grid(result.transform, grid, grid)
                moved = sample_normalized(batch.moving_labels.float(), where, padding="zeros", mode="nearest")
                scores["dice"] = mean_dice(batch.fixed_labels, moved.round().to(batch.fixed_labels.dtype), self.labels)
            if batch.fixed_points is not None and batch.moving_points is not None:
                scores["points"] = float(point_distance(result.transform, batch.fixed_points, batch.moving_points))
            if batch.fixed_surface is not None and batch.moving_surface is not None:
                scores["surfaces"] = float(
                    surface_distance(
                        result.transform,
                        batch.fixed_surface,
                        batch.moving_surface,
                        batch.fixed_triangles,
                        batch.moving_triangles,
                    )
                )
            if batch.truth is not None:
                scores["error"] = float(transform_distance(result.transform, batch.truth, grid))
        return result, scores

    def _similarity_score(self, batch: Batch, result: BatchResult, grid: Grid) -> float:
        self.similarity.prepare(batch.fixed, batch.fixed_mask)
        weight = None
        if batch.moving_mask is not None:
            assert result.transform is not None
            weight = sample_normalized(batch.moving_mask, sampling_grid(result.transform, grid, grid))
        return self.similarity.score(result.warped, weight)


class ReconstructionLoss:
    """Mean squared reconstruction error of an auto-encoder."""

    def __call__(self, network: AutoEncoder, batch: Batch) -> BatchResult:
        """Compute the loss of a batch; fixed and moving images are independent examples."""
        images = torch.cat([batch.fixed, batch.moving])
        reconstructed = network(images).float()
        loss = (reconstructed - images).square().mean()
        return BatchResult(loss, {"reconstruction": float(loss.detach())}, reconstructed.detach()[batch.size :], None)

    def score(self, network: AutoEncoder, batch: Batch) -> tuple[BatchResult, dict[str, float]]:
        """Return loss and scores of a validation batch."""
        with torch.no_grad():
            result = self(network, batch)
        return result, {"reconstruction": float(result.loss)}


def _similarity(settings: TrainingSettings) -> Similarity:
    name = settings.similarity_name
    if name == "lncc":
        return make_similarity("lncc", radius=settings.window or 3)
    return load_similarity(name)


def _penalty(name: str, part: Transform, grid: Grid) -> Tensor:
    """Evaluate a regularizer on one deformation; on the velocity itself except for folding, as in VoxelMorph."""
    parameters = part.parameter_field() if name != "folding" else None
    if parameters is not None:
        field, where = parameters
    else:
        matrix = torch.tensor(grid.matrix, dtype=part.dtype, device=part.device)[None]
        field = (part.on_grid(grid) - lattice_points(matrix, grid.shape)).movedim(-1, 1)
        where = grid
    spacing = tuple(float(s) for s in where.spacing)
    if name == "diffusion":
        return diffusion(field, spacing)
    if name == "bending":  # 1 / length squared; the lattice's radius makes it a pure number
        return bending_energy(field, spacing) * radius(grid) ** 2
    return folding_penalty(field, spacing)


def transform_distance(found: Transform, truth: Transform, grid: Grid) -> Tensor:
    """Return the mean distance in the world between the points to which two transforms map a grid, a scalar.

    The corners suffice for affine transforms; otherwise 24 points along each axis are used (8 in 3D). Unlike a
    difference of matrices this does not depend on unit and origin, and rotations count by the distances they cause.

    Parameters
    ----------
    found, truth
        ``B`` transforms each.
    grid
        The grid.
    """
    linear = found.is_linear and truth.is_linear
    most = 24 if grid.ndim == 2 else 8
    places: FloatArray = grid.corners() if linear else grid.resized([min(n, most) for n in grid.shape]).points()
    points = torch.tensor(places.reshape(1, -1, grid.ndim), dtype=torch.float32, device=found.device)
    difference = found(points) - truth(points)
    return (difference.square().sum(-1) + 1e-12).sqrt().mean()


def point_distance(transform: Transform, fixed: Tensor, moving: Tensor) -> Tensor:
    """Return the mean distance between the mapped fixed points and the moving points, a scalar in world units.

    Parameters
    ----------
    transform
        ``B`` transforms.
    fixed, moving
        Corresponding points ``(B, N, D)``; NaN where a pair has fewer.
    """
    known = ~(torch.isnan(fixed) | torch.isnan(moving)).any(dim=-1)
    difference = transform(fixed.nan_to_num()) - moving.nan_to_num()
    distance = (difference.square().sum(-1) + 1e-12).sqrt()
    return (distance * known).sum() / known.sum().clamp_min(1)


def surface_distance(
    transform: Transform,
    fixed: Tensor,
    moving: Tensor,
    fixed_triangles: Tensor | None = None,
    moving_triangles: Tensor | None = None,
) -> Tensor:
    """Return the symmetric mean distance of the points of each surface to the other surface.

    Parameters
    ----------
    transform
        ``B`` transforms.
    fixed, moving
        Points ``(B, N, D)`` and ``(B, M, D)``, of which at most :data:`MAX_SURFACE_POINTS` are used; NaN where a pair
        has fewer.
    fixed_triangles, moving_triangles
        Vertices of triangles ``(B, K, 3)``, -1 where a pair has fewer. Distances to a surface with triangles are those
        to the nearest point of a triangle, to one without those to the nearest of its points (chamfer distance).

    Returns
    -------
    Tensor
        A scalar in world units, averaged over the pairs that have both surfaces.
    """
    mapped = transform(fixed.nan_to_num())
    found = []
    for i, (one, other) in enumerate(zip(mapped, moving, strict=True)):
        sides = one[~torch.isnan(fixed[i]).any(dim=-1)], other[~torch.isnan(other).any(dim=-1)]
        if len(sides[0]) and len(sides[1]):
            faces = (_faces(fixed_triangles, i), _faces(moving_triangles, i))
            there, back = _to_surface(sides[0], sides[1], faces[1]), _to_surface(sides[1], sides[0], faces[0])
            found.append((there.mean() + back.mean()) / 2)
    return torch.stack(found).mean() if found else mapped.sum() * 0


def _faces(triangles: Tensor | None, pair: int) -> Tensor | None:
    if triangles is None:
        return None
    faces = triangles[pair][triangles[pair, :, 0] >= 0]
    return faces if len(faces) else None


def _to_surface(points: Tensor, surface: Tensor, triangles: Tensor | None) -> Tensor:
    """Return the distances of points ``(N, D)`` to a surface of points ``(M, D)``, and triangles if there are some."""
    points = _thinned(points)
    if triangles is not None:
        return distance_to_mesh(points, surface, triangles)
    squares = (points[:, None] - _thinned(surface)[None]).square().sum(-1) + 1e-12
    return squares.amin(dim=1).sqrt()


def _thinned(points: Tensor) -> Tensor:
    """Return evenly chosen points of a longer list."""
    return points[:: -(-len(points) // MAX_SURFACE_POINTS)]


def mean_dice(fixed: Tensor, moved: Tensor, labels: Sequence[int]) -> float:
    """Return the Dice overlap of label maps ``(B, 1, *shape)``, averaged over the labels of a pair, then over pairs."""
    size = max((*labels, 0)) + 1
    found = []
    for one, other in zip(fixed, moved, strict=True):
        a, b = (torch.bincount(x.flatten().clamp(0, size - 1).long(), minlength=size) for x in (one, other))
        same = torch.bincount(one[one == other].flatten().clamp(0, size - 1).long(), minlength=size)
        total = (a + b)[list(labels)]
        dice = 2 * same[list(labels)] / total.clamp_min(1)
        if bool((total > 0).any()):
            found.append(float(dice[total > 0].mean()))
    return float(np.mean(found)) if found else float("nan")
