"""Spatial transforms, and the families that build them from parameters (the grid generator of a spatial transformer).

Every module of this package is imported with it, so that a transform family is added by adding one file.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from napari_stnreg.transforms.base import Transform
from napari_stnreg.transforms.bspline import BSplineFamily, BSplineTransform
from napari_stnreg.transforms.chain import ChainTransform, chain, compose
from napari_stnreg.transforms.conversion import as_displacement, collate_transforms, select_transforms
from napari_stnreg.transforms.dense import (
    DiffeomorphicFamily,
    DiffeomorphicTransform,
    DisplacementFamily,
    DisplacementTransform,
    VelocityFamily,
    VelocityTransform,
)
from napari_stnreg.transforms.family import TransformFamily
from napari_stnreg.transforms.inverse import InverseTransform, Inversion, invert
from napari_stnreg.transforms.landmark_fit import from_landmarks
from napari_stnreg.transforms.linear import (
    AffineFamily,
    AffineTransform,
    RigidFamily,
    SimilarityFamily,
    TranslationFamily,
)
from napari_stnreg.transforms.registry import family_class, make_family, transform_class
from napari_stnreg.transforms.thin_plate import ThinPlateFamily, ThinPlateTransform

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "AffineFamily",
    "AffineTransform",
    "BSplineFamily",
    "BSplineTransform",
    "ChainTransform",
    "DiffeomorphicFamily",
    "DiffeomorphicTransform",
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
    "VelocityFamily",
    "VelocityTransform",
    "as_displacement",
    "chain",
    "collate_transforms",
    "compose",
    "family_class",
    "from_landmarks",
    "invert",
    "make_family",
    "select_transforms",
    "transform_class",
]
