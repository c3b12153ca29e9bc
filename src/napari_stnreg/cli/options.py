"""Options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from cyclopts import Parameter, Token

from napari_stnreg.cli.progress import log_placement
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.settings import Settings

if TYPE_CHECKING:
    from napari_stnreg.core.grid import FloatArray
    from napari_stnreg.core.image import Image
    from napari_stnreg.io.file_content import FileContent
    from napari_stnreg.series.sources import Series

SettingsType = TypeVar("SettingsType", bound=Settings)

AsSettings = Parameter(
    name="*", group="Settings", negative=None, negative_bool="no-", negative_none="", negative_iterable=""
)
"""One flag for each field of a settings model."""

AsOptions = Parameter(name="*")
"""One flag for each field of a dataclass."""


def convert_text(convert: Callable[[str], Any], expected: str) -> Callable[[Any, Sequence[Token]], Any]:
    """Build a converter of one word whose error names the word and what is expected.

    Parameters
    ----------
    convert
        Converts the word; raises ValueError if it cannot.
    expected
        What the word must be, with an article and an example.
    """

    def converter(kind: Any, tokens: Sequence[Token]) -> Any:
        text = tokens[0].value
        try:
            return convert(text)
        except ValueError as error:
            raise ValueError(f"'{text}' is not {expected}.") from error

    return converter


def _spacing(text: str) -> tuple[float, ...]:
    """Convert ``2`` or ``2,0.5,0.5`` to voxel sizes."""
    sizes = tuple(float(word) for word in text.split(","))
    if not all(0 < size < float("inf") for size in sizes):
        raise ValueError(text)
    return sizes


def _size(text: str) -> tuple[int, ...]:
    """Convert ``128,128`` to a number of voxels along each axis."""
    size = tuple(int(word) for word in text.split(","))
    if min(size) < 1:
        raise ValueError(text)
    return size


Output = Annotated[Path, Parameter(alias="-o")]
Frame = Annotated[int | None, Parameter(group="Reading")]
Spacing = Annotated[
    tuple[float, ...] | None,
    Parameter(converter=convert_text(_spacing, "a voxel size, such as 2,0.5,0.5"), n_tokens=1, group="Reading"),
]
Size = Annotated[
    tuple[int, ...] | None,
    Parameter(converter=convert_text(_size, "a size in voxels, such as 128,128"), n_tokens=1),
]
Unit = Annotated[str | None, Parameter(group="Reading")]
Config = Annotated[Path | None, Parameter(group="Settings")]


@dataclass(frozen=True)
class Placement:
    """Voxel sizes and units that replace those of the files.

    Parameters
    ----------
    fixed_spacing
        Voxel size of the fixed image, such as 2,0.5,0.5 (z,y,x).
    fixed_unit
        Unit of the fixed image: pixel, um, mm, ...
    moving_spacing
        Voxel size of the moving image.
    moving_unit
        Unit of the moving image.
    """

    fixed_spacing: Spacing = None
    fixed_unit: Unit = None
    moving_spacing: Spacing = None
    moving_unit: Unit = None

    def place(self, image: Image, side: Literal["fixed", "moving"], mask: Path | None, frame: int | None) -> Image:
        """Give an image that was read its voxel size and unit, and the mask of one of its frames."""
        from napari_stnreg.io.conversion import override_geometry
        from napari_stnreg.resampling.masks import read_mask

        image = override_geometry(image, getattr(self, f"{side}_spacing"), getattr(self, f"{side}_unit"))
        return image if mask is None else image.replace(mask=read_mask(mask, image, frame or 0))


@dataclass(frozen=True)
class TransformFrame:
    """Images and coordinate system of a transform in the file of another program.

    Parameters
    ----------
    fixed
        The fixed image, where the transform begins. It defines the coordinate system and the voxels of displacement
        fields.
    moving
        The moving image, where the transform ends. It defines the coordinate system of the moving side.
    space
        Coordinate system of all images: scanner for images from NIfTI files, world for all others.
    unit
        Unit of a world without scanner coordinates: pixel, um, mm, ...
    """

    fixed: Path | None = None
    moving: Path | None = None
    space: Literal["scanner", "world"] | None = None
    unit: str | None = None

    def read_images(self) -> tuple[FileContent | None, FileContent | None]:
        """Read what is known of the images, and log their placement."""
        from napari_stnreg.io.image import read_content

        fixed, moving = (None if path is None else read_content(path) for path in (self.fixed, self.moving))
        log_placement(fixed, moving)
        return fixed, moving


@dataclass(frozen=True)
class Annotations:
    """Masks and landmarks of a pair of images.

    Parameters
    ----------
    fixed_mask
        Mask of the fixed image: voxels that are not zero count. On any grid, or with the image's own shape.
    moving_mask
        Mask of the moving image.
    landmarks
        CSV file of point pairs with the columns fixed_z,fixed_y,fixed_x,moving_z,moving_y,moving_x (2D without z),
        or without a header in this order, or a landmark file of BigWarp. World coordinates, each in the unit of its
        image.
    fixed_landmarks
        File of the fixed points alone, paired by order: .csv with columns z,y,x (world coordinates), of napari (voxels)
        or ANTs, .fcsv or .mrk.json of 3D Slicer.
    moving_landmarks
        File of the moving points alone.
    """

    fixed_mask: Annotated[Path | None, Parameter(group="Masks and landmarks")] = None
    moving_mask: Annotated[Path | None, Parameter(group="Masks and landmarks")] = None
    landmarks: Annotated[Path | None, Parameter(group="Masks and landmarks")] = None
    fixed_landmarks: Annotated[Path | None, Parameter(group="Masks and landmarks")] = None
    moving_landmarks: Annotated[Path | None, Parameter(group="Masks and landmarks")] = None

    def read_landmarks(self, fixed: Image, moving: Image) -> tuple[FloatArray | None, FloatArray | None]:
        """Read the landmarks of both images, as :func:`napari_stnreg.io.points.read_landmarks` does."""
        from napari_stnreg.io.points import read_landmarks

        return read_landmarks(
            self.landmarks, self.fixed_landmarks, self.moving_landmarks, fixed.ndim, fixed_image=fixed,
            moving_image=moving,
        )  # fmt: skip


@dataclass(frozen=True)
class SeriesReading:
    """How a time series is read.

    Parameters
    ----------
    axes
        Letters of the axes, such as tyx, tzyx or tcyx, if the file does not state them.
    spacing
        Voxel size, such as 2,0.5,0.5 (z,y,x).
    unit
        Unit of the voxel size: pixel, um, mm, ...
    """

    axes: Annotated[str | None, Parameter(group="Reading")] = None
    spacing: Spacing = None
    unit: Unit = None

    def open(self, path: Path) -> Series:
        """Open the series."""
        from napari_stnreg.series.sources import open_series

        return open_series(path, axes=self.axes, spacing=self.spacing, unit=self.unit)


def merge_config(settings: SettingsType, config: Path | None) -> SettingsType:
    """Combine settings given as flags with those of a JSON file; the flags win.

    Parameters
    ----------
    settings
        The flags.
    config
        A JSON object of settings, or a report that holds one under ``settings``.

    Raises
    ------
    InputError
        If the file is not a JSON object, or a name or value is not allowed.
    """
    if config is None:
        return settings
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"'{config}' cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise InputError(f"'{config}' is not valid JSON: {error}.") from error
    if isinstance(values, dict) and isinstance(values.get("settings"), dict):
        values = values["settings"]
    if not isinstance(values, dict):
        raise InputError(f"'{config}' must hold a JSON object of settings.")
    return type(settings).merge(type(settings).parse(**values), settings.model_dump(exclude_unset=True))
