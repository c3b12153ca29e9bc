"""Loss terms: image similarity, regularization of the deformation, landmarks and label overlap."""

from napari_stnreg.losses.feature_distance import FeatureDistance
from napari_stnreg.losses.landmarks import LandmarkDistance
from napari_stnreg.losses.lncc import LocalNCC
from napari_stnreg.losses.mind import MIND
from napari_stnreg.losses.mse_ncc import MeanSquares, NormalizedCrossCorrelation
from napari_stnreg.losses.mutual_information import MutualInformation
from napari_stnreg.losses.overlap import LabelOverlap, one_hot, soft_dice
from napari_stnreg.losses.registry import make_similarity
from napari_stnreg.losses.regularization import bending_energy, diffusion, folding_penalty
from napari_stnreg.losses.similarity import SIMILARITIES, Similarity
from napari_stnreg.losses.weighted_sum import WeightedSum

__all__ = [
    "MIND",
    "SIMILARITIES",
    "FeatureDistance",
    "LabelOverlap",
    "LandmarkDistance",
    "LocalNCC",
    "MeanSquares",
    "MutualInformation",
    "NormalizedCrossCorrelation",
    "Similarity",
    "WeightedSum",
    "bending_energy",
    "diffusion",
    "folding_penalty",
    "make_similarity",
    "one_hot",
    "soft_dice",
]
