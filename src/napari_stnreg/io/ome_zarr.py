"""OME-Zarr images: multiscale groups of version 0.4 to 0.6, the layout of bioformats2raw, and bare Zarr arrays.

The path of a resolution, such as ``image.zarr/2``, names that resolution; ``image.zarr`` is the finest one. A path is
a folder, or a URL that fsspec opens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.atomic_io import atomic_folder
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.file_errors import reason_of
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.output_guard import check_output
from napari_stnreg.core.units import canonical, conversion_factor
from napari_stnreg.io.file_content import FileContent, check_memory
from napari_stnreg.io.formats import is_url, is_zarr

SMALLEST_LEVEL = 256
"""A pyramid ends when no axis is longer than twice this."""
CHUNK = 256
"""Side of the chunks in y and x; a chunk has up to 16 slices, so about 1 MB of 8-bit voxels."""
LONG_UNITS = {
    "m": "meter", "cm": "centimeter", "mm": "millimeter", "um": "micrometer", "nm": "nanometer", "pm": "picometer",
    "angstrom": "angstrom", "inch": "inch",
}  # fmt: skip
"""Unit names of OME-Zarr."""


@dataclass(frozen=True)
class Resolution:
    """One array of a multiscale image.

    Parameters
    ----------
    path
        Path of the array inside the group; empty for a bare array.
    scale, translation
        From index to world, one number for each axis.
    """

    path: str
    scale: FloatArray
    translation: FloatArray


@dataclass(frozen=True)
class Multiscale:
    """Description of an OME-Zarr image.

    Parameters
    ----------
    location
        Folder or URL of the group, or of a bare array.
    axes
        Names of the axes in lower case.
    units
        Units of the axes, canonical; ``"pixel"`` where none is given.
    resolutions
        Finest first.
    name
        Name of the image.
    is_labels
        Whether the image is marked as labels.
    note
        What this package wrote beside the description.
    finest
        The finest resolution of the image, if only another one was opened.
    """

    location: Path | str
    axes: tuple[str, ...]
    units: tuple[str, ...]
    resolutions: tuple[Resolution, ...]
    name: str
    is_labels: bool = False
    note: Mapping[str, Any] | None = None
    finest: Resolution | None = None

    def array(self, level: int) -> Any:
        """Open the array of a resolution."""
        return open_node(self.location, self.resolutions[level].path)

    def spatial(self, level: int, names: Sequence[str]) -> tuple[list[float], list[float], str]:
        """Return voxel size and origin along some axes in the unit of the last one, and that unit."""
        where = [self.axes.index(name) for name in names]
        unit = next((self.units[i] for i in reversed(where) if self.units[i] != "pixel"), "pixel")
        one = self.resolutions[level]
        factors = [1.0 if self.units[i] == "pixel" else conversion_factor(self.units[i], unit) for i in where]
        scale = [float(one.scale[i]) * f for i, f in zip(where, factors, strict=True)]
        return scale, [float(one.translation[i]) * f for i, f in zip(where, factors, strict=True)], unit


def open_node(path: Path | str, inside: str = "") -> Any:
    """Open a Zarr group or array in a folder or at a URL.

    Raises
    ------
    InputError
        If it cannot be opened.
    """
    import zarr

    try:
        return zarr.open(str(path), mode="r", path=inside) if inside else zarr.open(str(path), mode="r")
    except ImportError as error:
        raise InputError(f"'{path}' needs another package ({error}). Install napari-stnreg[remote].") from error
    except Exception as error:  # zarr, its stores and its codecs raise anything
        hint = " Only Zarr is read from a URL." if isinstance(path, str) and is_url(path) else ""
        raise InputError(f"'{_name(path)}' cannot be opened as Zarr ({reason_of(error)}).{hint}") from error


def read_multiscale(path: Path | str) -> Multiscale:
    """Read the description of an image: a multiscale group, a group of bioformats2raw, a resolution, or an array.

    Raises
    ------
    InputError
        If the folder holds no image, several images or a plate, or its description is damaged.
    """
    import zarr

    path = path.rstrip("/") if isinstance(path, str) and is_url(path) else Path(path).absolute()
    name, node = _name(path), open_node(path)
    if isinstance(node, zarr.Array):
        return _described_by_parent(path) or _bare(path, node)
    attributes = dict(node.attrs)
    ome = attributes.get("ome", attributes)
    if not isinstance(ome, Mapping):
        raise InputError(f"'{name}' has a damaged description of its image.")
    if ome.get("multiscales"):
        return _parse(path, ome, attributes.get("stnreg"))
    if "bioformats2raw.layout" in ome:
        images = sorted(int(key) for key in node.group_keys() if key.isdigit())
        if len(images) == 1:
            return read_multiscale(f"{path}/{images[0]}")
        if not images:
            raise InputError(f"'{name}' has the layout of bioformats2raw, but holds no image.")
        raise InputError(f"'{name}' holds {len(images)} images. Name one of them, such as '{name}/{images[0]}'.")
    if "plate" in ome:
        raise InputError(f"'{name}' is a plate. Name one field of a well, such as '{name}/A/1/0'.")
    if "well" in ome:
        raise InputError(f"'{name}' is a well of a plate. Name one of its fields, such as '{name}/0'.")
    if isinstance(ome.get("labels"), list) and ome["labels"]:
        raise InputError(f"'{name}' lists labels. Name one of them, such as '{name}/{ome['labels'][0]}'.")
    raise InputError(f"'{name}' is a Zarr group without the description of an OME-Zarr image.")


def open_ome_zarr(path: Path) -> FileContent:
    """Open an OME-Zarr image or a Zarr array; voxels are loaded on request.

    Axes t, c, z, y and x may come in any order; other axes must have length 1.

    Raises
    ------
    InputError
        If there is no image, or its axes are others.
    """
    image = read_multiscale(path)
    array = image.array(0)
    if array.ndim != len(image.axes):
        raise InputError(f"'{path.name}' describes {len(image.axes)} axes, and its array has {array.ndim}.")
    shape = dict(zip(image.axes, (int(n) for n in array.shape), strict=True))
    if not {"y", "x"} <= set(image.axes) or any(n > 1 for name, n in shape.items() if name not in "tczyx"):
        raise InputError(f"'{path.name}' has the axes {', '.join(image.axes)}. Supported: t, c, z, y, x.")
    space = [name for name in "zyx" if name in image.axes]
    if shape.get("z") == 1:
        space = ["y", "x"]
    is_multichannel = shape.get("c", 1) > 1
    scale, origin, unit = image.spatial(0, space)
    grid = _stored_grid(image, scale, origin, [shape[name] for name in space], unit)
    note = dict(image.note or {})
    is_rgb = is_multichannel and bool(note.get("rgb")) and array.dtype == np.uint8
    order = [*space, *(["c"] if is_multichannel else [])]

    def load(frame: int) -> npt.NDArray[Any]:
        check_memory(path.name, int(np.prod(array.shape, dtype=np.float64)) // shape.get("t", 1) * array.dtype.itemsize)
        try:
            voxels = np.asarray(array[tuple(_pick(name, order, frame) for name in image.axes)])
        except InputError:
            raise
        except Exception as error:  # codecs raise anything
            raise InputError(f"'{path.name}' cannot be read. A chunk is incomplete or damaged.") from error
        kept = [name for name in image.axes if name in order]
        return voxels.transpose([kept.index(name) for name in order])

    def levels() -> list[Any]:
        import dask.array

        shown = ["t"] * (shape.get("t", 1) > 1) + space
        shown = [*shown, "c"] if is_rgb else ["c"] * is_multichannel + shown
        found = []
        for level in range(len(image.resolutions)):
            whole = dask.array.from_zarr(image.array(level))
            whole = whole[tuple(_pick(name, shown, 0) for name in image.axes)]
            kept = [name for name in image.axes if name in shown]
            found.append(whole.transpose([kept.index(name) for name in shown]))
        return found

    interval = float(image.resolutions[0].scale[image.axes.index("t")]) if "t" in image.axes else 1.0
    return FileContent(
        load,
        grid,
        frames=shape.get("t", 1),
        channels=is_multichannel,
        rgb=is_rgb,
        labels=image.is_labels,
        interval=interval if interval > 0 else 1.0,
        metadata={"coordinate_system": "scanner"} if note.get("coordinate_system") == "scanner" else {},
        levels=levels,
    )


def save_ome_zarr(path: Path, first: Image, *others: Image) -> None:
    """Write an image, or the frames of a series, as OME-Zarr 0.5 with a pyramid.

    Raises
    ------
    InputError
        If the grid is rotated or mirrored, which the format cannot say, or the folder is something else.
    """
    import zarr
    from ome_zarr_models.v05.image import ImageAttrs
    from ome_zarr_models.v05.multiscales import Dataset
    from ome_zarr_models.v05.multiscales import Multiscale as MultiscaleModel

    grid = first.grid
    diagonal = np.diag(grid.linear)
    if not np.allclose(grid.linear, np.diag(diagonal), atol=1e-9 * float(grid.spacing.max())) or (diagonal <= 0).any():
        raise InputError(f"The grid of '{first.name}' is rotated or mirrored, which OME-Zarr 0.5 cannot hold.")
    check_output(path, overwrite=True, folder=True, is_ours=is_written_image)
    frames = [_channels_first(image) for image in (first, *others)]
    data = np.stack(frames) if others else frames[0]
    if data.dtype.kind not in "iufb" or data.dtype == np.longdouble:
        raise InputError(f"'{first.name}' holds values of type {data.dtype}, which OME-Zarr does not have.")
    data = data.astype(np.uint8) if data.dtype == np.bool_ else data
    names = [*(["t"] if others else []), *(["c"] if first.has_channel_axis else []), *"zyx"[-grid.ndim :]]
    lead = len(names) - grid.ndim
    axes = ome_axes(names, grid.unit)
    with atomic_folder(path) as part:
        group = zarr.create_group(str(part), zarr_format=3)
        datasets: list[Any] = []
        factors = np.ones(grid.ndim)
        while True:
            level = len(datasets)
            chunks = (
                *(1,) * lead,
                *(min(16, n) for n in data.shape[lead:-2]),
                *(min(CHUNK, n) for n in data.shape[-2:]),
            )
            array = group.create_array(
                str(level), shape=data.shape, chunks=chunks, dtype=data.dtype, dimension_names=names
            )
            array[...] = data
            datasets.append(
                Dataset.build(
                    path=str(level),
                    scale=[*(1.0,) * lead, *(diagonal * factors).tolist()],
                    translation=[*(0.0,) * lead, *(grid.origin + diagonal * (factors - 1) / 2).tolist()],
                )
            )
            if max(data.shape[lead:]) <= 2 * SMALLEST_LEVEL:
                break
            data, step = halved(data, lead)
            factors = factors * step
        model = MultiscaleModel(axes=axes, datasets=tuple(datasets), name=first.name)
        ome = ImageAttrs(version="0.5", multiscales=[model]).model_dump(mode="json", exclude_none=True)
        note = {"coordinate_system": first.coordinate_system, "rgb": first.rgb, "unit": canonical(grid.unit)}
        group.attrs.update({"ome": ome, "stnreg": {"image": note}})


def ome_axes(names: Sequence[str], unit: str) -> list[Any]:
    """Return the axes ``t``, ``c``, ``z``, ``y``, ``x`` as OME-Zarr describes them; the unit is that of space."""
    from ome_zarr_models.v05.axes import Axis

    known = LONG_UNITS.get(canonical(unit))
    kinds = {"t": "time", "c": "channel"}
    return [
        Axis(name=n, type=kinds.get(n, "space"), **({"unit": known} if known and n not in kinds else {})) for n in names
    ]


def is_scene(path: Path) -> bool:
    """Return whether a Zarr folder holds the scene of a transform, not an image."""
    return _has_attribute(path, "ome", "scene")


def is_written_image(path: Path) -> bool:
    """Return whether :func:`save_ome_zarr` wrote a folder."""
    return _has_attribute(path, "stnreg", "image")


def is_written_scene(path: Path) -> bool:
    """Return whether this package wrote the scene of a transform into a folder."""
    return _has_attribute(path, "stnreg", "scene")


def _has_attribute(path: Path, group: str, name: str) -> bool:
    try:
        found = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
        return name in found["attributes"][group]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _pick(name: str, kept: Sequence[str], frame: int) -> slice | int:
    if name in kept:
        return slice(None)
    return frame if name == "t" else 0


def _channels_first(image: Image) -> npt.NDArray[Any]:
    data = np.asarray(image.data)
    return np.moveaxis(data, -1, 0) if image.has_channel_axis else data


def halved(data: npt.NDArray[Any], lead: int) -> tuple[npt.NDArray[Any], FloatArray]:
    """Average pairs of voxels along the axes that are long enough; an incomplete pair at the end is left out."""
    factors = [2.0 if n > SMALLEST_LEVEL else 1.0 for n in data.shape[lead:]]
    result = data
    for axis, factor in enumerate(factors, start=lead):
        if factor > 1:
            even = result.shape[axis] // 2 * 2
            index = [slice(None)] * result.ndim
            index[axis] = slice(0, even, 2)
            low = result[tuple(index)]
            index[axis] = slice(1, even, 2)
            mean = (low.astype(np.float32) + result[tuple(index)]) / 2
            result = mean.astype(data.dtype) if data.dtype.kind == "f" else np.rint(mean).astype(data.dtype)
    return result, np.asarray(factors)


def _stored_grid(image: Multiscale, scale: list[float], origin: list[float], shape: Sequence[int], unit: str) -> Grid:
    sizes = np.asarray(scale)
    if not np.isfinite(sizes).all() or (sizes == 0).any():
        raise InputError(f"'{image.name}' has a voxel size that is zero or not finite.")
    if unit == "pixel" and image.note and isinstance(image.note.get("unit"), str):
        unit = canonical(image.note["unit"])
    matrix = np.diag([*scale, 1.0])
    matrix[:-1, -1] = origin
    return Grid(tuple(shape), matrix, unit)


def _described_by_parent(path: Path | str) -> Multiscale | None:
    """Return the description of a resolution level that is opened by its own path."""
    parts = path.split("/") if isinstance(path, str) else list(path.parts)
    for depth in range(1, min(len(parts), 4)):
        parent = "/".join(parts[:-depth]) if isinstance(path, str) else path.parents[depth - 1]
        if isinstance(parent, Path) and not is_zarr(parent):
            return None
        inside = "/".join(parts[-depth:])
        try:
            attributes = dict(open_node(parent).attrs)
        except InputError:
            if isinstance(parent, str):
                return None
            raise
        ome = attributes.get("ome", attributes)
        if isinstance(ome, Mapping) and ome.get("multiscales"):
            image = _parse(parent, ome, attributes.get("stnreg"))
            own = tuple(one for one in image.resolutions if one.path == inside)
            if own:
                finest = image.resolutions[0]
                return Multiscale(parent, image.axes, image.units, own, image.name, image.is_labels, image.note, finest)
    return None


def _bare(path: Path | str, node: Any) -> Multiscale:
    """Describe an array without metadata: axes by number, or by the dimension names of Zarr 3."""
    names = getattr(node.metadata, "dimension_names", None) or ()
    axes = tuple(str(name).lower() for name in names) if names and all(names) else tuple("tczyx"[-node.ndim :])
    if len(axes) != node.ndim:
        raise InputError(f"'{_name(path)}' has {node.ndim} axes. Supported: t, c, z, y, x.")
    one = Resolution("", np.ones(node.ndim), np.zeros(node.ndim))
    return Multiscale(path, axes, ("pixel",) * node.ndim, (one,), _stem(path))


def _parse(path: Path | str, ome: Mapping[str, Any], note: Any) -> Multiscale:
    try:
        described = ome["multiscales"][0]
        axes = _axes(described)
        names = tuple(str(axis["name"]).lower() for axis in axes)
        whole = list(described.get("coordinateTransformations") or [])
        resolutions = []
        for dataset in described["datasets"]:
            scale, translation = np.ones(len(axes)), np.zeros(len(axes))
            for step in [*(dataset.get("coordinateTransformations") or []), *whole]:
                for one in step.get("transformations", [step]):
                    if one.get("type") == "scale":
                        factor = np.asarray(one["scale"], dtype=np.float64)
                        scale, translation = scale * factor, translation * factor
                    elif one.get("type") == "translation":
                        translation = translation + np.asarray(one["translation"], dtype=np.float64)
                    elif one.get("type") not in ("identity", None):
                        raise InputError(f"'{_name(path)}' places its voxels by a '{one['type']}', which is not read.")
            if scale.shape != (len(axes),) or translation.shape != (len(axes),):
                raise ValueError
            resolutions.append(Resolution(str(dataset["path"]), scale, translation))
        units = tuple(canonical(str(axis.get("unit") or "pixel")) for axis in axes)
        name = described.get("name")
        is_labels = "image-label" in ome
    except InputError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"'{_name(path)}' has a damaged description of its image.") from error
    if not resolutions or len(set(names)) < len(names):
        raise InputError(f"'{_name(path)}' has a damaged description of its image.")
    own = note.get("image") if isinstance(note, Mapping) else None
    return Multiscale(
        path, names, units, tuple(resolutions), str(name) if name and name != "/" else _stem(path), is_labels, own
    )


def _axes(described: Mapping[str, Any]) -> list[dict[str, Any]]:
    axes = described.get("axes")
    if axes is None and described.get("coordinateSystems"):  # version 0.6
        axes = described["coordinateSystems"][0]["axes"]
    if axes is None:
        return [{"name": name} for name in "tczyx"]
    return [axis if isinstance(axis, dict) else {"name": axis} for axis in axes]


def _name(path: Path | str) -> str:
    return path.rsplit("/", 1)[-1] if isinstance(path, str) else path.name


def _stem(path: Path | str) -> str:
    return _name(path).removesuffix(".zarr").removesuffix(".ome")
