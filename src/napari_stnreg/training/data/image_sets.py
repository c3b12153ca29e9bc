"""Image sets for training: a stack, several images, a folder of files, or the arrays of an npz file.

A set knows number, names and subjects of its images. Voxels are read on access and cached up to a memory limit.
"""

from __future__ import annotations

import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.io.formats import is_image_path
from napari_stnreg.io.image import SUPPORTED_SUFFIXES, read_content, read_image, suffix_of

CACHE_BYTES = 2**30
"""Largest size of a set's cache."""

MANY_LABELS = 64
"""Different values above which a label map is checked for being an image."""
EQUAL_NEIGHBORS = 0.5
"""Fraction of neighboring voxels with equal values, background aside, that label maps exceed: 0.72 to 0.96 were
measured for label maps of heads, hearts and neuropil, 0.05 to 0.35 for images of 8 bits."""

Loader = Callable[[], Image]


@dataclass(frozen=True)
class Entry:
    """One image of a set.

    Parameters
    ----------
    name
        Name in lists of pairs and messages.
    group
        Subject (patient, specimen, case); training and validation never share one.
    load
        Reads the image.
    load_labels
        Reads its label map, if it has one.
    category
        Class of the image, such as the digit it shows; random pairs are of one class.
    """

    name: str
    group: str
    load: Loader
    load_labels: Loader | None = None
    category: str | None = None


class ImageSet:
    """Images that are read on access.

    Parameters
    ----------
    entries
        The images.
    cache_bytes
        Size of the cache.

    Raises
    ------
    InputError
        If there is no image, or two have the same name.
    """

    def __init__(self, entries: Sequence[Entry], cache_bytes: int = CACHE_BYTES) -> None:
        if not entries:
            raise InputError("The image set is empty.")
        self.entries = list(entries)
        self._places = {entry.name: i for i, entry in enumerate(self.entries)}
        if len(self._places) < len(self.entries):
            twice = next(e.name for i, e in enumerate(self.entries) if self._places[e.name] != i)
            raise InputError(f"Two images are named '{twice}'. Rename one.")
        self._cache: OrderedDict[tuple[int, bool], Image] = OrderedDict()
        self._limit, self._held = cache_bytes, 0

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def names(self) -> list[str]:
        """Names of the images."""
        return [entry.name for entry in self.entries]

    @property
    def groups(self) -> list[str]:
        """Subject of each image."""
        return [entry.group for entry in self.entries]

    @property
    def categories(self) -> list[str] | None:
        """Class of each image, or ``None`` without classes."""
        found = [entry.category for entry in self.entries]
        return None if None in found else [str(category) for category in found]

    @property
    def has_labels(self) -> bool:
        """Whether every image has a label map."""
        return all(entry.load_labels is not None for entry in self.entries)

    def index(self, name: str) -> int:
        """Return the index of an image, by its name or its number from 0.

        Raises
        ------
        InputError
            If there is no such image.
        """
        if name in self._places:
            return self._places[name]
        stem = Path(name).name
        for stop_reason in SUPPORTED_SUFFIXES:
            if stem.lower().endswith(stop_reason) and stem[: -len(stop_reason)] in self._places:
                return self._places[stem[: -len(stop_reason)]]
        if re.fullmatch(r"\d+", name) and int(name) < len(self):
            return int(name)
        raise InputError(f"There is no image '{name}'. Names are {', '.join(self.names[:4])} and so on.")

    def image(self, index: int) -> Image:
        """Return one image."""
        return self._loaded(index, False)

    def labels(self, index: int) -> Image | None:
        """Return the label map of an image, or ``None``."""
        return None if self.entries[index].load_labels is None else self._loaded(index, True)

    def _loaded(self, index: int, labels: bool) -> Image:
        key = (index, labels)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        entry = self.entries[index]
        load = entry.load_labels if labels else entry.load
        assert load is not None
        image = load()
        if labels:
            _check_labels(entry.name, image, self.image(index).grid)
        self._cache[key] = image
        self._held += np.asarray(image.data).nbytes
        while self._held > self._limit and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._held -= np.asarray(dropped.data).nbytes
        return image

    def subset(self, indices: Sequence[int]) -> ImageSet:
        """Return a set of some of the images."""
        return ImageSet([self.entries[i] for i in indices], self._limit)

    @classmethod
    def from_images(
        cls, images: Sequence[Image], labels: Sequence[Image] | None = None, groups: Sequence[str] | None = None
    ) -> ImageSet:
        """Build a set from images in memory; each is a subject of its own unless ``groups`` is given.

        Raises
        ------
        InputError
            If there are not as many label maps or groups as images.
        """
        for what, given in (("label maps", labels), ("groups", groups)):
            if given is not None and len(given) != len(images):
                raise InputError(f"There are {len(images)} images and {len(given)} {what}. Give one for each image.")
        names = _unique_names([image.name for image in images])
        entries = []
        for i, (name, image) in enumerate(zip(names, images, strict=True)):
            label = None if labels is None else constant_loader(labels[i])
            entries.append(Entry(name, name if groups is None else str(groups[i]), constant_loader(image), label))
        return cls(entries)

    @classmethod
    def from_stack(cls, stack: Image, labels: Image | None = None) -> ImageSet:
        """Build a set from the sections of a volume along its first axis.

        Raises
        ------
        InputError
            If the stack is not 3D, or the label map has another shape.
        """
        if stack.ndim != 3:
            raise InputError(f"'{stack.name}' is {stack.ndim}D. A stack of sections has three axes.")
        if labels is not None and labels.grid.shape != stack.grid.shape:
            raise InputError(f"The labels of '{stack.name}' have shape {labels.grid.shape}, it has {stack.grid.shape}.")
        grid = Grid.from_spacing(stack.grid.shape[1:], stack.grid.spacing[1:].tolist(), unit=stack.grid.unit)

        def section(volume: Image, z: int) -> Loader:
            mask = None if volume.mask is None else volume.mask[z]
            return lambda: Image(np.asarray(volume.data[z]), grid, mask, f"z{z}", volume.rgb)

        entries = [
            Entry(f"z{z}", f"z{z}", section(stack, z), None if labels is None else section(labels, z))
            for z in range(stack.grid.shape[0])
        ]
        return cls(entries)

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        *,
        labels: str | Path | None = None,
        pattern: str = "*",
        labels_pattern: str | None = None,
        group: str | None = None,
        classes: str | None = None,
    ) -> ImageSet:
        r"""Build a set from the image files of a folder, in order of name; each frame of a file is one image.

        Parameters
        ----------
        folder
            Folder of TIFF, PNG, JPEG, NIfTI or NumPy files.
        labels
            Folder with a label map for each image under the same name; the extension may differ.
        pattern
            Glob pattern of the images, such as ``*_T1.nii.gz``.
        labels_pattern
            Glob pattern of the label maps, such as ``*_seg.nii.gz``, in the folder of the labels or, without it, in
            that of the images. An image and a label map belong together if the ``*`` of the two patterns stands for the
            same text.
        classes
            Regular expression for the class in a file name, as ``group``.
        group
            Regular expression for the subject in a file name, its first group or the whole match: ``(IXI\d+)``. By
            default each file is a subject of its own.

        Raises
        ------
        InputError
            If the folder is missing or holds no image, a label map is missing, label maps are among the images, or the
            expression does not match.
        """
        folder = Path(folder)
        files = _image_files(folder, pattern)
        masks = None
        if labels is not None or labels_pattern is not None:
            where = folder if labels is None else Path(labels)
            masks = {_key(p, labels_pattern or "*"): p for p in _image_files(where, labels_pattern or "*")}
        held = set() if masks is None else {path.resolve() for path in masks.values()}
        files = [path for path in files if path.resolve() not in held]
        _check_no_labels(files, folder)
        entries: list[Entry] = []
        for path in files:
            stem = _stem(path)
            subject = _group_of(stem, group)
            category = None if classes is None else _group_of(stem, classes)
            label_path = None
            if masks is not None:
                key = _key(path, pattern)
                if key not in masks:
                    which = "of the same name" if labels_pattern is None else f"that matches '{labels_pattern}'"
                    raise InputError(f"'{path.name}' has no label map {which} in '{labels or folder}'.")
                label_path = masks[key]
            frames = read_content(path).frames
            for frame in range(frames):
                name = stem if frames == 1 else f"{stem} [{frame}]"
                number = None if frames == 1 else frame
                label = None if label_path is None else file_loader(label_path, number)
                entries.append(Entry(name, subject, file_loader(path, number), label, category))
        return cls(entries)

    @classmethod
    def from_npz(
        cls,
        path: str | Path,
        image: str = "image",
        labels: str | None = None,
        *,
        group: str | None = None,
        classes: str | None = None,
        spacing: str | Sequence[float] | None = None,
        unit: str = "pixel",
    ) -> ImageSet:
        """Build a set from the entries along the first axis of an array in an npz file.

        Parameters
        ----------
        path
            The file.
        image, labels
            Names of arrays ``(N, *shape)``.
        group
            Name of an array ``(N,)`` of subjects; by default each image is its own.
        classes
            Name of an array ``(N,)`` of classes, such as the digits that the images show.
        spacing
            Voxel size along each axis, or the name of an array with it; 1 by default.
        unit
            Unit of the spacing.

        Raises
        ------
        InputError
            If the file is missing or damaged, an array is missing, or the shapes differ.
        """
        path = Path(path)
        arrays = read_arrays(path, [n for n in (image, labels, group, classes) if n is not None])
        data = arrays[image]
        if data.ndim not in (3, 4):
            raise InputError(f"'{image}' of '{path.name}' has {data.ndim} axes. A set of images must have 3 or 4.")
        for name, array in arrays.items():
            if len(array) != len(data) or (name == labels and array.shape != data.shape):
                raise InputError(f"'{name}' of '{path.name}' has shape {array.shape}, '{image}' {data.shape}.")
        steps: Any = 1.0 if spacing is None else spacing
        if isinstance(steps, str):
            steps = read_arrays(path, [steps])[steps].astype(float).tolist()
        grid = Grid.from_spacing(data.shape[1:], steps, unit=unit)
        for one in (group, classes):
            if one is not None and arrays[one].size != len(data):
                raise InputError(
                    f"'{one}' of '{path.name}' has shape {arrays[one].shape}. It needs one value for each image."
                )
        groups = [str(i) for i in range(len(data))] if group is None else [str(g) for g in arrays[group].ravel()]
        kinds: list[str | None] = [None] * len(data) if classes is None else [str(c) for c in arrays[classes].ravel()]

        def entry(array: npt.NDArray[Any], i: int) -> Loader:
            return lambda: Image(array[i], grid, name=f"{image} {i}")

        entries = [
            Entry(str(i), groups[i], entry(data, i), None if labels is None else entry(arrays[labels], i), kinds[i])
            for i in range(len(data))
        ]
        return cls(entries)


def read_arrays(path: Path, names: Sequence[str]) -> Mapping[str, npt.NDArray[Any]]:
    """Read arrays of an npz file by name.

    Raises
    ------
    InputError
        If the file cannot be read or an array is missing.
    """
    if not path.exists():
        raise InputError(f"'{path}' does not exist.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in names if name not in archive.files]
            if missing:
                raise InputError(
                    f"'{path.name}' has no array '{missing[0]}'. It holds {', '.join(archive.files) or 'nothing'}."
                )
            return {name: archive[name] for name in names}
    except InputError:
        raise
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"'{path.name}' is not a readable npz file.") from error


def _image_files(folder: Path, pattern: str) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"'{folder}' is not a folder.")
    files = [path for path in sorted(folder.glob(pattern)) if is_image_path(path)]
    if not files:
        which = "" if pattern == "*" else f" that matches '{pattern}'"
        raise InputError(f"'{folder}' has no image{which}. Supported: {', '.join(SUPPORTED_SUFFIXES)}.")
    return files


def _key(path: Path, pattern: str) -> str:
    """Return what the first ``*`` of a pattern stands for in a file name, without the extension for ``*`` alone."""
    if pattern == "*":
        return _stem(path)
    parts = re.split(r"([*?])", pattern.rsplit("/", 1)[-1])
    first = next((i for i, part in enumerate(parts) if part == "*"), None)
    groups = [("(.*)" if i == first else ".*") if part == "*" else "." if part == "?" else re.escape(part)
              for i, part in enumerate(parts)]  # fmt: skip
    found = re.fullmatch("".join(groups), path.name, re.IGNORECASE)
    return found.group(1) if found is not None and found.re.groups else _stem(path)


def _check_no_labels(files: Sequence[Path], folder: Path) -> None:
    """Refuse a folder in which label maps lie beside their images: files of equal names but for the ending."""
    families: dict[str, set[str]] = {}
    for path in files:
        stem = _stem(path)
        cut = max(stem.rfind(mark) for mark in "_-. ")
        families.setdefault(stem, set()).add("")
        if cut > 0:
            families.setdefault(stem[:cut], set()).add(stem[cut:])
    together = [(base, ends) for base, ends in families.items() if len(ends) > 1]
    checked: set[str] = set()
    for base, ends in together:
        for end in sorted(ends - checked - {""}):
            checked.add(end)
            path = next(path for path in files if _stem(path) == base + end)
            content = read_content(path)
            if content.frames == 1 and is_label_map(np.asarray(read_image(path).data)):
                name, suffix = path.name, suffix_of(path)
                others = " or ".join(f"'*{other}{suffix}'" for other in sorted(ends - {end}))
                raise InputError(
                    f"'{folder}' holds label maps beside the images, such as '{name}'. Give the pattern of the label "
                    f"maps, '*{end}{suffix}' (--labels-pattern), and that of the images, {others} (--pattern)."
                )


def is_label_map(values: npt.NDArray[Any]) -> bool:
    """Return whether values are whole numbers that are mostly equal to their neighbor, as in label maps."""
    if values.dtype.kind not in "buif" or (values.dtype.kind == "f" and not np.array_equal(values, np.round(values))):
        return False
    one, other = values[..., 1:], values[..., :-1]
    inside = (one != 0) | (other != 0)
    return bool(inside.any() and (one == other)[inside].mean() > EQUAL_NEIGHBORS)


def _stem(path: Path) -> str:
    return path.name[: -len(suffix_of(path))]


def _group_of(name: str, expression: str | None) -> str:
    if expression is None:
        return name
    try:
        found = re.search(expression, name)
    except re.error as error:
        raise InputError(f"'{expression}' is not a regular expression: {error}.") from error
    if found is None:
        raise InputError(f"The expression '{expression}' finds no subject in '{name}'.")
    return found.group(1) if found.re.groups else found.group(0)


_CHOOSE_LABELS = "Give the pattern of the label files (--labels-pattern), such as '*_seg.nii.gz'."


def constant_loader(image: Image) -> Loader:
    """Return a loader of an image in memory."""
    return lambda: image


def file_loader(path: Path, frame: int | None) -> Loader:
    """Return a loader of one image of a file."""
    return lambda: read_image(path, frame)


def _unique_names(names: Sequence[str]) -> list[str]:
    """Return the names, with a number appended to those that occur more than once."""
    return [name if names.count(name) == 1 else f"{name} {i}" for i, name in enumerate(names)]


def _check_labels(name: str, labels: Image, grid: Grid) -> None:
    if labels.grid.shape != grid.shape or labels.has_channel_axis:
        raise InputError(f"The label map of '{name}' has shape {tuple(labels.data.shape)}, the image {grid.shape}.")
    if labels.data.dtype.kind not in "buif":
        raise InputError(f"The label map of '{name}' holds values of type {labels.data.dtype}, not whole numbers.")
    values = np.asarray(labels.data)
    if values.dtype.kind == "f" and not np.array_equal(values, np.round(values)):
        raise InputError(f"The label map of '{name}' holds fractions, as images do. {_CHOOSE_LABELS}")
    count = len(np.unique(values))
    if count > MANY_LABELS and not is_label_map(values):
        raise InputError(f"The label map of '{name}' holds {count:,} values, as images do. {_CHOOSE_LABELS}")
