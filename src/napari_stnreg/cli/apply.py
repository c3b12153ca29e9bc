"""``stnreg apply``: warp images, labels or points by a transform."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from napari_stnreg.cli.options import AsOptions, Frame, Output, Placement
from napari_stnreg.cli.progress import PROGRESS, logger
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.output_guard import check_output
from napari_stnreg.io.image import check_image_output

if TYPE_CHECKING:
    from napari_stnreg.transforms import Transform


def apply(
    transform: Path,
    moving: Path,
    /,
    *,
    output: Output,
    reference: Annotated[Path | None, Parameter(alias="-r")] = None,
    interpolation: Literal["nearest", "linear", "cubic"] = "linear",
    fill: float | None = None,
    inverse: bool = False,
    overwrite: bool = False,
    frame: Frame = None,
    placement: Annotated[Placement, AsOptions] = Placement(),  # noqa: B008
) -> None:
    """Warp an image or points by a transform.

    Images are warped onto the grid of the reference, every frame and channel. If MOVING is a .csv file of points,
    the points of the moving side are mapped to the fixed side through the inverse of the transform, and no reference
    is needed.

    Parameters
    ----------
    transform
        A transform, ours or any file that 'convert' reads.
    moving
        The image (or .csv file of points) to warp.
    output
        File to write.
    reference
        Image whose grid the result has; usually FIXED.
    interpolation
        Use nearest for labels: it keeps their values.
    fill
        Value outside MOVING (default: the value of its border as in 'register'; 0 with nearest).
    inverse
        Apply the inverse: MOVING is then of the fixed side and the reference of the moving side.
    overwrite
        Replace the output if it exists.
    frame
        Only this frame of MOVING, counted from 0.
    """
    inputs = (transform, moving, reference)
    if moving.suffix.lower() == ".csv":
        check_output(output, inputs, overwrite=overwrite)
    else:
        check_image_output(output, inputs, overwrite=overwrite)
    if moving.suffix.lower() == ".csv":
        through = _apply_to_points(transform, moving, reference, output, inverse)
    else:
        if reference is None:
            raise InputError("Give -r FIXED, the image on whose grid the result lies.")
        through = _apply_to_images(
            transform, moving, reference, output, interpolation, fill, inverse, frame, placement
        )  # fmt: skip
    print(output)

    if (warning := through.warning) is not None:
        logger.log(PROGRESS, "%s", warning)


def _apply_to_images(
    path: Path,
    moving: Path,
    reference: Path,
    output: Path,
    interpolation: Literal["nearest", "linear", "cubic"],
    fill: float | None,
    inverse: bool,
    frame: int | None,
    placement: Placement,
) -> Transform:
    from napari_stnreg.io.conversion import override_geometry, override_grid
    from napari_stnreg.io.image import read_content
    from napari_stnreg.io.inputs import read_some
    from napari_stnreg.io.series import placed_as, write_series
    from napari_stnreg.io.transform_io import load_transform
    from napari_stnreg.resampling.warp import warp

    source, target = read_content(moving), read_content(reference)
    # A file of another program does not say what its coordinates are; the images do.
    fixed, other = (source, target) if inverse else (target, source)
    transform = load_transform(path, fixed=fixed, moving=other)
    through = transform.inverse() if inverse else transform
    grid = override_grid(target.grid, reference.name, placement.fixed_spacing, placement.fixed_unit)
    if fill is None and interpolation == "nearest":
        fill = 0.0
    images = [
        warp(
            override_geometry(image, placement.moving_spacing, placement.moving_unit),
            through,
            grid,
            interpolation=interpolation,
            fill=fill,
        )
        for image in read_some(moving, source, frame)
    ]
    labels = source.labels and interpolation == "nearest"
    write_series(output, [placed_as(image, target.metadata) for image in images], labels=labels)
    return through


def _apply_to_points(path: Path, points: Path, reference: Path | None, output: Path, inverse: bool) -> Transform:
    """Map points of the moving side to the fixed side, through the inverse; ``inverse`` swaps the sides."""
    from napari_stnreg.io.image import read_content
    from napari_stnreg.io.points import read_table, write_table
    from napari_stnreg.io.transform_io import load_transform
    from napari_stnreg.resampling.geometry import GeometryTransformer

    target = None if reference is None else read_content(reference)
    fixed, moving = (None, target) if inverse else (target, None)
    transform = load_transform(path, fixed=fixed, moving=moving)
    table = read_table(points)
    columns = table.points(transform.ndim)
    transformer = GeometryTransformer(transform, "fixed" if inverse else "moving")
    values = table.values.copy()
    values[:, columns] = transformer.transform_points(values[:, columns])
    write_table(output, dataclasses.replace(table, values=values))
    return transformer.point_transform
