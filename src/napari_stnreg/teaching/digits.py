"""Distorted and cluttered digits, the data of the classifier."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.ops.interpolation import resize, sample
from napari_stnreg.transforms.linear import SimilarityFamily, radius

_IDX_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
_DRAWN = 20


@dataclass(frozen=True)
class Distortion:
    """Range of random distortions; each is drawn uniformly between minus and plus its value.

    Parameters
    ----------
    rotation
        Degrees.
    scale
        Logarithm of the scale factor to base 2: 0.3 is from 0.8 to 1.2 times.
    shift
        Fraction of the image's width.
    clutter
        Number of pieces of other digits added to the image.
    """

    rotation: float = 60.0
    scale: float = 0.3
    shift: float = 0.12
    clutter: int = 1


class DigitData:
    """A supply of distorted digits with their classes.

    Parameters
    ----------
    images
        Digits ``(N, h, w)``, bright on dark, from 0 to 1.
    classes
        Classes ``(N,)``, 0 to 9.
    size
        Side of the distorted images, in pixels.
    distortion
        See :class:`Distortion`.
    test_fraction
        Fraction of the digits, at the end, that is used for testing only.
    """

    def __init__(
        self,
        images: npt.ArrayLike,
        classes: npt.ArrayLike,
        *,
        size: int = 40,
        distortion: Distortion | None = None,
        test_fraction: float = 0.25,
    ) -> None:
        array = np.asarray(images, dtype=np.float32)
        labels = np.asarray(classes, dtype=np.int64)
        if array.ndim != 3 or len(array) != len(labels) or len(array) < 40:
            raise InputError(
                f"The data need at least 40 digits (N, height, width) and one class for each, not {array.shape} and "
                f"{len(labels)}."
            )
        if not 24 <= size <= 128:
            raise InputError(f"The side of the images is 24 to 128 pixels, not {size}.")
        self.size, self.distortion = size, distortion or Distortion()
        small = torch.from_numpy(array)[:, None]
        self.digits = resize(small, (_DRAWN, _DRAWN)).clamp(0, 1)
        self.classes = torch.from_numpy(labels)
        # In the usual data sets the digits of one writer are consecutive, so the end has other writers.
        self._cut = round(len(array) * (1 - test_fraction))
        self._grid = Grid.from_spacing((size, size))

    def batch(self, count: int, seed: int, *, test: bool = False) -> tuple[Tensor, Tensor]:
        """Draw distorted digits ``(count, 1, size, size)`` and their classes ``(count,)`` for a seed."""
        rng = torch.Generator().manual_seed(seed)
        low, high = (self._cut, len(self.digits)) if test else (0, self._cut)
        chosen = torch.randint(low, high, (count,), generator=rng)
        pictures = self._drawn(self.digits[chosen], rng)
        for _ in range(self.distortion.clutter):
            other = torch.randint(low, high, (count,), generator=rng)
            pictures = torch.maximum(pictures, self._piece(self.digits[other], rng))
        return pictures, self.classes[chosen]

    def _drawn(self, digits: Tensor, rng: torch.Generator) -> Tensor:
        """Rotate, scale and shift each digit into an image."""
        extent = self.distortion
        spread = torch.rand((len(digits), 4), generator=rng) * 2 - 1
        theta = torch.empty(len(digits), 4)
        theta[:, :2] = spread[:, :2] * extent.shift * self.size / radius(self._grid)
        theta[:, 2] = spread[:, 2] * np.deg2rad(extent.rotation)
        theta[:, 3] = spread[:, 3] * extent.scale * np.log(2)
        points = SimilarityFamily()(theta, self._grid).on_grid(self._grid, torch.float32)
        return sample(digits, points - (self.size - _DRAWN) / 2)

    def _piece(self, digits: Tensor, rng: torch.Generator) -> Tensor:
        """Cut a small square out of each digit and place it at a random position."""
        side, count = _DRAWN // 3, len(digits)
        pictures = torch.zeros(count, 1, self.size, self.size)
        cuts = torch.randint(0, _DRAWN - side + 1, (count, 2), generator=rng).tolist()
        places = torch.randint(0, self.size - side + 1, (count, 2), generator=rng).tolist()
        for i, ((y, x), (v, u)) in enumerate(zip(cuts, places, strict=True)):
            pictures[i, :, v : v + side, u : u + side] = digits[i, :, y : y + side, x : x + side]
        return pictures

    def batches(self, count: int, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over training batches, each with new distortions."""
        for step in range(steps):
            yield self.batch(count, 1_000_003 * seed + step)


def load_digits(
    folder: str | Path | None = None, *, limit: int = 12_000
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Load digits ``(N, h, w)`` from 0 to 1 and their classes ``(N,)``.

    Parameters
    ----------
    folder
        Folder of the MNIST files ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte`` (plain or ``.gz``), or of
        an ``.npz`` file with the arrays ``image`` and ``digit``. By default the 1,797 digits of 8 by 8 pixels of
        scikit-learn.
    limit
        Largest number of digits.

    Raises
    ------
    InputError
        If the folder has no digits, or scikit-learn is not installed.
    """
    if folder is None:
        try:
            from sklearn.datasets import load_digits as bundled
        except ImportError as error:
            raise InputError(
                "The default digits need scikit-learn. Install it, or give a folder with MNIST."
            ) from error
        data = bundled()
        return np.asarray(data.images / 16, dtype=np.float32)[:limit], np.asarray(data.target, dtype=np.int64)[:limit]
    folder = Path(folder)
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as held:
            if {"image", "digit"} <= set(held.files):
                return _scaled(held["image"][:limit]), np.asarray(held["digit"][:limit], dtype=np.int64)
    images, classes = (_idx(folder, name) for name in _IDX_NAMES)
    if len(images) != len(classes):
        raise InputError(f"'{folder.name}' has {len(images)} images and {len(classes)} classes.")
    return _scaled(images[:limit]), classes[:limit].astype(np.int64)


def _scaled(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return np.asarray(images / np.float32(255), dtype=np.float32)


def _idx(folder: Path, name: str) -> npt.NDArray[np.uint8]:
    """Read one file of MNIST: two zeros, a type, the number of axes, their lengths, and the bytes."""
    for path, opened in ((folder / name, open), (folder / f"{name}.gz", gzip.open)):
        if path.is_file():
            with opened(path, "rb") as file:
                content: bytes = file.read()
            axes = content[3] if len(content) > 4 and content[:3] == b"\0\0\x08" else 0
            shape = np.frombuffer(content[4 : 4 + 4 * axes], dtype=">i4")
            if not axes or len(content) != 4 + 4 * axes + int(shape.prod()):
                raise InputError(f"'{path.name}' is not an MNIST file or is truncated.")
            return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes).reshape(tuple(int(n) for n in shape))
    raise InputError(f"'{folder.name}' has neither {name} nor {name}.gz.")
