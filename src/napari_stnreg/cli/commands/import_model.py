"""``stnreg import-model``: convert the weights of another program's network to a model."""

from __future__ import annotations

from pathlib import Path

from napari_stnreg.cli.options import Output, Size, Spacing
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.output_guard import check_output


def import_model(
    weights: Path,
    /,
    *,
    output: Output,
    program: str | None = None,
    size: Size = None,
    spacing: Spacing = None,
    unit: str | None = None,
    orientation: str | None = None,
    steps: int | None = None,
    downsize: int | None = None,
    sinusoidal: bool | None = None,
    overwrite: bool = False,
) -> None:
    """Convert the weights of another program's network to a model file.

    Weights of voxelmorph's PyTorch version (.pt), of ICON, GradICON and uniGradICON (.trch), and of TransMorph
    (.pth.tar) are read; nothing in the file is executed. Afterward: stnreg register FIXED MOVING -o DIR --model MODEL.

    Parameters
    ----------
    weights
        The checkpoint.
    output
        The .safetensors file to write.
    program
        voxelmorph, icon or transmorph; recognized by the weights if not given.
    size
        Size of the network's images in its own axis order, such as 160,192,224, if the file does not state it.
    spacing
        Voxel size of its images, such as 1,1,1 (z,y,x); 1 by default.
    unit
        Unit of the spacing; mm in 3D and pixel in 2D by default.
    orientation
        Direction of each axis of its arrays, such as RAS or LIA, or zyx; needed in 3D.
    steps
        Squarings of the integration, if the file does not state them; 7 by default.
    downsize
        Factor by which the field is smaller while it is integrated, if the file does not state it; 2 by default.
    sinusoidal
        The TransMorph was trained with sinusoidal positions (TransMorph-Sin), which the weights do not state.
    overwrite
        Replace the output if it exists.

    Examples
    --------
    stnreg import-model voxelmorph.pt -o model.safetensors --size 160,192,224 --orientation LIA
    """
    from napari_stnreg.models.import_weights import import_model as convert

    if output.suffix.lower() != ".safetensors":
        raise InputError(f"'{output.name}' has an unsupported extension. Models are saved as .safetensors.")
    if not output.parent.is_dir():
        raise InputError(f"The folder '{output.parent}' does not exist.")
    check_output(output, [weights], overwrite=overwrite)
    model = convert(
        weights, program=program, shape=size, spacing=spacing, unit=unit, orientation=orientation, steps=steps,
        downsize=downsize, sinusoidal=sinusoidal,
    )  # fmt: skip
    print(model.save(output))
