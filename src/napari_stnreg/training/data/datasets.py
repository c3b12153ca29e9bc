"""Open training data from files, a folder, a list of pairs or images in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.io.conversion import ImageLike, as_image
from napari_stnreg.io.image import read_content, read_image, read_series
from napari_stnreg.training.data.image_sets import Entry, ImageSet, file_loader
from napari_stnreg.training.data.paired_images import Augmentation, PairedImages
from napari_stnreg.training.data.pairing import (
    FixedPairs,
    Pair,
    Pairing,
    PointFiles,
    RandomPairs,
    match_by_name,
    neighbors,
    read_list,
    read_pairs,
    read_point_files,
    split_groups,
    template_pairs,
)
from napari_stnreg.training.data.torch_data import is_samples

Source = str | Path | Sequence[ImageLike] | ImageSet

PairingName = Literal["random", "group", "template", "neighbors", "matched"]
"""How images are paired: any two; any two of one group; each with a template; sections with their neighbors; the images
of a fixed and a moving set one to one."""


def open_training_data(
    source: Source,
    moving: Source | None = None,
    *,
    pairing: PairingName | str = "random",
    template: str | int | None = None,
    pairs: int | None = None,
    max_distance: int = 1,
    validation_fraction: float = 0.15,
    labels: str | Path | None = None,
    moving_labels: str | Path | None = None,
    pattern: str = "*",
    labels_pattern: str | None = None,
    group: str | None = None,
    classes: str | None = None,
    image: str = "image",
    moving_image: str | None = None,
    spacing: str | Sequence[float] | None = None,
    unit: str = "pixel",
    sections: bool = False,
    augmentation: Augmentation | None = None,
    same_image: bool = False,
    grid: Grid | None = None,
    seed: int = 0,
) -> PairedImages:
    """Open image pairs to train on.

    Parameters
    ----------
    source
        A folder of image files; an ``.npz`` file of arrays ``(N, *shape)``; a file that holds a stack or a time series;
        a CSV list with the file names in the columns ``fixed`` and ``moving``, relative to the list (and optionally
        ``split``, where ``val...`` and ``test...`` mark validation pairs, and files of points in ``fixed_points`` and
        ``moving_points``, ``fixed_surface`` and ``moving_surface``); images; or an image set.
    moving
        The same for a separate set of moving images; or a CSV list that pairs the images of ``source`` by name.
    pairing
        See :data:`PairingName`.
    template
        Name or number of the fixed image of every pair; by default the first.
    pairs
        Random pairs in an epoch.
    max_distance
        Largest distance of neighbors, in sections.
    validation_fraction
        Fraction of the subjects kept for validation.
    labels, moving_labels
        Folder of label maps with the images' names, or the name of an array of the npz file.
    pattern, labels_pattern
        Glob patterns of the images and the label maps of a folder; see :meth:`ImageSet.from_folder`.
    group
        Subject of an image: a regular expression for file names, or the name of an array of the npz file.
    classes
        Class of an image, given in the same way; both images of a random pair are of one class.
    image, moving_image
        Names of arrays of the npz file; with ``moving_image`` the two are paired one to one.
    spacing, unit
        Voxel size of an npz file's images, see :meth:`ImageSet.from_npz`.
    sections
        Use a volume's sections as 2D images.
    augmentation, same_image, grid
        See :class:`PairedImages`.
    seed
        Seed of the validation split.

    Raises
    ------
    InputError
        If an input is missing or inconsistent.
    """
    if pairing not in get_args(PairingName):
        raise InputError(f"There is no pairing '{pairing}'. Choose from {', '.join(get_args(PairingName))}.")

    def make(
        fixed: ImageSet,
        other: ImageSet,
        train: Pairing,
        validation: Sequence[Pair],
        points: Mapping[Pair, PointFiles] | None = None,
    ) -> PairedImages:
        return PairedImages(
            fixed, other, train, validation, augmentation=augmentation, same_image=same_image, grid=grid, points=points
        )

    def open_one(what: Source, array: str, truth: str | Path | None) -> ImageSet:
        return _open_set(
            what, array, truth, group, spacing, unit, sections or pairing == "neighbors", pattern, labels_pattern,
            classes,
        )  # fmt: skip

    list_of_files, list_of_names = _list_path(source), _list_path(moving)
    if list_of_files is not None:
        first, second, rows = _from_list(list_of_files)
        points = read_point_files(list_of_files, first, second)
        train, validation = _by_column(rows, first, validation_fraction, seed)
        return make(first, second, FixedPairs(train), validation, points)
    fixed_set = open_one(source, image, labels)
    if list_of_names is not None:
        rows = read_pairs(list_of_names, fixed_set, fixed_set)
        train, validation = _by_column(rows, fixed_set, validation_fraction, seed)
        return make(fixed_set, fixed_set, FixedPairs(train), validation)
    if moving is not None or moving_image is not None:
        moving_set = open_one(source if moving is None else moving, moving_image or image, moving_labels)
        train, validation = _split_pairs(match_by_name(fixed_set, moving_set), fixed_set, validation_fraction, seed)
        return make(fixed_set, moving_set, FixedPairs(train), validation)
    if pairing == "matched":
        raise InputError("The pairing 'matched' needs moving images.")
    return make(
        fixed_set,
        fixed_set,
        *_pairs_within(fixed_set, pairing, template, pairs, max_distance, validation_fraction, seed, same_image),
    )


def _list_path(source: Source | None) -> Path | None:
    """Return the path if it is a CSV list of pairs."""
    if isinstance(source, str | Path) and Path(source).suffix.lower() == ".csv":
        return Path(source)
    return None


def _open_set(
    source: Source,
    image: str,
    labels: str | Path | None,
    group: str | None,
    spacing: str | Sequence[float] | None,
    unit: str,
    sections: bool,
    pattern: str,
    labels_pattern: str | None,
    classes: str | None,
) -> ImageSet:
    if isinstance(source, str | Path) and Path(source).is_dir():
        return ImageSet.from_folder(
            source, labels=labels, pattern=pattern, labels_pattern=labels_pattern, group=group, classes=classes
        )
    if pattern != "*" or labels_pattern is not None:
        raise InputError("Patterns select files in a folder, but the data are not a folder.")
    is_npz = isinstance(source, str | Path) and Path(source).suffix.lower() == ".npz"
    if classes is not None and not is_npz:
        raise InputError("Classes are those of the files of a folder or an array of an .npz file.")
    if isinstance(source, ImageSet):
        return source
    if is_samples(source):
        raise InputError("The data are a list of pairs. Give it to sr.train, or give the moving images as `moving`.")
    if not isinstance(source, (str, Path)):
        images = [as_image(one) for one in source]
        if sections and len(images) == 1:
            return ImageSet.from_stack(images[0])
        return ImageSet.from_images(images)
    path = Path(source)
    if not path.exists():
        raise InputError(f"'{path}' does not exist.")
    if is_npz:
        return ImageSet.from_npz(path, image, None if labels is None else str(labels), group=group, classes=classes,
                                 spacing=spacing, unit=unit)  # fmt: skip
    content = read_content(path)
    if content.frames > 1:
        truth = None if labels is None else read_series(labels)
        return ImageSet.from_images(read_series(path), truth)
    if content.grid.ndim != 3:
        raise InputError(f"'{path.name}' has a single image. Training needs several.")
    return ImageSet.from_stack(read_image(path), None if labels is None else read_image(labels))


def _from_list(path: Path) -> tuple[ImageSet, ImageSet, list[tuple[Pair, str]]]:
    """Open the images of a list, and return its pairs."""
    rows = read_list(path)

    def entries(column: str) -> ImageSet:
        names = list(dict.fromkeys(row[column] for row in rows))
        found = []
        for name in names:
            file = path.parent / name
            if not file.is_file():
                raise InputError(f"'{path.name}' names '{name}', which does not exist.")
            subject = next((row.get("subject") or name for row in rows if row[column] == name), name)
            found.append(Entry(name, subject, file_loader(file, None)))
        return ImageSet(found)

    first, second = entries("fixed"), entries("moving")
    return first, second, read_pairs(path, first, second)


def _by_column(
    rows: Sequence[tuple[Pair, str]], images: ImageSet, validation_fraction: float, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """Split by the column ``split``; without it by subject."""
    if any(word for _, word in rows):
        validation = [pair for pair, word in rows if word.lower().startswith(("val", "test"))]
        return [pair for pair, word in rows if not word.lower().startswith(("val", "test"))], validation
    return _split_pairs([pair for pair, _ in rows], images, validation_fraction, seed)


def _split_pairs(
    pairs: Sequence[Pair], images: ImageSet, validation_fraction: float, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """Split pairs by the subject of the fixed image."""
    train, validation = split_groups([images.groups[a] for a, _ in pairs], validation_fraction, seed)
    return [pairs[i] for i in train], [pairs[i] for i in validation]


def _pairs_within(
    images: ImageSet,
    pairing: str,
    template: str | int | None,
    pairs: int | None,
    max_distance: int,
    validation_fraction: float,
    seed: int,
    same_image: bool,
) -> tuple[Pairing, list[Pair]]:
    if pairing == "neighbors":
        # The last part of the stack is for validation, since neighbors are nearly the same image.
        cut = len(images) - round(validation_fraction * len(images))
        validation_range = range(cut, len(images))
        validation = neighbors(validation_range).pairs if len(validation_range) > 1 else []
        return neighbors(range(cut), max_distance), validation
    train, rest = split_groups(images.groups, validation_fraction, seed)
    if pairing == "template":
        index = 0 if template is None else images.index(str(template))
        all_pairs = template_pairs(range(len(images)), index).pairs
        validation = [pair for pair in all_pairs if pair[1] in set(rest)]
        return FixedPairs([pair for pair in all_pairs if pair[1] not in set(rest)]), validation
    if same_image:
        return FixedPairs([(i, i) for i in train] * -(-(pairs or 1) // len(train))), [(i, i) for i in rest]
    groups = images.groups if pairing == "group" else None
    if images.categories is not None:
        groups = [" ".join(both) for both in zip(groups or [""] * len(images), images.categories, strict=True)]
    if len(rest) < 2:
        ring: list[Pair] = [(train[0], rest[0])] if rest else []
    else:
        ring = list(zip(rest, [*rest[1:], rest[0]], strict=True))
    if groups is not None:
        ring = [(a, b) for a, b in ring if groups[a] == groups[b] and a != b]
    return RandomPairs(train, pairs, groups), ring
