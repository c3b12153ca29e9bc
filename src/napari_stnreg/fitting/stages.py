"""The stages of a registration: start, linear, bending, dense; each a generator that leaves an affine or a deformation.

Everything here lives in the centred frame of :class:`~napari_stnreg.fitting.problem.Problem`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from napari_stnreg.fitting.dense_fit import DenseState, fit_dense
from napari_stnreg.fitting.parametric_fit import AdamOptions, ParametricState, Penalty, fit_parametric
from napari_stnreg.fitting.problem import Problem
from napari_stnreg.fitting.pyramid import Level, shrink_factors
from napari_stnreg.fitting.schedule import Schedule, dense_options, window_radius
from napari_stnreg.fitting.start import best_of, search_candidates, simple_candidates
from napari_stnreg.images import FloatArray, Grid
from napari_stnreg.objectives import (
    LandmarkDistance,
    Similarity,
    bending_energy,
    diffusion,
    folding_penalty,
    make_similarity,
)
from napari_stnreg.settings import LINEAR_FAMILIES, RegistrationSettings
from napari_stnreg.transforms import AffineTransform, Transform, chain, from_landmarks, make_family
from napari_stnreg.transforms.dense import DisplacementTransform, VelocityTransform, apply_matrix
from napari_stnreg.transforms.linear_families import radius

GOOD_START = 0.25
"""A start with a lower loss (1 - NCC) than this needs no search over rotations."""


@dataclass(frozen=True)
class Step:
    """One step of a stage, before it becomes a :class:`~napari_stnreg.fitting.progress.Progress`."""

    stage: str
    level: int
    levels: int
    loss: float
    snapshot: Callable[[], Transform]


@dataclass
class Found:
    """The transform so far: a deformation (if a stage has fitted one), then an affine."""

    affine: FloatArray
    deformation: Transform | None = None

    def transform(self, unit: str) -> Transform:
        """As one transform of the centred world."""
        affine = AffineTransform(self.affine.copy(), unit)
        return affine if self.deformation is None else chain(self.deformation, affine)


def planned_steps(problem: Problem, settings: RegistrationSettings, schedule: Schedule) -> int:
    """About how many steps all stages will take, for a progress bar."""
    total = 0
    for position in range(len(settings.stages)):
        levels = stage_shrinks(problem, settings, schedule, position)
        total += sum(level_steps(settings, schedule, position, i, levels) for i in range(len(levels)))
    return total


def level_steps(
    settings: RegistrationSettings, schedule: Schedule, position: int, level: int, levels: list[float]
) -> int:
    """Steps that one level of a stage may take."""
    return schedule.steps(_kind(settings.stages[position]), len(levels) - 1 - level)


def _kind(stage: str) -> str:
    if stage in LINEAR_FAMILIES:
        return "linear"
    return "bending" if stage in ("bspline", "tps") else "dense"


def stage_shrinks(problem: Problem, settings: RegistrationSettings, schedule: Schedule, position: int) -> list[float]:
    """Shrink factors of a stage's levels, coarse to fine."""
    grid = problem.pyramid.fixed_grid
    finest = max(problem.finest, schedule.finest)
    shrinks = shrink_factors(grid, settings.levels, finest)
    if settings.stages[position] in LINEAR_FAMILIES and position + 1 < len(settings.stages):
        for i, shrink in enumerate(shrinks):
            if np.prod(problem.pyramid.fixed_shape(shrink)) >= schedule.linear_voxels:
                return shrinks[: i + 1]
    return shrinks


def linear_similarity(settings: RegistrationSettings) -> Similarity:
    """What steers the start and the linear stages: the chosen similarity, with local NCC as global NCC."""
    return make_similarity("ncc" if settings.similarity == "lncc" else settings.similarity)


def dense_similarity(settings: RegistrationSettings, ndim: int) -> Similarity:
    """What steers the deformable stages."""
    if settings.similarity == "lncc":
        return make_similarity("lncc", radius=window_radius(settings, ndim))
    return make_similarity(settings.similarity)


def find_start(problem: Problem, settings: RegistrationSettings, begin: FloatArray | None) -> FloatArray:
    """The affine ``(D + 1, D + 1)`` from which the first stage starts.

    Landmarks decide if there are any; then a given transform; then what ``settings.start`` names.
    """
    ndim = problem.pyramid.fixed_grid.ndim
    first = settings.stages[0]
    family = first if first in LINEAR_FAMILIES else None
    if problem.fixed_landmarks is not None and problem.moving_landmarks is not None:
        return _landmark_start(problem.fixed_landmarks, problem.moving_landmarks, family or "affine", settings.mirror)
    if begin is not None:
        return begin
    if settings.start == "none" or (family is None and settings.start == "auto"):
        return np.eye(ndim + 1)
    coarse = problem.pyramid.level(shrink_factors(problem.pyramid.fixed_grid, None)[0])
    similarity = linear_similarity(settings)
    kinds = ("none", "center", "moments", "phase") if settings.start == "auto" else (settings.start,)
    candidates = simple_candidates(coarse, kinds if settings.start != "search" else ("none", "center", "moments"))
    chosen = best_of(coarse, similarity, candidates, keep=2)
    tries = [_brief_fit(problem, coarse, similarity, family, matrix) for _, matrix in chosen]
    refined = min(tries, key=lambda pair: pair[0]) if tries else None
    may_turn = family != "translation" and settings.start in ("auto", "search")
    if may_turn and (settings.start == "search" or settings.mirror or refined is None or refined[0] > GOOD_START):
        wide = search_candidates(coarse, mirror=settings.mirror, scales=family in (None, "similarity", "affine"))
        best = best_of(coarse, similarity, wide, keep=5)
        turned = [_brief_fit(problem, coarse, similarity, family, matrix) for _, matrix in best]
        if turned:
            found = min(turned, key=lambda pair: pair[0])
            # a turned start must be clearly better: most images are not turned
            if refined is None or found[0] < refined[0] - 0.02 * max(abs(refined[0]), 0.1):
                refined = found
    return np.eye(ndim + 1) if refined is None else refined[1]


def _landmark_start(fixed: FloatArray, moving: FloatArray, family: str, mirror: bool) -> FloatArray:
    # the richest family that so few points can fix, up to the one that will be fitted
    order = ("translation", "rigid", "similarity", "affine")
    least = (1, fixed.shape[1], fixed.shape[1], fixed.shape[1] + 2)
    allowed = [n for n, k in zip(order, least, strict=True) if len(fixed) >= k and order.index(n) <= order.index(family)]
    transform = from_landmarks(fixed, moving, allowed[-1], mirror=mirror and allowed[-1] != "translation")
    assert isinstance(transform, AffineTransform)
    return transform.numpy()


def _brief_fit(
    problem: Problem, level: Level, similarity: Similarity, family: str | None, begin: FloatArray
) -> tuple[float, FloatArray]:
    """A few steps from a candidate, to see what it leads to."""
    grid = problem.pyramid.fixed_grid
    maker = make_family("rigid" if family is None or family == "affine" else family)
    state = ParametricState(maker.identity(grid, device=problem.pyramid.device))
    for _ in fit_parametric(level, maker, state, grid, begin, similarity, 20, AdamOptions(0.03, 0.005)):
        pass
    matrix = maker(state.theta.double(), grid)
    assert isinstance(matrix, AffineTransform)
    return state.best_loss, begin @ matrix.numpy()


def run_linear(
    problem: Problem, settings: RegistrationSettings, schedule: Schedule, position: int, found: Found
) -> Iterator[Step]:
    """Fit one linear family on top of the affine found so far."""
    stage = settings.stages[position]
    grid = problem.pyramid.fixed_grid
    family = make_family(stage)
    begin = found.affine
    state = ParametricState(family.identity(grid, device=problem.pyramid.device))
    shrinks = stage_shrinks(problem, settings, schedule, position)
    penalty = _landmark_penalty(problem, settings, begin)

    def matrix(theta: Tensor) -> FloatArray:
        transform = family(theta.detach().double().cpu(), grid)
        assert isinstance(transform, AffineTransform)
        return begin @ transform.numpy()

    for i, shrink in enumerate(shrinks):
        level = problem.pyramid.level(shrink)
        steps = schedule.steps("linear", len(shrinks) - 1 - i)
        options = AdamOptions(0.02 * 0.5**i, 0.02 * 0.5**i / 8)
        state.best_loss = float("inf")
        similarity = linear_similarity(settings)
        for loss, now in fit_parametric(
            level, family, state, grid, begin, similarity, steps, options, penalty=penalty
        ):
            found.affine = matrix(state.theta)
            theta = now.theta
            yield Step(
                stage, i, len(shrinks), loss, lambda theta=theta: AffineTransform(matrix(theta), problem.unit)
            )
        found.affine = matrix(state.theta)


def run_bending(
    problem: Problem, settings: RegistrationSettings, schedule: Schedule, position: int, found: Found
) -> Iterator[Step]:
    """Fit a B-spline or thin-plate family; it is applied before the affine found so far."""
    stage = settings.stages[position]
    grid = problem.pyramid.fixed_grid
    family = make_family(stage, **_control_options(settings, grid, stage))
    state = ParametricState(family.identity(grid, device=problem.pyramid.device))
    shrinks = stage_shrinks(problem, settings, schedule, position)
    affine = AffineTransform(found.affine.copy(), problem.unit)
    for i, shrink in enumerate(shrinks):
        level = problem.pyramid.level(shrink)
        steps = schedule.steps("bending", len(shrinks) - 1 - i)
        pace = 0.25 * shrink
        state.best_loss = float("inf")
        penalty = _bending_penalty(problem, settings, level, found.affine)
        similarity = dense_similarity(settings, grid.ndim)
        for loss, now in fit_parametric(
            level, family, state, grid, found.affine, similarity, steps, AdamOptions(pace, pace / 8), penalty=penalty
        ):
            theta = now.theta
            yield Step(stage, i, len(shrinks), loss, lambda theta=theta: chain(family(theta, grid), affine))
    found.deformation = family(state.theta, grid)


def _control_options(settings: RegistrationSettings, grid: Grid, stage: str) -> dict[str, object]:
    longest = float((np.asarray(grid.shape) * grid.spacing).max() / grid.spacing.min())
    spacing = settings.control_spacing or max(longest / 24, 4.0)
    if stage == "bspline":
        return {"spacing": spacing, "finest": grid, "limit": 0.4}
    sizes = np.asarray(grid.shape) * grid.spacing / grid.spacing.min()
    most = 9 if grid.ndim == 2 else 6
    spacing = settings.control_spacing or float(sizes.max()) / (most - 1)
    return {"points": [int(np.clip(round(n / spacing) + 1, 2, 2 * most)) for n in sizes]}


def run_dense(
    problem: Problem, settings: RegistrationSettings, schedule: Schedule, position: int, found: Found
) -> Iterator[Step]:
    """Fit a displacement or velocity field; it is applied before what was found so far."""
    stage = settings.stages[position]
    grid = problem.pyramid.fixed_grid
    shrinks = stage_shrinks(problem, settings, schedule, position)
    state: DenseState | None = None
    affine = AffineTransform(found.affine.copy(), problem.unit)
    options = dense_options(settings, grid.ndim)
    for i, shrink in enumerate(shrinks):
        level = problem.pyramid.level(shrink)
        shape = tuple(level.fixed.shape[2:])
        if state is None:
            state = DenseState.identity(shape, problem.pyramid.device, diffeomorphic=stage == "diffeomorphic")
        else:
            state = state.resized(shape)
        steps = schedule.steps("dense", len(shrinks) - 1 - i)
        similarity = dense_similarity(settings, grid.ndim)
        penalty, pull = _dense_terms(problem, settings, level, found.affine)
        for loss, now in fit_dense(
            level, found.affine, similarity, state, steps, options, penalty=penalty, pull=pull
        ):
            field_now = now.displacement
            yield Step(
                stage,
                i,
                len(shrinks),
                loss,
                lambda u=field_now, g=level.fixed_grid: chain(DisplacementTransform(apply_matrix(g.linear, u), g), affine),
            )
        last = level.fixed_grid
    assert state is not None
    if state.velocity is not None:
        found.deformation = VelocityTransform(apply_matrix(last.linear, state.velocity), last)
    else:
        found.deformation = DisplacementTransform(apply_matrix(last.linear, state.displacement), last)


def _landmark_distance(problem: Problem) -> LandmarkDistance | None:
    if problem.fixed_landmarks is None or problem.moving_landmarks is None:
        return None
    device = problem.pyramid.device
    fixed = torch.as_tensor(problem.fixed_landmarks, dtype=torch.float32, device=device)
    moving = torch.as_tensor(problem.moving_landmarks, dtype=torch.float32, device=device)
    # hand-placed points are good to about a hundredth of the image
    return LandmarkDistance(fixed, moving, 0.02 * radius(problem.pyramid.fixed_grid))


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
    """Weighted regularisers of a displacement in world units along the grid's axes."""
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
    turn = np.linalg.inv(level.fixed_grid.linear / level.fixed_grid.spacing)

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

    def pull(displacement: Tensor) -> Tensor:
        assert landmarks is not None
        return landmarks(DisplacementTransform(apply_matrix(grid.linear, displacement), grid), None)

    plain = settings.diffusion == settings.bending == settings.folding == 0
    return None if plain else regularity, None if landmarks is None else pull
