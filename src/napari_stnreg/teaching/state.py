"""State of the spatial transformer explorer, which can be saved and loaded."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import asdict, dataclass, field, fields
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
    """A spatial transformer and its sampler; independent of the image.

    Parameters
    ----------
    family
        ``"affine"``, ``"tps"`` or ``"bspline"``.
    theta
        The affine family's six numbers in normalized coordinates, two rows of three, as in the paper.
    lattice
        Control points along each axis (of a B-spline: cells).
    displacements
        For ``"tps"`` and ``"bspline"``, displacements of the control points as rows (y, x), in row-major order of the
        lattice, as fractions of the image's height and width; zero if missing.
    kernel, padding
        Interpolation kernel and padding of the sampler.
    output_shape
        Size of the output ``(y, x)``; that of the input by default.
    """

    family: str = "affine"
    theta: Rows = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    lattice: int = 4
    displacements: dict[str, Rows] = field(default_factory=dict)
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
                raise InputError(f"There is no {what} '{value}'. Choose one of {', '.join(known)}.")
        if not 2 <= self.lattice <= 12:
            raise InputError(f"The lattice has 2 to 12 control points along each axis, not {self.lattice}.")
        theta = _numbers(self.theta, (2, 3), "Theta")
        displacements = {
            name: _numbers(rows, (-1, 2), "A control point's displacement") for name, rows in self.displacements.items()
        }
        object.__setattr__(self, "theta", theta)
        object.__setattr__(self, "displacements", displacements)
        if self.output_shape is not None:
            shape = tuple(int(n) for n in self.output_shape)
            if len(shape) != 2 or min(shape) < 2 or max(shape) > _LONGEST_SIDE:
                raise InputError(f"The output has two sides of 2 to {_LONGEST_SIDE} pixels, not {shape}.")
            object.__setattr__(self, "output_shape", shape)

    def replace(self, **changes: Any) -> ExplorerState:
        """Return a copy with some fields changed and validated."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ExplorerState:
        """Build a state from :meth:`to_dict`.

        Raises
        ------
        InputError
            If a field is unknown or has an invalid value.
        """
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise InputError(f"The explorer's state has unknown fields: {', '.join(unknown)}.")
        try:
            return cls(**values)
        except (TypeError, AttributeError) as error:
            raise InputError(f"The explorer's state cannot be read: {error}.") from error


def _numbers(rows: Any, shape: tuple[int, int], what: str) -> Rows:
    try:
        array = np.asarray(rows, dtype=np.float64).reshape(shape)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} needs rows of {shape[1]} numbers.") from error
    if not np.isfinite(array).all():
        raise InputError(f"{what} has a value that is not finite.")
    return tuple(tuple(float(value) for value in row) for row in array)


def save_state(path: str | Path, state: ExplorerState, view: dict[str, Any] | None = None) -> None:
    """Save a state and the view settings of the panel to a JSON file."""
    content = {"format": FORMAT, "version": 1, "state": state.to_dict(), "view": view or {}}
    Path(path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_state(path: str | Path) -> tuple[ExplorerState, dict[str, Any]]:
    """Load a file saved by :func:`save_state`.

    Raises
    ------
    InputError
        If the file is missing or is not an explorer state.
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
        raise InputError(f"'{path.name}' has no state of the explorer.")
    return ExplorerState.from_dict(state), view
