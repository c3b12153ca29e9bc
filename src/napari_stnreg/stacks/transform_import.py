"""Read the transforms of a stack's sections from files of other programs, and render the stack by them.

The formats are those that :mod:`~napari_stnreg.stacks.export` writes. Transforms relate pixels of the raw
section and of the aligned image.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.file_errors import parser_errors
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.progress import run_to_completion
from napari_stnreg.io.points import read_landmark_pairs
from napari_stnreg.stacks.output.canvas import OutputCanvas, displacement_transform
from napari_stnreg.stacks.output.ome_zarr import CHUNK, SectionWriter, create
from napari_stnreg.stacks.output.render import render_bands
from napari_stnreg.stacks.runtime.memory import rendering_bytes
from napari_stnreg.stacks.runtime.progress import StackProgress
from napari_stnreg.stacks.runtime.rendering import RenderingJob, render_steps
from napari_stnreg.stacks.section_transform import corners
from napari_stnreg.stacks.sources.base import StackSource, reorder_sections
from napari_stnreg.stacks.sources.open import open_stack

NODE_SPACING_PX = 8
"""Distance of the nodes of the displacement into which the transforms are sampled."""
NODE_BYTES = 450
"""Peak memory of one section for each node of its displacement, measured for thin-plate splines and rounded up."""

PullBack = Callable[[FloatArray], FloatArray]
"""Maps points ``(N, 2)`` of the aligned image to the raw section, (y, x)."""


@dataclass(frozen=True)
class _Section:
    """Transform of a section, the aligned points that it covers, and its number in the raw stack."""

    pull_back: PullBack
    covered: FloatArray
    raw: int


def import_stack(
    stack: Any,
    transforms: str | os.PathLike[str],
    kind: str,
    output: str | os.PathLike[str],
    *,
    scheduler: str = "threads",
    workers: int | None = None,
    memory: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Render a stack by the transforms of another program; :func:`import_stack_steps` run to its end."""
    return run_to_completion(
        import_stack_steps(
            stack, transforms, kind, output, scheduler=scheduler, workers=workers, memory=memory, resume=resume,
            overwrite=overwrite,
        )
    )  # fmt: skip


def import_stack_steps(
    stack: Any,
    transforms: str | os.PathLike[str],
    kind: str,
    output: str | os.PathLike[str],
    *,
    scheduler: str = "threads",
    workers: int | None = None,
    memory: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Generator[StackProgress, str | None, Path]:
    """Render a stack by the transforms of another program, step by step; the result is an aligned stack.

    Parameters
    ----------
    stack
        The raw sections, as :func:`~napari_stnreg.open_stack` takes them.
    transforms
        File or folder of the transforms.
    kind
        ``"affine-csv"``, ``"bigwarp"``, ``"sofima"`` or ``"render"``, as :meth:`AlignedStack.export` writes them.
    output
        OME-Zarr folder to write.
    scheduler, workers, memory
        As in :func:`~napari_stnreg.align_stack`.
    resume
        Continue a stopped or killed run; sections that are written are skipped.
    overwrite
        Replace ``output`` if this program wrote it.

    Yields
    ------
    StackProgress
        After every section. ``send("stop")`` ends the run; the sections written so far stay on disk.

    Returns
    -------
    Path
        The folder, which :class:`~napari_stnreg.AlignedStack` opens.

    Raises
    ------
    InputError
        If the transforms cannot be read or do not fit the stack, or ``output`` cannot be written.
    """
    source, transforms, output = open_stack(stack), Path(transforms).absolute(), Path(output).absolute()
    shape = (source.shape[1], source.shape[2])
    if kind not in _READERS:
        raise InputError(f"There is no import '{kind}'. Choose one of {', '.join(_READERS)}.")
    if not output.name.endswith(".zarr"):
        raise InputError(f"'{output.name}' must be an OME-Zarr folder. Choose a name that ends in .zarr.")
    if not transforms.exists():
        raise InputError(f"'{transforms}' does not exist.")
    with parser_errors(transforms, kind):
        sections = _READERS[kind](transforms, shape)
    count, order = source.shape[0], [one.raw for one in sections]
    if sorted(order) != list(range(count)):
        raise InputError(
            f"'{transforms.name}' has transforms of {len(order)} sections, and '{source.name}' has {count}."
        )
    points = np.concatenate([one.covered for one in sections])
    if not np.isfinite(points).all():
        raise InputError(f"'{transforms.name}' holds values that are not finite.")
    low = np.floor(points.min(axis=0) + 0.5).astype(int)
    size = np.ceil(points.max(axis=0) - 0.5).astype(int) - low + 1
    canvas = OutputCanvas((int(low[0]), int(low[1])), (int(size[0]), int(size[1])), shape, NODE_SPACING_PX)
    seen = reorder_sections(source, order)
    attributes = {"stack": source.identity(), "finished": False, "imported": kind, "order": order}
    job = RenderingJob(
        output, [*source.paths, transforms],
        {"stack": source.identity(), "transforms": _fingerprint(transforms), "kind": kind},
        count, rendering_bytes(source, canvas.shape) + NODE_BYTES * int(np.prod(canvas.field_shape)),
        create=lambda path: create(path, source, canvas, canvas.shape, attributes=attributes),
        task=lambda writer, z: partial(_render_section, seen, canvas, sections[z].pull_back, writer, z),
    )  # fmt: skip
    return (
        yield from render_steps(
            job, scheduler=scheduler, workers=workers, memory=memory, resume=resume, overwrite=overwrite
        )
    )


def _render_section(
    source: StackSource, canvas: OutputCanvas, pull_back: PullBack, writer: SectionWriter, z: int
) -> None:
    """Write the displacement of a section, then its pixels."""
    nodes = canvas.field_grid.points()
    moved = pull_back(nodes.reshape(-1, 2)).reshape(nodes.shape)
    field = np.moveaxis(moved - nodes, -1, 0).astype(np.float32)
    writer.write_displacement(z, field)
    transform = displacement_transform(field, canvas)
    writer.write(z, render_bands(source, z, transform, canvas.grid, CHUNK, step=canvas.step))


def _fingerprint(path: Path) -> list[list[Any]]:
    """Names, sizes and times of the files of transforms, by which a run is recognized when it is resumed."""
    files = sorted(path.glob("section*.csv")) if path.is_dir() else [path, path.with_suffix(".json")]
    return [[str(one), one.stat().st_size, one.stat().st_mtime_ns] for one in files if one.exists()]


def _affine(matrix: FloatArray) -> PullBack:
    return lambda points: points @ matrix[:2, :2].T + matrix[:2, 2]


def _spline(aligned: FloatArray, raw: FloatArray) -> PullBack:
    import torch

    from napari_stnreg.transforms.thin_plate import ThinPlateTransform

    fixed, moving = np.ascontiguousarray(aligned), np.ascontiguousarray(raw)
    return ThinPlateTransform(fixed, torch.from_numpy(moving)).map_points


def _covered(matrix: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """Corners of a section in the aligned image, by its affine map to the raw section."""
    back = np.linalg.inv(matrix)
    return np.asarray(corners(shape) @ back[:2, :2].T + back[:2, 2])


def _read_affines(path: Path, shape: tuple[int, int]) -> list[_Section]:
    names = ("yy", "yx", "y", "xy", "xx", "x")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["section"]))
    found = []
    for row in rows:
        matrix = np.vstack([np.array([float(row[name]) for name in names]).reshape(2, 3), [0.0, 0.0, 1.0]])
        found.append(_Section(_affine(matrix), _covered(matrix, shape), int(row.get("raw_section") or row["section"])))
    return found


def _read_bigwarp(path: Path, shape: tuple[int, int]) -> list[_Section]:
    found = []
    for file in sorted(path.glob("section*.csv")):
        name = re.fullmatch(r"section(\d+)(?:-raw(\d+))?\.csv", file.name)
        if name:
            aligned, raw = read_landmark_pairs(file, 2)
            found.append(_Section(_spline(aligned, raw), aligned, int(name[2] or name[1])))
    return found


def _read_sofima(path: Path, shape: tuple[int, int]) -> list[_Section]:
    note = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    maps, step = np.load(path, mmap_mode="r", allow_pickle=False), [float(n) for n in note["stride"]]
    grid = Grid.from_spacing(maps.shape[2:], step, [float(n) for n in note["start_yx"]])
    order, nodes = note.get("raw_sections") or range(maps.shape[1]), grid.points()
    found = []
    for z, number in enumerate(order):
        moved = nodes + np.moveaxis(maps[::-1, z], 0, -1)
        inside = nodes[((moved > -0.5) & (moved < np.asarray(shape) - 0.5)).all(axis=-1)]
        covered = np.stack([inside.min(axis=0), inside.max(axis=0)]) if len(inside) else inside
        found.append(_Section(partial(_map_by_coordinates, path, z, grid), covered, int(number)))
    return found


def _map_by_coordinates(path: Path, z: int, grid: Grid, points: FloatArray) -> FloatArray:
    """Map points by one section of a coordinate map, which is read here: all of them may not fit into memory."""
    import torch

    from napari_stnreg.transforms import DisplacementTransform

    maps = np.load(path, mmap_mode="r", allow_pickle=False)
    field = np.ascontiguousarray(maps[::-1, z], dtype=np.float64)
    return DisplacementTransform(torch.from_numpy(field), grid).map_points(points)


def _read_render(path: Path, shape: tuple[int, int]) -> list[_Section]:
    """Read tile specifications with one leaf each: moving least squares, taken as a spline, or an affine map."""
    found: list[_Section] = []
    for tile in sorted(json.loads(path.read_text(encoding="utf-8")), key=lambda one: float(one["z"])):
        leaves = tile["transforms"]["specList"]
        words = str(leaves[0]["dataString"]).split()
        number = int(tile.get("layout", {}).get("sectionId", len(found)))
        if len(leaves) != 1 or not leaves[0]["className"].endswith(("LeastSquaresTransform2", "AffineModel2D")):
            raise InputError(f"'{path.name}' has transforms that are not read: {leaves[-1]['className']}.")
        if leaves[0]["className"].endswith("AffineModel2D"):  # m00 m10 m01 m11 m02 m12, raw (x, y) to aligned
            a, b, c, d, x, y = map(float, words)
            matrix = np.linalg.inv(np.array([[d, b, y], [c, a, x], [0.0, 0.0, 1.0]]))
            found.append(_Section(_affine(matrix), _covered(matrix, shape), number))
            continue
        pairs = np.array(words[3:], dtype=np.float64).reshape(-1, 5)
        raw, aligned = pairs[:, 1::-1], pairs[:, 3:1:-1]
        found.append(_Section(_spline(aligned, raw), aligned, number))
    return found


_READERS: dict[str, Callable[[Path, tuple[int, int]], list[_Section]]] = {
    "affine-csv": _read_affines,
    "bigwarp": _read_bigwarp,
    "sofima": _read_sofima,
    "render": _read_render,
}
