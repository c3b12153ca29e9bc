"""Run a batch: register pair after pair, continue past failures, and resume an earlier run."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from napari_stnreg.batch.jobs import Job
from napari_stnreg.batch.report import write_pictures, write_summary
from napari_stnreg.core.atomic_io import write_json, write_text
from napari_stnreg.core.errors import InputError, RegistrationError
from napari_stnreg.core.image import Image
from napari_stnreg.core.output_guard import check_output
from napari_stnreg.core.progress import map_progress
from napari_stnreg.evaluation.scorecard import evaluate
from napari_stnreg.io.frames import labels_for
from napari_stnreg.io.image import read_image, result_suffix
from napari_stnreg.io.points import read_landmarks
from napari_stnreg.io.series import placed_as, write_or_tiff
from napari_stnreg.io.transform_io import load_transform, save
from napari_stnreg.registration.api import register_steps
from napari_stnreg.registration.result import Progress, Result
from napari_stnreg.registration.settings import RegistrationSettings
from napari_stnreg.resampling.masks import read_mask

if TYPE_CHECKING:
    from napari_stnreg.models.model import Model

State = Literal["fitting", "done", "failed", "kept"]
Row = dict[str, Any]

MARKER = "batch.json"
_FORMAT = "napari-stnreg batch"
_ROW = "row.json"
_PAGE_EVERY = 30.0
"""Seconds between two writings of the summary page, which grows with the rows."""
_FIRST = ("name", "state", "verdict", "confidence", "seconds", "error")
_LAST = ("reasons", "warnings")


@dataclass(frozen=True)
class BatchProgress:
    """One step of a running batch.

    Parameters
    ----------
    job, jobs
        Which row, from 0, of how many.
    name
        Of the row.
    state
        ``"fitting"`` while a fit runs; ``"done"``, ``"failed"`` or ``"kept"`` (done by an earlier run) once for every
        row.
    fit
        The fit's own progress.
    row
        The row of the table, when it is finished.
    """

    job: int
    jobs: int
    name: str
    state: State
    fit: Progress | None = None
    row: Row | None = None


@dataclass(frozen=True)
class BatchResult:
    """Result of a batch.

    Parameters
    ----------
    rows
        One for every job that was finished: ``name``, ``state``, ``seconds``, ``error``, ``verdict``, ``confidence``,
        ``reasons``, and scores by name.
    scores, page
        The table and the page.
    stop_reason
        ``"finished"``, or ``"stopped"`` by hand.
    """

    rows: list[Row]
    scores: Path
    page: Path
    stop_reason: Literal["finished", "stopped"] = "finished"

    @property
    def failed(self) -> list[Row]:
        """The rows of failed pairs."""
        return [row for row in self.rows if row["state"] == "failed"]

    @property
    def rejected(self) -> list[Row]:
        """The rows of pairs that were registered and whose result is judged as failed."""
        return [row for row in self.rows if row["state"] != "failed" and row.get("verdict") == "failed"]


BatchSteps = Generator[BatchProgress, "str | None", BatchResult]


def batch_steps(
    jobs: Sequence[Job],
    output: str | Path,
    settings: RegistrationSettings | None = None,
    *,
    restart: bool = False,
    **options: Any,
) -> BatchSteps:
    """Register every pair of a list; a generator that yields :class:`BatchProgress` and returns :class:`BatchResult`.

    Each pair gets a folder with the warped image, ``transform.safetensors``, ``report.json`` and pictures.
    ``scores.csv`` is written after every row, ``summary.html`` from time to time and at the end. A row that fails
    states why and the next begins. In a folder where a batch ran before, rows that are done, of the same files and
    settings, are kept; all others are run. Sending ``"stop"`` ends the batch: the pair that is being fitted is left for
    the next time.

    Parameters
    ----------
    jobs
        See :func:`~napari_stnreg.batch.read_jobs`.
    output
        Folder of the results; a new or empty one, or that of an earlier batch.
    settings
        For all pairs, a model among them; or give the fields in ``options``. A job's own settings go before them.
    restart
        Run every row again.

    Raises
    ------
    InputError
        If the folder holds something else, or a setting is wrong.
    """
    base = RegistrationSettings.merge(settings, options)
    # Settings are validated before anything is computed.
    each = [RegistrationSettings.parse(**{**base.model_dump(exclude_unset=True), **job.settings}) for job in jobs]
    folder = _open_folder(output, jobs)
    rows: list[Row] = []
    models: dict[str, Model] = {}
    table, page = folder / "scores.csv", folder / "summary.html"
    last_page = time.monotonic()
    stopped = False
    for number, (job, chosen) in enumerate(zip(jobs, each, strict=True)):
        mark = _fingerprint(job, chosen)
        row = None if restart else _kept(folder / job.name, mark)
        state: State = "kept" if row is not None else "done"
        if row is None:
            attempt = _attempt(job, chosen, folder / job.name, models)
            row = yield from map_progress(attempt, partial(BatchProgress, number, len(jobs), job.name, "fitting"))
            if row is None:
                stopped = True
                break
            state = row["state"]
            _remember(folder / job.name, mark, row)
        rows.append(row)
        write_text(table, _table(rows))
        if time.monotonic() - last_page > _PAGE_EVERY:
            write_summary(page, rows, folder, base, total=len(jobs))
            last_page = time.monotonic()
        told = yield BatchProgress(number, len(jobs), job.name, state, row=row)
        if told == "stop" and number + 1 < len(jobs):
            stopped = True
            break
    write_text(table, _table(rows))
    write_summary(page, rows, folder, base, total=len(jobs))
    return BatchResult(rows, table, page, "stopped" if stopped else "finished")


def is_batch_folder(folder: Path) -> bool:
    """Return whether a folder holds the results of a batch."""
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return bool(found["format"] == _FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _open_folder(output: str | Path, jobs: Sequence[Job]) -> Path:
    folder = Path(output)
    check_output(
        folder, [path for job in jobs for path in job.paths], overwrite=True, folder=True, is_ours=is_batch_folder
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder '{folder}' cannot be created: {error.strerror or error}.") from error
    write_json(folder / MARKER, {"format": _FORMAT, "version": 1})
    return folder


def _fingerprint(job: Job, settings: RegistrationSettings) -> str:
    """Return a hash of what a row depends on: its settings, and the names, sizes and times of its files."""
    told = settings.model_dump(exclude={"device"})
    paths = list(job.paths)
    if settings.model is not None and Path(settings.model).suffix:
        paths.append(Path(settings.model))
    files = []
    for path in paths:
        stat = path.stat() if path.exists() else None
        files.append([str(path.resolve()), stat and stat.st_size, stat and stat.st_mtime_ns])
    return hashlib.sha256(json.dumps([told, files], sort_keys=True, default=str).encode()).hexdigest()


def _kept(folder: Path, mark: str) -> Row | None:
    """Return the row of an earlier run if it was made with the same files and settings."""
    try:
        content = json.loads((folder / _ROW).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    row = content.get("row") if isinstance(content, dict) and content.get("fingerprint") == mark else None
    good = isinstance(row, dict) and row.get("state") == "done" and (folder / "transform.safetensors").is_file()
    return row if good else None


def _remember(folder: Path, mark: str, row: Row) -> None:
    try:
        folder.mkdir(exist_ok=True)
        write_json(folder / _ROW, {"fingerprint": mark, "row": row})
    except OSError as error:
        raise InputError(f"The folder '{folder}' cannot be written to: {error.strerror or error}.") from error


def _attempt(
    job: Job, settings: RegistrationSettings, folder: Path, models: dict[str, Model]
) -> Generator[Progress, str | None, Row | None]:
    """Return the row of a pair, failed or not; ``None`` if the batch was stopped."""
    began = time.perf_counter()
    row: Row = {"name": job.name, "state": "done", "seconds": 0.0, "error": ""}
    try:
        with closing(_one(job, settings, folder, models)) as work:
            while True:
                if (yield next(work)) == "stop":
                    return None
    except StopIteration as end:
        row |= end.value
    except Exception as error:  # a failed pair must not end the batch
        sentence = str(error) if isinstance(error, RegistrationError) else f"{type(error).__name__}: {error}"
        row |= {"state": "failed", "error": sentence}
    return row | {"seconds": time.perf_counter() - began}


def _one(
    job: Job, settings: RegistrationSettings, folder: Path, models: dict[str, Model]
) -> Generator[Progress, None, Row]:
    """Register one pair and write what it gave; returns the scores of its row."""
    fixed, moving, known = _inputs(job)
    model = _model(settings, models)
    steps = register_steps(fixed, moving, settings, model=model, **known["register"])
    with closing(steps):
        try:
            while True:
                yield next(steps)
        except StopIteration as end:
            result: Result = end.value
    card = evaluate(fixed, moving, result, **known["evaluate"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _ROW).unlink(missing_ok=True)  # what is written from here on belongs to a row that is not done yet
    image = placed_as(result.warped, fixed.metadata)
    warped, note = write_or_tiff(folder / ("warped" + result_suffix(job.moving)), [image])
    save(result, folder / "transform.safetensors")
    warnings = [*result.warnings, *card.warnings, *([] if note is None else [note])]
    report = {**result.report(), "scorecard": card.to_dict(), "warped": warped.name, "warnings": warnings}
    report["inputs"] = {"fixed": str(job.fixed), "moving": str(job.moving)} | {k: str(v) for k, v in job.files.items()}
    write_json(folder / "report.json", report)
    write_pictures(folder, fixed, moving, result, settings)
    judged = {"verdict": result.verdict, "confidence": result.confidence, "reasons": " ".join(result.reasons)}
    return {**judged, **card.row(), "fit_seconds": result.seconds, "warnings": " ".join(dict.fromkeys(warnings))}


def _inputs(job: Job) -> tuple[Image, Image, Mapping[str, dict[str, Any]]]:
    images = {}
    for side, path in (("fixed", job.fixed), ("moving", job.moving)):
        image = read_image(path)
        mask = job.file(f"{side}_mask")
        images[side] = image if mask is None else image.replace(mask=read_mask(mask, image, 0))
    fixed, moving = images["fixed"], images["moving"]
    points = read_landmarks(
        job.file("landmarks"),
        job.file("fixed_landmarks"),
        job.file("moving_landmarks"),
        fixed.ndim,
        fixed_image=fixed,
        moving_image=moving,
    )
    landmarks = dict(zip(("fixed_landmarks", "moving_landmarks"), points, strict=True))
    start = job.file("start_transform")
    first = None if start is None else load_transform(start, fixed=fixed, moving=moving).with_unit(fixed.grid.unit)
    labels = {
        name: labels_for(job.file(name), images[name.split("_")[0]]) for name in ("fixed_labels", "moving_labels")
    }
    return fixed, moving, {
        "register": {**landmarks, "start_transform": first},
        "evaluate": {**landmarks, **labels},
    }  # fmt: skip


def _model(settings: RegistrationSettings, models: dict[str, Model]) -> Model | None:
    if settings.model is None:
        return None
    if settings.model not in models:
        from napari_stnreg.models.model_file import load_model  # most batches need no network

        models[settings.model] = load_model(settings.model)
    return models[settings.model]


def _table(rows: Sequence[Row]) -> str:
    columns = list(dict.fromkeys([*_FIRST, *(name for row in rows for name in row)]))
    columns = [name for name in columns if name not in _LAST] + [name for name in _LAST if name in columns]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: f"{v:.6g}" if isinstance(v, float) else v for name, v in row.items() if v is not None})
    return stream.getvalue()
