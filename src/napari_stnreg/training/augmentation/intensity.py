"""Random intensity changes, as between scanners, stains and sessions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_stnreg.core.errors import InputError
from napari_stnreg.ops.filters import gaussian
from napari_stnreg.ops.interpolation import resize


@dataclass(frozen=True)
class IntensityAugmentation:
    """Random gamma, bias field, blur, noise and contrast inversion, for images of about 0 to 1.

    Parameters are the largest values that are drawn; 0 disables a part.

    Parameters
    ----------
    gamma
        Largest natural logarithm of the exponent: 0.4 draws exponents from 0.67 to 1.5.
    bias
        Largest relative change by a smooth bias field: 0.3 for factors from 0.7 to 1.3.
    bias_cells
        Control points of the bias field along an axis.
    blur
        Standard deviation of a Gaussian filter, voxels.
    noise
        Standard deviation of Gaussian noise, for intensities from 0 to 1.
    invert
        Probability of contrast inversion.

    Raises
    ------
    InputError
        If a value is negative or not finite, or the probability above 1.
    """

    gamma: float = 0.0
    bias: float = 0.0
    bias_cells: int = 3
    blur: float = 0.0
    noise: float = 0.0
    invert: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not np.isfinite(value) or value < 0:
                raise InputError(f"The augmentation's {name} must be 0 or more, not {value}.")
        if self.invert > 1:
            raise InputError(f"The augmentation's invert is a probability of at most 1, not {self.invert}.")

    def __call__(self, image: Tensor, random: np.random.Generator) -> Tensor:
        """Return the changed image ``(1, 1, *shape)``; the number of random draws does not depend on the parameters."""
        shape = tuple(image.shape[2:])
        exponent = float(np.exp(self.gamma * random.uniform(-1, 1)))
        cells = [max(min(self.bias_cells, n), 1) for n in shape]
        field = random.uniform(-1, 1, cells).astype(np.float32)
        sigma, spread = self.blur * random.uniform(), self.noise * random.uniform()
        inverted = random.uniform() < self.invert
        grain = np.random.default_rng(random.integers(2**63))
        if inverted:
            image = 1 - image
        if self.gamma:
            # Values may be slightly outside 0 to 1: the power of the magnitude, with the sign.
            image = image.sign() * image.abs().clamp_min(1e-6) ** exponent
        if self.bias:
            image = image * (1 + self.bias * resize(torch.from_numpy(field)[None, None], shape, antialias=False))
        if sigma > 0.1:
            image = gaussian(image, sigma, edge="nearest")
        if spread > 0:
            noise = grain.standard_normal(shape, dtype=np.float32)
            image = image + spread * torch.from_numpy(noise)[None, None]
        return image

    def describe(self) -> dict[str, Any]:
        """Return the ranges that are drawn from, JSON-ready."""
        ranges = {name: value for name, value in asdict(self).items() if value}
        return ranges if "bias" in ranges else {k: v for k, v in ranges.items() if k != "bias_cells"}
