"""``stnreg import-stack``: render a stack by the transforms of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from napari_stnreg.cli.commands.align import STOPPING, Execution, StackReading, run_with_progress
from napari_stnreg.cli.exit_code import ExitCode
from napari_stnreg.cli.options import AsOptions, Output
from napari_stnreg.cli.progress import Interrupt


def import_stack(
    stack: str,
    transforms: Path,
    /,
    *,
    output: Output,
    kind: Annotated[Literal["affine-csv", "bigwarp", "sofima", "render"], Parameter(name="--from")],
    resume: bool = False,
    overwrite: bool = False,
    reading: Annotated[StackReading, AsOptions] = StackReading(),  # noqa: B008
    execution: Annotated[Execution, AsOptions] = Execution(),  # noqa: B008
) -> int:
    """Render a stack by the transforms of another program.

    The result is an aligned stack, which apply-stack, export-stack and export-field take. The formats are those that
    export-stack writes. Transforms relate pixels of the raw section and of the aligned image.

    Parameters
    ----------
    stack
        The raw sections.
    transforms
        File of the transforms; for bigwarp a folder of landmarks, one file for each section.
    output
        The OME-Zarr folder to write.
    kind
        Format of the transforms.
    resume
        Continue a stopped or killed run.
    overwrite
        Replace the output if it exists.

    Examples
    --------
    stnreg import-stack sections.tif transforms.csv -o aligned.zarr --from affine-csv
    """
    from napari_stnreg.stacks.transform_import import import_stack_steps

    steps = import_stack_steps(
        reading.open(stack), transforms, kind, output, **vars(execution), resume=resume, overwrite=overwrite
    )
    with Interrupt(STOPPING) as interrupt:
        run_with_progress(steps, interrupt, "import-stack")
    if interrupt.requested:
        return ExitCode.INTERRUPTED
    print(output)
    return ExitCode.SUCCESS
