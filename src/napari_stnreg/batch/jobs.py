"""The list of a batch: a CSV file with one pair of images in each row."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from napari_stnreg.core.errors import InputError
from napari_stnreg.registration.settings import RegistrationSettings

FILES = ("fixed_mask", "moving_mask", "fixed_labels", "moving_labels", "landmarks", "fixed_landmarks",
         "moving_landmarks", "start_transform")  # fmt: skip
"""Columns that name further files; an empty cell is none."""


@dataclass(frozen=True)
class Job:
    """One pair to be registered.

    Parameters
    ----------
    name
        Of its folder among the results.
    fixed, moving
        The images.
    files
        Further files by the names in :data:`FILES`.
    settings
        What differs from the batch's settings, as it is written.
    """

    name: str
    fixed: Path
    moving: Path
    files: Mapping[str, Path] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    def file(self, name: str) -> Path | None:
        """A further file, or ``None``."""
        return self.files.get(name)

    @property
    def paths(self) -> list[Path]:
        """Every file that is read."""
        return [self.fixed, self.moving, *self.files.values()]


def read_jobs(path: str | Path) -> list[Job]:
    """Read a list of jobs.

    Parameters
    ----------
    path
        A CSV file with the columns ``fixed`` and ``moving``, and as wanted ``name``, those of :data:`FILES`, and any
        field of :class:`~napari_stnreg.registration.settings.RegistrationSettings`, for its row alone. Paths that
        are not absolute start at the file's folder.

    Raises
    ------
    InputError
        If it cannot be read, a column is unknown, a row lacks an image, or two rows have one name.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text file"
        raise InputError(f"'{path}' cannot be read: {reason}.") from error
    rows = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    columns = [name.strip().lower() for name in rows.fieldnames or []]
    rows.fieldnames = columns
    _check_columns(columns, path.name)
    jobs: list[Job] = []
    for number, cells in enumerate(rows, start=1):
        row = {name: (value or "").strip() for name, value in cells.items() if isinstance(name, str)}
        if not any(row.values()) or next(iter(row.values())).startswith("#"):
            continue
        if None in cells:
            raise InputError(f"Row {number} of '{path.name}' has more cells than there are columns.")
        if not row["fixed"] or not row["moving"]:
            missing = "fixed" if not row["fixed"] else "moving"
            raise InputError(f"Row {number} of '{path.name}' names no {missing} image.")
        places = {name: path.parent / row[name] for name in ("fixed", "moving", *FILES) if row.get(name)}
        name = row.get("name") or f"{number:04d}_{_stem(places['moving'])}_to_{_stem(places['fixed'])}"
        settings = {key: row[key] for key in RegistrationSettings.model_fields if row.get(key)}
        files = {key: place for key, place in places.items() if key in FILES}
        jobs.append(Job(folder_name(name), places["fixed"], places["moving"], files, settings))
    if not jobs:
        raise InputError(f"'{path.name}' lists no pairs.")
    names = [job.name for job in jobs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"Two rows of '{path.name}' have the name '{twice}'; each needs its own.")
    return jobs


def folder_name(name: str) -> str:
    """A name that every system takes as a folder's."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("._") or "pair"


def _check_columns(columns: list[str], name: str) -> None:
    known = {"fixed", "moving", "name", *FILES, *RegistrationSettings.model_fields}
    if not {"fixed", "moving"} <= set(columns):
        raise InputError(f"'{name}' must have the columns fixed and moving.")
    for column in columns:
        if column not in known:
            raise InputError(
                f"'{name}' has a column '{column}', which means nothing here; known are fixed, moving, name, "
                f"{', '.join(FILES)}, and the settings, such as family."
            )
    if len(set(columns)) < len(columns):
        raise InputError(f"'{name}' has two columns of one name.")


def _stem(path: Path) -> str:
    return path.name.split(".")[0]
