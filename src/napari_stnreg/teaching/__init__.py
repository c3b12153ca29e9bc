"""The spatial transformer taken apart for a class: theta, grid generator, sampler and gradient, one number at a time.

Nothing here is a second engine. Transforms, sampler and similarities are those that a registration uses; this room
only asks them the questions that a lecture asks.
"""

from napari_stnreg.teaching.gradient_descent import Descent, Gradient
from napari_stnreg.teaching.interpolation_stencil import Footprint, Neighbor, footprint
from napari_stnreg.teaching.scene import Scene
from napari_stnreg.teaching.state import ExplorerState, load_state, save_state
from napari_stnreg.teaching.theta import Parts, Theta

__all__ = [
    "Descent",
    "ExplorerState",
    "Footprint",
    "Gradient",
    "Neighbor",
    "Parts",
    "Scene",
    "Theta",
    "footprint",
    "load_state",
    "save_state",
]
