"""The images of a training: recorded when Train is pressed, and opened in the worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.training.working_grid import working_grid
from napari_stnreg.widgets.common.layer_io import LayerSource

if TYPE_CHECKING:
    from napari_stnreg.training.data.image_sets import ImageSet
    from napari_stnreg.training.data.paired_images import PairedImages


@dataclass(frozen=True)
class TrainingImages:
    """What is trained on.

    Parameters
    ----------
    fixed, moving
        Layers, or a path; ``moving`` only where fixed and moving images are two lists.
    pairing
        As :func:`~napari_stnreg.training.data.datasets.open_training_data` knows it.
    template
        Name or number of the image that all others are paired with.
    validation_fraction
        Share that is kept for validation.
    size
        Longest side of the images as the network sees them; see :func:`working_grid`.
    augmentation
        Key of ``AUGMENTATION_HELP``.
    subject, array, moving_array
        For files: how the subject follows from a name, and which arrays of an npz file hold the images.
    seed
        Of the choice of those held back.
    """

    fixed: tuple[LayerSource, ...] | str
    moving: tuple[LayerSource, ...] | str | None = None
    pairing: str = "random"
    template: str | None = None
    validation_fraction: float = 0.15
    size: int | None = None
    augmentation: str = "none"
    subject: str | None = None
    array: str | None = None
    moving_array: str | None = None
    seed: int = 0

    @property
    def keywords(self) -> dict[str, Any]:
        """What is passed on besides the images, as a script would write it."""
        chosen: dict[str, Any] = {"validation_fraction": self.validation_fraction, "seed": self.seed}
        if self.pairing != "matched":  # the moving images, or the list, say it themselves
            chosen["pairing"] = self.pairing
        optional = {"template": self.template, "group": self.subject, "image": self.array,
                    "moving_image": self.moving_array}  # fmt: skip
        return chosen | {name: value for name, value in optional.items() if value}

    def open(self) -> PairedImages:
        """Open them; for use in the worker.

        Raises
        ------
        InputError
            If they cannot be read or do not go together.
        """
        from napari_stnreg.training.data.datasets import open_training_data
        from napari_stnreg.training.data.paired_images import Augmentation, augmentation_preset

        fixed = self.fixed if isinstance(self.fixed, str) else image_set(self.fixed)
        moving = self.moving if self.moving is None or isinstance(self.moving, str) else image_set(self.moving)
        data = open_training_data(fixed, moving, **self.keywords)
        data.grid = working_grid(data.grid, self.size)
        data.augmentation = augmentation_preset(self.augmentation, data.grid) or Augmentation()
        return data

    def place(self) -> Grid | None:
        """Return where the images are placed in the viewer; ``None`` for files."""
        if isinstance(self.fixed, str):
            return None
        return source_grid(self.fixed[0], sections=len(self.fixed) == 1)


def source_grid(source: LayerSource, *, sections: bool) -> Grid:
    """Return the grid of a layer's single images: of its sections where it is split into them."""
    grid = source.grid
    if not (sections and "t" not in source.layout and grid.ndim == 3):
        return grid
    flat = grid.matrix[1:, 1:].copy()
    return Grid(grid.shape[1:], flat, grid.unit)


def image_set(sources: tuple[LayerSource, ...]) -> ImageSet:
    """Layers as a set: the frames or sections of one, or one image of each of several.

    Raises
    ------
    InputError
        If a single layer has neither frames nor sections.
    """
    from napari_stnreg.training.data.image_sets import Entry, ImageSet

    if len(sources) > 1:
        return ImageSet([Entry(one.name, one.name, one.image) for one in sources])
    source = sources[0]
    if "t" in source.layout:
        loaders: list[Callable[[], Image]] = [partial(source.image, frame) for frame in range(source.frames)]
    elif "z" in source.layout:
        loaders = [partial(_section, source, z) for z in range(source.grid.shape[0])]
    else:
        raise InputError(f"'{source.name}' is a single image. Choose a stack, a time series, or several layers.")
    names = [f"{source.name} [{i}]" for i in range(len(loaders))]
    return ImageSet([Entry(name, name, load) for name, load in zip(names, loaders, strict=True)])


def _section(source: LayerSource, z: int) -> Image:
    """Return one section of a volume as a 2D image; only this one is read."""
    axis = source.layout.index("z")
    grid = source_grid(source, sections=True)
    own = Grid.from_spacing(grid.shape, grid.spacing.tolist(), unit=grid.unit)
    data = source.data[(slice(None),) * axis + (z,)]
    flat = replace(source, data=data, grid=own, layout=source.layout.replace("z", ""), mask=None)
    return flat.image().replace(name=f"{source.name} [{z}]")
