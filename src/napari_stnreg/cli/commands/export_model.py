"""``stnreg export-model``: write one pass of a model as ONNX or as a torch program."""

from __future__ import annotations

from napari_stnreg.cli.options import Output, Size
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.output_guard import check_output


def export_model(
    model: str,
    /,
    *,
    output: Output,
    size: Size = None,
    smoothness: float | None = None,
    overwrite: bool = False,
) -> None:
    """Write one pass of a model, at a fixed image size, as ONNX or as a torch program.

    The program takes normalized images fixed and moving (1, channels, *size) and returns warped and displacement, in
    voxels. An ONNX file is run by onnxruntime and compared with the model.

    Parameters
    ----------
    model
        A model file, or the name of a bundled model.
    output
        The file to write: .onnx or .pt2.
    size
        Size of both images in voxels, such as 128,128; that of the training by default.
    smoothness
        Smoothness of a conditional network.
    overwrite
        Replace the output if it exists.

    Examples
    --------
    stnreg export-model box-2d -o box.onnx --size 128,128
    """
    from napari_stnreg.models.export import export_model as write
    from napari_stnreg.models.model_file import find_model, load_model

    if not output.parent.is_dir():
        raise InputError(f"The folder '{output.parent}' does not exist.")
    check_output(output, [find_model(model)], overwrite=overwrite)
    print(write(load_model(model), output, shape=size, smoothness=smoothness))
