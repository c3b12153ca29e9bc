"""Several transforms, one after the other, kept apart until an image is sampled once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from typing_extensions import override

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.transforms.base import Transform
from napari_stnreg.transforms.linear import AffineTransform


class ChainTransform(Transform):
    """``x -> last(... second(first(x)))``: the parts are applied to a point of the fixed world in the order given.

    Neighboring affine parts are multiplied into one and nested chains are flattened; nothing is ever resampled.
    """

    family = "chain"

    def __init__(self, parts: Sequence[Transform]) -> None:
        if len({(part.ndim, part.unit) for part in parts}) > 1:  # asked before anything is multiplied
            raise InputError("Transforms can be chained when they have the same dimensions and the same unit.")
        flat: list[Transform] = []
        self.parts = flat
        for part in parts:
            for piece in part.parts if isinstance(part, ChainTransform) else [part]:
                if flat and isinstance(piece, AffineTransform) and isinstance(flat[-1], AffineTransform):
                    flat[-1] = piece.after(flat[-1])
                else:
                    flat.append(piece)
        if not flat:
            raise InputError("A chain needs at least one transform.")
        self.ndim, self.unit = flat[0].ndim, flat[0].unit
        self.length = min((p.length for p in flat if not isinstance(p, AffineTransform)), default=flat[0].length)
        self.coordinate_systems = (parts[0].coordinate_systems[0], parts[-1].coordinate_systems[1])

    @override
    def __call__(self, points: Tensor) -> Tensor:
        for part in self.parts:
            points = part(points)
        return points

    @override
    def on_grid(self, grid: Grid, dtype: torch.dtype | None = None) -> Tensor:
        """Map every voxel center of a grid; the first part may take its shortcut over the lattice."""
        points = self.parts[0].on_grid(grid, dtype or self.dtype)
        for part in self.parts[1:]:
            points = part(points)
        return points

    @override
    @property
    def dtype(self) -> torch.dtype:
        """Precision of the deformable parts if there are any (a double affine among them stays exact), else of all."""
        kinds = [part.dtype for part in self.parts]
        fields = [kind for part, kind in zip(self.parts, kinds, strict=True) if not isinstance(part, AffineTransform)]
        return fields[0] if fields else kinds[0]

    @override
    def to(self, device: torch.device | str) -> Self:
        # Part by part: what an inverse among them counts (see its warning) is then counted for the original too.
        return type(self)([part.to(device) for part in self.parts]).with_coordinate_systems(*self.coordinate_systems)

    @override
    def inverse(self) -> ChainTransform:
        return ChainTransform([part.inverse() for part in reversed(self.parts)]).with_coordinate_systems(
            *reversed(self.coordinate_systems)
        )

    @override
    def translated_frame(self, by: FloatArray) -> ChainTransform:
        return ChainTransform([part.translated_frame(by) for part in self.parts])

    @override
    def tensors(self) -> dict[str, Tensor]:
        return {f"{i}.{name}": t for i, part in enumerate(self.parts) for name, t in part.tensors().items()}

    @override
    def settings(self) -> dict[str, Any]:
        return {"parts": [{"family": part.family, **part.settings()} for part in self.parts]}

    @override
    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> Self:
        from napari_stnreg.transforms import transform_class  # the registry lists this class too

        parts = []
        for i, part in enumerate(settings["parts"]):
            mine = {name.split(".", 1)[1]: t for name, t in tensors.items() if name.split(".", 1)[0] == str(i)}
            parts.append(transform_class(part["family"]).from_state(mine, part))
        return cls(parts)


def chain(*parts: Transform) -> Transform:
    """Apply the parts in the order given; a single (or merged) part comes back as itself."""
    joined = ChainTransform(parts)
    return joined.parts[0].with_coordinate_systems(*joined.coordinate_systems) if len(joined.parts) == 1 else joined
