"""What every measure of similarity has in common, and the helpers they are built from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Similarity(ABC):
    """How alike two images on the same grid are, as a loss to be lowered.

    Call :meth:`prepare` once with the fixed image, then the object itself with each warped image. Images are
    ``(B, C, *shape)`` in 2D or 3D, weights ``(B, 1, *shape)`` between 0 and 1. The fixed image's weight and that of a
    call are multiplied. A voxel of weight 0 counts nowhere, not even through a window or a mean; its value may be
    anything, NaN included. The loss is the mean over batch and channels, differentiable once with respect to the
    warped image, and always finite: where nothing can be compared it has a defined value and no gradient.
    """

    name: ClassVar[str]
    """The name by which a person or a file asks for it."""
    description: ClassVar[str]
    """One line that says when to choose it."""

    @abstractmethod
    def prepare(self, fixed: Tensor, weight: Tensor | None = None) -> None:
        """Remember the fixed image and all that depends on it alone.

        Parameters
        ----------
        fixed
            ``(B, C, *shape)``.
        weight
            ``(B, 1, *shape)``, the fixed image's mask; ``None`` for everywhere.
        """

    @abstractmethod
    def __call__(self, warped: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss; lower is better.

        Parameters
        ----------
        warped
            The moving image resampled on the fixed grid, ``(B, C, *shape)``.
        weight
            ``(B, 1, *shape)``, where the warped image is defined; ``None`` for everywhere. Held constant: no gradient
            flows into it.

        Returns
        -------
        Tensor
            A scalar.
        """

    @abstractmethod
    def score(self, warped: Tensor, weight: Tensor | None = None) -> float:
        """The figure by which the field knows this measure, for people to read."""


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, warped: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad, None, None


def attach_gradient(warped: Tensor, value: Tensor, gradient: Tensor | None) -> Tensor:
    """A scalar that autograd knows the gradient of, because it was worked out by hand along with the value.

    A loss needs its gradient nearly every time. Computing both in one pass, in place and without a graph, takes a
    third of the time that autograd needs for the same expression.
    """
    if gradient is None or not (torch.is_grad_enabled() and warped.requires_grad):
        return value
    result: Tensor = _Attach.apply(warped, value, gradient)  # type: ignore[no-untyped-call]
    return result


def wants_gradient(warped: Tensor) -> bool:
    """Whether the caller will differentiate."""
    return torch.is_grad_enabled() and warped.requires_grad


def combine(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Product of two weights, either of which may be missing."""
    if first is None or second is None:
        return second if first is None else first
    return first * second


def cleaned(image: Tensor, weight: Tensor | None) -> Tensor:
    """The image with 0 where its weight is 0, so that not even NaN or infinity gets out of a masked voxel."""
    if weight is None:
        return image
    return torch.where(weight > 0, image, image.new_zeros(()))


def spatial_sum(x: Tensor) -> Tensor:
    """Sum over all voxels, ``(B, C, *shape)`` to ``(B, C)``; pairwise, so it holds its precision in float32."""
    return x.flatten(2).sum(-1)


def expand(x: Tensor, like: Tensor) -> Tensor:
    """Figures per batch and channel ``(B, C)``, shaped to broadcast over an image."""
    return x.reshape(*x.shape, *([1] * (like.ndim - 2)))
