"""The pairs of a batch, from a CSV file with one pair in each row or from two folders."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from napari_stnreg.core.errors import InputError
from napari_stnreg.io.formats import is_image_path, is_zarr
from napari_stnreg.io.image import suffix_of
from napari_stnreg.registration.settings import RegistrationSettings

FILES = ("fixed_mask", "moving_mask", "fixed_labels", "moving_labels", "landmarks", "fixed_landmarks",
         "moving_landmarks", "start_transform")  # fmt: skip
"""Columns that name further files; an empty cell is none."""


@dataclass(frozen=True)
class Job:
    """One pair of images to register.

    Parameters
    ----------
    name
        Name of the pair's folder in the output folder.
    fixed, moving
        Image files.
    files
        Masks, labels, landmarks and start transform, by the names in :data:`FILES`.
    settings
        Settings of this pair alone, as text; they win over the settings of the batch.
    """

    name: str
    fixed: Path
    moving: Path
    files: Mapping[str, Path] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    def file(self, name: str) -> Path | None:
        """Return the file of a name in :data:`FILES`, or ``None``."""
        return self.files.get(name)

    @property
    def paths(self) -> list[Path]:
        """All input files of the pair."""
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
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
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
            raise InputError(f"Row {number} of '{path.name}' has no {missing} image.")
        places = {name: path.parent / row[name] for name in ("fixed", "moving", *FILES) if row.get(name)}
        name = row.get("name") or f"{number:04d}_{_stem(places['moving'])}_to_{_stem(places['fixed'])}"
        settings = {key: row[key] for key in RegistrationSettings.model_fields if row.get(key)}
        files = {key: place for key, place in places.items() if key in FILES}
        jobs.append(Job(_folder_name(name), places["fixed"], places["moving"], files, settings))
    if not jobs:
        raise InputError(f"'{path.name}' lists no pairs.")
    names = [job.name for job in jobs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"Two rows of '{path.name}' have the name '{twice}'. Give each row its own name.")
    return jobs


def pair_folders(fixed: str | Path, moving: str | Path) -> list[Job]:
    """Pair the images of two folders.

    Images of equal names are paired. If no names agree and both folders hold the same number of images, they are paired
    in the order of their names. A single fixed or moving image is paired with every image of the other folder.

    Parameters
    ----------
    fixed, moving
        A folder, or one image.

    Raises
    ------
    InputError
        If a path does not exist, a folder holds no images, or a moving image has no unique fixed image.
    """
    fixed_images, moving_images = _list_images(fixed, "fixed"), _list_images(moving, "moving")
    if _is_single(fixed) or _is_single(moving):
        pairs = [(a, b) for a in fixed_images for b in moving_images if a.resolve() != b.resolve()]
    else:
        by_name: dict[str, list[Path]] = {}
        for image in fixed_images:
            by_name.setdefault(_stem(image), []).append(image)
        unmatched = [image for image in moving_images if len(by_name.get(_stem(image), [])) != 1]
        if not unmatched:
            pairs = [(by_name[_stem(image)][0], image) for image in moving_images]
        elif not any(_stem(image) in by_name for image in moving_images) and len(fixed_images) == len(moving_images):
            pairs = list(zip(fixed_images, moving_images, strict=True))
        else:
            raise InputError(
                f"The folders hold {len(fixed_images)} fixed and {len(moving_images)} moving images, and "
                f"'{unmatched[0].name}' has no fixed image of its own name. Use equal names, equal numbers of images, "
                "or one fixed image for all."
            )
    if not pairs:
        raise InputError(f"'{moving}' holds no image other than the fixed one.")
    several_fixed = _is_single(moving) and not _is_single(fixed)
    names = [_folder_name(_stem(a if several_fixed else b)) for a, b in pairs]
    unique = [n if names.count(n) == 1 else f"{number:04d}_{n}" for number, n in enumerate(names, start=1)]
    return [Job(name, a, b) for name, (a, b) in zip(unique, pairs, strict=True)]


def _list_images(path: str | Path, side: str) -> list[Path]:
    """Return the image at a path, or the images in a folder in the order of their names."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"The {side} image or folder '{path}' does not exist.")
    if _is_single(path):
        return [path]
    found = [one for one in sorted(path.iterdir()) if is_image_path(one)]
    if not found:
        raise InputError(f"The {side} folder '{path}' holds no images that can be read.")
    return found


def _is_single(path: str | Path) -> bool:
    """Return whether a path is one image: a file, or a Zarr image."""
    return Path(path).is_file() or is_zarr(Path(path))


def _suffix(path: Path) -> str:
    """Return the suffix of an image file, and an empty string for any other file."""
    try:
        return suffix_of(path)
    except InputError:
        return ""


def _folder_name(name: str) -> str:
    """Replace the characters that are not valid in folder names on every system."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("._") or "pair"


def _check_columns(columns: list[str], name: str) -> None:
    known = {"fixed", "moving", "name", *FILES, *RegistrationSettings.model_fields}
    if not {"fixed", "moving"} <= set(columns):
        raise InputError(f"'{name}' must have the columns fixed and moving.")
    for column in columns:
        if column not in known:
            raise InputError(
                f"'{name}' has a column '{column}', which is not supported. Columns are fixed, moving, name, "
                f"{', '.join(FILES)}, and the settings, such as family."
            )
    if len(set(columns)) < len(columns):
        raise InputError(f"'{name}' has two columns with the same name.")


def _stem(path: Path) -> str:
    return path.name[: -len(_suffix(path)) or None]
