"""Registry of transform classes and transform families by name.

A class registers itself when it is defined, and every module of this package is imported with it. A new family is
therefore one new file here (or anywhere that is imported) with a :class:`~napari_stnreg.transforms.base.Transform` and
a :class:`~napari_stnreg.transforms.family.TransformFamily`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_stnreg.core.errors import InputError

if TYPE_CHECKING:
    from napari_stnreg.transforms.base import Transform
    from napari_stnreg.transforms.family import TransformFamily

TRANSFORMS: dict[str, type[Transform]] = {}
"""Transform classes by the name under which they are saved."""
FAMILIES: dict[str, type[TransformFamily]] = {}
"""Transform families by name."""


def transform_class(name: str) -> type[Transform]:
    """Return the class of transforms that are saved under a name.

    Raises
    ------
    InputError
        If there is none.
    """
    if name not in TRANSFORMS:
        raise InputError(f"There is no transform of family '{name}'. Known families: {', '.join(TRANSFORMS)}.")
    return TRANSFORMS[name]


def family_class(name: str) -> type[TransformFamily]:
    """Return the transform family with a name.

    Raises
    ------
    InputError
        If there is none.
    """
    if name not in FAMILIES:
        raise InputError(f"There is no transform family '{name}'. Choose from {', '.join(FAMILIES)}.")
    return FAMILIES[name]


def make_family(name: str, **options: Any) -> TransformFamily:
    """Build a transform family by name, such as ``make_family("bspline", spacing=8)``.

    Raises
    ------
    InputError
        If there is no such family, or it has no such option.
    """
    try:
        return family_class(name)(**options)
    except TypeError as error:
        raise InputError(f"The family '{name}' does not take these options: {', '.join(options)}.") from error
