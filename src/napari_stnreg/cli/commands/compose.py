"""``stnreg compose``: several transforms as one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from napari_stnreg.cli.options import Output
from napari_stnreg.cli.progress import log_placement
from napari_stnreg.core.errors import InputError


def compose(
    *transforms: str,
    output: Output,
    fixed: Path | None = None,
    moving: Path | None = None,
    space: Literal["scanner", "world"] | None = None,
    unit: str | None = None,
    inverse: bool = False,
    overwrite: bool = False,
) -> None:
    r"""Compose transforms: points of the fixed image go through the first one first.

    The order is that of antsApplyTransforms -t. "[FILE,1]" takes the inverse of a transform.

    Parameters
    ----------
    transforms
        Transforms in any format that 'convert' reads; the first one begins at the fixed image, the last one ends at the
        moving image.
    output
        File to write, in any format that 'convert' writes.
    fixed
        The fixed image, at the beginning. It defines the coordinate system and the voxels of displacement fields.
    moving
        The moving image, at the end.
    space
        Coordinate system of all images: scanner for images from NIfTI files, world for all others.
    unit
        Unit of a world without scanner coordinates: pixel, um, mm, ...
    inverse
        Write the inverse of the whole. It is sampled on the voxels of the moving image.
    overwrite
        Replace the output if it exists.

    Examples
    --------
    stnreg compose atlas-to-first.tfm first-to-second.h5 -o atlas-to-second.h5 \
        --fixed atlas.nii.gz --moving second.nii.gz
    """
    if not transforms:
        raise InputError("Give the transforms to compose.")
    from napari_stnreg.io.image import read_content
    from napari_stnreg.io.transform_io import TransformStep, check_transform_output, load_composition, save

    steps = [TransformStep.parse(one) for one in transforms]
    check_transform_output(output, (*(step.path for step in steps), fixed, moving), overwrite=overwrite)
    images = [None if path is None else read_content(path) for path in (fixed, moving)]
    log_placement(*images)
    transform = load_composition(steps, fixed=images[0], moving=images[1], space=space, unit=unit)
    if inverse:
        transform, images = transform.inverse(), images[::-1]
    save(transform, output, grid=None if images[0] is None else images[0].grid)
    print(output)
