"""``stnreg apply-stack``: apply an alignment to another stack or to points."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from napari_stnreg.cli.commands.align import STOPPING, Execution, StackReading, run_with_progress
from napari_stnreg.cli.exit_code import ExitCode
from napari_stnreg.cli.options import AsOptions, Output
from napari_stnreg.cli.progress import PROGRESS, Interrupt, logger
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.output_guard import check_output


def apply_stack(
    alignment: Path,
    input: str,
    /,
    *,
    output: Output,
    interpolation: Literal["linear", "nearest", "cubic"] | None = None,
    fill: float = 0.0,
    inverse: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    reading: Annotated[StackReading, AsOptions] = StackReading(),  # noqa: B008
    execution: Annotated[Execution, AsOptions] = Execution(),  # noqa: B008
) -> int:
    """Apply an alignment to another stack or to points.

    INPUT is another stack of the same sections: another channel, labels, or the full-resolution stack when a smaller
    one was aligned. An OME-Zarr may also be a URL. Instead, INPUT may be a .csv file of points with the columns z,y,x
    in pixels of the raw stack; they are mapped to pixels of the aligned stack.

    Parameters
    ----------
    alignment
        The OME-Zarr folder that 'align' wrote.
    input
        A stack of the same sections, or a .csv file of points.
    output
        A .zarr folder, or a .csv file.
    interpolation
        Default: nearest for labels, by the name or few values in connected regions, and linear for images.
    fill
        Value outside the sections.
    inverse
        Map points from the aligned stack to the raw one.
    resume
        Continue a stopped or killed run.
    overwrite
        Replace the output if it exists.

    Examples
    --------
    stnreg apply-stack aligned.zarr labels.tif -o aligned-labels.zarr --interpolation nearest
    """
    from napari_stnreg.stacks.aligned_stack import AlignedStack, stack_interpolation

    aligned = AlignedStack(alignment)
    if input.lower().endswith(".csv"):
        from napari_stnreg.io.points import read_table, write_table

        check_output(output, [input, alignment], overwrite=overwrite)
        table = read_table(Path(input))
        found = table.columns(3)
        if found.meaning not in ("world", "voxels"):
            raise InputError(
                f"'{table.name}' holds lengths. Points of a stack are section and pixels. Use the columns z,y,x."
            )
        columns, values = found.indices, table.values.copy()
        values[:, columns] = aligned.map_points(values[:, columns], inverse=inverse)
        write_table(output, dataclasses.replace(table, values=values))
    else:
        source = reading.open(input)
        if interpolation is None:
            interpolation, note = stack_interpolation(source)
            if note:
                logger.log(PROGRESS, "%s", note)
        steps = aligned.apply_steps(
            source,
            output,
            interpolation=interpolation,
            fill=fill,
            **vars(execution),
            resume=resume,
            overwrite=overwrite,
        )
        with Interrupt(STOPPING) as interrupt:
            run_with_progress(steps, interrupt, "apply-stack")
        if interrupt.requested:
            return ExitCode.INTERRUPTED
    print(output)
    return ExitCode.SUCCESS
