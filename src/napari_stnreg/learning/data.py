"""The data contract of training, and pairs of images that are in memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from napari_stnreg.errors import InputError
from napari_stnreg.images import Grid, Image
from napari_stnreg.learning.contract import InputContract, Normalisation, Sizing, intensities, placed
from napari_stnreg.transforms import Transform

Split = Literal["train", "validation"]
Pairing = Literal["template", "random", "neighbours", "pairs"]

PAIRING_HELP = {
    "template": "Every image to one of them.",
    "random": "Any image to any other.",
    "neighbours": "Every image to the next, as in a stack.",
    "pairs": "First to second, third to fourth, and so on.",
}
"""One line for a person choosing a pairing."""


@dataclass
class Batch:
    """Some pairs on one lattice.

    Parameters
    ----------
    fixed, moving
        ``(B, C, *shape)`` float32, normalised.
    fixed_mask, moving_mask
        ``(B, 1, *shape)`` from 0 to 1, where the images count; ``None`` for everywhere.
    fixed_labels, moving_labels
        ``(B, 1, *shape)`` whole numbers; ``None`` where there are none.
    truth
        The transforms that are right, ``B`` of them, fixed world to moving world of the lattice; ``None`` if unknown.
    grid
        The lattice, if it is not the data's own.
    """

    fixed: Tensor
    moving: Tensor
    fixed_mask: Tensor | None = None
    moving_mask: Tensor | None = None
    fixed_labels: Tensor | None = None
    moving_labels: Tensor | None = None
    truth: Transform | None = None
    grid: Grid | None = None

    @property
    def size(self) -> int:
        """Number of pairs."""
        return self.fixed.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """The same on another device."""
        moved: dict[str, Any] = {
            one.name: value.to(device)
            for one in fields(self)
            if isinstance(value := getattr(self, one.name), Tensor | Transform)
        }
        return replace(self, **moved)


class TrainingData(Protocol):
    """What a training reads. Anything with these members will do.

    Attributes
    ----------
    grid
        The working lattice: upright, centred on the world's origin.
    channels
        Of each image.
    normalisation
        What has been done to the intensities and must be done to a new image.
    labels
        The label values that batches may hold; empty without labels.
    """

    grid: Grid
    channels: int
    normalisation: Normalisation
    labels: tuple[int, ...]

    def count(self, split: Split) -> int:
        """Pairs in an epoch of a split; 0 if it has none."""
        ...

    def batches(self, split: Split, *, epoch: int, batch_size: int, seed: int) -> Iterator[Batch]:
        """An epoch's batches: the same for the same arguments, to the last bit; validation does not ask the epoch."""
        ...

    def summary(self) -> dict[str, Any]:
        """What it is, JSON-ready; a training is only resumed with data of the same summary."""
        ...


Augment = Callable[[Batch, torch.Generator], Batch]


class ImagePairs:
    """Images in memory, paired.

    Parameters
    ----------
    images
        All in 2D or all in 3D, in one unit. Each pair lies on the lattice around its fixed image, as in prediction.
    pairing
        See :data:`PAIRING_HELP`.
    template
        Which image all others are registered to.
    labels
        A label image for each image, on the image's grid.
    validation
        The images held back for validation: a share of them (the last ones), or their numbers. Pairs of the list are
        held back whole. Without validation the training judges itself by its training loss.
    pairs_per_epoch
        How many pairs make an epoch when pairing at random; as many as there are images if not given.
    spacing
        Voxel size of the lattice; the images' finest if not given.
    sizing
        What the model will do with images of another size; see
        :class:`~napari_stnreg.learning.contract.InputContract`. Here, ``"extent"`` lets every image fill the lattice.
    shape
        Of the lattice; large enough for every image if not given.
    normalisation
        Of the intensities.
    augment
        Changes training batches at random, using the generator it is given.

    Raises
    ------
    InputError
        If the images do not go together.
    """

    def __init__(
        self,
        images: Sequence[Image],
        pairing: Pairing = "random",
        *,
        template: int = 0,
        labels: Sequence[Image] | None = None,
        validation: float | Sequence[int] = 0.2,
        pairs_per_epoch: int | None = None,
        spacing: float | Sequence[float] | None = None,
        shape: Sequence[int] | None = None,
        sizing: Sizing = "spacing",
        normalisation: Normalisation = "percentiles",
        augment: Augment | None = None,
    ) -> None:
        self.images, self.pairing, self.augment = list(images), pairing, augment
        self.normalisation: Normalisation = normalisation
        self.template, self.pairs_per_epoch = template, pairs_per_epoch
        _check(self.images, pairing, template, labels)
        self.channels = self.images[0].channels if not self.images[0].rgb else 1
        self.contract = _contract(self.images, self.channels, spacing, shape, sizing, normalisation)
        self.grid = _lattice_about_origin(self.contract)
        self._label_images = None if labels is None else list(labels)
        self.labels: tuple[int, ...] = ()
        if labels is not None:
            found = sorted({int(v) for one in labels for v in np.unique(np.asarray(one.data))} - {0})
            self.labels = tuple(found)
        self._pairs = _split_pairs(len(self.images), pairing, template, validation)
        self._seen: dict[tuple[str, int, int], Tensor | None] = {}

    def count(self, split: Split) -> int:
        """See :meth:`TrainingData.count`."""
        found = len(self._pairs[split])
        if split == "train" and self.pairing == "random" and found:
            return self.pairs_per_epoch or len({i for i, _ in self._pairs["train"]})
        return found

    def batches(self, split: Split, *, epoch: int, batch_size: int, seed: int) -> Iterator[Batch]:
        """See :meth:`TrainingData.batches`."""
        pairs = list(self._pairs[split])
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        if split == "train":
            order = torch.randperm(len(pairs), generator=generator)[: self.count("train")].tolist()
            while len(order) < self.count("train"):  # more pairs asked for than there are
                order += torch.randperm(len(pairs), generator=generator).tolist()
            pairs = [pairs[i] for i in order[: self.count("train")]]
        for start in range(0, len(pairs), batch_size):
            batch = self._batch(pairs[start : start + batch_size])
            if split == "train" and self.augment is not None:
                batch = self.augment(batch, generator)
            yield batch

    def _batch(self, pairs: Sequence[tuple[int, int]]) -> Batch:
        def together(kind: str, side: int) -> Tensor | None:
            found = [self._on_lattice(kind, pair[side], pair[0]) for pair in pairs]
            if all(one is None for one in found):
                return None
            whole = torch.ones((1, 1, *self.grid.shape))
            return torch.cat([whole if one is None else one for one in found])

        fixed, moving = together("image", 0), together("image", 1)
        assert fixed is not None
        assert moving is not None
        labels = [None if (found := together("labels", side)) is None else found.to(torch.int32) for side in (0, 1)]
        return Batch(fixed, moving, together("mask", 0), together("mask", 1), labels[0], labels[1])

    def _on_lattice(self, kind: str, number: int, fixed: int) -> Tensor | None:
        """An image, mask or labels on the lattice of a fixed image; images that share one grid are read once."""
        image, about = self.images[number], self.images[fixed].grid
        key = (kind, number, number if image.grid == about else fixed)
        if key not in self._seen:
            lattice = self._lattice(about)
            if kind == "image":
                values = placed(intensities(image, self.contract), image.grid, lattice)
            elif kind == "mask":
                if image.mask is None:
                    return None
                values = placed(image.mask[None].astype(np.float32), image.grid, lattice, zero_outside=True)
            else:
                if self._label_images is None:
                    return None
                one = self._label_images[number]
                values = placed(
                    np.asarray(one.data)[None].astype(np.float32), one.grid, lattice, labels=True, zero_outside=True
                )
            if key[2] != number and len(self._seen) > 4 * len(self.images):
                return values  # pairs of different grids are too many to be kept
            self._seen[key] = values
        return self._seen[key]

    def _lattice(self, fixed: Grid) -> Grid:
        from napari_stnreg.networks.base import centred

        return centred(self.contract.lattice(fixed), self.grid.shape)

    def summary(self) -> dict[str, Any]:
        """See :meth:`TrainingData.summary`."""
        return {
            "images": [one.name for one in self.images[:200]],
            "count": len(self.images),
            "pairing": self.pairing,
            "template": self.template if self.pairing == "template" else None,
            "training_pairs": self.count("train"),
            "validation_pairs": self.count("validation"),
            "shape": list(self.grid.shape),
        }


def _check(images: Sequence[Image], pairing: str, template: int, labels: Sequence[Image] | None) -> None:
    if pairing not in get_args(Pairing):
        raise InputError(f"There is no pairing '{pairing}'; choose one of {', '.join(get_args(Pairing))}.")
    if len(images) < 2:
        raise InputError(f"Training needs at least two images; there {'is 1' if len(images) else 'are none'}.")
    first = images[0]
    for one in images:
        if one.ndim != first.ndim or one.grid.unit != first.grid.unit:
            raise InputError(
                f"'{one.name}' is {one.ndim}D in {one.grid.unit} and '{first.name}' {first.ndim}D in "
                f"{first.grid.unit}; train on images of one kind."
            )
        if one.channels != first.channels:
            raise InputError(f"'{one.name}' has {one.channels} channels and '{first.name}' {first.channels}.")
    if pairing == "template" and not 0 <= template < len(images):
        raise InputError(f"There is no image {template} to be the template; there are {len(images)}.")
    if pairing == "pairs" and len(images) % 2:
        raise InputError(f"Pairs need an even number of images; there are {len(images)}.")
    if labels is not None:
        if len(labels) != len(images):
            raise InputError(f"There are {len(labels)} label images for {len(images)} images.")
        for label, image in zip(labels, images, strict=True):
            if np.asarray(label.data).dtype.kind not in "iub" or label.grid != image.grid:
                raise InputError(f"The labels of '{image.name}' are whole numbers on the image's own grid.")


def _contract(
    images: Sequence[Image],
    channels: int,
    spacing: float | Sequence[float] | None,
    shape: Sequence[int] | None,
    sizing: Sizing,
    normalisation: Normalisation,
) -> InputContract:
    ndim, unit = images[0].ndim, images[0].grid.unit
    if spacing is None:
        steps = np.min([np.linalg.norm(one.grid.linear, axis=1) for one in images], axis=0)
        steps = np.asarray([float(f"{s:.6g}") for s in steps])
    else:
        steps = np.broadcast_to(np.asarray(spacing, dtype=np.float64), (ndim,))
    extents = [np.ptp(one.grid.corners(), axis=0) for one in images]
    size = np.ceil(np.max(extents, axis=0) / steps - 1e-3).astype(int).tolist() if shape is None else list(shape)
    return InputContract(
        ndim, channels, tuple(int(n) for n in size), tuple(float(s) for s in steps), unit, sizing, normalisation
    )


def _lattice_about_origin(contract: InputContract) -> Grid:
    spacing = np.asarray(contract.spacing)
    origin = -(np.asarray(contract.shape) - 1) / 2 * spacing
    return Grid.from_spacing(contract.shape, spacing.tolist(), origin.tolist(), unit=contract.unit)


def _split_pairs(
    count: int, pairing: Pairing, template: int, validation: float | Sequence[int]
) -> dict[Split, list[tuple[int, int]]]:
    """Pairs ``(fixed, moving)`` of images; no image of a validation pair, but for a template, is trained on."""
    if isinstance(validation, float | int):
        if not 0 <= validation < 1:
            raise InputError(f"The share of images for validation lies between 0 and 1, not at {validation}.")
        step = 2 if pairing == "pairs" else 1
        held = step * round(validation * count / step)
        if pairing in ("random", "neighbours") and held == 1:
            held = 2 if count > 3 else 0
        if pairing == "template" and held == 0 and validation > 0 and count > 2:
            held = 1
        usable = [i for i in range(count) if not (pairing == "template" and i == template)]
        back = set(usable[len(usable) - held :])
    else:
        back = {int(i) for i in validation}
        if not back <= set(range(count)):
            raise InputError(f"The images for validation are numbered from 0 to {count - 1}.")
    found: dict[Split, list[tuple[int, int]]] = {"train": [], "validation": []}
    sides: tuple[tuple[Split, list[int]], ...] = (
        ("train", [i for i in range(count) if i not in back]), ("validation", sorted(back))
    )  # fmt: skip
    for split, members in sides:
        if pairing == "template":
            found[split] = [(template, i) for i in members if i != template]
        elif pairing == "neighbours":
            steps = [(a, b) for a, b in itertools.pairwise(members) if b == a + 1]
            found[split] = steps + [(b, a) for a, b in steps] if split == "train" else steps
        elif pairing == "pairs":
            found[split] = [(2 * i, 2 * i + 1) for i in range(count // 2) if 2 * i in members and 2 * i + 1 in members]
        elif split == "train":
            found[split] = [(a, b) for a in members for b in members if a != b]
        else:  # each held-back image once on either side
            found[split] = [
                (members[i], members[(i + 1) % len(members)]) for i in range(len(members)) if len(members) > 1
            ]
    if not found["train"]:
        raise InputError("No pair is left to train on; hold back fewer images for validation.")
    return found


def steps_of(data: TrainingData, split: Split, batch_size: int) -> int:
    """Batches in an epoch of a split."""
    return math.ceil(data.count(split) / batch_size)
