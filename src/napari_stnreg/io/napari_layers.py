"""Between an :class:`~napari_stnreg.core.image.Image` and the keywords of a napari layer, without napari.

napari takes and gives layers as tuples ``(data, keywords, kind)``. Readers, writers and sample data speak that form,
so that they can be imported, tested and used where napari is not installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.units import canonical, conversion_factor

if TYPE_CHECKING:
    from napari_stnreg.transforms.base import Transform

LayerData = tuple[Any, dict[str, Any], str]
AXIS_LABELS = ("z", "y", "x")


def placement(grid: Grid) -> dict[str, Any]:
    """Return layer keywords that place an array on a grid, with unit and axis names."""
    keywords: dict[str, Any] = {"units": (grid.unit,) * grid.ndim, "axis_labels": AXIS_LABELS[-grid.ndim :]}
    diagonal = np.diag(grid.linear)
    if np.array_equal(grid.linear, np.diag(diagonal)) and (diagonal > 0).all():
        # The plain form, which napari shows and lets people edit.
        keywords |= {"scale": diagonal.copy(), "translate": grid.origin.copy()}
    else:
        keywords["affine"] = grid.matrix.copy()
    return keywords


def layer_data(image: Image, kind: str = "image", **keywords: Any) -> LayerData:
    """A layer of an image: its data, placement, name and metadata.

    Parameters
    ----------
    image
        What to show.
    kind
        ``"image"`` or ``"labels"``.
    **keywords
        Further keywords of the layer, such as ``colormap``; they win over those made here.
    """
    own: dict[str, Any] = {"name": image.name, "metadata": dict(image.metadata), **placement(image.grid)}
    if kind == "image" and image.rgb:
        own["rgb"] = True
    elif kind == "image" and image.has_channel_axis:
        own["channel_axis"] = image.ndim
    return image.data, own | keywords, kind


def matrix_of(keywords: Mapping[str, Any], ndim: int) -> FloatArray:
    """The ``(ndim + 1, ndim + 1)`` matrix from a layer's data to its world.

    Parameters
    ----------
    keywords
        A layer's state: ``scale``, ``rotate``, ``shear`` and ``translate`` come first, ``affine`` after them.
    ndim
        Number of the layer's axes without channels.
    """
    matrix = np.eye(ndim + 1)
    matrix[:-1, :-1] = (
        _square(keywords.get("rotate"), ndim, "rotate")
        @ _square(keywords.get("shear"), ndim, "shear")
        @ np.diag(np.broadcast_to(_given(keywords.get("scale"), 1.0), (ndim,)))
    )
    matrix[:-1, -1] = np.broadcast_to(_given(keywords.get("translate"), 0.0), (ndim,))
    affine = keywords.get("affine")
    if affine is None:
        return matrix
    # napari hands out its own Affine objects now and then; the array inside is what counts.
    affine = np.asarray(getattr(affine, "affine_matrix", affine), dtype=np.float64)
    missing = ndim + 1 - len(affine)
    if missing > 0:
        affine = np.block([[np.eye(missing), np.zeros((missing, len(affine)))],
                           [np.zeros((len(affine), missing)), affine]])  # fmt: skip
    return np.asarray(affine @ matrix)


def grid_of(keywords: Mapping[str, Any], shape: Sequence[int]) -> Grid:
    """The grid of a layer whose last two or three axes have this shape; axes before them must stand apart.

    The unit is that of the last axis, and the others are converted to it.

    Raises
    ------
    InputError
        If the axes' units cannot be converted into each other, or the matrix is singular.
    """
    ndim = len(shape)
    units = [canonical(str(unit)) for unit in (keywords.get("units") or ())][-ndim:]
    units = units if len(units) == ndim else ["pixel"] * ndim
    # A leading time axis takes no part: its row and column are left out.
    total = _dimensions(keywords, ndim)
    matrix = matrix_of(keywords, total)[total - ndim :, total - ndim :].copy()
    for axis, unit in enumerate(units):
        matrix[axis] *= conversion_factor(unit, units[-1])
    return Grid(tuple(shape), matrix, units[-1])


def _dimensions(keywords: Mapping[str, Any], least: int) -> int:
    sizes = [np.size(keywords[name]) for name in ("scale", "translate") if keywords.get(name) is not None]
    return max([least, *sizes])


def _given(value: Any, default: float) -> FloatArray:
    return np.asarray(default if value is None else value, dtype=np.float64)


def _square(value: Any, ndim: int, name: str) -> FloatArray:
    """A rotation or shear in any of the forms that napari accepts, as a matrix."""
    if value is None:
        return np.eye(ndim)
    array = np.asarray(value, dtype=np.float64)
    if array.shape == (ndim, ndim):
        return array
    if name == "shear":
        matrix = np.eye(ndim)
        matrix[np.triu_indices(ndim, 1)] = array
        return matrix
    if array.size == 1:  # degrees in the plane of the last two axes
        angle = np.deg2rad(float(array.reshape(())))
        matrix = np.eye(ndim)
        matrix[-2:, -2:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        return matrix
    return _from_angles(array)


def _from_angles(degrees: FloatArray) -> FloatArray:
    """Napari's three angles: yaw, pitch and roll of a 3D layer, applied in that order from the left."""
    a, b, c = np.deg2rad(degrees)
    yaw = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    pitch = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    roll = np.array([[1, 0, 0], [0, np.cos(c), -np.sin(c)], [0, np.sin(c), np.cos(c)]])
    return np.asarray(yaw @ pitch @ roll)


def transform_to_metadata(transform: Transform) -> dict[str, Any]:
    """A transform as plain values and arrays, for a layer's metadata; :func:`transform_from_metadata` reads it back."""
    return {
        "family": transform.family,
        "coordinate_systems": list(transform.coordinate_systems),
        "itk_matrices": list(transform.itk_matrices),
        "settings": transform.settings(),
        "tensors": {name: tensor.detach().cpu().numpy() for name, tensor in transform.tensors().items()},
    }


def transform_from_metadata(state: dict[str, Any]) -> Transform:
    """The transform that :func:`transform_to_metadata` described."""
    import torch

    from napari_stnreg.transforms import transform_class

    tensors = {name: torch.from_numpy(np.array(array)) for name, array in state["tensors"].items()}
    transform = transform_class(state["family"]).from_state(tensors, state["settings"])
    transform = transform.with_coordinate_systems(*state.get("coordinate_systems", transform.coordinate_systems))
    return transform.with_itk_matrices(*state.get("itk_matrices", transform.itk_matrices))
