"""``stnreg apply``: warp images, labels or points by a transform that was found before."""

from __future__ import annotations

import argparse
import dataclasses
import sys

from napari_stnreg.cli.options import needed
from napari_stnreg.cli.outputs import check_new
from napari_stnreg.io.conversion import override_geometry, override_grid
from napari_stnreg.io.image import read_content, suffix_of
from napari_stnreg.io.inputs import read_some
from napari_stnreg.io.points import read_table, write_table
from napari_stnreg.io.series import placed_as, write_series
from napari_stnreg.io.transforms import load_transform
from napari_stnreg.resampling.geometry import GeometryTransformer
from napari_stnreg.resampling.warp import warp
from napari_stnreg.transforms import Transform, solver_warning


def run(options: argparse.Namespace) -> None:
    """Do what was asked; see ``stnreg apply --help``.

    Raises
    ------
    InputError
        If something given cannot be used.
    """
    inputs = (options.transform, options.moving, options.reference)
    check_new(options.output, inputs, overwrite=options.overwrite)
    if options.moving.suffix.lower() == ".csv":
        _apply_to_points(options)
    else:
        _apply_to_images(options)
    print(options.output)


def _apply_to_images(options: argparse.Namespace) -> None:
    suffix_of(options.output)  # a wrong name is told before the work
    reference = needed(options.reference, "-r FIXED", "the image on whose grid the result shall lie")
    content, target = read_content(options.moving), read_content(reference)
    # A file of another program does not say what its coordinates are; the images do.
    fixed, moving = (content, target) if options.inverse else (target, content)
    transform = load_transform(options.transform, fixed=fixed, moving=moving)
    grid = override_grid(target.grid, reference.name, options.fixed_spacing, options.fixed_unit)
    fill = options.fill
    if fill is None and options.interpolation == "nearest":
        fill = 0.0
    through = transform.inverse() if options.inverse else transform
    images = [
        warp(
            override_geometry(image, options.moving_spacing, options.moving_unit),
            through,
            grid,
            interpolation=options.interpolation,
            fill=fill,
        )
        for image in read_some(options.moving, content, options.frame)
    ]
    labels = content.labels and options.interpolation == "nearest"
    write_series(options.output, [placed_as(image, target.metadata) for image in images], labels=labels)
    _tell(through)


def _apply_to_points(options: argparse.Namespace) -> None:
    """Points of the moving side go to the fixed side, and so through the inverse; --inverse turns that round."""
    target = None if options.reference is None else read_content(options.reference)
    fixed, moving = (None, target) if options.inverse else (target, None)
    transform = load_transform(options.transform, fixed=fixed, moving=moving)
    table = read_table(options.moving)
    columns = table.points(transform.ndim)
    carrier = GeometryTransformer(transform, "fixed" if options.inverse else "moving")
    values = table.values.copy()
    values[:, columns] = carrier.points(values[:, columns])
    write_table(options.output, dataclasses.replace(table, values=values))
    _tell(carrier.through)


def _tell(through: Transform) -> None:
    if (warning := solver_warning(through)) is not None:
        print(f"stnreg apply: {warning}", file=sys.stderr)
