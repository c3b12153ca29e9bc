"""Everything a person set in the explorer, as one value that can be saved, handed out and loaded again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_stnreg.core.errors import InputError
from napari_stnreg.ops.interpolation import Kernel, Padding

FAMILIES = ("affine", "tps", "bspline")
KERNELS: tuple[Kernel, ...] = ("linear", "nearest", "cubic")
PADDINGS: tuple[Padding, ...] = ("zeros", "border", "reflection")
FORMAT = "napari-stnreg explorer"
_LONGEST_SIDE = 4096
Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class ExplorerState:
    """A spatial transformer and how it samples; numbers only, so that it fits any image.

    Parameters
    ----------
    family
        ``"affine"``, ``"tps"`` or ``"bspline"``.
    theta
        The affine family's six numbers in normalized coordinates, two rows of three, as in the paper.
    lattice
        Control points along each axis (of a B-spline: cells).
    bends
        For ``"tps"`` and ``"bspline"``, displacements of the control points as rows (y, x), row by row of the
        lattice, as shares of the image's height and width; missing means none.
    kernel, padding
        Of the sampler.
    output_shape
        ``(y, x)`` of the output; ``None`` for the input's own.
    """

    family: str = "affine"
    theta: Rows = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    lattice: int = 4
    bends: dict[str, Rows] = field(default_factory=dict)
    kernel: Kernel = "linear"
    padding: Padding = "zeros"
    output_shape: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for value, known, what in (
            (self.family, FAMILIES, "family"),
            (self.kernel, KERNELS, "kernel"),
            (self.padding, PADDINGS, "padding"),
        ):
            if value not in known:
                raise InputError(f"The explorer knows no {what} '{value}'; choose one of {', '.join(known)}.")
        if not 2 <= self.lattice <= 12:
            raise InputError(f"The lattice has 2 to 12 control points along each axis, not {self.lattice}.")
        theta = _numbers(self.theta, (2, 3), "Theta")
        bends = {name: _numbers(rows, (-1, 2), "A control point's displacement") for name, rows in self.bends.items()}
        object.__setattr__(self, "theta", theta)
        object.__setattr__(self, "bends", bends)
        if self.output_shape is not None:
            shape = tuple(int(n) for n in self.output_shape)
            if len(shape) != 2 or min(shape) < 2 or max(shape) > _LONGEST_SIDE:
                raise InputError(f"The output has two sides of 2 to {_LONGEST_SIDE} pixels, not {shape}.")
            object.__setattr__(self, "output_shape", shape)

    def but(self, **changes: Any) -> ExplorerState:
        """The same with some fields changed, checked again."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ExplorerState:
        """The state that :meth:`to_dict` described.

        Raises
        ------
        InputError
            If a field is unknown or holds what it cannot.
        """
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise InputError(f"The explorer's state holds what this version does not know: {', '.join(unknown)}.")
        try:
            return cls(**values)
        except (TypeError, AttributeError) as error:
            raise InputError(f"The explorer's state cannot be read: {error}.") from error


def _numbers(rows: Any, shape: tuple[int, int], what: str) -> Rows:
    try:
        array = np.asarray(rows, dtype=np.float64).reshape(shape)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} is not made of rows of {shape[1]} numbers.") from error
    if not np.isfinite(array).all():
        raise InputError(f"{what} holds a value that is not a finite number.")
    return tuple(tuple(float(value) for value in row) for row in array)


def save_state(path: str | Path, state: ExplorerState, view: dict[str, Any] | None = None) -> None:
    """Write a state, and what the panel showed, to a JSON file."""
    content = {"format": FORMAT, "version": 1, "state": state.to_dict(), "view": view or {}}
    Path(path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_state(path: str | Path) -> tuple[ExplorerState, dict[str, Any]]:
    """Read what :func:`save_state` wrote.

    Raises
    ------
    InputError
        If the file is missing, or is none of ours.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"'{path.name}' cannot be opened: {error.strerror or error}.") from error
    except ValueError as error:
        raise InputError(f"'{path.name}' is not a JSON file.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"'{path.name}' is not a state of the spatial transformer explorer.")
    if content.get("version") != 1:
        raise InputError(f"'{path.name}' was saved by a newer version of this program.")
    state, view = content.get("state"), content.get("view", {})
    if not isinstance(state, dict) or not isinstance(view, dict):
        raise InputError(f"'{path.name}' holds no state of the explorer.")
    return ExplorerState.from_dict(state), view
