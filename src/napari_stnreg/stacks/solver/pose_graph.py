"""Solve the pose graph: estimate the pose of every section from the matches of neighbors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from scipy.sparse.linalg import spsolve

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray
from napari_stnreg.core.linalg import fit_rigid
from napari_stnreg.stacks.matching.coarse import PARAMETERS as COARSE_PARAMETERS
from napari_stnreg.stacks.matching.coarse import CoarseMatch
from napari_stnreg.stacks.section_transform import SectionTransform
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.solver.elastic import PARAMETERS as SOLVER_PARAMETERS
from napari_stnreg.stacks.solver.elastic import TREND_WEIGHT, Pair, recorded_poses
from napari_stnreg.stacks.solver.variance_components import estimate_variance_components, segments


@dataclass(frozen=True)
class PoseGraphParameters:
    """Tuning constants of the pose graph. All were set by hand; no tuning is recorded.

    The priors use :class:`~napari_stnreg.stacks.solver.elastic.SolverParameters`.

    Parameters
    ----------
    iterations
        Gauss-Newton iterations.
    candidate_frames
        Sections that are tried as the frame in which most sections are near their recorded pose.
    frame_improvement
        A candidate replaces the root only if its median distance is below this fraction of that of the root.
    """

    iterations: int = 4
    candidate_frames: int = 15
    frame_improvement: float = 0.5


PARAMETERS = PoseGraphParameters()


def solve_poses(
    count: int,
    matches: Mapping[Pair, CoarseMatch],
    shapes: Sequence[tuple[int, int]],
    settings: StackSettings,
    fixed: Mapping[int, FloatArray] | None = None,
) -> list[FloatArray]:
    """Solve for the pose ``(3, 3)``, canvas to section, of every section.

    Parameters
    ----------
    count
        Number of sections.
    matches
        By section numbers ``(a, b)``; those below :attr:`CoarseParameters.min_confidence
        <napari_stnreg.stacks.matching.coarse.CoarseParameters>` are ignored.
    shapes
        Sizes of the sections in full-resolution pixels.
    settings
        Motion, position weight, trend and reference section.
    fixed
        Poses of fixed sections, canvas to section.

    Notes
    -----
    A minimum spanning tree of the best matches gives initial poses. Robust least squares then combines all matches
    with a weak prior on the recorded position, size and shape of each section, so that neither errors nor the slope
    of the tissue accumulate. Sections without a match are interpolated between their neighbors.
    """
    if not count:
        raise InputError("The stack has no sections.")
    confident = {pair: m for pair, m in matches.items() if m.confidence >= COARSE_PARAMETERS.min_confidence}
    keep = dict(fixed or {})
    root = _root(count, confident, settings.reference, keep)
    if settings.reference is not None and settings.reference < count:
        keep.setdefault(settings.reference, np.eye(3))
    poses, known = _concatenate_poses(count, confident, root, keep.get(root, np.eye(3)), keep)
    center = (np.asarray(shapes[root], dtype=np.float64) - 1) / 2
    radius = float(np.hypot(*shapes[root])) / 4
    if not keep:
        poses = _choose_frame(poses, sorted(known), root, center, radius)
    position_weights = (
        settings.position_weight * TREND_WEIGHT[settings.trend] * _position_weights(confident, shapes, radius)
    )
    recorded = recorded_poses(poses, shapes[root])
    for _ in range(PARAMETERS.iterations):
        poses = _refine_poses(
            poses, recorded, known, confident, keep, settings.motion, position_weights, center, radius
        )
    return _interpolate_missing(poses, known | set(keep), center)


def _root(
    count: int, matches: Mapping[Pair, CoarseMatch], reference: int | None, fixed: Mapping[int, FloatArray]
) -> int:
    if reference is not None and reference < count:
        return reference
    if fixed:
        return min(fixed)
    linked = {z for pair in matches for z in pair}
    return min(linked, key=lambda z: abs(z - (count - 1) / 2)) if linked else count // 2


def _concatenate_poses(
    count: int, matches: Mapping[Pair, CoarseMatch], root: int, start: FloatArray, fixed: Mapping[int, FloatArray]
) -> tuple[list[FloatArray], set[int]]:
    """Concatenate poses along the spanning trees of the best matches; return them and the sections reached.

    Distant pairs are used only where near ones fail. If no match links two parts of a stack, each has its own tree.
    The second tree starts at the pose of the nearest section of the first, so its sections are aligned to each other.
    """
    poses = [start.copy() for _ in range(count)]
    if not matches:
        return poses, {root}
    rows, columns = (np.array([p[k] for p in matches]) for k in (0, 1))
    cost = np.array([(b - a) + 0.5 * (1 - m.confidence) for (a, b), m in matches.items()])
    graph = coo_matrix((cost, (rows, columns)), shape=(count, count)).tocsr()
    tree = minimum_spanning_tree(graph)
    linked = {int(z) for pair in matches for z in pair}
    known: set[int] = set()
    begin = root
    while True:
        order, parents = breadth_first_order(tree, begin, directed=False)
        for z in order[1:]:
            parent = int(parents[z])
            forward = (parent, z) in matches
            step = matches[parent, z].matrix if forward else np.asarray(np.linalg.inv(matches[z, parent].matrix))
            poses[z] = np.asarray(step @ poses[parent])
        known |= {int(z) for z in order}
        left = linked - known
        if not left:
            return poses, known
        begin, near = min(((z, k) for z in left for k in known), key=lambda pair: (abs(pair[0] - pair[1]), pair))
        begin = min((z for z in left if z in fixed), default=begin)
        poses[begin] = fixed[begin].copy() if begin in fixed else poses[near].copy()


def _choose_frame(
    poses: list[FloatArray], known: list[int], root: int, center: FloatArray, radius: float
) -> list[FloatArray]:
    """Change the frame so that most sections are near their recorded pose; the root itself may be rotated."""

    def off(frame: int) -> float:
        back = np.linalg.inv(poses[frame])
        return float(
            np.median([_distance_from_recorded(pose @ back, center, radius) for pose in map(poses.__getitem__, known)])
        )

    chosen = np.unique(np.linspace(0, len(known) - 1, min(len(known), PARAMETERS.candidate_frames)).round().astype(int))
    best = min((known[k] for k in chosen), key=off)
    if off(best) > PARAMETERS.frame_improvement * off(root):
        return poses
    back = np.linalg.inv(poses[best])
    return [np.asarray(pose @ back) for pose in poses]


def _distance_from_recorded(pose: FloatArray, center: FloatArray, radius: float) -> float:
    """Return the distance of a pose from the recorded one in pixels; a reflection counts as the largest distance."""
    if np.linalg.det(pose[:2, :2]) < 0:
        return float(4 * radius)
    return float(np.linalg.norm(_to_parameters(pose, center, radius)[:3]))


def _position_weights(
    matches: Mapping[Pair, CoarseMatch], shapes: Sequence[tuple[int, int]], radius: float
) -> FloatArray:
    """Return the weights ``(6,)`` of the recorded position, rotation and shape, relative to that of a match.

    They are the ratios of the variances of residual and trend to that of the jitter, for shifts and for rotations.
    """
    chains: list[list[FloatArray | None]] = [[None] * (len(shapes) - 1), [None] * (len(shapes) - 1)]
    for (a, b), match in matches.items():
        if b != a + 1:
            continue
        center = np.array([*(np.asarray(shapes[a], dtype=np.float64) - 1) / 2, 1.0])
        rotation = math.atan2(match.matrix[1, 0] - match.matrix[0, 1], match.matrix[0, 0] + match.matrix[1, 1])
        chains[0][a] = match.matrix[:2] @ center - (np.asarray(shapes[b], dtype=np.float64) - 1) / 2
        chains[1][a] = np.array([rotation * radius])
    weights = []
    for chain in chains:
        found = [one for one in chain if one is not None]
        if not found:
            weights.append(1.0)
            continue
        # one section far off must not lower the weight for the whole stack
        limit = 4 * float(np.median([np.abs(one).max() for one in found])) + 1e-9
        runs = [np.stack(run) for run in segments([None if d is None else np.clip(d, -limit, limit) for d in chain])]
        variances = estimate_variance_components(
            [(run @ run.T, run.shape[1]) for run in runs],
            (SOLVER_PARAMETERS.min_change_fraction * max(shapes[0])) ** 2,
            (SOLVER_PARAMETERS.min_residual_fraction * max(shapes[0])) ** 2,
            is_shift=True,
        )
        weights.append((variances.trend + variances.residual) / variances.jitter)
    return np.array([weights[0]] * 2 + [weights[1]] * 4)


def _to_parameters(matrix: FloatArray, center: FloatArray, radius: float) -> FloatArray:
    """Convert an affine matrix to six lengths: shift of the center, rotation, and three strains at the radius."""
    shift = matrix[:2, :2] @ center + matrix[:2, 2] - center
    a = matrix[:2, :2]
    rotation = math.atan2(a[1, 0] - a[0, 1], a[0, 0] + a[1, 1])
    c, s = math.cos(rotation), math.sin(rotation)
    strain = np.array([[c, s], [-s, c]]) @ a - np.eye(2)
    return np.array(
        [*shift, *(radius * np.array([rotation, strain[0, 0], strain[1, 1], (strain[0, 1] + strain[1, 0]) / 2]))]
    )


def _to_matrix(parameters: FloatArray, center: FloatArray, radius: float) -> FloatArray:
    rotation, *strain = parameters[2:] / radius
    c, s = math.cos(rotation), math.sin(rotation)
    linear = np.array([[c, -s], [s, c]]) @ np.array([[1 + strain[0], strain[2]], [strain[2], 1 + strain[1]]])
    out = np.eye(3)
    out[:2, :2] = linear
    out[:2, 2] = center + parameters[:2] - linear @ center
    return out


def _refine_poses(
    poses: list[FloatArray],
    recorded_at: list[FloatArray],
    known: set[int],
    matches: Mapping[Pair, CoarseMatch],
    fixed: Mapping[int, FloatArray],
    motion: str,
    position_weights: FloatArray,
    center: FloatArray,
    radius: float,
) -> list[FloatArray]:
    """Apply one Gauss-Newton step to all poses: corrections ``D`` on the canvas side, ``pose @ D``."""
    count = len(poses)
    pairs = [(a, b) for a, b in sorted(matches) if a in known and b in known]
    target = np.array(
        [
            _to_parameters(np.asarray(np.linalg.inv(poses[b]) @ matches[a, b].matrix @ poses[a]), center, radius)
            for a, b in pairs
        ]
    ).reshape(-1, 6)
    prior = np.zeros((count, 6))
    for z in known:
        # prior: recorded position and shape; none for a reflected section
        recorded = np.asarray(np.linalg.inv(poses[z]) @ recorded_at[z])
        prior[z] = _to_parameters(recorded, center, radius) if np.linalg.det(recorded[:2, :2]) > 0 else 0
    if fixed:  # all sections may be rotated relative to the fixed one, by half a turn in either direction
        rotations = np.exp(1j * prior[:, 2] / radius)
        common = np.exp(1j * np.angle(rotations[sorted(known)].mean()))
        prior[:, 2] = radius * (np.angle(common) + np.angle(rotations / common))
    recorded_distance = np.linalg.norm(prior[:, :3], axis=1)
    max_distance = 3 * float(np.median(recorded_distance[sorted(known)])) + 1e-6
    prior_weight = np.where(recorded_distance > max_distance, max_distance / np.maximum(recorded_distance, 1e-12), 1.0)
    prior_weight[recorded_distance > SOLVER_PARAMETERS.max_offset_fraction * 2 * float(center.max())] = 0.0
    match_weight = np.array([matches[p].confidence / (p[1] - p[0]) for p in pairs])
    near = match_weight[[b - a == 1 for a, b in pairs]] if pairs else match_weight
    match_weight = match_weight / max(float(np.median(near)), 1e-6) if len(near) else match_weight
    result = np.zeros((count, 6))
    free = np.array([z in known and z not in fixed for z in range(count)])
    has_prior = np.array([z in known for z in range(count)], dtype=float)
    robust = np.ones(len(pairs))
    # outlier matches are down-weighted with a weak prior first; the full prior comes last
    for prior_fraction in (SOLVER_PARAMETERS.initial_prior_fraction, SOLVER_PARAMETERS.initial_prior_fraction, 1.0):
        for k in range(6):
            if k >= {"translation": 2, "rigid": 3, "affine": 6}[motion]:
                break
            result[:, k] = _solve_component(
                count,
                pairs,
                match_weight * robust,
                target[:, k],
                prior_fraction * position_weights[k] * prior_weight * has_prior,
                prior[:, k],
                free,
                bool(fixed),
            )
        if pairs:
            ends = np.array(pairs)
            off = np.linalg.norm(result[ends[:, 1]] - result[ends[:, 0]] - target, axis=1)
            scale = 2 * (float(np.median(off)) + 1e-3 * radius)
            robust = 1 / (1 + (off / scale) ** 2)
    return [
        fixed[z] if z in fixed else pose @ _to_matrix(result[z], center, radius) if free[z] else pose
        for z, pose in enumerate(poses)
    ]


def _solve_component(
    count: int,
    pairs: Sequence[Pair],
    match_weight: FloatArray,
    target: FloatArray,
    prior_weight: FloatArray,
    prior: FloatArray,
    free: FloatArray,
    floating: bool,
) -> FloatArray:
    """Minimize ``weight (x_b - x_a - target)^2 + prior_weight (x - prior - m)^2``; fixed sections stay at 0.

    ``m`` is 0, or free if a section is fixed, so that the whole stack moves along with it.
    """
    diagonal = np.append(prior_weight + 1e-9, prior_weight.sum() + 1e-9)
    right = np.append(prior_weight * prior, -(prior_weight * prior).sum())
    every, last = np.arange(count), np.full(count, count)
    rows, columns = [np.arange(count + 1), every, last], [np.arange(count + 1), last, every]
    values = [diagonal, -prior_weight, -prior_weight]
    if pairs:
        ends = np.array(pairs)
        a, b = ends[:, 0], ends[:, 1]
        rows += [a, b, a, b]
        columns += [a, b, b, a]
        values += [match_weight, match_weight, -match_weight, -match_weight]
        np.add.at(right, b, match_weight * target)
        np.subtract.at(right, a, match_weight * target)
    matrix = coo_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))).tocsc()
    inside = np.flatnonzero(np.append(free, floating))
    out = np.zeros(count + 1)
    if len(inside):
        out[inside] = spsolve(matrix[inside][:, inside], right[inside])
    return out[:count]


def _interpolate_missing(poses: list[FloatArray], known: set[int], center: FloatArray) -> list[FloatArray]:
    """Interpolate the poses of sections without a match from those before and after."""
    result = list(poses)
    for z in sorted(set(range(len(poses))) - known):
        before = max((k for k in known if k < z), default=-1)
        after = min((k for k in known if k > z), default=-1)
        if before < 0 or after < 0:
            near = max(before, after)
            result[z] = poses[near].copy() if near >= 0 else np.eye(3)
            continue
        result[z] = interpolate_pose(poses[before], poses[after], (z - before) / (after - before), center)
    return result


def interpolate_pose(before: FloatArray, after: FloatArray, fraction: float, center: FloatArray) -> FloatArray:
    """Interpolate between two poses ``(3, 3)`` on the group, so that a rotation changes the angle and not the size.

    ``center`` ``(2,)`` is the point about which the rotation is taken. Between a section and a mirrored one there is no
    path; the nearer one is returned.
    """
    relative = np.asarray(np.linalg.inv(before) @ after)
    if np.linalg.det(relative[:2, :2]) < 0:
        return (before if fraction <= 0.5 else after).copy()
    parameters = _to_parameters(relative, center, 1.0)
    return np.asarray(before @ _to_matrix(fraction * parameters, center, 1.0))


def place_between(transforms: list[SectionTransform], sections: set[int]) -> list[SectionTransform]:
    """Place sections between their neighbors: pose on the group, deformation linearly; at an end, as the next one."""
    known = [z for z in range(len(transforms)) if z not in sections]
    result = list(transforms)
    for z in sorted(sections):
        before = max((k for k in known if k < z), default=known[0])
        after = min((k for k in known if k > z), default=known[-1])
        fraction = 0.0 if before >= after else (z - before) / (after - before)
        a, b = transforms[before], transforms[after]
        center = (np.asarray(a.shape, dtype=np.float64) - 1) / 2
        pose = interpolate_pose(a.affines[0], b.affines[0], fraction, center)
        vectors = (1 - fraction) * a.vectors[0] + fraction * b.vectors[0]
        one, count = transforms[z], transforms[z].n_fragments
        result[z] = replace(one, affines=np.stack([pose] * count), vectors=np.stack([vectors] * count))
    return result


def lay_as_recorded(transforms: list[SectionTransform], segments: Sequence[Sequence[int]]) -> list[SectionTransform]:
    """Move each segment of a broken stack as a whole, so that its sections lie on average where they were recorded.

    A chance match across a break may have placed one part anywhere. What the parts show in themselves stays. A mirrored
    part is left where it is.
    """
    result = list(transforms)
    for segment in segments:
        if np.linalg.det(transforms[segment[0]].affines[0][:2, :2]) < 0:
            continue
        points = [_section_points(transforms[z]) for z in segment]
        rigid = fit_rigid(np.concatenate([p for p, _ in points]), np.concatenate([q for _, q in points]))
        back = np.linalg.inv(rigid)
        for z in segment:
            one = transforms[z]
            nodes = one.lattice.points()
            index = np.moveaxis(one.lattice.index(nodes @ back[:2, :2].T + back[:2, 2]), -1, 0)
            moved = np.stack([[map_coordinates(c, index, order=3, mode="nearest") for c in v] for v in one.vectors])
            vectors = np.einsum("ij,pjyx->piyx", rigid[:2, :2], moved)
            result[z] = replace(one, affines=one.affines @ back, vectors=vectors)
    return result


def _section_points(transform: SectionTransform, count: int = 7) -> tuple[FloatArray, FloatArray]:
    """Points ``(N, 2)`` of the canvas that a section covers, and their positions in the section."""
    raw = np.stack(np.meshgrid(*(np.linspace(0.1, 0.9, count) * (n - 1) for n in transform.shape), indexing="ij"), -1)
    back = np.linalg.inv(transform.affines[0])
    canvas = raw.reshape(-1, 2) @ back[:2, :2].T + back[:2, 2]
    return canvas, np.asarray(transform(canvas))
