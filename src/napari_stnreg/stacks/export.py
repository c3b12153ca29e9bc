"""Write an aligned stack for other programs: image stores, and the transforms of its sections.

Transforms are written for pixels: of the raw section, and of the aligned image (index 0 is its first pixel).
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import url2pathname

import numpy as np

from napari_stnreg._version import __version__
from napari_stnreg.core.atomic_io import atomic_path, write_json
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray
from napari_stnreg.core.output_guard import check_output, replace_folder
from napari_stnreg.core.units import conversion_factor
from napari_stnreg.io.formats import is_url
from napari_stnreg.io.points import write_landmark_pairs
from napari_stnreg.stacks.output.ome_zarr import is_aligned_stack
from napari_stnreg.stacks.runtime.progress import StackProgress
from napari_stnreg.stacks.section_transform import fit_affine_matrix

if TYPE_CHECKING:
    from napari_stnreg.stacks.aligned_stack import AlignedStack

GRID_POINTS = 12
"""Points along the longer side of a section in formats that hold point pairs."""
PRECOMPUTED_CHUNK = 512
"""Side of the chunks of a precomputed volume, pixels."""
SHARD_BYTES = 2**28
"""Largest shard before compression; smaller levels are one shard for each section."""
_PROVENANCE = "provenance"
"""File of a precomputed volume that records how it was made."""


Steps = Generator[StackProgress, str | None, str]
"""Progress of an export after every section of every array; ``send("stop")`` ends it, and returns the target."""


def write_zarr(aligned: AlignedStack, target: str, *, overwrite: bool = False) -> Steps:
    """Copy image and displacement as OME-Zarr 0.5 with one shard for each section and level, to a folder or a URL.

    A URL is opened by fsspec, such as ``s3://bucket/stack.zarr`` or ``memory://stack.zarr``. The copy is marked as
    unfinished until all sections are written.

    Raises
    ------
    InputError
        If the target cannot be written or exists.
    """
    import zarr

    where = target if is_url(target) else str(_new_folder(aligned, target, is_aligned_stack, overwrite=overwrite))
    attributes = _attributes(aligned)
    note = attributes["stnreg"]
    arrays = [*((str(one.basename), one) for one in aligned.levels), ("displacement", aligned.nodes)]
    with _writing(target):
        group = zarr.create_group(
            where, zarr_format=3, overwrite=overwrite, attributes={**attributes, "stnreg": {**note, "finished": False}}
        )
    for k, (name, source) in enumerate(arrays):
        chunks = source.chunks
        shards = tuple(-(-n // c) * c for n, c in zip(source.shape[1:], chunks[1:], strict=True))
        while np.prod(shards) * source.dtype.itemsize > SHARD_BYTES and shards[-2] > chunks[-2]:
            shards = (*shards[:-2], -(-shards[-2] // 2 // chunks[-2]) * chunks[-2], shards[-1])
        with _writing(target):
            made = group.create_array(
                name, shape=source.shape, chunks=chunks, shards=(1, *shards), dtype=source.dtype,
                fill_value=source.fill_value, dimension_names=source.metadata.dimension_names,
                attributes=dict(source.attrs),
            )  # fmt: skip
        for z in range(source.shape[0]):
            with _writing(target):
                for top in range(0, source.shape[-2], shards[-2]):
                    rows = slice(top, min(top + shards[-2], source.shape[-2]))
                    made[z, ..., rows, :] = source[z, ..., rows, :]
            if (yield _progress(aligned, k, len(arrays), z)) == "stop":
                return target
    with _writing(target):
        group.attrs["stnreg"] = note
    return target


def _progress(aligned: AlignedStack, array: int, arrays: int, z: int) -> StackProgress:
    done, total = array * aligned.n_sections + z + 1, arrays * aligned.n_sections
    return StackProgress("export", done, total, done / total, "writing sections", z)


@contextmanager
def _writing(target: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # stores and their packages raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise InputError(f"'{target}' cannot be written ({reason}).") from error


def _attributes(aligned: AlignedStack) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((aligned.path / "zarr.json").read_text(encoding="utf-8"))["attributes"]
    return found


def write_precomputed(aligned: AlignedStack, target: str, *, overwrite: bool = False) -> Steps:
    """Write the image with its pyramid as a precomputed volume of Neuroglancer, to a folder or a URL of tensorstore.

    Raises
    ------
    InputError
        If tensorstore is not installed, the unit is no length, or the target cannot be written or exists.
    """
    try:
        import tensorstore
    except ImportError as error:
        raise InputError("Precomputed volumes need tensorstore. Install napari-stnreg[precomputed].") from error
    ome = _attributes(aligned)["ome"]["multiscales"][0]
    unit = next((axis.get("unit") for axis in ome["axes"] if axis["name"] == "x"), None)
    nm = 1.0 if unit in (None, "pixel") else conversion_factor(unit, "nm")
    base = target
    if not is_url(target):
        path = _new_folder(aligned, target, _is_our_volume, overwrite=overwrite)
        write_json(path / _PROVENANCE, {"processing": [f"napari-stnreg {__version__}"], "sources": [aligned.path.name]})
        base = f"file://{path}/"
    for k, (array, dataset) in enumerate(zip(aligned.levels, ome["datasets"], strict=True)):
        changes = {one["type"]: one[one["type"]] for one in dataset["coordinateTransformations"]}
        scale, shift = changes["scale"], changes.get("translation", [0.0, 0.0, 0.0])
        z, y, x = array.shape
        spec = {
            "driver": "neuroglancer_precomputed", "kvstore": base,
            "multiscale_metadata": {"type": "image", "data_type": array.dtype.name, "num_channels": 1},
            "scale_metadata": {
                "resolution": [nm * float(n) for n in scale[::-1]], "size": [x, y, z], "encoding": "raw",
                "voxel_offset": [round(o / s) for o, s in zip(shift[::-1], scale[::-1], strict=True)],
                "chunk_size": [min(PRECOMPUTED_CHUNK, x), min(PRECOMPUTED_CHUNK, y), 1],
            },
        }  # fmt: skip
        with _writing(target):
            store = tensorstore.open(spec, create=True, open=False).result()
        origin = store.domain.origin
        for section in range(z):
            with _writing(target):
                data = np.asarray(array[section]).T[..., None, None]
                store[:, :, origin[2] + section : origin[2] + section + 1, :].write(data).result()
            if (yield _progress(aligned, k, len(aligned.levels), section)) == "stop":
                return target
    return target


def _new_folder(aligned: AlignedStack, target: str, is_ours: Callable[[Path], bool], *, overwrite: bool) -> Path:
    """Return a new empty folder; what was exported there before is deleted."""
    path = check_output(target, [aligned.path], overwrite=overwrite, folder=True, is_ours=is_ours)
    replace_folder(path)
    return path


def _is_our_volume(path: Path) -> bool:
    with suppress(OSError, ValueError):
        return "napari-stnreg" in (path / _PROVENANCE).read_text(encoding="utf-8")
    return False


# -- transforms


def _grid_pairs(aligned: AlignedStack, z: int) -> tuple[FloatArray, FloatArray]:
    """Points ``(N, 2)`` of the raw section (y, x) that section z of the aligned image shows, and their pixels there."""
    shape = aligned.canvas.input_shape
    step = (max(shape) - 1) / (GRID_POINTS - 1)
    axes = [np.linspace(0, n - 1, max(round((n - 1) / step) + 1, 2)) for n in shape]
    raw = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    there = aligned.map_points(np.column_stack([np.full(len(raw), aligned.order[z]), raw]))[:, 1:]
    return raw, there


def write_affines(aligned: AlignedStack, target: Path) -> None:
    """Write the best affine map of every section, aligned (y, x) to raw (y, x), and what it leaves, as CSV."""
    with atomic_path(target) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["section", "yy", "yx", "y", "xy", "xx", "x", "residual_px", "raw_section"])
        order = aligned.order
        for z in range(aligned.n_sections):
            raw, there = _grid_pairs(aligned, z)
            matrix = fit_affine_matrix(there, raw)
            left = np.linalg.norm(there @ matrix[:2, :2].T + matrix[:2, 2] - raw, axis=1)
            rms = f"{np.sqrt((left**2).mean()):.4g}"
            writer.writerow([z, *(f"{v:.9g}" for v in matrix[:2].ravel()), rms, order[z]])


def write_bigwarp(aligned: AlignedStack, target: Path) -> None:
    """Write landmarks of BigWarp, one CSV file for each section: moving is the raw section, fixed the aligned one."""
    for z, number in enumerate(aligned.order):
        raw, there = _grid_pairs(aligned, z)
        name = f"section{z:05d}.csv" if number == z else f"section{z:05d}-raw{number:05d}.csv"
        write_landmark_pairs(target / name, there, raw, dialect="bigwarp")


def write_sofima(aligned: AlignedStack, target: Path) -> None:
    """Write the relative coordinate map ``(2, z, y, x)``, order (x, y), aligned to raw, and its box and stride."""
    canvas = aligned.canvas
    shape = (2, aligned.n_sections, *canvas.field_shape)
    with atomic_path(target) as part:
        found = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
        for z in range(aligned.n_sections):
            # nodes are pixels of the input, and the map is that of the aligned image: raw = aligned + origin + field
            field = aligned.displacement(z) + np.asarray(canvas.origin, dtype=np.float32)[:, None, None]
            found[:, z] = field[::-1]
        found.flush()
        del found
    start = [f - c for f, c in zip(canvas.field_origin, canvas.origin, strict=True)]
    note = {"stride": [canvas.step, canvas.step], "start_yx": start, "direction": "aligned to raw, relative, (x, y)"}
    note["raw_sections"] = aligned.order
    write_json(target.with_suffix(".json"), note)


def write_render(aligned: AlignedStack, target: Path) -> None:
    """Write tile specifications of Render and TrakEM2: one tile a section, by moving least squares."""
    height, width = aligned.canvas.input_shape
    tiles = []
    for z, number in enumerate(aligned.order):
        raw, there = _grid_pairs(aligned, z)
        pairs = [f"{p[1]:.4f} {p[0]:.4f} {q[1]:.4f} {q[0]:.4f} 1.0" for p, q in zip(raw, there, strict=True)]
        leaf = {
            "type": "leaf", "className": "mpicbg.trakem2.transform.MovingLeastSquaresTransform2",
            "dataString": " ".join(["affine 2 2.0", *pairs]),
        }  # fmt: skip
        tiles.append({
            "tileId": f"section{number:05d}", "z": float(z), "width": width, "height": height,
            "layout": {"sectionId": str(number)}, "transforms": {"type": "list", "specList": [leaf]},
        })  # fmt: skip
    write_json(target, tiles)


TRANSFORM_WRITERS: dict[str, tuple[tuple[str, ...], Callable[[AlignedStack, Path], None]]] = {
    "affine-csv": ((".csv",), write_affines),
    "bigwarp": ((), write_bigwarp),
    "sofima": ((".npy", ".json"), write_sofima),
    "render": ((".json",), write_render),
}
"""Suffixes of the files, that of the target first, and writer of each format of transforms; none is a folder."""


def export_steps(aligned: AlignedStack, target: str | os.PathLike[str], kind: str, *, overwrite: bool = False) -> Steps:
    """Write an aligned stack, or its transforms, for another program; see :meth:`AlignedStack.export_steps`."""
    name = os.fspath(target)
    if name.startswith("file://"):
        name = url2pathname(name.removeprefix("file://"))
    if kind == "zarr":
        return (yield from write_zarr(aligned, name, overwrite=overwrite))
    if kind == "precomputed":
        return (yield from write_precomputed(aligned, name, overwrite=overwrite))
    if kind not in TRANSFORM_WRITERS:
        known = ", ".join(["zarr", "precomputed", *TRANSFORM_WRITERS])
        raise InputError(f"There is no export '{kind}'. Choose one of {known}.")
    suffixes, write = TRANSFORM_WRITERS[kind]
    path = Path(name).absolute()
    if not suffixes:
        _new_folder(aligned, name, _holds_our_landmarks, overwrite=overwrite)
    elif not name.endswith(suffixes[0]):
        raise InputError(f"'{path.name}' must end in {suffixes[0]}.")
    for suffix in suffixes:
        check_output(path.with_suffix(suffix), [aligned.path], overwrite=overwrite)
    write(aligned, path)
    return str(path)


def _holds_our_landmarks(path: Path) -> bool:
    return all(re.fullmatch(r"section\d{5,}(-raw\d{5,})?\.csv", one.name) for one in path.iterdir())
