"""Localization networks: from a pair of images to the parameters of a transform family."""

from napari_stnreg.networks.auto_encoder import AutoEncoder, FrozenEncoder
from napari_stnreg.networks.base import (
    NETWORKS,
    FreeParameters,
    LocalizationNetwork,
    Network,
    make_network,
    network_class,
)
from napari_stnreg.networks.custom import CustomNetwork, as_network, register_network, registered_networks
from napari_stnreg.networks.dirnet import DIRNet
from napari_stnreg.networks.global_regression import AffineNetwork, ThinPlateNetwork
from napari_stnreg.networks.grid_generator import sampling_grid, warp_batch
from napari_stnreg.networks.matching import MatchingNetwork
from napari_stnreg.networks.registry import network_names, new_network
from napari_stnreg.networks.sequential import SequentialNetwork
from napari_stnreg.networks.spatial_transformer import SpatialTransformer
from napari_stnreg.networks.unet import UNet
from napari_stnreg.networks.voxelmorph import VoxelMorph

__all__ = [
    "NETWORKS",
    "AffineNetwork",
    "AutoEncoder",
    "CustomNetwork",
    "DIRNet",
    "FreeParameters",
    "FrozenEncoder",
    "LocalizationNetwork",
    "MatchingNetwork",
    "Network",
    "SequentialNetwork",
    "SpatialTransformer",
    "ThinPlateNetwork",
    "UNet",
    "VoxelMorph",
    "as_network",
    "make_network",
    "network_class",
    "network_names",
    "new_network",
    "register_network",
    "registered_networks",
    "sampling_grid",
    "warp_batch",
]
