"""Fit a transform to landmark pairs and judge the fit: residuals, leave-one-out errors, and pairs that do not fit.

References
----------
Allen, The relationship between variable selection and data augmentation and a method for prediction, Technometrics 16,
1974 (leave-one-out errors of a linear fit from its leverages).
Rippa, An algorithm for selecting a good value for the parameter c in radial basis function interpolation, Advances in
Computational Mathematics 11, 1999 (leave-one-out errors of an interpolant from the inverse of its matrix).
Baarda, A testing procedure for use in geodetic networks, Netherlands Geodetic Commission, 1968.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.family_titles import family_title
from napari_stnreg.core.grid import CoordinateSystem, FloatArray, Grid
from napari_stnreg.core.landmarks import check_landmarks
from napari_stnreg.landmarks.pairs import Side
from napari_stnreg.transforms.base import Transform
from napari_stnreg.transforms.landmark_fit import LANDMARK_FAMILIES, fewest_pairs, from_landmarks
from napari_stnreg.transforms.thin_plate import ThinPlateTransform


@dataclass(frozen=True)
class LandmarkCriteria:
    """When a landmark fit is doubtful or failed.

    Parameters
    ----------
    outlier_ratio
        A pair does not fit if its standardized leave-one-out error exceeds this multiple of their median in the fit
        without it. Of 600 sets of correct pairs with normal errors (6 to 40 pairs, 2D and 3D) at most 1 % get a pair
        marked, for every family; a pair that is off by 15 standard deviations is found in 76 % (tps) to 99 % of them.
    outlier_spare_pairs
        Pairs beyond the fewest that determine the transform, from which on a pair can be called an outlier.
    failed_skill
        Failed at or below this cross-validated coefficient of determination; at 0 the fit predicts a left-out point no
        better than the mean of the others does.
    folding_fraction
        Doubtful if more than this fraction of the fixed image folds.
    negligible
        Errors below this fraction of the points' root-mean-square radius count as zero.
    """

    outlier_ratio: float = 5.0
    outlier_spare_pairs: int = 2
    failed_skill: float = 0.0
    folding_fraction: float = 0.0
    negligible: float = 1e-6


CRITERIA = LandmarkCriteria()


@dataclass(frozen=True, eq=False)
class LandmarkFit:
    """A transform that was fitted to landmark pairs, and how well the pairs agree with it.

    Errors are distances in the moving world, in its unit.

    Parameters
    ----------
    transform
        Fixed world to moving world.
    fixed, moving
        The pairs, ``(N, D)`` each.
    family
        Family of the transform.
    residuals
        ``(N,)``: distance of each mapped fixed point from its moving point.
    leave_one_out
        ``(N,)``: the same for the fit without that pair; NaN where the others do not determine the transform.
    standardized
        ``(N,)``: leave-one-out errors over the standard deviation that independent errors of one size would give them
        (the test statistic of Baarda, 1968, up to a factor).
    grid
        Grid of the fixed image, if it is known.
    requested
        The requested family; a simpler one was fitted if the pairs do not determine it.
    stiffness, mirror
        Options of the fit.
    criteria
        Limits of the verdict.
    """

    transform: Transform
    fixed: FloatArray
    moving: FloatArray
    family: str
    residuals: FloatArray
    leave_one_out: FloatArray
    standardized: FloatArray
    grid: Grid | None = None
    requested: str = ""
    stiffness: float = 0.0
    mirror: bool = False
    criteria: LandmarkCriteria = field(default=CRITERIA, repr=False)

    def __len__(self) -> int:
        return len(self.fixed)

    @property
    def worst(self) -> int | None:
        """Row of the pair that agrees least with the others; ``None`` if none can be checked or all agree."""
        known = np.isfinite(self.standardized)
        if not known.any() or self.leave_one_out[known].max() <= self.criteria.negligible * self._radius:
            return None
        return int(np.nanargmax(self.standardized))

    @cached_property
    def outlier(self) -> int | None:
        """Row of the pair that does not fit the others (see :class:`LandmarkCriteria`), if there is one."""
        worst = self.worst
        fewest = fewest_pairs(self.family, self.transform.ndim)
        if worst is None or len(self) < fewest + 1 + self.criteria.outlier_spare_pairs:
            return None
        keep = np.arange(len(self)) != worst
        try:
            others = fit_landmarks(
                self.fixed[keep],
                self.moving[keep],
                self.family,
                unit=self.transform.unit,
                mirror=self.mirror,
                stiffness=self.stiffness,
            )
        except InputError:
            return None
        rest = others.standardized[np.isfinite(others.standardized)]
        if not len(rest):
            return None
        factor = self.standardized[worst] / self.leave_one_out[worst]
        usual = max(float(np.median(rest)), self.criteria.negligible * self._radius * factor)
        return worst if self.standardized[worst] > self.criteria.outlier_ratio * usual else None

    @property
    def _radius(self) -> float:
        return float(np.sqrt(((self.moving - self.moving.mean(axis=0)) ** 2).sum(axis=1).mean()))

    @property
    def skill(self) -> float:
        """Cross-validated coefficient of determination: 1 predicts left-out points exactly; NaN if unknown."""
        known = np.isfinite(self.leave_one_out)
        if not known.all() or len(self) < 2:
            return float("nan")
        n = len(self)
        # The mean of the other points is off by n / (n - 1) times the distance from the mean of all.
        around_mean = ((self.moving - self.moving.mean(axis=0)) ** 2).sum() * (n / (n - 1)) ** 2
        return float(1 - (self.leave_one_out**2).sum() / around_mean) if around_mean > 0 else float("nan")

    def _rounded(self, errors: FloatArray) -> FloatArray:
        """Return errors with 0 for those that are negligible."""
        return np.where(errors <= self.criteria.negligible * self._radius, 0.0, errors)

    @cached_property
    def folding_fraction(self) -> float:
        """Fraction of the fixed image that folds; of the region of the landmarks if there is no grid."""
        grid = self.grid or self.transform.native_grid()
        if self.transform.is_linear or grid is None:
            return 0.0
        longest = {2: 128, 3: 48}[grid.ndim]
        factor = max(max(grid.shape) / longest, 1.0)
        coarse = grid.resized([max(round(n / factor), 2) for n in grid.shape])
        return self.transform.folding_fraction(coarse)

    @cached_property
    def reasons(self) -> tuple[str, ...]:
        """Sentences about what is doubtful; empty if nothing is."""
        found = []
        if self.requested and self.family != self.requested:
            needed = fewest_pairs(self.requested, self.transform.ndim)
            found.append(
                f"Fitted as {family_title(self.family)}: {len(self)} {_plural(len(self))} do not determine a transform "
                f"of family '{family_title(self.requested)}', which needs at least {needed} in general position."
            )
        if not np.isfinite(self.leave_one_out).any():
            found.append("No pair can be checked against the others. Add pairs.")
        if self.skill <= self.criteria.failed_skill:
            found.append("The pairs contradict each other: a left-out point is predicted no better than by the mean.")
        elif self.outlier is not None:
            error = self.leave_one_out[self.outlier]
            found.append(f"Pair {self.outlier + 1} does not fit the others: its leave-one-out error is {error:.3g}.")
        matrix = self.transform.as_matrix()
        if matrix is not None and np.linalg.det(matrix[:-1, :-1]) < 0:
            found.append("The transform mirrors the image.")
        if self.folding_fraction > self.criteria.folding_fraction:
            found.append(f"The transform folds in {100 * self.folding_fraction:.2g} % of the image.")
        return tuple(found)

    @property
    def verdict(self) -> Literal["good", "doubtful", "failed"]:
        """``"failed"`` if the pairs contradict each other, ``"doubtful"`` if there are :attr:`reasons`."""
        if self.skill <= self.criteria.failed_skill:
            return "failed"
        return "doubtful" if self.reasons else "good"

    @property
    def summary(self) -> str:
        """Number of pairs, family and errors in one sentence."""
        unit = self.transform.unit
        text = f"{len(self)} {_plural(len(self))}, {family_title(self.family)}"
        residuals = self._rounded(self.residuals)
        text += f": residual median {np.median(residuals):.3g}, largest {residuals.max():.3g} {unit}"
        known = np.isfinite(self.leave_one_out)
        if known.any():
            errors = self._rounded(self.leave_one_out[known])
            text += f". Leave-one-out: median {np.median(errors):.3g}, largest {errors.max():.3g} {unit}"
            if self.worst is not None:
                text += f" (pair {self.worst + 1})"
        return text + "."

    def predict(self, points: npt.ArrayLike, side: Side = "fixed") -> FloatArray:
        """Return the counterparts of points ``(N, D)`` of one side on the other side."""
        return (self.transform if side == "fixed" else self.transform.inverse()).map_points(points)

    def report(self) -> dict[str, Any]:
        """Return pairs, errors and verdict, JSON-ready."""
        return {
            "family": self.family,
            "unit": self.transform.unit,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "worst": self.worst,
            "outlier": self.outlier,
            "folding_fraction": self.folding_fraction,
            "pairs": [
                {"fixed": a.tolist(), "moving": b.tolist(), "residual": float(r), "leave_one_out": _or_none(e)}
                for a, b, r, e in zip(self.fixed, self.moving, self.residuals, self.leave_one_out, strict=True)
            ],
        }

    def to_text(self) -> str:
        """Return the errors of every pair as a table, with the summary, the verdict and its reasons."""
        lines = ["pair    residual   leave-one-out"]
        for row, (residual, error) in enumerate(zip(self.residuals, self.leave_one_out, strict=True)):
            mark = "  outlier" if row == self.outlier else "  worst" if row == self.worst else ""
            shown = f"{error:.4g}" if np.isfinite(error) else "-"
            lines.append(f"{row + 1:4d}  {residual:10.4g}  {shown:>14}{mark}")
        return "\n".join([*lines, self.summary, f"Verdict: {self.verdict}.", *self.reasons])

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the transform; the extension sets the format (see :func:`napari_stnreg.save`).

        Raises
        ------
        InputError
            If the format cannot hold the transform, or the file cannot be written.
        """
        from napari_stnreg.io.transform_io import ENDING, save, transform_ending

        if transform_ending(str(path)) == ENDING:
            return self.transform.save(path, {"landmarks": self.report()})
        return save(self.transform, path, grid=self.grid or self.transform.native_grid())


def fit_landmarks(
    fixed_points: npt.ArrayLike,
    moving_points: npt.ArrayLike,
    family: str = "affine",
    *,
    unit: str = "pixel",
    stiffness: float = 0.0,
    mirror: bool = False,
    simplify: bool = False,
    grid: Grid | None = None,
    coordinate_systems: tuple[CoordinateSystem, CoordinateSystem] = ("world", "world"),
) -> LandmarkFit:
    """Fit a transform to landmark pairs, and report residuals and leave-one-out errors.

    Parameters
    ----------
    fixed_points, moving_points
        World coordinates ``(N, D)`` in (z, y, x) order and in one unit, paired by row.
    family
        ``"translation"``, ``"rigid"``, ``"similarity"``, ``"affine"`` (least squares), or ``"tps"``, the thin-plate
        spline through the points.
    unit
        Unit of the coordinates.
    stiffness
        For ``"tps"``: 0 interpolates the points, larger values bend less.
    mirror
        Whether a rigid or similarity transform may mirror the image where that fits better.
    simplify
        Whether to fit the most general simpler family that the pairs determine, instead of an error.
    grid
        Grid of the fixed image; the verdict then covers folding over the whole image.
    coordinate_systems
        Meaning of the fixed and the moving world for other programs (see :class:`~napari_stnreg.Transform`).

    Returns
    -------
    LandmarkFit
        The transform, fixed world to moving world, with errors, verdict and :meth:`~LandmarkFit.save`. It can be passed
        to :func:`napari_stnreg.warp`.

    Raises
    ------
    InputError
        If the points are not paired or do not determine the transform.

    Examples
    --------
    >>> import napari_stnreg as sr
    >>> fit = sr.fit_landmarks([(0, 0), (0, 9), (9, 0), (9, 9)], [(1, 2), (1, 11), (10, 2), (10, 11)], "rigid")
    >>> fit.verdict, float(fit.residuals.max().round(6))
    ('good', 0.0)
    """
    fixed, moving = check_landmarks(fixed_points, moving_points)
    transform, fitted = _fit(fixed, moving, family, unit, stiffness, mirror, simplify)
    transform = transform.with_coordinate_systems(*coordinate_systems)
    if grid is not None:
        grid = grid.with_unit(unit)
        transform = transform.with_domain(grid)
    residual = np.linalg.norm(transform.map_points(fixed) - moving, axis=1)
    left_out, precision = _LEAVE_ONE_OUT[fitted](fixed, moving, transform, mirror)
    standardized = left_out * np.sqrt(precision)
    return LandmarkFit(
        transform, fixed, moving, fitted, residual, left_out, standardized, grid, family, stiffness, mirror
    )


def _fit(
    fixed: FloatArray, moving: FloatArray, family: str, unit: str, stiffness: float, mirror: bool, simplify: bool
) -> tuple[Transform, str]:
    try:
        return from_landmarks(fixed, moving, family, unit=unit, mirror=mirror, stiffness=stiffness), family
    except InputError:
        if not simplify or family not in LANDMARK_FAMILIES:
            raise
    simpler: Sequence[str] = LANDMARK_FAMILIES[: LANDMARK_FAMILIES.index(family)]
    for name in reversed(simpler):
        try:
            return from_landmarks(fixed, moving, name, unit=unit, mirror=mirror), name
        except InputError:
            continue
    raise InputError("There are no landmarks.")


# -- leave-one-out errors in closed form, and the precision (inverse variance, up to a factor) of each prediction

_Errors = tuple[FloatArray, FloatArray]


def _loo_translation(fixed: FloatArray, moving: FloatArray, _transform: Transform, _mirror: bool) -> _Errors:
    n, shift = len(fixed), moving - fixed
    if n < 2:
        return np.full(n, np.nan), np.ones(n)
    return np.asarray(np.linalg.norm(shift - shift.mean(axis=0), axis=1) * n / (n - 1)), np.ones(n)


def _loo_rigid(
    fixed: FloatArray, moving: FloatArray, _transform: Transform, mirror: bool, scale: bool = False
) -> _Errors:
    """Every fit without one pair at once: the covariance without a pair is a rank-one downdate."""
    n, ndim = fixed.shape
    if n - 1 < ndim:
        return np.full(n, np.nan), np.ones(n)
    a, b = fixed - fixed.mean(axis=0), moving - moving.mean(axis=0)
    weight = n / (n - 1)
    covariance = b.T @ a - weight * b[:, :, None] * a[:, None, :]
    square = (a**2).sum(axis=1)
    spread = square.sum() - weight * square
    left, strength, right = np.linalg.svd(covariance)
    signs = np.ones((n, ndim))
    mirrors = np.linalg.det(left @ right) < 0
    signs[mirrors & ((strength[:, -1] < 1e-9 * strength[:, 0]) | (not mirror)), -1] = -1
    linear = left * signs[:, None, :] @ right
    if scale:
        with np.errstate(divide="ignore", invalid="ignore"):
            linear = linear * ((strength * signs).sum(axis=1) / spread)[:, None, None]
    # Both means move away from the left-out point by 1 / (n - 1) of its distance from the mean of all.
    error = np.linalg.norm(np.einsum("nij,nj->ni", linear, weight * a) - weight * b, axis=1)
    unknown = strength[:, ndim - 2] < 1e-9 * max(float(strength.max()), 1e-300)
    return np.where(unknown, np.nan, error), np.clip(1 - 1 / n - square / square.sum() / ndim, 0.05, 1)


def _loo_similarity(fixed: FloatArray, moving: FloatArray, transform: Transform, mirror: bool) -> _Errors:
    return _loo_rigid(fixed, moving, transform, mirror, scale=True)


def _loo_affine(fixed: FloatArray, moving: FloatArray, transform: Transform, _mirror: bool) -> _Errors:
    a = fixed - fixed.mean(axis=0)
    left, _, _ = np.linalg.svd(a, full_matrices=False)
    rest = 1 - 1 / len(fixed) - (left**2).sum(axis=1)  # one minus the leverage
    residual = np.linalg.norm(transform.map_points(fixed) - moving, axis=1)
    return _quotient(residual, rest, 1e-9), np.maximum(rest, 0)


def _loo_thin_plate(fixed: FloatArray, moving: FloatArray, transform: Transform, _mirror: bool) -> _Errors:
    assert isinstance(transform, ThinPlateTransform)
    inverse = transform.basis.solve_matrix
    weights = np.linalg.norm(inverse[: len(fixed)] @ (moving - fixed), axis=1)
    diagonal = np.abs(np.diagonal(inverse))
    if len(fixed) <= fixed.shape[1] + 1:
        return np.full(len(fixed), np.nan), np.ones(len(fixed))
    errors = _quotient(weights, diagonal, 1e-12 * max(float(diagonal.max()), 1e-300))
    # Independent errors of the points reach the prediction through a row of the inverse.
    return errors, (diagonal / np.linalg.norm(inverse[: len(fixed)], axis=1)) ** 2


def _quotient(values: FloatArray, over: FloatArray, least: float) -> FloatArray:
    """Divide; NaN where the divisor is not above ``least``."""
    return np.asarray(np.divide(values, over, out=np.full(len(values), np.nan), where=over > least))


_LEAVE_ONE_OUT: dict[str, Callable[[FloatArray, FloatArray, Transform, bool], _Errors]] = {
    "translation": _loo_translation,
    "rigid": _loo_rigid,
    "similarity": _loo_similarity,
    "affine": _loo_affine,
    "tps": _loo_thin_plate,
}


def _plural(count: int) -> str:
    return "pair" if count == 1 else "pairs"


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
