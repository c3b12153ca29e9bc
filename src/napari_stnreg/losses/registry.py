"""Registry of similarities by name.

A similarity is added by one module of this package (see :mod:`~napari_stnreg.losses.base`). It registers itself when
its class is defined, and every module of this package is imported with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_stnreg.core.errors import InputError

if TYPE_CHECKING:
    from napari_stnreg.losses.base import Similarity

SIMILARITIES: dict[str, type[Similarity]] = {}
"""Every similarity that can be chosen by name."""


def make_similarity(name: str, **options: Any) -> Similarity:
    """Make a similarity by name.

    Parameters
    ----------
    name
        A key of :data:`~napari_stnreg.losses.registry.SIMILARITIES`.
    **options
        Passed to its constructor.

    Raises
    ------
    InputError
        If there is no such similarity or it has no such option.
    """
    if name not in SIMILARITIES:
        raise InputError(f"There is no similarity '{name}'. Choose one of {', '.join(sorted(SIMILARITIES))}.")
    try:
        return SIMILARITIES[name](**options)
    except TypeError as error:
        raise InputError(f"The similarity '{name}' cannot be made with {options}: {error}.") from error
