"""Evidence for and against a registration, measured on a coarse lattice: similarity, matching, plausibility."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.linalg import affine_matrix, fit_affine, nearby_rotations, planar_rotations
from napari_stnreg.evaluation.chance import Chance, compare_with_chance, edge_agreement, edge_features
from napari_stnreg.ops.filters import box_sum
from napari_stnreg.ops.interpolation import resize, sample
from napari_stnreg.transforms import Transform


@dataclass(frozen=True)
class EvidenceParameters:
    """Sizes of the coarse lattices. They keep the evidence below 15 % of the time of a fit.

    Parameters
    ----------
    size
        Voxels along the longest side of the lattice for similarity and matching, by number of dimensions.
    search_size
        The same for the comparison with turned and mirrored copies.
    polish_size
        The same for the comparison with the best turned and mirrored copy, after small turns, scales and shifts.
    final_size
        The same for the last comparison with the polished copy, without further turns and scales.
    ambiguous
        Standard deviations by which such a copy may fit worse to be compared on the finer lattice.
    reach
        Largest displacement of the local matching, in voxels of the lattice; the step is 2 voxels.
    window
        Radius of the local matching's window, in voxels.
    min_edge_ratio
        Windows with less than this fraction of the mean edge energy are not matched.
    max_oversampling
        Images are read at every n-th voxel so that they are at most this many times finer than the lattice.
    equal
        Relative difference of two matches that counts as none: rounding decides between matches along an axis along
        which a volume is constant.
    min_points
        Lattice points that both images must share; with fewer nothing is measured.
    """

    size: Mapping[int, int] = field(default_factory=lambda: {2: 64, 3: 24})
    search_size: Mapping[int, int] = field(default_factory=lambda: {2: 32, 3: 14})
    polish_size: Mapping[int, int] = field(default_factory=lambda: {2: 44, 3: 18})
    final_size: Mapping[int, int] = field(default_factory=lambda: {2: 64, 3: 32})
    ambiguous: float = 1.5
    reach: Mapping[int, int] = field(default_factory=lambda: {2: 6, 3: 4})
    window: Mapping[int, int] = field(default_factory=lambda: {2: 4, 3: 3})
    min_edge_ratio: float = 0.4
    max_oversampling: int = 4
    equal: float = 1e-4
    min_points: int = 60


PARAMETERS = EvidenceParameters()


@dataclass(frozen=True)
class Evidence:
    """What was measured about a registration.

    Parameters
    ----------
    after, linear, before
        Similarity relative to chance: with the transform, with the affine map nearest to it, and without a transform;
        ``None`` where the images share too little.
    match_fraction, linear_match_fraction
        Fraction of the edges whose best local match is in place, with the transform and with its affine part; chance
        is about 0.2.
    alternative, mirrored
        Best agreement of edges of a turned, and of a mirrored copy, minus that of the affine part, in standard
        deviations of the null distribution.
    overlap
        Shared volume as a fraction of the smaller image.
    min_scale, max_scale
        Extreme singular values of the affine part. Without a unit of length they are relative to the ratio of the
        fields of view, if that is nearer to them than 1.
    shear
        Ratio of the two.
    flipped
        Whether the affine part mirrors.
    log_jacobian_spread
        Standard deviation of the logarithm of the Jacobian determinant on the lattice.
    folded
        Fraction of the lattice that is folded.
    deformation
        Root mean square distance between the transform and its affine part, as a fraction of the diagonal.
    landmark_error
        Median landmark error as a fraction of the diagonal, ``None`` without landmarks.
    """

    after: Chance | None
    linear: Chance | None
    before: Chance | None
    match_fraction: float
    linear_match_fraction: float
    alternative: float
    mirrored: float
    overlap: float
    min_scale: float
    max_scale: float
    shear: float
    flipped: bool
    log_jacobian_spread: float
    folded: float
    deformation: float
    landmark_error: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def collect_evidence(
    fixed: Image,
    moving: Image,
    transform: Transform,
    *,
    fixed_channel: int | None = None,
    moving_channel: int | None = None,
    landmark_error: float | None = None,
    parameters: EvidenceParameters = PARAMETERS,
) -> Evidence:
    """Measure how well a transform aligns two images, without the similarity that was optimized.

    Parameters
    ----------
    fixed, moving
        The pair.
    transform
        Fixed world to moving world, in the fixed image's unit.
    fixed_channel, moving_channel
        Channels to compare, see :meth:`Image.intensity`.
    landmark_error
        Median landmark error in the fixed image's unit, if there are landmarks.
    """
    ndim = fixed.ndim
    transform = transform.to("cpu")
    moving = moving.with_unit(fixed.grid.unit)
    box = fixed.grid if fixed.grid.is_orthogonal() else fixed.grid.orthogonal()
    lattice = _coarse_grid(box, parameters.size[ndim])
    points = lattice.points().reshape(-1, ndim)
    mapped = transform.map_points(points)
    affine = fit_affine(points, mapped)
    singular = np.linalg.svd(affine[:-1, :-1], compute_uv=False)
    expected = _expected_scale(fixed.grid, moving.grid, float(singular.prod()))
    least = float(max(singular.min(), 1e-6))
    determinant, linear_determinant = _determinants(mapped.reshape(*lattice.shape, ndim), lattice, affine)
    positive = determinant[determinant > 1e-6]
    with torch.no_grad():
        target = _CoarseImage(fixed, fixed_channel, lattice.spacing, parameters)
        scale = float(np.clip(singular.prod() ** (1 / ndim), 0.05, 20.0))
        source = _CoarseImage(moving, moving_channel, lattice.spacing * scale, parameters)
        a, weight_a = target.read(points, lattice)
        after, match_fraction, overlap = _compare(
            a, weight_a, source, mapped, lattice, moving.grid, linear_determinant, parameters
        )
        is_affine = bool(np.abs(mapped - _apply(affine, points)).max() < 1e-3 * lattice.spacing.min())
        if is_affine:
            linear, linear_match_fraction = after, match_fraction
        else:
            linear, linear_match_fraction, _ = _compare(
                a, weight_a, source, _apply(affine, points), lattice, moving.grid, linear_determinant, parameters
            )
        before, _, _ = _compare(a, weight_a, source, points, lattice, moving.grid, 1.0, parameters, match=False)
        sizes = (parameters.search_size, parameters.polish_size, parameters.final_size)
        lattices = [_coarse_grid(box, n[ndim]) for n in sizes]
        alternative, mirrored = _alternatives(target, source, lattices, affine, parameters)
    return Evidence(
        after,
        linear,
        before,
        match_fraction,
        linear_match_fraction,
        alternative,
        mirrored,
        overlap,
        least / expected,
        float(singular.max()) / expected,
        float(singular.max()) / least,
        bool(linear_determinant < 0),
        float(np.log(positive).std()) if positive.size else 10.0,
        float((determinant <= 0).mean()) if linear_determinant > 0 else 0.0,
        float(np.sqrt(((mapped - _apply(affine, points)) ** 2).sum(1).mean()) / fixed.grid.diagonal),
        None if landmark_error is None else landmark_error / fixed.grid.diagonal,
    )


def _expected_scale(fixed: Grid, moving: Grid, volume: float) -> float:
    """Return the scale that needs no explanation: 1, or the ratio of the fields of view if sizes are not calibrated."""
    if fixed.unit != "pixel" or moving.unit != "pixel":
        return 1.0
    extents = [np.prod(g.extent) for g in (fixed, moving)]
    ratio = float(np.clip(extents[1] / extents[0], 1e-3, 1e3)) ** (1 / fixed.ndim)
    scale = math.log(max(volume, 1e-9)) / fixed.ndim
    return ratio if abs(scale - math.log(ratio)) < abs(scale) else 1.0


def _coarse_grid(grid: Grid, longest: int) -> Grid:
    extent = grid.extent
    step = extent.max() / longest
    return grid.resized([int(max(min(round(e / step), n), min(n, 4))) for e, n in zip(extent, grid.shape, strict=True)])


def _apply(affine: FloatArray, points: FloatArray) -> FloatArray:
    return np.asarray(points @ affine[:-1, :-1].T + affine[:-1, -1])


def _determinants(mapped: FloatArray, lattice: Grid, affine: FloatArray) -> tuple[FloatArray, float]:
    """Return the Jacobian determinants on the lattice, and that of the affine part."""
    ndim = lattice.ndim
    gradients = [np.gradient(mapped, axis=axis) for axis in range(ndim) if lattice.shape[axis] > 1]
    linear = float(np.linalg.det(affine[:-1, :-1]))
    if len(gradients) < ndim:
        return np.full(lattice.shape, linear), linear
    jacobian = np.stack(gradients, axis=-1) @ np.linalg.inv(lattice.linear)
    return np.asarray(np.linalg.det(jacobian)), linear


class _CoarseImage:
    """An image as intensities on a coarse lattice of its own, with the mask of what is known."""

    def __init__(self, image: Image, channel: int | None, spacing: FloatArray, parameters: EvidenceParameters) -> None:
        grid = image.grid
        ratio = np.maximum(float(np.mean(spacing)) / grid.spacing, 1e-6)
        steps = np.maximum(np.floor(ratio / parameters.max_oversampling), 1).astype(int)
        steps = np.minimum(steps, np.maximum(np.asarray(grid.shape) // 8, 1))
        every = tuple(slice(int(s) // 2, None, int(s)) for s in steps)
        data = image.data[every]
        matrix = grid.matrix.copy()
        matrix[:-1, -1] = grid.to_world([int(s) // 2 for s in steps])
        matrix[:-1, :-1] = grid.linear * steps
        thin = Grid(data.shape[: grid.ndim], matrix, grid.unit)
        mask = None if image.mask is None else image.mask[every]
        values = Image(data, thin, None, image.name, image.rgb).intensity(channel)
        known = np.isfinite(values) if mask is None else np.isfinite(values) & mask
        values = np.where(known, values, 0).astype(np.float32)
        if known.any():
            low, high = np.percentile(values[known], [0.5, 99.5])
            values = np.clip((values - low) / max(float(high - low), 1e-12), -0.1, 1.1).astype(np.float32) * known
        shape = [int(max(round(n * s / r), min(n, 6))) for n, s, r in zip(thin.shape, steps, ratio, strict=True)]
        shape = [min(a, b) for a, b in zip(shape, thin.shape, strict=True)]
        weight = resize(torch.from_numpy(known.astype(np.float32))[None, None], shape)
        inside = resize(torch.from_numpy(values.copy())[None, None], shape)
        self.weight = weight
        self.values = inside / weight.clamp_min(1e-3)
        self.grid = thin.resized(shape)
        self._complete = bool(known.all())
        self._edges: dict[tuple[int, ...], Tensor] = {}

    def read(self, world: FloatArray, lattice: Grid) -> tuple[Tensor, Tensor]:
        """Return values and weights ``(B, 1, *shape)`` at world points ``(B, N, D)`` or ``(N, D)`` of a lattice."""
        index = torch.from_numpy(self.grid.to_index(world).reshape(-1, *lattice.shape, lattice.ndim)).float()
        size = torch.tensor(self.grid.shape)
        inside = ((index >= -0.5) & (index <= size - 0.5)).all(-1)[:, None].to(self.values.dtype)
        values = sample(self.values, index, padding="border")
        if self._complete:
            return values, inside
        return values, ((sample(self.weight, index, padding="border") > 0.5) * inside).to(values.dtype)

    def edges(self, points: FloatArray, lattice: Grid) -> Tensor:
        """Return the edge features at the points of a lattice, computed once for each shape."""
        if lattice.shape not in self._edges:
            self._edges[lattice.shape] = edge_features(*self.read(points, lattice))
        return self._edges[lattice.shape]


def _compare(
    a: Tensor,
    weight_a: Tensor,
    source: _CoarseImage,
    mapped: FloatArray,
    lattice: Grid,
    moving_grid: Grid,
    determinant: float,
    parameters: EvidenceParameters,
    *,
    match: bool = True,
) -> tuple[Chance | None, float, float]:
    """Return similarity against chance, the fraction of local matches and the overlap at mapped points."""
    b, weight_b = source.read(mapped, lattice)
    weight = weight_a * weight_b
    n = float(weight.sum())
    voxel = abs(float(np.linalg.det(lattice.linear)))
    of_moving = float(source.weight.mean()) * moving_grid.size * abs(float(np.linalg.det(moving_grid.linear)))
    of_moving = of_moving / max(abs(determinant), 1e-9) / voxel
    overlap = n / max(min(float(weight_a.sum()), of_moving), 1e-9)
    if n < parameters.min_points:
        return None, 0.0, min(overlap, 1.0)
    chance = compare_with_chance(a, b, weight, mirror=False)
    return chance, _match_fraction(a, b, weight, parameters) if match else 0.0, min(overlap, 1.0)


def _match_fraction(a: Tensor, b: Tensor, weight: Tensor, parameters: EvidenceParameters) -> float:
    """Return the fraction of the edges whose best match among displacements is at most 2 voxels away."""
    ndim = a.ndim - 2
    reach, radius = parameters.reach[ndim], parameters.window[ndim]
    first, second = edge_features(a, weight), edge_features(b, weight)
    # A copy moved around a thin axis would come back to where it was.
    reaches = [min(reach, (n - 1) // 2) // 2 * 2 for n in a.shape[2:]]
    steps = list(itertools.product(*(range(-r, r + 1, 2) for r in reaches)))
    around = [r for reach in reversed(reaches) for r in (reach, reach)]

    def moved(x: Tensor) -> Iterator[Tensor]:
        wrapped = F.pad(x, around, mode="circular")[0]
        for step in steps:
            at = (slice(r - s, r - s + n) for r, s, n in zip(reaches, step, x.shape[2:], strict=True))
            yield wrapped[(slice(None), *at)]

    # one displacement at a time: all at once would leave the processor's cache
    cross = box_sum(torch.stack([(first[0] * one).sum(0) for one in moved(second)])[:, None], radius)
    energy = torch.stack(list(moved(box_sum(second.square().sum(1, keepdim=True), radius))))
    own = box_sum(first.square().sum(1, keepdim=True), radius)
    floor = 0.1 * energy.mean()
    score = cross / (energy + floor).sqrt()
    score = score[:, 0].flatten(1)
    near = torch.tensor([max(abs(s) for s in step) <= 2 for step in steps])
    best = score.amax(0)
    is_near = score[near].amax(0) >= best - parameters.equal * best.abs()
    # displacements are compared only where all of them stay inside
    valid = (box_sum(1 - weight, radius)[0, 0] <= 0.5 * (2 * radius + 1) ** ndim).flatten()
    matters = valid & (own.flatten() > parameters.min_edge_ratio * own[weight > 0.5].mean())
    if int(matters.sum()) < 10:
        return 0.0
    return float((is_near & matters).sum() / matters.sum())


def _alternatives(
    target: _CoarseImage,
    source: _CoarseImage,
    lattices: Sequence[Grid],
    affine: FloatArray,
    parameters: EvidenceParameters,
) -> tuple[float, float]:
    """Compare turned and mirrored copies at every shift with the affine part; ambiguous ones on two finer lattices."""
    lattice, fine, final = lattices
    ndim = lattice.ndim
    points = lattice.points().reshape(-1, ndim)
    center = _apply(affine, points).mean(0)
    turns, mirrors = _orientations(ndim)
    # a wrong fit distorts the linear part; the copies are compared without that distortion
    left, singular, right = np.linalg.svd(affine[:-1, :-1])
    undistorted = float(singular.prod() ** (1 / ndim)) * left @ right
    linears = np.stack([affine[:-1, :-1], *(undistorted @ turn for turn in (*turns, *mirrors))])
    maps = [affine_matrix(linear, center - points.mean(0), points.mean(0)) for linear in linears]
    surfaces = _surfaces(target, source, lattice, maps)
    values, places = surfaces.flatten(1).nan_to_num(-1.0).max(1)
    deviation = _spread(surfaces[0])
    current = float(_near_shifts(surfaces[:1], 1).max())
    n = len(turns)
    margins = []
    own: tuple[float, float] | None = None
    for first_index, last in ((1, n + 1), (n + 1, len(values))):
        best = first_index + int(values[first_index:last].argmax())
        margin = (float(values[best]) - current) / deviation
        if margin > -parameters.ambiguous:
            shift = _shift_of(int(places[best]), surfaces.shape[1:])
            matrix = maps[best].copy()
            matrix[:-1, -1] += matrix[:-1, :-1] @ (lattice.linear @ shift)
            if own is None:
                whole = _surfaces(target, source, final, [_polished(target, source, fine, affine)])
                own = float(_near_shifts(whole, 2).max()), _spread(whole[0])
            copy = _surfaces(target, source, final, [_polished(target, source, fine, matrix)], 2)
            margin = (float(_near_shifts(copy, 2).max()) - own[0]) / own[1]
        margins.append(margin)
    return margins[0], margins[1]


def _shift_of(place: int, padded: Sequence[int]) -> FloatArray:
    index = np.unravel_index(place, tuple(padded))
    return np.array([i - n if i > n // 2 else i for i, n in zip(index, padded, strict=True)], dtype=np.float64)


def _polished(target: _CoarseImage, source: _CoarseImage, lattice: Grid, affine: FloatArray) -> FloatArray:
    """Return the map whose edges agree best near an affine map, among small turns, scales and shifts."""
    ndim = lattice.ndim
    center = lattice.points().reshape(-1, ndim).mean(0)
    turns = [*nearby_rotations(ndim, 0.13), 0.93 * np.eye(ndim), 1.07 * np.eye(ndim)]
    maps = [affine_matrix(affine[:-1, :-1] @ turn, _apply(affine, center[None])[0] - center, center) for turn in turns]
    radius = max(2, round(max(lattice.shape) / 16))
    near = _near_shifts(_surfaces(target, source, lattice, maps, radius), radius)
    best = np.unravel_index(int(near.argmax()), near.shape)
    shift = np.array(best[1:], dtype=np.float64) - radius
    found = maps[int(best[0])]
    found[:-1, -1] += found[:-1, :-1] @ (lattice.linear @ shift)
    return found


def _surfaces(
    target: _CoarseImage, source: _CoarseImage, lattice: Grid, maps: Sequence[FloatArray], reach: int | None = None
) -> Tensor:
    """Return the agreement of edges of each map at all shifts, or at those up to a reach."""
    points = lattice.points().reshape(-1, lattice.ndim)
    worlds = np.stack([_apply(matrix, points) for matrix in maps])
    return edge_agreement(target.edges(points, lattice), edge_features(*source.read(worlds, lattice)), reach=reach)


def _near_shifts(surfaces: Tensor, radius: int) -> Tensor:
    """Return the agreement at shifts up to a radius, the most negative ones first; -1 where it is not known."""
    ndim = surfaces.ndim - 1
    near = surfaces.roll((radius,) * ndim, tuple(range(1, ndim + 1)))
    return near[(slice(None), *(slice(0, 2 * radius + 1),) * ndim)].nan_to_num(-1.0)


def _spread(surface: Tensor) -> float:
    """Return the standard deviation over all shifts, at least 0.02."""
    finite = surface[surface.isfinite()]
    return max(float(finite.std()), 0.02) if finite.numel() > 3 else 1.0


def _orientations(ndim: int) -> tuple[list[FloatArray], list[FloatArray]]:
    """Return proper rotations without the identity, and mirror images with all rotations."""
    flip = np.diag([-1.0] + [1.0] * (ndim - 1))
    if ndim == 2:
        turns = planar_rotations(15)
        return turns[2:-1], [turn @ flip for turn in turns]
    turns = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[range(3), order] = signs
            turns.append(matrix)
    proper = [turn for turn in turns if np.linalg.det(turn) > 0]
    proper.sort(key=lambda turn: -np.trace(turn))
    return proper[1:], [turn for turn in turns if np.linalg.det(turn) < 0]
