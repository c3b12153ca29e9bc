"""The parts of a spatial transformer for teaching: theta, grid generator, sampler and gradient.

Transforms, sampler and similarities are those of the registrations.
"""

from napari_stnreg.teaching.gradient_descent import Gradient, GradientDescent
from napari_stnreg.teaching.interpolation_stencil import InterpolationStencil, Neighbor, interpolation_stencil
from napari_stnreg.teaching.scene import Scene
from napari_stnreg.teaching.state import ExplorerState, load_state, save_state
from napari_stnreg.teaching.theta import AffineParameters, Theta

__all__ = [
    "AffineParameters",
    "ExplorerState",
    "Gradient",
    "GradientDescent",
    "InterpolationStencil",
    "Neighbor",
    "Scene",
    "Theta",
    "interpolation_stencil",
    "load_state",
    "save_state",
]
