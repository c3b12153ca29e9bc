"""``stnreg align``: align a stack of serial sections."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt

from napari_stnreg.cli.running import Interrupt, progress_bar, show
from napari_stnreg.cli.setting_options import written_settings
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.progress import ReturnType, run_to_completion
from napari_stnreg.io.points import read_table
from napari_stnreg.stacks.api import align_stack_steps
from napari_stnreg.stacks.runtime.progress import StackProgress, StackResult, write_report
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.sources.base import open_stack

_COLUMNS = ("section_a", "y_a", "x_a", "section_b", "y_b", "x_b")


def run(options: argparse.Namespace) -> None:
    """Do what was asked; see ``stnreg align --help``.

    Raises
    ------
    InputError
        If something given cannot be used.
    """
    settings = written_settings(StackSettings, options)
    source = open_stack(options.stack, level=options.level, channel=options.channel)
    if source.sentence:
        print(f"stnreg align: {source.sentence}", file=sys.stderr)
    steps = align_stack_steps(
        source,
        options.output,
        settings,
        masks=options.masks,
        landmarks=None if options.landmarks is None else read_section_landmarks(options.landmarks),
        exclude=options.exclude,
        only=options.only,
        scheduler=options.scheduler,
        workers=options.workers,
        memory=options.memory,
        resume=options.resume,
        overwrite=options.overwrite,
        keep_work=options.keep_work,
    )
    with Interrupt("Stopping after the sections at hand; --resume goes on. Ctrl+C again aborts.") as interrupt:
        result = drive(steps, interrupt, "align")
    if result.stop_reason == "stopped":
        print("stnreg align: stopped; the same command with --resume goes on.", file=sys.stderr)
        raise KeyboardInterrupt
    write_report(result)
    _tell(result)


def drive(steps: Generator[StackProgress, str | None, ReturnType], interrupt: Interrupt, name: str) -> ReturnType:
    """Run a generator of stack progress to its end with a progress bar, if there is a terminal to show it on."""
    with progress_bar(1.0, name) as bar:
        return run_to_completion(steps, partial(_show, bar), lambda: interrupt.asked)


def _show(bar: Any, progress: StackProgress) -> None:
    show(bar, progress.fraction, 1.0, f"{progress.message} {progress.done}/{progress.total}")


def read_section_landmarks(path: Path) -> dict[tuple[int, int], tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Pairs of points between sections from a CSV file.

    Raises
    ------
    InputError
        If the file has not the six columns.
    """
    table = read_table(path)
    if table.header and not set(_COLUMNS) <= set(table.header):
        raise InputError(f"'{path.name}' needs the columns {','.join(_COLUMNS)}.")
    columns = [table.header.index(name) for name in _COLUMNS] if table.header else list(range(6))
    if table.values.shape[1] < 6:
        raise InputError(f"'{path.name}' has {table.values.shape[1]} columns; it needs {','.join(_COLUMNS)}.")
    values = table.values[:, columns]
    found = {}
    for a, b in {(int(row[0]), int(row[3])) for row in values}:
        rows = values[(values[:, 0] == a) & (values[:, 3] == b)]
        found[a, b] = (rows[:, 1:3], rows[:, 4:6])
    return found


def _tell(result: StackResult) -> None:
    for line in result.summary:
        print(line)
    print(f"{result.seconds:.0f} s")
    for one in result.verdicts:
        if one.verdict != "aligned":
            print(f"section {one.section}: {one.verdict}, {one.reason}")
    print(result.path)
    for sentence in result.warnings:
        print(f"stnreg align: {sentence}", file=sys.stderr)
