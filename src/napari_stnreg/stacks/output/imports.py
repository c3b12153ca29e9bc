"""Read the transforms of a stack's sections from files of other programs, and render the stack by them.

The formats are those that :mod:`~napari_stnreg.stacks.output.exchange` writes. Transforms relate pixels of the raw
section and of the aligned image.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_stnreg.core.errors import InputError, announce
from napari_stnreg.core.file_errors import parser_errors
from napari_stnreg.core.grid import FloatArray
from napari_stnreg.core.output_guard import OutputLock, check_output
from napari_stnreg.io.points import read_landmark_pairs
from napari_stnreg.stacks.output.canvas import OutputCanvas, displacement_transform
from napari_stnreg.stacks.output.ome_zarr import CHUNK, create, is_aligned_stack, update_attributes
from napari_stnreg.stacks.output.render import render_bands
from napari_stnreg.stacks.section_transform import corners
from napari_stnreg.stacks.sources.base import SectionError, reorder_sections
from napari_stnreg.stacks.sources.open import open_stack

NODE_SPACING_PX = 8
"""Distance of the nodes of the displacement into which the transforms are sampled."""

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
    overwrite: bool = False,
) -> Path:
    """Render a stack by the transforms of another program; the result is an aligned stack.

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
    overwrite
        Replace ``output`` if this program wrote it.

    Returns
    -------
    Path
        The folder, which :class:`~napari_stnreg.AlignedStack` opens.

    Raises
    ------
    InputError
        If the transforms cannot be read or do not fit the stack, or ``output`` cannot be written.
    """
    stack, transforms, output = open_stack(stack), Path(transforms).absolute(), Path(output).absolute()
    if kind not in _READERS:
        raise InputError(f"There is no import '{kind}'. Choose one of {', '.join(_READERS)}.")
    if not output.name.endswith(".zarr"):
        raise InputError(f"'{output.name}' must be an OME-Zarr folder. Choose a name that ends in .zarr.")
    if not transforms.exists():
        raise InputError(f"'{transforms}' does not exist.")
    with parser_errors(transforms, kind):
        sections = _READERS[kind](transforms, (stack.shape[1], stack.shape[2]))
    count, order = stack.shape[0], [one.raw for one in sections]
    if sorted(order) != list(range(count)):
        raise InputError(
            f"'{transforms.name}' has transforms of {len(order)} sections, and '{stack.name}' has {count}."
        )
    points = np.concatenate([one.covered for one in sections])
    if not np.isfinite(points).all():
        raise InputError(f"'{transforms.name}' holds values that are not finite.")
    low = np.floor(points.min(axis=0) + 0.5).astype(int)
    size = np.ceil(points.max(axis=0) - 0.5).astype(int) - low + 1
    canvas = OutputCanvas(
        (int(low[0]), int(low[1])), (int(size[0]), int(size[1])), (stack.shape[1], stack.shape[2]), NODE_SPACING_PX
    )
    path = check_output(output, [*stack.paths, transforms], overwrite=overwrite, folder=True, is_ours=is_aligned_stack)
    nodes = canvas.field_grid.points()
    missing: list[int] = []
    with OutputLock(path):
        attributes: dict[str, Any] = {"stack": stack.identity(), "finished": False, "imported": kind, "order": order}
        writer = create(path, stack, canvas, canvas.shape, attributes=attributes)
        source = reorder_sections(stack, order)
        for z, one in enumerate(sections):
            moved = one.pull_back(nodes.reshape(-1, 2)).reshape(nodes.shape)
            field = np.moveaxis(moved - nodes, -1, 0).astype(np.float32)
            writer.write_displacement(z, field)
            try:
                bands = render_bands(
                    source, z, displacement_transform(field, canvas), canvas.grid, CHUNK, step=canvas.step
                )
                writer.write(z, bands)
            except SectionError:
                missing.append(one.raw)
        update_attributes(path, finished=True)
    if missing:
        announce(f"Sections that cannot be read stay empty: {', '.join(map(str, missing))}.")
    return path


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
    import torch

    from napari_stnreg.core.grid import Grid
    from napari_stnreg.transforms import DisplacementTransform

    note = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    maps, step = np.load(path, mmap_mode="r", allow_pickle=False), [float(n) for n in note["stride"]]
    grid = Grid.from_spacing(maps.shape[2:], step, [float(n) for n in note["start_yx"]])
    order, nodes = note.get("raw_sections") or range(maps.shape[1]), grid.points()
    found = []
    for z, number in enumerate(order):
        field = np.ascontiguousarray(maps[::-1, z], dtype=np.float64)
        moved = nodes + np.moveaxis(field, 0, -1)
        inside = ((moved > -0.5) & (moved < np.asarray(shape) - 0.5)).all(axis=-1)
        transform = DisplacementTransform(torch.from_numpy(field), grid)
        found.append(_Section(transform.map_points, nodes[inside], int(number)))
    return found


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
