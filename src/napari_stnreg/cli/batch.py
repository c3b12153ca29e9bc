"""``stnreg batch``: many pairs from a list."""

from __future__ import annotations

import argparse
import shutil
import sys
from contextlib import closing

from tqdm import tqdm

from napari_stnreg.batch import BatchProgress, BatchResult, batch_steps, read_jobs
from napari_stnreg.cli.options import settings_of
from napari_stnreg.cli.register import Interrupt
from napari_stnreg.errors import FitError


def run(options: argparse.Namespace) -> None:
    """Do what was asked; see ``stnreg batch --help``.

    Raises
    ------
    InputError
        If the list, the folder or a setting cannot be used.
    FitError
        If rows failed; all others are done.
    """
    jobs = read_jobs(options.jobs)
    steps = batch_steps(jobs, options.output, settings_of(options), restart=options.restart)
    answer = "Stopping: what is done is kept, and the same command goes on from there. Ctrl+C again aborts."
    with Interrupt(answer) as interrupt, _bar(len(jobs)) as bar, closing(steps):
        try:
            step = next(steps)
            while True:
                _show(bar, step)
                step = steps.send("stop" if interrupt.asked else None)
        except StopIteration as end:
            result: BatchResult = end.value
    print(result.scores)
    print(result.page)
    if result.ending == "stopped":
        print(f"stnreg batch: stopped after {len(result.rows)} of {len(jobs)} pairs.", file=sys.stderr)
    if result.failed:
        names = ", ".join(str(row["name"]) for row in result.failed)
        raise FitError(f"{len(result.failed)} of {len(jobs)} pairs failed: {names}.")


def _bar(count: int) -> tqdm[None]:
    width, height = shutil.get_terminal_size()
    quiet = not sys.stderr.isatty()
    return tqdm(total=count, disable=quiet, file=sys.stderr, ncols=width, nrows=height, unit="pair")


def _show(bar: tqdm[None], step: BatchProgress) -> None:
    if step.fit is not None:
        bar.set_description(step.name, refresh=False)
        bar.set_postfix_str(step.fit.message, refresh=True)
    elif step.row is not None:
        bar.update(1)
        word = {"done": "done", "kept": "done before"}.get(step.state, f"failed: {step.row['error']}")
        bar.write(f"{step.name}: {word}", file=sys.stdout)
