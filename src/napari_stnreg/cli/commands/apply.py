"""``stnreg apply``: warp images, labels or points by one transform or several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from napari_stnreg.cli.options import AsOptions, Frame, Output, Placement
from napari_stnreg.cli.progress import PROGRESS, log_placement, logger
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.output_guard import check_output
from napari_stnreg.io.image import check_image_output
from napari_stnreg.io.points import is_points_file

if TYPE_CHECKING:
    from napari_stnreg.core.grid import HasGrid
    from napari_stnreg.io.transform_io import TransformStep
    from napari_stnreg.transforms import Transform


def apply(
    transform: str,
    *paths: str,
    output: Output,
    reference: Annotated[Path | None, Parameter(alias="-r")] = None,
    interpolation: Literal["nearest", "linear", "cubic"] | None = None,
    fill: float | None = None,
    inverse: bool = False,
    overwrite: bool = False,
    frame: Frame = None,
    points_image: Annotated[Path | None, Parameter(group="Reading")] = None,
    placement: Annotated[Placement, AsOptions] = Placement(),  # noqa: B008
) -> None:
    """Warp an image or points by one transform or several: TRANSFORM [TRANSFORM ...] MOVING.

    Images are warped onto the grid of the reference, every frame and channel. If MOVING is a file of points, the points
    of the moving side are mapped to the fixed side through the inverse, and no reference is needed.

    Several transforms are composed, and MOVING is sampled once. The order is that of antsApplyTransforms -t: the first
    one begins at the fixed image, the last one ends at MOVING. "[FILE,1]" takes the inverse of a transform.

    Parameters
    ----------
    transform
        A transform in any format that 'convert' reads.
    paths
        Further transforms, and last the image or the file of points to warp.
    output
        File to write.
    reference
        Image whose grid the result has; usually FIXED.
    interpolation
        Default: nearest for labels, which keeps their values, and linear for images. Whole numbers are labels if the
        file states it, or its name, such as 'labels.tif' or 'scan_seg.nii.gz', or if they have few values in connected
        regions.
    fill
        Value outside MOVING (default: the value of its border as in 'register'; 0 with nearest).
    inverse
        Apply the inverse. MOVING then belongs to the fixed side, and the reference to the moving side.
    overwrite
        Replace the output if it exists.
    frame
        Only this frame of MOVING, counted from 0.
    points_image
        Image on which the points of MOVING were placed; files of napari hold its voxels. Not needed for a transform
        that 'register' wrote, which knows its images.

    Examples
    --------
    stnreg apply registered/transform.safetensors labels.nii.gz -r fixed.nii.gz -o warped-labels.nii.gz
    """
    if not paths:
        raise InputError("Give one or more transforms, then the image or points file to warp.")
    from napari_stnreg.io.transform_io import TransformStep

    steps = [TransformStep.parse(one) for one in (transform, *paths[:-1])]
    moving = Path(paths[-1])
    inputs = (*(step.path for step in steps), moving, reference, points_image)
    if is_points_file(moving):
        check_output(output, inputs, overwrite=overwrite)
        through = _apply_to_points(steps, moving, reference, points_image, output, inverse, placement)
    else:
        check_image_output(output, inputs, overwrite=overwrite)
        if reference is None:
            raise InputError("Give -r FIXED, the image that sets the grid of the result.")
        through = _apply_to_images(steps, moving, reference, output, interpolation, fill, inverse, frame, placement)
    print(output)

    if (warning := through.warning) is not None:
        logger.log(PROGRESS, "%s", warning)


def _apply_to_images(
    steps: list[TransformStep],
    moving: Path,
    reference: Path,
    output: Path,
    interpolation: Literal["nearest", "linear", "cubic"] | None,
    fill: float | None,
    inverse: bool,
    frame: int | None,
    placement: Placement,
) -> Transform:
    from napari_stnreg.core.labels import choose_interpolation
    from napari_stnreg.io.conversion import override_geometry, override_grid
    from napari_stnreg.io.frames import read_some
    from napari_stnreg.io.image import read_content
    from napari_stnreg.io.series import placed_as, write_series
    from napari_stnreg.io.transform_io import load_composition
    from napari_stnreg.resampling.warp import warp

    source, target = read_content(moving), read_content(reference)
    log_placement(target, source)
    # A file of another program does not say what its coordinates are; the images do.
    fixed, other = (source, target) if inverse else (target, source)
    transform = load_composition(steps, fixed=fixed, moving=other)
    through = transform.inverse() if inverse else transform
    grid = override_grid(target.grid, reference.name, placement.fixed_spacing, placement.fixed_unit)
    sources = read_some(moving, source, frame)
    if interpolation is None:
        interpolation, note = choose_interpolation(sources[0])
        if note:
            logger.log(PROGRESS, "%s", note)
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
        for image in sources
    ]
    labels = source.labels and interpolation == "nearest"
    write_series(output, [placed_as(image, target.metadata) for image in images], labels=labels)
    return through


def _apply_to_points(
    steps: list[TransformStep],
    points: Path,
    reference: Path | None,
    points_image: Path | None,
    output: Path,
    inverse: bool,
    placement: Placement,
) -> Transform:
    """Map points of the moving side to the fixed side, through the inverse; ``inverse`` swaps the sides."""
    from napari_stnreg.core.units import conversion_factor
    from napari_stnreg.io.image import read_content
    from napari_stnreg.io.points import read_points, write_points
    from napari_stnreg.io.transform_entry import Place
    from napari_stnreg.io.transform_io import load_composition, recorded_grid
    from napari_stnreg.resampling.geometry import GeometryTransformer

    contents = tuple(None if one is None else read_content(one) for one in (reference, points_image))
    log_placement(*contents)
    target: HasGrid | None = contents[0]
    source: HasGrid | None = contents[1]
    fixed, moving = (source, target) if inverse else (target, source)
    transform = load_composition(steps, fixed=fixed, moving=moving)
    systems = transform.coordinate_systems if inverse else transform.coordinate_systems[::-1]
    units = (placement.fixed_unit, placement.moving_unit)
    read_unit, write_unit = units if inverse else units[::-1]
    # A transform that was saved with its run knows the grids of both images, which voxels of points need.
    grids = recorded_grid(steps[-1], "moving"), recorded_grid(steps[0], "fixed")
    read_grid, write_grid = grids[::-1] if inverse else grids
    if source is None and read_grid is not None:
        source = Place("moving", read_grid.with_unit(read_unit or read_grid.unit), systems[0])
    if target is None and write_grid is not None:
        target = Place("fixed", write_grid.with_unit(write_unit or write_grid.unit), systems[1])
    read_unit = read_unit or (transform.unit if source is None else source.grid.unit)
    write_unit = write_unit or (transform.unit if target is None else target.grid.unit)
    known = read_points(points, transform.ndim, image=source, system=systems[0], unit=read_unit)
    transformer = GeometryTransformer(transform, "fixed" if inverse else "moving")
    values = transformer.transform_points(known.points * conversion_factor(read_unit, transform.unit))
    values = values * conversion_factor(transform.unit, write_unit)
    if known.dialect in ("table", "ants") and points_image is None:
        logger.log(PROGRESS, "Points are read in %s and written in %s.", read_unit, write_unit)
    write_points(output, values, like=known, image=target, system=systems[1], unit=write_unit)
    return transformer.point_transform
