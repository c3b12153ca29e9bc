"""Similarities by name. Every module of this package is imported here, so that its similarities are registered."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path
from typing import Any

from napari_stnreg.core.errors import InputError
from napari_stnreg.losses.similarity import SIMILARITIES, Similarity

for _module in pkgutil.iter_modules([str(Path(__file__).parent)]):
    import_module(f"napari_stnreg.losses.{_module.name}")


def make_similarity(name: str, **options: Any) -> Similarity:
    """Make a similarity by name.

    Parameters
    ----------
    name
        A key of :data:`~napari_stnreg.losses.similarity.SIMILARITIES`.
    **options
        Passed to its constructor.

    Raises
    ------
    InputError
        If there is no such similarity or it has no such option.
    """
    if name not in SIMILARITIES:
        raise InputError(f"There is no similarity '{name}'; choose one of {', '.join(sorted(SIMILARITIES))}.")
    try:
        return SIMILARITIES[name](**options)
    except TypeError as error:
        raise InputError(f"The similarity '{name}' cannot be made with {options}: {error}.") from error
