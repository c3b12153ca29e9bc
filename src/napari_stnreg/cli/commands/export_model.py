"""``stnreg export-model``: write one pass of a model as ONNX or as a torch program."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter, Token

from napari_stnreg.cli.options import Output
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.output_guard import check_output


def parse_size(kind: object, tokens: list[Token]) -> tuple[int, ...]:
    """Convert ``128,128`` to a size."""
    try:
        return tuple(int(word) for word in tokens[0].value.split(","))
    except ValueError as error:
        raise ValueError(f"Invalid size '{tokens[0].value}'.") from error


def export_model(
    model: str,
    /,
    *,
    output: Output,
    size: Annotated[tuple[int, ...] | None, Parameter(converter=parse_size, n_tokens=1)] = None,
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
