"""An alignment applied to everything else in the same space: other channels, labels, finer scans, points."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.atomic_io import atomic_path
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray
from napari_stnreg.core.progress import run_to_completion
from napari_stnreg.stacks.output.canvas import OutputCanvas, dense_displacement
from napari_stnreg.stacks.output.ome_zarr import CHUNK, AlignedStack, SectionWriter, create
from napari_stnreg.stacks.output.render import relative_scale, render_bands, scale_canvas
from napari_stnreg.stacks.runtime.executor import Task, make_executor
from napari_stnreg.stacks.runtime.progress import StackProgress
from napari_stnreg.stacks.sources.base import SectionError, StackSource, open_stack


def apply_stack(alignment: AlignedStack | Path | str, stack: Any, output: Path | str, **how: Any) -> Path:
    """Render another stack through an alignment; :func:`apply_stack_steps` run to its end."""
    return run_to_completion(apply_stack_steps(alignment, stack, output, **how))


def apply_stack_steps(
    alignment: AlignedStack | Path | str,
    stack: Any,
    output: Path | str,
    *,
    interpolation: str = "linear",
    fill: float = 0.0,
    scheduler: str = "threads",
    workers: int | None = None,
    overwrite: bool = False,
) -> Generator[StackProgress, str | None, Path]:
    """Render another stack of the same space through an alignment, each section read once.

    Parameters
    ----------
    alignment
        What :func:`~napari_stnreg.align_stack` wrote.
    stack
        The same sections: another channel, labels, or the same at another resolution. What
        :func:`~napari_stnreg.stacks.sources.base.open_stack` opens.
    output
        The OME-Zarr folder to write, on the alignment's canvas.
    interpolation
        ``"linear"``, ``"cubic"``, or ``"nearest"`` for labels.
    fill
        Value where there is nothing.
    scheduler, workers
        As in :func:`~napari_stnreg.align_stack`.
    overwrite
        Replace ``output``.

    Raises
    ------
    InputError
        If the two stacks do not show the same place, or ``output`` cannot be written.
    """
    from napari_stnreg.resampling.warp import Interpolation

    aligned = alignment if isinstance(alignment, AlignedStack) else AlignedStack(alignment)
    source, path = open_stack(stack), Path(output).absolute()
    if interpolation not in get_args(Interpolation):
        raise InputError(f"There is no interpolation '{interpolation}'; choose linear, nearest or cubic.")
    if source.shape[0] != aligned.sections:
        raise InputError(
            f"'{source.name}' has {source.shape[0]} sections and the alignment {aligned.sections}; "
            "it applies to stacks of the same sections."
        )
    if path in (aligned.path, Path(source.location)) or not path.name.endswith(".zarr"):
        raise InputError(f"'{path.name}' cannot be the output; choose a new name that ends in .zarr.")
    if path.exists() and not overwrite:
        raise InputError(f"'{path.name}' is there already; name another, or add --overwrite.")
    scale = relative_scale(source.shape, aligned.canvas.input_shape, source.name)
    grid = scale_canvas(aligned.canvas, scale)
    labels = interpolation == "nearest"
    writer = create(
        path, source, aligned.canvas, (grid.shape[0], grid.shape[1]), scale=scale, displacement=False, fill=fill,
        labels=labels, attributes={"alignment": aligned.path.name},
    )  # fmt: skip
    executor = make_executor(scheduler, workers)
    count = source.shape[0]
    plan = (
        Task(f"apply {z}", _render, (aligned.path, source, writer, z, scale, interpolation, fill)) for z in range(count)
    )
    try:
        with closing(executor.run(plan)) as ended:  # type: ignore[type-var]
            for done, (name, _) in enumerate(ended, start=1):
                z = int(name.rsplit(" ", 1)[1])
                if (yield StackProgress("render", done, count, done / count, "rendering", z, path)) == "stop":
                    break
    finally:
        executor.close()
    return path


def _render(
    alignment: Path, source: StackSource, writer: SectionWriter, z: int, scale: float, interpolation: Any, fill: float
) -> None:
    aligned = AlignedStack(alignment)
    canvas = aligned.canvas
    bands = render_bands(
        source, z, aligned.transform(z), scale_canvas(canvas, scale), CHUNK, scale=scale, step=canvas.step,
        interpolation=interpolation, fill=fill,
    )  # fmt: skip
    with suppress(SectionError):  # a missing section stays empty, as it is in the alignment
        writer.write(z, bands)


def apply_points(alignment: AlignedStack | Path | str, points: npt.ArrayLike, *, inverse: bool = False) -> FloatArray:
    """Points of the raw sections to where they are in the aligned stack.

    Parameters
    ----------
    alignment
        What :func:`~napari_stnreg.align_stack` wrote.
    points
        ``(N, 3)``: section, and pixel (y, x) of the raw stack.
    inverse
        Go the other way, from the aligned stack to the raw one.

    Returns
    -------
    ndarray
        ``(N, 3)``: section, and pixel (y, x) of the aligned image.

    Raises
    ------
    InputError
        If a point lies in no section of the stack.
    """
    aligned = alignment if isinstance(alignment, AlignedStack) else AlignedStack(alignment)
    given = np.asarray(points, dtype=np.float64)
    if given.ndim != 2 or given.shape[1] != 3:
        raise InputError(f"Points of a stack have three columns, z, y, x; these have the shape {given.shape}.")
    sections = np.rint(given[:, 0]).astype(int)
    if len(given) and not (sections.min() >= 0 and sections.max() < aligned.sections):
        raise InputError(f"The alignment has sections 0 to {aligned.sections - 1}; a point lies outside.")
    corner = np.asarray(aligned.canvas.origin, dtype=np.float64)
    result = given.copy()
    for z in np.unique(sections):
        here = sections == z
        transform = aligned.transform(int(z))
        if inverse:
            result[here, 1:] = transform.map_points(given[here, 1:] + corner)
        else:
            result[here, 1:] = transform.inverse().map_points(given[here, 1:]) - corner
    return result


def export_field(alignment: AlignedStack | Path | str, output: Path | str, *, overwrite: bool = False) -> Path:
    """Write the displacement at every pixel of the input's own canvas as a ``.npy`` file.

    The array has the shape ``(z, 2, y, x)``, float32, in pixels, order (y, x), pull-back:
    ``aligned[z, y, x] = raw[z, y + d[0], x + d[1]]``. It is written section by section.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    aligned = alignment if isinstance(alignment, AlignedStack) else AlignedStack(alignment)
    path = Path(output)
    if path.suffix != ".npy":
        raise InputError(f"'{path.name}' is to be a NumPy file; choose a name that ends in .npy.")
    if path.exists() and not overwrite:
        raise InputError(f"'{path.name}' is there already; name another, or add --overwrite.")
    canvas: OutputCanvas = aligned.canvas
    with atomic_path(path) as part:
        shape = (aligned.sections, 2, *canvas.input_shape)
        field = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
        for z in range(aligned.sections):
            field[z] = dense_displacement(aligned.displacement(z), canvas)
        field.flush()
        del field
    return path
