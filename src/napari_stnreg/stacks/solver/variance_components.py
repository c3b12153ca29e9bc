"""Variance components of the differences between neighbors: jitter, trend and residual.

A difference of neighbors, ``u_b - u_a + c + e``, has three sources. The jitter ``u`` (cutting, handling) is independent
in every section, so that it steps back in the next gap. The trend ``c`` (oblique structures) is correlated over several
sections. The residual ``e`` (change of the tissue, matching errors) is independent in every gap. Their variances follow
from the covariance of the differences along the stack.

The residual of a short stack does not follow from this covariance alone. Its scale comes from loop closure:
a match over two gaps must equal the sum of the two matches over single gaps, wherever the sections were recorded.

Long waves across a section have other variances than short ones. The vectors of the lattice are therefore split into
bands of cosine waves, and the variances are estimated for each band.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.fft import dct
from scipy.interpolate import interpn
from scipy.linalg import solve_triangular
from scipy.optimize import minimize
from scipy.special import expit

from napari_stnreg.core.grid import FloatArray


@dataclass(frozen=True)
class VarianceParameters:
    """Prior of the variance components, tuned on FIB-SEM and generated stacks warped by known fields.

    Parameters
    ----------
    trend_correlation
        Correlation of the trend in one gap with that in the next; 0.9 corresponds to about ten sections.
    expected_jitter
        Expected variance of the jitter, relative to that of the differences.
    expected_trend
        Expected variance of the trend, relative to that of the differences.
    expected_shift_trend
        The same for shifts of whole sections, relative to the expected variance of the residual: the shifts of badly
        placed sections say nothing about the tissue.
    shift_trend_evidence
        Twice the logarithm of the likelihood ratio above which a common slope of all structures is believed instead: a
        trend of whole sections as large as that of the linear parts. Generated tissue with a common slope gives 7 and
        26 where it is clear, FIB-SEM without one -2 to 4.
    expected_residual
        Expected variance of the residual, relative to that of the differences, where no loop closes.
    expected_shift_residual
        The same for shifts of whole sections, which are matched to a pixel and may be off by many.
    log_sd
        Standard deviation of the logarithms of the variances of jitter and trend.
    residual_log_sd
        Standard deviation of the logarithm of the variance of the residual, where loops close.
    max_closure_ratio
        A loop that closes worse than this multiple of the median counts as one that closes by this multiple.
    min_jitter_fraction
        Lower limit of the variance of the jitter, relative to that of the residual.
    max_segment
        Largest number of gaps that are estimated together; longer stacks are cut into segments.
    band_edges
        Half waves along the longer side of a section at which bands of waves begin.
    """

    trend_correlation: float = 0.9
    expected_jitter: float = 0.3
    expected_trend: float = 0.05
    expected_shift_trend: float = 0.2
    shift_trend_evidence: float = 5.5
    expected_residual: float = 0.15
    expected_shift_residual: float = 0.02
    log_sd: float = 1.5
    residual_log_sd: float = 0.7
    max_closure_ratio: float = 4.0
    min_jitter_fraction: float = 1e-3
    max_segment: int = 48
    band_edges: tuple[float, ...] = (1.5, 2.5, 3.5, 5.5, 8.5)


PARAMETERS = VarianceParameters()
AR1_DIAGONAL = (1 + PARAMETERS.trend_correlation**2) / (1 - PARAMETERS.trend_correlation**2)
"""Diagonal of the inverse of the correlation matrix of the trend, away from the ends."""


@dataclass(frozen=True)
class VarianceComponents:
    """Variances of jitter, trend and residual, square pixels."""

    jitter: float
    trend: float
    residual: float


def estimate_variance_components(
    runs: Sequence[tuple[FloatArray, int]],
    spread: float,
    residual: float | None = None,
    *,
    is_shift: bool = False,
    linear_trend: float = 0.0,
) -> VarianceComponents:
    """Estimate the variances by maximum a posteriori from the differences between neighbors.

    Parameters
    ----------
    runs
        For each segment of ``G`` gaps, the ``(G, G)`` sums of products of the differences in its gaps, and the number
        of values (waves, directions) that were summed.
    spread
        Lower limit of the variance of the residual, square pixels.
    residual
        Expected variance of the residual, by :func:`residual_from_closures`; if not given, a fraction of the variance
        of the differences.
    is_shift
        Whether the differences are shifts of whole sections.
    linear_trend
        For shifts: variance of the trend of the linear parts, which a common slope of all structures would have.

    Notes
    -----
    The differences are normal with the covariance ``S A + C R + E I``: ``A`` has 2 on its diagonal and -1 beside it,
    ``R`` has ``r^|i - j|``. A prior on the logarithms of the variances decides where a short stack does not.
    """
    total = sum(float(np.trace(products)) for products, _ in runs)
    count = sum(len(products) * number for products, number in runs)
    if total <= 0 or not count:
        return VarianceComponents(PARAMETERS.expected_jitter, 0.0, PARAMETERS.expected_residual + spread)
    mean = total / count
    fraction = PARAMETERS.expected_shift_residual if is_shift else PARAMETERS.expected_residual
    own = max(fraction * mean if residual is None else residual, spread)
    trend = PARAMETERS.expected_shift_trend * own if is_shift else PARAMETERS.expected_trend * mean
    residual_sd = PARAMETERS.log_sd if residual is None else PARAMETERS.residual_log_sd
    sd = np.array([PARAMETERS.log_sd, PARAMETERS.log_sd, residual_sd])
    parts = [np.stack(_covariances(len(products))) for products, _ in runs]

    def misfit(logs: FloatArray) -> float:
        """Minus twice the logarithm of the likelihood."""
        jitter, slope, rest = np.exp(logs)
        value = 0.0
        for (products, number), part in zip(runs, parts, strict=True):
            covariance = np.tensordot([jitter, slope, rest + spread], part, axes=1)
            lower = np.linalg.cholesky(covariance)
            half = solve_triangular(lower, products, lower=True, check_finite=False)
            white = solve_triangular(lower, half.T, lower=True, check_finite=False)
            value += 2 * number * float(np.log(np.diag(lower)).sum()) + float(np.trace(white))
        return value

    def fit(expected_trend: float) -> FloatArray:
        expected = np.log([PARAMETERS.expected_jitter * mean, expected_trend, own])
        low, high = np.log(1e-6 * min(mean, own)), np.log(10 * max(mean, own, expected_trend))
        # a steady slope and independent jitter are two optima: start near both
        starts = [expected, np.array([expected[0], np.log(PARAMETERS.expected_jitter * mean), expected[2]])]

        def cost(logs: FloatArray) -> float:
            return misfit(logs) + float((((logs - expected) / sd) ** 2).sum())

        found = [minimize(cost, start, method="L-BFGS-B", bounds=[(low, high)] * 3) for start in starts]
        return np.asarray(min(found, key=lambda one: one.fun).x)

    best = fit(trend)
    if is_shift and linear_trend > trend:
        slope = fit(linear_trend)
        belief = expit(misfit(best) - misfit(slope) - PARAMETERS.shift_trend_evidence)
        best = (1 - belief) * best + belief * slope
    jitter, trend, rest = np.exp(best)
    rest += spread
    return VarianceComponents(max(float(jitter), PARAMETERS.min_jitter_fraction * float(rest)), float(trend), rest)


def residual_from_closures(closures: FloatArray) -> float:
    """Estimate the variance of the residual of one gap from the loop closures ``(loops, values)``.

    A loop is made of two matches over one gap and one over both. The latter has twice the variance of a single gap, as
    its weight in the solve assumes, so a closure has four times that variance.
    """
    squares = (closures**2).mean(axis=1)
    limit = PARAMETERS.max_closure_ratio * float(np.median(squares))
    return float(np.minimum(squares, limit).mean()) / 4


def _covariances(gaps: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    apart = np.abs(np.subtract.outer(np.arange(gaps), np.arange(gaps)))
    return (
        2.0 * (apart == 0) - (apart == 1),
        np.asarray(PARAMETERS.trend_correlation**apart, dtype=np.float64),
        (apart == 0).astype(float),
    )


def ar1_precision(trend: FloatArray) -> FloatArray:
    """Multiply ``(gaps, ...)`` by the precision matrix of an autoregression of order 1 along the stack."""
    r = PARAMETERS.trend_correlation
    out = AR1_DIAGONAL * trend
    out[[0, -1]] -= r**2 / (1 - r**2) * trend[[0, -1]]
    out[1:] -= r / (1 - r**2) * trend[:-1]
    out[:-1] -= r / (1 - r**2) * trend[1:]
    return np.asarray(out) if len(trend) > 1 else trend.copy()


class CosineBands:
    """Orthonormal basis of lattices of vectors: a shift, a linear part, and cosine waves in bands from long to short.

    Parameters
    ----------
    shape
        Vectors along y and x.
    side
        Vectors along the longer side of a section.
    center
        Index ``(y, x)`` of the vectors at which the linear part is zero, the center of the tissue; that of the lattice
        by default. A linear part about another center would shift the tissue.
    """

    def __init__(self, shape: tuple[int, int], side: float, center: npt.ArrayLike | None = None) -> None:
        cosines = [dct(np.eye(n), axis=0, norm="ortho") for n in shape]
        waves = np.einsum("ay,bx->abyx", *cosines).reshape(shape[0] * shape[1], -1)
        half_waves = np.hypot(*np.meshgrid(*(np.arange(n) * side / n for n in shape), indexing="ij")).ravel()
        linear = [np.broadcast_to(c, shape).ravel() for c in np.meshgrid(*map(_ramp, shape), indexing="ij")]
        affine = [np.full(len(waves), len(waves) ** -0.5), *(c / np.linalg.norm(c) for c in linear)]
        taken = [0, 1, shape[1]]  # the longest cosines, replaced by the linear part
        order = [k for k in np.argsort(half_waves, kind="stable") if k not in taken]
        # the first three span all poses of whole sections
        self.basis = np.linalg.qr(np.stack([*affine, *waves[order]], axis=1))[0]
        self.band = np.concatenate([[0, 1, 1], 2 + np.digitize(half_waves[order], PARAMETERS.band_edges)])
        self.count, self.side = int(self.band.max()) + 1, side
        self._analysis, self._synthesis = self.basis, self.basis
        if center is not None:
            self._analysis, self._synthesis = self.basis.copy(), self.basis.copy()
            for k in (1, 2):
                at_center = interpn(list(map(np.arange, shape)), self.basis[:, k].reshape(shape), center)[0]
                offset = float(at_center / self.basis[0, 0])
                self._analysis[:, 0] += offset * self.basis[:, k]
                self._synthesis[:, k] -= offset * self.basis[:, 0]

    def forward(self, vectors: FloatArray) -> FloatArray:
        """Amplitudes ``(..., gy * gx)`` of the waves in vectors ``(..., gy, gx)``."""
        return np.asarray(vectors.reshape(*vectors.shape[:-2], -1) @ self._analysis)

    def adjoint(self, amplitudes: FloatArray, shape: tuple[int, ...]) -> FloatArray:
        """The adjoint of :meth:`forward`, for vectors of a shape."""
        return np.asarray((amplitudes @ self._analysis.T).reshape(shape))

    def back(self, amplitudes: FloatArray, shape: tuple[int, ...]) -> FloatArray:
        """Apply the inverse of :meth:`forward`, which is its adjoint only about the center of the lattice."""
        return np.asarray((amplitudes @ self._synthesis.T).reshape(shape))

    def back_adjoint(self, vectors: FloatArray) -> FloatArray:
        """The adjoint of :meth:`back`."""
        return np.asarray(vectors.reshape(*vectors.shape[:-2], -1) @ self._synthesis)

    def variances(
        self, chain: Sequence[FloatArray | None], spread: float, closures: Sequence[FloatArray] = ()
    ) -> list[VarianceComponents]:
        """Estimate the variance components of each band, per wave.

        Parameters
        ----------
        chain
            For each section, the difference of the vectors of the next one, ``(2, gy, gx)``, or ``None``.
        spread
            Lower limit of the variance of the residual, square pixels.
        closures
            Sums of two successive differences minus the match over both gaps, ``(2, gy, gx)`` each.
        """
        runs = [self.forward(np.stack(run)) for run in segments(chain)]
        loops = self.forward(np.stack(closures)) if len(closures) else None
        found: dict[int, VarianceComponents] = {}
        for k in (*range(1, self.count), 0):
            chosen = [run[..., self.band == k].reshape(len(run), -1) for run in runs]
            residual = None
            if loops is not None and (self.band == k).any():
                residual = residual_from_closures(loops[..., self.band == k].reshape(len(loops), -1))
            found[k] = estimate_variance_components(
                [(one @ one.T, one.shape[1]) for one in chosen], spread, residual,
                is_shift=k == 0, linear_trend=found[1].trend if k == 0 else 0.0,
            )  # fmt: skip
        return [found[k] for k in range(self.count)]


def segments(chain: Sequence[FloatArray | None]) -> list[list[FloatArray]]:
    """Split a chain at its holes, and into segments of at most ``max_segment`` gaps."""
    runs: list[list[FloatArray]] = [[]]
    for one in chain:
        if one is None or len(runs[-1]) == PARAMETERS.max_segment:
            runs.append([])
        if one is not None:
            runs[-1].append(one)
    return [run for run in runs if run]


def _ramp(size: int) -> FloatArray:
    return np.arange(size, dtype=np.float64) - (size - 1) / 2
