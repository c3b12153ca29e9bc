"""Axis order of the arrays that networks of other programs were trained on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from napari_stnreg.core.errors import InputError

_DIRECTIONS = {"R": (2, 1), "L": (2, -1), "A": (1, 1), "P": (1, -1), "S": (0, 1), "I": (0, -1)}
"""Axis of a (z, y, x) volume in scanner space, and the sign along it."""


@dataclass(frozen=True)
class ArrayOrientation:
    """Order and direction of the axes of a network's arrays, relative to (z, y, x).

    Parameters
    ----------
    code
        ``"zyx"`` (``"yx"`` in 2D) for this package's own order; or three letters such as ``"RAS"`` or ``"LIA"``, the
        anatomical direction in which each axis of the array runs.
    ndim
        Number of axes.

    Raises
    ------
    InputError
        If there is no such orientation.
    """

    code: str
    ndim: int

    def __post_init__(self) -> None:
        self._axes()

    def _axes(self) -> list[tuple[int, int]]:
        """Return our axis and the sign for each axis of the network."""
        if self.code.lower() == "zyx"[-self.ndim :]:
            return [(axis, 1) for axis in range(self.ndim)]
        letters = self.code.upper()
        if self.ndim != 3 or len(letters) != 3 or any(letter not in _DIRECTIONS for letter in letters):
            raise InputError(
                f"There is no orientation '{self.code}'. Use {'zyx'[-self.ndim :]}"
                + (" or three letters of R, L, A, P, S, I, such as RAS or LIA." if self.ndim == 3 else ".")
            )
        axes = [_DIRECTIONS[letter] for letter in letters]
        if len({axis for axis, _ in axes}) < 3:
            raise InputError(f"The orientation '{self.code}' names a direction twice.")
        return axes

    def to_network(self, image: Tensor) -> Tensor:
        """Reorder an image ``(B, C, *shape)`` for the network."""
        axes = self._axes()
        reoriented = image.permute(0, 1, *(axis + 2 for axis, _ in axes))
        flipped = [i + 2 for i, (_, sign) in enumerate(axes) if sign < 0]
        return reoriented.flip(flipped) if flipped else reoriented

    def from_network(self, field: Tensor) -> Tensor:
        """Reorder a field ``(B, D, *shape)`` of the network, whose channels are along its axes, to (z, y, x)."""
        axes = self._axes()
        flipped = [i + 2 for i, (_, sign) in enumerate(axes) if sign < 0]
        field = field.flip(flipped) if flipped else field
        place = {axis: i for i, (axis, _) in enumerate(axes)}
        field = field.permute(0, 1, *(place[axis] + 2 for axis in range(self.ndim)))
        signs = field.new_tensor([axes[place[axis]][1] for axis in range(self.ndim)])
        return field[:, [place[axis] for axis in range(self.ndim)]] * signs.reshape(-1, *[1] * self.ndim)
