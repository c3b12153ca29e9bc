"""The gradient of a loss with respect to theta, as arrows, and one step of descent at a time, forwards and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray
from napari_stnreg.losses.registry import make_similarity
from napari_stnreg.ops.filters import gaussian
from napari_stnreg.ops.interpolation import sample
from napari_stnreg.teaching.scene import Scene

_HALVINGS = 12


@dataclass(frozen=True)
class Gradient:
    """How the loss changes with the parameters.

    Parameters
    ----------
    loss
        Mean squared difference of output and goal, in units where the goal's spread is 1.
    gradient
        Of the loss with respect to the family's parameters.
    nodes, arrows
        Places on the input, ``(N, 2)``, and where downhill takes them, ``(N, 2)``, scaled to 1 pixel for the one that
        moves furthest: control points where the family has them, else the nodes of the sampling grid.
    """

    loss: float
    gradient: Tensor
    nodes: FloatArray
    arrows: FloatArray

    @property
    def flat(self) -> bool:
        """Whether no direction leads downhill, as with the integer kernel."""
        return not bool(self.arrows.any())


class Descent:
    """Gradient descent on a scene toward a goal.

    Parameters
    ----------
    scene
        Its state is changed by :meth:`step` and :meth:`back`.
    goal
        What the output should look like: a picture of the input's shape.
    smoothing
        Standard deviation in pixels by which input and goal are blurred before they are compared: 0 for the plain
        loss; more sees further and less sharply, as the coarse levels of a pyramid do.

    Raises
    ------
    InputError
        If the goal has another shape than the input.
    """

    def __init__(self, scene: Scene, goal: npt.ArrayLike, smoothing: float = 0.0) -> None:
        target = np.asarray(goal, dtype=np.float32)
        if target.shape != scene.image.shape:
            raise InputError(f"The goal's shape {target.shape} is not the input's {scene.image.shape}.")
        channels = target[None] if target.ndim == 2 else np.moveaxis(target, -1, 0)
        wanted = torch.from_numpy(np.ascontiguousarray(channels))[None]
        spread = float(wanted.std()) or 1.0
        self._moving, wanted = scene.tensor / spread, wanted / spread
        if smoothing > 0:
            sigmas = [smoothing, smoothing]
            self._moving = gaussian(self._moving, sigmas, edge="nearest")
            wanted = gaussian(wanted, sigmas, edge="nearest")
        self._similarity = make_similarity("mse")
        self._similarity.prepare(wanted)
        self.scene = scene
        self.history: list[tuple[Tensor, float]] = []

    def loss(self, parameters: Tensor) -> Tensor:
        """The loss at some parameters, over the input's own pixels; differentiable in them."""
        scene = self.scene
        points = scene.family(parameters.float(), scene.grid).on_grid(scene.grid, torch.float32)
        warped = sample(self._moving, points, padding=scene.state.padding, mode=scene.state.kernel)
        return self._similarity(warped)

    def gradient(self) -> Gradient:
        """Loss, gradient and arrows where the scene is now."""
        here = self.scene.parameters.clone().requires_grad_()
        loss = self.loss(here)
        slope = torch.zeros_like(here)
        if loss.requires_grad:  # the integer kernel has none
            (slope,) = torch.autograd.grad(loss, here)
        return self._described(float(loss.detach()), here.detach(), slope)

    def _described(self, loss: float, here: Tensor, slope: Tensor) -> Gradient:
        scene = self.scene
        start = scene.control_points
        if len(start):
            # The arrow of a control point is its own entry of the gradient.
            ends = start + scene.bends
            arrows = -_per_point(slope, scene.state.family)
        else:
            start, ends = (places.reshape(-1, 2) for places in scene.nodes())
            arrows = self._moved(start, here - slope) - ends
        longest = float(np.linalg.norm(arrows, axis=1).max(initial=0.0))
        return Gradient(loss, slope, ends, arrows / longest if longest > 1e-12 else np.zeros_like(arrows))

    def _moved(self, points: FloatArray, parameters: Tensor) -> FloatArray:
        return self.scene.family(parameters, self.scene.grid).map_points(points)

    def step(self, pixels: float = 2.0) -> float:
        """Take one step downhill and change the scene.

        Parameters
        ----------
        pixels
            How far the grid's furthest point may move. The step is halved until the loss is lower than before.

        Returns
        -------
        float
            The length of the step that was taken, in pixels; 0 when nothing leads downhill.
        """
        scene = self.scene
        now = self.gradient()
        if now.flat:
            return 0.0
        here = scene.parameters
        corners = scene.nodes()[0].reshape(-1, 2)
        unit = np.linalg.norm(self._moved(corners, here - now.gradient) - self._moved(corners, here), axis=1).max()
        length = pixels
        with torch.no_grad():
            for _ in range(_HALVINGS):
                there = here - now.gradient * (length / max(float(unit), 1e-30))
                if float(self.loss(there)) < now.loss:
                    self.history.append((here, now.loss))
                    scene.parameters = there
                    return length
                length /= 2
        return 0.0

    def back(self) -> bool:
        """Undo the last step; false when there is none."""
        if not self.history:
            return False
        self.scene.parameters = self.history.pop()[0]
        return True


def _per_point(slope: Tensor, family: str) -> FloatArray:
    values = slope.numpy()[0]
    return np.asarray(values if family == "tps" else values.reshape(2, -1).T, dtype=np.float64)
