"""``stnreg convert``: a transform from one program's file to another's."""

from __future__ import annotations

import argparse

from napari_stnreg.cli.outputs import check_new
from napari_stnreg.io.image import read_content
from napari_stnreg.io.transform_file import load_transform_file
from napari_stnreg.io.transforms import load_transform, save, transform_ending
from napari_stnreg.transforms import with_unit


def run(options: argparse.Namespace) -> None:
    """Do what was asked; see ``stnreg convert --help``.

    Raises
    ------
    InputError
        If something given cannot be used.
    """
    check_new(options.output, [options.input, options.fixed, options.moving], overwrite=options.overwrite)
    fixed, moving = (None if path is None else read_content(path) for path in (options.fixed, options.moving))
    info = None
    if transform_ending(options.input) == ".safetensors":
        transform, info = load_transform_file(options.input)
        sides = [options.space or (image.coordinate_system if image else kept)
                 for image, kept in zip((fixed, moving), transform.coordinate_systems, strict=True)]  # fmt: skip
        transform = transform.with_coordinate_systems(*sides)
        if options.unit is not None:
            transform = with_unit(transform, options.unit)
    else:
        transform = load_transform(options.input, fixed=fixed, moving=moving, space=options.space, unit=options.unit)
    grid = None if fixed is None else fixed.grid
    if options.inverse:
        transform, grid, info = transform.inverse(), None if moving is None else moving.grid, None
    if transform_ending(options.output) == ".safetensors" and info:
        from napari_stnreg.io.transform_file import save_transform_file

        save_transform_file(transform, options.output, info)
    else:
        save(transform, options.output, grid=grid)
    print(options.output)
