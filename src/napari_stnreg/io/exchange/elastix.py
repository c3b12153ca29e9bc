"""Transform parameter files of elastix: translation, Euler, similarity, affine, B-spline, and chains of them.

Their coordinates are ITK's, and a parameter file maps points of the fixed image to the moving image as ours do.
No library without elastix itself reads them, so the format, a list of ``(Key value value ...)`` lines, is read here.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from napari_stnreg.core.atomic_io import write_text
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.io.exchange.itk import FILE_UNIT, lattice
from napari_stnreg.transforms import AffineTransform, BSplineTransform, Transform, chain

_LINE = re.compile(r"^\s*\(\s*(\w+)\s+(.*?)\s*\)\s*(?://.*)?$")
_WORD = re.compile(r'"([^"]*)"|(\S+)')
_DEEPEST = 32


def is_elastix(head: str) -> bool:
    """Return whether a text begins like an elastix parameter file."""
    return bool(re.search(r"^\s*\(Transform\s+\"", head, flags=re.MULTILINE))


def is_elastix_file(path: Path) -> bool:
    """Return whether a file begins as a parameter file of elastix does."""
    try:
        with path.open("rb") as stream:
            return is_elastix(stream.read(4000).decode("utf-8", "replace"))
    except OSError:
        return False


def write_elastix(transform: Transform, path: Path, domain: Grid | None) -> None:
    """Write a chain of linear transforms and B-splines as parameter files.

    Parameters
    ----------
    transform
        In ITK's coordinates (x, y, z).
    path
        The file of the last part; the parts before it go to files beside it, whose names get a number.
    domain
        Voxels of the fixed image, on which transformix resamples.

    Raises
    ------
    InputError
        If a part is neither linear nor a B-spline, or the voxels are unknown or sheared.
    """
    if domain is None or not domain.is_orthogonal():
        raise InputError(
            "An elastix parameter file holds the grid of the fixed image. Give a fixed image without shear."
        )
    parts = list(transform.parts)
    for part in parts:
        spline = isinstance(part, BSplineTransform) and part.control_grid.is_orthogonal()
        if part.as_matrix() is None and not spline:
            raise InputError(
                f"elastix has no '{part.family}' transform. Linear transforms and B-splines can be written. Write a "
                "displacement field as .mha instead."
            )
    before = "NoInitialTransform"
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        target = path if last else path.with_name(f"{path.stem}.before{number}.txt")
        write_text(target, _text(part, before, domain))
        before = target.name


def _text(part: Transform, before: str, domain: Grid) -> str:
    ndim = part.ndim
    matrix = part.as_matrix()
    lines: list[tuple[str, object]]
    if matrix is not None:
        lines = [("Transform", "AffineTransform")]
        values = [*matrix[:-1, :-1].ravel(), *matrix[:-1, -1]]
        own: list[tuple[str, object]] = [("CenterOfRotationPoint", [0.0] * ndim)]
    else:
        assert isinstance(part, BSplineTransform)
        grid = part.control_grid
        lines = [("Transform", "BSplineTransform")]
        values = part.coefficients[0].double().numpy().ravel().tolist()
        size, origin, spacing, direction = _geometry(grid)
        own = [
            ("GridSize", size), ("GridIndex", [0] * ndim), ("GridSpacing", spacing), ("GridOrigin", origin),
            ("GridDirection", direction), ("BSplineTransformSplineOrder", 3), ("UseCyclicTransform", "false"),
        ]  # fmt: skip
    size, origin, spacing, direction = _geometry(domain)
    lines += [
        ("NumberOfParameters", len(values)), ("TransformParameters", [float(v) for v in values]), *own,
        ("InitialTransformParameterFileName", before), ("HowToCombineTransforms", "Compose"),
        ("FixedImageDimension", ndim), ("MovingImageDimension", ndim),
        ("FixedInternalImagePixelType", "float"), ("MovingInternalImagePixelType", "float"),
        ("Size", size), ("Index", [0] * ndim), ("Spacing", spacing), ("Origin", origin), ("Direction", direction),
        ("UseDirectionCosines", "true"), ("ResampleInterpolator", "FinalBSplineInterpolator"),
        ("FinalBSplineInterpolationOrder", 1), ("Resampler", "DefaultResampler"), ("DefaultPixelValue", 0),
        ("ResultImageFormat", "mhd"), ("ResultImagePixelType", "float"), ("CompressResultImage", "false"),
    ]  # fmt: skip
    return "".join(f"({key} {_words(value)})\n" for key, value in lines)


def _geometry(grid: Grid) -> tuple[list[int], list[float], list[float], list[float]]:
    """Size, origin, spacing and direction (column by column) of a grid in (x, y, z) order."""
    axes = grid.linear[:, ::-1] / grid.spacing[::-1]
    return list(grid.shape[::-1]), grid.origin.tolist(), grid.spacing[::-1].tolist(), axes.T.ravel().tolist()


def _words(value: object) -> str:
    if isinstance(value, list):
        return " ".join(_words(one) for one in value)
    return f'"{value}"' if isinstance(value, str) else repr(value)


def read_elastix(path: Path, depth: int = 0) -> Transform:
    """Read a parameter file and its initial transforms, in ITK's coordinates (x, y, z).

    Parameters
    ----------
    path
        Such as ``TransformParameters.1.txt``; the initial transforms that it names are looked for at their stated
        paths, and beside it.
    depth
        How many files have led here.

    Raises
    ------
    InputError
        If a file is missing or damaged, or holds a transform that cannot be read.
    """
    if depth > _DEEPEST:
        raise InputError(f"'{path.name}' refers to itself as its initial transform.")
    keys = _parse(path)
    own = _transform(keys, path.name)
    before = keys.get("InitialTransformParameterFileName") or keys.get("InitialTransformParametersFileName")
    if not before or before[0] == "NoInitialTransform":
        return own
    first = read_elastix(_beside(path, before[0]), depth + 1)
    how = keys.get("HowToCombineTransforms", ["Compose"])[0]
    if how == "Compose":
        return chain(first, own)
    if first.matrix is not None and own.matrix is not None:
        # Their displacements are added.
        return AffineTransform(first.matrix + own.matrix - torch.eye(own.ndim + 1, dtype=torch.float64), FILE_UNIT)
    raise InputError(f"'{path.name}' adds two deformations ('{how}'). Only composed deformations are supported.")


def _parse(path: Path) -> dict[str, list[str]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    keys = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match:
            keys[match[1]] = [a or b for a, b in _WORD.findall(match[2])]
    if "Transform" not in keys:
        raise InputError(f"'{path.name}' is not an elastix transform parameter file.")
    return keys


def _beside(path: Path, name: str) -> Path:
    told = Path(name)
    for place in (told if told.is_absolute() else path.parent / told, path.parent / Path(name.replace("\\", "/")).name):
        if place.is_file():
            return place
    raise InputError(
        f"'{path.name}' refers to the initial transform '{name}', which does not exist. Put it beside the file."
    )


def _transform(keys: dict[str, list[str]], name: str) -> Transform:
    kind = keys["Transform"][0]
    ndim = int(_numbers(keys, "FixedImageDimension", name)[0])
    if ndim not in (2, 3):
        raise InputError(f"'{name}' is for {ndim}D images. 2D and 3D are supported.")
    if kind in ("BSplineTransform", "RecursiveBSplineTransform"):
        return _bspline(keys, ndim, name)
    values = _numbers(keys, "TransformParameters", name)
    center = _numbers(keys, "CenterOfRotationPoint", name) if "CenterOfRotationPoint" in keys else np.zeros(ndim)
    if kind == "TranslationTransform":
        return AffineTransform(_about(np.eye(ndim), _sized(values, ndim, name), center), FILE_UNIT)
    if kind == "AffineTransform":
        _sized(values, ndim * ndim + ndim, name)
        return AffineTransform(_about(values[: ndim * ndim].reshape(ndim, ndim), values[-ndim:], center), FILE_UNIT)
    if kind == "EulerTransform" and ndim == 2:
        _sized(values, 3, name)
        return AffineTransform(_about(_turn(values[0]), values[1:], center), FILE_UNIT)
    if kind == "EulerTransform":
        _sized(values, 6, name)
        order = keys.get("ComputeZYX", ["false"])[0] == "true"
        return AffineTransform(_about(_euler(values[:3], zyx=order), values[3:], center), FILE_UNIT)
    if kind == "SimilarityTransform" and ndim == 2:
        _sized(values, 4, name)
        return AffineTransform(_about(values[0] * _turn(values[1]), values[2:], center), FILE_UNIT)
    if kind == "SimilarityTransform":
        _sized(values, 7, name)
        return AffineTransform(_about(values[6] * _versor(values[:3]), values[3:6], center), FILE_UNIT)
    raise InputError(
        f"'{name}' holds a transform of type {kind}. Translation, Euler, similarity, affine and B-spline ones can be "
        "read. Let transformix write a deformation field instead."
    )


def _bspline(keys: dict[str, list[str]], ndim: int, name: str) -> BSplineTransform:
    order = int(_numbers(keys, "BSplineTransformSplineOrder", name)[0]) if "BSplineTransformSplineOrder" in keys else 3
    if order != 3:
        raise InputError(f"'{name}' holds a B-spline of order {order}. Only order 3 is supported.")
    size, index, spacing, origin = (
        _sized(_numbers(keys, key, name), ndim, name) for key in ("GridSize", "GridIndex", "GridSpacing", "GridOrigin")
    )
    direction = np.eye(ndim)
    if "GridDirection" in keys:
        # Written column by column.
        direction = _sized(_numbers(keys, "GridDirection", name), ndim * ndim, name).reshape(ndim, ndim).T
    shape = tuple(int(n) for n in size[::-1])
    grid = lattice(shape, origin + direction @ (index * spacing), spacing, direction)
    values = _sized(_numbers(keys, "TransformParameters", name), ndim * int(np.prod(shape)), name)
    return BSplineTransform(torch.from_numpy(values.reshape(ndim, *shape).copy()), grid)


def _numbers(keys: dict[str, list[str]], key: str, name: str) -> FloatArray:
    if keys.get("UseBinaryFormatForTransformationParameters", ["false"])[0] == "true" and key == "TransformParameters":
        raise InputError(
            f"'{name}' keeps its parameters in a binary file. Run elastix again with parameters written as text."
        )
    try:
        return np.array([float(word) for word in keys[key]])
    except (KeyError, ValueError) as error:
        raise InputError(f"'{name}' is damaged: it has no valid '{key}'.") from error


def _sized(values: FloatArray, count: int, name: str) -> FloatArray:
    if len(values) != count:
        raise InputError(f"'{name}' is damaged: {len(values)} numbers instead of {count}.")
    return values


def _about(linear: FloatArray, shift: FloatArray, center: FloatArray) -> FloatArray:
    """Return the affine ``linear (x - center) + center + shift``."""
    matrix = np.eye(len(linear) + 1)
    matrix[:-1, :-1] = linear
    matrix[:-1, -1] = shift + center - linear @ center
    return matrix


def _turn(angle: float) -> FloatArray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _euler(angles: FloatArray, *, zyx: bool) -> FloatArray:
    """ITK's Euler angles about x, y, z: ``Rz Rx Ry``, or ``Rz Ry Rx``."""
    around = []
    for axis, angle in enumerate(angles):
        matrix = np.eye(3)
        a, b = [(1, 2), (2, 0), (0, 1)][axis]
        matrix[np.ix_([a, b], [a, b])] = _turn(float(angle))
        around.append(matrix)
    x, y, z = around
    return np.asarray(z @ y @ x if zyx else z @ x @ y)


def _versor(vector: FloatArray) -> FloatArray:
    """Return the rotation of a unit quaternion given by its vector part."""
    x, y, z = vector
    w = np.sqrt(max(1 - float(vector @ vector), 0.0))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
