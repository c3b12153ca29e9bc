"""``stnreg convert``: a transform from one program's file to another's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from napari_stnreg.cli.options import AsOptions, TransformFrame


def convert(
    input: Path,
    output: Path,
    /,
    *,
    frame: Annotated[TransformFrame, AsOptions] = TransformFrame(),  # noqa: B008
    inverse: bool = False,
    overwrite: bool = False,
) -> None:
    """Convert a transform to the file format of another program.

    The file names decide the formats. Between images from NIfTI files, the transform is written in scanner space
    (LPS, millimeters); between all others as x, y, z without a flip. --fixed and --moving, or --space, decide which.

    Parameters
    ----------
    input
        A transform: .safetensors, .tfm, .txt (ITK or elastix), .h5, .mat (ANTs or FSL), .nii.gz, .nrrd or .mha
        (displacement fields), .lta, .xfm or .zarr.
    output
        .safetensors, .tfm, .txt, .h5, .mat (ANTs), .nii.gz, .nrrd, .mha, TransformParameters*.txt (elastix) or .zarr.
    inverse
        Write the inverse. It is sampled on the voxels of the moving image.
    overwrite
        Replace the output if it exists.

    Examples
    --------
    stnreg convert registered/transform.safetensors field.nii.gz --fixed fixed.nii.gz --moving moving.nii.gz
    """
    from napari_stnreg.core.image import itk_matrix_of
    from napari_stnreg.io.safetensors_format import load_transform_file
    from napari_stnreg.io.transform_io import check_transform_output, load_transform, save, transform_ending

    check_transform_output(output, (input, frame.fixed, frame.moving), overwrite=overwrite)
    fixed_image, moving_image = frame.read_images()
    info = None
    if transform_ending(input) == ".safetensors":
        transform, info = load_transform_file(input)
        systems = [
            frame.space or (image.coordinate_system if image else kept)
            for image, kept in zip((fixed_image, moving_image), transform.coordinate_systems, strict=True)
        ]
        matrices = [
            itk_matrix_of(image.metadata) if image else kept
            for image, kept in zip((fixed_image, moving_image), transform.itk_matrices, strict=True)
        ]
        transform = transform.with_coordinate_systems(*systems).with_itk_matrices(*matrices)
        if frame.unit is not None:
            transform = transform.with_unit(frame.unit)
    else:
        transform = load_transform(input, fixed=fixed_image, moving=moving_image, space=frame.space, unit=frame.unit)
    grid = None if fixed_image is None else fixed_image.grid
    if inverse:
        transform, grid, info = transform.inverse(), None if moving_image is None else moving_image.grid, None
    if transform_ending(output) == ".safetensors" and info:
        transform.save(output, info)
    else:
        save(transform, output, grid=grid)
    print(output)
