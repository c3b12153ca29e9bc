"""All vectors of a stack at once: neighbors' wishes against staying put and staying smooth.

Unknown are the vectors ``u`` of every section, counted from where it was recorded, and the tissue's course ``c`` from
each section to the next. The energy is the sum over matched pairs of ``w |u_b - u_a + c_a + ... + c_(b-1) - m|^2``
(robust), and pulls of ``u`` and ``c`` to none, wave by wave, as strong as their variances say (``course``): what
steps there and back from section to section is let go, what goes on for several is left to the tissue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from napari_stnreg.core.grid import FloatArray
from napari_stnreg.stacks.matching.fine import FineMatch
from napari_stnreg.stacks.matching.spline_fit import smoothness_matrix
from napari_stnreg.stacks.section_transform import SectionTransform
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.solver.landmark_constraints import LandmarkConstraints, Landmarks
from napari_stnreg.stacks.solver.variance_components import (
    INNER,
    Variances,
    Waves,
    estimate_variance_components,
    persistent,
)

Pair = tuple[int, int]
Index = npt.NDArray[np.intp]
TREND_WEIGHT = {"keep": 1.0, "reduce": 0.2, "remove": 0.02}
"""What each course multiplies the tether with."""
SMOOTH = 0.03
"""Stiffness of a section's own vectors at ``smoothness=1``."""
TOGETHER = 0.01
"""How firmly the pieces of a torn section hold together."""
FAITH = 0.2
"""Share of the pulls that variances ask for: a section is held by several links, which one of them knows nothing of."""
LEAST_COURSE = 0.001
"""Variance of the tissue's course that is always allowed for, as a share of the rest."""
LEAST_CHANGE = 0.001
"""By how much, as a share of the section's side, tissue always changes from section to section."""
SEEN = 0.4
"""Share of the best vector's weight above which a vector counts among those that say what a stack is like."""
LOOSE = 0.01
"""Share of the tether with which links are first judged."""
LEAST_SCALE = 0.004
"""Disagreement of links, as a share of the section's side, that never speaks against one of them."""
ELSEWHERE = 0.1
"""Share of a section's side: where it was recorded, if farther off than this, says nothing of where it belongs."""
REWEIGHTINGS = 3
STEPS = 150


def solve_elastic(
    transforms: list[SectionTransform],
    matches: Mapping[Pair, FineMatch],
    settings: StackSettings,
    fixed: Mapping[int, SectionTransform] | None = None,
    landmarks: Landmarks | None = None,
    rest: FloatArray | None = None,
) -> list[SectionTransform]:
    """Vectors for every section.

    Parameters
    ----------
    maps
        One a section, on one lattice; their vectors only matter for sections that are held or matched with nothing.
    matches
        By section numbers ``(a, b)``, ``a < b``.
    settings
        Tether, stiffness, course, and the section that is pinned.
    fixed
        Sections whose maps stay as they are: those outside a range that is aligned again, or the pinned one.
    landmarks
        By section numbers, two arrays ``(N, 2)`` of raw pixels that belong together; they outweigh comparisons.
    rest
        ``(2, gy, gx)`` how far from where it was recorded a section lies to which nothing is done. If not given, it is
        the sections' mean where one of them is held, which takes the whole stack along, and none otherwise.
    """
    shape = transforms[0].lattice.shape
    first = np.concatenate([[0], np.cumsum([m.n_fragments for m in transforms])]).astype(int)
    is_fixed = np.zeros(first[-1], dtype=bool)
    vectors = np.zeros((first[-1], 2, *shape))
    keep = kept(transforms, settings, fixed)
    for z, there in keep.items():
        is_fixed[first[z] : first[z + 1]] = True
        vectors[first[z] : first[z + 1]] = there.vectors
    if rest is None and not keep:
        rest = np.zeros((2, *shape))
    base = _at_rest(transforms, rest)
    linked = np.zeros(first[-1], dtype=bool)
    links = _links(matches, first, shape)
    ties = LandmarkConstraints.of(landmarks or {}, transforms, first)
    if not len(links.a) and not len(ties):
        return [m.with_vectors(vectors[first[z] : first[z + 1]]) for z, m in enumerate(transforms)]
    robust = np.ones(links.shift[:, :1].shape)
    least = LEAST_SCALE * max(transforms[0].shape)
    links = replace(links, shift=links.shift + base[links.b] - base[links.a])
    linked[links.a], linked[links.b] = True, True
    for a, b in landmarks or {}:
        linked[first[a] : first[a + 1]] = linked[first[b] : first[b + 1]] = True
    is_fixed |= ~linked
    prior = _prior(links, transforms, first, settings, floating=rest is None)
    ties = replace(ties, shift=ties.shift + ties.gaps(base))
    state = np.concatenate([vectors + base, np.zeros((len(transforms) - 1, 2, *shape))])
    free = np.concatenate([~is_fixed, np.ones(len(transforms) - 1, dtype=bool)])
    # Loose at first: what the links say of each other decides which of them to believe, not the tether's tension.
    hold = np.full((first[-1], 1, 1, 1), LOOSE)
    for _ in range(REWEIGHTINGS):
        state = _conjugate_gradients(state, free, replace(links, weight=links.weight * robust), ties, prior, hold)
        # a section that lies off by much more than most is not held back: it is to be mended
        vectors = state[: first[-1]]
        size = np.sqrt(((vectors - prior.home(vectors, hold)) ** 2).mean(axis=(1, 2, 3), keepdims=True))
        hold = 1.0 / (1.0 + (size / (3.0 * float(np.median(size)) + 1e-6)) ** 2)
        off = np.sqrt(((links.seen(state) - links.shift) ** 2).sum(axis=1, keepdims=True))
        seen = links.weight[:, :1] + links.weight[:, 2:] > 0.5
        scale = least + (1.5 * float(np.median(off[seen])) if seen.any() else 0.0)
        robust = 1.0 / (1.0 + (off / (2.0 * scale)) ** 2)
    vectors = vectors - base
    return [m.with_vectors(vectors[first[z] : first[z + 1]]) for z, m in enumerate(transforms)]


def kept(
    transforms: list[SectionTransform], settings: StackSettings, fixed: Mapping[int, SectionTransform] | None
) -> dict[int, SectionTransform]:
    """All sections that stay where they are: those held, and the one that is pinned."""
    keep = dict(fixed or {})
    if settings.reference is not None and settings.reference < len(transforms):
        pinned = transforms[settings.reference]
        keep.setdefault(settings.reference, pinned.with_vectors(0 * pinned.vectors))
    return keep


def recorded(there: SectionTransform) -> FloatArray:
    """How far ``(P, 2, gy, gx)`` the poses of a section's pieces take it from where it was recorded."""
    nodes = there.lattice.points()
    back = np.linalg.inv(there.affines)
    return np.stack([(nodes - nodes @ m[:2, :2].T - m[:2, 2]).transpose(2, 0, 1) for m in back])


def _at_rest(transforms: list[SectionTransform], rest: FloatArray | None) -> FloatArray:
    """As :func:`recorded`, for all pieces; those that lay quite elsewhere as if they lay where most do.

    Counted from ``rest``; without it, the stack may lie anywhere as a whole.
    """
    base = np.concatenate([recorded(m) for m in transforms])
    base = base - (np.median(base, axis=0) if rest is None else rest)
    base[np.sqrt((base**2).mean(axis=(1, 2, 3))) > ELSEWHERE * max(transforms[0].shape)] = 0.0
    return base


@dataclass(frozen=True)
class _Links:
    """Pieces matched. The unknowns they speak of are the vectors of all pieces, then the course in all gaps.

    Parameters
    ----------
    a, b
        ``(K,)`` pieces.
    gap
        ``(K,)`` the gap behind the first one's section, and ``lag`` how many gaps lie between the two.
    shift, weight
        ``(K, 2, gy, gx)`` and ``(K, 3, gy, gx)``.
    matrix
        ``(K, unknowns)`` by how much pieces differ: by their own vectors, and by the course in the gaps between.
    """

    a: Index
    b: Index
    gap: Index
    lag: Index
    shift: FloatArray
    weight: FloatArray
    matrix: csr_matrix

    def seen(self, state: FloatArray) -> FloatArray:
        """By how much ``(K, 2, gy, gx)`` the pieces differ for unknowns ``(N, 2, gy, gx)``."""
        return np.asarray(self.matrix @ state.reshape(len(state), -1)).reshape(self.shift.shape)

    def forces(self, gaps: FloatArray) -> FloatArray:
        """The adjoint of :meth:`seen`, weighted."""
        y = self.weight[:, 0] * gaps[:, 0] + self.weight[:, 1] * gaps[:, 1]
        x = self.weight[:, 1] * gaps[:, 0] + self.weight[:, 2] * gaps[:, 1]
        flat = np.stack([y, x], axis=1).reshape(len(gaps), -1)
        return np.asarray(self.matrix.T @ flat).reshape(-1, *gaps.shape[1:])

    def diagonal(self) -> FloatArray:
        """The diagonal of ``forces(seen(.))``, ``(N, 2, gy, gx)``."""
        flat = self.weight[:, [0, 2]].reshape(len(self.weight), -1)
        return np.asarray(abs(self.matrix).T @ flat).reshape(-1, *self.shift.shape[1:])


def _links(matches: Mapping[Pair, FineMatch], first: Index, shape: tuple[int, int]) -> _Links:
    rows = []
    for (a, b), match in sorted(matches.items()):
        for p in range(match.shift.shape[0]):
            for q in range(match.shift.shape[1]):
                trust = max(match.score[p, q], 0.0) ** 2
                if trust > 0 and match.weight[p, q].any():
                    rows.append((first[a] + p, first[b] + q, a, b - a, match.shift[p, q], match.weight[p, q], trust))
    unknowns = int(first[-1]) + len(first) - 2
    if not rows:
        none, empty = np.zeros(0, dtype=np.intp), csr_matrix((0, unknowns))
        return _Links(none, none, none, none, np.zeros((0, 2, *shape)), np.zeros((0, 3, *shape)), empty)
    ia, ib, gap, lag = (np.array([r[k] for r in rows], dtype=np.intp) for k in range(4))
    trust = np.array([r[6] for r in rows])
    near = trust[lag == lag.min()]
    trust = np.minimum(trust / float(np.median(near)), 2.0)
    weight = np.stack([r[5] for r in rows]) * trust[:, None, None, None]
    # more than a well-textured place's share is not better known: its error is the tissue's, not the camera's
    size = 0.5 * (weight[:, :1] + weight[:, 2:])
    weight = weight / np.maximum(size, 1.0) / lag[:, None, None, None]
    between = [first[-1] + np.arange(g, g + n) for g, n in zip(gap, lag, strict=True)]
    columns = np.concatenate([ia, ib, *between])
    signs = np.concatenate([np.full(len(ia), -1.0), np.ones(len(columns) - len(ia))])
    places = np.concatenate([np.arange(len(ia)), np.arange(len(ia)), np.repeat(np.arange(len(ia)), lag)])
    matrix = csr_matrix((signs, (places, columns)), shape=(len(ia), unknowns))
    return _Links(ia, ib, gap, lag, np.stack([r[4] for r in rows]), weight, matrix)


@dataclass(frozen=True)
class _Prior:
    """What holds the unknowns where nothing is seen.

    Parameters
    ----------
    waves
        Of the lattice.
    own, course
        ``(gy, gx)`` pull of every wave of a section's vectors, and of the course, to none.
    stiffness
        ``(gy * gx, gy * gx)`` of a section's vectors.
    siblings
        ``(T, 2)`` pieces of one section.
    pieces
        How many there are in all.
    floating
        Whether rest is where the sections are in the mean: one that is pinned takes the whole stack along.
    """

    waves: Waves
    own: FloatArray
    course: FloatArray
    stiffness: FloatArray
    siblings: Index
    n_fragments: int
    floating: bool

    def home(self, own: FloatArray, hold: FloatArray) -> FloatArray | float:
        """Where sections are drawn, ``(2, gy, gx)``, given their vectors."""
        return (hold * own).sum(axis=0) / hold.sum() if self.floating else 0.0

    def forces(self, state: FloatArray, hold: FloatArray) -> FloatArray:
        """Pulls on all unknowns; ``hold`` ``(pieces, 1, 1, 1)`` multiplies those to rest."""
        out = np.empty_like(state)
        u, c = state[: self.n_fragments], state[self.n_fragments :]
        out[: self.n_fragments] = hold * self.waves.back(self.own * self.waves.forward(u - self.home(u, hold)), u.shape)
        flat = u.reshape(*u.shape[:2], -1)
        out[: self.n_fragments] += (flat @ self.stiffness).reshape(u.shape)
        if len(self.siblings):
            left, right = self.siblings.T
            apart = TOGETHER * (u[right] - u[left])
            np.add.at(out, right, apart)
            np.subtract.at(out, left, apart)
        out[self.n_fragments :] = self.waves.back(self.course * self.waves.forward(persistent(c)), c.shape)
        return out

    def diagonal(self, size: int, hold: FloatArray) -> FloatArray:
        """About the diagonal of :meth:`forces`, ``(size, 1, 1, 1)``."""
        own = hold * float(self.own.mean()) + float(np.diag(self.stiffness).mean())
        return np.concatenate([own, np.full((size - self.n_fragments, 1, 1, 1), float(self.course.mean()) * INNER)])


def _prior(
    links: _Links, transforms: list[SectionTransform], first: Index, settings: StackSettings, *, floating: bool
) -> _Prior:
    """Pulls as variances say: that of what is another in every gap over that of the unknown."""
    lattice = transforms[0].lattice
    waves = Waves(lattice.shape, max(transforms[0].shape) / lattice.spacing[0])
    found = _variances(links, transforms, waves)
    loose = TREND_WEIGHT[settings.trend]
    own = np.array([v.rest / v.own for v in found])[waves.band] * FAITH * settings.position_weight * loose
    course = np.array([v.rest / max(v.course, LEAST_COURSE * v.rest) for v in found])[waves.band] / loose
    stiffness = smoothness_matrix(lattice.shape) * SMOOTH * settings.smoothness
    pairs = [(k, k + 1) for z in range(len(transforms)) for k in range(first[z], first[z + 1] - 1)]
    siblings = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    return _Prior(waves, own, course, stiffness, siblings, int(first[-1]), floating)


def _variances(links: _Links, transforms: list[SectionTransform], waves: Waves) -> list[Variances]:
    """What the differences of neighbors consist of, for each band of the whole lattice."""
    spread = (LEAST_CHANGE * max(transforms[0].shape)) ** 2
    seen = 0.5 * (links.weight[:, 0] + links.weight[:, 2]).sum(axis=0)
    # the margins, which hardly any section reaches, only go on as the middle does
    rows, columns = (np.flatnonzero(seen.max(axis=k) > SEEN * seen.max()) for k in (1, 0))
    if len(rows) < 2 or len(columns) < 2:
        return [estimate_variance_components([], spread)] * waves.count
    inside = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    chain: list[FloatArray | None] = [None] * (len(transforms) - 1)
    for k in np.flatnonzero(links.lag == 1):
        chain[int(links.gap[k])] = links.shift[k][:, *inside]
    found = Waves(seen[inside].shape, waves.side).variances(chain, spread)
    return found + [found[-1]] * (waves.count - len(found))


def _conjugate_gradients(
    state: FloatArray, free: FloatArray, links: _Links, ties: LandmarkConstraints, prior: _Prior, hold: FloatArray
) -> FloatArray:
    count = len(hold)
    shape = (count, *state.shape[1:])

    def landmarks(gaps: FloatArray) -> FloatArray:
        out = np.zeros_like(state)
        out[:count] = ties.forces(gaps, shape)
        return out

    def apply(u: FloatArray) -> FloatArray:
        found = links.forces(links.seen(u)) + prior.forces(u, hold)
        return found + landmarks(ties.gaps(u[:count])) if len(ties) else found

    mask = free[:, None, None, None]
    diagonal = links.diagonal() + prior.diagonal(len(state), hold)
    diagonal[:count] += ties.diagonal(shape)
    residual = np.where(mask, links.forces(links.shift) + landmarks(ties.shift) - apply(state), 0)
    goal = 1e-5 * float(np.sqrt((residual**2).sum())) + 1e-9
    ahead = residual / diagonal
    direction, product = ahead.copy(), float((residual * ahead).sum())
    for _ in range(STEPS):
        if float(np.sqrt((residual**2).sum())) <= goal:
            break
        pushed = np.where(mask, apply(direction), 0)
        pace = product / max(float((direction * pushed).sum()), 1e-30)
        state = state + pace * direction
        residual = residual - pace * pushed
        ahead = residual / diagonal
        product, before = float((residual * ahead).sum()), product
        direction = ahead + (product / before) * direction
    return state
