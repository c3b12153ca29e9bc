"""Composition: several transforms applied one after the other, so that an image is sampled only once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.transforms.base import InversionMethod, Transform
from napari_stnreg.transforms.linear import AffineTransform
from napari_stnreg.transforms.registry import transform_class

_METHODS: tuple[InversionMethod, ...] = ("exact", "velocity", "iterative")


class ChainTransform(Transform):
    """``x -> last(... second(first(x)))``: the parts are applied to a point of the fixed world in the order given.

    Neighboring affine parts are multiplied and nested chains are flattened; nothing is ever resampled.

    Parameters
    ----------
    parts
        At least one transform; all have the same number of axes and the same unit.
    """

    family = "chain"

    def __init__(self, parts: Sequence[Transform]) -> None:
        if len({(part.ndim, part.unit) for part in parts}) > 1:
            raise InputError("Transforms can be chained when they have the same dimensions and the same unit.")
        self._parts: list[Transform] = []
        for part in parts:
            for piece in part.parts:
                last = self._parts[-1] if self._parts else None
                if isinstance(piece, AffineTransform) and isinstance(last, AffineTransform):
                    self._parts[-1] = piece.after(last)
                else:
                    self._parts.append(piece)
        if not self._parts:
            raise InputError("A chain needs at least one transform.")
        first = self._parts[0]
        self.ndim, self.unit = first.ndim, first.unit
        self.length_scale = min((p.length_scale for p in self._parts if p.matrix is None), default=first.length_scale)
        self.coordinate_systems = (parts[0].coordinate_systems[0], parts[-1].coordinate_systems[1])
        self.itk_matrices = (parts[0].itk_matrices[0], parts[-1].itk_matrices[1])
        self.domain = parts[0].domain

    @property
    @override
    def parts(self) -> Sequence[Transform]:
        return self._parts

    def __repr__(self) -> str:
        return f"<ChainTransform: {self.ndim}D, {', then '.join(p.family for p in self.parts)}, unit {self.unit}>"

    @override
    def __call__(self, points: Tensor) -> Tensor:
        for part in self.parts:
            points = part(points)
        return points

    @override
    def on_grid(self, grid: Grid, dtype: torch.dtype | None = None) -> Tensor:
        points = self.parts[0].on_grid(grid, dtype or self.dtype)
        for part in self.parts[1:]:
            points = part(points)
        return points

    @property
    @override
    def dtype(self) -> torch.dtype:
        # A double-precision affine part among deformations in single precision stays exact.
        return next((part.dtype for part in self.parts if part.matrix is None), self.parts[0].dtype)

    @override
    def to(self, device: torch.device | str) -> Self:
        # Part by part, so that inverses among them keep counting unsolved points for the original too.
        parts = [part.to(device) for part in self.parts]
        if all(moved is part for moved, part in zip(parts, self.parts, strict=True)):
            return self
        return type(self)(parts).like(self)

    @override
    def inverse(self) -> ChainTransform:
        return self._reversed([part.inverse() for part in reversed(self.parts)])

    @override
    def solved_inverse(self) -> ChainTransform:
        return self._reversed([part.solved_inverse() for part in reversed(self.parts)])

    def _reversed(self, parts: Sequence[Transform]) -> ChainTransform:
        return ChainTransform(parts).reversed_like(self)

    @property
    @override
    def inversion_method(self) -> InversionMethod:
        return max((part.inversion_method for part in self.parts), key=_METHODS.index)

    @property
    @override
    def warning(self) -> str | None:
        return next((part.warning for part in self.parts if part.warning is not None), None)

    @override
    def as_matrix(self) -> FloatArray | None:
        product = np.eye(self.ndim + 1)
        for part in self.parts:
            matrix = part.as_matrix()
            if matrix is None:
                return None
            product = matrix @ product
        return product

    @override
    def linear_part(self) -> Tensor:
        product = super().linear_part()
        for part in self.parts:
            product = part.linear_part() @ product
        return product

    @override
    def native_grid(self) -> Grid | None:
        grids = [grid for part in self.parts if (grid := part.native_grid()) is not None]
        return min(grids, key=lambda grid: float(np.prod(grid.spacing)), default=None)

    @override
    def _change_coordinates(self, matrix: FloatArray, unit: str) -> ChainTransform:
        return ChainTransform([part._change_coordinates(matrix, unit) for part in self.parts])

    @override
    def _translated_frame(self, offset: FloatArray) -> ChainTransform:
        return ChainTransform([part._translated_frame(offset) for part in self.parts])

    @override
    def tensors(self) -> dict[str, Tensor]:
        return {f"{i}.{name}": t for i, part in enumerate(self.parts) for name, t in part.tensors().items()}

    @override
    def settings(self) -> dict[str, Any]:
        return {"parts": [{"family": part.family, **part.settings()} for part in self.parts]}

    @classmethod
    @override
    def from_state(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> Self:
        parts = []
        for i, part in enumerate(settings["parts"]):
            own = {name.split(".", 1)[1]: t for name, t in tensors.items() if name.split(".", 1)[0] == str(i)}
            parts.append(transform_class(part["family"]).from_state(own, part))
        return cls(parts)


def chain(*parts: Transform) -> Transform:
    """Apply the parts in the order given; a single part, or parts that merge into one, are returned as that part."""
    joined = ChainTransform(parts)
    return joined.parts[0].like(joined) if len(joined.parts) == 1 else joined


def compose(*parts: Transform) -> Transform:
    """Apply the parts in the order given and convert their units to that of the first.

    ``compose(first, second)`` is ``second @ first``, ``x -> second(first(x))``: with ``first`` from A to B and
    ``second`` from B to C it maps points of A to C, and a warp by it brings C's image onto A in a single sampling.

    Raises
    ------
    InputError
        If there is no part, or dimensions or units do not match.
    """
    if not parts:
        raise InputError("A chain needs at least one transform.")
    return chain(*(part.with_unit(parts[0].unit) for part in parts))
