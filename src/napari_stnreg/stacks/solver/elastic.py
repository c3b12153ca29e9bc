"""Joint least-squares solve of all sections: matches against position and smoothness priors.

The unknowns are the vectors ``u`` of every section, relative to its recorded position, and the trend ``c`` of the
tissue from each section to the next. The energy is the robust sum over matched pairs of
``w |u_b - u_a + c_a + ... + c_(b-1) - m|^2`` plus quadratic priors on ``u`` and ``c``, wave by wave, with weights from
their variance components: jitter of single sections is removed, a trend over several sections is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.ndimage import center_of_mass
from scipy.sparse import block_diag, csr_matrix, diags
from scipy.sparse.linalg import splu

from napari_stnreg.core.grid import FloatArray
from napari_stnreg.stacks.matching.fine import FineMatch
from napari_stnreg.stacks.matching.spline_fit import smoothness_matrix
from napari_stnreg.stacks.section_transform import SectionTransform
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.solver.landmark_constraints import LandmarkConstraints, Landmarks
from napari_stnreg.stacks.solver.variance_components import (
    CosineBands,
    VarianceComponents,
    ar1_precision,
    estimate_variance_components,
)

Pair = tuple[int, int]
Index = npt.NDArray[np.intp]
TREND_WEIGHT = {"keep": 1.0, "reduce": 0.2, "remove": 0.02}
"""Factor of the position weight for each trend setting."""


@dataclass(frozen=True)
class SolverParameters:
    """Tuning constants of the elastic solver and the pose graph.

    All were tuned on FIB-SEM stacks warped by known fields (``benchmark.stacks``, seeds 0 to 2), which are among the
    stacks of the reported results.

    Parameters
    ----------
    stiffness
        Bending stiffness of the displacement of a section at ``smoothness=1``.
    fragment_coupling
        Weight that couples neighboring fragments of one section.
    prior_fraction
        Fraction of the prior weight that follows from the variances. Less than 1, because each section is held by
        several matches and the variances describe a single one.
    min_trend_fraction
        Lower limit of the variance of the trend, relative to that of the residual.
    min_change_fraction
        Lower limit of the change of tissue between neighbors, relative to the side of a section.
    min_weight_fraction
        Control points count for the variances if their weight exceeds this fraction of the largest weight.
    initial_prior_fraction
        Fraction of the prior weight in the first iterations, while outlier matches are down-weighted.
    min_residual_fraction
        Residual of a match that never counts as an outlier, relative to the side of a section.
    max_offset_fraction
        A section recorded farther off than this, relative to its side, has no position prior.
    magnification_step
        Change of size between neighbors above which the magnification was changed. Set by hand.
    reweightings
        Iterations of iteratively reweighted least squares.
    cg_iterations
        Largest number of conjugate-gradient iterations.
    cg_tolerance
        Relative residual at which conjugate gradients stop.
    """

    stiffness: float = 0.03
    fragment_coupling: float = 0.01
    prior_fraction: float = 0.2
    min_trend_fraction: float = 0.001
    min_change_fraction: float = 0.001
    min_weight_fraction: float = 0.4
    initial_prior_fraction: float = 0.01
    min_residual_fraction: float = 0.004
    max_offset_fraction: float = 0.1
    magnification_step: float = 0.07
    reweightings: int = 3
    cg_iterations: int = 150
    cg_tolerance: float = 1e-5


PARAMETERS = SolverParameters()


def solve_elastic(
    transforms: list[SectionTransform],
    matches: Mapping[Pair, FineMatch],
    settings: StackSettings,
    fixed: Mapping[int, SectionTransform] | None = None,
    landmarks: Landmarks | None = None,
    reference_offset: FloatArray | None = None,
) -> list[SectionTransform]:
    """Solve for the vectors of all sections.

    Parameters
    ----------
    maps
        One for each section, on one lattice; their vectors matter only for fixed and unmatched sections.
    matches
        By section numbers ``(a, b)``, ``a < b``.
    settings
        Position weight, smoothness, trend and reference section.
    fixed
        Sections whose transforms stay: those outside a range that is aligned again.
    landmarks
        By section numbers, two arrays ``(N, 2)`` of corresponding raw pixels; they outweigh image matches.
    reference_offset
        ``(2, gy, gx)`` offset of the position prior from the recorded position. By default the mean of all sections if
        one is fixed, so that it takes the whole stack along, and zero otherwise.
    """
    shape = transforms[0].lattice.shape
    first = np.concatenate([[0], np.cumsum([m.n_fragments for m in transforms])]).astype(int)
    is_fixed = np.zeros(first[-1], dtype=bool)
    vectors = np.zeros((first[-1], 2, *shape))
    keep = fixed_sections(transforms, settings, fixed)
    for z, there in keep.items():
        is_fixed[first[z] : first[z + 1]] = True
        vectors[first[z] : first[z + 1]] = there.vectors
    if reference_offset is None and not keep:
        reference_offset = np.zeros((2, *shape))
    base = _reference_displacement(transforms, reference_offset)
    linked = np.zeros(first[-1], dtype=bool)
    links = _links(matches, first, shape)
    constraints = LandmarkConstraints.from_landmarks(landmarks or {}, transforms, first)
    if not len(links.a) and not len(constraints):
        return [m.with_vectors(vectors[first[z] : first[z + 1]]) for z, m in enumerate(transforms)]
    robust = np.ones(links.shift[:, :1].shape)
    least = PARAMETERS.min_residual_fraction * max(transforms[0].shape)
    links = replace(links, shift=links.shift + base[links.b] - base[links.a])
    linked[links.a], linked[links.b] = True, True
    for a, b in landmarks or {}:
        linked[first[a] : first[a + 1]] = linked[first[b] : first[b + 1]] = True
    is_fixed |= ~linked
    prior = _prior(links, transforms, first, settings, floating=reference_offset is None)
    constraints = replace(constraints, shift=constraints.shift + constraints.residuals(base))
    state = np.concatenate([vectors + base, np.zeros((len(transforms) - 1, 2, *shape))])
    free = np.concatenate([~is_fixed, np.ones(len(transforms) - 1, dtype=bool)])
    # The prior is weak at first, so that matches are judged by each other and not by the tension of the prior.
    hold = np.full((first[-1], 1, prior.waves.basis.shape[1]), PARAMETERS.initial_prior_fraction)
    for _ in range(PARAMETERS.reweightings):
        state = _conjugate_gradients(
            state, free, replace(links, weight=links.weight * robust), constraints, prior, hold
        )
        vectors = state[: first[-1]]
        hold = prior.relax(vectors, hold)
        off = np.sqrt(((links.seen(state) - links.shift) ** 2).sum(axis=1, keepdims=True))
        seen = links.weight[:, :1] + links.weight[:, 2:] > 0.5
        scale = least + (1.5 * float(np.median(off[seen])) if seen.any() else 0.0)
        robust = 1.0 / (1.0 + (off / (2.0 * scale)) ** 2)
    vectors = vectors - base
    return [m.with_vectors(vectors[first[z] : first[z + 1]]) for z, m in enumerate(transforms)]


def fixed_sections(
    transforms: list[SectionTransform], settings: StackSettings, fixed: Mapping[int, SectionTransform] | None
) -> dict[int, SectionTransform]:
    """Return all sections that stay: the fixed ones and the reference section."""
    keep = dict(fixed or {})
    if settings.reference is not None and settings.reference < len(transforms):
        pinned = transforms[settings.reference]
        keep.setdefault(settings.reference, pinned.with_vectors(0 * pinned.vectors))
    return keep


def recorded_poses(poses: Sequence[FloatArray], shape: tuple[int, int]) -> list[FloatArray]:
    """Return the pose of each section as it was recorded: the identity, or another size.

    Where the size of neighbors changes by more than :attr:`SolverParameters.magnification_step`, the magnification was
    changed. This is no position to return to, so that the sections are expected at the size at which they match.
    """
    sizes = 0.5 * np.log([max(abs(float(np.linalg.det(pose[:2, :2]))), 1e-12) for pose in poses])
    least = np.log1p(PARAMETERS.magnification_step)
    runs = np.split(np.arange(len(poses)), np.flatnonzero(np.abs(np.diff(sizes)) > least) + 1)
    usual = float(np.median(sizes[max(runs, key=len)]))
    center, found = (np.asarray(shape, dtype=np.float64) - 1) / 2, []
    for run in runs:
        change = float(np.median(sizes[run])) - usual
        pose = np.diag([*[np.exp(change if abs(change) > least else 0.0)] * 2, 1.0])
        pose[:2, 2] = center - pose[:2, :2] @ center
        found += [pose] * len(run)
    return found


def recorded_displacement(there: SectionTransform, recorded: FloatArray | None = None) -> FloatArray:
    """Return the displacement ``(P, 2, gy, gx)`` of the fragments from the recorded position, by their poses alone.

    ``recorded`` is the pose ``(3, 3)`` as recorded, see :func:`recorded_poses`; the identity if not given.
    """
    nodes = there.lattice.points()
    back = np.linalg.inv(there.affines) @ (np.eye(3) if recorded is None else recorded)
    return np.stack([(nodes - nodes @ m[:2, :2].T - m[:2, 2]).transpose(2, 0, 1) for m in back])


def _reference_displacement(transforms: list[SectionTransform], reference_offset: FloatArray | None) -> FloatArray:
    """Return :func:`recorded_displacement` of all fragments, relative to ``reference_offset`` or else to the median.

    Outliers are reset to zero, the median offset: their shift alone, if only that is an outlier.
    """
    recorded = recorded_poses([one.affines[0] for one in transforms], transforms[0].shape)
    base = np.concatenate([recorded_displacement(m, pose) for m, pose in zip(transforms, recorded, strict=True)])
    base = base - (np.median(base, axis=0) if reference_offset is None else reference_offset)
    shift = base.mean(axis=(2, 3), keepdims=True)
    rest = base - shift
    for part in (shift, rest):
        size = np.sqrt((part**2).sum(axis=1).mean(axis=(1, 2)))
        part[size > PARAMETERS.max_offset_fraction * max(transforms[0].shape)] = 0.0
    return np.asarray(shift + rest)


@dataclass(frozen=True)
class _Links:
    """Matches between fragments. The unknowns are the vectors of all fragments, then the trend in all gaps.

    Parameters
    ----------
    a, b
        ``(K,)`` fragments.
    gap
        ``(K,)`` gap after the section of the first fragment.
    lag
        ``(K,)`` number of gaps between the two sections.
    shift, weight
        ``(K, 2, gy, gx)`` and ``(K, 3, gy, gx)``.
    matrix
        ``(K, unknowns)``: difference of the fragments by their vectors and by the trend in the gaps between them.
    """

    a: Index
    b: Index
    gap: Index
    lag: Index
    shift: FloatArray
    weight: FloatArray
    matrix: csr_matrix

    def seen(self, state: FloatArray) -> FloatArray:
        """Differences ``(K, 2, gy, gx)`` of the fragments for unknowns ``(N, 2, gy, gx)``."""
        return np.asarray(self.matrix @ state.reshape(len(state), -1)).reshape(self.shift.shape)

    def forces(self, gaps: FloatArray) -> FloatArray:
        """Apply the weighted adjoint of :meth:`seen`."""
        y = self.weight[:, 0] * gaps[:, 0] + self.weight[:, 1] * gaps[:, 1]
        x = self.weight[:, 1] * gaps[:, 0] + self.weight[:, 2] * gaps[:, 1]
        flat = np.stack([y, x], axis=1).reshape(len(gaps), -1)
        return np.asarray(self.matrix.T @ flat).reshape(-1, *gaps.shape[1:])

    def mean_normal_matrix(self) -> csr_matrix:
        """Matrix ``(unknowns, unknowns)`` of ``forces(seen(.))`` if all control points had the mean weight."""
        weight = self.weight[:, [0, 2]].mean(axis=(1, 2, 3))
        return csr_matrix(self.matrix.T @ self.matrix.multiply(weight[:, None]))


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
    # strong texture adds no weight: there, the error is that of the tissue and not that of the image
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
    """Position and smoothness priors of the unknowns.

    Parameters
    ----------
    waves
        Cosine waves of the lattice.
    jitter, trend
        ``(gy * gx,)`` prior weight of every wave of a section's vectors, and of the trend.
    stiffness
        ``(gy * gx, gy * gx)`` of a section's vectors.
    siblings
        ``(T, 2)`` neighboring fragments of one section.
    pieces
        Number of fragments of all sections.
    floating
        Whether the prior is relative to the mean of the sections: a fixed section then takes the whole stack along.
    """

    waves: CosineBands
    jitter: FloatArray
    trend: FloatArray
    stiffness: FloatArray
    siblings: Index
    n_fragments: int
    floating: bool

    def home(self, amplitudes: FloatArray, hold: FloatArray) -> FloatArray | float:
        """Center of the position prior for the amplitudes ``(fragments, 2, gy * gx)`` of the waves."""
        return (hold * amplitudes).sum(axis=0) / hold.sum(axis=0) if self.floating else 0.0

    def relax(self, vectors: FloatArray, hold: FloatArray) -> FloatArray:
        """Return factors ``(fragments, 1, gy * gx)`` of the position prior: less for fragments off by more than most.

        The shift is judged apart from the rest, so that a shifted section keeps the prior of its shape.
        """
        amplitudes = self.waves.forward(vectors)
        away = (amplitudes - self.home(amplitudes, hold)) ** 2
        relaxed = np.empty_like(hold)
        for band in (self.waves.band == 0, self.waves.band > 0):
            size = np.sqrt(away[..., band].sum(axis=(1, 2)) / away[0, 0].size)
            relaxed[..., band] = (1.0 / (1.0 + (size / (3.0 * float(np.median(size)) + 1e-6)) ** 2))[:, None, None]
        return relaxed

    def forces(self, state: FloatArray, hold: FloatArray) -> FloatArray:
        """Gradient of the priors; ``hold`` ``(fragments, 1, gy * gx)`` scales the position prior."""
        out = np.empty_like(state)
        u, c = state[: self.n_fragments], state[self.n_fragments :]
        amplitudes = self.waves.forward(u)
        out[: self.n_fragments] = self.waves.adjoint(
            hold * self.jitter * (amplitudes - self.home(amplitudes, hold)), u.shape
        )
        flat = u.reshape(*u.shape[:2], -1)
        out[: self.n_fragments] += (flat @ self.stiffness).reshape(u.shape)
        if len(self.siblings):
            left, right = self.siblings.T
            apart = PARAMETERS.fragment_coupling * (u[right] - u[left])
            np.add.at(out, right, apart)
            np.subtract.at(out, left, apart)
        out[self.n_fragments :] = self.waves.adjoint(self.trend * self.waves.forward(ar1_precision(c)), c.shape)
        return out

    def band_matrix(self, band: int, hold: FloatArray, gaps: int) -> csr_matrix:
        """Matrix of the priors of one wave of a band, for all sections and all gaps."""
        waves = np.flatnonzero(self.waves.band == band)
        bending = float(np.einsum("ij,ik,kj->j", self.waves.basis[:, waves], self.stiffness,
                                  self.waves.basis[:, waves]).mean())  # fmt: skip
        position = hold[:, 0, waves].mean(axis=1) * self.jitter[waves[0]] + bending
        trend = self.trend[waves[0]] * ar1_precision(np.eye(gaps)) if gaps else np.zeros((0, 0))
        return csr_matrix(block_diag([diags(position), csr_matrix(trend)]))


def _prior(
    links: _Links, transforms: list[SectionTransform], first: Index, settings: StackSettings, *, floating: bool
) -> _Prior:
    """Derive the priors from the variances: that of the residual over that of the unknown."""
    lattice = transforms[0].lattice
    seen = (links.weight[:, 0] + links.weight[:, 2]).sum(axis=0)
    center: FloatArray | None = np.asarray(center_of_mass(seen)) if seen.any() else None
    waves = CosineBands(lattice.shape, max(transforms[0].shape) / lattice.spacing[0], center)
    found = _variances(links, transforms, waves)
    loose = TREND_WEIGHT[settings.trend]
    jitter = (
        np.array([v.residual / v.jitter for v in found])[waves.band]
        * PARAMETERS.prior_fraction
        * settings.position_weight
        * loose
    )
    trend = np.array([v.residual / max(v.trend, PARAMETERS.min_trend_fraction * v.residual) for v in found])[waves.band]
    # The trend of a linear band is the slope of oblique structures: its prior is as weak as that of the position. The
    # others keep their full weight, since waves over part of a lattice can imitate the shift of a whole section.
    trend *= np.where(waves.band == 1, PARAMETERS.prior_fraction, 1.0) / loose
    stiffness = smoothness_matrix(lattice.shape) * PARAMETERS.stiffness * settings.smoothness
    pairs = [(k, k + 1) for z in range(len(transforms)) for k in range(first[z], first[z + 1] - 1)]
    siblings = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    return _Prior(waves, jitter, trend, stiffness, siblings, int(first[-1]), floating)


def _variances(links: _Links, transforms: list[SectionTransform], waves: CosineBands) -> list[VarianceComponents]:
    """Estimate the variance components of the differences between neighbors, for each band of waves."""
    spread = (PARAMETERS.min_change_fraction * max(transforms[0].shape)) ** 2
    seen = 0.5 * (links.weight[:, 0] + links.weight[:, 2]).sum(axis=0)
    # the margins, which few sections reach, follow the middle
    rows, columns = (np.flatnonzero(seen.max(axis=k) > PARAMETERS.min_weight_fraction * seen.max()) for k in (1, 0))
    if len(rows) < 2 or len(columns) < 2:
        return [estimate_variance_components([], spread)] * waves.count
    inside = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    chain: list[FloatArray | None] = [None] * (len(transforms) - 1)
    for k in np.flatnonzero(links.lag == 1):
        chain[int(links.gap[k])] = links.shift[k][:, *inside]
    closures = []
    for k in np.flatnonzero(links.lag == 2):
        first, second = chain[links.gap[k] : links.gap[k] + 2]
        if first is not None and second is not None:
            closures.append(first + second - links.shift[k][:, *inside])
    found = CosineBands(seen[inside].shape, waves.side).variances(chain, spread, closures)
    return found + [found[-1]] * (waves.count - len(found))


def _conjugate_gradients(
    state: FloatArray,
    free: FloatArray,
    links: _Links,
    constraints: LandmarkConstraints,
    prior: _Prior,
    hold: FloatArray,
) -> FloatArray:
    count = len(hold)
    shape = (count, *state.shape[1:])

    def landmarks(gaps: FloatArray) -> FloatArray:
        out = np.zeros_like(state)
        out[:count] = constraints.forces(gaps, shape)
        return out

    def apply(u: FloatArray) -> FloatArray:
        found = links.forces(links.seen(u)) + prior.forces(u, hold)
        return found + landmarks(constraints.residuals(u[:count])) if len(constraints) else found

    mask = free[:, None, None, None]
    precondition = _preconditioner(free, links, constraints.diagonal(shape), prior, hold)
    residual = np.where(mask, links.forces(links.shift) + landmarks(constraints.shift) - apply(state), 0)
    goal = PARAMETERS.cg_tolerance * float(np.sqrt((residual**2).sum())) + 1e-9
    ahead = precondition(residual)
    direction, product = ahead.copy(), float((residual * ahead).sum())
    for _ in range(PARAMETERS.cg_iterations):
        if float(np.sqrt((residual**2).sum())) <= goal:
            break
        pushed = np.where(mask, apply(direction), 0)
        step_size = product / max(float((direction * pushed).sum()), 1e-30)
        state = state + step_size * direction
        residual = residual - step_size * pushed
        ahead = precondition(residual)
        product, before = float((residual * ahead).sum()), product
        direction = ahead + (product / before) * direction
    return state


def _preconditioner(
    free: FloatArray, links: _Links, landmarks: FloatArray, prior: _Prior, hold: FloatArray
) -> Callable[[FloatArray], FloatArray]:
    """Return the solution of the system in which all control points of a section have the same weight.

    Its waves are independent, and those of one band share one matrix along the stack. Slow changes along the stack,
    which no local preconditioner reaches, then converge in a few iterations.
    """
    inside, count = np.flatnonzero(free), len(hold)
    normal = links.mean_normal_matrix()
    extra = np.zeros(len(free))
    extra[:count] = landmarks.mean(axis=(1, 2, 3)) + 1e-9
    bands = [np.flatnonzero(prior.waves.band == k) for k in range(prior.waves.count)]
    solvers = []
    for band, waves in enumerate(bands):
        if not len(waves):
            continue
        matrix = normal + diags(extra) + prior.band_matrix(band, hold, len(free) - count)
        solvers.append(splu(matrix.tocsr()[inside][:, inside].tocsc()))

    def solve(values: FloatArray) -> FloatArray:
        amplitudes = prior.waves.back_adjoint(values)
        found = np.zeros_like(amplitudes)
        for solver, waves in zip(solvers, [waves for waves in bands if len(waves)], strict=True):
            part = amplitudes[inside][..., waves]
            result = np.zeros((len(free), *part.shape[1:]))
            result[inside] = solver.solve(part.reshape(len(inside), -1)).reshape(part.shape)
            found[..., waves] = result
        return prior.waves.back(found, values.shape)

    return solve
