"""A loss function of your own as a similarity."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from napari_stnreg.core.device import is_out_of_memory
from napari_stnreg.core.errors import InputError
from napari_stnreg.losses.base import Similarity, combine_weights

LossFunction = Callable[..., Tensor]
"""``loss(warped, fixed)``, or ``loss(warped, fixed, weight=...)``, to a scalar tensor or a map; lower is better."""


class CustomSimilarity(Similarity, selectable=False):
    """Wrap ``loss(warped, fixed)``, the order of torch's and MONAI's losses.

    Parameters
    ----------
    function
        Takes two tensors ``(B, C, *shape)`` and returns a floating-point tensor: a scalar, or one value for each pair
        or voxel (such as torch's losses with ``reduction="none"``), whose mean is then the loss. If it has an argument
        ``weight`` (or ``mask``), it gets the weights ``(B, 1, *shape)`` or ``None``; otherwise voxels of weight 0 are
        replaced by the fixed image before the call, so that they do not differ.

    Raises
    ------
    InputError
        If it cannot be called.
    """

    name = "custom"
    description = "A loss function of your own."

    def __init__(self, function: LossFunction) -> None:
        if not callable(function):
            raise InputError(f"A similarity is a name or a function, not {type(function).__name__}.")
        self.function = function
        self.title = str(getattr(function, "__name__", type(function).__name__))
        called = function.forward if isinstance(function, torch.nn.Module) else function
        try:
            names = set(inspect.signature(called).parameters)
        except (TypeError, ValueError):
            names = set()
        self.had_gradient = False
        """Whether the loss depended on a warped image so far."""
        self._weight_name = next((name for name in ("weight", "mask") if name in names), None)

    def prepare(self, fixed: Tensor, weight: Tensor | None = None) -> None:
        """See :meth:`Similarity.prepare`."""
        self._fixed, self._weight = fixed.detach(), None if weight is None else weight.detach()
        if isinstance(self.function, torch.nn.Module):
            self.function.to(fixed.device)

    def __call__(self, warped: Tensor, weight: Tensor | None = None) -> Tensor:
        """See :meth:`Similarity.__call__`."""
        total = combine_weights(self._weight, weight)
        options: dict[str, Any] = {}
        if self._weight_name is not None:
            options[self._weight_name] = total
        elif total is not None:
            warped = torch.where(total > 0, warped, self._fixed)
        try:
            value = self.function(warped, self._fixed, **options)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            if isinstance(error, InputError) or is_out_of_memory(error):
                raise
            arguments = ", ".join(["warped", "fixed", *options])
            raise InputError(
                f"The loss '{self.title}' failed when it was called as loss({arguments}) with tensors of shape "
                f"{tuple(warped.shape)}: {str(error).rstrip('.')}."
            ) from error
        if not isinstance(value, Tensor):
            raise InputError(f"The loss '{self.title}' returned {type(value).__name__}. Return a tensor.")
        if not value.is_floating_point() or not value.numel():
            raise InputError(
                f"The loss '{self.title}' returned a tensor of type {value.dtype} and shape {tuple(value.shape)}. "
                "Return a scalar, or a floating-point map whose mean is the loss."
            )
        self.had_gradient |= value.requires_grad
        return value.mean()

    def score(self, warped: Tensor, weight: Tensor | None = None) -> float:
        """Return the loss."""
        with torch.no_grad():
            return float(self(warped, weight))


def as_similarity(loss: object) -> tuple[Similarity, str]:
    """Return a similarity for a similarity object or a loss function, and its name.

    Raises
    ------
    InputError
        If it is neither.
    """
    if isinstance(loss, type) and issubclass(loss, Similarity | torch.nn.Module):
        loss = loss()
    if isinstance(loss, Similarity):
        return loss, loss.name
    wrapped = CustomSimilarity(loss)  # type: ignore[arg-type]  # checked by the constructor
    return wrapped, wrapped.title
