"""Pairs of a batch from folders that a person chose, instead of from a list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari_stnreg.core.errors import InputError


def pairs_of(fixed: str, moving: str) -> list[Any]:
    """Jobs for the images of a folder.

    Parameters
    ----------
    fixed
        One image, to which all are registered, or a folder: then files of the same name belong together, or, if no
        names agree and both folders hold equally many, those at the same place in the order of their names.
    moving
        A folder, or one image.

    Returns
    -------
    list of Job

    Raises
    ------
    InputError
        If a folder has no images, or the pairs cannot be told.
    """
    from napari_stnreg.batch import Job
    from napari_stnreg.batch.jobs import folder_name

    here, there = _images(fixed, "fixed"), _images(moving, "moving")
    if len(here) == 1:
        pairs = [(here[0], one) for one in there if one.resolve() != here[0].resolve()]
    else:
        by_name = {_stem(one): one for one in here}
        pairs = [(by_name[_stem(one)], one) for one in there if _stem(one) in by_name]
        if not pairs and len(here) == len(there):
            pairs = list(zip(here, there, strict=True))
    if not pairs:
        raise InputError(
            f"The folders hold {len(here)} fixed and {len(there)} moving images with no name in common; give equal "
            "names, equally many, or one fixed image for all."
        )
    names = _unique([folder_name(_stem(one)) for _, one in pairs])
    return [Job(name, a, b) for name, (a, b) in zip(names, pairs, strict=True)]


def _unique(names: Sequence[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{number:04d}_{name}" for number, name in enumerate(names, start=1)]


def _images(path: str, side: str) -> list[Path]:
    from napari_stnreg.io.image import suffix_of

    where = Path(path)
    if not path or not where.exists():
        raise InputError(f"There is no {side} image or folder '{path}'.")
    if where.is_file():
        return [where]
    found = []
    for one in sorted(where.iterdir()):
        try:
            suffix_of(one)
        except InputError:
            continue
        if one.is_file() and not one.name.startswith("."):
            found.append(one)
    if not found:
        raise InputError(f"The {side} folder '{where}' holds no images that can be read.")
    return found


def _stem(path: Path) -> str:
    return path.name.split(".")[0]
