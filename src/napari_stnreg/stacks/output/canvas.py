"""Output canvas of the aligned stack, and the grid of its displacement fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.grid import Grid
from napari_stnreg.stacks.section_transform import fit_affine_matrix

if TYPE_CHECKING:
    from napari_stnreg.stacks.section_transform import SectionTransform
    from napari_stnreg.transforms.base import Transform


@dataclass(frozen=True)
class OutputCanvas:
    """Pixel grid of the aligned stack, in input pixels.

    Parameters
    ----------
    origin
        Input pixel ``(y, x)`` of the first canvas pixel; negative if the canvas extends beyond the input.
    shape
        Size ``(y, x)`` in input pixels.
    input_shape
        Size ``(y, x)`` of the input sections.
    step
        Node spacing of the displacement in pixels.
    """

    origin: tuple[int, int]
    shape: tuple[int, int]
    input_shape: tuple[int, int]
    step: int

    @property
    def grid(self) -> Grid:
        """Pixels of the canvas as a grid in input pixels."""
        return Grid.from_spacing(self.shape, 1.0, [float(o) for o in self.origin])

    @property
    def input_grid(self) -> Grid:
        """Pixels of the input as a grid."""
        return Grid.from_spacing(self.input_shape)

    @property
    def field_origin(self) -> tuple[int, int]:
        """First node of the displacement: the upper left corner of canvas and input together."""
        return min(self.origin[0], 0), min(self.origin[1], 0)

    @property
    def field_shape(self) -> tuple[int, int]:
        """Number of displacement nodes that cover canvas and input."""
        nodes = []
        for axis, start in enumerate(self.field_origin):
            stop = max(self.origin[axis] + self.shape[axis], self.input_shape[axis])
            nodes.append(-(-(stop - 1 - start) // self.step) + 1)
        return max(nodes[0], 2), max(nodes[1], 2)

    @property
    def field_grid(self) -> Grid:
        """Nodes of the displacement as a grid."""
        return Grid.from_spacing(self.field_shape, float(self.step), [float(o) for o in self.field_origin])

    def to_dict(self) -> dict[str, Any]:
        """Return the canvas as JSON-compatible values."""
        return {
            "canvas_origin": list(self.origin),
            "canvas_shape": list(self.shape),
            "input_shape": list(self.input_shape),
            "origin": list(self.field_origin),
            "scale": [self.step, self.step],
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> OutputCanvas:
        """Restore a canvas from :meth:`to_dict`."""
        pair = {name: (int(state[name][0]), int(state[name][1])) for name in
                ("canvas_origin", "canvas_shape", "input_shape")}  # fmt: skip
        return cls(pair["canvas_origin"], pair["canvas_shape"], pair["input_shape"], int(state["scale"][0]))


def displacement_transform(displacement: npt.ArrayLike, canvas: OutputCanvas) -> Transform:
    """Create the pull-back transform of one section, canvas to raw section, in input pixels.

    Parameters
    ----------
    displacement
        ``(2, *canvas.field_shape)``, order (y, x), ``raw = p + displacement(p)``; linear between its nodes.
    canvas
        Canvas that defines the nodes.

    Returns
    -------
    Transform
        A displacement followed by the best-fitting affine map. The affine part extrapolates beyond the nodes and
        initializes the inverse, which therefore converges for any rotation.
    """
    import torch

    from napari_stnreg.transforms import AffineTransform, ChainTransform, DisplacementTransform

    field = np.asarray(displacement, dtype=np.float64)
    grid = canvas.field_grid
    points = grid.points()
    mapped = points + np.moveaxis(field, 0, -1)
    few = (slice(None, None, max(points.shape[0] // 32, 1)), slice(None, None, max(points.shape[1] // 32, 1)))
    matrix = fit_affine_matrix(points[few].reshape(-1, 2), mapped[few].reshape(-1, 2))
    back = np.linalg.inv(matrix)
    rest = mapped @ back[:2, :2].T + back[:2, 2] - points
    bend = DisplacementTransform(torch.from_numpy(np.moveaxis(rest, -1, 0).copy()), grid)
    return ChainTransform([bend, AffineTransform(matrix, "pixel")])


def sample_displacement(section_map: SectionTransform, canvas: OutputCanvas) -> npt.NDArray[np.float32]:
    """Sample the transform of a section as a displacement at the nodes, ``(2, *field_shape)``."""
    y, x = (o + canvas.step * np.arange(n, dtype=np.float64) for o, n in
            zip(canvas.field_origin, canvas.field_shape, strict=True))  # fmt: skip
    moved = np.moveaxis(section_map.on_axes(y, x), -1, 0)
    return np.stack([moved[0] - y[:, None], moved[1] - x], dtype=np.float32)


def dense_displacement(displacement: npt.ArrayLike, canvas: OutputCanvas) -> npt.NDArray[np.float32]:
    """Evaluate the displacement at every pixel of the input, ``(2, y, x)`` in pixels."""
    return displacement_transform(displacement, canvas).displacement(canvas.input_grid)
