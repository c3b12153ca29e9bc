"""The pairs to register, read from the data folder: images, and what is known to judge a result by."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Array = npt.NDArray[Any]

PAIRS = Path(__file__).parent / "pairs"
FILES = {
    "cardiac": "cardiac_cine/cardiac_cine.npz",
    "hippocampus": "hippocampus/hippocampus.npz",
    "brain": "brain_t1_2mm/brain_t1_2mm.npz",
    "brain-slices": "brain_t1_2mm/brain_t1_2mm.npz",
    "histology": "histology_landmarks/lung-lesion_3",
    "fibsem": "fibsem/training_sample2_raw.tif",
    "gpu": "brain_t1_2mm/brain_t1_2mm.npz",
}
STAINS = ("CD31-3", "Cc10-5", "He", "Ki67-7", "proSPC-4")
FIBSEM_RMS = 8.0
GPU_SHAPE = (160, 192, 160)


class MissingDataError(Exception):
    """A set's files are not in the data folder."""


@dataclass(frozen=True)
class Pair:
    """One pair and its truth, of which exactly one kind is given.

    Parameters
    ----------
    name
        What to call the pair in the report.
    fixed, moving
        Images ``(*shape)``, or ``(y, x, 3)`` for color.
    labels
        Label images of the fixed and the moving side.
    points
        Landmarks ``(N, D)`` in voxels, axis order, of the fixed and the moving side, paired by order.
    truth
        Displacement ``(D, *shape)`` in voxels that takes points of the fixed image to the moving one.
    """

    name: str
    fixed: Array
    moving: Array
    labels: tuple[Array, Array] | None = None
    points: tuple[Array, Array] | None = None
    truth: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape of the fixed image."""
        return self.fixed.shape[:2] if self.fixed.shape[-1] == 3 else self.fixed.shape


def load_arrays(path: Path) -> dict[str, Array]:
    """All arrays of an npz file, or :class:`MissingDataError`."""
    if not path.exists():
        raise MissingDataError(f"{path} is missing; give the folder that holds it with --data.")
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def pair_rows(name: str, split: str, count: int) -> list[dict[str, str]]:
    """The first ``count`` rows of a set's committed list that belong to a split."""
    with (PAIRS / f"{'brain' if name in ('gpu', 'brain-slices') else name}.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split][:count]


def load_pairs(name: str, folder: Path, split: str, count: int) -> Iterator[Pair]:
    """Read the pairs of a set one after the other.

    Parameters
    ----------
    name
        One of ``cardiac``, ``hippocampus``, ``brain``, ``brain-slices``, ``histology``, ``fibsem``, ``gpu``.
    folder
        The data folder.
    split
        ``test``, or ``tuning`` for choosing settings.
    count
        How many pairs at most.

    Raises
    ------
    MissingDataError
        If the set's files are not there.
    """
    rows = pair_rows(name, split, count)
    path = folder / FILES[name]
    if not path.exists():
        raise MissingDataError(f"{path} is missing; give the folder that holds it with --data.")
    if name == "histology":
        yield from (_histology_pair(path, row) for row in rows)
    elif name == "fibsem":
        volume = _read_picture(path)
        yield from (_fibsem_pair(volume[int(row["fixed"])], int(row["moving"]), row["fixed_subject"]) for row in rows)
    else:
        arrays = load_arrays(path)
        yield from (_label_pair(name, arrays, row) for row in rows)


def _label_pair(name: str, arrays: dict[str, Array], row: dict[str, str]) -> Pair:
    """A pair with labels on both sides."""
    fixed, moving = int(row["fixed"]), int(row["moving"])
    if name == "cardiac":
        return Pair(
            f"{row['fixed_subject']}#{fixed}",
            arrays["ed"][fixed],
            arrays["es"][moving],
            labels=(arrays["ed_mask"][fixed], arrays["es_mask"][moving]),
        )
    images = arrays["image"][fixed], arrays["image"][moving]
    labels = arrays["label"][fixed], arrays["label"][moving]
    if name == "brain-slices":  # the middle plane across the first axis
        images, labels = (tuple(side[len(side) // 2] for side in sides) for sides in (images, labels))
    if name == "gpu":
        images = _upsampled(images[0], order=1), _upsampled(images[1], order=1)
        labels = _upsampled(labels[0], order=0), _upsampled(labels[1], order=0)
    return Pair(f"{row['fixed_subject']}<-{row['moving_subject']}", *images, labels=labels)


def _upsampled(volume: Array, order: int) -> Array:
    """The volume on the finer grid of the GPU row."""
    factors = [n / m for n, m in zip(GPU_SHAPE, volume.shape, strict=True)]
    return np.asarray(ndimage.zoom(volume, factors, order=order, mode="nearest", grid_mode=True))


@cache
def _read_picture(path: Path) -> Array:
    """A TIFF or JPEG as an array (imported here: the scoring and its test need no reader)."""
    from skimage import io

    return np.asarray(io.imread(path))


def _histology_pair(folder: Path, row: dict[str, str]) -> Pair:
    """Two stains of one lesion. Files without initials are by annotator PS, the one that is used throughout."""
    sides = []
    for stain in (row["fixed"], row["moving"]):
        stem = folder / f"29-041-Izd2-w35-{stain}-les3"
        landmarks = np.loadtxt(f"{stem}_landmarks_xy_5pc.csv", delimiter=",", skiprows=1)
        sides.append((_read_picture(stem.with_suffix(".jpg")), landmarks[:, ::-1]))
    (fixed, fixed_points), (moving, moving_points) = sides
    return Pair(f"{row['fixed']}<-{row['moving']}", fixed, moving, points=(fixed_points, moving_points))


def _fibsem_pair(plane: Array, seed: int, name: str) -> Pair:
    """A plane as moving image, and the same plane warped by a known field as fixed one."""
    truth = smooth_field(plane.shape, seed)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in plane.shape), indexing="ij"))
    warped = ndimage.map_coordinates(plane.astype(np.float64), index + truth, order=3, mode="mirror")
    return Pair(f"{name}, seed {seed}", np.clip(np.rint(warped), 0, 255).astype(np.uint8), plane, truth=truth)


def smooth_field(shape: tuple[int, ...], seed: int, rms: float = FIBSEM_RMS) -> Array:
    """A random displacement ``(D, *shape)`` of a given rms length: white noise smoothed over an eighth of the image."""
    noise = np.random.default_rng(seed).standard_normal((len(shape), *shape))
    smooth = np.stack([ndimage.gaussian_filter(part, [n / 8 for n in shape], mode="reflect") for part in noise])
    # Without its mean: a shift of the whole image is no test of a deformable fit.
    smooth -= smooth.mean(axis=tuple(range(1, smooth.ndim)), keepdims=True)
    return np.asarray(smooth * rms / np.sqrt((smooth**2).sum(axis=0).mean()))
