"""Gradient of a loss with respect to the transform parameters, and single steps of gradient descent."""

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
MIN_SLOPE = 1e-3
"""Decrease of the loss for a step of one pixel, in variances of the target, below which a position is a minimum."""


@dataclass(frozen=True)
class Gradient:
    """Loss and gradient at the current parameters.

    Parameters
    ----------
    loss
        Mean squared difference of output and target, in units of the target's standard deviation.
    gradient
        Gradient of the loss with respect to the family's parameters.
    nodes, arrows
        Points on the input, ``(N, 2)``, and their direction of descent, ``(N, 2)``, the longest scaled to 1 pixel:
        control points if the family has them, otherwise points of the sampling grid. All zero at a minimum.
    """

    loss: float
    gradient: Tensor
    positions: FloatArray
    arrows: FloatArray

    @property
    def flat(self) -> bool:
        """Whether no direction lowers the loss noticeably: at a minimum, or with the nearest-neighbor kernel."""
        return not bool(self.arrows.any())


class GradientDescent:
    """Gradient descent of a scene toward a target image.

    Parameters
    ----------
    scene
        The scene; :meth:`step` and :meth:`undo` change its state.
    target
        Desired output, an image of the input's shape.
    smoothing
        Standard deviation, in pixels, of a Gaussian filter of input and target, as at the coarse levels of a pyramid;
        0 for none.

    Raises
    ------
    InputError
        If the target's shape differs from the input's.
    """

    def __init__(self, scene: Scene, target: npt.ArrayLike, smoothing: float = 0.0) -> None:
        array = np.asarray(target, dtype=np.float32)
        if array.shape != scene.image.shape:
            raise InputError(f"The target's shape {array.shape} is not the input's {scene.image.shape}.")
        channels = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
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
        """Return the loss at some parameters over the input's pixels; differentiable."""
        scene = self.scene
        points = scene.family(parameters.float(), scene.grid).on_grid(scene.grid, torch.float32)
        warped = sample(self._moving, points, padding=scene.state.padding, mode=scene.state.kernel)
        return self._similarity(warped)

    def gradient(self) -> Gradient:
        """Return loss, gradient and arrows at the scene's parameters."""
        here = self.scene.parameters.clone().requires_grad_()
        loss = self.loss(here)
        gradient = torch.zeros_like(here)
        if loss.requires_grad:  # the nearest-neighbor kernel has no gradient
            (gradient,) = torch.autograd.grad(loss, here)
        return self._described(float(loss.detach()), here.detach(), gradient)

    def _described(self, loss: float, here: Tensor, gradient: Tensor) -> Gradient:
        scene = self.scene
        start = scene.control_points
        if len(start):
            # The arrow of a control point is its own entry of the gradient.
            ends = start + scene.displacements
            arrows = -_per_point(gradient, scene.state.family)
        else:
            start, ends = (places.reshape(-1, 2) for places in scene.grid_points())
            arrows = self._moved(start, here - gradient) - ends
        longest = float(np.linalg.norm(arrows, axis=1).max(initial=0.0))
        # To first order, moving the farthest point by one pixel lowers the loss by |gradient|**2 / longest.
        slope = float(gradient.square().sum()) / longest if longest > 1e-12 else 0.0
        return Gradient(loss, gradient, ends, arrows / longest if slope > MIN_SLOPE else np.zeros_like(arrows))

    def _moved(self, points: FloatArray, parameters: Tensor) -> FloatArray:
        return self.scene.family(parameters, self.scene.grid).map_points(points)

    def step(self, pixels: float = 2.0) -> float:
        """Take one step of gradient descent.

        Parameters
        ----------
        pixels
            Largest displacement of a grid point. The step is halved until the loss decreases.

        Returns
        -------
        float
            Length of the step in pixels; 0 if the loss cannot be decreased.
        """
        scene = self.scene
        now = self.gradient()
        if now.flat:
            return 0.0
        here = scene.parameters
        corners = scene.grid_points()[0].reshape(-1, 2)
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

    def undo(self) -> bool:
        """Undo the last step; return false if there is none."""
        if not self.history:
            return False
        self.scene.parameters = self.history.pop()[0]
        return True


def _per_point(gradient: Tensor, family: str) -> FloatArray:
    values = gradient.numpy()[0]
    return np.asarray(values if family == "tps" else values.reshape(2, -1).T, dtype=np.float64)
