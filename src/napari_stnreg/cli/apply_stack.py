"""``stnreg apply-stack``: warp another stack, or points, as a stack was aligned."""

from __future__ import annotations

import argparse
import dataclasses

from napari_stnreg.cli.align import drive
from napari_stnreg.cli.outputs import check_new
from napari_stnreg.cli.running import Interrupt
from napari_stnreg.io.points import read_table, write_table
from napari_stnreg.stacks.output.apply import apply_points, apply_stack_steps
from napari_stnreg.stacks.output.ome_zarr import AlignedStack
from napari_stnreg.stacks.sources.base import open_stack


def run(options: argparse.Namespace) -> None:
    """Do what was asked; see ``stnreg apply-stack --help``.

    Raises
    ------
    InputError
        If something given cannot be used.
    """
    aligned = AlignedStack(options.alignment)
    if options.thing.suffix.lower() == ".csv":
        check_new(options.output, [options.thing], overwrite=options.overwrite)
        table = read_table(options.thing)
        columns = table.points(3)
        values = table.values.copy()
        values[:, columns] = apply_points(aligned, values[:, columns], inverse=options.inverse)
        write_table(options.output, dataclasses.replace(table, values=values))
    else:
        steps = apply_stack_steps(
            aligned,
            open_stack(options.thing, level=options.level, channel=options.channel),
            options.output,
            interpolation=options.interpolation,
            fill=options.fill,
            scheduler=options.scheduler,
            workers=options.workers,
            overwrite=options.overwrite,
        )
        with Interrupt("Stopping; the sections done so far are kept. Ctrl+C again aborts.") as interrupt:
            drive(steps, interrupt, "apply-stack")
        if interrupt.asked:
            raise KeyboardInterrupt
    print(options.output)
