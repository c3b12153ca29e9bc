"""``stnreg batch``: register many pairs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from napari_stnreg.cli.exit_code import ExitCode
from napari_stnreg.cli.options import AsSettings, Config, Output, merge_config
from napari_stnreg.cli.progress import PROGRESS, Interrupt, ProgressDisplay, logger
from napari_stnreg.core.errors import FitError, InputError
from napari_stnreg.core.progress import run_to_completion
from napari_stnreg.registration.settings import RegistrationSettings

if TYPE_CHECKING:
    from napari_stnreg.batch import BatchProgress


def batch(
    jobs: Path | None = None,
    /,
    *,
    output: Output,
    fixed: Path | None = None,
    moving: Path | None = None,
    restart: bool = False,
    accept: bool = False,
    config: Config = None,
    settings: Annotated[RegistrationSettings, AsSettings] = RegistrationSettings(),  # noqa: B008
) -> int:
    """Register many pairs of images.

    JOBS is a CSV file with the columns fixed and moving and, as needed, name, fixed_mask, moving_mask, fixed_labels,
    moving_labels, landmarks, fixed_landmarks, moving_landmarks, start_transform, and any setting for its row alone.
    Paths are relative to the file's folder. Instead of a list, --fixed and --moving name two folders whose images are
    paired by name, or one image and a folder. The output folder then holds scores.csv, summary.html and a folder for
    each pair. A pair that fails does not end the batch. The exit code is 1 if a pair could not be registered, else 3
    if a result is judged as failed. The same command again keeps what is done and continues.

    Parameters
    ----------
    jobs
        CSV file with one pair in each row.
    output
        Folder for the results.
    fixed
        Folder of fixed images, or one fixed image for all, instead of a list.
    moving
        Folder of moving images.
    restart
        Run every row again, also those that are done.
    accept
        Exit with 0 even if results are judged as failed.
    config
        JSON file of settings for all pairs. Flags win.

    Examples
    --------
    stnreg batch --fixed atlas.nii.gz --moving patients -o registered
    """
    from napari_stnreg.batch import batch_steps, pair_folders, read_jobs

    if jobs is not None and fixed is None and moving is None:
        pairs = read_jobs(jobs)
    elif jobs is None and fixed is not None and moving is not None:
        pairs = pair_folders(fixed, moving)
    else:
        raise InputError("Give either a list of pairs (JOBS), or both --fixed and --moving.")
    steps = batch_steps(pairs, output, merge_config(settings, config), restart=restart)
    answer = "Stopping. Finished pairs are kept, and the same command continues. Press Ctrl+C again to abort."
    with Interrupt(answer) as interrupt, ProgressDisplay(len(pairs), unit="pair") as display:
        result = run_to_completion(steps, partial(_show, display), lambda: interrupt.requested)
    print(result.scores)
    print(result.page)
    if result.failed:
        names = ", ".join(str(row["name"]) for row in result.failed)
        raise FitError(f"{len(result.failed)} of {len(pairs)} pairs failed: {names}.")
    if result.stop_reason == "stopped":
        logger.log(PROGRESS, "Stopped after %d of %d pairs.", len(result.rows), len(pairs))
        return ExitCode.INTERRUPTED
    if result.rejected:
        names = ", ".join(str(row["name"]) for row in result.rejected)
        logger.log(PROGRESS, "%d of %d results are judged as failed: %s.", len(result.rejected), len(pairs), names)
        return ExitCode.SUCCESS if accept else ExitCode.FAILED_VERDICT
    return ExitCode.SUCCESS


def _show(display: ProgressDisplay, step: BatchProgress) -> None:
    if step.fit is not None:
        display.update(display.position, display.total, step.name, step.fit.message)
    elif step.row is not None:
        display.update(display.position + 1, display.total, step.name)
        state = {"done": "done", "kept": "done before"}.get(step.state, f"failed: {step.row['error']}")
        verdict = step.row.get("verdict")
        display.write(f"{step.name}: {state}" + (f", {verdict}" if verdict else ""))
