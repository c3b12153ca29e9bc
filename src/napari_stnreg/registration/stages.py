"""The stages of a registration: linear, bending, dense; each a generator that leaves an affine or a deformation.

Whenever a stage is left, at its end, by closing it or after a value that is not finite, the best it saw is kept.

Everything here lives in the centered frame of :class:`~napari_stnreg.registration.preprocessing.Problem`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.progress import StopRequested
from napari_stnreg.losses import (
    LandmarkDistance,
    Similarity,
    WeightedSum,
    bending_energy,
    diffusion,
    folding_penalty,
    make_similarity,
)
from napari_stnreg.models.similarity import load_similarity
from napari_stnreg.ops.lattice import apply_matrix
from napari_stnreg.registration.optimizers.dense import DenseState, fit_dense
from napari_stnreg.registration.optimizers.parametric import AdamOptions, ParametricState, Penalty, fit_parametric
from napari_stnreg.registration.preprocessing import Problem
from napari_stnreg.registration.presets import Preset, dense_options, global_correlation_weight, window_radius
from napari_stnreg.registration.pyramid import Level, shrink_factors
from napari_stnreg.registration.settings import RegistrationSettings, fit_method
from napari_stnreg.registration.similarity_choice import SAME_CONTRAST, contrast_correlation
from napari_stnreg.transforms import AffineTransform, Transform, TransformFamily, chain, make_family
from napari_stnreg.transforms.dense import DiffeomorphicTransform, DisplacementTransform, VelocityTransform
from napari_stnreg.transforms.linear import radius
from napari_stnreg.transforms.registry import family_class

TPS_WORK = 3e7
"""Voxels times control points up to which a level is fitted by thin plates: each feels every other, and so few points
need no finer image."""
LINEAR_VOXELS = 2**22
"""Voxels up to which a level is fitted by a linear family: its few parameters gain nothing from more."""
MI_BINS = 64
"""Bins of mutual information in the deformable stages: within a bin of the fixed image a free field draws the moving
one together into steps, so the bins must be narrow."""
MI_STIFFNESS = 4.0
"""How much stiffer a dense field is under mutual information, which knows of no neighbors."""


@dataclass(frozen=True)
class IterationState:
    """One step of a stage, before it becomes a :class:`~napari_stnreg.registration.result.Progress`."""

    stage: str
    level: int
    levels: int
    loss: float
    snapshot: Callable[[], Transform]


@dataclass
class StageResult:
    """The transform so far: a deformation (if a stage has fitted one), then an affine."""

    affine: FloatArray
    deformation: Transform | None = None

    def transform(self, unit: str) -> Transform:
        """Return the result as one transform of the centered world."""
        affine = AffineTransform(self.affine.copy(), unit)
        return affine if self.deformation is None else chain(self.deformation, affine)


def planned_steps(problem: Problem, settings: RegistrationSettings, preset: Preset) -> int:
    """About how many steps all stages will take, for a progress bar."""
    total = 0
    for position in range(len(settings.stages)):
        levels = stage_shrinks(problem, settings, preset, position)
        total += sum(level_steps(settings, preset, position, i, levels) for i in range(len(levels)))
    return total


def level_steps(settings: RegistrationSettings, preset: Preset, position: int, level: int, levels: list[float]) -> int:
    """Steps that one level of a stage may take."""
    kind = {"linear": "linear", "control-points": "bending", "dense": "dense"}[fit_method(settings.stages[position])]
    if kind == "linear" and position + 1 < len(settings.stages):
        kind = "linear_first"
    steps = preset.steps(kind, len(levels) - 1 - level)
    # a linear family alone must come all the way at its first level, and be exact at its last
    if settings.iterations is None and kind == "linear":
        return 2 * (max(preset.linear) if level == 0 else steps)
    return steps


def stage_shrinks(problem: Problem, settings: RegistrationSettings, preset: Preset, position: int) -> list[float]:
    """Shrink factors of a stage's levels, coarse to fine."""
    grid = problem.pyramid.fixed_grid
    finest = max(problem.finest, preset.finest)
    shrinks = shrink_factors(grid, settings.levels, finest)
    if fit_method(settings.stages[position]) == "linear" and position + 1 < len(settings.stages):
        if grid.ndim == 2 and settings.levels is None and settings.preset != "thorough":
            shrinks = shrinks[:-1] or shrinks
        for i, shrink in enumerate(shrinks):
            if np.prod(problem.pyramid.fixed_shape(shrink)) >= preset.linear_voxels:
                return shrinks[: i + 1]
    if fit_method(settings.stages[position]) == "linear":
        return [s for s in shrinks if np.prod(problem.pyramid.fixed_shape(s)) <= LINEAR_VOXELS] or shrinks[:1]
    if settings.stages[position] == "tps":
        points = np.prod(_control_options(settings, grid, "tps")["points"])
        quick = [s for s in shrinks if np.prod(problem.pyramid.fixed_shape(s)) * points <= TPS_WORK]
        return quick or shrinks[:1]
    return shrinks


def linear_similarity(settings: RegistrationSettings, level: Level, begin: FloatArray) -> Similarity:
    """Return the similarity of the linear stages: the chosen one, with global NCC instead of local NCC.

    The correlation is squared, so that inverted contrast matches too, unless the images clearly correlate already.
    """
    if settings.similarity in ("auto", "lncc"):
        return make_similarity("ncc", squared=contrast_correlation(level, begin) < SAME_CONTRAST)
    return load_similarity(settings.similarity)


def deformable_similarity(settings: RegistrationSettings, ndim: int) -> Similarity:
    """Return the similarity of the deformable stages."""
    if settings.similarity in ("auto", "lncc"):
        local = make_similarity("lncc", radius=window_radius(settings, ndim))
        weight = global_correlation_weight(ndim)
        return WeightedSum([(local, 1.0), (make_similarity("ncc", squared=True), weight)]) if weight else local
    if settings.similarity == "mi":
        return make_similarity("mi", bins=MI_BINS)
    return load_similarity(settings.similarity)


def stiffened(settings: RegistrationSettings) -> RegistrationSettings:
    """The settings with the smoothness that a dense field needs under the chosen similarity."""
    if settings.similarity != "mi":
        return settings
    return settings.model_copy(update={"smoothness": MI_STIFFNESS * settings.smoothness})


def run_linear(
    problem: Problem,
    settings: RegistrationSettings,
    preset: Preset,
    position: int,
    found: StageResult,
    *,
    levels: int | None = None,
) -> Generator[IterationState]:
    """Fit one linear family on top of the affine found so far, on the first ``levels`` levels if given.

    A fit that collapses is rejected with a warning.
    """
    stage = settings.stages[position]
    grid = problem.pyramid.fixed_grid
    family = make_family(stage)
    begin = found.affine
    state = ParametricState(family.identity(grid, device=problem.pyramid.device))
    shrinks = stage_shrinks(problem, settings, preset, position)[:levels]
    penalty = _linear_penalty(stage, _landmark_penalty(problem, settings, begin))

    def matrix(theta: Tensor) -> FloatArray:
        transform = family(theta.detach().double().cpu(), grid)
        local = transform.as_matrix()
        assert local is not None
        return begin @ local

    def snapshot(theta: Tensor) -> Transform:
        return AffineTransform(matrix(theta), problem.unit)

    sound = state.theta
    for i, shrink in enumerate(shrinks):
        level = problem.pyramid.level(shrink)
        steps = level_steps(settings, preset, position, i, shrinks)
        options = AdamOptions(0.02 * 0.5**i, 0.02 * 0.5**i / 16)
        state.best_loss = float("inf")
        similarity = linear_similarity(settings, level, begin)
        fit = fit_parametric(level, family, state, grid, begin, similarity, steps, options, penalty=penalty)
        try:
            for loss, theta in fit:
                yield IterationState(stage, i, len(shrinks), loss, partial(snapshot, theta))
        finally:
            fitted = matrix(state.theta)
            if _is_sound(level, begin, fitted):
                found.affine = fitted
            else:
                state.theta = sound
                problem.warnings.append(
                    f"The {stage} fit collapsed or lost the overlap of the images. Its last sound state was kept."
                )
        sound = state.theta
        if found.affine is not fitted:
            break


def run_bending(
    problem: Problem, settings: RegistrationSettings, preset: Preset, position: int, found: StageResult
) -> Generator[IterationState]:
    """Fit a B-spline or thin-plate family; it is applied before the affine found so far.

    Thin plates are one transform, refined from level to level. B-splines are composed: each level adds one with a
    finer control grid to what the coarser ones found. Each bends by less than 0.4 of its own control spacing, which
    cannot fold (Choi & Lee 2000), yet together they reach far (Rueckert et al. 2006).
    """
    stage = settings.stages[position]
    grid = problem.pyramid.fixed_grid
    shrinks = stage_shrinks(problem, settings, preset, position)
    composed = family_class(stage).composes_levels
    seen, affine = problem, found.affine
    outer: Transform = AffineTransform(found.affine.copy(), problem.unit)
    state: ParametricState | None = None
    coarser: Transform | None = None

    for i, shrink in enumerate(shrinks):
        if composed and i > 0:
            coarser, outer = found.deformation, found.transform(problem.unit)
            seen, affine = problem.through(outer), np.eye(grid.ndim + 1)
        if composed or state is None:
            family = make_family(stage, **_control_options(settings, grid, stage, shrink / shrinks[-1]))
            state = ParametricState(family.identity(grid, device=problem.pyramid.device))
        level = seen.pyramid.level(shrink)
        steps = preset.steps("bending", len(shrinks) - 1 - i)
        step_size = 0.25 * shrink
        state.best_loss = float("inf")
        penalty = _bending_penalty(seen, settings, level, affine)
        similarity = deformable_similarity(settings, grid.ndim)
        options = AdamOptions(step_size, step_size / 8)
        fit = fit_parametric(level, family, state, grid, affine, similarity, steps, options, penalty=penalty)
        snapshot = partial(_bent, family, grid, outer)
        try:
            for loss, theta in fit:
                yield IterationState(stage, i, len(shrinks), loss, partial(snapshot, theta))
        finally:
            finer = family(state.theta, grid)
            found.deformation = finer if coarser is None else chain(finer, coarser)


def _bent(family: TransformFamily, grid: Grid, outer: Transform, theta: Tensor) -> Transform:
    return chain(family(theta, grid), outer)


def _control_options(settings: RegistrationSettings, grid: Grid, stage: str, coarser: float = 1.0) -> dict[str, Any]:
    """Return the options of a family; ``coarser`` widens the spacing of B-spline control points."""
    longest = float(grid.extent.max() / grid.spacing.min())
    spacing = settings.control_spacing or max(longest / 24, 4.0)
    if family_class(stage).composes_levels:
        return {"spacing": coarser * spacing, "finest": grid, "limit": 0.4}
    sizes = grid.extent / grid.spacing.min()
    most = 9 if grid.ndim == 2 else 6
    spacing = settings.control_spacing or float(sizes.max()) / (most - 1)
    return {"points": [int(np.clip(round(n / spacing) + 1, 2, 2 * most)) for n in sizes]}


def run_dense(
    problem: Problem, settings: RegistrationSettings, preset: Preset, position: int, found: StageResult
) -> Generator[IterationState]:
    """Fit a displacement or velocity field; it is applied before what was found so far."""
    stage = settings.stages[position]
    grid = problem.pyramid.fixed_grid
    shrinks = stage_shrinks(problem, settings, preset, position)
    state: DenseState | None = None
    affine = AffineTransform(found.affine.copy(), problem.unit)
    stiff = stiffened(settings)

    def snapshot(displacement: Tensor, grid: Grid) -> Transform:
        return chain(DisplacementTransform(apply_matrix(grid.linear, displacement), grid), affine)

    for i, shrink in enumerate(shrinks):
        level = problem.pyramid.level(shrink)
        shape = tuple(level.fixed.shape[2:])
        if state is None:
            state = DenseState.identity(shape, problem.pyramid.device, velocity=stage == "velocity")
        else:
            state = state.resized(shape)
        steps = preset.steps("dense", len(shrinks) - 1 - i)
        options = dense_options(stiff, grid.ndim, len(shrinks) - 1 - i)
        similarity = deformable_similarity(settings, grid.ndim)
        penalty, landmark_force = _dense_terms(problem, settings, level, found.affine)
        best = DenseState(state.displacement, state.velocity)
        try:
            for loss, now in fit_dense(
                level, found.affine, similarity, state, steps, options, penalty=penalty, landmark_force=landmark_force
            ):
                # the fit makes new tensors each step, so these stay as they are
                if loss < best.best_loss:
                    best = DenseState(now.displacement, now.velocity, loss)
                yield IterationState(
                    stage, i, len(shrinks), loss, partial(snapshot, now.displacement, level.fixed_grid)
                )
        finally:
            state = best
            try:
                state = best.unfolded()
            except StopRequested:
                state = best.unfolded()  # a stop is passed on once; a cancellation is raised again
                raise
            finally:
                kept = best if stage == "displacement" else state
                found.deformation = _dense_transform(stage, kept, level.fixed_grid)


def _dense_transform(stage: str, state: DenseState, grid: Grid) -> Transform:
    if state.velocity is not None:
        return VelocityTransform(apply_matrix(grid.linear, state.velocity), grid)
    made = DiffeomorphicTransform if stage == "diffeomorphic" else DisplacementTransform
    return made(apply_matrix(grid.linear, state.displacement), grid)


def _landmark_distance(problem: Problem) -> LandmarkDistance | None:
    if problem.fixed_landmarks is None or problem.moving_landmarks is None:
        return None
    device = problem.pyramid.device
    fixed = torch.as_tensor(problem.fixed_landmarks, dtype=torch.float32, device=device)
    moving = torch.as_tensor(problem.moving_landmarks, dtype=torch.float32, device=device)
    # hand-placed points are good to about a hundredth of the image
    return LandmarkDistance(fixed, moving, 0.02 * radius(problem.pyramid.fixed_grid))


@dataclass(frozen=True)
class LinearPrior:
    """What a linear fit is expected to do after the start. Set by hand.

    Parameters
    ----------
    weight
        Weight of the sum of squares of what the scales' logarithms exceed :attr:`free` by; a shear is two scales.
    free
        Logarithm of a scale that costs nothing, so that plausible fits are not biased.
    largest_scale
        A fit that scales an axis by more than this, or by less than one over it, has collapsed.
    least_overlap
        Share of the start's overlap that a fit must keep.
    """

    weight: float = 0.2
    free: float = 0.3
    largest_scale: float = 4.0
    least_overlap: float = 0.5


LINEAR_PRIOR = LinearPrior()


def _is_sound(level: Level, begin: FloatArray, fitted: FloatArray) -> bool:
    """Return whether a linear fit has neither collapsed nor lost its initial overlap."""
    if not np.isfinite(fitted).all():
        return False
    scales = np.linalg.svd(np.linalg.solve(begin[:-1, :-1], fitted[:-1, :-1]), compute_uv=False)
    if scales.max() > LINEAR_PRIOR.largest_scale or scales.min() < 1 / LINEAR_PRIOR.largest_scale:
        return False
    before, after = _overlap(level, begin), _overlap(level, fitted)
    return after >= LINEAR_PRIOR.least_overlap * before


def _overlap(level: Level, affine: FloatArray) -> float:
    return float(level.warp_moving(affine)[1].mean())


def _linear_penalty(stage: str, other: Penalty | None) -> Penalty | None:
    """Add the prior on scale and shear of a similarity or affine fit to another penalty."""
    if stage in ("translation", "rigid"):
        return other

    def penalty(transform: Transform, displacement: Tensor | None) -> Tensor:
        assert isinstance(transform, AffineTransform)
        assert transform.matrix is not None
        linear = transform.matrix[..., :-1, :-1]
        scales = torch.linalg.eigvalsh(linear.mT @ linear).clamp_min(1e-8).log() / 2
        cost = LINEAR_PRIOR.weight * (scales.abs() - LINEAR_PRIOR.free).clamp_min(0).square().sum()
        total: Tensor = cost if other is None else cost + other(transform, displacement)
        return total

    return penalty


def _landmark_penalty(problem: Problem, settings: RegistrationSettings, after: FloatArray) -> Penalty | None:
    distance = _landmark_distance(problem)
    if distance is None or settings.landmark_weight == 0:
        return None
    matrix = torch.as_tensor(after, dtype=torch.float32, device=problem.pyramid.device)

    def penalty(transform: Transform, displacement: Tensor | None) -> Tensor:
        mapped = transform(distance.fixed_points[None])[0]
        return 0.05 * settings.landmark_weight * distance(mapped @ matrix[:-1, :-1].T + matrix[:-1, -1])

    return penalty


def _regularity(settings: RegistrationSettings, grid: Grid, displacement: Tensor, base: float) -> Tensor:
    """Weighted regularizers of a displacement in world units along the grid's axes."""
    spacing = tuple(float(s) for s in grid.spacing)
    total = displacement.new_zeros(())
    if base + settings.diffusion > 0:
        total = total + (base + settings.diffusion) * diffusion(displacement, spacing)
    if settings.bending > 0:
        # bending energy is 1 / length^2; the domain's radius makes the weight a pure number
        total = total + settings.bending * radius(grid) ** 2 * bending_energy(displacement, spacing)
    if settings.folding > 0:
        total = total + settings.folding * folding_penalty(displacement, spacing)
    return total


def _bending_penalty(problem: Problem, settings: RegistrationSettings, level: Level, after: FloatArray) -> Penalty:
    landmarks = _landmark_penalty(problem, settings, after)
    turn = np.asarray(np.linalg.inv(level.fixed_grid.linear / level.fixed_grid.spacing), dtype=np.float64)

    def penalty(transform: Transform, displacement: Tensor | None) -> Tensor:
        assert displacement is not None
        total = _regularity(settings, level.fixed_grid, apply_matrix(turn, displacement), 0.02 * settings.smoothness)
        return total if landmarks is None else total + landmarks(transform, displacement)

    return penalty


def _dense_terms(
    problem: Problem, settings: RegistrationSettings, level: Level, after: FloatArray
) -> tuple[Callable[[Tensor], Tensor] | None, Callable[[Tensor], Tensor] | None]:
    """Regularity and landmarks as functions of a dense displacement in voxels; ``None`` where there are none."""
    grid = level.fixed_grid
    spacing = torch.as_tensor(grid.spacing.copy(), dtype=torch.float32, device=problem.pyramid.device)
    landmarks = _landmark_penalty(problem, settings, after)

    def regularity(displacement: Tensor) -> Tensor:
        return _regularity(settings, grid, displacement * spacing.reshape(1, -1, *[1] * grid.ndim), 0.0)

    def landmark_force(displacement: Tensor) -> Tensor:
        assert landmarks is not None
        return landmarks(DisplacementTransform(apply_matrix(grid.linear, displacement), grid), None)

    plain = settings.diffusion == settings.bending == settings.folding == 0
    return None if plain else regularity, None if landmarks is None else landmark_force
