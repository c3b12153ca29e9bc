"""The spatial transformer as a layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, get_args

import numpy as np
from torch import Tensor, nn

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.networks.blocks import GlobalRegressor
from napari_stnreg.networks.grid_generator import warp_batch
from napari_stnreg.ops.interpolation import Kernel, Padding, smoothed_for
from napari_stnreg.transforms import Transform, TransformFamily, make_family


class SpatialTransformer(nn.Module):
    """Localization network, grid generator and sampler in one differentiable layer.

    Parameters
    ----------
    localization
        Module that maps feature maps ``(B, C, *shape)`` to the family's parameters, ``(B, ...)`` with
        :meth:`parameter_count` numbers for each; zero is the identity. ``None`` if parameters are always passed to the
        call. :meth:`with_cnn` makes one.
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
    The world is that of the feature map, in voxels about its center; under the identity its outer faces stay in place
    for any output size. Parameters describe the pull-back: a shift of +1 along an axis moves the content by -1.

    References
    ----------
    Jaderberg et al., Spatial transformer networks, NeurIPS 2015.

    Examples
    --------
    >>> import torch, napari_stnreg as sr
    >>> stn = sr.SpatialTransformer.with_cnn(channels=3, shape=(32, 32), family="affine", output_shape=(16, 16))
    >>> stn(torch.rand(4, 3, 32, 32)).shape
    torch.Size([4, 3, 16, 16])
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

    def transform(self, features: Tensor, theta: Tensor | None = None) -> Transform:
        """Return the transforms for feature maps, in voxels about their center.

        Parameters
        ----------
        features
            ``(B, C, *shape)``.
        theta
            Parameters to use instead of the localization's.

        Raises
        ------
        InputError
            If there is no localization and no ``theta``, or the number of parameters is wrong.
        """
        frame = _frame(tuple(features.shape[2:]))
        wanted = self.family.parameter_shape(frame)
        if theta is None:
            if self.localization is None:
                raise InputError("This spatial transformer has no localization network; pass theta.")
            theta = self.localization(features)
        if theta[0].numel() != int(np.prod(wanted)):
            raise InputError(
                f"The localization returned {theta[0].numel()} parameters; this family needs {int(np.prod(wanted))}."
            )
        return self.family(theta.reshape(-1, *wanted).float(), frame)

    def forward(self, features: Tensor, theta: Tensor | None = None) -> Tensor:
        """Warp feature maps ``(B, C, *shape)``, ``(B, C, *output_shape)``."""
        if self.kernel == "cubic" and features.ndim == 5:
            raise InputError("The cubic kernel is 2D only; use the linear kernel for volumes.")
        frame = _frame(tuple(features.shape[2:]))
        transform = self.transform(features, theta)
        onto = frame if self.output_shape is None else frame.resized(self.output_shape)
        if self.antialias and self.kernel != "nearest":
            features = smoothed_for(features, [a / b for a, b in zip(frame.shape, onto.shape, strict=True)])
        return warp_batch(features, transform, onto, frame, padding=self.padding, mode=self.kernel)


@lru_cache(maxsize=64)
def _frame(shape: tuple[int, ...]) -> Grid:
    """Return unit voxels about the origin, so that rotations are about the center."""
    return Grid.from_spacing(shape, 1.0, [-(n - 1) / 2 for n in shape])
