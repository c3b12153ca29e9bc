"""Export one pass of a model at a fixed image size, to ONNX or to a torch program."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from napari_stnreg.core.atomic_io import atomic_path
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.models.model import Model
from napari_stnreg.networks import LocalizationNetwork
from napari_stnreg.networks.grid_generator import sampling_grid
from napari_stnreg.ops.interpolation import sample_normalized
from napari_stnreg.ops.lattice import apply_matrix, lattice_points
from napari_stnreg.ops.uncompiled import uncompiled
from napari_stnreg.transforms import Transform
from napari_stnreg.transforms.dense import fixed_squarings

Format = Literal["onnx", "pt2"]
OPSET = 20
"""ONNX operators that can sample volumes."""
SQUARINGS = 7
"""Squarings of an exported velocity field, for vectors of up to 64 voxels; they cannot depend on the data."""
TOLERANCE = 1e-3
"""Largest accepted difference of an exported program from the model, in intensities of 0 to 1 and in voxels."""


class OnePass(nn.Module):
    """One pass of a network as a plain torch module, which can be compiled and exported.

    Parameters
    ----------
    network
        A network that registers.
    grid
        The grid of both images: axis-aligned, about the world's origin.

    Notes
    -----
    It takes normalized images ``(1, C, *shape)`` and returns the warped image and the displacement ``(1, D, *shape)``
    in voxels, channels in axis order (z, y, x): ``warped(x) = moving(x + displacement(x))``.
    """

    def __init__(self, network: LocalizationNetwork, grid: Grid) -> None:
        super().__init__()
        self.network, self.grid = network, grid

    def forward(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
        """Return the warped image and the displacement."""
        transform = self.network.transform(fixed, moving, self.grid)
        return self._outputs(moving, transform)

    @uncompiled
    def _outputs(self, moving: Tensor, transform: Transform) -> tuple[Tensor, Tensor]:
        grid = self.grid
        with fixed_squarings(SQUARINGS):  # the field is integrated when it is used first
            warped = sample_normalized(moving, sampling_grid(transform, grid, grid), padding="border")
            matrix = torch.tensor(grid.matrix, dtype=torch.float32)[None]
            moved = (transform.on_grid(grid, torch.float32) - lattice_points(matrix, grid.shape)).movedim(-1, 1)
        return warped, apply_matrix(np.asarray(np.linalg.inv(grid.linear)), moved)


def one_pass(model: Model, shape: Sequence[int] | None = None) -> OnePass:
    """Return one pass of a model as a torch module for images of a shape, by default that of its training.

    Raises
    ------
    InputError
        If the model does not register, or the shape has another number of axes.
    """
    if not isinstance(model.network, LocalizationNetwork):
        raise InputError(f"'{model.name}' is an auto-encoder and registers nothing.")
    size = tuple(int(n) for n in (shape or model.input_spec.shape))
    if len(size) != model.ndim or min(size) < 1:
        raise InputError(f"'{model.name}' is for {model.ndim}D images, but the shape is {size}.")
    grid = Grid.from_spacing(size, model.input_spec.spacing, unit=model.input_spec.unit)
    return OnePass(model.network.cpu(), grid.translated(-grid.center)).eval()


def export_model(
    model: Model,
    path: str | os.PathLike[str],
    *,
    shape: Sequence[int] | None = None,
    smoothness: float | None = None,
) -> Path:
    """Export one pass of a model at a fixed image size; see :class:`OnePass` for its inputs and outputs.

    Parameters
    ----------
    model
        A model that registers.
    path
        ``.onnx`` for ONNX (extra ``onnx``), ``.pt2`` for a program of :func:`torch.export.export`.
    shape
        Size of both images in voxels; that of the training by default.
    smoothness
        Smoothness of a conditional network, which becomes part of the program.

    Returns
    -------
    Path
        The file. An ONNX file was run by onnxruntime and compared with the model.

    Raises
    ------
    InputError
        If the extension is not supported, a package is missing, or the program differs from the model.
    """
    target = Path(path)
    if target.suffix.lower() not in (".onnx", ".pt2"):
        raise InputError(f"'{target.name}' has an unsupported extension. Supported: .onnx, .pt2.")
    module = one_pass(model, shape)
    module.network.set_smoothness(1.0 if smoothness is None else smoothness)
    images = example_images(module.grid, model.input_spec.channels)
    with torch.no_grad(), atomic_path(target) as part:
        if target.suffix.lower() == ".onnx":
            _write_onnx(module, images, part)
            _check_onnx(module, images, part, model.name)
        else:
            content = io.BytesIO()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # expanded constants
                torch.export.save(export_program(module, images), content)
            part.write_bytes(content.getvalue())
    return target


def export_program(module: OnePass, images: tuple[Tensor, Tensor]) -> torch.export.ExportedProgram:
    """Trace one pass for images of one size."""
    with torch.no_grad():
        module(*images)  # prepares what depends on the grid alone
    return torch.export.export(module, images, strict=False)


def example_images(grid: Grid, channels: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return two smooth pictures that differ, to trace and to check a program with."""
    generator = torch.Generator().manual_seed(seed)
    coarse = [max(n // 8, 2) for n in grid.shape]
    mode = "bilinear" if grid.ndim == 2 else "trilinear"
    made = [
        nn.functional.interpolate(torch.rand(1, channels, *coarse, generator=generator), grid.shape, mode=mode)
        for _ in range(2)
    ]
    return made[0], made[1]


def _write_onnx(module: OnePass, images: tuple[Tensor, Tensor], path: Path) -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError("ONNX is not installed. Install it with: pip install 'napari-stnreg[onnx]'.") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            export_program(module, images), images, input_names=["fixed", "moving"],
            output_names=["warped", "displacement"], opset_version=OPSET, dynamo=True, verbose=False,
        )  # fmt: skip
    cast(Any, program).save(str(path), external_data=False)


def _check_onnx(module: OnePass, images: tuple[Tensor, Tensor], path: Path, name: str) -> None:
    try:
        import onnxruntime  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise InputError("onnxruntime is not installed. Install it with: pip install 'napari-stnreg[onnx]'.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    found = session.run(None, {"fixed": images[0].numpy(), "moving": images[1].numpy()})
    for one, other in zip(found, module(*images), strict=True):
        difference = float(np.abs(one - other.numpy()).max())
        if not difference < TOLERANCE:
            raise InputError(f"The exported program of '{name}' differs from the model by {difference:.2g}.")
