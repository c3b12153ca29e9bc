"""``stnreg batch``: many pairs from a list."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from tqdm import tqdm

from napari_stnreg.batch import BatchProgress, batch_steps, read_jobs
from napari_stnreg.cli.running import Interrupt, progress_bar
from napari_stnreg.cli.setting_options import written_settings
from napari_stnreg.core.errors import FitError
from napari_stnreg.core.progress import run_to_completion
from napari_stnreg.registration.settings import RegistrationSettings


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
    steps = batch_steps(jobs, options.output, written_settings(RegistrationSettings, options), restart=options.restart)
    answer = "Stopping: what is done is kept, and the same command goes on from there. Ctrl+C again aborts."
    with Interrupt(answer) as interrupt, progress_bar(len(jobs), layout=None, unit="pair") as bar:
        result = run_to_completion(steps, partial(_show, bar), lambda: interrupt.asked)
    print(result.scores)
    print(result.page)
    if result.stop_reason == "stopped":
        print(f"stnreg batch: stopped after {len(result.rows)} of {len(jobs)} pairs.", file=sys.stderr)
    if result.failed:
        names = ", ".join(str(row["name"]) for row in result.failed)
        raise FitError(f"{len(result.failed)} of {len(jobs)} pairs failed: {names}.")


def _show(bar: tqdm[None], step: BatchProgress) -> None:
    if step.fit is not None:
        bar.set_description(step.name, refresh=False)
        bar.set_postfix_str(step.fit.message, refresh=True)
    elif step.row is not None:
        bar.update(1)
        word = {"done": "done", "kept": "done before"}.get(step.state, f"failed: {step.row['error']}")
        bar.write(f"{step.name}: {word}", file=sys.stdout)
