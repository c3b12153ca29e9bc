"""One call from what a person has (a file, a folder, a list, layers) to pairs to train on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.io.image import read_content, read_image, read_series
from napari_stnreg.training.data.image_sets import Entry, ImageSet, file_loader
from napari_stnreg.training.data.paired_images import Augmentation, PairedImages
from napari_stnreg.training.data.pairing import (
    FixedPairs,
    Pair,
    Pairing,
    RandomPairs,
    match_by_name,
    neighbors,
    read_list,
    read_pairs,
    split,
    template_pairs,
)

Source = str | Path | Sequence[Image] | ImageSet

PairingName = Literal["random", "group", "template", "neighbors", "matched"]
"""How images are paired: any two; any two of one subject; each with a template; sections with their neighbors; the
images of a fixed and a moving set one to one."""


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
    group: str | None = None,
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
    """Pairs to train on, from files, a folder or images in memory.

    Parameters
    ----------
    source
        A folder of image files; an ``.npz`` file of arrays ``(N, *shape)``; a file that holds a stack or a time series;
        a CSV list whose columns ``fixed`` and ``moving`` name files beside it (and ``split`` those held back, by any
        word that begins with ``val`` or ``test``); images; or a set.
    moving
        The same for the moving images, where they are a set of their own; or the CSV list that pairs the images of
        ``source`` by their names.
    pairing
        See :data:`PairingName`.
    template
        Name or number of the fixed image of every pair; the first one if not given.
    pairs
        Pairs in an epoch of random ones.
    max_distance
        How far away neighbors may be.
    validation_fraction
        Fraction of the subjects kept for validation.
    labels, moving_labels
        A folder of label maps under the images' names, or the name of an array of the npz file.
    group
        Which subject an image is of: a regular expression for file names, or the name of an array of the npz file.
    image, moving_image
        Arrays of the npz file; with ``moving_image`` the two are paired one to one.
    spacing, unit
        Voxel size of an npz file's images, see :meth:`ImageSet.from_npz`.
    sections
        Take a volume's sections as 2D images.
    augmentation, same_image, grid
        See :class:`PairedImages`.
    seed
        Of the choice of those held back.

    Raises
    ------
    InputError
        If something is missing or does not fit; one sentence says what.
    """
    if pairing not in get_args(PairingName):
        raise InputError(f"There is no pairing '{pairing}'; choose {', '.join(get_args(PairingName))}.")

    def paired(fixed: ImageSet, other: ImageSet, train: Pairing, held: Sequence[Pair]) -> PairedImages:
        return PairedImages(fixed, other, train, held, augmentation=augmentation, same_image=same_image, grid=grid)

    def opened(what: Source, array: str, truth: str | Path | None) -> ImageSet:
        return _open_set(what, array, truth, group, spacing, unit, sections or pairing == "neighbors")

    list_of_files, list_of_names = _list_path(source), _list_path(moving)
    if list_of_files is not None:
        first, second, rows = _from_list(list_of_files)
        train, held = _by_column(rows, first, validation_fraction, seed)
        return paired(first, second, FixedPairs(train), held)
    fixed_set = opened(source, image, labels)
    if list_of_names is not None:
        train, held = _by_column(read_pairs(list_of_names, fixed_set, fixed_set), fixed_set, validation_fraction, seed)
        return paired(fixed_set, fixed_set, FixedPairs(train), held)
    if moving is not None or moving_image is not None:
        moving_set = opened(source if moving is None else moving, moving_image or image, moving_labels)
        train, held = _split_pairs(match_by_name(fixed_set, moving_set), fixed_set, validation_fraction, seed)
        return paired(fixed_set, moving_set, FixedPairs(train), held)
    if pairing == "matched":
        raise InputError("Images are matched one to one with moving images; give those too.")
    return paired(
        fixed_set,
        fixed_set,
        *_among(fixed_set, pairing, template, pairs, max_distance, validation_fraction, seed, same_image),
    )


def _list_path(source: Source | None) -> Path | None:
    """The path, if it is that of a list of pairs."""
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
) -> ImageSet:
    if isinstance(source, ImageSet):
        return source
    if not isinstance(source, (str, Path)):
        images = list(source)
        if sections and len(images) == 1:
            return ImageSet.from_stack(images[0])
        return ImageSet.from_images(images)
    path = Path(source)
    if path.is_dir():
        return ImageSet.from_folder(path, labels=labels, group=group)
    if path.suffix.lower() == ".npz":
        return ImageSet.from_npz(path, image, None if labels is None else str(labels), group=group, spacing=spacing,
                               unit=unit)  # fmt: skip
    content = read_content(path)
    if content.frames > 1:
        truth = None if labels is None else read_series(labels)
        return ImageSet.from_images(read_series(path), truth)
    if content.grid.ndim != 3:
        raise InputError(f"'{path.name}' holds a single image; training needs several.")
    return ImageSet.from_stack(read_image(path), None if labels is None else read_image(labels))


def _from_list(path: Path) -> tuple[ImageSet, ImageSet, list[tuple[Pair, str]]]:
    """The images that a list names, and its rows."""
    rows = read_list(path)

    def entries(column: str) -> ImageSet:
        names = list(dict.fromkeys(row[column] for row in rows))
        found = []
        for name in names:
            file = path.parent / name
            if not file.is_file():
                raise InputError(f"'{path.name}' names '{name}', which is not there.")
            subject = next((row.get("subject") or name for row in rows if row[column] == name), name)
            found.append(Entry(name, subject, file_loader(file, None)))
        return ImageSet(found)

    first, second = entries("fixed"), entries("moving")
    return first, second, read_pairs(path, first, second)


def _by_column(
    rows: Sequence[tuple[Pair, str]], images: ImageSet, share: float, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """As the column ``split`` says; without it by subject."""
    if any(word for _, word in rows):
        held = [pair for pair, word in rows if word.lower().startswith(("val", "test"))]
        return [pair for pair, word in rows if not word.lower().startswith(("val", "test"))], held
    return _split_pairs([pair for pair, _ in rows], images, share, seed)


def _split_pairs(pairs: Sequence[Pair], images: ImageSet, share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """By the subject of the fixed image."""
    train, held = split([images.groups[a] for a, _ in pairs], share, seed)
    return [pairs[i] for i in train], [pairs[i] for i in held]


def _among(
    images: ImageSet,
    pairing: str,
    template: str | int | None,
    pairs: int | None,
    max_distance: int,
    share: float,
    seed: int,
    same_image: bool,
) -> tuple[Pairing, list[Pair]]:
    if pairing == "neighbors":
        # Sections of one stack: the held-back ones are its last part, since neighbors are nearly the same image.
        cut = len(images) - round(share * len(images))
        held_places = range(cut, len(images))
        held = neighbors(held_places).pairs if len(held_places) > 1 else []
        return neighbors(range(cut), max_distance), held
    train, kept = split(images.groups, share, seed)
    if pairing == "template":
        place = 0 if template is None else images.index(str(template))
        everyone = template_pairs(range(len(images)), place).pairs
        held = [pair for pair in everyone if pair[1] in set(kept)]
        return FixedPairs([pair for pair in everyone if pair[1] not in set(kept)]), held
    if same_image:
        return FixedPairs([(i, i) for i in train]), [(i, i) for i in kept]
    groups = images.groups if pairing == "group" else None
    if len(kept) < 2:
        ring: list[Pair] = [(train[0], kept[0])] if kept else []
    else:
        ring = list(zip(kept, [*kept[1:], kept[0]], strict=True))
    if groups is not None:
        ring = [(a, b) for a, b in ring if groups[a] == groups[b] and a != b]
    return RandomPairs(train, pairs, groups), ring
