"""Start of a registration: landmarks, centers, centers of brightness, correlation, or a search over rotations.

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
from napari_stnreg.core.linalg import nearby_rotations, planar_rotations
from napari_stnreg.losses import Similarity, make_similarity
from napari_stnreg.ops.lattice import lattice_points
from napari_stnreg.registration.optimizers.parametric import Adam
from napari_stnreg.registration.preprocessing import Problem
from napari_stnreg.registration.pyramid import Level, Pyramid
from napari_stnreg.registration.settings import RegistrationSettings, fit_method
from napari_stnreg.registration.similarity_choice import (
    SAME_CONTRAST,
    compare_at,
    contrast_correlation,
    trial_level,
)
from napari_stnreg.registration.translation_search import best_edge_translations, phase_shift
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
    partial_overlap
        Fraction of the edges of one image that must have a counterpart in the search for partial overlaps.
    scales
        Scales that the search tries.
    uncalibrated_scales
        Further ones, for images without a unit of length.
    moved_margin
        Standard deviations by which a start must stand further above chance than the given position, and the same as
        a fraction; halved for images without a unit of length.
    nearby
        Largest shift of a corner, as a fraction of the diagonal, within which that margin is not needed.
    rotated_margin
        The same for a start that turns, scales, mirrors or overlaps partially, against one that only shifts.
    convincing
        Standard deviations above chance from which nothing else is searched.
    weak
        Standard deviations above chance from which other pixel sizes are not searched.
    chance
        Standard deviations above chance below which the evidence cannot rank shifts, and the similarity does.
    ranked_by_fit
        Standard deviations above chance below which a start that turns, scales, mirrors or overlaps partially must
        also lead to the better fit. Figures are in decision 0069.
    good_loss
        A loss of NCC below this ends the search.
    clear_match
        Loss of signed NCC and standard deviations above chance that end it together: on 13 pairs of hearts, brain
        slices and hippocampi that were rotated by 20 to 180 degrees, the best start that does not turn had a loss of
        0.2 and more and at most 9 deviations.
    refinement_steps
        Gradient steps for each refined candidate.
    n_candidates
        Rotated candidates that are refined, by setting.
    """

    start_size: Mapping[int, int] = field(default_factory=lambda: {2: 40, 3: 24})
    search_size: Mapping[int, int] = field(default_factory=lambda: {2: 28, 3: 14})
    min_overlap: float = 0.25
    partial_overlap: float = 0.15
    scales: tuple[float, ...] = (1.0, 1.25, 0.8, 1.5, 1 / 1.5)
    uncalibrated_scales: tuple[float, ...] = (1.9, 2.4, 3.0, 3.75, 4.7, 5.9, 7.4)
    moved_margin: tuple[float, float] = (1.0, 0.1)
    nearby: float = 0.05
    rotated_margin: tuple[float, float] = (0.5, 0.05)
    convincing: float = 25.0
    weak: float = 8.0
    chance: float = 3.0
    ranked_by_fit: float = 12.0
    good_loss: float = 0.03
    clear_match: tuple[float, float] = (0.1, 10.0)
    refinement_steps: int = 20
    n_candidates: Mapping[str, int] = field(default_factory=lambda: {"auto": 3, "search": 8})


PARAMETERS = InitializationParameters()

Candidate = tuple[float, FloatArray]
"""A loss and the affine it belongs to."""


def start_level(pyramid: Pyramid) -> Level:
    """Return the coarse level on which the start is searched."""
    fixed, moving = pyramid.fixed_grid, pyramid.moving_grid
    longest = max(
        float(fixed.extent.max()),
        float(moving.extent.max()) / 1.5,
    )
    return pyramid.level(max(longest / fixed.spacing.min() / PARAMETERS.start_size[fixed.ndim], 1.0))


def start_similarity(settings: RegistrationSettings) -> Similarity:
    """Return the similarity that compares candidates: correlation for same contrast, else the chosen one."""
    if settings.similarity == "mi":
        return make_similarity("mi", bins=16)  # few voxels cannot fill more
    if settings.similarity == "mind":
        return make_similarity("mind")
    # inverted contrast is a match as good, unless a similarity was chosen that knows a sign
    return make_similarity("ncc", squared=settings.similarity not in ("ncc", "mse"))


def find_start(
    problem: Problem, settings: RegistrationSettings, begin: FloatArray | None
) -> Generator[Candidate, None, FloatArray]:
    """Find the affine ``(D + 1, D + 1)`` from which the first stage starts.

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
        # only a deformation was requested: images that already overlap are not moved
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

    given = (score(level, similarity, nothing), nothing)
    keep_given = math.isfinite(given[0]) and settings.start == "auto"
    begins = [m for _, m in plain]
    at = next((k for k, m in enumerate(begins) if np.array_equal(m, nothing)), len(begins))
    if keep_given and at == len(begins):
        begins.append(nothing)
    polished = refine(small, start_similarity(settings), _without_shear(family), begins)
    refined = [(score(level, similarity, m), m) for m in polished]
    best = min([best, *refined[: len(plain)]], key=lambda pair: pair[0])
    yield best
    judge = _Judge(problem.pyramid)
    if keep_given:
        best = _near_given(best, given, refined[at], judge, level, calibrated=problem.unit != "pixel")
        yield best
    if settings.start == "auto" and not settings.mirror:
        good = similarity.name == "ncc" and best[0] < PARAMETERS.good_loss
        enough = PARAMETERS.clear_match[1] if signed and best[0] < PARAMETERS.clear_match[0] else PARAMETERS.convincing
        if good or judge(best[1]) >= enough:
            return best[1]
    rotated = yield from _search_widely(problem, settings, family, level, small, judge, best)
    if not judge.prefers(rotated, best[1], PARAMETERS.rotated_margin):
        return best[1]
    if judge(rotated) >= PARAMETERS.ranked_by_fit:
        return rotated
    # wrong alignments of images with little content get this far above chance, too
    ways = [settings]
    if signed or settings.similarity in ("auto", "lncc"):  # correlation alone misleads if the contrast differs
        ways.insert(0, settings.model_copy(update={"similarity": "mi"}))
    fits_better = any(_fits_better(rotated, best[1], way, family or "rigid", level, small) for way in ways)
    return rotated if fits_better else best[1]


def _fits_better(
    affine: FloatArray, other: FloatArray, settings: RegistrationSettings, family: str, level: Level, small: Level
) -> bool:
    """Whether a short fit from an affine map reaches a lower loss than from another, or they cannot be compared."""
    similarity = start_similarity(settings)
    similarity.prepare(level.fixed, level.fixed_weight)
    fitted = refine(small, start_similarity(settings), family, [affine, other])
    loss, other_loss = (score(level, similarity, m) for m in fitted)
    return loss < other_loss or not math.isfinite(loss)


def _search_widely(
    problem: Problem,
    settings: RegistrationSettings,
    family: str | None,
    level: Level,
    small: Level,
    judge: _Judge,
    best: Candidate,
) -> Generator[Candidate, None, FloatArray]:
    """Search rotations, scales, mirror images and partial overlaps; return the map furthest above chance."""
    pyramid, ndim = problem.pyramid, problem.pyramid.fixed_grid.ndim
    rotations = [np.eye(ndim)] if family == "translation" else candidate_rotations(ndim, family, settings)
    candidate_sets, fields_differ = [rotations], False
    if problem.unit == "pixel" and family not in ("translation", "rigid"):
        ratio = _field_ratio(pyramid)
        fields_differ = not 0.5 < ratio < 2.0
        similar = [m for m in rotations if _similar_fields(m, ratio)]
        candidate_sets = [similar or rotations[:1], _other_pixel_sizes(pyramid, settings)]
    shrink = float(small.fixed_grid.spacing.min() / pyramid.fixed_grid.spacing.min())
    found = [m for _, m in best_edge_translations(judge.level(1.0), rotations[:1], PARAMETERS.partial_overlap)]
    for linears in candidate_sets:
        wide: list[Candidate] = []
        for scale, some in _by_scale(linears, 24):
            wide += best_edge_translations(pyramid.level(shrink, scale), some, PARAMETERS.partial_overlap)
            yield best
        wide.sort(key=lambda pair: -pair[0])
        distinct = _are_distinct([m for _, m in wide], PARAMETERS.n_candidates[settings.start], level)
        if family == "translation":
            found += distinct
        else:
            for matrix in distinct if ndim == 2 else ():  # in 3D it takes as long as a fit
                found.append(_polished(pyramid, matrix, family))
                yield best
            if linears is candidate_sets[0]:
                found += refine(small, start_similarity(settings), _without_shear(family), distinct)
                yield best
        rotated = max(found, key=judge)
        if max(judge(rotated), judge(best[1])) >= PARAMETERS.weak and not fields_differ:
            break
    return rotated


class _Judge:
    """Standard deviations above chance at which an affine map aligns a pair, for any optimized similarity."""

    def __init__(self, pyramid: Pyramid) -> None:
        self._pyramid = pyramid
        self._levels: dict[float, Level] = {}
        self._known: dict[bytes, float] = {}

    def level(self, scale: float) -> Level:
        """The level of the judgment for maps of about this scale."""
        if scale not in self._levels:
            self._levels[scale] = trial_level(self._pyramid, scale)
        return self._levels[scale]

    def __call__(self, affine: FloatArray) -> float:
        key = affine.tobytes()
        if key not in self._known:
            self._known[key] = compare_at(self.level(nearest_scale(affine)), affine).z
        return self._known[key]

    def prefers(self, affine: FloatArray, other: FloatArray, margin: tuple[float, float]) -> bool:
        """Whether a map is better than another by an absolute and a relative margin."""
        return self(affine) > self(other) + margin[0] + margin[1] * max(self(other), 0.0)


def nearest_scale(affine: FloatArray) -> float:
    """The power of two nearest to the scale of an affine map; 1 between 1/1.6 and 1.6."""
    scale = math.log2(max(abs(float(np.linalg.det(affine[:-1, :-1]))), 1e-12)) / (len(affine) - 1)
    return 1.0 if abs(scale) < 0.68 else 2.0 ** round(scale)


def _without_shear(family: str | None) -> str:
    """The family by which candidates of the search are refined."""
    return "similarity" if family == "affine" else family or "rigid"


def _near_given(
    best: Candidate, given: Candidate, refined: Candidate, judge: _Judge, level: Level, *, calibrated: bool
) -> Candidate:
    """The given position, or what it leads to nearby, unless the best candidate is clearly better."""
    strict = 1.0 if calibrated else 0.5
    margin = (strict * PARAMETERS.moved_margin[0], strict * PARAMETERS.moved_margin[1])
    own = given
    near = _are_near(refined[1], given[1], level.fixed_grid)
    if math.isfinite(refined[0]) and judge.prefers(refined[1], given[1], (0.0, 0.0) if near else margin):
        own = refined
    if own is refined and _are_near(best[1], own[1], level.fixed_grid):
        return min(best, own, key=lambda pair: pair[0])  # the same place, found more or less exactly
    if not calibrated and max(judge(own[1]), judge(best[1])) < PARAMETERS.chance:
        return best
    return best if judge.prefers(best[1], own[1], margin) else own


def _are_near(affine: FloatArray, other: FloatArray, grid: Grid) -> bool:
    """Return whether no corner of a grid moves far between two affine maps."""
    apart = grid.corners() @ (affine - other)[:-1, :-1].T + (affine - other)[:-1, -1]
    return bool(np.linalg.norm(apart, axis=1).max() < PARAMETERS.nearby * grid.diagonal)


def _polished(pyramid: Pyramid, affine: FloatArray, family: str | None) -> FloatArray:
    """Improve the rotation, the scale and the shift of a map by edges, on two levels."""
    ndim = len(affine) - 1
    linear = affine[:-1, :-1]
    level = trial_level(pyramid, nearest_scale(affine))
    for angle, factor, coarser in ((7.5, 1.12, 2.0), (2.5, 1.04, 1.25)):
        rotations = nearby_rotations(ndim, math.radians(angle))
        scales = (1.0,) if family == "rigid" else (1.0, factor, 1 / factor)
        found = best_edge_translations(
            level.shrunk(coarser), [linear @ turn * s for turn in rotations for s in scales], PARAMETERS.partial_overlap
        )
        best = max(found, key=lambda pair: pair[0])[1]
        linear = best[:-1, :-1]
    return best


def _other_pixel_sizes(pyramid: Pyramid, settings: RegistrationSettings) -> list[FloatArray]:
    """Linear maps with scales up to 8 and down to 1/8, at which the fields of view differ by a factor of 3 at most."""
    ndim = pyramid.fixed_grid.ndim
    ratio = _field_ratio(pyramid)
    scales = [s**sign for s in PARAMETERS.uncalibrated_scales for sign in (1, -1)]
    scales = [s for s in scales if _similar_fields(s * np.eye(ndim), ratio)]
    rotations = candidate_rotations(ndim, "rigid", settings)
    if ndim == 3 and settings.start != "search":
        rotations = rotations[:1]
    return [rotation * s for s in scales for rotation in rotations]


def _field_ratio(pyramid: Pyramid) -> float:
    """How many times larger the moving image's field of view is than the fixed one's, as a length."""
    extent = [g.extent for g in (pyramid.fixed_grid, pyramid.moving_grid)]
    return float((extent[1].prod() / extent[0].prod()) ** (1 / len(extent[0])))


def _similar_fields(linear: FloatArray, ratio: float) -> bool:
    """Whether the fields of view differ by a factor of 3 at most after a linear map."""
    scale = abs(float(np.linalg.det(linear))) ** (1 / len(linear))
    return bool(1 / 3 < scale / ratio < 3)


def _by_scale(linears: list[FloatArray], size: int) -> Iterable[tuple[float, list[FloatArray]]]:
    """Linear maps in portions of the same :func:`nearest_scale`, and that scale."""
    groups: dict[float, list[FloatArray]] = {}
    for linear in linears:
        groups.setdefault(nearest_scale(np.pad(linear, (0, 1))), []).append(linear)
    return ((scale, some) for scale, group in groups.items() for some in _chunks(group, size))


def _chunks(items: list[FloatArray], size: int) -> Iterable[list[FloatArray]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def landmark_start(fixed: FloatArray, moving: FloatArray, family: str, mirror: bool) -> FloatArray:
    """Fit the richest linear family that the landmarks determine."""
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
    """Return the affine ``(D + 1, D + 1)`` with a linear part that maps one point onto another."""
    ndim = len(fixed_point)
    out = np.eye(ndim + 1)
    out[:-1, :-1] = matrix
    out[:-1, -1] = moving_point - matrix @ fixed_point
    return out


def intensity_centroid(image: Tensor, weight: Tensor | None, grid: Grid) -> FloatArray:
    """Return the world position ``(D,)`` of the centroid of deviations from the border's brightness."""
    values = image[0, 0].double().cpu().numpy()
    inside = np.ones(values.shape) if weight is None else weight[0, 0].double().cpu().numpy()
    faces = [np.take(values, (0, -1), axis=a)[np.take(inside, (0, -1), axis=a) > 0.5] for a in range(values.ndim)]
    border = np.concatenate(faces)
    # a mask without a border already marks the object
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
    """Return the linear maps of the search: rotations, scales if the family has them, mirror images if allowed.

    In 2D a rotation every 15 degrees. In 3D the 24 right-angled ones, and more between them for ``start="search"``.
    """
    wide = settings.start == "search"
    around = planar_rotations(15) if ndim == 2 else _candidate_rotations_3d(96 if wide else 24)
    found = list(around)
    if family != "rigid":
        # in 3D every turn at every size takes seconds; it is done on request
        sized = around if wide or ndim == 2 else around[:1]
        found += [r * s for s in PARAMETERS.scales[1:] for r in sized]
    if settings.mirror:
        flip = np.diag([-1.0] + [1.0] * (ndim - 1))
        found += [r @ flip for r in found]
    return found


@lru_cache(maxsize=2)
def _candidate_rotations_3d(count: int) -> tuple[FloatArray, ...]:
    """List the 24 rotations of a cube: the identity, then always the one farthest from all before."""
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
    """Return the loss of an affine map at this level; infinite where the images hardly overlap."""
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
    """Return the candidates with the lowest loss, best first, without near-duplicates.

    The similarity must have been prepared with the level's fixed image.
    """
    apart = _are_distinct(candidates, len(candidates), level)
    scored = sorted((score(level, similarity, c), i) for i, c in enumerate(apart))
    return [(value, apart[i]) for value, i in scored if math.isfinite(value)][:keep]


def _are_distinct(candidates: list[FloatArray], keep: int, level: Level) -> list[FloatArray]:
    """Select the first candidates that differ from all earlier ones by at least a voxel."""
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


def refine(level: Level, similarity: Similarity, family: str, candidates: list[FloatArray]) -> list[FloatArray]:
    """Refine all candidates by a few steps in one batch; returns them in the same order."""
    if not candidates:
        return []
    maker = make_family(family)
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
