"""Libraries that only the exchange of files needs."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from napari_stnreg.core.errors import InputError


def needs(name: str, what: str) -> ModuleType:
    """Import a library of the extra ``exchange``.

    Raises
    ------
    InputError
        If it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f"{what} need {name}, which is not installed; pip install 'napari-stnreg[exchange]' brings it."
        ) from error
