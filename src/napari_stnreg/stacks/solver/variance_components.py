"""What of the differences between neighbors is a section's own, and what is the tissue's course.

A difference of neighbors, ``u_b - u_a + c + e``, has three sources. A section's own displacement ``u`` (cutting,
handling) is another in every section, so that it steps there *and back*. The tissue's course ``c`` (what runs
obliquely) goes on for several sections. The rest ``e`` (change of the tissue, errors of matching) is another in every
gap. Their variances follow from how the differences along the stack go together.

Long waves over the section and short ones do not have the same shares: tissue slopes over a wide area, neighbors fit
by chance over a small one. So the lattice's vectors are split into bands of cosine waves, and each is asked by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.fft import dct
from scipy.linalg import solve_triangular
from scipy.optimize import minimize

from napari_stnreg.core.grid import FloatArray

PERSISTENCE = 0.9
"""Correlation of the tissue's course in one gap with that in the next: it turns within about ten sections."""
INNER = (1 + PERSISTENCE**2) / (1 - PERSISTENCE**2)
"""The diagonal of that correlation's inverse, away from the ends."""
EXPECTED = (0.3, 0.05, 0.15)
"""Shares of the differences' variance that are expected of a stack that nothing is known of: own, course, rest."""
WHOLE = (0.44, 0.05, 0.05)
"""The same of where whole sections lie: these are matched to a pixel, and lie off by many."""
WIDTH = 1.5
"""How little is known of them: standard deviation of their logarithms."""
LEAST_OWN = 1e-3
"""Variance of the sections' own displacement that is always allowed for, as a share of the rest."""
LONGEST = 48
"""Gaps that are looked at together; longer stacks are cut into runs."""
EDGES = (1.5, 2.5, 3.5, 5.5, 8.5)
"""Half waves along a section's longer side at which one band of waves ends and the next begins."""


@dataclass(frozen=True)
class Variances:
    """Square pixels: of the sections' own displacement, the tissue's course, and what is another in every gap."""

    own: float
    course: float
    rest: float


def estimate_variance_components(
    runs: Sequence[tuple[FloatArray, int]], spread: float, expected: tuple[float, float, float] = EXPECTED
) -> Variances:
    """The likeliest variances, given the differences of neighbors.

    Parameters
    ----------
    runs
        For each run of gaps without a hole, ``(G, G)`` sums of products of the differences in its gaps, and of how many
        numbers (waves, directions) they are sums.
    spread
        Variance that is always put down to the rest, square pixels.
    expected
        Shares of the differences' variance: own, course, rest.

    Notes
    -----
    The differences are normal with the covariance ``S A + C R + E I``: ``A`` has 2 on its diagonal and -1 beside it,
    ``R`` has ``r^|i - j|``. A weak prior (``expected``) decides where a short stack tells nothing.
    """
    total = sum(float(np.trace(products)) for products, _ in runs)
    count = sum(len(products) * number for products, number in runs)
    if total <= 0 or not count:
        return Variances(expected[0], 0.0, expected[2] + spread)
    mean = total / count
    parts = [np.stack(_covariances(len(products))) for products, _ in runs]

    def cost(logs: FloatArray) -> float:
        own, course, rest = np.exp(logs) * mean
        value = float((((logs - np.log(expected)) / WIDTH) ** 2).sum())
        for (products, number), part in zip(runs, parts, strict=True):
            covariance = np.tensordot([own, course, rest + spread], part, axes=1)
            lower = np.linalg.cholesky(covariance)
            half = solve_triangular(lower, products, lower=True, check_finite=False)
            white = solve_triangular(lower, half.T, lower=True, check_finite=False)
            value += 2 * number * float(np.log(np.diag(lower)).sum()) + float(np.trace(white))
        return value

    best = minimize(cost, np.log(expected), method="L-BFGS-B", bounds=[(-12.0, 2.0)] * 3)
    own, course, rest = np.exp(best.x) * mean
    rest += spread
    return Variances(max(float(own), LEAST_OWN * float(rest)), float(course), float(rest))


def _covariances(gaps: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    apart = np.abs(np.subtract.outer(np.arange(gaps), np.arange(gaps)))
    return (
        2.0 * (apart == 0) - (apart == 1),
        np.asarray(PERSISTENCE**apart, dtype=np.float64),
        (apart == 0).astype(float),
    )


def persistent(course: FloatArray) -> FloatArray:
    """The inverse of the course's correlation along the stack, times ``(gaps, ...)``: an autoregression of order 1."""
    r = PERSISTENCE
    out = INNER * course
    out[[0, -1]] -= r**2 / (1 - r**2) * course[[0, -1]]
    out[1:] -= r / (1 - r**2) * course[:-1]
    out[:-1] -= r / (1 - r**2) * course[1:]
    return np.asarray(out) if len(course) > 1 else course.copy()


class Waves:
    """What lattices of vectors consist of: a shift, a linear part, and cosine waves in bands from long to short.

    Parameters
    ----------
    shape
        Vectors along y and x.
    side
        Vectors along the longer side of a section.
    """

    def __init__(self, shape: tuple[int, int], side: float) -> None:
        cosines = [dct(np.eye(n), axis=0, norm="ortho") for n in shape]
        waves = np.einsum("ay,bx->abyx", *cosines).reshape(shape[0] * shape[1], -1)
        half_waves = np.hypot(*np.meshgrid(*(np.arange(n) * side / n for n in shape), indexing="ij")).ravel()
        linear = [np.broadcast_to(c, shape).ravel() for c in np.meshgrid(*map(_ramp, shape), indexing="ij")]
        affine = [np.full(len(waves), len(waves) ** -0.5), *(c / np.linalg.norm(c) for c in linear)]
        taken = [0, 1, shape[1]]  # the longest cosines, for which the linear part stands in
        order = [k for k in np.argsort(half_waves, kind="stable") if k not in taken]
        # poses of whole sections are in the first three alone, however far they go
        self.basis = np.linalg.qr(np.stack([*affine, *waves[order]], axis=1))[0]
        self.band = np.concatenate([[0, 1, 1], 2 + np.digitize(half_waves[order], EDGES)])
        self.count, self.side = int(self.band.max()) + 1, side

    def forward(self, vectors: FloatArray) -> FloatArray:
        """Amplitudes ``(..., gy * gx)`` of the waves in vectors ``(..., gy, gx)``."""
        return np.asarray(vectors.reshape(*vectors.shape[:-2], -1) @ self.basis)

    def back(self, amplitudes: FloatArray, shape: tuple[int, ...]) -> FloatArray:
        """The inverse, and the adjoint, of :meth:`forward`, for vectors of a shape."""
        return np.asarray((amplitudes @ self.basis.T).reshape(shape))

    def variances(self, chain: Sequence[FloatArray | None], spread: float) -> list[Variances]:
        """What each band's differences consist of, per wave.

        Parameters
        ----------
        chain
            For each section in turn by how much the vectors of the next one differ, ``(2, gy, gx)``, or ``None``.
        spread
            Variance of a vector that is always put down to the rest, square pixels.
        """
        runs = [self.forward(np.stack(run)) for run in segments(chain)]
        found = []
        for k in range(self.count):
            chosen = [run[..., self.band == k].reshape(len(run), -1) for run in runs]
            found.append(
                estimate_variance_components(
                    [(one @ one.T, one.shape[1]) for one in chosen], spread, WHOLE if k == 0 else EXPECTED
                )
            )
        return found


def segments(chain: Sequence[FloatArray | None]) -> list[list[FloatArray]]:
    """The stretches of a chain without a hole, none longer than :data:`LONGEST`."""
    runs: list[list[FloatArray]] = [[]]
    for one in chain:
        if one is None or len(runs[-1]) == LONGEST:
            runs.append([])
        if one is not None:
            runs[-1].append(one)
    return [run for run in runs if run]


def _ramp(size: int) -> FloatArray:
    return np.arange(size, dtype=np.float64) - (size - 1) / 2
