"""Convert what Python users have into an :class:`~napari_stnreg.core.image.Image`.

Supported are NumPy arrays (and everything that NumPy can convert: Dask and Zarr arrays, h5py data sets, nested lists),
torch tensors, nibabel images, SimpleITK images, xarray DataArrays, napari layers and paths of image files. An object's
library is looked up in :data:`sys.modules` and never imported: an object can only exist if its library was imported
before.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.units import canonical, conversion_factor

if TYPE_CHECKING:
    from torch import Tensor


class SupportsItkImage(Protocol):
    """A SimpleITK image."""

    def GetSpacing(self) -> Any: ...  # noqa: D102
    def GetOrigin(self) -> Any: ...  # noqa: D102
    def GetDirection(self) -> Any: ...  # noqa: D102


class SupportsNibabelImage(Protocol):
    """A nibabel image."""

    @property
    def dataobj(self) -> Any: ...  # noqa: D102
    @property
    def affine(self) -> Any: ...  # noqa: D102


class SupportsLayer(Protocol):
    """A napari image or labels layer."""

    @property
    def data(self) -> Any: ...  # noqa: D102
    @property
    def scale(self) -> Any: ...  # noqa: D102
    @property
    def translate(self) -> Any: ...  # noqa: D102


ImageLike: TypeAlias = (
    "Image | npt.ArrayLike | Tensor | str | os.PathLike[str] | SupportsItkImage | SupportsNibabelImage | SupportsLayer"
)
"""What :func:`as_image` accepts; xarray DataArrays, Dask and Zarr arrays are array-like."""

SPATIAL_AXES = ("z", "y", "x")
CHANNEL_AXES = ("c", "channel", "channels", "band", "rgb")
MIN_RGB_SIDE = 30
"""A last axis of 3 or 4 holds colors if the two axes before it are longer than this (the rule of napari)."""


def as_image(
    obj: ImageLike,
    *,
    spacing: float | Sequence[float] | None = None,
    unit: str | None = None,
    channels: bool | None = None,
    mask: npt.ArrayLike | None = None,
    name: str | None = None,
    like: Image | None = None,
) -> Image:
    """Convert an object to an image with a position in the world; voxel values are not copied where possible.

    Parameters
    ----------
    obj
        - NumPy array or array-like, torch tensor: ``(y, x)`` or ``(z, y, x)``, with ``channels`` one more axis at the
          end. Voxel size 1, unit ``"pixel"``, origin 0 unless given.
        - xarray DataArray: axes named z, y and x in any order, a channel axis (``c``, ``channel``, ``band``), and a
          time axis of length 1. Evenly spaced coordinates give voxel size and origin, their attribute ``units`` the
          unit.
        - nibabel image: as if read from its NIfTI file, in (z, y, x) order and scanner space.
        - SimpleITK image: spacing, origin and direction are kept; millimeters. 3D images are in scanner space.
        - napari image or labels layer: scale, translate, rotate, shear, affine and units are kept; the finest level
          of a multiscale layer.
        - path of an image file, see :func:`~napari_stnreg.read_image`.
        - :class:`~napari_stnreg.Image`: returned unchanged.
    spacing
        Voxel size, one number or one per axis in (z, y, x) order; overrides the object's own. Axis directions and
        the position of the first voxel stay.
    unit
        Unit of the world coordinates, such as ``"um"``; overrides the object's own without converting numbers.
    channels
        Whether the last axis of an array holds channels. By default it does if its length is 3 or 4 and the two axes
        before it are longer than 30, as in napari.
    mask
        Boolean array of the image's spatial shape, true where the image counts.
    name
        Name in messages and results.
    like
        Another image. An array without a position of its own that has the same spatial shape takes over its grid.

    Returns
    -------
    Image

    Raises
    ------
    InputError
        If the type is not supported, the number of axes is not 2 or 3, coordinates are not evenly spaced, or spacing
        or unit cannot be used.
    """
    image, has_position = _convert(obj, channels)
    if like is not None and not has_position and image.grid.shape == like.grid.shape:
        image = image.replace(grid=like.grid)
    elif spacing is not None or unit is not None:
        image = image.replace(grid=override_grid(image.grid, image.name, spacing, unit))
    if mask is not None:
        image = image.replace(mask=np.asarray(mask, dtype=bool))
    return image if name is None else image.replace(name=name)


def as_image_pair(
    fixed: ImageLike,
    moving: ImageLike,
    *,
    spacing: float | Sequence[float] | None = None,
    unit: str | None = None,
    moving_spacing: float | Sequence[float] | None = None,
    moving_unit: str | None = None,
) -> tuple[Image, Image]:
    """Convert a fixed and a moving image; ``spacing`` and ``unit`` hold for both unless the moving ones are given.

    Objects without a name are called "fixed" and "moving".
    """
    pair = (
        as_image(fixed, spacing=spacing, unit=unit),
        as_image(
            moving,
            spacing=spacing if moving_spacing is None else moving_spacing,
            unit=unit if moving_unit is None else moving_unit,
        ),
    )
    if isinstance(fixed, Image) and isinstance(moving, Image):
        return pair
    names = ("fixed", "moving")
    named = [one.replace(name=n) if one.name == "image" else one for one, n in zip(pair, names, strict=True)]
    return named[0], named[1]


def override_grid(grid: Grid, name: str, spacing: float | Sequence[float] | None, unit: str | None) -> Grid:
    """Replace voxel size or unit of a grid; axis directions and the position of the first voxel stay.

    Raises
    ------
    InputError
        If the number of sizes does not match the number of axes, or a size is not positive.
    """
    matrix = grid.matrix.copy()
    if spacing is not None:
        sizes = np.atleast_1d(np.asarray(spacing, dtype=np.float64))
        if sizes.shape not in ((1,), (grid.ndim,)):
            raise InputError(f"'{name}' has {grid.ndim} axes, but {len(sizes)} voxel sizes were given.")
        if not (np.isfinite(sizes) & (sizes > 0)).all():
            raise InputError(f"Voxel sizes must be positive numbers, not {sizes.tolist()}.")
        matrix[:-1, :-1] *= sizes / grid.spacing
    return Grid(grid.shape, matrix, grid.unit if unit is None else canonical(unit))


def override_geometry(image: Image, spacing: float | Sequence[float] | None, unit: str | None) -> Image:
    """Replace voxel size or unit of an image; see :func:`override_grid`."""
    return image.replace(grid=override_grid(image.grid, image.name, spacing, unit))


def _convert(obj: Any, channels: bool | None) -> tuple[Image, bool]:
    """Return the image, and whether the object knows its position in the world."""
    if isinstance(obj, Image):
        return obj, obj.grid != Grid.from_spacing(obj.grid.shape)
    if isinstance(obj, str | os.PathLike):
        from napari_stnreg.io.image import read_image

        image = read_image(obj)
        return image, image.grid != Grid.from_spacing(image.grid.shape)
    for module, class_names, convert in _CONVERTERS:
        library = sys.modules.get(module)
        types = tuple(getattr(library, n) for n in class_names if hasattr(library, n))
        if types and isinstance(obj, types):
            return convert(obj, channels)
    array = np.asarray(obj)
    if array.dtype == object or not (np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_):
        kind = f"array of {array.dtype}" if isinstance(obj, np.ndarray) else f"object of type {type(obj).__name__}"
        raise InputError(
            f"An {kind} cannot be used as an image. Pass a NumPy array of numbers, a nibabel or "
            "SimpleITK image, an xarray DataArray, an image layer of napari, or a path."
        )
    return _from_array(array, channels), False


def _from_array(array: npt.NDArray[Any], channels: bool | None, name: str = "image") -> Image:
    if channels is None:
        channels = array.ndim > 2 and array.shape[-1] in (3, 4) and min(array.shape[-3:-1]) > MIN_RGB_SIDE
    return Image.from_array(array, channels=channels, name=name)


def _from_tensor(tensor: Any, channels: bool | None) -> tuple[Image, bool]:
    tensor = tensor.detach().cpu()
    if not tensor.dtype.is_complex and tensor.dtype.is_floating_point and tensor.element_size() < 4:
        tensor = tensor.float()  # NumPy has no bfloat16
    return _from_array(tensor.numpy(), channels), False


def _from_nibabel(obj: Any, channels: bool | None) -> tuple[Image, bool]:
    from napari_stnreg.io.image import content_image
    from napari_stnreg.io.nifti import nifti_content

    nib = sys.modules["nibabel"]
    filename = obj.get_filename()
    name = "image" if filename is None else os.path.basename(filename).removesuffix(".gz").removesuffix(".nii")
    if not isinstance(obj, nib.nifti1.Nifti1Pair):
        obj = nib.nifti1.Nifti1Image(np.asanyarray(obj.dataobj), obj.affine)
    content = nifti_content(obj, name)
    if content.frames > 1:
        raise InputError(f"'{name}' has {content.frames} frames. Choose one, for example image.slicer[..., 0].")
    return content_image(content, name), True


def _from_itk(obj: Any, channels: bool | None) -> tuple[Image, bool]:
    sitk = sys.modules["SimpleITK"]
    ndim = obj.GetDimension()
    if ndim not in (2, 3):
        raise InputError(f"The SimpleITK image has {ndim} axes. Images must have two or three.")
    data = sitk.GetArrayFromImage(obj)
    direction = np.asarray(obj.GetDirection(), dtype=np.float64).reshape(ndim, ndim)
    matrix = np.eye(ndim + 1)
    matrix[:-1, :-1] = direction * np.asarray(obj.GetSpacing())
    matrix[:-1, -1] = obj.GetOrigin()
    if ndim == 3:  # LPS to RAS, the world of NIfTI files
        matrix[:2] *= -1
    matrix[:-1, :-1] = matrix[:-1, :-1][::-1, ::-1]
    matrix[:-1, -1] = matrix[:-1, -1][::-1]
    has_channels = obj.GetNumberOfComponentsPerPixel() > 1
    grid = Grid(data.shape[:ndim], matrix, "mm")
    rgb = has_channels and data.dtype == np.uint8 and data.shape[-1] in (3, 4)
    metadata = {"coordinate_system": "scanner"} if ndim == 3 else {}
    return Image(data, grid, rgb=rgb, metadata=metadata), True


def _from_xarray(obj: Any, channels: bool | None) -> tuple[Image, bool]:
    name = "image" if obj.name is None else str(obj.name)
    for dim in obj.dims:
        if str(dim).lower() not in (*SPATIAL_AXES, *CHANNEL_AXES) and obj.sizes[dim] == 1 and obj.ndim > 2:
            obj = obj.isel({dim: 0})
    color = [d for d in obj.dims if str(d).lower() in CHANNEL_AXES]
    space = [d for d in obj.dims if d not in color]
    if {str(d).lower() for d in space} <= set(SPATIAL_AXES):
        space.sort(key=lambda d: SPATIAL_AXES.index(str(d).lower()))
    if len(color) > 1 or len(space) not in (2, 3):
        raise InputError(
            f"'{name}' has the axes {', '.join(map(str, obj.dims))}. Two or three spatial axes and at most one channel "
            "axis are supported. Choose one frame with .isel(...)."
        )
    matrix = np.eye(len(space) + 1)
    units = []
    for i, dim in enumerate(space):
        units.append(canonical(str(obj.coords[dim].attrs.get("units", ""))) if dim in obj.coords else "pixel")
        if dim in obj.coords:
            matrix[i, i], matrix[i, -1] = _even_steps(np.asarray(obj.coords[dim].values), name, str(dim))
    for i, unit in enumerate(units):
        matrix[i] *= conversion_factor(unit, units[-1])
    data = np.asarray(obj.transpose(*space, *color).values)
    grid = Grid(data.shape[: len(space)], matrix, units[-1])
    rgb = bool(color) and data.dtype == np.uint8 and data.shape[-1] in (3, 4)
    return Image(data, grid, name=name, rgb=rgb), any(dim in obj.coords for dim in space)


def _even_steps(values: npt.NDArray[Any], name: str, axis: str) -> tuple[float, float]:
    """Step and first value of evenly spaced coordinates."""
    if not np.issubdtype(values.dtype, np.number):
        raise InputError(f"The coordinates of '{name}' along {axis} are not numbers.")
    values = values.astype(np.float64)
    if len(values) < 2:
        return 1.0, float(values[0])
    step = (values[-1] - values[0]) / (len(values) - 1)
    if step == 0 or not np.allclose(np.diff(values), step, rtol=1e-3, atol=0):
        raise InputError(f"The coordinates of '{name}' along {axis} are not evenly spaced. Interpolate them first.")
    return float(step), float(values[0])


def _from_layer(obj: Any, channels: bool | None) -> tuple[Image, bool]:
    from napari_stnreg.io.napari_layers import grid_of

    if obj.ndim not in (2, 3):
        raise InputError(
            f"The layer '{obj.name}' has {obj.ndim} axes. Choose one frame, so that two or three are left."
        )
    data = np.asarray(obj.data[0] if obj.multiscale else obj.data)
    rgb = bool(getattr(obj, "rgb", False))
    names = ("scale", "translate", "rotate", "shear", "affine", "units")
    state = {key: getattr(obj, key) for key in names if hasattr(obj, key)}
    grid = grid_of(state, data.shape[: obj.ndim])
    metadata = dict(obj.metadata)
    is_labels = True if type(obj).__name__ == "Labels" else None
    return Image(data, grid, name=str(obj.name), rgb=rgb, metadata=metadata, is_labels=is_labels), True


_Converter = Callable[[Any, "bool | None"], "tuple[Image, bool]"]
_CONVERTERS: tuple[tuple[str, tuple[str, ...], _Converter], ...] = (
    ("torch", ("Tensor",), _from_tensor),
    ("xarray", ("DataArray",), _from_xarray),
    ("nibabel.spatialimages", ("SpatialImage",), _from_nibabel),
    ("SimpleITK", ("Image",), _from_itk),
    ("napari.layers", ("Image", "Labels"), _from_layer),
)
"""Module, its classes, and the function that converts them."""
