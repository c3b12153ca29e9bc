"""OME-Zarr 0.6: a scene that holds one transformation between two coordinate systems.

The specification defines identity, scale, translation, rotation, affine, mapAxis, sequence, displacements, coordinates,
byDimension and bijection; all but ``coordinates`` are read here, and what a transform of ours is made of is written as
translation, scale, affine, displacements and sequences of them. A transformation maps points of its input to its
output; ours, from the fixed to the moving world, has the fixed one as input. Axes keep their order (z, y, x) and
nothing is flipped. Displacement fields are multiscale images of one level beside the scene, upright in space; a field
on an oblique grid is therefore wrapped between two affines and lives in voxels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_stnreg.core.atomic_io import atomic_folder
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.output_guard import check_output
from napari_stnreg.core.units import canonical
from napari_stnreg.io.ome_zarr import is_written_scene
from napari_stnreg.transforms import (
    AffineTransform,
    DisplacementTransform,
    Transform,
    as_displacement,
    chain,
)

VERSION = "0.6"
_AXES = ("z", "y", "x")
_LONG = {"m": "meter", "cm": "centimeter", "mm": "millimeter", "um": "micrometer", "nm": "nanometer", "pm": "picometer",
         "angstrom": "angstrom", "inch": "inch"}  # fmt: skip
FIXED, MOVING = "fixed", "moving"


# -- writing ----------------------------------------------------------------------------------------------------------


def write_ngff(transform: Transform, path: Path, domain: Grid | None = None) -> None:
    """Write a transform as a scene, a folder that ends in ``.zarr``; one that is there is replaced.

    Parameters
    ----------
    transform
        Ours, in (z, y, x).
    path
        The folder.
    domain
        Voxels of the fixed world on which families without a grid are sampled.
    """
    zarr: Any = import_module("zarr")
    check_output(path, overwrite=True, folder=True, is_ours=is_written_scene)
    with atomic_folder(path) as part:
        root = zarr.open_group(str(part), mode="w", zarr_format=3)
        steps: list[dict[str, Any]] = []
        for one in transform.parts:
            steps += _steps(one, domain, root, len(steps))
        whole = steps[0] if len(steps) == 1 else {"type": "sequence", "transformations": steps}
        whole = {**whole, "input": {"name": FIXED}, "output": {"name": MOVING}, "name": "fixed to moving"}
        axes = _axes(transform.ndim, transform.unit)
        systems = [{"name": name, "axes": axes} for name in (FIXED, MOVING)]
        scene = {"coordinateSystems": systems, "coordinateTransformations": [whole]}
        root.attrs.update({"ome": {"version": VERSION, "scene": scene}, "stnreg": {"scene": {}}})


def _axes(ndim: int, unit: str) -> list[dict[str, Any]]:
    long = _LONG.get(canonical(unit))
    return [{"name": n, "type": "space", **({"unit": long} if long else {})} for n in _AXES[-ndim:]]


def _steps(part: Transform, domain: Grid | None, root: Any, number: int) -> list[dict[str, Any]]:
    matrix = part.as_matrix()
    if matrix is not None:
        return [_linear(matrix)]
    field = part.displacement_field()
    if field is None:
        grid = domain or part.native_grid()
        if grid is None:  # pragma: no cover (each family that bends has a grid of its own)
            raise InputError(f"A transform of family '{part.family}' must be sampled. Give a grid.")
        field = as_displacement(part, grid)
    grid, vectors = field.grid, field.field[0].double().numpy()
    name = f"coordinateTransformations/field{number}"
    upright = np.array_equal(grid.linear, np.diag(np.diag(grid.linear))) and (np.diag(grid.linear) > 0).all()
    if upright:
        _write_field(root, name, vectors, grid)
        return [{"type": "displacements", "path": name, "interpolation": "linear"}]
    back: FloatArray = np.asarray(np.linalg.inv(grid.matrix), dtype=np.float64)
    voxels = np.einsum("ij,j...->i...", back[:-1, :-1], vectors)
    _write_field(root, name, voxels, Grid.from_spacing(grid.shape))
    wrapped = {"type": "displacements", "path": name, "interpolation": "linear"}
    return [_linear(back), wrapped, _linear(grid.matrix)]


def _linear(matrix: FloatArray) -> dict[str, Any]:
    """Return the least expressive transformation for a matrix, as the specification requires."""
    linear, shift = matrix[:-1, :-1], matrix[:-1, -1]
    if np.array_equal(linear, np.eye(len(linear))):
        return {"type": "translation", "translation": shift.tolist()}
    if not shift.any() and np.array_equal(linear, np.diag(np.diag(linear))):
        return {"type": "scale", "scale": np.diag(linear).tolist()}
    return {"type": "affine", "affine": matrix[:-1].tolist()}


def _write_field(root: Any, name: str, vectors: FloatArray, grid: Grid) -> None:
    group = root.create_group(name)
    group.create_array("0", data=np.ascontiguousarray(vectors, dtype=np.float64))
    steps: list[dict[str, Any]] = [{"type": "scale", "scale": [1.0, *grid.spacing.tolist()]}]
    steps.append({"type": "translation", "translation": [0.0, *grid.origin.tolist()]})
    placed = {"type": "sequence", "transformations": steps, "input": {"path": "0"}, "output": {"name": "physical"}}
    axes = [{"name": "d", "type": "displacement", "discrete": True}, *_axes(grid.ndim, grid.unit)]
    image = {
        "name": name.rsplit("/", 1)[-1],
        "coordinateSystems": [{"name": "physical", "axes": axes}],
        "datasets": [{"path": "0", "coordinateTransformations": [placed]}],
    }
    group.attrs["ome"] = {"version": VERSION, "multiscales": [image]}


# -- reading ----------------------------------------------------------------------------------------------------------


def read_ngff(path: Path) -> Transform:
    """Read the transformation of a scene: its only one, or the one from ``fixed`` to ``moving``.

    Raises
    ------
    InputError
        If there is no such scene, it holds several transformations, or one that cannot be read.
    """
    zarr: Any = import_module("zarr")
    if not path.is_dir():
        raise InputError(f"'{path}' is not a folder. An OME-Zarr transform is a folder.")
    try:
        root = zarr.open_group(str(path), mode="r")
        content = dict(root.attrs)
    except Exception as error:
        raise InputError(f"'{path.name}' cannot be read as a Zarr group.") from error
    ome = content.get("ome", {})
    scene = ome.get("scene") if isinstance(ome, Mapping) else None
    if not isinstance(scene, Mapping) or not scene.get("coordinateTransformations"):
        raise InputError(
            f"'{path.name}' holds no scene of OME-Zarr {VERSION} with a coordinate transformation. Is it an image?"
        )
    found = scene["coordinateTransformations"]
    if len(found) > 1:
        found = [t for t in found if (_name(t.get("input")), _name(t.get("output"))) == (FIXED, MOVING)]
    if len(found) != 1:
        raise InputError(f"'{path.name}' holds several transformations, none of them from '{FIXED}' to '{MOVING}'.")
    axes = _system(root, scene, found[0])
    try:
        return _read(found[0], root, axes, path.name)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"'{path.name}' is damaged: its transformation cannot be read ({error}).") from error


def _name(system: Any) -> str:
    return str(system.get("name", "")) if isinstance(system, Mapping) else str(system)


class _Axes:
    """The spatial axes of a transformation's input: how many axes there are in all, which are space, in which unit."""

    def __init__(self, axes: Sequence[Mapping[str, Any]]) -> None:
        self.count = len(axes)
        self.space = [i for i, axis in enumerate(axes) if axis.get("type", "space") == "space"]
        units = {canonical(str(axes[i].get("unit", "pixel"))) for i in self.space}
        if len(self.space) not in (2, 3):
            raise InputError(
                f"A transformation over {len(self.space)} spatial axes is not supported. It must have 2 or 3."
            )
        if len(units) > 1:
            raise InputError("A transformation whose axes are in different units cannot be read.")
        self.unit = units.pop()

    @property
    def ndim(self) -> int:
        return len(self.space)

    def vector(self, values: Any) -> FloatArray:
        array = np.asarray(values, dtype=np.float64)
        if array.shape != (self.count,):
            raise InputError(f"A transformation over {self.count} axes has {array.shape} numbers.")
        return array[self.space]

    def matrix(self, values: Any, columns: int) -> FloatArray:
        array = np.asarray(values, dtype=np.float64)
        if array.shape != (self.count, self.count + columns):
            raise InputError(f"A matrix over {self.count} axes has the shape {array.shape}.")
        keep = [*self.space, *range(self.count, self.count + columns)]
        rest = [i for i in range(self.count) if i not in self.space]
        if np.abs(array[np.ix_(self.space, rest)]).max(initial=0.0) > 0:
            raise InputError("A transformation that mixes space with other axes cannot be read.")
        return np.asarray(array[np.ix_(self.space, keep)])


def _system(root: Any, scene: Mapping[str, Any], transformation: Mapping[str, Any]) -> _Axes:
    """Return the axes of the input system, from the scene or from the image that it refers to."""
    wanted = transformation.get("input")
    name = _name(wanted)
    place = wanted.get("path", "") if isinstance(wanted, Mapping) else ""
    systems: list[Any] = list(scene.get("coordinateSystems", []))
    if place:
        try:
            ome = dict(root[place].attrs)["ome"]
            systems = [s for image in ome["multiscales"] for s in image["coordinateSystems"]]
        except (KeyError, TypeError):
            systems = []
    for system in systems:
        if system.get("name") == name:
            return _Axes(system["axes"])
    ndim = _dimensions(transformation)
    return _Axes([{"name": n, "type": "space"} for n in _AXES[-ndim:]])


def _dimensions(one: Mapping[str, Any]) -> int:
    """Return the number of axes of a transformation without a described input system, from its parameters."""
    for key in ("translation", "scale", "affine", "rotation", "mapAxis"):
        if key in one:
            return len(one[key])
    for inner in (*one.get("transformations", ()), *(one[k] for k in ("forward", "transformation") if k in one)):
        ndim = _dimensions(inner)
        if ndim:
            return ndim
    return 3


def _read(one: Mapping[str, Any], root: Any, axes: _Axes, name: str) -> Transform:
    matrix = _matrix(one, root, axes, name)
    if matrix is not None:
        return AffineTransform(matrix, axes.unit)
    kind = one["type"]
    if kind == "sequence":
        return chain(*(_read(inner, root, axes, name) for inner in one["transformations"]))
    if kind == "bijection":
        return _read(one["forward"], root, axes, name)
    if kind == "displacements":
        return _read_field(one, root, axes, name)
    if kind == "byDimension":
        raise InputError(f"'{name}' bends single axes ('byDimension'), which cannot be read.")
    raise InputError(f"'{name}' holds a transformation of type '{kind}', which cannot be read.")


def _matrix(one: Mapping[str, Any], root: Any, axes: _Axes, name: str) -> FloatArray | None:
    """Return the homogeneous matrix over the spatial axes, or ``None`` for a nonlinear transformation."""
    kind = one["type"]
    matrix = np.eye(axes.ndim + 1)
    if kind == "identity":
        pass
    elif kind == "translation":
        matrix[:-1, -1] = axes.vector(_values(one, kind, root))
    elif kind == "scale":
        matrix[:-1, :-1] = np.diag(axes.vector(_values(one, kind, root)))
    elif kind == "rotation":
        matrix[:-1, :-1] = axes.matrix(_values(one, kind, root), 0)
    elif kind == "affine":
        matrix[:-1] = axes.matrix(_values(one, kind, root), 1)
    elif kind == "mapAxis":
        matrix[:-1, :-1] = axes.matrix(np.eye(axes.count)[[int(i) for i in one[kind]]], 0)
    elif kind == "bijection":
        return _matrix(one["forward"], root, axes, name)
    elif kind == "sequence":
        for inner in one["transformations"]:
            step = _matrix(inner, root, axes, name)
            if step is None:
                return None
            matrix = step @ matrix
    elif kind == "byDimension":
        return _by_dimension(one, root, axes, name)
    else:
        return None
    return matrix


def _values(one: Mapping[str, Any], key: str, root: Any) -> Any:
    return np.asarray(root[one["path"]]) if key not in one and "path" in one else one[key]


def _by_dimension(one: Mapping[str, Any], root: Any, axes: _Axes, name: str) -> FloatArray | None:
    whole = np.eye(axes.count, axes.count + 1)
    for item in one["transformations"]:
        # 0.6 numbers the axes; its drafts named them.
        rows, columns = item["output_axes"], item["input_axes"]
        if not all(isinstance(i, int) for i in (*rows, *columns)) or len(rows) != len(columns):
            raise InputError(f"'{name}' holds a 'byDimension' transformation in a form that cannot be read.")
        inner = _matrix(item["transformation"], root, _Plain(len(rows)), name)
        if inner is None:
            return None
        whole[list(rows)] = 0
        whole[np.ix_(list(rows), [*columns, axes.count])] = inner[:-1]
    result = np.eye(axes.ndim + 1)
    result[:-1] = axes.matrix(whole, 1)
    return result


class _Plain(_Axes):
    """Axes that are all of space, any number of them: the inside of a ``byDimension``."""

    def __init__(self, count: int) -> None:
        self.count, self.space, self.unit = count, list(range(count)), "pixel"


def _read_field(one: Mapping[str, Any], root: Any, axes: _Axes, name: str) -> Transform:
    group = root[one["path"]]
    image = dict(group.attrs)["ome"]["multiscales"][0]
    own = image["coordinateSystems"][0]["axes"]
    component = [axis.get("type") for axis in own].index("displacement")
    dataset = image["datasets"][0]
    vectors = np.asarray(group[dataset["path"]], dtype=np.float64)
    if vectors.ndim != axes.ndim + 1 or vectors.shape[component] != axes.ndim or axes.count != axes.ndim:
        raise InputError(f"The displacement field of '{name}' has the shape {vectors.shape}, which does not fit.")
    steps = {"type": "sequence", "transformations": dataset["coordinateTransformations"]}
    matrix = _matrix(steps, root, _Plain(vectors.ndim), name)
    if matrix is None:
        raise InputError(f"The displacement field of '{name}' is placed by something other than scale and translation.")
    keep = [i for i in range(vectors.ndim + 1) if i != component]
    field = np.ascontiguousarray(np.moveaxis(vectors, component, 0))
    grid = Grid(field.shape[1:], matrix[np.ix_(keep, keep)], axes.unit)
    if one.get("interpolation", "linear") not in ("linear", None):
        raise InputError(
            f"'{name}' requires {one['interpolation']} interpolation of its field. Only linear is supported."
        )
    return DisplacementTransform(torch.from_numpy(field), grid)
