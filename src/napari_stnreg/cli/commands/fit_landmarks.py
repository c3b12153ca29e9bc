"""``stnreg fit-landmarks``: a transform from landmark files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from napari_stnreg.cli.options import Output
from napari_stnreg.core.atomic_io import write_text
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.output_guard import check_output

if TYPE_CHECKING:
    from napari_stnreg.core.grid import CoordinateSystem, FloatArray, HasGrid


def fit_landmarks(
    points: Path,
    moving_points: Path | None = None,
    /,
    *,
    output: Output,
    family: Literal["translation", "rigid", "similarity", "affine", "tps"] = "affine",
    stiffness: float = 0.0,
    mirror: bool = False,
    fixed: Annotated[Path | None, Parameter(group="Reading")] = None,
    moving: Annotated[Path | None, Parameter(group="Reading")] = None,
    unit: Annotated[str | None, Parameter(group="Reading")] = None,
    report: Path | None = None,
    overwrite: bool = False,
) -> int | None:
    """Fit a transform to landmarks: FIXED_POINTS MOVING_POINTS, or one file of pairs.

    Prints the residual and the leave-one-out error of every pair, in the unit of the moving image, and marks pairs that
    do not fit the others.

    Parameters
    ----------
    points
        File of the fixed points, or a file of pairs: CSV with the columns fixed_z,fixed_y,fixed_x,moving_z,moving_y,
        moving_x (2D without z), or landmarks of BigWarp.
    moving_points
        File of the moving points, paired by order. Points are read from .csv with columns z,y,x, of napari or ANTs, and
        from .fcsv and .mrk.json of 3D Slicer.
    output
        Transform to write; the extension sets the format.
    family
        Family of the transform; tps is the thin-plate spline through the points.
    stiffness
        For tps: 0 goes through every point, larger values bend less.
    mirror
        Allow a rigid or similarity transform to mirror the image.
    fixed
        Image on which the fixed points were placed; needed for points of napari, which are voxels, and for the formats
        of other programs that hold a field.
    moving
        Image on which the moving points were placed.
    unit
        Unit of the coordinates, if no image is given (default: mm for points of 3D Slicer, else pixel).
    report
        Also write the errors to this .json file.
    overwrite
        Replace the outputs if they exist.

    Examples
    --------
    stnreg fit-landmarks fixed.csv moving.csv -o transform.tfm --family affine
    """
    from napari_stnreg.cli.exit_code import ExitCode
    from napari_stnreg.core.units import conversion_factor
    from napari_stnreg.io.image import read_content
    from napari_stnreg.io.transform_io import check_transform_output
    from napari_stnreg.landmarks.fit import fit_landmarks as fit

    inputs = (points, moving_points, fixed, moving)
    check_transform_output(output, inputs, overwrite=overwrite)
    if report is not None:
        check_output(report, (*inputs, output), overwrite=overwrite)
        if report.suffix.lower() != ".json":
            raise InputError(f"'{report.name}' must end in .json.")
    images = [None if path is None else read_content(path) for path in (fixed, moving)]
    slicer = points.name.lower().endswith((".fcsv", ".mrk.json"))
    known = next((image.grid.unit for image in images if image is not None), None)
    unit = unit or known or ("mm" if slicer else "pixel")
    ndim = next((image.grid.ndim for image in images if image is not None), None)
    sides = _read_sides(points, moving_points, ndim, images, unit)
    systems: list[CoordinateSystem] = [
        image.coordinate_system if image is not None else "scanner" if slicer and side.shape[1] == 3 else "world"
        for image, side in zip(images, sides, strict=True)
    ]
    factors = [1.0 if image is None else conversion_factor(image.grid.unit, unit) for image in images]
    result = fit(
        sides[0] * factors[0],
        sides[1] * factors[1],
        family,
        unit=unit,
        stiffness=stiffness,
        mirror=mirror,
        grid=None if images[0] is None else images[0].grid,
        coordinate_systems=(systems[0], systems[1]),
    )
    print(result.to_text())
    result.save(output)
    print(output)
    if report is not None:
        write_text(report, json.dumps(result.report(), indent=2) + "\n")
        print(report)
    return ExitCode.FAILED_VERDICT if result.verdict == "failed" else None


def _read_sides(
    points: Path, moving_points: Path | None, ndim: int | None, images: Sequence[HasGrid | None], unit: str
) -> tuple[FloatArray, FloatArray]:
    """Read both sides, as 3D where the files allow it if the number of axes is unknown."""
    from napari_stnreg.io.points import read_landmark_pairs, read_points

    problem: InputError | None = None
    for axes in (3, 2) if ndim is None else (ndim,):
        try:
            if moving_points is None:
                return read_landmark_pairs(points, axes)
            files = (points, moving_points)
            first, second = (
                read_points(path, axes, image=image, unit=None if image is not None else unit).points
                for path, image in zip(files, images, strict=True)
            )
            return first, second
        except InputError as error:
            problem = error
    assert problem is not None
    raise problem
