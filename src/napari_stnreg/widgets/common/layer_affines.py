"""A transform set as a layer's own affine, so that nothing is resampled, and taken back again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
from napari.layers import Layer

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray
from napari_stnreg.core.units import conversion_factor
from napari_stnreg.io.transform_entry import TransformEntry
from napari_stnreg.widgets.common.layer_io import axis_units, guess_layout
from napari_stnreg.widgets.transforms.apply_layers import spatial_matrix

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_stnreg.resampling.geometry import Side


def transformed_affine(layer: Layer, entry: TransformEntry, side: Side) -> Any:
    """Return the affine that moves a layer to the other side; scale, rotation and translation are kept.

    Raises
    ------
    InputError
        If the transform bends, or has more axes than the layer.
    """
    from napari_stnreg.resampling.geometry import GeometryTransformer  # brings torch

    ndim = entry.transform.ndim
    if layer.ndim < ndim:
        raise InputError(f"'{layer.name}' has {layer.ndim} axes, the transform {ndim}. They do not fit together.")
    matrix, unit = spatial_matrix(layer, ndim)
    moved = GeometryTransformer(entry.transform, side, matrix=matrix, unit=unit, target_unit=unit).layer_affine()
    for axis, own in enumerate(axis_units(layer)[-ndim:], start=layer.ndim - ndim):
        moved[axis] *= conversion_factor(unit, own)
        matrix[axis] *= conversion_factor(unit, own)
    return moved @ np.linalg.inv(matrix) @ layer.affine.affine_matrix


def is_oblique(matrix: Any) -> bool:
    """Return whether a linear map mixes the first spatial axis with the others, so that slices do not map to slices."""
    return bool(np.abs(matrix[0, 1:-1]).max() > 1e-6 or np.abs(matrix[1:-1, 0]).max() > 1e-6)


def spatial_affine(layer: Layer, matrix: FloatArray, unit: str) -> FloatArray:
    """Return a map of space, in ``unit``, as an affine of all axes of an image layer, in the layer's units."""
    space, factors = _space(layer, len(matrix) - 1, unit)
    full = np.eye(layer.ndim + 1)
    full[np.ix_(space, space)] = matrix[:-1, :-1] * factors[None, :] / factors[:, None]
    full[space, -1] = matrix[:-1, -1] / factors
    return full


def spatial_part(layer: Layer, affine: FloatArray, unit: str) -> FloatArray:
    """Return the spatial part of an affine of all axes, in ``unit``: the inverse of :func:`spatial_affine`."""
    ndim = sum(letter in "zyx" for letter in guess_layout(layer))
    space, factors = _space(layer, ndim, unit)
    matrix = np.eye(ndim + 1)
    matrix[:-1, :-1] = affine[np.ix_(space, space)] * factors[:, None] / factors[None, :]
    matrix[:-1, -1] = affine[space, -1] * factors
    return matrix


def _space(layer: Layer, ndim: int, unit: str) -> tuple[list[int], FloatArray]:
    """Return the spatial axes of a layer, and the factors from their units to ``unit``."""
    space = [i for i, letter in enumerate(guess_layout(layer)) if letter in "zyx"][-ndim:]
    return space, np.array([conversion_factor(axis_units(layer)[i], unit) for i in space])


class LayerAffines:
    """Layers that were moved by their affine, and their earlier position."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._before: list[tuple[Any, Any]] = []

    def move(self, layers: Sequence[Layer], entry: TransformEntry, side: Side) -> None:
        """Put layers on the other side: all, or none.

        Raises
        ------
        InputError
            If the transform bends, or has more axes than a layer.
        """
        moves = [(layer, transformed_affine(layer, entry, side)) for layer in layers]
        for layer, affine in moves:
            self._before.append((ref(layer), layer.affine.affine_matrix.copy()))
            layer.affine = affine

    def __bool__(self) -> bool:
        """Return whether there is a layer to restore."""
        self._before = [(there, affine) for there, affine in self._before if there() in self._viewer.layers]
        return bool(self._before)

    def undo(self) -> Layer | None:
        """Give the last layer that was moved its former affine back; gives the layer."""
        if not self:
            return None
        there, affine = self._before.pop()
        layer: Layer = there()
        layer.affine = affine
        return layer
