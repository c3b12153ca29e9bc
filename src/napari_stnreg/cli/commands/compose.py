"""``stnreg compose``: several transforms as one."""

from __future__ import annotations

from typing import Annotated

from napari_stnreg.cli.options import AsOptions, Output, TransformFrame
from napari_stnreg.core.errors import InputError


def compose(
    *transforms: str,
    output: Output,
    frame: Annotated[TransformFrame, AsOptions] = TransformFrame(),  # noqa: B008
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
    inverse
        Write the inverse of the composed transform. It is sampled on the voxels of the moving image.
    overwrite
        Replace the output if it exists.

    Examples
    --------
    stnreg compose atlas-to-first.tfm first-to-second.h5 -o atlas-to-second.h5 \
        --fixed atlas.nii.gz --moving second.nii.gz
    """
    if not transforms:
        raise InputError("Give the transforms to compose.")
    from napari_stnreg.io.transform_io import TransformStep, check_transform_output, load_composition, save

    steps = [TransformStep.parse(one) for one in transforms]
    check_transform_output(output, (*(step.path for step in steps), frame.fixed, frame.moving), overwrite=overwrite)
    images = frame.read_images()
    transform = load_composition(steps, fixed=images[0], moving=images[1], space=frame.space, unit=frame.unit)
    if inverse:
        transform, images = transform.inverse(), images[::-1]
    save(transform, output, grid=None if images[0] is None else images[0].grid)
    print(output)
