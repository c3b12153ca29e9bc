"""What a registration lowers: similarity of the images, regularity of the deformation, landmarks and labels."""

from napari_stnreg.objectives.blend import Blend
from napari_stnreg.objectives.features import FeatureDistance
from napari_stnreg.objectives.intensity import MeanSquares, NormalizedCrossCorrelation
from napari_stnreg.objectives.landmarks import LandmarkDistance
from napari_stnreg.objectives.lncc import LocalNCC
from napari_stnreg.objectives.mind import Mind
from napari_stnreg.objectives.mutual_information import MutualInformation
from napari_stnreg.objectives.overlap import LabelOverlap, one_hot, soft_dice
from napari_stnreg.objectives.registry import SIMILARITIES, make_similarity
from napari_stnreg.objectives.regularity import bending_energy, diffusion, folding_penalty, jacobian_determinant
from napari_stnreg.objectives.similarity import Similarity

__all__ = [
    "SIMILARITIES",
    "Blend",
    "FeatureDistance",
    "LabelOverlap",
    "LandmarkDistance",
    "LocalNCC",
    "MeanSquares",
    "Mind",
    "MutualInformation",
    "NormalizedCrossCorrelation",
    "Similarity",
    "bending_energy",
    "diffusion",
    "folding_penalty",
    "jacobian_determinant",
    "make_similarity",
    "one_hot",
    "soft_dice",
]
