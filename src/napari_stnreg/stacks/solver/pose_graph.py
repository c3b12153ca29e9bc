"""Solve the pose graph: from matches between neighbors to the pose of every section on the canvas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from scipy.sparse.linalg import spsolve

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray
from napari_stnreg.stacks.matching.coarse import PARAMETERS as COARSE_PARAMETERS
from napari_stnreg.stacks.matching.coarse import CoarseMatch
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.solver.elastic import PARAMETERS, TREND_WEIGHT, Pair
from napari_stnreg.stacks.solver.variance_components import PARAMETERS as VARIANCE_PARAMETERS
from napari_stnreg.stacks.solver.variance_components import estimate_variance_components, segments

GAUSS_NEWTON_ITERATIONS = 4
CANDIDATE_FRAMES = 15
"""Sections that are tried as the frame in which most sections are near their recorded pose."""


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
        Sections of the stack.
    matches
        By section numbers ``(a, b)``; those below :attr:`CoarseParameters.min_confidence
        <napari_stnreg.stacks.matching.coarse.CoarseParameters>` are ignored.
    shapes
        Of the sections, full-resolution pixels.
    settings
        Motion, position weight, trend and reference section.
    fixed
        Poses of sections that stay, canvas to section.

    Notes
    -----
    A spanning tree of the best matches gives initial poses. All matches are then balanced by robust least squares
    against a weak prior on the recorded position, size and shape of each section, so that neither errors nor the slope
    of the tissue accumulate. Sections without a match are interpolated between their neighbors.
    """
    if not count:
        raise InputError("The stack holds no sections.")
    believed = {pair: m for pair, m in matches.items() if m.confidence >= COARSE_PARAMETERS.min_confidence}
    keep = dict(fixed or {})
    root = _root(count, believed, settings.reference, keep)
    if settings.reference is not None and settings.reference < count:
        keep.setdefault(settings.reference, np.eye(3))
    poses, known = _chained(count, believed, root, keep.get(root, np.eye(3)), keep)
    middle = (np.asarray(shapes[root], dtype=np.float64) - 1) / 2
    radius = float(np.hypot(*shapes[root])) / 4
    if not keep:
        poses = _as_most_lie(poses, sorted(known), root, middle, radius)
    position_weight = (
        settings.position_weight * TREND_WEIGHT[settings.trend] * _position_weight(believed, shapes, radius)
    )
    for _ in range(GAUSS_NEWTON_ITERATIONS):
        poses = _balanced(poses, known, believed, keep, settings.motion, position_weight, middle, radius)
    return _bridged(poses, known | set(keep))


def _root(
    count: int, matches: Mapping[Pair, CoarseMatch], reference: int | None, fixed: Mapping[int, FloatArray]
) -> int:
    if reference is not None and reference < count:
        return reference
    if fixed:
        return min(fixed)
    linked = {z for pair in matches for z in pair}
    return min(linked, key=lambda z: abs(z - (count - 1) / 2)) if linked else count // 2


def _chained(
    count: int, matches: Mapping[Pair, CoarseMatch], root: int, start: FloatArray, fixed: Mapping[int, FloatArray]
) -> tuple[list[FloatArray], set[int]]:
    """Poses along the trees of the best matches, and which sections they reach; far pairs only where near ones fail.

    Where nothing links two parts of a stack, each is a tree of its own: the farther one begins at the pose of the
    nearest section that is placed, so that its own sections at least lie right to each other.
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


def _as_most_lie(
    poses: list[FloatArray], known: list[int], root: int, middle: FloatArray, radius: float
) -> list[FloatArray]:
    """Poses on a canvas on which most sections lie as they were recorded: the root may be the one that was turned."""

    def off(frame: int) -> float:
        back = np.linalg.inv(poses[frame])
        return float(np.median([_from_home(pose @ back, middle, radius) for pose in map(poses.__getitem__, known)]))

    chosen = np.unique(np.linspace(0, len(known) - 1, min(len(known), CANDIDATE_FRAMES)).round().astype(int))
    best = min((known[k] for k in chosen), key=off)
    if off(best) > 0.5 * off(root):
        return poses
    back = np.linalg.inv(poses[best])
    return [np.asarray(pose @ back) for pose in poses]


def _from_home(pose: FloatArray, middle: FloatArray, radius: float) -> float:
    """How far a pose takes a section from where it was recorded, pixels; upside down counts as far as can be."""
    if np.linalg.det(pose[:2, :2]) < 0:
        return float(4 * radius)
    return float(np.linalg.norm(_parameters(pose, middle, radius)[:3]))


def _position_weight(matches: Mapping[Pair, CoarseMatch], shapes: Sequence[tuple[int, int]], radius: float) -> float:
    moved: dict[int, tuple[int, FloatArray]] = {}
    for (a, b), match in sorted(matches.items(), reverse=True):
        middle = np.array([*(np.asarray(shapes[a], dtype=np.float64) - 1) / 2, 1.0])
        shift = match.matrix[:2] @ middle - (np.asarray(shapes[b], dtype=np.float64) - 1) / 2
        turn = math.atan2(match.matrix[1, 0] - match.matrix[0, 1], match.matrix[0, 0] + match.matrix[1, 1])
        moved[a] = b, np.array([*shift, turn * radius])
    if not moved:
        return 1.0
    # one section far off must not loosen the whole stack
    limit = 4 * float(np.median([np.abs(m).max() for _, m in moved.values()])) + 1e-9
    chain: list[FloatArray | None] = []
    for a in range(max(moved) + 1):
        b, shift = moved.get(a, (-1, np.zeros(3)))
        near = b == a + 1 and np.abs(shift).max() < PARAMETERS.max_offset_fraction * max(shapes[a])
        chain.append(np.clip(shift, -limit, limit) if near else None)
    runs = [np.stack(run) for run in segments(chain)]
    found = estimate_variance_components(
        [(run @ run.T, 3) for run in runs],
        (PARAMETERS.min_change_fraction * max(shapes[0])) ** 2,
        VARIANCE_PARAMETERS.expected_shift,
    )
    return (found.trend + found.residual) / found.jitter


def _parameters(matrix: FloatArray, middle: FloatArray, radius: float) -> FloatArray:
    """An affine near the identity as six lengths: shift of the middle, turn, and three strains at the radius."""
    shift = matrix[:2, :2] @ middle + matrix[:2, 2] - middle
    a = matrix[:2, :2]
    turn = math.atan2(a[1, 0] - a[0, 1], a[0, 0] + a[1, 1])
    c, s = math.cos(turn), math.sin(turn)
    strain = np.array([[c, s], [-s, c]]) @ a - np.eye(2)
    return np.array(
        [*shift, *(radius * np.array([turn, strain[0, 0], strain[1, 1], (strain[0, 1] + strain[1, 0]) / 2]))]
    )


def _affine(parameters: FloatArray, middle: FloatArray, radius: float) -> FloatArray:
    turn, *strain = parameters[2:] / radius
    c, s = math.cos(turn), math.sin(turn)
    linear = np.array([[c, -s], [s, c]]) @ np.array([[1 + strain[0], strain[2]], [strain[2], 1 + strain[1]]])
    out = np.eye(3)
    out[:2, :2] = linear
    out[:2, 2] = middle + parameters[:2] - linear @ middle
    return out


def _balanced(
    poses: list[FloatArray],
    known: set[int],
    matches: Mapping[Pair, CoarseMatch],
    fixed: Mapping[int, FloatArray],
    motion: str,
    position_weight: float,
    middle: FloatArray,
    radius: float,
) -> list[FloatArray]:
    """One Gauss-Newton step for all poses: corrections ``D`` on the canvas side of each, ``pose @ D``."""
    count = len(poses)
    pairs = [(a, b) for a, b in sorted(matches) if a in known and b in known]
    wanted = np.array(
        [
            _parameters(np.asarray(np.linalg.inv(poses[b]) @ matches[a, b].matrix @ poses[a]), middle, radius)
            for a, b in pairs
        ]
    ).reshape(-1, 6)
    rest = np.zeros((count, 6))
    for z in known:
        # where the section was recorded, and its own shape; upside down there is no such wish
        home = np.asarray(np.linalg.inv(poses[z]))
        rest[z] = _parameters(home, middle, radius) if np.linalg.det(home[:2, :2]) > 0 else 0
    if fixed:  # all of them may have been turned round against the one that stays: by half a turn, this way or that
        turns = np.exp(1j * rest[:, 2] / radius)
        common = np.exp(1j * np.angle(turns[sorted(known)].mean()))
        rest[:, 2] = radius * (np.angle(common) + np.angle(turns / common))
    home_size = np.linalg.norm(rest[:, :3], axis=1)
    reach = 3 * float(np.median(home_size[sorted(known)])) + 1e-6
    pull = np.where(home_size > reach, reach / np.maximum(home_size, 1e-12), 1.0) * position_weight
    pull[home_size > PARAMETERS.max_offset_fraction * 2 * float(middle.max())] = 0.0
    trust = np.array([matches[p].confidence / (p[1] - p[0]) for p in pairs])
    near = trust[[b - a == 1 for a, b in pairs]] if pairs else trust
    trust = trust / max(float(np.median(near)), 1e-6) if len(near) else trust
    result = np.zeros((count, 6))
    free = np.array([z in known and z not in fixed for z in range(count)])
    at_home = np.array([z in known for z in range(count)], dtype=float)
    robust = np.ones(len(pairs))
    # what the matches say of each other decides which of them to believe, not the pull's tension: it comes last
    for firm in (PARAMETERS.initial_prior_fraction, PARAMETERS.initial_prior_fraction, 1.0):
        for k in range(6):
            if k >= {"translation": 2, "rigid": 3, "affine": 6}[motion]:
                break
            result[:, k] = _chain(
                count, pairs, trust * robust, wanted[:, k], firm * pull * at_home, rest[:, k], free, bool(fixed)
            )
        if pairs:
            ends = np.array(pairs)
            off = np.linalg.norm(result[ends[:, 1]] - result[ends[:, 0]] - wanted, axis=1)
            scale = 2 * (float(np.median(off)) + 1e-3 * radius)
            robust = 1 / (1 + (off / scale) ** 2)
    return [
        fixed[z] if z in fixed else pose @ _affine(result[z], middle, radius) if free[z] else pose
        for z, pose in enumerate(poses)
    ]


def _chain(
    count: int,
    pairs: Sequence[Pair],
    trust: FloatArray,
    wanted: FloatArray,
    pull: FloatArray,
    rest: FloatArray,
    free: FloatArray,
    floating: bool,
) -> FloatArray:
    """Least squares of ``trust (x_b - x_a - wanted)^2 + pull (x - rest - m)^2``; sections that are not free stay at 0.

    ``m`` is 0, or free where a section is pinned, so that it takes the whole stack along to its place.
    """
    diagonal = np.append(pull + 1e-9, pull.sum() + 1e-9)
    right = np.append(pull * rest, -(pull * rest).sum())
    every, last = np.arange(count), np.full(count, count)
    rows, columns = [np.arange(count + 1), every, last], [np.arange(count + 1), last, every]
    values = [diagonal, -pull, -pull]
    if pairs:
        ends = np.array(pairs)
        a, b = ends[:, 0], ends[:, 1]
        rows += [a, b, a, b]
        columns += [a, b, b, a]
        values += [trust, trust, -trust, -trust]
        np.add.at(right, b, trust * wanted)
        np.subtract.at(right, a, trust * wanted)
    matrix = coo_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))).tocsc()
    inside = np.flatnonzero(np.append(free, floating))
    out = np.zeros(count + 1)
    if len(inside):
        out[inside] = spsolve(matrix[inside][:, inside], right[inside])
    return out[:count]


def _bridged(poses: list[FloatArray], known: set[int]) -> list[FloatArray]:
    """Poses of sections that no match reaches, from those before and after."""
    result = list(poses)
    for z in sorted(set(range(len(poses))) - known):
        before = max((k for k in known if k < z), default=-1)
        after = min((k for k in known if k > z), default=-1)
        if before < 0 or after < 0:
            near = max(before, after)
            result[z] = poses[near].copy() if near >= 0 else np.eye(3)
            continue
        share = (z - before) / (after - before)
        if np.linalg.det(poses[before][:2, :2]) * np.linalg.det(poses[after][:2, :2]) < 0:
            result[z] = poses[before if share <= 0.5 else after].copy()
        else:
            result[z] = (1 - share) * poses[before] + share * poses[after]
    return result
