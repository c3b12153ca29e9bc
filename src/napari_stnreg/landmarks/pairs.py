"""An editable list of landmark pairs: predicted counterparts, locks, order, undo."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray
from napari_stnreg.core.landmarks import check_landmarks

Side = Literal["fixed", "moving"]

MAX_UNDO = 200
"""Steps that can be undone."""


@dataclass(frozen=True, eq=False)
class LandmarkPair:
    """One pair, in world coordinates ``(D,)`` of each image.

    Parameters
    ----------
    fixed, moving
        The two points.
    predicted
        The side whose point is only predicted: it follows the fit and does not count in it. ``None`` for a pair that
        the user has placed on both sides.
    locked
        Whether the pair is protected from changes.
    """

    fixed: FloatArray
    moving: FloatArray
    predicted: Side | None = None
    locked: bool = False

    def point(self, side: Side) -> FloatArray:
        """Return the point of a side."""
        return self.fixed if side == "fixed" else self.moving

    def with_point(self, side: Side, point: FloatArray) -> LandmarkPair:
        """Return the pair with another point on a side."""
        return replace(self, fixed=point) if side == "fixed" else replace(self, moving=point)


class LandmarkPairs:
    """Pairs of landmarks that a user edits; every change can be undone.

    Parameters
    ----------
    ndim
        Number of coordinates, 2 or 3.
    """

    def __init__(self, ndim: int) -> None:
        self.ndim = ndim
        self.rows: tuple[LandmarkPair, ...] = ()
        self._past: list[tuple[LandmarkPair, ...]] = []
        self._future: list[tuple[LandmarkPair, ...]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def points(self, side: Side) -> FloatArray:
        """Return the points of a side, ``(N, D)``."""
        return np.array([row.point(side) for row in self.rows]).reshape(-1, self.ndim)

    @property
    def placed(self) -> list[int]:
        """Rows of the pairs that were placed on both sides."""
        return [number for number, row in enumerate(self.rows) if row.predicted is None]

    def placed_points(self) -> tuple[FloatArray, FloatArray]:
        """Return the points of the pairs that were placed on both sides, ``(N, D)`` each."""
        return self.points("fixed")[self.placed], self.points("moving")[self.placed]

    # -- changes

    def add(self, side: Side, point: npt.ArrayLike, counterpart: npt.ArrayLike) -> int:
        """Add a point of one side with a predicted counterpart; return its row."""
        here, there = self._checked(point), self._checked(counterpart)
        fixed, moving = (here, there) if side == "fixed" else (there, here)
        self._record()
        self.rows = (*self.rows, LandmarkPair(fixed, moving, other_side(side)))
        return len(self.rows) - 1

    def extend(self, fixed: npt.ArrayLike, moving: npt.ArrayLike) -> None:
        """Add pairs ``(N, D)`` that are placed on both sides.

        Raises
        ------
        InputError
            If the points are not paired or have another number of coordinates.
        """
        a, b = check_landmarks(fixed, moving, self.ndim)
        self._record()
        self.rows = (*self.rows, *(LandmarkPair(p, q) for p, q in zip(a, b, strict=True)))

    def begin_move(self) -> None:
        """Start a drag: the moves that follow are undone in one step."""
        self._record()

    def move(self, row: int, side: Side, point: npt.ArrayLike) -> None:
        """Move a point during a drag; a predicted point is placed thereby.

        Raises
        ------
        InputError
            If the pair is locked.
        """
        self._check_unlocked([row])
        pair = self.rows[row]
        predicted = None if pair.predicted == side else pair.predicted
        where = self._checked(point)
        self._set(row, replace(pair.with_point(side, where), predicted=predicted))

    def place(self, row: int, side: Side, point: npt.ArrayLike) -> None:
        """Move a point in one step."""
        self._check_unlocked([row])
        self._record()
        self.move(row, side, point)

    def confirm(self, row: int) -> None:
        """Accept a predicted point where it is."""
        if self.rows[row].predicted is not None:
            self._record()
            self._set(row, replace(self.rows[row], predicted=None))

    def predict(self, predict: Callable[[FloatArray, Side], FloatArray]) -> None:
        """Move the predicted points to where the fit puts them now; not a step of the history.

        Parameters
        ----------
        predict
            From points of a side ``(N, D)`` to their counterparts.
        """
        sides: tuple[Side, Side] = ("fixed", "moving")
        for side in sides:
            rows = [n for n, row in enumerate(self.rows) if row.predicted == side]
            if rows:
                here = predict(np.array([self.rows[n].point(other_side(side)) for n in rows]), other_side(side))
                for n, point in zip(rows, here, strict=True):
                    if np.isfinite(point).all():
                        self._set(n, self.rows[n].with_point(side, point))

    def delete(self, rows: Iterable[int]) -> None:
        """Delete pairs.

        Raises
        ------
        InputError
            If one is locked.
        """
        gone = set(rows)
        self._check_unlocked(gone)
        if gone:
            self._record()
            self.rows = tuple(row for n, row in enumerate(self.rows) if n not in gone)

    def reorder(self, row: int, to: int) -> int:
        """Move a pair to another position of the list; return the position."""
        to = min(max(to, 0), len(self.rows) - 1)
        if to != row:
            self._record()
            rest = [*self.rows[:row], *self.rows[row + 1 :]]
            rest.insert(to, self.rows[row])
            self.rows = tuple(rest)
        return to

    def lock(self, rows: Iterable[int], locked: bool = True) -> None:
        """Protect pairs from changes, or allow them again."""
        chosen = set(rows)
        if any(self.rows[n].locked != locked for n in chosen):
            self._record()
            for n in chosen:
                self._set(n, replace(self.rows[n], locked=locked))

    # -- history

    @property
    def can_undo(self) -> bool:
        """Whether there is a change to undo."""
        return bool(self._past)

    @property
    def can_redo(self) -> bool:
        """Whether there is an undone change."""
        return bool(self._future)

    def undo(self) -> None:
        """Take the last change back."""
        if self._past:
            self._future.append(self.rows)
            self.rows = self._past.pop()

    def redo(self) -> None:
        """Make the last undone change again."""
        if self._future:
            self._past.append(self.rows)
            self.rows = self._future.pop()

    def _record(self) -> None:
        self._past = [*self._past[-MAX_UNDO + 1 :], self.rows]
        self._future = []

    def _set(self, row: int, pair: LandmarkPair) -> None:
        self.rows = (*self.rows[:row], pair, *self.rows[row + 1 :])

    def _check_unlocked(self, rows: Iterable[int]) -> None:
        locked = sorted(n + 1 for n in rows if self.rows[n].locked)
        if locked:
            raise InputError(f"Pair {', '.join(map(str, locked))} is locked. Unlock it first.")

    def _checked(self, point: npt.ArrayLike) -> FloatArray:
        where = np.array(point, dtype=np.float64)
        if where.shape != (self.ndim,) or not np.isfinite(where).all():
            raise InputError(f"A landmark has {self.ndim} finite coordinates, not {np.asarray(point).tolist()}.")
        return where


def other_side(side: Side) -> Side:
    """Return the name of the other side."""
    return "moving" if side == "fixed" else "fixed"
