"""Where a registration begins: landmarks, centers, centers of brightness, correlation, or a search over rotations.

All of it happens on a small level of its own and yields affine matrices of the centered world, fixed to moving.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.evaluation.chance import compare_with_chance
from napari_stnreg.losses import Similarity, make_similarity
from napari_stnreg.ops.lattice import lattice_points
from napari_stnreg.registration.optimizers.parametric import Adam
from napari_stnreg.registration.preprocessing import Problem
from napari_stnreg.registration.pyramid import Level, Pyramid
from napari_stnreg.registration.settings import RegistrationSettings, fit_method
from napari_stnreg.registration.similarity_choice import SAME_CONTRAST, contrast_correlation
from napari_stnreg.registration.translation_search import best_translations, phase_shift
from napari_stnreg.transforms import from_landmarks, make_family


@dataclass(frozen=True)
class InitializationParameters:
    """Parameters of the start search. Set by hand; no tuning is recorded.

    Parameters
    ----------
    start_size
        Voxels along the longest side of the level on which candidates are compared, by number of dimensions.
    search_size
        The same for the level on which rotations are searched and candidates are refined.
    min_overlap
        Fraction of the smaller image that a candidate must place on the other image.
    min_overlap_rotated
        The same for a candidate that rotates, scales or mirrors: at small overlap some rotation always fits by chance.
    scales
        Scales that the search tries.
    rotation_margin
        Fraction by which a rotated candidate must be better than an unrotated one, since most images are not rotated.
    chance_margin
        Standard deviations above chance by which a rotated candidate must beat an unrotated one.
    good_loss
        A loss of NCC below this ends the search.
    refinement_steps
        Gradient steps for each refined candidate.
    n_candidates
        Rotated candidates that are refined, by setting.
    """

    start_size: Mapping[int, int] = field(default_factory=lambda: {2: 40, 3: 24})
    search_size: Mapping[int, int] = field(default_factory=lambda: {2: 24, 3: 14})
    min_overlap: float = 0.25
    min_overlap_rotated: float = 0.4
    scales: tuple[float, ...] = (1.0, 1.25, 0.8, 1.5, 1 / 1.5)
    rotation_margin: float = 0.05
    chance_margin: float = 0.5
    good_loss: float = 0.03
    refinement_steps: int = 20
    n_candidates: Mapping[str, int] = field(default_factory=lambda: {"auto": 3, "search": 8})


PARAMETERS = InitializationParameters()

Candidate = tuple[float, FloatArray]
"""A loss and the affine it belongs to."""


def start_level(pyramid: Pyramid) -> Level:
    """The small level on which the start is looked for."""
    fixed, moving = pyramid.fixed_grid, pyramid.moving_grid
    longest = max(
        float((np.asarray(fixed.shape) * fixed.spacing).max()),
        float((np.asarray(moving.shape) * moving.spacing).max()) / 1.5,
    )
    return pyramid.level(max(longest / fixed.spacing.min() / PARAMETERS.start_size[fixed.ndim], 1.0))


def start_similarity(settings: RegistrationSettings) -> Similarity:
    """What compares candidates: correlation where brightness means the same, else what was chosen."""
    if settings.similarity == "mi":
        return make_similarity("mi", bins=16)  # few voxels cannot fill more
    if settings.similarity == "mind":
        return make_similarity("mind")
    # inverted contrast is a match as good, unless a similarity was chosen that knows a sign
    return make_similarity("ncc", squared=settings.similarity not in ("ncc", "mse"))


def find_start(
    problem: Problem, settings: RegistrationSettings, begin: FloatArray | None
) -> Generator[Candidate, None, FloatArray]:
    """The affine ``(D + 1, D + 1)`` from which the first stage starts.

    A given transform decides if there is one; then landmarks; then what ``settings.start`` names.

    Yields
    ------
    float, array
        The best loss so far and its affine, whenever a piece of work is done.
    """
    grid = problem.pyramid.fixed_grid
    nothing = np.eye(grid.ndim + 1)
    first = settings.stages[0]
    family = first if fit_method(first) == "linear" else None
    if begin is not None:
        return begin
    if problem.fixed_landmarks is not None and problem.moving_landmarks is not None:
        return landmark_start(problem.fixed_landmarks, problem.moving_landmarks, family or "affine", settings.mirror)
    if settings.start == "none":
        return nothing
    level = start_level(problem.pyramid)
    similarity = start_similarity(settings)
    similarity.prepare(level.fixed, level.fixed_weight)
    if settings.start in ("center", "moments"):
        return simple_candidates(level, (settings.start,))[0]
    if family is None and settings.start == "auto":
        # a deformation alone was asked for: nothing is moved that already lies on the other image
        here = math.isfinite(score(level, similarity, nothing))
        return nothing if here else simple_candidates(level, ("center",))[0]
    if settings.start == "phase":
        found = best_candidates(level, similarity, simple_candidates(level, ("phase",)))
        return found[0][1] if found else nothing

    plain = best_candidates(level, similarity, simple_candidates(level, ("none", "center", "moments", "phase")), keep=2)
    best = plain[0] if plain else (math.inf, simple_candidates(level, ("center",))[0])
    signed = settings.similarity in ("auto", "lncc") and contrast_correlation(level, best[1]) >= SAME_CONTRAST
    if signed:  # the contrast is known now, and what is inverted is no match
        settings = settings.model_copy(update={"similarity": "ncc"})
        similarity = start_similarity(settings)
        similarity.prepare(level.fixed, level.fixed_weight)
        plain = [(score(level, similarity, m), m) for _, m in plain]
        best = min(plain, key=lambda pair: pair[0])
    yield best
    small = level.shrunk(PARAMETERS.start_size[grid.ndim] / PARAMETERS.search_size[grid.ndim])

    def improved(candidates: list[FloatArray], least: float) -> Candidate:
        refined = refine(small, start_similarity(settings), family, candidates)
        tried = [(score(level, similarity, m, least), m) for m in refined]
        return min(tried, key=lambda pair: pair[0], default=(math.inf, nothing))

    best = min(best, improved([m for _, m in plain], PARAMETERS.min_overlap), key=lambda pair: pair[0])
    yield best
    enough = (
        settings.start == "auto" and not settings.mirror and similarity.name == "ncc" and best[0] < PARAMETERS.good_loss
    )
    if family == "translation" or enough:
        return best[1]
    wide: list[Candidate] = []
    for some in _chunks(candidate_rotations(grid.ndim, family, settings), 24):
        wide += best_translations(small, some, by_edges=settings.similarity not in ("ncc", "mse"))
        yield best
    wide.sort(key=lambda pair: -pair[0])
    turned = improved(
        _are_distinct([m for _, m in wide], PARAMETERS.n_candidates[settings.start], level),
        PARAMETERS.min_overlap_rotated,
    )
    if settings.start == "search":
        return turned[1] if turned[0] < best[0] else best[1]
    worth = PARAMETERS.rotation_margin * max(abs(best[0]), 0.1)
    if not turned[0] < best[0] - worth:
        return best[1]
    gained = above_chance(level, turned[1]) - above_chance(level, best[1])
    return turned[1] if gained > PARAMETERS.chance_margin else best[1]


def above_chance(level: Level, affine: FloatArray) -> float:
    """Return the standard deviations by which an affine aligns better than chance, under any optimized similarity."""
    return compare_with_chance(level.fixed, *level.warp_moving(affine), mirror=False).z


def _chunks(items: list[FloatArray], size: int) -> Iterable[list[FloatArray]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def landmark_start(fixed: FloatArray, moving: FloatArray, family: str, mirror: bool) -> FloatArray:
    """The affine that takes landmarks onto each other: of the richest family that so few can fix."""
    order = ("translation", "rigid", "similarity", "affine")
    ndim = fixed.shape[1]
    least = (1, ndim, ndim, ndim + 2)
    allowed = [n for n, k in zip(order, least, strict=True) if len(fixed) >= k][: order.index(family) + 1]
    for name in reversed(allowed):
        try:
            transform = from_landmarks(fixed, moving, name, mirror=mirror and name != "translation")
        except InputError:
            if name == allowed[0]:
                raise
            continue  # points on one line or plane fix a simpler family
        matrix = transform.as_matrix()
        assert matrix is not None
        return matrix
    return np.eye(ndim + 1)


def translated(matrix: FloatArray, fixed_point: FloatArray, moving_point: FloatArray) -> FloatArray:
    """The affine with a linear part that takes one point onto another, ``(D + 1, D + 1)``."""
    ndim = len(fixed_point)
    out = np.eye(ndim + 1)
    out[:-1, :-1] = matrix
    out[:-1, -1] = moving_point - matrix @ fixed_point
    return out


def intensity_centroid(image: Tensor, weight: Tensor | None, grid: Grid) -> FloatArray:
    """World position of the center of what differs from the border's brightness, ``(D,)``."""
    values = image[0, 0].double().cpu().numpy()
    inside = np.ones(values.shape) if weight is None else weight[0, 0].double().cpu().numpy()
    faces = [np.take(values, (0, -1), axis=a)[np.take(inside, (0, -1), axis=a) > 0.5] for a in range(values.ndim)]
    border = np.concatenate(faces)
    # a mask that leaves no border tells where the object is by itself
    mass = inside * (np.abs(values - np.median(border)) if len(border) else 1.0)
    total = mass.sum()
    if total <= 0:
        return grid.center
    others = [tuple(b for b in range(mass.ndim) if b != a) for a in range(mass.ndim)]
    index = [float((mass.sum(axis=o) * np.arange(n)).sum() / total) for o, n in zip(others, mass.shape, strict=True)]
    return grid.to_world(np.array(index))


def simple_candidates(level: Level, kinds: Iterable[str]) -> list[FloatArray]:
    """Candidates without rotation: ``none``, ``center``, ``moments`` and ``phase`` (from each of the others)."""
    ndim = level.fixed_grid.ndim
    eye = np.eye(ndim)
    wanted = set(kinds)
    found = []
    if "none" in wanted:
        found.append(np.eye(ndim + 1))
    if "center" in wanted:
        found.append(translated(eye, level.fixed_grid.center, level.moving_grid.center))
    if "moments" in wanted:
        fixed = intensity_centroid(level.fixed, level.fixed_weight, level.fixed_grid)
        moving = intensity_centroid(level.moving, level.moving_weight, level.moving_grid)
        found.append(translated(eye, fixed, moving))
    if "phase" in wanted:
        begin = found or [np.eye(ndim + 1), translated(eye, level.fixed_grid.center, level.moving_grid.center)]
        found += [phase_shift(level, m) for m in _are_distinct(begin, len(begin), level)]
    return found


def candidate_rotations(ndim: int, family: str | None, settings: RegistrationSettings) -> list[FloatArray]:
    """Linear maps to try: rotations all around, with scales if the family has them, with mirror images on request.

    In 2D a turn every 15 degrees. In 3D the 24 right-angled ones, and more between them for ``start="search"``.
    """
    wide = settings.start == "search"
    around = _candidate_rotations_2d() if ndim == 2 else _candidate_rotations_3d(96 if wide else 24)
    found = list(around)
    if family != "rigid":
        # in 3D every turn at every size takes seconds; it is done on request
        sized = around if wide or ndim == 2 else around[:1]
        found += [r * s for s in PARAMETERS.scales[1:] for r in sized]
    if settings.mirror:
        flip = np.diag([-1.0] + [1.0] * (ndim - 1))
        found += [r @ flip for r in found]
    return found


@lru_cache(maxsize=1)
def _candidate_rotations_2d() -> tuple[FloatArray, ...]:
    angles = [math.radians(15 * k) for k in range(24)]
    return tuple(np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]) for a in angles)


@lru_cache(maxsize=2)
def _candidate_rotations_3d(count: int) -> tuple[FloatArray, ...]:
    """The 24 rotations of a cube, the identity first, then those farthest from all before."""
    chosen = []
    for q in itertools.product((-1, 0, 1), repeat=4):
        norm = math.sqrt(sum(c * c for c in q))
        if norm in (1.0, math.sqrt(2), 2.0) and next(c for c in q if c) > 0:
            chosen.append(np.array(q) / norm)
    chosen.sort(key=lambda q: -abs(q[0]))
    if count > len(chosen):
        many = np.random.default_rng(0).normal(size=(4000, 4))
        many /= np.linalg.norm(many, axis=1, keepdims=True)
        near = np.abs(many @ np.array(chosen).T).max(axis=1)
        while len(chosen) < count:
            chosen.append(many[near.argmin()])
            near = np.maximum(near, np.abs(many @ chosen[-1]))
    return tuple(_quaternion_matrix(q) for q in chosen)


def _quaternion_matrix(q: FloatArray) -> FloatArray:
    w, x, y, z = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def score(level: Level, similarity: Similarity, affine: FloatArray, least: float = PARAMETERS.min_overlap) -> float:
    """The loss of an affine map at this level; infinite where the images hardly overlap."""
    to_normalized = level.normalizing_matrix(affine @ level.fixed_grid.matrix)
    coordinates = lattice_points(to_normalized[None], level.fixed_grid.shape)
    warped, weight = level.sample_moving(coordinates, masked=True)
    assert weight is not None
    # compare with the smaller image, or what its mask leaves of it, in voxels of the fixed grid
    voxel = abs(np.linalg.det(level.fixed_grid.linear) * np.linalg.det(affine[:-1, :-1]))
    ratio = abs(np.linalg.det(level.moving_grid.linear)) / voxel
    of_fixed = float(level.fixed.numel() if level.fixed_weight is None else level.fixed_weight.sum())
    of_moving = float(level.moving.numel() if level.moving_weight is None else level.moving_weight.sum())
    both = weight if level.fixed_weight is None else weight * level.fixed_weight
    if float(both.sum()) < max(least * min(of_fixed, of_moving * ratio), 2.0):
        return math.inf
    with torch.no_grad():
        value = float(similarity(warped, weight))
    return value if math.isfinite(value) else math.inf


def best_candidates(
    level: Level, similarity: Similarity, candidates: list[FloatArray], keep: int = 1
) -> list[Candidate]:
    """The candidates with the lowest loss, best first; near-copies are left out.

    The similarity must have been prepared with the level's fixed image.
    """
    apart = _are_distinct(candidates, len(candidates), level)
    scored = sorted((score(level, similarity, c), i) for i, c in enumerate(apart))
    return [(value, apart[i]) for value, i in scored if math.isfinite(value)][:keep]


def _are_distinct(candidates: list[FloatArray], keep: int, level: Level) -> list[FloatArray]:
    """The first candidates that differ from all before by a voxel or more."""
    corners = level.fixed_grid.corners()
    chosen: list[FloatArray] = []
    for matrix in candidates:
        if len(chosen) == keep:
            break
        if not any(_is_near(matrix, other, corners, level) for other in chosen):
            chosen.append(matrix)
    return chosen


def _is_near(a: FloatArray, b: FloatArray, points: FloatArray, level: Level) -> bool:
    apart = points @ (a - b)[:-1, :-1].T + (a - b)[:-1, -1]
    return bool(np.abs(apart).max() < level.fixed_grid.spacing.max())


def refine(level: Level, similarity: Similarity, family: str | None, candidates: list[FloatArray]) -> list[FloatArray]:
    """What each candidate leads to after a few steps, all made in one batch; in the candidates' order."""
    if not candidates:
        return []
    maker = make_family({None: "rigid", "affine": "similarity"}.get(family, family or "rigid"))
    grid, count, device = level.fixed_grid, len(candidates), level.fixed.device
    weight = level.fixed_weight
    similarity.prepare(
        level.fixed.expand(count, *level.fixed.shape[1:]),
        None if weight is None else weight.expand(count, *weight.shape[1:]),
    )
    after = torch.stack([level.normalizing_matrix(c) for c in candidates])
    to_world = torch.as_tensor(grid.matrix.copy(), dtype=torch.float32, device=device)
    theta = maker.identity(grid, count, device=device).requires_grad_()
    optimizer = Adam(theta)
    for k in range(PARAMETERS.refinement_steps):
        with torch.enable_grad():
            moved = maker(theta, grid)
            assert moved.matrix is not None
            coordinates = lattice_points(after @ moved.matrix @ to_world, grid.shape)
            loss = similarity(*level.sample_moving(coordinates, masked=True))
            if not loss.requires_grad:
                break
            (gradient,) = torch.autograd.grad(loss, theta)
        step_size = 0.005 + 0.0125 * (1 + math.cos(math.pi * k / (PARAMETERS.refinement_steps - 1)))
        theta = optimizer.step(theta, gradient, step_size).requires_grad_()
    moved = maker(theta.detach().nan_to_num().double().cpu(), grid)
    assert moved.matrix is not None
    return [begin @ matrix for begin, matrix in zip(candidates, moved.matrix.numpy(), strict=True)]
