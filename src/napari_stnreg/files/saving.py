"""Save and load transforms and models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from napari_stnreg.errors import InputError
from napari_stnreg.files import container
from napari_stnreg.files.transform_file import save_transform, transform_from
from napari_stnreg.fitting.progress import Result
from napari_stnreg.transforms import Transform

if TYPE_CHECKING:
    from napari_stnreg.learning.model import Model

ENDING = ".safetensors"


def save(what: Transform | Result | Model, path: str | os.PathLike[str]) -> Path:
    """Save a transform, a result's transform together with its report, or a trained model.

    Parameters
    ----------
    what
        A transform, what :func:`napari_stnreg.register` returned, or what :func:`napari_stnreg.train` did.
    path
        Ends in ``.safetensors``; written whole or not at all.

    Raises
    ------
    InputError
        If the ending is another one or the file cannot be written.
    """
    _check_ending(path)
    if isinstance(what, Transform):
        return save_transform(what, path)
    if isinstance(what, Result):
        return save_transform(what.transform, path, what.report())
    return what.save(path)


def load(path: str | os.PathLike[str]) -> Transform | Model:
    """Load a transform or a model that :func:`save` wrote, or a model in the box by its name.

    Parameters
    ----------
    path
        A file that ends in ``.safetensors``, or a name such as ``"box-2d"``.

    Raises
    ------
    InputError
        If the file is missing, damaged, of another kind or of a newer version; nothing in it is executed.
    """
    from napari_stnreg.learning import model_file  # a transform alone needs no networks

    source = model_file.find_model(path)
    _check_ending(source)
    header, tensors = container.read(source)
    if header["format"] == model_file.FORMAT:
        return model_file.model_from(header, tensors, source)
    return transform_from(header, tensors, source)[0]


def _check_ending(path: str | os.PathLike[str]) -> None:
    if Path(path).suffix.lower() != ENDING:
        raise InputError(f"Transforms and models are kept in files that end in {ENDING}; '{Path(path).name}' does not.")
