"""Save and load transforms by the ending of the file's name."""

from __future__ import annotations

import os
from pathlib import Path

from napari_stnreg.errors import InputError
from napari_stnreg.files.transform_file import load_transform, save_transform
from napari_stnreg.fitting.progress import Result
from napari_stnreg.transforms import Transform

ENDING = ".safetensors"


def save(what: Transform | Result, path: str | os.PathLike[str]) -> Path:
    """Save a transform, or a result's transform together with its report.

    Parameters
    ----------
    what
        A transform, or what :func:`napari_stnreg.register` returned.
    path
        Ends in ``.safetensors``; written whole or not at all.

    Raises
    ------
    InputError
        If the ending is another one or the file cannot be written.
    """
    _check_ending(path)
    if isinstance(what, Result):
        return save_transform(what.transform, path, what.report())
    return save_transform(what, path)


def load(path: str | os.PathLike[str]) -> Transform:
    """Load a transform that :func:`save` wrote.

    Raises
    ------
    InputError
        If the file is missing, damaged, of another kind or of a newer version; nothing in it is executed.
    """
    _check_ending(path)
    return load_transform(path)[0]


def _check_ending(path: str | os.PathLike[str]) -> None:
    if Path(path).suffix.lower() != ENDING:
        raise InputError(f"Transforms are kept in files that end in {ENDING}; '{Path(path).name}' does not.")
