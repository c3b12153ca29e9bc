"""Spatial transforms, and the families that make them from parameters (the grid generator of a spatial transformer)."""

from __future__ import annotations

from typing import Any

from napari_stnreg.core.errors import InputError
from napari_stnreg.transforms.base import Transform
from napari_stnreg.transforms.bspline import BSplineFamily, BSplineTransform
from napari_stnreg.transforms.chain import ChainTransform, chain
from napari_stnreg.transforms.conversion import as_displacement, compose, linear_matrix, with_unit
from napari_stnreg.transforms.dense import DisplacementTransform, VelocityTransform
from napari_stnreg.transforms.families.base import TransformFamily
from napari_stnreg.transforms.families.dense import DiffeomorphicFamily, DisplacementFamily
from napari_stnreg.transforms.families.linear import AffineFamily, RigidFamily, SimilarityFamily, TranslationFamily
from napari_stnreg.transforms.inverse import InverseTransform, solver_warning
from napari_stnreg.transforms.inversion import Inversion, invert
from napari_stnreg.transforms.landmark_fit import from_landmarks
from napari_stnreg.transforms.linear import AffineTransform
from napari_stnreg.transforms.thin_plate import ThinPlateFamily, ThinPlateTransform

__all__ = [
    "AffineFamily",
    "AffineTransform",
    "BSplineFamily",
    "BSplineTransform",
    "ChainTransform",
    "DiffeomorphicFamily",
    "DisplacementFamily",
    "DisplacementTransform",
    "InverseTransform",
    "Inversion",
    "RigidFamily",
    "SimilarityFamily",
    "ThinPlateFamily",
    "ThinPlateTransform",
    "Transform",
    "TransformFamily",
    "TranslationFamily",
    "VelocityTransform",
    "as_displacement",
    "chain",
    "compose",
    "from_landmarks",
    "invert",
    "linear_matrix",
    "make_family",
    "solver_warning",
    "transform_class",
    "with_unit",
]

_TRANSFORMS: dict[str, type[Transform]] = {
    cls.family: cls
    for cls in (
        AffineTransform,
        BSplineTransform,
        ThinPlateTransform,
        DisplacementTransform,
        VelocityTransform,
        ChainTransform,
        InverseTransform,
    )
}
_FAMILIES: dict[str, type[TransformFamily]] = {
    cls.name: cls
    for cls in (
        TranslationFamily,
        RigidFamily,
        SimilarityFamily,
        AffineFamily,
        BSplineFamily,
        ThinPlateFamily,
        DisplacementFamily,
        DiffeomorphicFamily,
    )
}


def transform_class(family: str) -> type[Transform]:
    """The class that holds transforms of a family, by the name it is saved under.

    Raises
    ------
    InputError
        If there is none.
    """
    if family not in _TRANSFORMS:
        raise InputError(f"There is no transform of family '{family}'; known are {', '.join(_TRANSFORMS)}.")
    return _TRANSFORMS[family]


def make_family(name: str, **options: Any) -> TransformFamily:
    """A transform family by name, such as ``make_family("bspline", spacing=8)``.

    Raises
    ------
    InputError
        If there is no such family, or it does not know an option.
    """
    if name not in _FAMILIES:
        raise InputError(f"There is no transform family '{name}'; choose from {', '.join(_FAMILIES)}.")
    try:
        return _FAMILIES[name](**options)
    except TypeError as error:
        raise InputError(f"The family '{name}' does not take these options: {', '.join(options)}.") from error
