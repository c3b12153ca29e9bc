"""The spatial transformer as a layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.networks.blocks import GlobalRegressor
from napari_stnreg.networks.grid_generator import warp_batch
from napari_stnreg.ops.interpolation import Kernel, Padding, smoothed_for
from napari_stnreg.transforms import AffineTransform, Transform, TransformFamily, make_family


class SpatialTransformer(nn.Module):
    """Localization network, grid generator and sampler in one differentiable layer.

    Parameters
    ----------
    localization
        Module that maps feature maps ``(B, C, *shape)`` to the family's parameters, ``(B, ...)`` with
        :meth:`parameter_count` numbers for each (zero is the identity), or to matrices theta, see Notes. ``None`` if
        ``theta`` or ``parameters`` are always passed to the call. :meth:`with_cnn` makes one.
    family
        Transform family or its name.
    output_shape
        Size of the result, finer or coarser than the input; ``None`` for the input's own.
    kernel
        ``"linear"``, ``"cubic"`` (2D only), or ``"nearest"`` for labels. Nearest has no gradient with respect to the
        parameters.
    padding
        ``"zeros"``, ``"border"`` or ``"reflection"`` outside the input.
    antialias
        Smooth the input first if the result is coarser.

    Notes
    -----
    Both forms describe the pull-back: they map coordinates of the output to coordinates of the input.

    - ``theta``, ``(B, 2, 3)`` in (x, y) order or ``(B, 3, 4)`` in (x, y, z) order, is the paper's matrix (equation 1)
      on normalized coordinates: -1 and 1 are the outer faces of the feature map, as in
      :func:`torch.nn.functional.affine_grid` with ``align_corners=False``. A last column of 0.5 along an axis of ``n``
      pixels moves the content by ``-n / 4`` pixels.
    - ``parameters``, ``(B, n)`` or in the family's own shape, are those of
      :mod:`napari_stnreg.transforms`: in (z, y, x) order, zero is the identity. For linear families the first are the
      shift in units of :func:`~napari_stnreg.transforms.linear.radius`.

    One batch entry is broadcast over the other batch. Under the identity the outer faces stay in place for any output
    size. ``float64`` feature maps are warped in double precision.

    References
    ----------
    Jaderberg et al., Spatial transformer networks, NeurIPS 2015.

    Examples
    --------
    >>> import torch, napari_stnreg as sr
    >>> stn = sr.SpatialTransformer.with_cnn(channels=3, shape=(32, 32), family="affine", output_shape=(16, 16))
    >>> stn(torch.rand(4, 3, 32, 32)).shape
    torch.Size([4, 3, 16, 16])

    Mirror pictures from left to right with the paper's theta:

    >>> theta = torch.tensor([[[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    >>> sr.SpatialTransformer()(torch.tensor([[[[1.0, 2.0, 3.0]]]]), theta)
    tensor([[[[3., 2., 1.]]]])
    """

    def __init__(
        self,
        localization: nn.Module | None = None,
        family: str | TransformFamily = "affine",
        *,
        output_shape: Sequence[int] | None = None,
        kernel: Kernel = "linear",
        padding: Padding = "zeros",
        antialias: bool = True,
    ) -> None:
        super().__init__()
        if kernel not in get_args(Kernel) or padding not in get_args(Padding):
            raise InputError(
                f"The kernel is one of {', '.join(get_args(Kernel))} and the padding one of "
                f"{', '.join(get_args(Padding))}, not '{kernel}' and '{padding}'."
            )
        self.localization = localization
        self.family = make_family(family) if isinstance(family, str) else family
        self.output_shape = None if output_shape is None else tuple(int(n) for n in output_shape)
        self.kernel, self.padding, self.antialias = kernel, padding, antialias

    @classmethod
    def with_cnn(
        cls,
        channels: int,
        shape: Sequence[int],
        family: str | TransformFamily = "affine",
        *,
        features: Sequence[int] = (16, 32, 32),
        hidden: int = 64,
        **options: Any,
    ) -> SpatialTransformer:
        """Return a layer with a small convolutional localization network that starts at the identity.

        Parameters
        ----------
        channels, shape
            Channels and size of the feature maps.
        family
            See the class.
        features, hidden
            See :class:`~napari_stnreg.networks.blocks.GlobalRegressor`.
        **options
            Keyword arguments of the class.
        """
        layer = cls(None, family, **options)
        count = layer.parameter_count(shape)
        layer.localization = GlobalRegressor(len(shape), channels, shape, features, hidden, count)
        return layer

    def parameter_count(self, shape: Sequence[int]) -> int:
        """Return how many parameters the localization predicts for feature maps of a shape."""
        return int(np.prod(self.family.parameter_shape(_frame(tuple(shape)))))

    def transform(
        self, features: Tensor, theta: Tensor | None = None, *, parameters: Tensor | None = None
    ) -> Transform:
        """Return the transforms for feature maps, in voxels about their center.

        Parameters
        ----------
        features
            ``(B, C, *shape)``.
        theta
            The paper's matrices instead of the localization's output, ``(B, 2, 3)`` or ``(B, 3, 4)``; for the affine
            family only.
        parameters
            The family's parameters instead of the localization's output.

        Raises
        ------
        InputError
            If there is no localization and neither ``theta`` nor ``parameters``, both are given, or a shape is wrong.
        """
        ndim = features.ndim - 2
        frame = _frame(tuple(features.shape[2:]))
        if theta is not None and parameters is not None:
            raise InputError("Pass either theta or parameters, not both.")
        if theta is not None and tuple(theta.shape[1:]) != (ndim, ndim + 1):
            raise InputError(
                f"theta has the shape (B, {ndim}, {ndim + 1}), not {tuple(theta.shape)}. Pass the parameters of a "
                "transform family as parameters=."
            )
        if theta is None and parameters is None:
            if self.localization is None:
                raise InputError("This spatial transformer has no localization network. Pass theta or parameters.")
            predicted = self.localization(features)
            if tuple(predicted.shape[1:]) == (ndim, ndim + 1):
                theta = predicted
            else:
                parameters = predicted
        if theta is not None:
            if self.family.name != "affine":
                raise InputError(
                    f"theta is an affine matrix, and this layer's family is {self.family.name}. Pass its parameters as "
                    "parameters=."
                )
            batch = theta.shape[0]
            made: Transform = AffineTransform.from_theta(_precise(theta), frame)
        else:
            assert parameters is not None
            wanted = self.family.parameter_shape(frame)
            count = int(np.prod(wanted))
            if parameters.ndim < 2 or tuple(parameters.shape[1:]) not in ((count,), tuple(wanted)):
                raise InputError(
                    f"The parameters have the shape {tuple(parameters.shape)}. This family needs (B, {count})."
                )
            batch = parameters.shape[0]
            made = self.family(_precise(parameters).reshape(-1, *wanted), frame)
        if 1 not in (batch, features.shape[0]) and batch != features.shape[0]:
            raise InputError(f"There are {features.shape[0]} feature maps and {batch} transforms.")
        return made

    def forward(self, features: Tensor, theta: Tensor | None = None, *, parameters: Tensor | None = None) -> Tensor:
        """Warp feature maps ``(B, C, *shape)`` to ``(B, C, *output_shape)``; arguments as in :meth:`transform`."""
        if self.kernel == "cubic" and features.ndim == 5:
            raise InputError("The cubic kernel is 2D only. Use the linear kernel for volumes.")
        frame = _frame(tuple(features.shape[2:]))
        transform = self.transform(features, theta, parameters=parameters)
        onto = frame if self.output_shape is None else frame.resized(self.output_shape)
        if self.antialias and self.kernel != "nearest":
            features = smoothed_for(features, [a / b for a, b in zip(frame.shape, onto.shape, strict=True)])
        return warp_batch(features, transform, onto, frame, padding=self.padding, mode=self.kernel)


def _precise(values: Tensor) -> Tensor:
    """Return double precision unchanged, everything else in single precision."""
    return values if values.dtype == torch.float64 else values.float()


@lru_cache(maxsize=64)
def _frame(shape: tuple[int, ...]) -> Grid:
    """Return unit voxels about the origin, so that rotations are about the center."""
    return Grid.from_spacing(shape, 1.0, [-(n - 1) / 2 for n in shape])
