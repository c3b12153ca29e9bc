"""Base class of image similarities, and the helpers they share.

A similarity is added by adding one module to this package: subclass :class:`Similarity`, give it a ``name`` and a
``description``, and it can be chosen by that name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from napari_stnreg.losses.registry import SIMILARITIES


class Similarity(ABC):
    """Similarity of two images on the same grid, as a loss to minimize.

    Call :meth:`prepare` once with the fixed image, then the object itself with each warped image. Images are
    ``(B, C, *shape)`` in 2D or 3D, weights ``(B, 1, *shape)`` between 0 and 1. The fixed image's weight and that of a
    call are multiplied. A voxel of weight 0 is excluded, also from windows and means; its value may be NaN. The loss is
    the mean over batch and channels, differentiable once with respect to the warped image, and always finite: if no
    voxel can be compared it has a defined value and no gradient.

    A subclass that needs constructor arguments passes ``selectable=False`` as a class argument and is not registered.
    """

    name: ClassVar[str]
    """Name in settings and files."""
    description: ClassVar[str]
    """When to choose it, in one line."""

    def __init_subclass__(cls, *, selectable: bool = True, **options: Any) -> None:
        super().__init_subclass__(**options)
        if selectable and "name" in vars(cls):
            SIMILARITIES[cls.name] = cls
        if "__call__" in vars(cls) and "value_and_gradient" not in vars(cls):
            # the gradient must be that of the new loss, not of the parent's
            cls.value_and_gradient = Similarity.value_and_gradient  # type: ignore[method-assign]

    @abstractmethod
    def prepare(self, fixed: Tensor, weight: Tensor | None = None) -> None:
        """Set the fixed image and compute all that depends on it alone.

        Parameters
        ----------
        fixed
            ``(B, C, *shape)``.
        weight
            ``(B, 1, *shape)``, the fixed image's mask; ``None`` for everywhere.
        """

    @abstractmethod
    def __call__(self, warped: Tensor, weight: Tensor | None = None) -> Tensor:
        """Compute the loss; lower is better.

        Parameters
        ----------
        warped
            The moving image resampled on the fixed grid, ``(B, C, *shape)``.
        weight
            ``(B, 1, *shape)``, where the warped image is defined; ``None`` for everywhere. A constant for the
            gradient.

        Returns
        -------
        Tensor
            A scalar.
        """

    def value_and_gradient(self, warped: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the loss and its gradient with respect to the warped image; ``None`` if it does not depend on it.

        For optimizers: similarities that know their gradient override it and need no graph.
        """
        with torch.enable_grad():
            warped = warped.detach().requires_grad_()
            loss = self(warped, weight)
            if not loss.requires_grad:
                return loss, None
            (gradient,) = torch.autograd.grad(loss, warped, allow_unused=True)
        return loss.detach(), gradient

    @abstractmethod
    def score(self, warped: Tensor, weight: Tensor | None = None) -> float:
        """Return the measure in its usual form, for reports."""


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
    """Return a scalar whose gradient is given instead of derived by autograd.

    Computing value and gradient in one pass, in place and without a graph, takes a third of autograd's time.
    """
    if gradient is None or not (torch.is_grad_enabled() and warped.requires_grad):
        return value
    result: Tensor = _Attach.apply(warped, value, gradient)  # type: ignore[no-untyped-call]
    return result


def wants_gradient(warped: Tensor) -> bool:
    """Return whether the caller will differentiate."""
    return torch.is_grad_enabled() and warped.requires_grad


def combine_weights(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Multiply two weights; each may be ``None``."""
    if first is None or second is None:
        return second if first is None else first
    return first * second


def fill_masked(image: Tensor, weight: Tensor | None) -> Tensor:
    """Set the image to 0 where its weight is 0, so that NaN or infinity in a masked voxel does not spread."""
    if weight is None:
        return image
    return torch.where(weight > 0, image, image.new_zeros(()))


def spatial_sum(x: Tensor) -> Tensor:
    """Sum over all voxels, ``(B, C, *shape)`` to ``(B, C)``; pairwise, which keeps float32 precision."""
    return x.flatten(2).sum(-1)


def reciprocal(x: Tensor) -> Tensor:
    """Return ``1 / x``, and 0 where ``x`` is 0."""
    return torch.where(x > 0, 1 / x.clamp_min(torch.finfo(x.dtype).tiny), 0.0)


def expand(x: Tensor, like: Tensor) -> Tensor:
    """Reshape values per batch and channel ``(B, C)`` to broadcast over an image."""
    return x.reshape(*x.shape, *([1] * (like.ndim - 2)))
