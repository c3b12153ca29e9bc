"""Localization networks: from a pair of images to the parameters of a transform family."""

from napari_stnreg.networks.auto_encoder import AutoEncoder, Features
from napari_stnreg.networks.base import FreeParameters, LocalizationNetwork
from napari_stnreg.networks.dirnet import DIRNet
from napari_stnreg.networks.global_regression import AffineNetwork, ThinPlateNetwork
from napari_stnreg.networks.grid_generator import sampling_grid, warped
from napari_stnreg.networks.matching import MatchingNetwork
from napari_stnreg.networks.registry import LOCALIZATIONS, Network, make_network, network_names, new_network
from napari_stnreg.networks.sequential import SequentialNetwork
from napari_stnreg.networks.spatial_transformer import SpatialTransformer
from napari_stnreg.networks.unet import UNet
from napari_stnreg.networks.voxelmorph import VoxelMorph

__all__ = [
    "LOCALIZATIONS",
    "AffineNetwork",
    "AutoEncoder",
    "DIRNet",
    "Features",
    "FreeParameters",
    "LocalizationNetwork",
    "MatchingNetwork",
    "Network",
    "SequentialNetwork",
    "SpatialTransformer",
    "ThinPlateNetwork",
    "UNet",
    "VoxelMorph",
    "make_network",
    "network_names",
    "new_network",
    "sampling_grid",
    "warped",
]
