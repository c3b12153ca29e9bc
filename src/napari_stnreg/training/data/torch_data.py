"""Training pairs from torch datasets and data loaders, those of MONAI and TorchIO included.

Samples are recognized by what they hold, so none of these libraries is imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.surface import Surface
from napari_stnreg.core.units import conversion_factor
from napari_stnreg.io.conversion import as_image, override_geometry
from napari_stnreg.io.surfaces import as_surface
from napari_stnreg.models.input_spec import Normalization
from napari_stnreg.training.data.batch import MAX_TRIANGLES, Batch, Split, TrainingData, steps_of
from napari_stnreg.training.data.pair_sampler import PairSource, collate, seeded_rng
from napari_stnreg.training.data.placement import frame_center, place, prepare

FIXED_KEYS = ("fixed", "fixed_image", "target")
MOVING_KEYS = ("moving", "moving_image", "source")
IMAGE_KEYS = ("image", "img", "input", "data")
LABEL_ENDINGS = ("_labels", "_label", "_seg", "_mask")
SINGLE_LABEL_KEYS = ("labels", "label", "seg", "segmentation", "mask")
MAX_CHANNELS = 4
"""A first axis of an array with three axes holds channels up to this length, else sections of a volume."""
VALIDATION_KEY = 81


@dataclass(frozen=True)
class Item:
    """An image of a sample, its label map, corresponding points and points of a surface in its world ``(N, D)``."""

    image: Image
    labels: npt.NDArray[Any] | None = None
    points: FloatArray | None = None
    surface: FloatArray | None = None
    triangles: npt.NDArray[np.int64] | None = None


Sample = tuple[Item, ...]
"""One image, or the fixed and the moving image."""


def is_dataset(data: object) -> bool:
    """Return whether an object is a torch dataset of numbered samples."""
    return isinstance(data, torch.utils.data.Dataset) and hasattr(data, "__getitem__") and hasattr(data, "__len__")


def is_samples(data: object) -> bool:
    """Return whether an object is a list of samples, such as ``[(fixed, moving), ...]``, instead of one of images.

    A nested list of numbers is an image.
    """
    if not isinstance(data, Sequence) or isinstance(data, str) or not data:
        return False
    first = data[0]
    if isinstance(first, tuple | list):
        return len(first) > 0 and not isinstance(first[0], tuple | list | Number)
    return isinstance(first, Mapping)


def is_loader(data: object) -> bool:
    """Return whether an object is a torch data loader."""
    return isinstance(data, torch.utils.data.DataLoader)


def read_sample(
    sample: Any, spacing: float | Sequence[float] | None = None, unit: str | None = None, name: str = "sample"
) -> Sample:
    """Read the images of a sample.

    Parameters
    ----------
    sample
        - a dictionary with ``fixed`` and ``moving``, or with ``image``; label maps under ``fixed_labels`` or
          ``labels``; points ``(N, D)`` under ``fixed_points`` and ``moving_points``, and under ``fixed_surface`` and
          ``moving_surface``, where triangle meshes are accepted as well: :class:`~napari_stnreg.core.surface.Surface`,
          ``(vertices, triangles)``, or their files;
        - a subject of TorchIO;
        - a tuple ``(fixed, moving)`` or ``(fixed, moving, fixed_labels, moving_labels)``; a tuple of an image and a
          class number;
        - an image.
    spacing, unit
        Voxel size and unit of images without their own.
    name
        Name for messages.

    Raises
    ------
    InputError
        If it holds no images.
    """

    def item(value: Any, labels: Any = None, points: Any = None, surface: Any = None) -> Item:
        image = to_image(value, spacing, unit, name)
        table = None if labels is None else to_image(labels, spacing, unit, name, labels=True)
        if table is not None and table.grid.shape != image.grid.shape:
            raise InputError(f"The label map of {name} has shape {table.grid.shape}, the image {image.grid.shape}.")
        mesh = _surface(surface, image)
        return Item(
            image, None if table is None else np.asarray(table.data), _points(points, image, name),
            _points(surface, image, name) if mesh is None else mesh.vertices,
            None if mesh is None else mesh.triangles,
        )  # fmt: skip

    if isinstance(sample, Mapping):
        fixed, moving = _first(sample, FIXED_KEYS), _first(sample, MOVING_KEYS)
        if fixed is not None and moving is not None:
            items = []
            for key, side in ((fixed, "fixed"), (moving, "moving")):
                label = _first(sample, [stem + end for stem in (key, side) for end in LABEL_ENDINGS])
                items.append(
                    item(sample[key], None if label is None else sample[label], sample.get(f"{side}_points"),
                         sample.get(f"{side}_surface"))
                )  # fmt: skip
            return tuple(items)
        image = _first(sample, IMAGE_KEYS) or next((k for k in sample if _kind_of(sample[k]) == "intensity"), None)
        if image is None:
            raise InputError(
                f"A sample holds {', '.join(map(str, sample)) or 'nothing'}. Name its images 'fixed' and 'moving', or "
                "'image' for images that are paired at random."
            )
        label = _first(sample, SINGLE_LABEL_KEYS)
        table = None if label is None or np.ndim(_values(sample[label])) < 2 else sample[label]
        return (item(sample[image], table, sample.get("points"), sample.get("surface")),)
    if isinstance(sample, tuple | list):
        if len(sample) in (1, 2) and (len(sample) == 1 or np.ndim(_values(sample[1])) < 2):
            return (item(sample[0]),)
        if len(sample) == 2:
            return item(sample[0]), item(sample[1])
        if len(sample) == 4:
            return item(sample[0], sample[2]), item(sample[1], sample[3])
        raise InputError(
            f"A sample has {len(sample)} parts. Return (fixed, moving), (fixed, moving, fixed_labels, moving_labels) "
            "or a dictionary."
        )
    return (item(sample),)


def to_image(
    value: Any,
    spacing: float | Sequence[float] | None = None,
    unit: str | None = None,
    name: str = "sample",
    *,
    labels: bool = False,
) -> Image:
    """Convert an image of a sample.

    Tensors and arrays have their channels first: ``(C, *shape)``, where the channel axis may be left out. Volumes with
    an affine (of MONAI's reader or TorchIO) have the axis order (x, y, z) of NIfTI and get its orientation. Everything
    else is converted by :func:`~napari_stnreg.as_image`.

    Parameters
    ----------
    value
        The image.
    spacing, unit
        See :func:`read_sample`.
    name
        Name for messages.
    labels
        The image is a label map: one channel.
    """
    kind = _kind_of(value)
    if kind is None and not isinstance(value, Tensor | np.ndarray):
        if hasattr(value, "getbands"):  # PIL
            value = np.asarray(value)
            return as_image(value, spacing=spacing, unit=unit, channels=value.ndim == 3, name=name)
        return override_geometry(as_image(value, name=name), spacing, unit)
    array = _values(value)
    affine = _affine_of(value, kind)
    if affine is not None and array.ndim == 4:
        import nibabel

        voxels = array[0] if labels or len(array) == 1 else array.mean(axis=0, dtype=np.float32)
        header = nibabel.Nifti1Header()
        header.set_xyzt_units("mm")
        voxels = voxels.astype(np.int32 if labels else np.float32)
        return override_geometry(as_image(nibabel.Nifti1Image(voxels, affine, header), name=name), spacing, unit)
    if array.ndim == 4 or (array.ndim == 3 and len(array) <= MAX_CHANNELS):
        if len(array) == 1 or labels:
            array = array[0]
        else:
            return as_image(np.moveaxis(array, 0, -1), spacing=spacing, unit=unit, channels=True, name=name)
    return as_image(array, spacing=spacing, unit=unit, channels=False, name=name)


def _values(value: Any) -> npt.NDArray[Any]:
    """Return the values of a tensor, an array, a number, or an image of TorchIO."""
    if not isinstance(value, Tensor | np.ndarray) and _kind_of(value) is not None:
        value = value["data"] if isinstance(value, Mapping) else value.data
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
        return np.asarray(value.numpy())
    try:
        return np.asarray(value)
    except (TypeError, ValueError):
        return np.asarray(None)


def _kind_of(value: Any) -> str | None:
    """Return ``"intensity"`` or ``"label"`` for an image of TorchIO, also one that its loader collated."""
    if isinstance(value, Mapping):
        kind = value.get("type", "intensity") if {"data", "affine"} <= set(value) else None
    elif isinstance(value, Tensor | np.ndarray) or not (hasattr(value, "data") and hasattr(value, "affine")):
        return None
    else:
        kind = getattr(value, "type", None)
    kind = kind[0] if isinstance(kind, list) else kind
    return str(kind) if kind in ("intensity", "label") else None


def _affine_of(value: Any, kind: str | None) -> FloatArray | None:
    """Return the affine of a volume in (x, y, z) order, or ``None``."""
    affine = value.get("affine") if isinstance(value, Mapping) else getattr(value, "affine", None)
    if affine is None:
        return None
    matrix = np.asarray(affine.detach().cpu() if isinstance(affine, Tensor) else affine, dtype=np.float64)
    matrix = matrix[0] if matrix.ndim == 3 else matrix
    if matrix.shape != (4, 4):
        return None
    if kind is None and np.array_equal(matrix, np.eye(4)):
        # MONAI gives this one to arrays that came from no file.
        meta = getattr(value, "meta", None)
        if not (isinstance(meta, Mapping) and meta.get("filename_or_obj")):
            return None
    return matrix


def _first(sample: Mapping[Any, Any], keys: Sequence[str]) -> str | None:
    return next((key for key in keys if key in sample and sample[key] is not None), None)


def _points(value: Any, image: Image, name: str) -> FloatArray | None:
    if value is None:
        return None
    points = np.asarray(_values(value), dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != image.ndim:
        raise InputError(f"The points of {name} have shape {points.shape}, not (N, {image.ndim}).")
    return points


def _surface(value: Any, image: Image) -> Surface | None:
    """Return a triangle mesh of a sample, if it is one."""
    if isinstance(value, tuple | list) and len(value) == 2 and np.ndim(_values(value[1])) == 2:
        vertices, triangles = (np.asarray(_values(one)) for one in value)
        value = Surface(vertices, triangles)
    is_mesh = isinstance(value, Surface | str | os.PathLike)
    return as_surface(value, image).simplified(MAX_TRIANGLES) if is_mesh else None


def batch_of(sample: Sample, grid: Grid, channels: int, *, labeled: bool) -> Batch:
    """Place a fixed and a moving image on the grid of the training."""
    fixed, moving = sample
    one, other = (prepare(item.image, item.labels, grid, channels) for item in (fixed, moving))
    fixed_values, fixed_labels = place(one, grid)
    moving_values, moving_labels = place(other, grid, None, one.grid)
    centers = frame_center(one.grid), frame_center(other.grid, one.grid)

    def points(values: FloatArray | None, center: FloatArray, own: Grid) -> Tensor | None:
        if values is None:
            return None
        return torch.tensor(values * conversion_factor(own.unit, grid.unit) - center, dtype=torch.float32)[None]

    return Batch(
        fixed_values,
        moving_values,
        fixed_labels=fixed_labels if labeled else None,
        moving_labels=moving_labels if labeled else None,
        fixed_points=points(fixed.points, centers[0], fixed.image.grid),
        moving_points=points(moving.points, centers[1], moving.image.grid),
        fixed_surface=points(fixed.surface, centers[0], fixed.image.grid),
        moving_surface=points(moving.surface, centers[1], moving.image.grid),
        fixed_triangles=None if fixed.triangles is None else torch.from_numpy(fixed.triangles)[None],
        moving_triangles=None if moving.triangles is None else torch.from_numpy(moving.triangles)[None],
    )


class DatasetPairs(PairSource):
    """Pairs from a torch dataset whose samples are pairs, or images that are paired at random.

    Parameters
    ----------
    dataset
        Numbered samples, or a list of them; see :func:`read_sample`.
    spacing, unit
        Voxel size and unit of images without their own.
    validation_fraction
        Fraction of the samples kept for validation.
    seed
        Seed of that choice.

    Raises
    ------
    InputError
        If there are too few samples, or a sample cannot be read.

    Notes
    -----
    Each sample is read once in an epoch, in a seeded order. Random numbers that the dataset draws from torch are
    those of the training; what it draws elsewhere is not reproduced.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        spacing: float | Sequence[float] | None = None,
        unit: str | None = None,
        validation_fraction: float = 0.15,
        seed: int = 0,
    ) -> None:
        count = len(dataset)
        if count < 1:
            raise InputError("The dataset is empty.")
        self.dataset, self.spacing, self.unit = dataset, spacing, unit
        first = self._sample(0)
        super().__init__(first[0].image.grid)
        self.channels = 1 if first[0].image.rgb else first[0].image.channels
        self.is_paired = len(first) == 2
        order = seeded_rng(seed, VALIDATION_KEY).permutation(count)
        least = 1 if self.is_paired else 2  # a pair needs this many
        held = max(round(validation_fraction * count), least) if validation_fraction > 0 else 0
        held = held if count - held >= least else 0
        self._indices = {"validation": sorted(order[:held].tolist()), "train": sorted(order[held:].tolist())}
        if not self.is_paired and len(self._indices["train"]) < 2:
            raise InputError("Images that are paired at random must be at least two, besides those for validation.")
        self.labels = self._label_values()

    def _sample(self, index: int) -> Sample:
        return read_sample(self.dataset[index], self.spacing, self.unit, f"sample {index}")

    def _label_values(self) -> tuple[int, ...]:
        values: set[int] = set()
        for index in range(min(len(self.dataset), 8)):
            tables = [item.labels for item in self._sample(index)]
            if any(table is None for table in tables):
                return ()
            values |= {int(value) for table in tables for value in np.unique(np.asarray(table))}
        return tuple(sorted(values - {0}))

    def count(self, split: str) -> int:
        """See :meth:`PairSource.count`."""
        count = len(self._indices[split])
        return 0 if split == "validation" and not self.is_paired and count < 2 else count

    def draw_pair(self, split: str, epoch: int, index: int, seed: int) -> Batch:
        """See :meth:`PairSource.draw_pair`."""
        indices = self._indices[split]
        if self.is_paired:
            sample = self._sample(indices[index])
        else:
            if split == "validation":
                other = (index + 1) % len(indices)
            else:
                other = int(seeded_rng(seed, epoch, index, 78).integers(len(indices) - 1))
                other += other >= index
            sample = self._sample(indices[index]) + self._sample(indices[other])
        if len(sample) != 2:
            raise InputError("Some samples of the dataset are pairs and others are single images.")
        return batch_of(sample, self.grid, self.channels, labeled=bool(self.labels))

    def summary(self) -> dict[str, Any]:
        """See :meth:`PairSource.summary`."""
        return {"kind": "dataset", "class": type(self.dataset).__name__, "pairs": self.count("train"),
                "validation_pairs": self.count("validation"), "shape": list(self.grid.shape)}  # fmt: skip


class LoaderPairs:
    """Batches of pairs from a torch data loader; implements :class:`~.batch.TrainingData`.

    Parameters
    ----------
    loader
        Its batches are collated samples, see :func:`read_sample`. A batch of single images is paired among itself.
    spacing, unit
        Voxel size and unit of images without their own.

    Raises
    ------
    InputError
        If the loader has no length, or its batches cannot be read.
    """

    normalization: Normalization = "percentiles"

    def __init__(self, loader: Any, *, spacing: float | Sequence[float] | None = None, unit: str | None = None) -> None:
        try:
            length = len(loader)
        except TypeError as error:
            raise InputError("The data loader has no length. Give its dataset a method __len__.") from error
        if length < 1:
            raise InputError("The data loader is empty.")
        self.loader, self.spacing, self.unit = loader, spacing, unit
        with torch.random.fork_rng(devices=[]):
            first = self._samples(next(iter(loader)))
        image = first[0][0].image
        self.batch_size = int(loader.batch_size or len(first))
        self.grid = Grid.from_spacing(image.grid.shape, image.grid.spacing.tolist(), unit=image.grid.unit)
        self.grid = self.grid.translated(-self.grid.center)
        self.channels = 1 if image.rgb else image.channels
        tables = [item.labels for sample in first for item in sample]
        values = {int(v) for table in tables if table is not None for v in np.unique(table)}
        self.labels = () if any(table is None for table in tables) else tuple(sorted(values - {0}))

    def _samples(self, batch: Any) -> list[Sample]:
        """Split a collated batch into samples."""
        size = _batch_size(batch)
        return [read_sample(_entry(batch, i), self.spacing, self.unit, f"image {i} of a batch") for i in range(size)]

    def count(self, split: Split) -> int:
        """See :class:`~.batch.TrainingData`."""
        return len(self.loader) * self.batch_size if split == "train" else 0

    def batches(self, split: Split, *, epoch: int, batch_size: int, seed: int) -> Iterator[Batch]:
        """See :class:`~.batch.TrainingData`; the loader decides on order and size."""
        sampler = getattr(self.loader, "sampler", None)
        if isinstance(sampler, torch.utils.data.DistributedSampler):
            sampler.set_epoch(epoch)
        for collated in self.loader:
            samples = self._samples(collated)
            if len(samples[0]) == 1:
                if len(samples) < 2:
                    continue  # a single image cannot be paired
                samples = [(*one, *samples[i - 1]) for i, one in enumerate(samples)]
            labeled = bool(self.labels)
            yield collate([batch_of(one, self.grid, self.channels, labeled=labeled) for one in samples])

    def summary(self) -> dict[str, Any]:
        """See :class:`~.batch.TrainingData`."""
        dataset = type(getattr(self.loader, "dataset", None)).__name__
        return {"kind": "loader", "class": dataset, "batches": len(self.loader), "shape": list(self.grid.shape)}


def _batch_size(batch: Any) -> int:
    if isinstance(batch, Tensor | np.ndarray):
        return len(batch)
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    for part in parts:
        size = _batch_size(part)
        if size:
            return size
    return 0


def _entry(batch: Any, index: int) -> Any:
    """Return one sample of a collated batch."""
    if isinstance(batch, Mapping):
        return {key: _entry(value, index) for key, value in batch.items()}
    if isinstance(batch, Tensor):
        affine = getattr(batch, "affine", None)
        one = batch[index]
        if affine is not None and np.ndim(affine) == 3 and getattr(one, "affine", None) is not None:
            setattr(one, "affine", affine[index])  # noqa: B010 (an attribute of MONAI's tensors)
        return one
    if isinstance(batch, np.ndarray):
        return batch[index]
    if isinstance(batch, tuple | list) and batch and any(isinstance(one, Tensor | np.ndarray) for one in batch):
        return type(batch)(_entry(one, index) for one in batch)
    return batch[index] if isinstance(batch, tuple | list) and index < len(batch) else batch


class WithValidation:
    """Training data with validation data from another source; implements :class:`~.batch.TrainingData`.

    Parameters
    ----------
    train, validation
        Both sources. If the second keeps some pairs for validation itself, these are used, else all.

    Raises
    ------
    InputError
        If their axes or channels differ.
    """

    def __init__(self, train: TrainingData, validation: TrainingData) -> None:
        if (train.grid.ndim, train.channels) != (validation.grid.ndim, validation.channels):
            raise InputError("The validation data have other axes or channels than the training data.")
        self.train, self.validation = train, validation
        self.grid, self.channels, self.normalization = train.grid, train.channels, train.normalization
        self.labels = train.labels
        self.batch_size = getattr(train, "batch_size", None)

    def _validation_split(self) -> Split:
        return "validation" if self.validation.count("validation") else "train"

    def count(self, split: Split) -> int:
        """See :class:`~.batch.TrainingData`."""
        return self.train.count("train") if split == "train" else self.validation.count(self._validation_split())

    def batches(self, split: Split, *, epoch: int, batch_size: int, seed: int) -> Iterator[Batch]:
        """See :class:`~.batch.TrainingData`."""
        if split == "train":
            yield from self.train.batches("train", epoch=epoch, batch_size=batch_size, seed=seed)
            return
        for batch in self.validation.batches(self._validation_split(), epoch=0, batch_size=batch_size, seed=seed):
            batch.grid = batch.grid or self.validation.grid
            yield batch

    def summary(self) -> dict[str, Any]:
        """See :class:`~.batch.TrainingData`."""
        steps = steps_of(self.validation, self._validation_split(), 1)
        return {**self.train.summary(), "validation_pairs": steps}
