"""Loss terms: image similarity, regularization of the deformation, landmarks and label overlap."""

import pkgutil
from importlib import import_module

from napari_stnreg.losses.base import Similarity
from napari_stnreg.losses.custom import CustomSimilarity, as_similarity
from napari_stnreg.losses.feature_distance import FeatureDistance
from napari_stnreg.losses.landmarks import LandmarkDistance
from napari_stnreg.losses.lncc import LocalNCC
from napari_stnreg.losses.mean_squares import MeanSquares
from napari_stnreg.losses.mind import MIND
from napari_stnreg.losses.mutual_information import MutualInformation
from napari_stnreg.losses.ncc import NormalizedCrossCorrelation
from napari_stnreg.losses.overlap import LabelOverlap, one_hot, soft_dice
from napari_stnreg.losses.registry import SIMILARITIES, make_similarity
from napari_stnreg.losses.regularization import bending_energy, diffusion, folding_penalty
from napari_stnreg.losses.weighted_sum import WeightedSum

# Every module registers its similarities, so that a new one needs no entry here.
for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "MIND",
    "SIMILARITIES",
    "CustomSimilarity",
    "FeatureDistance",
    "LabelOverlap",
    "LandmarkDistance",
    "LocalNCC",
    "MeanSquares",
    "MutualInformation",
    "NormalizedCrossCorrelation",
    "Similarity",
    "WeightedSum",
    "as_similarity",
    "bending_energy",
    "diffusion",
    "folding_penalty",
    "make_similarity",
    "one_hot",
    "soft_dice",
]
