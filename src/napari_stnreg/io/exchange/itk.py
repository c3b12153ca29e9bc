"""ITK's transform objects and ours, through SimpleITK; both in the file's coordinates, (x, y, z)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from napari_stnreg.core.errors import InputError, announce
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.io.itk_image import simpleitk
from napari_stnreg.transforms import (
    AffineTransform,
    BSplineTransform,
    DisplacementTransform,
    Transform,
    as_displacement,
    chain,
)

if TYPE_CHECKING:
    from napari_stnreg.io.exchange.itk_file import ItkPart

FILE_UNIT = "file"
ERROR_VOXELS = 0.02
"""Error of a sampled transform, in voxels of the fixed image, above which it is sampled more finely."""
REFINEMENTS = (1, 2, 4, 8)
"""How much more finely a transform is sampled, one after the other."""
MAX_SAMPLES = 3e6
"""Samples of one field; 70 MB of vectors in 3D."""
MAX_SOLVED_SAMPLES = 3e5
"""Samples between those of the domain for maps that are solved point by point, such as inverses."""
_SAMPLES_PER_CELL = 4
_EDGE = 0.5
_MARGIN = 2.0
"""Samples around the image of a domain under a map that bends: its outline is known at some points only."""
_OUTLINE_TICKS = 40
_MEASURED_POINTS = 3000


def read_itk(path: Path) -> tuple[Transform, str]:
    """Read an ITK transform in the file's coordinates, and the text that may hold our note.

    Raises
    ------
    InputError
        If it cannot be read, or holds a transform of a kind that is not known here.
    """
    from napari_stnreg.io.exchange.itk_file import read_parts

    parts, note = read_parts(path)
    if parts[0].kind == "CompositeTransform":
        parts = parts[1:]
    elif len(parts) > 1:
        raise InputError(f"'{path.name}' holds {len(parts)} transforms that are not composed. Save each on its own.")
    if not parts:
        raise InputError(f"'{path.name}' holds an empty composite transform.")
    # ITK applies the last one to a point first.
    return chain(*(_from_part(one, path.name) for one in reversed(parts))), note


def _from_part(part: ItkPart, name: str) -> Transform:
    from napari_stnreg.io.exchange.itk_file import lattice_shape, linear_text

    ndim = part.ndim
    if part.kind in ("BSplineTransform", "DisplacementFieldTransform"):
        shape = lattice_shape(part, name)
        order = part.fixed[ndim : 2 * ndim], part.fixed[2 * ndim : 3 * ndim]
        grid = lattice(shape, *order, part.fixed[3 * ndim :].reshape(ndim, ndim))
        if part.kind == "BSplineTransform":
            return BSplineTransform(torch.from_numpy(part.parameters.reshape(ndim, *shape).copy()), grid)
        field = np.ascontiguousarray(np.moveaxis(part.parameters.reshape(*shape, ndim), -1, 0))
        return DisplacementTransform(torch.from_numpy(field), grid)
    if len(part.parameters) > 64 or len(part.fixed) > 64:
        raise InputError(f"'{name}' holds a transform of type {part.kind}, which cannot be read.")
    sitk = simpleitk()
    if part.kind == "ComposeScaleSkewVersor3DTransform":  # SimpleITK writes this kind and cannot read it
        made = sitk.ComposeScaleSkewVersor3DTransform()
        made.SetFixedParameters(part.fixed.tolist())
        made.SetParameters(part.parameters.tolist())
        return AffineTransform(_finite_matrix(made, name), FILE_UNIT)
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "part.tfm")
        text.write_text(linear_text(part), encoding="utf-8")
        try:
            found = sitk.ReadTransform(str(text))
        except RuntimeError as error:
            raise InputError(
                f"'{name}' holds a transform of type {part.kind}, which is damaged or not supported."
            ) from error
    return from_itk(found, name)


def write_itk(transform: Transform, path: Path, note: str, domain: Grid | None) -> None:
    """Write a transform that is in the file's coordinates.

    Parameters
    ----------
    transform
        In (x, y, z).
    path
        A name ending in ``.tfm``, ``.txt``, ``.h5`` or ``.mat``; the last one holds linear transforms alone.
    note
        A line to be kept in the file.
    domain
        Where it will be used: what ITK has no family for is sampled there. The error in voxels of the domain is
        measured and kept in the note.
    """
    sitk = simpleitk()
    is_matlab = path.suffix.lower() == ".mat"
    matrix = transform.as_matrix()
    if is_matlab and matrix is None:
        raise InputError("A .mat file of ANTs holds a linear transform. Write .h5, or a displacement field as .nii.gz.")
    error = 0.0
    if is_matlab and matrix is not None:
        theirs = _affine_to_itk(matrix)
    else:
        theirs, error = sampled_to_itk(transform, domain)
    if error > 0:
        note = f"{note} error={error:.2g}"
    if error > ERROR_VOXELS:
        announce(
            f"ITK has no exact form of this transform. The one in the {path.suffix} file is up to {error:.2g} voxels "
            "away from ours in the fixed image. A displacement field, such as .nii.gz, is exact at its voxels."
        )
    try:
        sitk.WriteTransform(theirs, str(path))
    except RuntimeError as error:
        raise InputError(f"'{path.name}' could not be written as an ITK transform file.") from error
    if path.suffix.lower() in (".h5", ".hdf5"):
        import h5py

        with h5py.File(path, "a") as stream:
            stream.attrs["napari-stnreg"] = note
    elif not is_matlab:
        # On the comment that ITK writes itself: nitransforms takes a further one for another transform.
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("#Transform 0", f"#Transform 0 {note}", 1), encoding="utf-8")


# -- ours to theirs ---------------------------------------------------------------------------------------------------


def to_itk(transform: Transform, domain: Grid | None = None) -> Any:
    """Convert a transform to a SimpleITK transform of points ``(x, y, z)``."""
    return sampled_to_itk(transform, domain)[0]


def sampled_to_itk(transform: Transform, domain: Grid | None = None) -> tuple[Any, float]:
    """Convert a transform to one of SimpleITK, and measure the error.

    Linear maps and B-splines stay what they are, displacements and flows become displacement fields on their own
    grids. Thin-plate splines, inverses, and B-splines that points of the domain leave are sampled, more finely until
    the error is below :data:`ERROR_VOXELS`. A field ends at its border in ITK while ours runs on, so fields are
    extended to wherever the domain's points come.

    Parameters
    ----------
    transform
        In ITK's coordinates.
    domain
        The fixed image's grid in the same coordinates.

    Returns
    -------
    SimpleITK.Transform, float
        The transform, and its largest distance from ours at points in the domain and on its faces, in voxels.
    """
    domain = domain or transform.native_grid()
    is_sampled = any(_is_sampled(part) for part in transform.parts)
    before = float("inf")
    for refinement in REFINEMENTS:
        theirs = _converted(transform, domain, refinement)
        error = 0.0 if domain is None or not is_sampled else _distance(transform, theirs, domain)
        if error <= ERROR_VOXELS or error > 0.9 * before:
            break
        before = error
    return theirs, error


def _converted(transform: Transform, domain: Grid | None, refinement: int) -> Any:
    reach = None if domain is None else _Reach(_outline(domain), is_exact=True)
    theirs = []
    for part in transform.parts:
        theirs.append(_part_to_itk(part, domain, reach, refinement))
        if reach is not None:
            reach = _Reach(part.map_points(reach.points), reach.is_exact and part.as_matrix() is not None)
    if len(theirs) == 1:
        return theirs[0]
    # ITK applies what was added last to a point first.
    composite = simpleitk().CompositeTransform(transform.ndim)
    for one in reversed(theirs):
        composite.AddTransform(one)
    return composite


def _is_sampled(part: Transform) -> bool:
    """Return whether a part may become a field that is exact at its samples alone."""
    field = part.displacement_field()
    return part.as_matrix() is None and (field is None or field.field.shape[0] != 1)


def _distance(transform: Transform, theirs: Any, domain: Grid) -> float:
    """The largest distance of two maps at random points in a domain and on its faces, in voxels of the domain."""
    rng = np.random.default_rng(0)
    index = rng.uniform(-_EDGE, np.asarray(domain.shape) - _EDGE, (_MEASURED_POINTS, domain.ndim))
    faces = index[: _MEASURED_POINTS // 2]
    axis, is_upper = rng.integers(0, domain.ndim, len(faces)), rng.random(len(faces)) < 0.5
    ends = np.where(is_upper, np.asarray(domain.shape)[axis] - 1.0, 0.0)
    faces[np.arange(len(faces)), axis] = ends
    points = domain.to_world(index)
    mapped = np.array([theirs.TransformPoint(point) for point in points.tolist()])
    apart = np.linalg.norm(mapped - transform.map_points(points), axis=1)
    return float(apart.max() / domain.spacing.min())


@dataclass(frozen=True)
class _Reach:
    """Points that show how far the domain's points come, before a part of a chain."""

    points: FloatArray
    is_exact: bool


@singledispatch
def _part_to_itk(part: Transform, domain: Grid | None, reach: _Reach | None, refinement: int) -> Any:
    """Convert one part of a chain; families that ITK has are registered below, others are sampled."""
    matrix = part.as_matrix()
    if matrix is not None:
        return _affine_to_itk(matrix)
    field = part.displacement_field()
    if field is not None and field.field.shape[0] == 1:
        grid = field.grid if reach is None else _extended(field.grid, reach)
        return _field_to_itk(field if grid.same_lattice(field.grid) else as_displacement(field, grid))
    own = domain if domain is not None else part.native_grid()
    if own is None:  # pragma: no cover (each family that bends has a grid of its own)
        raise InputError(f"A transform of family '{part.family}' must be sampled. Give a grid.")
    # Slices may be thick: every axis is sampled as finely as the finest one.
    finest = own.spacing.min() / refinement
    steps = np.maximum(np.ceil(own.spacing / finest - 1e-6), 1).astype(int)
    own = _refined(own, steps, MAX_SOLVED_SAMPLES)
    if reach is not None:
        own = _extended(own, reach)
    return _field_to_itk(as_displacement(part, own))


@_part_to_itk.register
def _bspline_part_to_itk(part: BSplineTransform, domain: Grid | None, reach: _Reach | None, refinement: int) -> Any:
    if not part.control_grid.is_orthogonal():
        return _part_to_itk.dispatch(Transform)(part, domain, reach, refinement)
    if _within_spline(part, reach):
        return _bspline_to_itk(part)
    assert reach is not None
    # Samples on the control points: the map has its corners, where it becomes constant, at the outermost ones.
    cells = part.control_grid.cropped([1] * part.ndim, [n - 1 for n in part.control_grid.shape])
    steps = [_SAMPLES_PER_CELL * refinement] * part.ndim
    return _field_to_itk(as_displacement(part, _extended(_refined(cells, steps), reach)))


def _refined(grid: Grid, steps: Sequence[int] | npt.NDArray[np.int_], limit: float = MAX_SAMPLES) -> Grid:
    """Put samples between those of a lattice, fewer than wanted if they are too many."""
    steps = np.asarray(steps)
    while True:
        shape = (np.asarray(grid.shape) - 1) * steps + 1
        if float(np.prod(shape, dtype=np.float64)) <= limit or steps.max() == 1:
            break
        steps = np.maximum(steps - 1, 1)
    matrix = grid.matrix.copy()
    matrix[:-1, :-1] = grid.linear / steps
    return Grid(tuple(int(n) for n in shape), matrix, grid.unit)


def _affine_to_itk(matrix: FloatArray) -> Any:
    theirs = simpleitk().AffineTransform(len(matrix) - 1)
    theirs.SetMatrix(matrix[:-1, :-1].ravel().tolist())
    theirs.SetTranslation(matrix[:-1, -1].tolist())
    return theirs


def _bspline_to_itk(part: BSplineTransform) -> Any:
    grid = part.control_grid
    theirs = simpleitk().BSplineTransform(grid.ndim, 3)
    axes = grid.linear[:, ::-1]  # columns along i, j, k
    fixed = [*grid.shape[::-1], *grid.origin, *grid.spacing[::-1], *(axes / grid.spacing[::-1]).ravel()]
    theirs.SetFixedParameters([float(value) for value in fixed])
    theirs.SetParameters(part.coefficients[0].double().numpy().ravel().tolist())
    return theirs


def _field_to_itk(part: DisplacementTransform) -> Any:
    return simpleitk().DisplacementFieldTransform(field_to_itk(part))


def field_to_itk(part: DisplacementTransform) -> Any:
    """Convert a displacement field to a vector image of SimpleITK."""
    sitk = simpleitk()
    vectors = np.ascontiguousarray(np.moveaxis(part.field[0].double().numpy(), 0, -1))
    picture = sitk.GetImageFromArray(vectors, isVector=True)
    axes = part.grid.linear[:, ::-1]
    picture.SetOrigin(part.grid.origin.tolist())
    picture.SetSpacing(part.grid.spacing[::-1].tolist())
    picture.SetDirection((axes / part.grid.spacing[::-1]).ravel().tolist())
    return picture


def _outline(grid: Grid) -> FloatArray:
    """Return points on and inside a grid that show how far its image under a smooth map extends."""
    ticks = [np.linspace(-_EDGE, n - 1 + _EDGE, min(n + 1, _OUTLINE_TICKS)) for n in grid.shape]
    index = np.stack(np.meshgrid(*ticks, indexing="ij"), axis=-1).reshape(-1, grid.ndim)
    ends = (np.abs(index + _EDGE) < 1e-9) | (np.abs(index - (np.asarray(grid.shape) - 1 + _EDGE)) < 1e-9)
    inner = grid.resized([min(n, 12) for n in grid.shape]).points().reshape(-1, grid.ndim)
    return np.concatenate([grid.to_world(index[ends.any(axis=1)]), inner])


def _extended(grid: Grid, reach: _Reach) -> Grid:
    """Extend a lattice by whole voxels where points leave it."""
    index = grid.to_index(reach.points)
    last = np.asarray(grid.shape) - 1
    edge = _EDGE if reach.is_exact else -_MARGIN
    if ((index > -edge - 1e-6) & (index < last + edge + 1e-6)).all():
        return grid
    margin = 0.0 if reach.is_exact else _MARGIN
    around = np.stack([np.minimum(index.min(axis=0) - margin, 0), np.maximum(index.max(axis=0) + margin, last)])
    corners = np.stack(np.meshgrid(*around.T, indexing="ij"), axis=-1).reshape(-1, grid.ndim)
    return grid.extended_to(grid.to_world(corners))


def _within_spline(part: BSplineTransform, reach: _Reach | None) -> bool:
    if reach is None:
        return True
    index = part.control_grid.to_index(reach.points)
    margin = 1e-6 if reach.is_exact else -0.05
    last = np.asarray(part.control_grid.shape) - 2
    return bool(((index >= 1 - margin) & (index <= last + margin)).all())


# -- theirs to ours ---------------------------------------------------------------------------------------------------


def from_itk(theirs: Any, name: str = "the transform") -> Transform:
    """Ours of a SimpleITK transform, with points in (x, y, z) order.

    Raises
    ------
    InputError
        If it is of a kind that is not known here.
    """
    sitk = simpleitk()
    if theirs.GetDimension() in (2, 3) and theirs.IsLinear():
        # Before the parts of a composite: SimpleITK wraps a MatrixOffsetTransformBase into composites without end.
        return AffineTransform(_finite_matrix(theirs, name), FILE_UNIT)
    theirs = theirs.Downcast() if hasattr(theirs, "Downcast") else theirs
    kind = theirs.GetName()
    if isinstance(theirs, sitk.CompositeTransform) or kind == "CompositeTransform":
        whole = sitk.CompositeTransform(theirs)
        count = whole.GetNumberOfTransforms()
        if not count:
            return AffineTransform.identity(theirs.GetDimension(), FILE_UNIT)
        return chain(*(from_itk(whole.GetNthTransform(i), name) for i in reversed(range(count))))
    if theirs.GetDimension() not in (2, 3):
        raise InputError(f"'{name}' holds a {theirs.GetDimension()}D transform. 2D and 3D are supported.")
    if isinstance(theirs, sitk.BSplineTransform):
        if theirs.GetOrder() != 3:
            raise InputError(f"'{name}' holds a B-spline of order {theirs.GetOrder()}. Only order 3 is supported.")
        return _bspline_from_itk(theirs)
    if isinstance(theirs, sitk.DisplacementFieldTransform):
        return field_from_itk(theirs.GetDisplacementField())
    raise InputError(
        f"'{name}' holds a transform of type {kind}, which is not supported. Convert it to a displacement field with "
        "the program that made it."
    )


def _finite_matrix(theirs: Any, name: str) -> FloatArray:
    """Return the matrix of any linear transform, independent of its parameters and center."""
    ndim = theirs.GetDimension()
    origin = np.array(theirs.TransformPoint([0.0] * ndim))
    matrix = np.eye(ndim + 1)
    matrix[:-1, -1] = origin
    for axis in range(ndim):
        step = [0.0] * ndim
        step[axis] = 1.0
        matrix[:-1, axis] = np.array(theirs.TransformPoint(step)) - origin
    if not np.isfinite(matrix).all():
        raise InputError(f"'{name}' is damaged: its parameters are not finite numbers.")
    return matrix


def _bspline_from_itk(theirs: Any) -> BSplineTransform:
    ndim = theirs.GetDimension()
    fixed = np.array(theirs.GetFixedParameters())
    shape = tuple(int(n) for n in fixed[:ndim][::-1])
    origin, spacing = fixed[ndim : 2 * ndim], fixed[2 * ndim : 3 * ndim]
    grid = lattice(shape, origin, spacing, fixed[3 * ndim :].reshape(ndim, ndim))
    values = np.array(theirs.GetParameters()).reshape(ndim, *shape)
    return BSplineTransform(torch.from_numpy(values), grid)


def field_from_itk(picture: Any) -> DisplacementTransform:
    """Convert a vector image of SimpleITK to a displacement field."""
    vectors = simpleitk().GetArrayFromImage(picture)
    ndim = picture.GetDimension()
    direction = np.array(picture.GetDirection()).reshape(ndim, ndim)
    grid = lattice(vectors.shape[:-1], picture.GetOrigin(), picture.GetSpacing(), direction)
    field = np.ascontiguousarray(np.moveaxis(vectors, -1, 0), dtype=np.float64)
    return DisplacementTransform(torch.from_numpy(field), grid)


def lattice(shape: Any, origin: Any, spacing: Any, direction: FloatArray) -> Grid:
    """ITK's description of a lattice, with ``shape`` in array order and the rest along x, y, z, as a grid."""
    ndim = len(shape)
    matrix = np.eye(ndim + 1)
    matrix[:-1, :-1] = (direction * np.asarray(spacing))[:, ::-1]
    matrix[:-1, -1] = origin
    return Grid(tuple(shape), matrix, FILE_UNIT)
