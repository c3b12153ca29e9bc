"""``stnreg export-stack``: an aligned stack, or its transforms, for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from napari_stnreg.cli.commands.align import run_with_progress
from napari_stnreg.cli.exit_code import ExitCode
from napari_stnreg.cli.progress import Interrupt

Kind = Literal["zarr", "precomputed", "affine-csv", "bigwarp", "sofima", "render"]


def export_stack(
    alignment: Path,
    output: str,
    /,
    *,
    to: Annotated[Kind, Parameter(name="--to")],
    overwrite: bool = False,
) -> int:
    """Write an aligned stack, or its transforms, for another program.

    zarr: OME-Zarr with one shard for each section and level. precomputed: a volume of Neuroglancer (needs
    napari-stnreg[precomputed]). Both go to a folder or a URL, such as s3://bucket/stack.zarr. affine-csv: the best
    affine map of each section. bigwarp: a folder with landmarks of each section. sofima: the coordinate map. render:
    tile specifications of Render and TrakEM2. Transforms relate pixels of the raw section and of the aligned image.

    Parameters
    ----------
    alignment
        The OME-Zarr folder that 'align' wrote.
    output
        The file, folder or URL to write.
    to
        What to write.
    overwrite
        Replace the output if it exists.

    Examples
    --------
    stnreg export-stack aligned.zarr transforms.csv --to affine-csv
    """
    from napari_stnreg.stacks.aligned_stack import AlignedStack

    steps = AlignedStack(alignment).export_steps(output, to, overwrite=overwrite)
    with Interrupt("Stopping. The output is incomplete. Press Ctrl+C again to abort.") as interrupt:
        found = run_with_progress(steps, interrupt, "export-stack")
    if interrupt.requested:
        return ExitCode.INTERRUPTED
    print(found)
    return ExitCode.SUCCESS
