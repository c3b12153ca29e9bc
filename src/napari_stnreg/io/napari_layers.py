"""Convert between :class:`~napari_stnreg.core.image.Image` and the keywords of a napari layer, without napari.

napari takes and gives layers as tuples ``(data, keywords, kind)``. Readers, writers and sample data use that form,
so that they can be imported, tested and used where napari is not installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.units import canonical, conversion_factor

if TYPE_CHECKING:
    from napari_stnreg.transforms.base import Transform

LayerData = tuple[Any, dict[str, Any], str]
AXIS_LABELS = ("z", "y", "x")
LAYOUTS = {
    2: ("yx",),
    3: ("zyx", "tyx", "cyx", "yxc", "yxt"),
    4: ("tzyx", "czyx", "zcyx", "ztyx", "zyxc", "zyxt", "tcyx", "ctyx", "tyxc", "cyxt", "yxtc", "yxct"),
    5: ("tczyx", "tzcyx", "ctzyx", "cztyx", "ztcyx", "zctyx", "tzyxc", "ztyxc", "czyxt", "zcyxt", "zyxtc", "zyxct"),
}
"""What an array's axes can mean, by their number; the first is the usual one. t is time, c channels."""
_LETTERS = {
    "time": "t", "frame": "t", "frames": "t", "timepoint": "t", "channel": "c", "channels": "c", "ch": "c",
    "wavelength": "c", "s": "c", "sample": "c", "depth": "z", "slice": "z", "plane": "z", "section": "z", "row": "y",
    "height": "y", "column": "x", "width": "x", "q": "z", "i": "z",
}  # fmt: skip


def layout_name(layout: str) -> str:
    """Return the display name of a layout, such as ``"3D (z, y, x)"``."""
    kind = "3D" if "z" in layout else "2D"
    extra = [word for letter, word in (("t", "time series"), ("c", "channels")) if letter in layout]
    return f"{kind}{' ' if extra else ''}{' with '.join(extra)} ({', '.join(layout)})"


def layout_of(labels: Sequence[str], ndim: int, name: str) -> str | None:
    """Return what the labels of an array's axes mean, one of :data:`LAYOUTS`; ``None`` if they are ambiguous.

    Raises
    ------
    InputError
        If there are fewer than two or more than five axes, or the labels name an order that is not supported.
    """
    if ndim not in LAYOUTS:
        raise InputError(f"'{name}' has {ndim} axes. Layers must have two to five axes.")
    found = "".join(_LETTERS.get(str(label).lower(), str(label).lower()) for label in labels)
    if found in LAYOUTS[ndim]:
        return found
    if len(found) == ndim and set(found) <= set("tczyx") and len(set(found)) == ndim:
        raise InputError(f"'{name}' has the axes {', '.join(found)}. Transpose it so that z comes before y and x last.")
    return None


def placement(grid: Grid) -> dict[str, Any]:
    """Return layer keywords that place an array on a grid, with unit and axis names."""
    keywords: dict[str, Any] = {"units": (grid.unit,) * grid.ndim, "axis_labels": AXIS_LABELS[-grid.ndim :]}
    diagonal = np.diag(grid.linear)
    if np.array_equal(grid.linear, np.diag(diagonal)) and (diagonal > 0).all():
        # The plain form, which napari shows and lets the user edit.
        keywords |= {"scale": diagonal.copy(), "translate": grid.origin.copy()}
    else:
        keywords["affine"] = grid.matrix.copy()
    return keywords


def layer_data(image: Image, kind: str = "image", **keywords: Any) -> LayerData:
    """Return an image as layer data: values, placement, name and metadata.

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
    """Return the ``(ndim + 1, ndim + 1)`` matrix from a layer's data to its world.

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


def grid_of(keywords: Mapping[str, Any], shape: Sequence[int], axes: Sequence[int] | None = None) -> Grid:
    """Return the grid of a layer's last two or three axes; leading axes must be separable.

    The spatial axes are the last ones, or those with the numbers in ``axes``.

    The unit is that of the last axis, and the others are converted to it.

    Raises
    ------
    InputError
        If the axes' units cannot be converted into each other, or the matrix is singular.
    """
    ndim = len(shape)
    total = _dimensions(keywords, ndim if axes is None else max(axes) + 1)
    kept = list(range(total - ndim, total)) if axes is None else list(axes)
    units = [canonical(str(unit)) for unit in (keywords.get("units") or ())]
    if axes is None:
        units = units[-ndim:]
    else:
        units = [units[axis] for axis in axes if axis < len(units)]
    units = units if len(units) == ndim else ["pixel"] * ndim
    # Other axes take no part: their rows and columns are left out.
    matrix = matrix_of(keywords, total)[np.ix_([*kept, total], [*kept, total])]
    for axis, unit in enumerate(units):
        matrix[axis] *= conversion_factor(unit, units[-1])
    return Grid(tuple(shape), matrix, units[-1])


def _dimensions(keywords: Mapping[str, Any], least: int) -> int:
    sizes = [np.size(keywords[name]) for name in ("scale", "translate") if keywords.get(name) is not None]
    return max([least, *sizes])


def _given(value: Any, default: float) -> FloatArray:
    return np.asarray(default if value is None else value, dtype=np.float64)


def _square(value: Any, ndim: int, name: str) -> FloatArray:
    """Convert any form of rotation or shear that napari accepts to a matrix."""
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
    """Describe a transform by plain values and arrays; inverse of :func:`transform_from_metadata`."""
    return {
        "family": transform.family,
        "coordinate_systems": list(transform.coordinate_systems),
        "itk_matrices": list(transform.itk_matrices),
        "settings": transform.settings(),
        "tensors": {name: tensor.detach().cpu().numpy() for name, tensor in transform.tensors().items()},
    }


def transform_from_metadata(state: dict[str, Any]) -> Transform:
    """Rebuild a transform from :func:`transform_to_metadata`."""
    import torch

    from napari_stnreg.transforms import transform_class

    tensors = {name: torch.from_numpy(np.array(array)) for name, array in state["tensors"].items()}
    transform = transform_class(state["family"]).from_state(tensors, state["settings"])
    transform = transform.with_coordinate_systems(*state.get("coordinate_systems", transform.coordinate_systems))
    return transform.with_itk_matrices(*state.get("itk_matrices", transform.itk_matrices))
